//! Two replicas of the operator with a lease, started again as a kubelet does: a container keeps its name.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::operator::{Operator, Settings};
use crate::world::NAMESPACE;

/// What ended by itself is started again after this.
const BACKOFF: Duration = Duration::from_secs(1);

pub const REPLICAS: usize = 2;

pub struct Replicas {
    seats: [Mutex<Seat>; REPLICAS],
    /// How many ended without being killed, as they do when the lease cannot be renewed.
    pub exits: AtomicU64,
}

struct Seat {
    settings: Settings,
    operator: Option<Operator>,
    not_before: Instant,
}

impl Replicas {
    pub fn new(kubeconfig: &str) -> Replicas {
        let seat = |name: &str| {
            let settings = Settings {
                kubeconfig: Some(kubeconfig.into()),
                extra: ["--leader-election", "true", "--identity", name].map(String::from).to_vec(),
                env: vec![("RUST_LOG", "warn,batchjob_operator=info".into())],
                ..Settings::new(name, NAMESPACE)
            };
            Mutex::new(Seat { settings, operator: None, not_before: Instant::now() })
        };
        Replicas { seats: [seat("soak-a"), seat("soak-b")], exits: AtomicU64::new(0) }
    }

    /// Kills one with SIGKILL, if it runs; it stays down for `rest`.
    pub fn kill(&self, which: usize, rest: Duration) -> bool {
        let mut seat = self.seats[which].lock().unwrap();
        let killed = seat.operator.take().is_some_and(|mut operator| !operator.process.ended());
        seat.not_before = Instant::now() + rest;
        killed
    }

    /// Starts what should run and does not.
    pub fn keep_up(&self) {
        for seat in &self.seats {
            let mut seat = seat.lock().unwrap();
            if seat.operator.as_mut().is_some_and(|operator| operator.process.ended()) {
                self.exits.fetch_add(1, Ordering::Relaxed);
                seat.operator = None;
                seat.not_before = Instant::now() + BACKOFF;
            }
            if seat.operator.is_none() && Instant::now() >= seat.not_before {
                seat.operator = Some(seat.settings.launch());
            }
        }
    }

    /// The last words of each.
    pub fn last_words(&self) -> String {
        let words = self.seats.iter().map(|seat| {
            let seat = seat.lock().unwrap();
            let tail = seat.operator.as_ref().map(|o| o.process.tail(40)).unwrap_or_default();
            format!("--- {} ---\n{tail}\n", seat.settings.name)
        });
        words.collect()
    }
}
