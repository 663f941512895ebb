//! The reconciliation of one job, until it has to wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tracing::{Instrument, Span};

use super::act::Flow;
use super::backoff::FailedCall;
use super::job_state::JobState;
use super::observe::look_for_credentials;
use super::record::record_seen;
use super::turns::{Turn, TurnError, room_for};
use super::visit::{failed, visit};
use super::{notices, rejudge};
use crate::api::{BatchJob, FINALIZER, annotations};
use crate::controller::Context;
use crate::lifecycle::{cost_nothing, expiry, is_finished, is_tidy, next_visit};
use crate::telemetry;

/// Most steps of one visit; then other jobs get their turn.
const STEPS_A_VISIT: usize = 64;
/// Time after which a job is looked at again although nothing is due.
const RESYNC: Duration = Duration::from_secs(600);
/// Time after which an object that seemed gone is looked for once more: an answer can be older than the watch, which then sends
/// no further event. If the object is really gone, this costs nothing.
const GONE: Duration = Duration::from_secs(10);
/// The pause before another try to record that a change of an ended job was seen.
const NOT_SEEN: Duration = Duration::from_secs(2);
/// The pause before a job that used up the steps of its visit is visited again.
const NEXT_TURN: Duration = Duration::from_millis(50);

/// Reconciles a job. Never fails: an error is remembered, shown if it lasts, and the step is tried again later.
pub(crate) async fn reconcile(job: Arc<BatchJob>, ctx: Arc<Context>) -> Result<Action, Infallible> {
    let Some(turn) = Turn::of(&ctx, &job).await else { return Ok(Action::await_change()) };
    // On the heap from here on, so that each of thousands of waiting visits is small.
    let span = span_of(&job);
    let looked = Box::pin(look_after(job.clone(), ctx.clone(), turn).instrument(span)).await;
    ctx.jobs.job_states.give_back_room(&job.uid().unwrap_or_default());
    ctx.jobs.is_at_rest(&job);
    Ok(looked)
}

/// Visits a job for the last time while the operator stops and no turns are taken any more.
pub(super) async fn finish(job: Arc<BatchJob>, ctx: Arc<Context>) {
    let span = span_of(&job);
    Box::pin(look_after(job, ctx, Turn::last()).instrument(span)).await;
}

/// Returns the span of a job, so that all logs of a visit and of its tasks name the job.
fn span_of(job: &BatchJob) -> Span {
    telemetry::visit(job.metadata.namespace.as_deref(), &job.name_any(), job.metadata.uid.as_deref())
}

async fn look_after(job: Arc<BatchJob>, ctx: Arc<Context>, turn: Turn) -> Action {
    if was_let_go(&job) {
        ctx.jobs.end(&ctx, &job.uid().unwrap_or_default());
        return Action::await_change();
    }
    let anew = match finished(&ctx, &job).await {
        Finished::No => false,
        Finished::ToBeJudgedAnew => true,
        Finished::Yes(next) => return notices::deliver(&ctx, &job, false).map_or(next, Action::requeue),
    };
    let job_state = ctx.jobs.job_states.get(&job.uid().unwrap_or_default(), &job);
    ctx.jobs.cache_budget.forget(&job.uid().unwrap_or_default());
    job_state.asked(asked(&job), ctx.clock.now());
    rejudge::note_references(&ctx, &job_state, &job).await;
    steps(&ctx, &job_state, &job, anew, turn).await
}

/// Returns true if somebody else removed the finalizer, which no event reports.
fn was_let_go(job: &BatchJob) -> bool {
    job.metadata.deletion_timestamp.is_some() && !job.finalizers().iter().any(|f| f == FINALIZER)
}

/// Tells if a job is over.
enum Finished {
    /// The job is not over, or is to be deleted.
    No,
    /// The job failed before anything was paid, and the objects that it refers to have changed since.
    ToBeJudgedAnew,
    /// The job is over, with its next action.
    Yes(Action),
}

async fn finished(ctx: &Context, job: &BatchJob) -> Finished {
    let expiry = expiry(job, ctx.crons.since());
    let has_expired = expiry.is_some_and(|at| ctx.clock.now() >= at);
    if job.metadata.deletion_timestamp.is_some() || !is_finished(job) || !is_tidy(job) || has_expired {
        return Finished::No;
    }
    ctx.jobs.end(ctx, &job.uid().unwrap_or_default());
    // A job that was told to stop ends again, whatever is mended.
    if !cost_nothing(job) || job.spec.stop_policy.is_some() {
        return Finished::Yes(match record_seen(ctx, job).await {
            Ok(true) => expiry.map_or(Action::await_change(), |at| requeue(Some(at), ctx.clock.now())),
            Ok(false) | Err(_) => Action::requeue(NOT_SEEN),
        });
    }
    match rejudge::refers_to_other(ctx, job).await {
        true => Finished::ToBeJudgedAnew,
        false => Finished::Yes(requeue(Some(rejudge::due(ctx)), ctx.clock.now())),
    }
}

/// Takes one step after another, until the job has to wait or other jobs have their turn. With `anew`, a failure that cost
/// nothing is judged again.
async fn steps(ctx: &Arc<Context>, job_state: &Arc<JobState>, job: &BatchJob, mut anew: bool, turn: Turn) -> Action {
    let mut turn = Some(turn);
    for _ in 0..STEPS_A_VISIT {
        if turn.as_ref().is_none_or(Turn::is_over) {
            drop(turn.take());
            // While the job waits, its state counts as that of a job at rest: many may wait, each with a large journal.
            ctx.jobs.is_at_rest(job);
            turn = Turn::of(ctx, job).await;
            ctx.jobs.cache_budget.forget(&job.uid().unwrap_or_default());
        }
        let Some(held) = &turn else { return Action::await_change() };
        let now = ctx.clock.now();
        if let Some(until) = next_try(ctx, job_state, now).await {
            return requeue(Some(until), now);
        }
        let mut doing = "Observe";
        let failures = job_state.backoff(None).failures;
        // On the heap: the futures around a step would move it from one place on the stack to the next.
        let step = Box::pin(visit(ctx, job_state, job, anew, &mut doing));
        let flow = held.keep(failures, step).await;
        if flow.is_ok() {
            job_state.found_room(held.needed());
        }
        match flow {
            Ok(Flow::Again) => anew = false,
            Ok(Flow::Wait(until)) => return requeue(until, ctx.clock.now()),
            Ok(Flow::Gone) => {
                ctx.jobs.end(ctx, &job.uid().unwrap_or_default());
                return Action::requeue(GONE);
            }
            Err(TurnError::Outgrown(held)) => {
                // Twice as much, for the journal that is made of it.
                job_state.found_room(Some(room_for(2 * held)));
                drop(turn.take());
            }
            Err(TurnError::Failed(error)) => {
                let elapsed = ctx.clock.now().saturating_sub(now);
                failed(ctx, job_state, None, FailedCall { call: doing, error, elapsed });
            }
        }
    }
    Action::requeue(NEXT_TURN)
}

/// Returns the time (Unix milliseconds) to look again at a job whose last step failed and is not due yet. A failure that a
/// person may have fixed is looked at earlier.
async fn next_try(ctx: &Context, job_state: &JobState, now: i64) -> Option<i64> {
    if now < job_state.backoff(None).until && job_state.may_be_fixed() {
        look_for_credentials(ctx, job_state).await;
    }
    let until = job_state.backoff(None).until;
    if now < until { next_visit(Some(until), job_state.may_be_fixed(), now) } else { None }
}

/// Returns a mark of a person's wishes: it changes with the spec, the annotations that we read, and deletion.
fn asked(job: &BatchJob) -> String {
    let ours = [annotations::RESOLVE, annotations::APPROVE, annotations::RECONCILE_REQUESTED_AT];
    let said = ours.map(|a| job.annotations().get(a));
    format!("{:?} {:?} {said:?}", job.metadata.generation, job.metadata.deletion_timestamp)
}

fn requeue(until: Option<i64>, now: i64) -> Action {
    let pause = until.map(|until| Duration::from_millis((until - now).max(1).unsigned_abs()));
    Action::requeue(pause.map_or(RESYNC, |p| p.min(RESYNC)))
}
