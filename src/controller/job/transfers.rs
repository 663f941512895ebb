//! Transfers of data, with limits of memory and time. Namespaces share the memory fairly.

mod disk;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::{Instant, sleep_until};

pub(crate) use disk::DiskShares;
use disk::{NoDisk, TransferDisk};

use super::act::{MemoryEdit, Outcome};
use super::job_state::JobState;
use crate::api::BatchJob;
use crate::api::conditions::reasons;
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

/// The time limit of a transfer that holds shares: it must move [`Patience::rate`] bytes a second in the long run, after some
/// grace.
struct Pace {
    patience: Patience,
    /// The grace while others wait.
    small_grace: Duration,
    memory: Weak<Share>,
    /// The shares that the transfer has not given back, its memory first.
    held: Vec<HeldShare>,
    /// Its local disk.
    disk: Option<(Arc<TransferDisk>, OthersWait)>,
    meter: Meter,
    began: Instant,
}

/// A share that a transfer holds.
struct HeldShare {
    /// Name of the share, for people.
    what: &'static str,
    share: Weak<Share>,
    others_wait: OthersWait,
}

impl HeldShare {
    fn of(place: &Place, what: &'static str) -> HeldShare {
        HeldShare { what, share: Arc::downgrade(place), others_wait: place.others_wait() }
    }
}

/// The time at which a transfer is too slow.
struct Deadline {
    at: Instant,
    /// Bytes a second that the transfer has to reach.
    rate: u64,
    /// The share of the transfer that others wait for.
    wanted: Option<&'static str>,
}

/// Bytes a second that a transfer has to reach while others wait for the local disk that it holds, which may be more than a gigabyte.
const DISK_RATE: u64 = 1 << 20;

/// Failures in a row for which the grace grows where a transfer holds more than all retries get together: to 96 s, more than
/// a server may take to begin its answer. The transfer may hold everything, so that others wait for it.
const LARGE_FAILURES: u32 = 5;

/// Time after which the shares of a transfer without a deadline of its own are looked at again. The server has a deadline then,
/// [`Patience::FILES`].
const AGAIN: Duration = Duration::from_secs(3_600);

impl Pace {
    fn new(memory: &Place, failures: u32) -> Pace {
        let held = vec![HeldShare::of(memory, "memory")];
        let (memory, small_grace) = (Arc::downgrade(memory), small_grace(failures));
        let (patience, meter, began) = (Patience::USUAL, Meter::default(), Instant::now());
        Pace { patience, small_grace, memory, held, disk: None, meter, began }
    }

    /// Uses local disk as well.
    fn using(self, disk: TransferDisk) -> Pace {
        let others_wait = disk.others_wait();
        Pace { disk: Some((Arc::new(disk), others_wait)), ..self }
    }

    /// Holds an upload's turn as well.
    fn beside(mut self, turn: &Place) -> Pace {
        self.held.push(HeldShare::of(turn, "place among uploads"));
        self
    }

    /// Runs `work`, which is `task`, unless it becomes too slow, or too large for its place of `size` MiB.
    async fn keep(
        mut self,
        task: Task,
        size: u64,
        work: impl Future<Output = Outcome>,
    ) -> Result<MemoryEdit, TransferError> {
        let work = std::pin::pin!(self.meter.clone().measure(work));
        let disk = self.disk.as_ref().map(|(disk, _)| disk.clone());
        let work = std::pin::pin!(on_disk(work, disk, self.meter.clone()));
        let mut work = std::pin::pin!(sized(work, size, self.meter.clone(), self.memory.clone()));
        loop {
            // A task that gave everything back only waits for a reply.
            let Some(deadline) = self.deadline() else { return work.await };
            tokio::select! {
                outcome = &mut work => return outcome,
                () = sleep_until(deadline.at) => {}
                () = self.changed() => continue,
            }
            if let Some(deadline) = self.deadline()
                && Instant::now() >= deadline.at
            {
                return Err(TransferError::Failed(self.too_slow(task, &deadline)));
            }
        }
    }

    /// Returns the time at which the transfer is too slow; None if it holds nothing. Bytes that move in the meantime extend it.
    fn deadline(&mut self) -> Option<Deadline> {
        self.held.retain(|held| held.share.strong_count() > 0);
        if self.held.is_empty() {
            return None;
        }
        let wanted = self.held.iter_mut().find_map(|held| held.others_wait.is_so().then_some(held.what));
        let is_disk_wanted =
            self.disk.as_mut().is_some_and(|(disk, others_wait)| others_wait.is_so() && disk.is_held());
        let (wanted, rate) = match is_disk_wanted {
            true => (Some("local disk"), self.patience.rate.max(DISK_RATE)),
            false => (wanted, self.patience.rate),
        };
        let grace = match wanted {
            Some(_) => self.small_grace,
            None if self.memory.strong_count() > 0 => self.patience.grace,
            None => return Some(Deadline { at: Instant::now() + AGAIN, wanted, rate }),
        };
        let at_rate = Patience { rate, ..self.patience }.at_rate(self.meter.moved());
        Some(Deadline { at: self.began + grace + at_rate, wanted, rate })
    }

    /// Waits until others may have begun, or ceased, to wait for shares of the transfer. The transfer has to hold some.
    async fn changed(&mut self) {
        let held = self.held.iter_mut().map(|held| &mut held.others_wait);
        let all = held.chain(self.disk.as_mut().map(|(_, others_wait)| others_wait));
        futures::future::select_all(all.map(|others_wait| Box::pin(others_wait.changed()))).await;
    }

    fn too_slow(&self, task: Task, deadline: &Deadline) -> StepError {
        let (bytes, seconds, rate) = (self.meter.moved(), self.began.elapsed().as_secs(), deadline.rate);
        let why = deadline
            .wanted
            .map(|what| format!(", while others waited for the {what} that it held"))
            .unwrap_or_default();
        let message = format!("{bytes} bytes were moved in {seconds} s, fewer than {rate} a second{why}");
        let reason = match task {
            Task::Upload(_) | Task::Collect(_) => reasons::PROVIDER_UNAVAILABLE,
            _ => reasons::STORAGE_UNAVAILABLE,
        };
        StepError::passing(reason, message)
    }
}

/// Runs `work` until it would use more local disk than there is room for.
async fn on_disk(
    mut work: Pin<&mut impl Future<Output = Outcome>>,
    disk: Option<Arc<TransferDisk>>,
    meter: Meter,
) -> Result<MemoryEdit, TransferError> {
    poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        match disk.as_ref().filter(|_| polled.is_pending()).map(|disk| disk.grow(meter.disk())) {
            None | Some(Ok(())) => polled.map_err(TransferError::Failed),
            Some(Err(NoDisk::Now(need))) => Poll::Ready(Err(TransferError::OutgrownDisk(need))),
            Some(Err(NoDisk::Ever(error))) => Poll::Ready(Err(TransferError::Failed(error))),
        }
    })
    .await
}

/// Runs `work` until it outgrows its place, which has `size` MiB, if the place cannot grow.
async fn sized(
    mut work: Pin<&mut impl Future<Output = Result<MemoryEdit, TransferError>>>,
    mut size: u64,
    meter: Meter,
    place: Weak<Share>,
) -> Result<MemoryEdit, TransferError> {
    poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if meter.taken_in() <= SMALL_BYTES {
            meter.wake_beyond(SMALL_BYTES, cx.waker());
        }
        let need = needed(&meter, size);
        if polled.is_pending() && need > size {
            // A task that gave its place back only waits for a reply, and needs no place.
            if !place.upgrade().is_none_or(|share| share.grow(need)) {
                return Poll::Ready(Err(TransferError::Outgrown(need)));
            }
            size = need;
        }
        polled
    })
    .await
}

/// The reason why a transfer ended early.
#[derive(Debug)]
enum TransferError {
    Failed(StepError),
    /// The transfer outgrew its place, and needs so many MiB.
    Outgrown(u64),
    /// The transfer outgrew its local disk, and needs so many MiB of it.
    OutgrownDisk(u64),
}

/// Returns the grace of a transfer while a namespace without a place waits for memory. It grows with the transfer's failures in
/// a row.
fn small_grace(failures: u32) -> Duration {
    fair::grace(failures).min(Patience::USUAL.grace)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::controller::job::backoff::FailedCall;
    use crate::fair::Shares;
    use crate::lifecycle::{AttemptKey, Memory};
    use crate::store;

    const UPLOAD: Task = Task::Upload(AttemptKey { shard: 0, attempt: 1 });

    fn wish(namespace: &str, size: u64) -> Claim {
        Claim { namespace: namespace.into(), lane: "Upload".into(), size, ..Claim::default() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns when and why a transfer is ended that moves `bytes` every twentieth of a second for three seconds; None if it
    /// completes.
    async fn broken_off(shares: &Arc<Shares>, bytes: u64) -> Option<(Duration, String)> {
        let place = Arc::new(shares.take(wish("slow", 128)).await);
        let patience = Patience { rate: 1_000, grace: SECOND * 2, ..Patience::USUAL };
        let pace = Pace::new(&place, 0);
        let (began, meter) = (Instant::now(), pace.meter.clone());
        let work = async move {
            for _ in 0..60 {
                tokio::time::sleep(SECOND / 20).await;
                meter.add(bytes);
            }
            drop(place);
            Ok(Box::new(|_: &mut _| {}) as _)
        };
        let outcome = Pace { patience, small_grace: SECOND / 2, ..pace }.keep(UPLOAD, 128, work).await;
        outcome.err().map(|broken| match broken {
            TransferError::Failed(error) => (began.elapsed(), error.blocked.message),
            other => (began.elapsed(), format!("{other:?}")),
        })
    }

    /// Returns the same for a transfer while, from a quarter of a second on, another namespace waits for memory.
    async fn broken_off_for_others(bytes: u64) -> Option<(Duration, String)> {
        let shares = Shares::new(LIMITS);
        let waits = async {
            tokio::time::sleep(SECOND / 4).await;
            shares.take(wish("quiet", 4)).await
        };
        tokio::join!(broken_off(&shares, bytes), waits).0
    }

    #[tokio::test]
    async fn a_slow_transfer_ends_and_makes_room_for_those_that_have_none_and_one_that_keeps_its_pace_is_left_alone() {
        let shares = [(); 2].map(|()| Shares::new(LIMITS));
        let (keeps_pace, alone, pressed, keeps_pace_among_others) = tokio::join!(
            broken_off(&shares[0], 1_000),
            broken_off(&shares[1], 1),
            broken_off_for_others(1),
            broken_off_for_others(1_000)
        );
        assert_eq!((keeps_pace, keeps_pace_among_others), (None, None));
        let (after, why) = alone.unwrap();
        assert!(after >= SECOND * 2 && why.ends_with("fewer than 1000 a second"), "{after:?}: {why}");
        let (after, why) = pressed.unwrap();
        assert!((SECOND / 2..SECOND * 2).contains(&after) && why.contains("while others waited"), "{after:?}: {why}");
    }

    #[tokio::test]
    async fn who_gave_its_place_back_is_waited_for() {
        let shares = Shares::new(LIMITS);
        let place = Arc::new(shares.take(wish("slow", 128)).await);
        let pace = Pace::new(&place, 0);
        drop(place);
        let patience = Patience { grace: SECOND / 10, ..Patience::USUAL };
        let answered = Pace { patience, ..pace }.keep(UPLOAD, 128, async {
            tokio::time::sleep(SECOND / 2).await;
            Ok(Box::new(|_: &mut _| {}) as _)
        });
        assert!(answered.await.is_ok());
    }

    #[tokio::test]
    async fn a_sent_upload_keeps_its_place_from_no_namespace_that_has_none_for_longer_than_its_grace() {
        let (memory, turns) = (Shares::new(LIMITS), Shares::new(Limits { total: 1, ..LIMITS }));
        let uploads = async |bytes| {
            let turn = Arc::new(turns.take(wish("slow", 1)).await);
            let place = Arc::new(memory.take(wish("slow", 1)).await);
            let pace = Pace::new(&place, 0).beside(&turn);
            pace.meter.add(bytes);
            // All of it is sent, and the server thinks.
            drop(place);
            let work = async move {
                tokio::time::sleep(SECOND * 2).await;
                drop(turn);
                Ok(Box::new(|_: &mut _| {}) as _)
            };
            let patience = Patience { rate: 1_000, grace: SECOND / 4, ..Patience::USUAL };
            let ended = Pace { patience, small_grace: SECOND / 2, ..pace }.keep(UPLOAD, 1, work).await;
            ended.err().map(|broken| format!("{broken:?}"))
        };
        assert_eq!(uploads(0).await, None, "nobody waits");
        let quiet = async || {
            tokio::time::sleep(SECOND / 8).await;
            let began = Instant::now();
            drop(turns.take(wish("quiet", 1)).await);
            began.elapsed()
        };
        let (broken, waited) = tokio::join!(uploads(0), quiet());
        assert!(broken.unwrap().contains("while others waited for the place among uploads that it held"));
        assert!(waited < SECOND, "{waited:?}");
        let (broken, _) = tokio::join!(uploads(2_000), quiet());
        assert_eq!(broken, None, "a larger one has the time of its bytes");
    }

    #[tokio::test]
    async fn an_upload_that_waits_for_memory_gives_its_place_to_a_namespace_that_has_none() {
        let (memory, turns) = (Shares::new(LIMITS), Shares::new(Limits { total: 1, ..LIMITS }));
        let full = memory.take(wish("other", LIMITS.total)).await;
        let (of, turns_of) = (memory.clone(), turns.clone());
        let begins = tokio::spawn(for_an_upload(
            move || {
                let turns = turns_of.clone();
                async move { turns.take(wish("slow", 1)).await }
            },
            move || {
                let memory = of.clone();
                async move { memory.take(wish("slow", 1)).await }
            },
            SECOND / 10,
        ));
        tokio::time::sleep(SECOND / 20).await;
        let quiet = tokio::time::timeout(SECOND, turns.take(wish("quiet", 1))).await;
        drop(quiet.expect("the place of the one that waits"));
        drop(full);
        let begun = begins.await.unwrap();
        assert_eq!((begun.turn.size(), begun.memory.size()), (1, 1), "it begins when there is memory");
    }

    #[tokio::test]
    async fn a_transfer_that_waits_for_memory_gives_its_local_disk_to_a_namespace_that_has_none() {
        let (memory, spool) = (Shares::new(LIMITS), DiskShares::of_spool(16 << 20));
        // Slow transfers of its own namespace hold the memory, and no disk.
        let full = memory.take(wish("slow", LIMITS.total)).await;
        let (of, disk_of) = (memory.clone(), spool.clone());
        let begins = tokio::spawn(for_a_transfer(
            move || {
                let spool = disk_of.clone();
                async move { TransferDisk::take(&spool, wish("slow", SMALL), Some(10)).await }
            },
            move || {
                let memory = of.clone();
                async move { memory.take(wish("slow", SMALL)).await }
            },
            SECOND / 10,
        ));
        tokio::time::sleep(SECOND / 20).await;
        let quiet = TransferDisk::take(&spool, wish("quiet", SMALL), Some(4));
        let quiet = tokio::time::timeout(SECOND, quiet).await.expect("the disk of the one that waits");
        assert!(!begins.is_finished());
        drop((quiet, full));
        let (disk, memory) = begins.await.unwrap();
        assert_eq!((disk.grow(10 << 20).is_ok(), memory.size()), (true, 1), "it begins when there are both");
    }

    /// Runs a small upload that takes in some bytes and holds some MiB, while others have `taken` MiB. Returns the largest size
    /// that its place can have in the end, in MiB.
    async fn grown(bytes: u64, holds: u64, taken: u64) -> Result<u64, TransferError> {
        let shares = Shares::new(LIMITS);
        let others = shares.take(wish("other", taken)).await;
        let place = Arc::new(shares.take(wish("small", SMALL)).await);
        let pace = Pace::new(&place, 0);
        let meter = pace.meter.clone();
        let work = async move {
            meter.add(bytes);
            let held = store::reserve((holds << 20) as usize).await;
            // The place grows by all that is left.
            let room = (1..=128).rev().find(|size| place.grow(*size)).unwrap_or_default();
            drop((others, held));
            Ok(Box::new(move |m: &mut Memory| m.manifest_at = i64::try_from(room).ok()) as _)
        };
        let memory_edit = pace.keep(UPLOAD, SMALL, work).await?;
        let mut memory = Memory::default();
        memory_edit(&mut memory);
        Ok(memory.manifest_at.unwrap().unsigned_abs())
    }

    #[tokio::test]
    async fn a_transfer_is_small_until_it_takes_in_much_and_begins_again_where_there_is_no_room_for_what_it_holds() {
        assert!(matches!(grown(SMALL_BYTES, 40, 126).await, Ok(2)), "it stays small");
        assert!(matches!(grown(SMALL_BYTES + 1, 10, 115).await, Ok(13)));
        // 11 MiB that it holds, and 3 for buffers that are not reported.
        assert!(matches!(grown(SMALL_BYTES + 1, 11, 115).await, Err(TransferError::Outgrown(14))));
    }

    #[tokio::test]
    async fn a_transfer_grows_as_soon_as_a_connections_task_moved_much_of_it() {
        let shares = Shares::new(LIMITS);
        let _others = shares.take(wish("other", 115)).await;
        let place = Arc::new(shares.take(wish("slow", SMALL)).await);
        let pace = Pace::new(&place, 0);
        let meter = pace.meter.clone();
        let work = async move {
            let _held = store::reserve(11 << 20).await;
            let connection = tokio::spawn(async move {
                tokio::time::sleep(SECOND / 10).await;
                meter.add(SMALL_BYTES + 1);
                std::future::pending::<Outcome>().await
            });
            drop(connection.await);
            drop(place);
            Ok(Box::new(|_: &mut _| {}) as _)
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(SECOND * 5) => panic!("it waits, larger than its place"),
            ended = pace.keep(UPLOAD, SMALL, work) => assert!(matches!(ended, Err(TransferError::Outgrown(14)))),
        }
    }

    #[tokio::test]
    async fn a_transfer_ends_before_it_writes_what_there_is_no_disk_for() {
        let spool = DiskShares::of_spool(16 << 20);
        let ends = async |bytes: u64| {
            let place = Arc::new(Shares::new(LIMITS).take(wish("one", SMALL)).await);
            let disk = TransferDisk::take(&spool, wish("one", SMALL), None).await;
            let written = AtomicU64::new(0);
            let work = async {
                let mut used = store::DiskUse::default();
                for at in 1..=bytes >> 18 {
                    used.set(at << 18).await;
                    written.store(at << 18, Ordering::Relaxed);
                }
                drop(place.clone());
                Ok(Box::new(|_: &mut _| {}) as _)
            };
            let ended = Pace::new(&place, 0).using(disk).keep(UPLOAD, SMALL, work).await;
            (ended.map(drop), written.into_inner())
        };
        assert!(ends(10 << 20).await.0.is_ok());
        let (ended, written) = ends(11 << 20).await;
        let told = format!("{ended:?}");
        assert!(told.contains("more than the 10 MiB of local disk") && written < 11 << 20, "{told}, {written} bytes");
        let _others = TransferDisk::take(&spool, wish("other", SMALL), Some(6)).await;
        let (ended, written) = ends(8 << 20).await;
        assert!(
            matches!(ended, Err(TransferError::OutgrownDisk(5))) && written < 5 << 20,
            "{ended:?}, {written} bytes"
        );
    }

    #[tokio::test]
    async fn a_transfer_that_holds_local_disk_has_to_be_faster_while_others_wait_for_it() {
        let spool = DiskShares::of_spool(16 << 20);
        let place = Arc::new(Shares::new(LIMITS).take(wish("slow", SMALL)).await);
        let disk = TransferDisk::take(&spool, wish("slow", SMALL), Some(10)).await;
        let patience = Patience { rate: 1_000, ..Patience::USUAL };
        let pace = Pace { patience, small_grace: SECOND / 4, ..Pace::new(&place, 0).using(disk) };
        // They have 100 s at the usual rate.
        pace.meter.add(100_000);
        let waits = async {
            let waits = TransferDisk::take(&spool, wish("quiet", SMALL), Some(4));
            tokio::time::timeout(SECOND * 2, waits).await.is_ok()
        };
        let (ended, got) = tokio::join!(pace.keep(UPLOAD, SMALL, std::future::pending()), waits);
        let told = format!("{:?}", ended.map(drop));
        assert!(told.contains("others waited for the local disk that it held") && got, "{told}");
    }

    #[tokio::test]
    async fn a_place_is_as_large_as_what_is_held_at_the_same_time() {
        let shares = Shares::new(LIMITS);
        let place = Arc::new(shares.take(wish("one", SMALL)).await);
        let _others = shares.take(wish("other", 108)).await;
        let pace = Pace::new(&place, 0);
        let meter = pace.meter.clone();
        let work = async move {
            meter.add(SMALL_BYTES + 1);
            for _ in 0..3 {
                let mut held = store::reserve(8 << 20).await;
                held.set(17 << 20).await;
                held.set(1 << 20).await;
            }
            let (_one, _two) = (store::reserve(9 << 20).await, store::reserve(9 << 20).await);
            drop(place);
            Ok(Box::new(|_: &mut _| {}) as _)
        };
        // 17 MiB fit three times in a row. 18 MiB at once are too many: with 3 for what is not reported, they need 21 of the 20
        // that the other left.
        assert!(matches!(pace.keep(UPLOAD, SMALL, work).await, Err(TransferError::Outgrown(21))));
    }

    #[tokio::test]
    async fn a_transfer_that_failed_and_then_outgrows_its_shares_neither_succeeds_nor_stays_as_small_as_retries() {
        let (job_state, spool) = (JobState::default(), DiskShares::of_spool(2 << 30));
        let error = StepError::passing(reasons::PROVIDER_UNAVAILABLE, "slow");
        job_state.failed(Some(UPLOAD), FailedCall { call: "Upload", error, elapsed: 0 }, 0, 0);
        for broken in [TransferError::Outgrown(100), TransferError::OutgrownDisk(641)] {
            assert!(matches!(end(&job_state, UPLOAD, Err(broken), &spool), TaskEnd::Outgrown));
        }
        assert_eq!(failures(&job_state, UPLOAD), 1);
        let retry = Claim { is_retry: true, ..wish("a", 0) };
        let of_memory = retry.clone().of_known_need(job_state.need(UPLOAD).unwrap(), &LIMITS);
        assert_eq!(Shares::new(LIMITS).take(of_memory).await.size(), 104);
        let disk = TransferDisk::take(&spool, retry, job_state.disk_need(UPLOAD)).await;
        assert!(disk.grow(900 << 20).is_ok());
    }

    #[test]
    fn the_grace_grows_while_others_wait_until_it_is_the_usual_one() {
        let seconds = [0, 1, 2, 3, 30].map(|failures| small_grace(failures).as_secs());
        assert_eq!(seconds, [3, 6, 12, 24, 900]);
    }
}
