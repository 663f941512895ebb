//! A visit of a CronBatchJob: the start that is due is made, status is written, and then old children are deleted.

use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};

use super::children::{self, Created};
use super::condition;
use crate::api::{ActiveBatchJob, CronBatchJob, CronBatchJobStatus, conditions};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{self, EventRecord};
use crate::controller::runtime::status;
use crate::schedule::{Child, Decision, Event, Observed, SkippedStart, Start, decide};

/// The pause after a visit that a change of the object made obsolete.
const CHANGED: Duration = Duration::from_secs(1);
/// The pause before a start that the API server refused is tried again.
const REFUSED: Duration = Duration::from_secs(60);
/// Longest time between two visits: the clock may be set in the meantime.
const LONGEST: Duration = Duration::from_secs(600);

/// Looks after one CronBatchJob. Everything may break off at any point: a child is found again under its name, and status is
/// written before anything is deleted that a later visit decides on.
pub(super) async fn visit(ctx: &Context, key: &CronBatchJob) -> Result<Action, StepError> {
    let namespace = key.namespace().unwrap_or_default();
    let api: Api<CronBatchJob> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(cron) = api.get_opt(&key.name_any()).await? else {
        ctx.crons.forget(&key.uid().unwrap_or_default());
        return Ok(Action::await_change());
    };
    let children = children::of(ctx, &cron).await?;
    let now = Timestamp::from_millisecond(ctx.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut decision = decide(&Observed { cron: &cron, children: &children, now });
    let started = start(ctx, &cron, &children, decision.start.as_ref()).await?;
    let is_refused = started.is_err();
    let started = started.unwrap_or_else(|refused| {
        decision.fault = Some(refused);
        None
    });
    let status = status_after(&cron, &decision, started, now);
    if cron.status.as_ref() != Some(&status) && status::write(&ctx.client, &cron, &status).await?.is_none() {
        return Ok(Action::requeue(CHANGED));
    }
    let mut news = decision.events;
    // A start that is refused is decided anew at each visit.
    news.retain(|event| !is_refused || !matches!(event, Event::TooManyMissedTimes(_)));
    news.extend(decision.fault.filter(|_| condition::is_new(cron.status.as_ref(), &status)));
    let skipped = ctx.crons.note_skipped(&namespace, &cron.uid().unwrap_or_default(), decision.skipped);
    news.extend(skipped.map(SkippedStart::event));
    publish(ctx, &cron, news);
    delete_history(ctx, &cron, &children, &decision.history).await;
    Ok(match (is_refused, decision.next_schedule_time) {
        (true, _) => Action::requeue(REFUSED),
        (false, Some(next)) => Action::requeue(pause(now, next)),
        // The watch may miss the end of a BatchJob.
        (false, None) if !status.active.is_empty() => Action::requeue(LONGEST),
        (false, None) => Action::await_change(),
    })
}

/// Makes the start that is due. Returns its BatchJob once that is there, and whether it is the schedule's own; or the event of a
/// refusal. Events about what was done are published at once, because the visit may break off.
async fn start(
    ctx: &Context,
    cron: &CronBatchJob,
    children: &[Child],
    start: Option<&Start>,
) -> Result<Result<Option<(ActiveBatchJob, bool)>, Event>, StepError> {
    let Some(start) = start else { return Ok(Ok(None)) };
    for child in children.iter().filter(|child| start.replaces.contains(&child.name)) {
        if let Err(refused) = delete(ctx, cron, child).await {
            return Ok(Err(refused));
        }
    }
    let name = start.child.name_any();
    Ok(match children::create(ctx, cron, &start.child).await? {
        Created::There { uid, is_new, is_ours } => {
            publish(ctx, cron, is_new.then(|| Event::SuccessfulCreate(name.clone())));
            Ok(Some((ActiveBatchJob { name, uid }, is_ours)))
        }
        Created::Refused(why) => Err(Event::FailedCreate(why)),
    })
}

fn status_after(
    cron: &CronBatchJob,
    decision: &Decision,
    started: Option<(ActiveBatchJob, bool)>,
    now: Timestamp,
) -> CronBatchJobStatus {
    let mut status = cron.status.clone().unwrap_or_default();
    let by_hand = started.as_ref().filter(|(_, is_ours)| !is_ours).map(|(job, _)| job.uid.clone());
    decision.write(started.map(|(job, _)| job), &mut status);
    if let Some(uid) = by_hand {
        status.active.retain(|active| active.uid != uid);
        status.active_count = status.active_count.saturating_sub(1);
    }
    status.observed_generation = cron.metadata.generation;
    let verdict = condition::ready(decision, cron.spec.suspend);
    conditions::set(&mut status.conditions, verdict, cron.metadata.generation, now);
    status
}

/// Deletes children that newer ones replace in the history. A child that cannot be deleted is deleted by a later visit.
async fn delete_history(ctx: &Context, cron: &CronBatchJob, children: &[Child], history: &[String]) {
    for child in children.iter().filter(|child| history.contains(&child.name)) {
        if let Err(refused) = delete(ctx, cron, child).await {
            publish(ctx, cron, [refused]);
        }
    }
}

/// Deletes a child, and publishes that. Returns the event of a failure.
async fn delete(ctx: &Context, cron: &CronBatchJob, child: &Child) -> Result<(), Event> {
    match children::delete(ctx, cron, child).await {
        Ok(is_deleted) => {
            publish(ctx, cron, is_deleted.then(|| Event::SuccessfulDelete(child.name.clone())));
            Ok(())
        }
        Err(error) => Err(Event::FailedDelete(format!("{}: {}", child.name, crate::transport::chain(&error)))),
    }
}

fn publish(ctx: &Context, cron: &CronBatchJob, news: impl IntoIterator<Item = Event>) {
    for event in news {
        let note = event.to_string();
        let record = match event.is_warning() {
            true => EventRecord::warning(event.reason(), note),
            false => EventRecord::normal(event.reason(), note),
        };
        events::publish_on(ctx, cron.object_ref(&()), record);
    }
}

fn pause(now: Timestamp, next: Timestamp) -> Duration {
    let until = next.as_millisecond().saturating_sub(now.as_millisecond());
    Duration::from_millis(u64::try_from(until).unwrap_or(0)).min(LONGEST)
}
