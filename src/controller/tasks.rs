//! Transfers and calls at providers, beside the reconcile loop: keyed by job and purpose, and ended with their job.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::Context;
use super::act::Outcome;
use super::backoff::Failed;
use super::reconcile::reconcile;
use super::session::Session;
use crate::api::BatchJob;
use crate::lifecycle::Task;

/// One of the few transfers that run at a time.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// Starts `work` unless it runs; when it ends the job is looked at again.
pub(super) fn start(
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
pub(super) fn start_in_place<W: Future<Output = Outcome> + Send + 'static>(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    job: &BatchJob,
    task: Task,
    work: impl FnOnce(Place) -> W + Send + 'static,
) {
    let (transfers, clock) = (ctx.transfers.clone(), ctx.clock.clone());
    run(ctx, session, job, (task, name_of(task)), async move {
        // It is never closed.
        let place = transfers.acquire_owned().await.ok();
        let began = clock.now();
        Done { outcome: work(place).await, began }
    });
}

/// Starts a call at the provider, which waits for its turn at its account; `name` is the step's. Like a transfer it ends with
/// its job or with this process, unless it is `finished` once it began: then it sees to that itself.
pub(super) fn start_call(
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
    let (ctx, session) = (ctx.clone(), session.clone());
    let of = ObjectRef::from_obj(job);
    // What was asked of a provider for money is waited for, whatever ends.
    let is_finished = matches!(task, Task::Post(_));
    let last = is_finished.then(|| Arc::new(job.clone()));
    ctx.tracker.clone().spawn(async move {
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
                ctx.succeeded(&session, Some(task));
                session.remember(|m| {
                    m.running.remove(&task);
                    learned(m);
                });
            }
            Err(trouble) => {
                let (namespace, job, why) = (&of.namespace, &of.name, &trouble.stuck.message);
                debug!(namespace, job, ?task, why, "what ran beside the loop failed and is tried again");
                let took = ctx.clock.now().saturating_sub(began);
                ctx.failed(&session, Some(task), Failed { call: name, trouble, took });
                session.remember(|m| {
                    m.running.remove(&task);
                });
            }
        }
        match last.filter(|_| ctx.stop.is_cancelled()) {
            // Nobody else looks at jobs any more, and what became of a POST is written down before this process ends.
            Some(job) => _ = reconcile(job, ctx).await,
            None => ctx.poke(of),
        }
    });
}

fn name_of(task: Task) -> &'static str {
    match task {
        Task::Pass => "Pass",
        Task::Upload(_) => "Upload",
        Task::Collect(_) => "Collect",
        Task::FollowUp => "FollowUp",
        Task::Halve(_) => "Halve",
        Task::Write => "Write",
        Task::Post(_)
        | Task::Call(_)
        | Task::Cancel(_)
        | Task::CancelTwin(_)
        | Task::CancelUnjournaled
        | Task::DeleteFiles => "Call",
    }
}
