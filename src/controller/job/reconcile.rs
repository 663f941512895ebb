//! One job, from where it is to where it has to wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tracing::{Instrument, Span};

use super::act::Flow;
use super::backoff::Failed;
use super::observe::look_for_credentials;
use super::record::record_seen;
use super::rejudge;
use super::session::Session;
use super::turns::{Broken, Turn, room_for};
use super::visit::{failed, visit};
use crate::api::{BatchJob, FINALIZER, annotations};
use crate::controller::Context;
use crate::lifecycle::{cost_nothing, is_finished, is_tidy, next_visit};
use crate::telemetry;

/// Steps of one visit; then others get their turn.
const STEPS_A_VISIT: usize = 64;
/// Where nothing is due, the world is looked at again all the same.
const RESYNC: Duration = Duration::from_secs(600);
/// What seemed gone is looked for once more: an answer can be older than the watch, which then has no more to say. Where it
/// is really gone, this costs nothing.
const GONE: Duration = Duration::from_secs(10);
/// The pause before another try to say of a job that ended that a change was seen.
const NOT_SEEN: Duration = Duration::from_secs(2);
/// The pause before a job that used up the steps of its visit is visited again.
const NEXT_TURN: Duration = Duration::from_millis(50);

/// Never fails: whatever goes wrong is remembered, shown where it lasts, and tried again later.
pub(crate) async fn reconcile(job: Arc<BatchJob>, ctx: Arc<Context>) -> Result<Action, Infallible> {
    let Some(turn) = Turn::of(&ctx, &job).await else { return Ok(Action::await_change()) };
    // On the heap from here on: of thousands that wait for their turn each is small.
    let span = span_of(&job);
    let looked = Box::pin(look_after(job.clone(), ctx.clone(), turn).instrument(span)).await;
    ctx.jobs.is_at_rest(&job);
    Ok(looked)
}

/// A last visit while we stop, when nobody takes turns any more.
pub(super) async fn finish(job: Arc<BatchJob>, ctx: Arc<Context>) {
    let span = span_of(&job);
    Box::pin(look_after(job, ctx, Turn::last()).instrument(span)).await;
}

/// All that is logged of a visit, and of what it begins, says whose it is.
fn span_of(job: &BatchJob) -> Span {
    telemetry::visit(job.metadata.namespace.as_deref(), &job.name_any(), job.metadata.uid.as_deref())
}

async fn look_after(job: Arc<BatchJob>, ctx: Arc<Context>, turn: Turn) -> Action {
    if was_let_go(&job) {
        ctx.jobs.end(&ctx, &job.uid().unwrap_or_default());
        return Action::await_change();
    }
    let anew = match over(&ctx, &job).await {
        Over::No => false,
        Over::ToBeJudgedAnew => true,
        Over::Yes(next) => return next,
    };
    let session = ctx.jobs.sessions.get(&job.uid().unwrap_or_default(), &job);
    ctx.jobs.kept.forget(&job.uid().unwrap_or_default());
    session.asked(asked(&job), ctx.clock.now());
    rejudge::note_references(&ctx, &session, &job).await;
    steps(&ctx, &session, &job, anew, turn).await
}

/// Whether others took the finalizer off, which nobody tells of.
fn was_let_go(job: &BatchJob) -> bool {
    job.metadata.deletion_timestamp.is_some() && !job.finalizers().iter().any(|f| f == FINALIZER)
}

/// Whether a job is over.
enum Over {
    No,
    /// It failed before anything was paid, and what it refers to is no longer what it was then.
    ToBeJudgedAnew,
    /// With what is next for it.
    Yes(Action),
}

async fn over(ctx: &Context, job: &BatchJob) -> Over {
    if job.metadata.deletion_timestamp.is_some() || !is_finished(job) || !is_tidy(job) {
        return Over::No;
    }
    ctx.jobs.end(ctx, &job.uid().unwrap_or_default());
    if !cost_nothing(job) {
        return Over::Yes(match record_seen(ctx, job).await {
            Ok(true) => Action::await_change(),
            Ok(false) | Err(_) => Action::requeue(NOT_SEEN),
        });
    }
    match rejudge::refers_to_other(ctx, job).await {
        true => Over::ToBeJudgedAnew,
        false => Over::Yes(requeue(Some(rejudge::due(ctx)), ctx.clock.now())),
    }
}

/// Takes one step after another, until the job has to wait or others have their turn. With `anew`, a failure that cost nothing is
/// judged again.
async fn steps(ctx: &Arc<Context>, session: &Arc<Session>, job: &BatchJob, mut anew: bool, turn: Turn) -> Action {
    let mut turn = Some(turn);
    for _ in 0..STEPS_A_VISIT {
        if turn.as_ref().is_none_or(Turn::is_over) {
            drop(turn.take());
            turn = Turn::of(ctx, job).await;
        }
        let Some(held) = &turn else { return Action::await_change() };
        let now = ctx.clock.now();
        if let Some(until) = next_try(ctx, session, now).await {
            return requeue(Some(until), now);
        }
        let mut doing = "Observe";
        let failures = session.backoff(None).failures;
        // On the heap: what wraps a step would move it from one place on the stack to the next.
        let step = Box::pin(visit(ctx, session, job, anew, &mut doing));
        let flow = held.keep(failures, step).await;
        if flow.is_ok() {
            session.found_room(held.needed());
        }
        match flow {
            Ok(Flow::Again) => anew = false,
            Ok(Flow::Wait(until)) => return requeue(until, ctx.clock.now()),
            Ok(Flow::Gone) => {
                ctx.jobs.end(ctx, &job.uid().unwrap_or_default());
                return Action::requeue(GONE);
            }
            Err(Broken::Outgrown(held)) => {
                // With twice as much, for what is made of it.
                session.found_room(Some(room_for(2 * held)));
                drop(turn.take());
            }
            Err(Broken::Failed(error)) => {
                let took = ctx.clock.now().saturating_sub(now);
                failed(ctx, session, None, Failed { call: doing, error, took });
            }
        }
    }
    Action::requeue(NEXT_TURN)
}

/// When to look again at a job whose last step failed and is not due yet (Unix milliseconds): what a person may have mended
/// is looked at earlier.
async fn next_try(ctx: &Context, session: &Session, now: i64) -> Option<i64> {
    if now < session.backoff(None).until && session.may_be_mended() {
        look_for_credentials(ctx, session).await;
    }
    let until = session.backoff(None).until;
    if now < until { next_visit(Some(until), session.may_be_mended(), now) } else { None }
}

/// What a person asks for: changes with the spec, the annotations that we read, and deletion.
fn asked(job: &BatchJob) -> String {
    let said = [annotations::RESOLVE, annotations::RECONCILE_REQUESTED_AT].map(|a| job.annotations().get(a));
    format!("{:?} {:?} {said:?}", job.metadata.generation, job.metadata.deletion_timestamp)
}

fn requeue(until: Option<i64>, now: i64) -> Action {
    let pause = until.map(|until| Duration::from_millis((until - now).max(1).unsigned_abs()));
    Action::requeue(pause.map_or(RESYNC, |p| p.min(RESYNC)))
}
