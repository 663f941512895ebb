//! Transfers and calls at providers, beside the reconcile loop: keyed by job and purpose, and ended with their job.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use tracing::{Instrument, debug};

use super::act::Outcome;
use super::backoff::Failed;
use super::reconcile;
use super::session::Session;
use super::transfers::{self, Place};
use crate::api::BatchJob;
use crate::controller::Context;
use crate::fair::Claim;
use crate::lifecycle::Task;

/// Starts `work` unless it runs; when it ends the job is looked at again.
pub(crate) fn start(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    job: &BatchJob,
    task: Task,
    work: impl Future<Output = Outcome> + Send + 'static,
) {
    start_in_place(ctx, session, job, task, |place| async move {
        let _place = place;
        work.await
    });
}

/// The same for `work` that gives up its place before it ends: one that only waits for an answer holds nobody up.
pub(crate) fn start_in_place<W: Future<Output = Outcome> + Send + 'static>(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    job: &BatchJob,
    task: Task,
    work: impl FnOnce(Place) -> W + Send + 'static,
) {
    let (of, kept) = (ctx.clone(), session.clone());
    let is_retry = session.backoff(Some(task)).failures > 0;
    let claim = Claim { is_retry, ..transfers::claim(task, job, session.need(task)) };
    run(ctx, session, job, (task, transfers::name_of(task)), async move {
        let (outcome, began) = transfers::run(&of, &kept, (task, claim), work).await;
        Done { outcome, began }
    });
}

/// Starts a call at the provider, which waits for its turn at its account; `name` is the step's. Like a transfer it ends with
/// its job or with this process, unless it is `finished` once it began: then it sees to that itself.
pub(crate) fn start_call(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    job: &BatchJob,
    (task, name): (Task, &'static str),
    work: impl Future<Output = Outcome> + Send + 'static,
) {
    let clock = ctx.clock.clone();
    run(ctx, session, job, (task, name), async move {
        let began = clock.now();
        Done { outcome: work.await, began }
    });
}

/// How work ended, and when it began.
struct Done {
    outcome: Outcome,
    began: i64,
}

fn run(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    job: &BatchJob,
    (task, name): (Task, &'static str),
    work: impl Future<Output = Done> + Send + 'static,
) {
    let mut fresh = false;
    session.remember(|m| fresh = m.running.insert(task));
    if !fresh {
        return;
    }
    let (ctx, session, tracker) = (ctx.clone(), session.clone(), ctx.tracker.clone());
    let of = ObjectRef::from_obj(job);
    // What was asked of a provider for money is waited for, whatever ends.
    let is_finished = matches!(task, Task::Post(_));
    let last = is_finished.then(|| Arc::new(job.clone()));
    let beside = async move {
        let ends = async {
            match is_finished {
                true => std::future::pending().await,
                false => tokio::select! { () = session.stop.cancelled() => {}, () = ctx.stop.cancelled() => {} },
            }
        };
        let Done { outcome, began } = tokio::select! {
            done = work => done,
            () = ends => return,
        };
        match outcome {
            Ok(learned) => {
                super::note_success(&ctx, &session, Some(task));
                session.remember(|m| {
                    m.running.remove(&task);
                    learned(m);
                });
            }
            Err(error) => {
                let why = &error.blocked.message;
                debug!(?task, why, "what ran beside the loop failed and is tried again");
                let took = ctx.clock.now().saturating_sub(began);
                super::note_failure(&ctx, &session, Some(task), Failed { call: name, error, took });
                session.remember(|m| {
                    m.running.remove(&task);
                });
            }
        }
        match last.filter(|_| ctx.stop.is_cancelled()) {
            // Nobody else looks at jobs any more, and what became of a POST is written down before this process ends.
            Some(job) => reconcile::finish(job, ctx).await,
            None => ctx.jobs.poke(of),
        }
    };
    tracker.spawn(beside.in_current_span());
}
