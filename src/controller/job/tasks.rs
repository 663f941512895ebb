//! Background tasks of a job: transfers, and calls to its provider. A job runs each [`Task`] at most once at a time, and its tasks end
//! with it.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tracing::{Instrument, debug};

use super::act::Outcome;
use super::backoff::FailedCall;
use super::job_state::JobState;
use super::reconcile;
use super::transfers::{self, TaskEnd, UploadShares};
use crate::api::BatchJob;
use crate::controller::Context;
use crate::fair::{Claim, Share};
use crate::lifecycle::Task;

/// Starts the transfer `task`, unless it is already running. The job is visited when it ends. Many transfers may wait for memory, so the
/// future of its `work`, of up to 100 KB, is made when it has its place.
pub(crate) fn start<W: Future<Output = Outcome> + Send + 'static>(
    ctx: &Arc<Context>,
    job_state: &Arc<JobState>,
    job: &BatchJob,
    task: Task,
    work: impl FnOnce() -> W + Send + 'static,
) {
    let (of, kept) = (ctx.clone(), job_state.clone());
    let claim = transfer_claim(job_state, job, task);
    run(ctx, job_state, job, (task, transfers::name_of(task)), async move {
        let (end, began) = transfers::run(&of, &kept, (task, claim), work).await;
        Done { end, began }
    });
}

/// Starts the upload `task`, as [`start`] does. Before its `work`, it waits for its `turn` at the provider as well. The
/// work gives back each share as soon as it needs it no longer.
pub(crate) fn start_upload<T: Future<Output = Share> + Send + 'static, W: Future<Output = Outcome> + Send + 'static>(
    ctx: &Arc<Context>,
    job_state: &Arc<JobState>,
    job: &BatchJob,
    task: Task,
    turn: impl Fn() -> T + Send + Sync + 'static,
    work: impl FnOnce(UploadShares) -> W + Send + 'static,
) {
    let (of, kept) = (ctx.clone(), job_state.clone());
    let claim = transfer_claim(job_state, job, task);
    run(ctx, job_state, job, (task, transfers::name_of(task)), async move {
        let (end, began) = transfers::run_upload(&of, &kept, (task, claim), turn, work).await;
        Done { end, began }
    });
}

fn transfer_claim(job_state: &JobState, job: &BatchJob, task: Task) -> Claim {
    let is_retry = job_state.backoff(Some(task)).failures > 0;
    transfers::claim(task, job, job_state.need(task), is_retry)
}

/// Starts a call to the provider, which moves no data and waits for its turn at the account; `name` is the name of the step. Like a
/// transfer, it ends with its job or with this process, except for [`Task::Post`], which is always waited for.
pub(crate) fn start_call(
    ctx: &Arc<Context>,
    job_state: &Arc<JobState>,
    job: &BatchJob,
    (task, name): (Task, &'static str),
    work: impl Future<Output = Outcome> + Send + 'static,
) {
    let clock = ctx.clock.clone();
    run(ctx, job_state, job, (task, name), async move {
        let began = clock.now();
        Done { end: work.await.into(), began }
    });
}

/// The end of a task, and the time at which its work began (Unix milliseconds).
struct Done {
    end: TaskEnd,
    began: i64,
}

/// Returns the claim for the room of a task: the calls of an account and the transfers for it have lanes of their own.
fn claim(job_state: &JobState, job: &BatchJob, task: Task) -> Claim {
    let account = job_state.account().map(|account| format!("{account:?}")).unwrap_or_default();
    let lane = format!("{}, {account}", job_state.task_rooms.of(task).1);
    Claim { namespace: job.namespace().unwrap_or_default(), lane, size: 1, ..Claim::default() }
}

/// Has the job visited whenever one of its tasks of this kind gets room.
fn wait_for_room(ctx: &Arc<Context>, job_state: &Arc<JobState>, job: &BatchJob, (task, claim): (Task, Claim)) {
    let (ctx, job_state, of, tracker) = (ctx.clone(), job_state.clone(), ObjectRef::from_obj(job), ctx.tracker.clone());
    tracker.spawn(async move {
        let (rooms, poke) = (job_state.task_rooms.of(task).0, || ctx.jobs.poke(of.clone()));
        let waits = rooms.wait(&ctx.jobs.task_room, claim, poke);
        tokio::select! {
            () = waits => {}
            () = job_state.stop.cancelled() => {}
            () = ctx.stop.cancelled() => {}
        }
    });
}

fn run(
    ctx: &Arc<Context>,
    job_state: &Arc<JobState>,
    job: &BatchJob,
    (task, name): (Task, &'static str),
    work: impl Future<Output = Done> + Send + 'static,
) {
    let mut is_running = false;
    job_state.remember(|m| is_running = m.running.contains(&task));
    if is_running {
        return;
    }
    let claim = claim(job_state, job, task);
    let Some(room) = job_state.task_rooms.of(task).0.take(&ctx.jobs.task_room, task, claim.clone()) else {
        return wait_for_room(ctx, job_state, job, (task, claim));
    };
    let mut clock_since = 0;
    job_state.remember(|m| {
        m.running.insert(task);
        clock_since = m.clock_since;
    });
    let (ctx, job_state, tracker) = (ctx.clone(), job_state.clone(), ctx.tracker.clone());
    let of = ObjectRef::from_obj(job);
    // A POST costs money, so its outcome is waited for even if the job or the process ends.
    let is_finished = matches!(task, Task::Post(_));
    let last = is_finished.then(|| Arc::new(job.clone()));
    let beside = async move {
        let ends = async {
            match is_finished {
                true => std::future::pending().await,
                false => tokio::select! { () = job_state.stop.cancelled() => {}, () = ctx.stop.cancelled() => {} },
            }
        };
        let Done { end, began } = tokio::select! {
            done = work => done,
            () = ends => return,
        };
        drop(room);
        match end {
            TaskEnd::Succeeded(memory_edit) => {
                if task == Task::Plan {
                    job_state.trace.plan_began(began);
                }
                super::note_success(&ctx, &job_state, Some(task));
                job_state.remember(|m| {
                    m.running.remove(&task);
                    memory_edit(m);
                    // The times that a task read before the clock was set say nothing now.
                    let now_since = std::mem::replace(&mut m.clock_since, clock_since);
                    m.clock_runs_since(now_since);
                });
            }
            TaskEnd::Outgrown => job_state.remember(|m| _ = m.running.remove(&task)),
            TaskEnd::Failed(error) => {
                let why = error.chain();
                debug!(?task, why, "what ran beside the loop failed and is tried again");
                let elapsed = ctx.clock.now().saturating_sub(began);
                super::note_failure(&ctx, &job_state, Some(task), FailedCall { call: name, error, elapsed });
                job_state.remember(|m| {
                    m.running.remove(&task);
                });
            }
        }
        match last.filter(|_| ctx.stop.is_cancelled()) {
            // The controller visits no jobs any more, and the outcome of a POST must be recorded before this process ends.
            Some(job) => reconcile::finish(job, ctx).await,
            None => ctx.jobs.poke(of),
        }
    };
    tracker.spawn(beside.in_current_span());
}
