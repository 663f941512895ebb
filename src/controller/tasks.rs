//! Long transfers, beside the reconcile loop: keyed by job and purpose, bounded in number, ended with their job.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::Context;
use super::act::Outcome;
use super::backoff::Failed;
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
    let mut fresh = false;
    session.remember(|m| fresh = m.running.insert(task));
    if !fresh {
        return;
    }
    let (ctx, session) = (ctx.clone(), session.clone());
    let (namespace, name, job) = (job.namespace(), job.name_any(), ObjectRef::from_obj(job));
    ctx.tracker.clone().spawn(async move {
        // It is never closed.
        let work = async {
            let place = ctx.transfers.clone().acquire_owned().await.ok();
            let began = ctx.clock.now();
            (work(place).await, began)
        };
        let (outcome, began) = tokio::select! {
            outcome = work => outcome,
            () = session.stop.cancelled() => return,
            () = ctx.stop.cancelled() => return,
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
                debug!(namespace, name, ?task, why = trouble.stuck.message, "a transfer failed and is tried again");
                let took = ctx.clock.now().saturating_sub(began);
                ctx.failed(&session, Some(task), Failed { call: name_of(task), trouble, took });
                session.remember(|m| {
                    m.running.remove(&task);
                });
            }
        }
        ctx.poke(job);
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
        Task::Call(_) | Task::Cancel(_) | Task::CancelTwin(_) => "Call",
    }
}
