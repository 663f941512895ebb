//! Counts of the bytes that a piece of work moves and the memory that it holds, and of its time waiting for stores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static METER: Meter;
}

/// Counts what a piece of work moves and takes in: bytes of bodies, sent and received, of all exchanges that it makes, and bytes that come
/// out of what is compressed. What it spawns is not counted.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    moved: AtomicU64,
    unpacked: AtomicU64,
    waits: Mutex<Waits>,
    reserved: AtomicU64,
    /// The waker that is called when more than this number of bytes were taken in.
    watcher: Mutex<Option<(u64, Waker)>>,
}

/// Memory that a piece of work said it holds, until this is dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    meter: Option<Meter>,
    bytes: u64,
}

impl Reserved {
    /// Records that `bytes` are held from now on, for the work that is measured at the first call. If they are more than
    /// before, continues once the measuring side has had a look.
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

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(Meter(counts)) = &self.meter {
            counts.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Time in which a piece of work waits for a store.
#[derive(Debug, Default)]
struct Waits {
    under_way: usize,
    since: Option<Instant>,
    before: Duration,
}

/// A call of a store that is waited for, until this is dropped.
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

impl Meter {
    /// Runs `work`, and counts for it.
    pub async fn measure<T>(self, work: impl Future<Output = T>) -> T {
        METER.scope(self, work).await
    }

    /// Returns the bytes of bodies so far.
    pub fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Returns the bytes of bodies, or the bytes that came out of compressed data if those are more.
    pub fn taken_in(&self) -> u64 {
        self.moved().max(self.0.unpacked.load(Ordering::Relaxed))
    }

    /// Returns the bytes of memory that are reserved now; see [`Reserved`].
    pub fn reserved(&self) -> u64 {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Wakes `waker` once when more than `limit` bytes were taken in. Bodies are sent and received by a connection's own task, which does
    /// not wake whoever waits for the answer.
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

    /// Counts `bytes` that came out of compressed data, for the work that is measured now.
    pub fn unpacked(bytes: u64) {
        let _ = METER.try_with(|meter| {
            meter.0.unpacked.fetch_add(bytes, Ordering::Relaxed);
            meter.wake();
        });
    }

    /// Counts the time from now until the call is over as time in which the measured work waits for a store.
    pub fn store_call() -> StoreCall {
        let meter = Meter::current();
        if let Some(mut waits) = meter.as_ref().map(Meter::waits) {
            waits.under_way += 1;
            waits.since.get_or_insert_with(Instant::now);
        }
        StoreCall(meter)
    }

    /// Returns the time for which the work has waited for stores, including the call under way; None if it waits for none now.
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
