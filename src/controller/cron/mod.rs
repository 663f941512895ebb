//! CronBatchJobs: their BatchJobs are created on time, counted, and deleted when newer ones are kept.

mod children;
mod condition;
mod visit;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::Store;
pub(super) use watch::{Scope, watch};

use super::runtime::options::Options;
use super::runtime::schedule_looks::ScheduleLooks;
use crate::api::CronBatchJob;
use crate::api::conditions::{self, READY};
use crate::fair::{Limits, Shares};
use crate::schedule::SkippedStart;
use crate::telemetry::Metrics;

/// Visits of CronBatchJobs at a time. Each reads a whole object, of up to 1.5 MB. All visits have one lane, so a namespace has at
/// most 2.
const TURNS: Limits = Limits { total: 4, per_namespace: 4, keeps_last_shares: true };

/// The state that the visits of all CronBatchJobs share.
pub(super) struct Crons {
    turns: Arc<Shares>,
    since: i64,
    /// Starts that were told to be skipped, by uid of the CronBatchJob, with its namespace. Losing them costs another event.
    skipped: Mutex<HashMap<String, (String, SkippedStart)>>,
    /// The CronBatchJobs as the watches know them, by watched namespace.
    watched: Arc<Mutex<Vec<Store<CronBatchJob>>>>,
}

impl Crons {
    /// Returns the state for `options` of a process that looks after CronBatchJobs from `since` on (Unix milliseconds), with the
    /// requests for looks and the scopes to watch.
    pub fn new(options: &Options, since: i64) -> (Crons, ScheduleLooks, Vec<Scope>) {
        let mut looks = ScheduleLooks::default();
        let scopes = options.scopes().into_iter().map(|scope| Scope::new(scope.clone(), looks.add(scope))).collect();
        let crons = Crons { turns: Shares::new(TURNS), since, skipped: Mutex::default(), watched: Arc::default() };
        (crons, looks, scopes)
    }

    /// Registers the counts of CronBatchJobs by the status of `Ready`. One that is being deleted does not count.
    pub fn count_in(&self, metrics: &Metrics) {
        let watched = self.watched.clone();
        metrics.count_schedules(move || {
            let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            let all = watched.iter().flat_map(Store::state);
            let here = all.filter(|cron| cron.metadata.deletion_timestamp.is_none());
            conditions::count_by_status(
                here.map(|cron| conditions::status_of(&cron.status.as_ref()?.conditions, READY)),
            )
        });
    }

    fn is_watched_by(&self, known: Store<CronBatchJob>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(known);
    }

    /// Returns the time from which this process looks after CronBatchJobs (Unix milliseconds).
    pub fn since(&self) -> i64 {
        self.since
    }

    /// Remembers the start that is skipped now. Returns it if it was not remembered.
    fn note_skipped(&self, namespace: &str, uid: &str, skipped: Option<SkippedStart>) -> Option<SkippedStart> {
        let mut all = self.lock();
        let before = match skipped {
            Some(now) => all.insert(uid.into(), (namespace.into(), now)),
            None => all.remove(uid),
        };
        skipped.filter(|_| before.map(|(_, before)| before) != skipped)
    }

    fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets the CronBatchJobs of a namespace, or of all, that are not among those that a list showed.
    fn keep_known(&self, namespace: Option<&str>, known: &[Arc<CronBatchJob>]) {
        let known: HashSet<&str> = known.iter().filter_map(|cron| cron.metadata.uid.as_deref()).collect();
        self.lock()
            .retain(|uid, (of, _)| namespace.is_some_and(|namespace| namespace != of) || known.contains(uid.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, SkippedStart)>> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_skipped_start_is_told_once_and_a_schedule_that_is_gone_takes_no_memory() {
        let crons = Crons { turns: Shares::new(TURNS), since: 0, skipped: Mutex::default(), watched: Arc::default() };
        let skipped = Some(SkippedStart::TooLate(Timestamp::UNIX_EPOCH));
        assert_eq!(crons.note_skipped("news", "gone", skipped), skipped);
        assert_eq!(crons.note_skipped("news", "gone", skipped), None);
        assert_eq!(crons.note_skipped("shop", "other", skipped), skipped);
        crons.keep_known(Some("news"), &[]);
        assert_eq!(crons.lock().keys().collect::<Vec<_>>(), ["other"]);
        crons.forget("other");
        assert!(crons.lock().is_empty());
    }
}
