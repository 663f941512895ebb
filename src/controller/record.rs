//! The one writer of status: with the resourceVersion that was judged, and only when something changed.

use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::observe::{World, is_finished, is_tidy, reconcile_requested_at};
use super::session::Session;
use super::trouble::Trouble;
use super::{Context, events};
use crate::api::conditions::reasons;
use crate::api::{BatchJob, BatchJobStatus, FIELD_MANAGER};
use crate::lifecycle::{Journal, Memory, Step, Stuck, Waiting, project, seen};

/// Writes the status that `step` calls for. False: the object changed in the meantime, look again.
/// `references` is for a failure that cost nothing.
pub(super) async fn record(
    ctx: &Context,
    world: &World,
    memory: &Memory,
    step: &Step,
    references: Option<String>,
) -> Result<bool, Trouble> {
    let old = world.job.status.clone().unwrap_or_default();
    let observed = world.observed(&ctx.timing, memory);
    let Some(mut status) = project(&observed, &old, world.job.metadata.generation, step) else { return Ok(true) };
    if world.unread.is_some() {
        // What the journal says of the job is as it was.
        status = BatchJobStatus { conditions: status.conditions, ..old.clone() };
    }
    status.last_handled_reconcile_at = reconcile_requested_at(&world.job);
    status.observed_references = references;
    if world.job.status.as_ref() == Some(&status) {
        return Ok(true);
    }
    let news = events::told_by_conditions(&old.conditions, Some(&status.conditions));
    let written = write(ctx, &world.job, status).await?;
    for news in news.into_iter().filter(|_| written) {
        events::publish(ctx, &world.job, news).await;
    }
    Ok(written)
}

/// Says of a job that ended that a change of its spec was seen. False: the object changed in the meantime, look again.
pub(super) async fn record_seen(ctx: &Context, key: &BatchJob) -> Result<bool, Trouble> {
    let generation = key.metadata.generation;
    if key.status.as_ref().is_none_or(|status| seen(status, generation).is_none()) {
        return Ok(true);
    }
    let jobs: Api<BatchJob> = Api::namespaced(ctx.client.clone(), &key.namespace().unwrap_or_default());
    let live = jobs.get_opt(&key.name_any()).await?.filter(|job| job.uid() == key.uid());
    let Some(job) = live.filter(|job| is_finished(job) && is_tidy(job)) else { return Ok(false) };
    match job.status.as_ref().and_then(|status| seen(status, job.metadata.generation)) {
        Some(status) => write(ctx, &job, status).await,
        None => Ok(true),
    }
}

/// False: the object is no longer the one that was judged.
async fn write(ctx: &Context, judged: &BatchJob, status: BatchJobStatus) -> Result<bool, Trouble> {
    let jobs: Api<BatchJob> = Api::namespaced(ctx.client.clone(), &judged.namespace().unwrap_or_default());
    let mut job = judged.clone();
    job.status = Some(status);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    match jobs.replace_status(&job.name_any(), &params, &job).await {
        Ok(_) => {
            ctx.metrics.status_writes.inc();
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Says in status what keeps the job from going on, at the stage that it is at.
pub(super) async fn record_trouble(
    ctx: &Context,
    world: &World,
    session: &Session,
    memory: &Memory,
    stuck: Stuck,
) -> Result<bool, Trouble> {
    let journal = world.journal.as_ref().map(|(journal, _)| journal);
    let mut why =
        session.waiting().unwrap_or_else(|| Waiting { stage: stage_of(journal.map(|j| &**j)), ..Default::default() });
    (why.stuck, why.note) = (Some(stuck), None);
    record(ctx, world, memory, &Step::Wait { until: None, why }, None).await
}

/// Where a job stands that this process has not seen wait yet.
fn stage_of(journal: Option<&Journal>) -> &'static str {
    match journal {
        None => reasons::PENDING,
        Some(journal) if journal.commit.is_some() => reasons::WRITING_RESULTS,
        Some(journal) if journal.has_intents() => reasons::IN_PROGRESS,
        Some(journal) if journal.plan.is_some() => reasons::SUBMITTING,
        Some(_) => reasons::PLANNING,
    }
}
