//! What all parts of the server share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::accounts::Accounts;
use crate::answers::Answers;
use crate::bodies::Appetite;
use crate::durations::Durations;
use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::store::Store;
use crate::validate::Limits;
use crate::webhooks::Webhooks;

/// The server's state, in many hands.
pub type Shared = Arc<App>;

/// What was asked for at the start.
#[derive(Debug)]
pub struct Settings {
    /// Who is let in.
    pub accounts: Accounts,
    /// What requests are answered.
    pub answers: Answers,
    /// What models use.
    pub appetite: Appetite,
    /// How large a batch may be.
    pub limits: Limits,
    /// Decides the order of results.
    pub seed: u64,
    /// The folder of files' contents.
    pub contents: PathBuf,
    /// What shall go wrong.
    pub faults: Faults,
    /// The models that there are; none: any, and files are not checked when they are uploaded.
    pub models: Vec<String>,
    /// How long batches run, until told otherwise.
    pub durations: Durations,
}

/// The server's state.
#[derive(Debug)]
pub struct App {
    /// What was asked for at the start.
    pub settings: Settings,
    /// What was billed.
    pub ledger: Ledger,
    /// The webhooks that are told of the ends of batches.
    pub webhooks: Webhooks,
    store: Mutex<Store>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    durations: Mutex<Durations>,
    started: AtomicU64,
}

impl App {
    /// A server without files or batches.
    pub fn new(settings: Settings, ledger: Ledger) -> Shared {
        Arc::new(Self {
            durations: Mutex::new(settings.durations),
            started: AtomicU64::new(0),
            settings,
            ledger,
            webhooks: Webhooks::default(),
            store: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    /// Files and batches. Hold it briefly.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Counts a request to a point of the API.
    pub fn count(&self, point: &'static str) {
        *lock(&self.calls).entry(point).or_insert(0) += 1;
    }

    /// Requests so far, by point.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.calls).clone()
    }

    /// How long the batch runs that is created now.
    pub fn next_duration(&self) -> Duration {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.durations().of(self.settings.seed, number)
    }

    /// How long batches run that are created now.
    pub fn durations(&self) -> Durations {
        *lock(&self.durations)
    }

    /// Changes how long batches run that are created from now on.
    pub fn set_durations(&self, durations: Durations) {
        *lock(&self.durations) = durations;
    }
}

/// Locks; a panic of an earlier holder does not spread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
