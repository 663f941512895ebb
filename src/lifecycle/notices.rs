//! Messages to webhooks about a job: which are due, and when an attempt is made.
//!
//! `status.notifications` is both their queue and the record of their deliveries. A message enters it in the same write
//! that makes its event visible, and each write of status derives the events anew: from the journal, where an intent
//! and an end stay for good, or from the question, the obstacle or the failure that this very write shows. So a crash
//! between two writes loses no event. The id of a message is a hash of the work, the notification and the occurrence of
//! the event: every process derives the same id.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::journal::Journal;
use super::observed::Observed;
use super::step::Step;
use crate::api::conditions::{self, reasons};
use crate::api::text::{clip, hex};
use crate::api::{BatchJobStatus, Notification, NotificationEvent, NotificationState, NotificationStatus, Outcome};

/// The largest number of notifications that apply to one job.
pub const SUBSCRIPTION_LIMIT: usize = 8;
/// The largest number of messages in status: one for each notification and event.
const MESSAGES: usize = SUBSCRIPTION_LIMIT * 5;
/// Bytes of an event's message that status keeps.
const TEXT: usize = 120;
/// Ids of questions that are kept for one notification.
const QUESTIONS: usize = 8;
/// Shortest time between two messages about `Stalled` to one webhook, in milliseconds: obstacles may come and go.
const STALLS_APART: i64 = 3_600_000;
/// Time after an event until which its message is tried, in milliseconds.
pub const GIVE_UP_AFTER: i64 = 86_400_000;
/// Longest pause between two attempts, in milliseconds.
const LONGEST_PAUSE: i64 = 3_600_000;

/// A webhook that is told of a job, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// Name of the notification.
    pub name: String,
    /// Events that it is told of.
    pub events: Vec<NotificationEvent>,
}

/// Returns the notifications that apply to a job, each with whether it is the provider's: first the job's own, then
/// those of its provider whose names the job does not use; at most [`SUBSCRIPTION_LIMIT`] in all.
pub fn applying<'a, T>(
    own: &'a [T],
    of_provider: &'a [T],
    name: impl Fn(&T) -> &str,
) -> impl Iterator<Item = (&'a T, bool)> {
    let others = of_provider.iter().filter(move |theirs| own.iter().all(|ours| name(ours) != name(theirs)));
    own.iter().map(|ours| (ours, false)).chain(others.map(|theirs| (theirs, true))).take(SUBSCRIPTION_LIMIT)
}

impl From<&Notification> for Subscription {
    fn from(Notification { name, events, .. }: &Notification) -> Self {
        Subscription { name: name.clone(), events: events.clone() }
    }
}

/// An event that webhooks are told of.
struct Occurrence {
    event: NotificationEvent,
    /// Distinguishes this occurrence from all others, of other jobs as well.
    key: String,
    reason: String,
    message: String,
}

/// Returns the messages after a write of `status` for `step`: those of `old`, and one for each event that is new to a
/// webhook.
pub(super) fn messages(
    o: &Observed,
    old: &BatchJobStatus,
    status: &BatchJobStatus,
    step: &Step,
) -> Vec<NotificationStatus> {
    let mut all = old.notifications.clone();
    // A person who deletes a job needs no message about it.
    if o.job.subscriptions.is_empty() || o.job.deleting_since.is_some() {
        return all;
    }
    let occurrences: Vec<Occurrence> =
        [started(o, old), ended(o, status, step), stalled(o, status, step)].into_iter().flatten().collect();
    for subscription in &o.job.subscriptions {
        let events = |event| subscription.events.contains(&event);
        for occurrence in occurrences.iter().filter(|occurrence| events(occurrence.event)) {
            tell(&mut all, subscription, occurrence, vec![], o.now);
        }
        if events(NotificationEvent::Held)
            && let Some((occurrence, questions)) = held(o, status, step, &all, subscription)
        {
            tell(&mut all, subscription, &occurrence, questions, o.now);
        }
    }
    let is_subscribed = |message: &NotificationStatus| o.job.subscriptions.iter().any(|s| s.name == message.name);
    while all.len() > MESSAGES {
        // Only messages of notifications that are gone can be too many.
        let gone = all.iter().position(|message| !is_subscribed(message)).unwrap_or_default();
        all.remove(gone);
    }
    all
}

/// Adds a message about an occurrence, unless there is one already. The message comes last, and an earlier one about the
/// same kind of event goes.
fn tell(
    all: &mut Vec<NotificationStatus>,
    subscription: &Subscription,
    occurrence: &Occurrence,
    questions: Vec<String>,
    now: i64,
) {
    let (name, event) = (&subscription.name, occurrence.event);
    let earlier = all.iter().position(|message| message.name == *name && message.event == event);
    let id = id(name, occurrence);
    if let Some(earlier) = earlier.map(|at| &all[at]) {
        let is_soon = event == NotificationEvent::Stalled && now < ms(&earlier.event_time) + STALLS_APART;
        if earlier.id == id || is_soon {
            return;
        }
    }
    let message = NotificationStatus {
        name: name.clone(),
        event,
        id,
        state: NotificationState::Pending,
        event_time: time(now),
        reason: clip(occurrence.reason.clone(), 64),
        message: clip(occurrence.message.clone(), TEXT),
        questions,
        attempts: 0,
        last_attempt_time: None,
        last_error: String::new(),
    };
    // Messages to one webhook are sent in the order of the list.
    if let Some(at) = earlier {
        all.remove(at);
    }
    all.push(message);
}

/// Returns the id of a message: 128 bits of a hash, the same in every process.
fn id(name: &str, occurrence: &Occurrence) -> String {
    let what = format!("{name}\n{:?}\n{}", occurrence.event, occurrence.key);
    format!("msg_{}", hex(&digest(&SHA256, what.as_bytes()).as_ref()[..16]))
}

/// Returns the start of a job, while status does not show yet that a batch was submitted. A webhook that is named later
/// is not told of it.
fn started(o: &Observed, old: &BatchJobStatus) -> Option<Occurrence> {
    if old.submission_time.is_some() {
        return None;
    }
    let journal = o.journal.filter(|j| j.owner == o.job.owner && j.has_intents())?;
    let requests = journal.plan.as_ref().map_or(0, |plan| plan.requests);
    Some(Occurrence {
        event: NotificationEvent::Started,
        key: journal.work_id.clone(),
        reason: reasons::SUBMITTING.into(),
        message: format!("{requests} requests are checked, and the first batch is submitted"),
    })
}

/// Returns the end of a job, if this step shows it. An outcome that was adopted from an earlier job is no event. The
/// results are written before, so that a receiver can read them.
fn ended(o: &Observed, status: &BatchJobStatus, step: &Step) -> Option<Occurrence> {
    match step {
        Step::Conclude { manifest, reused: false } => Some(Occurrence {
            event: event_of(manifest.outcome),
            key: manifest.work_id.clone(),
            reason: manifest.reason.clone(),
            message: manifest.message.clone(),
        }),
        // Such a job is judged anew whenever an object that it refers to changes. Its failure is told again only after
        // a change of the spec, or if it is another one.
        Step::Fail(failure) => Some(Occurrence {
            event: event_of(failure.outcome),
            key: format!("{} {:?} {} {}", o.job.owner.uid, status.observed_generation, failure.reason, failure.message),
            reason: failure.reason.into(),
            message: failure.message.clone(),
        }),
        _ => None,
    }
}

fn event_of(outcome: Outcome) -> NotificationEvent {
    match outcome {
        Outcome::Succeeded | Outcome::PartiallySucceeded => NotificationEvent::Complete,
        Outcome::Failed | Outcome::Cancelled => NotificationEvent::Failed,
    }
}

/// Returns the obstacle that stalls a job. A job that stays stalled is told of once, also if another obstacle takes the
/// place of the first.
fn stalled(o: &Observed, status: &BatchJobStatus, step: &Step) -> Option<Occurrence> {
    let Step::Wait { .. } = step else { return None };
    let is_obstacle = |c: &&Condition| c.type_ == conditions::STALLED && c.status == "True";
    // A question is an event of its own.
    let stalled = status.conditions.iter().find(is_obstacle).filter(|c| c.reason != reasons::AWAITING_ANSWER)?;
    let since = ms(&stalled.last_transition_time);
    Some(Occurrence {
        event: NotificationEvent::Stalled,
        key: format!("{} {since}", o.job.owner.uid),
        reason: stalled.reason.clone(),
        message: stalled.message.clone(),
    })
}

/// Returns the open questions that this webhook was not told of, as one event, and the ids of the questions that it
/// knows after that. A message that still waits is replaced by one about the later questions.
fn held(
    o: &Observed,
    status: &BatchJobStatus,
    step: &Step,
    all: &[NotificationStatus],
    subscription: &Subscription,
) -> Option<(Occurrence, Vec<String>)> {
    let Step::Wait { .. } = step else { return None };
    let is_earlier = |m: &&NotificationStatus| m.name == subscription.name && m.event == NotificationEvent::Held;
    let known = all.iter().find(is_earlier).map(|message| message.questions.clone()).unwrap_or_default();
    let new: Vec<&str> =
        status.holds.iter().map(|hold| hold.id.as_str()).filter(|id| !known.iter().any(|known| known == id)).collect();
    let first = status.holds.iter().find(|hold| new.first() == Some(&hold.id.as_str()))?;
    let is_open = |id: &String| status.holds.iter().any(|hold| hold.id == *id);
    // The ids of open questions are kept longest.
    let (open, closed): (Vec<String>, Vec<String>) =
        known.into_iter().chain(new.iter().map(|id| id.to_string())).partition(is_open);
    let kept = closed.into_iter().rev().take(QUESTIONS.saturating_sub(open.len())).rev().chain(open.clone());
    let of =
        o.journal.filter(|j| j.owner == o.job.owner).map_or(&o.job.owner.uid, |journal: &Journal| &journal.work_id);
    let occurrence = Occurrence {
        event: NotificationEvent::Held,
        key: format!("{of} {}", new.join(" ")),
        reason: reasons::AWAITING_ANSWER.into(),
        message: first.message.clone(),
    };
    Some((occurrence, kept.collect()))
}

/// Returns the time (Unix milliseconds) of the next attempt after `failures` in a row, the last of them at `now`; None
/// if the message about an event at `since` is given up. The pause doubles from a second to an hour, or to the
/// `longest`, and `jitter` lengthens it by up to a quarter. A pause of `asked` milliseconds that the receiver asked for
/// is kept. The last attempt is made [`GIVE_UP_AFTER`] after `since`.
pub fn next_attempt(
    failures: u32,
    since: i64,
    now: i64,
    asked: Option<i64>,
    jitter: u8,
    longest: Option<i64>,
) -> Option<i64> {
    let until = since.saturating_add(GIVE_UP_AFTER);
    if now >= until {
        return None;
    }
    let doubled = 1_000_i64 << failures.saturating_sub(1).min(20);
    let pause = doubled.min(longest.unwrap_or(LONGEST_PAUSE)).min(LONGEST_PAUSE);
    let pause = (pause + pause * i64::from(jitter) / 1024).max(asked.unwrap_or_default());
    Some(now.saturating_add(pause).min(until))
}

/// Returns the time (Unix milliseconds) until which the object of a job is kept for the messages in its status; None if none waits.
pub(super) fn kept_until(status: &BatchJobStatus) -> Option<i64> {
    let pending = status.notifications.iter().filter(|message| message.is_pending());
    // The pause at the end leaves time for the last attempt.
    pending.map(|message| ms(&message.event_time) + GIVE_UP_AFTER + LONGEST_PAUSE).max()
}

fn ms(time: &Time) -> i64 {
    time.0.as_millisecond()
}

fn time(ms: i64) -> Time {
    Time(Timestamp::from_second(ms.div_euclid(1_000)).unwrap_or_default())
}
