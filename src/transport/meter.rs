//! Measurements of a piece of work: the bytes that it moves, the memory that it holds, and the time for which it waits for stores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static METER: Meter;
}

/// The measurements of one piece of work: the bytes of all bodies that it sends and receives, the bytes that it decompresses, the memory
/// that it reserves, and its waits for stores. Of the tasks that it spawns, those [`measured_here`] count.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    moved: AtomicU64,
    unpacked: AtomicU64,
    waits: Mutex<Waits>,
    reserved: AtomicU64,
    disk: AtomicU64,
    /// The waker that is called when more than this number of bytes were taken in.
    watcher: Mutex<Option<(u64, Waker)>>,
}

/// Memory that a piece of work has reserved. It is given back when this is dropped.
#[derive(Debug, Default)]
pub struct ReservedMemory {
    meter: Option<Meter>,
    bytes: u64,
}

impl ReservedMemory {
    /// Changes the reservation to `bytes`. It counts for the work that is measured at the first call. If it grows, this yields once, so
    /// that whoever polls the work can end it before the memory is used.
    pub async fn set(&mut self, bytes: u64) {
        if self.meter.is_none() {
            self.meter = Meter::current();
        }
        let Some(Meter(counts)) = &self.meter else { return };
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes < before {
            counts.reserved.fetch_sub(before - bytes, Ordering::Relaxed);
        } else if bytes > before {
            counts.reserved.fetch_add(bytes - before, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for ReservedMemory {
    fn drop(&mut self) {
        if let Some(Meter(counts)) = &self.meter {
            counts.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Local disk that a piece of work uses. It is given back when this is dropped.
#[derive(Debug)]
pub struct UsedDisk {
    meter: Option<Meter>,
    bytes: u64,
}

impl Default for UsedDisk {
    /// Uses nothing yet. What it will use counts for the work that is measured now.
    fn default() -> Self {
        UsedDisk { meter: Meter::current(), bytes: 0 }
    }
}

impl UsedDisk {
    /// Changes the use to `bytes`, before they are written. This yields once for each mebibyte that is used more, and for each
    /// 32 KiB of the first mebibyte, so that whoever polls the work can end it.
    pub async fn set(&mut self, bytes: u64) {
        let before = self.bytes;
        self.note(bytes);
        let steps = |bytes: u64| (bytes.min(1 << 20) >> 15) + (bytes >> 20);
        if steps(bytes) > steps(before) {
            tokio::task::yield_now().await;
        }
    }

    /// Returns the bytes in use.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Does the same without a chance to end the work, for few bytes or code that cannot wait.
    pub fn note(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let Some(Meter(counts)) = &self.meter else { return };
        if bytes < before {
            counts.disk.fetch_sub(before - bytes, Ordering::Relaxed);
        } else {
            counts.disk.fetch_add(bytes - before, Ordering::Relaxed);
        }
    }
}

impl Drop for UsedDisk {
    fn drop(&mut self) {
        self.note(0);
    }
}

/// The waits of a piece of work for stores.
#[derive(Debug, Default)]
struct Waits {
    under_way: usize,
    since: Option<Instant>,
    before: Duration,
}

/// A call to a store. The work waits for it until this is dropped.
#[derive(Debug)]
pub struct StoreCall(Option<Meter>);

impl Drop for StoreCall {
    fn drop(&mut self) {
        let Some(mut waits) = self.0.as_ref().map(Meter::waits) else { return };
        waits.under_way -= 1;
        if waits.under_way == 0
            && let Some(since) = waits.since.take()
        {
            waits.before += since.elapsed();
        }
    }
}

/// Returns `work`, to be spawned, so that it counts for the work that is measured now.
pub fn measured_here<F: Future>(work: F) -> impl Future<Output = F::Output> {
    METER.scope(Meter::current().unwrap_or_default(), work)
}

impl Meter {
    /// Runs `work`, and measures it.
    pub async fn measure<T>(self, work: impl Future<Output = T>) -> T {
        METER.scope(self, work).await
    }

    /// Returns the bytes of bodies that were sent and received so far.
    pub fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Returns the larger of two numbers: the bytes of bodies, and the bytes that were decompressed.
    pub fn taken_in(&self) -> u64 {
        self.moved().max(self.0.unpacked.load(Ordering::Relaxed))
    }

    /// Returns the bytes of memory that are reserved now; see [`ReservedMemory`].
    pub fn reserved(&self) -> u64 {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Returns the bytes of local disk that are in use now; see [`UsedDisk`].
    pub fn disk(&self) -> u64 {
        self.0.disk.load(Ordering::Relaxed)
    }

    /// Wakes `waker` once when [`Meter::taken_in`] exceeds `limit`. This is necessary because a connection sends and receives bodies in a
    /// task of its own, which does not wake the task that waits for the answer.
    pub fn wake_beyond(&self, limit: u64, waker: &Waker) {
        *self.watcher() = Some((limit, waker.clone()));
        self.wake();
    }

    fn wake(&self) {
        let mut watcher = self.watcher();
        if watcher.as_ref().is_some_and(|(limit, _)| self.taken_in() > *limit)
            && let Some((_, waker)) = watcher.take()
        {
            waker.wake();
        }
    }

    fn watcher(&self) -> MutexGuard<'_, Option<(u64, Waker)>> {
        self.0.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `bytes` of a body.
    pub fn add(&self, bytes: u64) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
        self.wake();
    }

    /// Counts `bytes` that the work that is measured now has decompressed.
    pub fn unpacked(bytes: u64) {
        let _ = METER.try_with(|meter| {
            meter.0.unpacked.fetch_add(bytes, Ordering::Relaxed);
            meter.wake();
        });
    }

    /// Counts the time until the returned value is dropped as time for which the work that is measured now waits for a store.
    pub fn store_call() -> StoreCall {
        let meter = Meter::current();
        if let Some(mut waits) = meter.as_ref().map(Meter::waits) {
            waits.under_way += 1;
            waits.since.get_or_insert_with(Instant::now);
        }
        StoreCall(meter)
    }

    /// Returns the time for which the work has waited for stores so far; None if it waits for none now.
    pub fn waiting_for_a_store(&self) -> Option<Duration> {
        let waits = self.waits();
        waits.since.map(|since| waits.before + since.elapsed())
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current() -> Option<Meter> {
        METER.try_with(Meter::clone).ok()
    }
}
