//! One step of a job: observe, decide, record, act.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::act::{Act, Flow};
use super::backoff::FailedCall;
use super::job_state::JobState;
use super::judge::{Decision, judge};
use super::observe::{Snapshot, observe};
use super::record::{record, record_error};
use super::{note_failure, note_success, notices, rejudge};
use crate::api::BatchJob;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{Freshness, Step, Task, cost_nothing};

/// Decides on a look that is fresh enough for the decision, records it in status, and carries it out. With `anew`, a failure that cost
/// nothing is judged again. The name of the step is stored in `doing`.
pub(super) async fn visit(
    ctx: &Arc<Context>,
    job_state: &Arc<JobState>,
    key: &BatchJob,
    anew: bool,
    doing: &mut &'static str,
) -> Result<Flow, StepError> {
    let mut wanted = Freshness::Any;
    let (snapshot, judged) = loop {
        let Some(snapshot) = observe(ctx, job_state, key, anew, wanted).await? else { return Ok(Flow::Gone) };
        if let Some(error) = snapshot.unread.clone() {
            // On the heap, as below: a step that is rare does not make the future of each visit larger.
            return Box::pin(unread(ctx, job_state, &snapshot, error)).await;
        }
        let judged = judge(ctx, job_state, &snapshot);
        // A step that pays, destroys or writes is decided again on a look that is fresh enough for it.
        match judged.step.freshness() {
            fresher if fresher > wanted => wanted = fresher,
            _ => break (snapshot, judged),
        }
    };
    let Decision { step, memory, blocked, is_brief } = judged;
    if let Some(blocked) = blocked {
        record_error(ctx, &snapshot, job_state, &memory, blocked).await?;
    }
    if ctx.stop.is_cancelled() && matches!(step, Step::WriteIntent { .. }) {
        // A POST that is cut off when the process ends would have an unknown outcome.
        return Ok(Flow::Wait(None));
    }
    debug!(step = step.name(), "decided");
    ctx.metrics.step(step.name());
    *doing = step.name();
    let act = Act { ctx, job_state, snapshot: &snapshot };
    if step == Step::CleanUp {
        act.tidy().await?;
    }
    let references = match &step {
        Step::Fail(_) => Some(Box::pin(rejudge::references_of(ctx, job_state, &snapshot.job)).await?),
        _ => None,
    };
    // A stage that lasts only a few seconds is not written to status.
    if !is_brief && !record(ctx, job_state, &snapshot, &memory, &step, references).await? {
        return Ok(Flow::Again);
    }
    if let Some(seen) = job_state.seen() {
        notices::deliver(ctx, &seen.job, true);
    }
    let ran = act.run(&step).await?;
    let flow = match ran {
        Flow::Wait(None) if snapshot.view.finished && cost_nothing(&snapshot.job) => {
            Flow::Wait(Some(rejudge::due(ctx)))
        }
        flow => flow,
    };
    match step {
        Step::Wait { .. } => job_state.waits_for(&memory.running),
        // A task was only started; it counts as a success or a failure when it ends.
        Step::LookForInput
        | Step::Plan { .. }
        | Step::Upload(_)
        | Step::Collect { .. }
        | Step::FollowUp { .. }
        | Step::Halve(_)
        | Step::Publish
        | Step::Write => {}
        // A call to the provider was only started, too.
        _ if step.call().is_some() => {}
        _ => {
            note_success(ctx, job_state, None);
            if flow != Flow::Again || !matches!(step, Step::RemoveFinalizer { .. }) {
                log_end(&snapshot, &step);
            }
        }
    }
    Ok(flow)
}

/// Handles a journal that cannot be read: nothing can be decided, and if that lasts, status reports it.
async fn unread(ctx: &Context, job_state: &JobState, snapshot: &Snapshot, error: StepError) -> Result<Flow, StepError> {
    let elapsed = ctx.clock.now().saturating_sub(snapshot.now);
    failed(ctx, job_state, None, FailedCall { call: "Observe", error, elapsed });
    let ended = snapshot.job.status.as_ref().is_some_and(|s| s.outcome.is_some());
    if let Some(blocked) = job_state.lasting(Option::is_none).and_then(|b| b.blocked()).filter(|_| !ended) {
        record_error(ctx, snapshot, job_state, &job_state.memory(), blocked).await?;
    }
    Ok(Flow::Again)
}

fn log_end(snapshot: &Snapshot, step: &Step) {
    match step {
        Step::Conclude { manifest, reused } => {
            info!(outcome = ?manifest.outcome, reused, "the job is done");
        }
        Step::DeleteObject => {
            info!("the job is deleted: `spec.ttlSecondsAfterFinished` are over");
        }
        Step::Fail(failure) => {
            info!(reason = failure.reason, "the job failed before anything was paid");
        }
        Step::RemoveFinalizer { abandoned, untidy } => {
            if let Some(why) = abandoned {
                warn!(why, "let an object go");
            }
            if let Some(why) = untidy {
                let what =
                    "what was staged for a deleted job is left; delete the folder of its work below `_batchjob/`";
                warn!(output = snapshot.view.output_uri, why, "{what}");
            }
        }
        _ => {}
    }
}

/// Logs the failure of a step, and records the time of its next try.
pub(super) fn failed(ctx: &Context, job_state: &JobState, what: Option<Task>, failed: FailedCall) {
    let (step, error) = (failed.call, &failed.error);
    warn!(step, reason = error.kind(), why = error.chain(), "a step failed and is tried again");
    note_failure(ctx, job_state, what, failed);
}
