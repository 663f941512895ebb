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
    let (started, mut news) = start(ctx, &cron, &children, decision.start.as_ref()).await?;
    let started = started.unwrap_or_else(|refused| {
        decision.fault = Some(refused);
        None
    });
    let status = status_after(&cron, &decision, started, now);
    if cron.status.as_ref() != Some(&status) && status::write(&ctx.client, &cron, &status).await?.is_none() {
        publish(ctx, &cron, news);
        return Ok(Action::requeue(CHANGED));
    }
    news.append(&mut decision.events);
    news.extend(decision.fault.clone().filter(|_| condition::is_new(cron.status.as_ref(), &status)));
    let skipped = ctx.crons.note_skipped(&cron.uid().unwrap_or_default(), decision.skipped);
    news.extend(skipped.map(SkippedStart::event));
    news.extend(delete_history(ctx, &cron, &children, &decision.history).await);
    publish(ctx, &cron, news);
    Ok(match (decision.start.is_some() && decision.fault.is_some(), decision.next_schedule_time) {
        (true, _) => Action::requeue(REFUSED),
        (false, Some(next)) => Action::requeue(pause(now, next)),
        (false, None) => Action::await_change(),
    })
}

/// Makes the start that is due. Returns its BatchJob once that is there, and whether it is the schedule's own; or the event of a
/// refusal; and the news of what was done.
async fn start(
    ctx: &Context,
    cron: &CronBatchJob,
    children: &[Child],
    start: Option<&Start>,
) -> Result<(Result<Option<(ActiveBatchJob, bool)>, Event>, Vec<Event>), StepError> {
    let mut news = vec![];
    let Some(start) = start else { return Ok((Ok(None), news)) };
    for child in children.iter().filter(|child| start.replaces.contains(&child.name)) {
        if children::delete(ctx, cron, child).await? {
            news.push(Event::SuccessfulDelete(child.name.clone()));
        }
    }
    let name = start.child.name_any();
    let started = match children::create(ctx, cron, &start.child).await? {
        Created::There { uid, is_new, is_ours } => {
            news.extend(is_new.then(|| Event::SuccessfulCreate(name.clone())));
            Ok(Some((ActiveBatchJob { name, uid }, is_ours)))
        }
        Created::Refused(why) => Err(Event::FailedCreate(why)),
    };
    Ok((started, news))
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
async fn delete_history(ctx: &Context, cron: &CronBatchJob, children: &[Child], history: &[String]) -> Vec<Event> {
    let mut news = vec![];
    for child in children.iter().filter(|child| history.contains(&child.name)) {
        match children::delete(ctx, cron, child).await {
            Ok(true) => news.push(Event::SuccessfulDelete(child.name.clone())),
            Ok(false) => {}
            Err(error) => {
                news.push(Event::FailedDelete(format!("{}: {}", child.name, crate::transport::chain(&error))));
            }
        }
    }
    news
}

fn publish(ctx: &Context, cron: &CronBatchJob, news: Vec<Event>) {
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
