//! One step of a job: observe, decide, record, act.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::act::{Act, Flow};
use super::backoff::Failed;
use super::judge::{Judged, judge};
use super::observe::{Snapshot, observe};
use super::record::{record, record_error};
use super::session::Session;
use super::{note_failure, note_success, rejudge};
use crate::api::BatchJob;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{Freshness, Step, Task, cost_nothing};

/// Decides on a look that is fresh enough for the decision, records it in status, and carries it out. With `anew`, a failure that cost
/// nothing is judged again. The name of the step is stored in `doing`.
pub(super) async fn visit(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    key: &BatchJob,
    anew: bool,
    doing: &mut &'static str,
) -> Result<Flow, StepError> {
    let mut wanted = Freshness::Any;
    let (snapshot, judged) = loop {
        let Some(snapshot) = observe(ctx, session, key, anew, wanted).await? else { return Ok(Flow::Gone) };
        if let Some(error) = snapshot.unread.clone() {
            // On the heap, as below: a step that is rare does not make the future of each visit larger.
            return Box::pin(unread(ctx, session, &snapshot, error)).await;
        }
        let judged = judge(ctx, session, &snapshot);
        // A step that pays, destroys or writes is decided again on a look that is fresh enough for it.
        match judged.step.freshness() {
            fresher if fresher > wanted => wanted = fresher,
            _ => break (snapshot, judged),
        }
    };
    let Judged { step, memory, blocked, is_brief } = judged;
    if let Some(told) = blocked {
        record_error(ctx, &snapshot, session, &memory, told).await?;
    }
    if ctx.stop.is_cancelled() && matches!(step, Step::WriteIntent { .. }) {
        // A POST that is cut off when the process ends would have an unknown outcome.
        return Ok(Flow::Wait(None));
    }
    debug!(step = step.name(), "decided");
    ctx.metrics.step(step.name());
    *doing = step.name();
    let act = Act { ctx, session, snapshot: &snapshot };
    if step == Step::CleanUp {
        act.tidy().await?;
    }
    let references = match &step {
        Step::Fail(_) => Some(Box::pin(rejudge::references_of(ctx, session, &snapshot.job)).await?),
        _ => None,
    };
    // A stage that lasts only a few seconds is not written to status.
    if !is_brief && !record(ctx, session, &snapshot, &memory, &step, references).await? {
        return Ok(Flow::Again);
    }
    let ran = act.run(&step).await?;
    let flow = match ran {
        Flow::Wait(None) if snapshot.view.finished && cost_nothing(&snapshot.job) => {
            Flow::Wait(Some(rejudge::due(ctx)))
        }
        flow => flow,
    };
    match step {
        Step::Wait { .. } => session.waits_for(&memory.running),
        // A transfer was only started; it counts as a success or a failure when it ends.
        Step::Plan { .. }
        | Step::Upload(_)
        | Step::Collect { .. }
        | Step::FollowUp { .. }
        | Step::Halve(_)
        | Step::Write => {}
        // A call to the provider was only started, too.
        _ if step.call().is_some() => {}
        _ => {
            note_success(ctx, session, None);
            if flow != Flow::Again || !matches!(step, Step::RemoveFinalizer { .. }) {
                told(&snapshot, &step);
            }
        }
    }
    Ok(flow)
}

/// Handles a journal that cannot be read: nothing can be decided, and if that lasts, status reports it.
async fn unread(ctx: &Context, session: &Session, snapshot: &Snapshot, error: StepError) -> Result<Flow, StepError> {
    let took = ctx.clock.now().saturating_sub(snapshot.now);
    failed(ctx, session, None, Failed { call: "Observe", error, took });
    let ended = snapshot.job.status.as_ref().is_some_and(|s| s.outcome.is_some());
    if let Some(told) = session.lasting(Option::is_none).and_then(|b| b.told()).filter(|_| !ended) {
        record_error(ctx, snapshot, session, &session.memory(), told).await?;
    }
    Ok(Flow::Again)
}

fn told(snapshot: &Snapshot, step: &Step) {
    match step {
        Step::Conclude { manifest, reused } => {
            info!(outcome = ?manifest.outcome, reused, "the job is done");
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
pub(super) fn failed(ctx: &Context, session: &Session, what: Option<Task>, failed: Failed) {
    let (step, error) = (failed.call, &failed.error);
    warn!(step, reason = error.kind(), why = error.blocked.message, "a step failed and is tried again");
    note_failure(ctx, session, what, failed);
}
