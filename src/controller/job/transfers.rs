//! Transfers of data, with limits of memory and time. Namespaces share the memory fairly.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::{Instant, sleep_until};

use super::act::{MemoryEdit, Outcome};
use super::job_state::JobState;
use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::api::weight::json_bytes;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::fair::{self, Claim, Limits, OthersWait, Share};
use crate::lifecycle::{Memory, Task};
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

/// Returns the claim of a transfer. `need` is the size in MiB of one that outgrew its place before.
pub(crate) fn claim(task: Task, job: &BatchJob, need: Option<u64>) -> Claim {
    let inline = match task {
        // A plan holds the inline requests from its beginning.
        Task::Plan => inline_bytes(job).div_ceil(1 << 20),
        _ => 0,
    };
    // Large transfers have a lane of their own, so that they do not delay the small ones of their namespace.
    let lane = if need.is_some() { format!("{}, large", name_of(task)) } else { name_of(task).into() };
    let size = need.unwrap_or(0).max(SMALL + inline);
    Claim { namespace: job.namespace().unwrap_or_default(), lane, size, ..Claim::default() }
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

/// A share of the memory for transfers. A task that only waits for a reply drops it early.
pub(crate) type Place = Arc<Share>;

/// Waits for the memory that `claim` asks for, then runs `work` with it. Returns the outcome, and the time at which the work
/// began (Unix milliseconds). If the work outgrew its memory, the outcome changes nothing, and the next claim is larger.
pub(crate) async fn run<W: Future<Output = Outcome>>(
    ctx: &Context,
    job_state: &JobState,
    (task, claim): (Task, Claim),
    work: impl FnOnce(Place) -> W,
) -> (Outcome, i64) {
    let waits = ctx.metrics.transfer_queue(name_of(task));
    let place = Arc::new(ctx.jobs.transfers.take(claim).await);
    drop(waits);
    let _takes = ctx.metrics.transfer(name_of(task));
    let size = place.size();
    let began = ctx.clock.now();
    let pace = Pace::new(&place, job_state.backoff(Some(task)).failures);
    let outcome = match pace.keep(task, size, Box::pin(work(place))).await {
        Ok(memory_edit) => Ok(memory_edit),
        Err(TransferError::Failed(error)) => Err(error),
        Err(TransferError::Outgrown(need)) => {
            job_state.found_need(task, need.next_multiple_of(NEED_STEP).min(LIMITS.total));
            Ok(Box::new(|_: &mut Memory| {}) as MemoryEdit)
        }
    };
    (outcome, began)
}

/// The time limit of a transfer that holds a place: it must move [`Patience::rate`] bytes a second in the long run, after some
/// grace.
struct Pace {
    patience: Patience,
    /// The grace while others wait.
    small_grace: Duration,
    place: Weak<Share>,
    others_wait: OthersWait,
    meter: Meter,
    began: Instant,
}

impl Pace {
    fn new(place: &Place, failures: u32) -> Pace {
        let (place, others_wait) = (Arc::downgrade(place), place.others_wait());
        let (patience, meter, began) = (Patience::USUAL, Meter::default(), Instant::now());
        Pace { patience, small_grace: small_grace(failures), place, others_wait, meter, began }
    }

    /// Runs `work`, which is `task`, unless it becomes too slow, or too large for its place of `size` MiB.
    async fn keep(
        mut self,
        task: Task,
        size: u64,
        work: impl Future<Output = Outcome>,
    ) -> Result<MemoryEdit, TransferError> {
        let work = std::pin::pin!(self.meter.clone().measure(work));
        let mut work = std::pin::pin!(sized(work, size, self.meter.clone(), self.place.clone()));
        loop {
            let others_wait = self.others_wait.is_so();
            let grace = if others_wait { self.small_grace } else { self.patience.grace };
            // Bytes that move in the meantime extend the deadline.
            let deadline = self.began + grace + self.patience.at_rate(self.meter.moved());
            tokio::select! {
                outcome = &mut work => return outcome,
                () = sleep_until(deadline) => {}
                () = self.others_wait.changed() => continue,
            }
            // A task that gave its place back only waits for a reply.
            if self.place.strong_count() == 0 {
                return work.await;
            }
            if Instant::now() >= self.began + grace + self.patience.at_rate(self.meter.moved()) {
                return Err(TransferError::Failed(self.too_slow(task, others_wait)));
            }
        }
    }

    fn too_slow(&self, task: Task, others_wait: bool) -> StepError {
        let (bytes, seconds, rate) = (self.meter.moved(), self.began.elapsed().as_secs(), self.patience.rate);
        let why = if others_wait { ", while others waited for the memory that it held" } else { "" };
        let message = format!("{bytes} bytes were moved in {seconds} s, fewer than {rate} a second{why}");
        let reason = match task {
            Task::Upload(_) | Task::Collect(_) => reasons::PROVIDER_UNAVAILABLE,
            _ => reasons::STORAGE_UNAVAILABLE,
        };
        StepError::passing(reason, message)
    }
}

/// Runs `work` until it outgrows its place, which has `size` MiB, if the place cannot grow.
async fn sized(
    mut work: Pin<&mut impl Future<Output = Outcome>>,
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
        polled.map_err(TransferError::Failed)
    })
    .await
}

/// The reason why a transfer ended early.
#[derive(Debug)]
enum TransferError {
    Failed(StepError),
    /// The transfer outgrew its place, and needs so many MiB.
    Outgrown(u64),
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
    use super::*;
    use crate::fair::Shares;
    use crate::lifecycle::AttemptKey;
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
            TransferError::Outgrown(need) => (began.elapsed(), format!("needs {need}")),
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

    #[test]
    fn the_grace_grows_while_others_wait_until_it_is_the_usual_one() {
        let seconds = [0, 1, 2, 3, 30].map(|failures| small_grace(failures).as_secs());
        assert_eq!(seconds, [3, 6, 12, 24, 900]);
    }
}
