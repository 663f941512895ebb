//! Transfers of data, with limits of memory and time. Namespaces share the memory fairly.

mod disk;
mod pace;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

pub(crate) use disk::DiskShares;
use disk::TransferDisk;
use pace::{LARGE_FAILURES, Pace, TransferError};

use super::act::{MemoryEdit, Outcome};
use super::job_state::JobState;
use crate::api::BatchJob;
use crate::api::weight::json_bytes;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::fair::{self, Claim, Limits, OthersWait, Share};
use crate::lifecycle::Task;
use crate::transport::{Meter, Patience};

/// Limits of the memory for all transfers, in MiB.
pub(crate) const LIMITS: Limits = Limits { total: 128, per_namespace: u64::MAX, keeps_last_shares: true };

/// MiB that a small transfer holds: one that waits for its first bytes, or moves few.
const SMALL: u64 = 1;
/// Bytes that a transfer may take in while it counts as small. After that, its place is as large as what it reports to hold
/// (`store::reserve`), and grows before the transfer holds more. If the place cannot grow at once, the transfer ends, and
/// begins again when there is room.
const SMALL_BYTES: u64 = 256 << 10;
/// MiB of a larger transfer for buffers that are too small to be reported: a dozen of 64 KiB, and those of a connection.
const BESIDE: u64 = 2;
/// MiB to a multiple of which the need of a restarted transfer is rounded up, so that it does not outgrow its place by a little
/// again.
const NEED_STEP: u64 = 8;

/// MiB that the inline requests of a job take at most while they are read: as the API server's response, as text, as an object,
/// and one request parsed.
const MOST_INLINE: u64 = 8;

/// The kinds of transfers, as metrics name them.
pub(crate) const KINDS: [&str; 8] =
    ["LookForInput", "Plan", "Upload", "Collect", "FollowUp", "Halve", "Publish", "Write"];

/// Returns the claim of a transfer. `need` is the size in MiB of one that outgrew its place before; `is_retry` tells whether it
/// failed the last time.
pub(crate) fn claim(task: Task, job: &BatchJob, need: Option<u64>, is_retry: bool) -> Claim {
    let inline = match task {
        // A plan holds the inline requests from its beginning.
        Task::Plan => inline_bytes(job).div_ceil(1 << 20),
        _ => 0,
    };
    // Large transfers have a lane of their own, so that they do not delay the small ones of their namespace.
    let lane = if need.is_some() { format!("{}, large", name_of(task)) } else { name_of(task).into() };
    let size = need.unwrap_or(0).max(SMALL + inline);
    let claim = Claim { namespace: job.namespace().unwrap_or_default(), lane, is_retry, ..Claim::default() };
    claim.of_known_need(size, &LIMITS)
}

/// Returns the MiB that a transfer with this `meter` needs. Its place had `began_with` MiB.
fn needed(meter: &Meter, began_with: u64) -> u64 {
    match meter.taken_in() > SMALL_BYTES {
        true => began_with.max(SMALL + BESIDE + meter.reserved().div_ceil(1 << 20)),
        false => began_with,
    }
}

/// Returns the bytes that the inline requests of a job take while they are read; zero for other input.
pub(crate) fn inline_bytes(job: &BatchJob) -> u64 {
    job.spec.input.inline.as_ref().map_or(0, |inline| match inline.requests.is_empty() {
        // The requests were dropped; see `BatchJob::drop_requests`.
        true => MOST_INLINE << 20,
        false => 4 * json_bytes(inline),
    })
}

/// The end of a task.
pub(crate) enum TaskEnd {
    /// It succeeded. The edit holds its result.
    Succeeded(MemoryEdit),
    /// It failed, and is tried again after a pause.
    Failed(StepError),
    /// It outgrew its memory or its local disk, and begins again with more. Failures before it count on.
    Outgrown,
}

impl From<Outcome> for TaskEnd {
    fn from(outcome: Outcome) -> TaskEnd {
        match outcome {
            Ok(memory_edit) => TaskEnd::Succeeded(memory_edit),
            Err(error) => TaskEnd::Failed(error),
        }
    }
}

/// A share of the memory for transfers, or of the places for uploads.
pub(crate) type Place = Arc<Share>;

/// The shares of an upload. Each is given back when it is dropped.
pub(crate) struct UploadShares {
    /// A place among the uploads on their way, which is needed until the provider answers.
    pub turn: Place,
    /// Memory, which is needed until the last byte is sent.
    pub memory: Place,
}

/// Waits for local disk, if the transfer is known to need much, and for the memory that `claim` asks for, then runs `work` with
/// them. Returns the end of the work, and the time at which it began (Unix milliseconds). If it outgrew its memory or its local
/// disk, the next claim is larger.
pub(crate) async fn run<W: Future<Output = Outcome>>(
    ctx: &Context,
    job_state: &JobState,
    (task, claim): (Task, Claim),
    work: impl FnOnce() -> W,
) -> (TaskEnd, i64) {
    let waits = ctx.metrics.transfer_queue(name_of(task));
    let (need, failures) = (job_state.disk_need(task), failures(job_state, task));
    let of_disk = Claim { is_retry: failures > 0, ..claim.clone() };
    let disk = || TransferDisk::take(&ctx.jobs.disk, of_disk.clone(), need);
    let (disk, memory) = for_a_transfer(disk, || ctx.jobs.transfers.take(claim.clone()), fair::grace(0)).await;
    drop(waits);
    let size = memory.size();
    let is_of_retries = claim.is_retry && disk.is_of_retries();
    let failures = failures.min(if is_of_retries { u32::MAX } else { LARGE_FAILURES });
    let pace = Pace::new(&memory, failures).using(disk);
    let work = async move {
        let _memory = memory;
        work().await
    };
    run_at(pace, ctx, job_state, (task, size), work).await
}

/// Does the same for an upload, which waits for its `turn` before it waits for memory.
pub(crate) async fn run_upload<T: Future<Output = Share>, W: Future<Output = Outcome>>(
    ctx: &Context,
    job_state: &JobState,
    (task, claim): (Task, Claim),
    turn: impl Fn() -> T,
    work: impl FnOnce(UploadShares) -> W,
) -> (TaskEnd, i64) {
    let waits = ctx.metrics.transfer_queue(name_of(task));
    let (need, failures) = (job_state.disk_need(task), failures(job_state, task));
    let of_disk = Claim { is_retry: failures > 0, ..claim.clone() };
    let disk = || TransferDisk::take(&ctx.jobs.disk, of_disk.clone(), need);
    let others_wait = |disk: &TransferDisk| disk.is_held().then(|| disk.others_wait());
    let shares = || for_an_upload(&turn, || ctx.jobs.transfers.take(claim.clone()), fair::grace(0));
    let (disk, shares) = one_and_other(disk, others_wait, shares, fair::grace(0)).await;
    drop(waits);
    let size = shares.memory.size();
    let pace = Pace::new(&shares.memory, failures).beside(&shares.turn).using(disk);
    run_at(pace, ctx, job_state, (task, size), work(shares)).await
}

/// Waits for a turn, and then for memory. A turn is given back, and waited for again, if a namespace without a turn wants it
/// during a wait for memory that takes longer than `grace`.
async fn for_an_upload<T: Future<Output = Share>, M: Future<Output = Share>>(
    turn: impl Fn() -> T,
    memory: impl Fn() -> M,
    grace: Duration,
) -> UploadShares {
    let (turn, memory) = one_and_other(turn, |turn| Some(turn.others_wait()), memory, grace).await;
    UploadShares { turn: Arc::new(turn), memory: Arc::new(memory) }
}

/// Waits for local disk, and then for memory, so that no transfer waits for disk while it holds memory. The disk is given
/// back, and waited for again, if a namespace without any wants it during a wait for memory that takes longer than `grace`.
async fn for_a_transfer<D: Future<Output = TransferDisk>, M: Future<Output = Share>>(
    disk: impl Fn() -> D,
    memory: impl Fn() -> M,
    grace: Duration,
) -> (TransferDisk, Place) {
    let others_wait = |disk: &TransferDisk| disk.is_held().then(|| disk.others_wait());
    let (disk, memory) = one_and_other(disk, others_wait, memory, grace).await;
    (disk, Arc::new(memory))
}

/// Waits for `one`, and then for the `other`. After `grace`, the wait for the other ends if `others_wait` for the one: it is
/// dropped, and both are waited for anew, each time for twice as long, so that the other is had in the end.
async fn one_and_other<A: Future, B: Future>(
    one: impl Fn() -> A,
    others_wait: impl Fn(&A::Output) -> Option<OthersWait>,
    other: impl Fn() -> B,
    mut grace: Duration,
) -> (A::Output, B::Output) {
    loop {
        let one = one().await;
        let others_wait = others_wait(&one);
        let pressed = async {
            tokio::time::sleep(grace).await;
            match others_wait {
                Some(others_wait) => others_wait.become_so().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            other = other() => return (one, other),
            () = pressed => grace = (2 * grace).min(Patience::USUAL.grace),
        }
    }
}

async fn run_at(
    pace: Pace,
    ctx: &Context,
    job_state: &JobState,
    (task, size): (Task, u64),
    work: impl Future<Output = Outcome>,
) -> (TaskEnd, i64) {
    let _takes = ctx.metrics.transfer(name_of(task));
    let began = ctx.clock.now();
    let ended = pace.keep(task, size, Box::pin(work)).await;
    (end(job_state, task, ended, &ctx.jobs.disk), began)
}

/// Returns the end of a transfer, and records what it needs if it outgrew its shares.
fn end(job_state: &JobState, task: Task, ended: Result<MemoryEdit, TransferError>, disk: &DiskShares) -> TaskEnd {
    match ended {
        Ok(memory_edit) => return TaskEnd::Succeeded(memory_edit),
        Err(TransferError::Failed(error)) => return TaskEnd::Failed(error),
        Err(TransferError::Outgrown(need)) => {
            job_state.found_need(task, need.next_multiple_of(NEED_STEP).min(LIMITS.total));
        }
        Err(TransferError::OutgrownDisk(need)) => job_state.found_disk_need(task, disk.need_after(need)),
    }
    TaskEnd::Outgrown
}

fn failures(job_state: &JobState, task: Task) -> u32 {
    job_state.backoff(Some(task)).failures
}

/// Returns the name of a transfer's kind, as in [`KINDS`].
pub(crate) fn name_of(task: Task) -> &'static str {
    match task {
        Task::LookForInput => "LookForInput",
        Task::Plan => "Plan",
        Task::Upload(_) => "Upload",
        Task::Collect(_) => "Collect",
        Task::FollowUp => "FollowUp",
        Task::Halve(_) => "Halve",
        Task::Publish => "Publish",
        Task::Write => "Write",
        _ => "Call",
    }
}

#[cfg(test)]
mod budget;
