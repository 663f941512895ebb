//! One pass over the messages to a webhook of a job: an attempt for each, and one write of status for all outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::warn;

use super::attempt::{Unsent, attempt};
use super::{Key, deliver, waiting};
use crate::api::text::{clip, clock_time};
use crate::api::{BatchJob, NotificationState, NotificationStatus};
use crate::controller::Context;
use crate::controller::job::cached_job;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{EventRecord, publish};
use crate::controller::runtime::{cache, status};
use crate::fair::Claim;
use crate::lifecycle::next_attempt;
use crate::notify::Retry;

/// The pause after a job could not be read or written, in milliseconds.
const AGAIN: i64 = 5_000;
/// Longest pause before another attempt where something is missing that a person has to create, in milliseconds.
const MENDED_WITHIN: i64 = 300_000;
/// Number of writes that are tried while the object keeps changing.
const WRITES: usize = 5;
/// Number of attempts after which an event reports that they failed.
const TOLD_AT: i32 = 3;
/// Bytes of a failure's text in status.
const ERROR: usize = 200;

/// The state of the messages to a webhook between two passes.
#[derive(Default)]
pub(super) struct Tries {
    /// Failures in a row.
    failures: u32,
    /// Time of the next attempt (Unix milliseconds).
    until: i64,
    /// Attempts so far, by message.
    attempts: BTreeMap<String, i32>,
    /// Outcomes that status does not show yet.
    unwritten: Vec<NotificationStatus>,
    /// Whether status shows an outcome of these attempts.
    pub is_told: bool,
}

impl Tries {
    /// Ends the pause after a failure.
    pub fn try_again(&mut self) {
        self.until = 0;
    }

    /// Returns the messages of a job to the webhook that are due at `now`.
    fn due<'a>(&self, job: &'a BatchJob, name: &str, now: i64) -> Vec<&'a NotificationStatus> {
        let has_ended = |id: &str| self.unwritten.iter().any(|known| known.id == id && !known.is_pending());
        let due = waiting(job).filter(|message| message.name == name && !has_ended(&message.id));
        due.filter(|_| now >= self.until).collect()
    }

    /// Returns when the next message of a job to the webhook is due (Unix milliseconds); None if none waits.
    fn next(&self, job: &BatchJob, name: &str) -> Option<i64> {
        waiting(job).any(|message| message.name == name).then_some(self.until)
    }

    /// Records an attempt at `now`. Returns the message as status is to show it.
    fn learn(
        &mut self,
        message: &NotificationStatus,
        result: Result<(), Unsent>,
        (now, jitter): (i64, u8),
    ) -> NotificationStatus {
        let attempts = self.attempts.entry(message.id.clone()).or_insert(message.attempts);
        *attempts = attempts.saturating_add(1).min(1_000);
        let (state, last_error) = match result {
            Ok(()) => (NotificationState::Delivered, String::new()),
            Err(unsent) => self.failed(message, unsent, (now, jitter)),
        };
        let attempts = self.attempts.get(&message.id).copied().unwrap_or_default();
        if state != NotificationState::Pending {
            self.attempts.remove(&message.id);
        }
        if state == NotificationState::Delivered {
            (self.failures, self.until) = (0, 0);
        }
        let last_attempt_time = Timestamp::from_second(now / 1_000).ok().map(Time);
        let mut tried = NotificationStatus { state, attempts, last_attempt_time, last_error, ..message.clone() };
        if state == NotificationState::Delivered {
            tried.message.clear();
        }
        tried
    }

    fn failed(
        &mut self,
        message: &NotificationStatus,
        Unsent { why, is_missing }: Unsent,
        (now, jitter): (i64, u8),
    ) -> (NotificationState, String) {
        let with = |words: &str| clip(why.message.clone(), ERROR.saturating_sub(words.len())) + words;
        let gives_up = |words: &str| (NotificationState::GaveUp, with(words));
        let asked = match why.retry {
            Retry::Never => return gives_up("; it is not tried again"),
            Retry::Later => None,
            Retry::After(pause) => Some(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)),
        };
        self.failures = self.failures.saturating_add(1);
        let longest = is_missing.then_some(MENDED_WITHIN);
        let since = message.event_time.0.as_millisecond();
        let Some(next) = next_attempt(self.failures, since, now, asked, jitter, longest) else {
            return gives_up("; given up after a day");
        };
        self.until = next;
        (NotificationState::Pending, with(&format!("; tried again at {}", clock_time(next))))
    }
}

/// Makes an attempt for each message that is due, and writes the outcomes to status. Returns the time (Unix
/// milliseconds) of the next pass; None if no message waits.
pub(super) async fn pass(ctx: &Arc<Context>, key: &Key, tries: &mut Tries) -> Option<i64> {
    let namespace = key.job.namespace.clone().unwrap_or_default();
    let is_retry = tries.failures > 0;
    let claim = Claim { namespace, lane: key.name.clone(), size: 1, is_retry, ..Claim::default() };
    let _turn = ctx.jobs.deliveries.turns.take(claim).await;
    match deliver_due(ctx, key, tries).await {
        Ok(next) => next,
        Err(error) => {
            warn!(why = error.chain(), "messages to webhooks cannot be looked after now; they are later");
            Some(ctx.clock.now() + AGAIN)
        }
    }
}

async fn deliver_due(ctx: &Arc<Context>, key: &Key, tries: &mut Tries) -> Result<Option<i64>, StepError> {
    let Some(job) = read(ctx, key).await? else { return Ok(None) };
    // The watch keeps one waiting message of a job, so its other webhooks may have some, too.
    deliver(ctx, &job, true);
    // After a failure the Secrets are read anew, since one of them may be its cause.
    let since = ctx.clock.now() - if tries.failures == 0 { cache::LIFETIME - 1 } else { 0 };
    let due = tries.due(&job, &key.name, ctx.clock.now());
    for (message, result) in in_order(ctx, &job, due, since).await {
        let tried = tries.learn(message, result, (ctx.clock.now(), ctx.clock.jitter()));
        ctx.metrics.notification(outcome(tried.state));
        report(ctx, &job, &tried);
        // Of failed attempts, the first, second, fourth, eighth and so on are written.
        if !tried.is_pending() || tried.attempts.count_ones() == 1 {
            tries.unwritten.retain(|known| known.id != tried.id);
            tries.unwritten.push(tried);
        }
    }
    if tries.unwritten.is_empty() {
        return Ok(tries.next(&job, &key.name));
    }
    let Some(job) = write(ctx, key, job, &tries.unwritten).await? else { return Ok(Some(ctx.clock.now() + AGAIN)) };
    tries.unwritten.clear();
    tries.is_told = true;
    Ok(tries.next(&job, &key.name))
}

/// Makes an attempt for each of the messages, in their order, up to the first one that is to be tried again.
pub(super) async fn in_order<'a>(
    ctx: &Context,
    job: &BatchJob,
    messages: Vec<&'a NotificationStatus>,
    since: i64,
) -> Vec<(&'a NotificationStatus, Result<(), Unsent>)> {
    let mut tried = vec![];
    for message in messages {
        let result = attempt(ctx, job, message, since).await;
        let may_pass = result.as_ref().is_err_and(|unsent| unsent.why.retry != Retry::Never);
        tried.push((message, result));
        if may_pass {
            break;
        }
    }
    tried
}

/// Returns the outcome of an attempt for the metric: `Failed` if the message is tried again.
fn outcome(state: NotificationState) -> &'static str {
    match state {
        NotificationState::Delivered => "Delivered",
        NotificationState::Pending => "Failed",
        NotificationState::GaveUp => "GaveUp",
    }
}

/// Publishes an event about a message that was delivered, that was given up, or that keeps failing.
fn report(ctx: &Context, job: &BatchJob, tried: &NotificationStatus) {
    let NotificationStatus { name, event, attempts, last_error, .. } = tried;
    let record = match tried.state {
        NotificationState::Delivered => {
            EventRecord::normal("NotificationDelivered", format!("the webhook of '{name}' was told of {event:?}"))
        }
        NotificationState::GaveUp => EventRecord::warning(
            "NotificationFailed",
            format!("the webhook of '{name}' is not told of {event:?}: {last_error}"),
        ),
        NotificationState::Pending if *attempts == TOLD_AT => EventRecord::warning(
            "NotificationFailed",
            format!("the webhook of '{name}' could not be told of {event:?} in {attempts} attempts: {last_error}"),
        ),
        NotificationState::Pending => return,
    };
    publish(ctx, job, record);
}

/// Reads the job, without its requests; None if it is gone.
async fn read(ctx: &Context, key: &Key) -> Result<Option<BatchJob>, StepError> {
    let namespace = key.job.namespace.as_deref().unwrap_or_default();
    let job = cached_job::whole(ctx, namespace, &key.job.name).await?;
    Ok(job.filter(|job| job.uid().as_ref() == Some(&key.uid)).map(|mut job| {
        job.drop_requests();
        job
    }))
}

/// Writes the outcomes of messages that status shows as waiting. Returns the job after the write; None if it kept
/// changing in the meantime.
async fn write(
    ctx: &Context,
    key: &Key,
    mut job: BatchJob,
    tried: &[NotificationStatus],
) -> Result<Option<BatchJob>, StepError> {
    for _ in 0..WRITES {
        let mut after = job.status.clone().unwrap_or_default();
        for message in after.notifications.iter_mut().filter(|message| message.is_pending()) {
            if let Some(tried) = tried.iter().find(|tried| tried.id == message.id) {
                *message = tried.clone();
            }
        }
        if job.status.as_ref() == Some(&after) {
            return Ok(Some(job));
        }
        if status::write(&ctx.client, &job, &after).await?.is_some() {
            ctx.metrics.status_writes.inc();
            job.status = Some(after);
            return Ok(Some(job));
        }
        match read(ctx, key).await? {
            Some(changed) => job = changed,
            None => {
                job.status = None;
                return Ok(Some(job));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::lifecycle::GIVE_UP_AFTER;
    use crate::notify::Undelivered;

    /// 2026-11-30 12:00:00 UTC.
    const NOW: i64 = 1_796_040_000_000;

    fn message(name: &str, id: &str) -> NotificationStatus {
        let at = Timestamp::from_millisecond(NOW).unwrap();
        let message = json!({"name": name, "event": "Failed", "id": id, "state": "Pending", "reason": "R", "eventTime": Time(at)});
        serde_json::from_value(message).unwrap()
    }

    fn job(messages: &[NotificationStatus]) -> BatchJob {
        let job = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "j"},
            "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}}, "status": {"notifications": messages}});
        serde_json::from_value(job).unwrap()
    }

    fn unsent(retry: Retry) -> Result<(), Unsent> {
        let why = Undelivered { retry, message: "hooks.example: it answered 500".into() };
        Err(Unsent { why, is_missing: false })
    }

    #[test]
    fn a_failure_puts_off_all_messages_to_the_webhook_until_the_next_attempt_or_a_persons_wish() {
        let (ops, more, other) = (message("ops", "1"), message("ops", "2"), message("other", "3"));
        let job = job(&[ops.clone(), more, other]);
        let mut tries = Tries::default();
        let due = |tries: &Tries, at| tries.due(&job, "ops", at).into_iter().map(|m| m.id.clone()).collect::<Vec<_>>();
        assert_eq!(due(&tries, NOW), ["1", "2"]);
        let tried = tries.learn(&ops, unsent(Retry::Later), (NOW, 0));
        assert_eq!(
            tried.last_error, "hooks.example: it answered 500; tried again at Nov 30 12:00:01 UTC",
            "status says why, and what comes next"
        );
        assert!(due(&tries, NOW + 999).is_empty());
        assert_eq!(due(&tries, NOW + 1_000), ["1", "2"]);
        assert_eq!((tries.next(&job, "ops"), tries.next(&job, "gone")), (Some(NOW + 1_000), None));
        tries.try_again();
        assert_eq!(due(&tries, NOW), ["1", "2"], "a person asks for it");
        let tried = tries.learn(&ops, Ok(()), (NOW, 0));
        assert_eq!((tried.state, tried.attempts, tried.last_error.as_str()), (NotificationState::Delivered, 2, ""));
        tries.unwritten.push(tried);
        assert_eq!(due(&tries, NOW), ["2"], "what is delivered is not sent again while status does not show it");
    }

    #[test]
    fn attempts_are_counted_over_restarts_and_the_pause_grows_to_an_hour_or_for_what_is_missing_to_five_minutes() {
        for (is_missing, longest) in [(false, 3_600_000), (true, MENDED_WITHIN)] {
            let (mut tries, before) = (Tries::default(), NotificationStatus { attempts: 4, ..message("ops", "1") });
            let mut now = NOW;
            for n in 1..20 {
                let why = Undelivered { retry: Retry::Later, message: "m".into() };
                let tried = tries.learn(&before, Err(Unsent { why, is_missing }), (now, 0));
                assert_eq!((tried.attempts, tried.state), (4 + n, NotificationState::Pending));
                let until = tries.until;
                assert!(until - now <= longest);
                assert_eq!(until - now == longest, n >= if is_missing { 10 } else { 13 }, "{n}");
                now = until;
            }
        }
    }

    #[test]
    fn a_message_is_given_up_when_it_is_refused_for_good_or_after_a_day() {
        let (ops, mut tries) = (message("ops", "1"), Tries::default());
        let refused = tries.learn(&ops, unsent(Retry::Never), (NOW, 0));
        assert_eq!(refused.state, NotificationState::GaveUp);
        assert!(refused.last_error.ends_with("it is not tried again") && tries.failures == 0);
        let asked = tries.learn(&ops, unsent(Retry::After(Duration::from_secs(600))), (NOW, 0));
        assert_eq!((asked.state, tries.until), (NotificationState::Pending, NOW + 600_000));
        let late = tries.learn(&ops, unsent(Retry::Later), (NOW + GIVE_UP_AFTER, 0));
        assert_eq!(late.state, NotificationState::GaveUp);
        assert!(late.last_error.ends_with("given up after a day"), "{late:?}");
        let long = Undelivered { retry: Retry::Later, message: "x".repeat(2_000) };
        let long = tries.learn(&ops, Err(Unsent { why: long, is_missing: false }), (NOW, 0));
        assert!(long.last_error.len() <= ERROR && long.last_error.ends_with("UTC"), "{long:?}");
    }
}
