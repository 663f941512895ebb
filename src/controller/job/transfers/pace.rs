//! The pace that a transfer has to keep, and the shares that it outgrows.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::disk::{NoDisk, TransferDisk};
use super::{Place, SMALL_BYTES, needed};
use crate::api::conditions::reasons;
use crate::controller::job::act::{MemoryEdit, Outcome};
use crate::controller::runtime::error::StepError;
use crate::fair::{self, OthersWait, Share};
use crate::lifecycle::Task;
use crate::transport::{Meter, Patience};

/// The time limit of a transfer that holds shares: it must move [`Patience::rate`] bytes a second in the long run, after some
/// grace.
pub(super) struct Pace {
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
pub(super) const LARGE_FAILURES: u32 = 5;

/// Time after which the shares of a transfer without a deadline of its own are looked at again. The server has a deadline then,
/// [`Patience::FILES`].
const AGAIN: Duration = Duration::from_secs(3_600);

impl Pace {
    pub fn new(memory: &Place, failures: u32) -> Pace {
        let held = vec![HeldShare::of(memory, "memory")];
        let (memory, small_grace) = (Arc::downgrade(memory), small_grace(failures));
        let (patience, meter, began) = (Patience::USUAL, Meter::default(), Instant::now());
        Pace { patience, small_grace, memory, held, disk: None, meter, began }
    }

    /// Uses local disk as well.
    pub fn using(self, disk: TransferDisk) -> Pace {
        let others_wait = disk.others_wait();
        Pace { disk: Some((Arc::new(disk), others_wait)), ..self }
    }

    /// Holds an upload's turn as well.
    pub fn beside(mut self, turn: &Place) -> Pace {
        self.held.push(HeldShare::of(turn, "place among uploads"));
        self
    }

    /// Runs `work`, which is `task`, unless it becomes too slow, or too large for its place of `size` MiB.
    pub async fn keep(
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
pub(super) enum TransferError {
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

#[cfg(test)]
mod tests;
