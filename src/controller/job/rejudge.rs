//! The second judgement of jobs that failed before anything was paid: it is made when the objects that a job refers to change.

use tracing::debug;

use super::job_state::{JobState, References};
use super::{cached_job, references};
use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::Freshness;

/// Returns true if the objects that a failed job refers to have changed since it failed. False if that cannot be told now.
pub(super) async fn refers_to_other(ctx: &Context, job: &BatchJob) -> bool {
    ctx.metrics.step("Recheck");
    let Some(seen) = job.status.as_ref().and_then(|s| s.observed_references.as_ref()) else { return false };
    match references::mark(ctx, job).await {
        Ok(mark) => mark != *seen,
        Err(error) => {
            debug!(why = error.chain(), "cannot look now");
            false
        }
    }
}

/// Records the mark of the objects that a job refers to before any of them is read, so that no later change goes unnoticed. A job that
/// was submitted needs none.
pub(super) async fn note_references(ctx: &Context, job_state: &JobState, job: &BatchJob) {
    let is_sent = job.status.as_ref().is_some_and(|s| s.submission_time.is_some());
    if matches!(job_state.references(), References::NotLooked) && !is_sent {
        let mark = mark(ctx, job_state, job).await;
        job_state.refers(mark.map_or(References::Unknown, References::Mark));
    }
}

/// Returns the mark of the objects that the job refers to. The look at the job that it needs is kept for the visit.
async fn mark(ctx: &Context, job_state: &JobState, job: &BatchJob) -> Result<String, StepError> {
    let seen = cached_job::look(ctx, job, job_state.seen(), Freshness::Any, ctx.clock.now()).await?;
    job_state.keep_seen(seen.clone());
    match seen {
        Some(seen) => references::mark(ctx, &seen.job).await,
        None => Err(StepError::passing(reasons::PENDING, "the object is gone")),
    }
}

/// Returns the mark that was recorded before anything was read; without one, the current mark.
pub(super) async fn references_of(ctx: &Context, job_state: &JobState, job: &BatchJob) -> Result<String, StepError> {
    match job_state.references() {
        References::Mark(mark) => Ok(mark),
        References::NotLooked | References::Unknown => references::mark(ctx, job).await,
    }
}

/// Returns the time of the next look at the objects that a failed job refers to (Unix milliseconds).
pub(super) fn due(ctx: &Context) -> i64 {
    let every = ctx.jobs.recheck;
    ctx.clock.now() + every + every * i64::from(ctx.clock.jitter()) / 1024
}
