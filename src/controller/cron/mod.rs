//! CronBatchJobs: their BatchJobs are created on time, counted, and deleted when newer ones are kept.

mod children;
mod condition;
mod visit;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use watch::{Scope, watch};

use super::runtime::options::Options;
use super::runtime::schedule_looks::ScheduleLooks;
use crate::fair::{Limits, Shares};
use crate::schedule::SkippedStart;

/// Visits of CronBatchJobs at a time. Each reads a whole object, of up to 1.5 MB. All visits have one lane, so a namespace has at
/// most 2.
const TURNS: Limits = Limits { total: 4, per_namespace: 4, keeps_last_shares: true };

/// The state that the visits of all CronBatchJobs share.
pub(super) struct Crons {
    turns: Arc<Shares>,
    /// Starts that were told to be skipped, by uid of the CronBatchJob. Losing them costs another event.
    skipped: Mutex<HashMap<String, SkippedStart>>,
}

impl Crons {
    /// Returns the state for `options`, with the requests for looks and the scopes to watch.
    pub fn new(options: &Options) -> (Crons, ScheduleLooks, Vec<Scope>) {
        let mut looks = ScheduleLooks::default();
        let scopes = options.scopes().into_iter().map(|scope| Scope::new(scope.clone(), looks.add(scope))).collect();
        (Crons { turns: Shares::new(TURNS), skipped: Mutex::default() }, looks, scopes)
    }

    /// Remembers the start that is skipped now. Returns it if it was not remembered.
    fn note_skipped(&self, uid: &str, skipped: Option<SkippedStart>) -> Option<SkippedStart> {
        let mut all = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match skipped {
            Some(now) => all.insert(uid.into(), now),
            None => all.remove(uid),
        };
        skipped.filter(|_| before != skipped)
    }

    fn forget(&self, uid: &str) {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
