//! The only writer of a job's status. It writes over the resourceVersion that was judged, and only if something changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::job_state::JobState;
use super::observe::Snapshot;
use super::{cached_job, events};
use crate::api::{BatchJob, BatchJobStatus};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::publish;
use crate::controller::{Context, runtime};
use crate::lifecycle::{Blocked, Memory, Step, Waiting, is_finished, is_tidy, project, reconcile_requested_at, seen};

/// Writes the status for `step`. Returns false if the object changed in the meantime and must be read again. `references` is the mark
/// of the objects that the job refers to, for a failure before anything was paid.
pub(crate) async fn record(
    ctx: &Context,
    job_state: &JobState,
    snapshot: &Snapshot,
    memory: &Memory,
    step: &Step,
    references: Option<String>,
) -> Result<bool, StepError> {
    let old = snapshot.job.status.clone().unwrap_or_default();
    let observed = snapshot.observed(&ctx.timing, memory);
    let Some(mut status) = project(&observed, &old, snapshot.job.metadata.generation, step) else { return Ok(true) };
    if snapshot.unread.is_some() {
        // The journal could not be read, so everything that comes from it stays as it was.
        let BatchJobStatus { conditions, notifications, .. } = status;
        status = BatchJobStatus { conditions, notifications, ..old.clone() };
    }
    status.last_handled_reconcile_at = reconcile_requested_at(&snapshot.job);
    status.observed_references = references;
    if snapshot.job.status.as_ref() == Some(&status) {
        return Ok(true);
    }
    let news = events::events_of_conditions(&old.conditions, Some(&status.conditions));
    let at = ctx.clock.now();
    let metadata = write(ctx, &snapshot.job, &status).await?;
    let written = metadata.is_some();
    // The written object becomes the last look. If the write was refused, there is none, and the object is read again.
    let seen = job_state.seen().zip(metadata);
    job_state.keep_seen(seen.map(|(seen, metadata)| seen.after(metadata, |job| job.status = Some(status), at)));
    for news in news.into_iter().filter(|_| written) {
        publish(ctx, &snapshot.job, news);
    }
    Ok(written)
}

/// Records in the status of an ended job that a change of its spec was seen. Returns false if the object changed in the meantime and
/// must be read again.
pub(crate) async fn record_seen(ctx: &Context, key: &BatchJob) -> Result<bool, StepError> {
    let generation = key.metadata.generation;
    if key.status.as_ref().is_none_or(|status| seen(status, generation).is_none()) {
        return Ok(true);
    }
    let live = cached_job::read(ctx, key).await?.map(|(job, _)| job);
    let Some(job) = live.filter(|job| is_finished(job) && is_tidy(job)) else { return Ok(false) };
    match job.status.as_ref().and_then(|status| seen(status, job.metadata.generation)) {
        Some(status) => Ok(write(ctx, &job, &status).await?.is_some()),
        None => Ok(true),
    }
}

/// Writes the status over the job that was judged. Returns the metadata after the write; None if the job changed in the meantime.
async fn write(ctx: &Context, judged: &BatchJob, status: &BatchJobStatus) -> Result<Option<ObjectMeta>, StepError> {
    let written = runtime::status::write(&ctx.client, judged, status).await?;
    ctx.metrics.status_writes.inc_by(u64::from(written.is_some()));
    Ok(written)
}

/// Writes to status the reason why the job does not go on, at its current stage.
pub(crate) async fn record_error(
    ctx: &Context,
    snapshot: &Snapshot,
    job_state: &JobState,
    memory: &Memory,
    blocked: Blocked,
) -> Result<bool, StepError> {
    let journal = snapshot.journal.as_ref().map(|(journal, _)| &**journal);
    let mut why = job_state.waiting().unwrap_or_else(|| Waiting::at_stage_of(journal));
    (why.blocked, why.note) = (Some(blocked), None);
    record(ctx, job_state, snapshot, memory, &Step::Wait { until: None, why }, None).await
}
