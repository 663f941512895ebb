//! What this process remembers of one job; losing it is always safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::observe::Tools;
use super::permit::PostPermit;
use super::trouble::Trouble;
use crate::lifecycle::{Memory, Task};

/// The sessions of this process, by the job's uid.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    pub fn get(&self, uid: &str) -> Arc<Session> {
        lock(&self.0).entry(uid.to_string()).or_default().clone()
    }

    pub fn end(&self, uid: &str) {
        if let Some(session) = lock(&self.0).remove(uid) {
            session.stop.cancel();
        }
    }
}

/// What this process remembers of one job.
#[derive(Default)]
pub(super) struct Session {
    memory: Mutex<Memory>,
    permit: Mutex<Option<PostPermit>>,
    /// Of each task, and, under None, of the steps between them: what goes well says nothing of what does not.
    backoffs: Mutex<HashMap<Option<Task>, Backoff>>,
    tools: Mutex<Option<Arc<Tools>>>,
    asked: Mutex<String>,
    references: Mutex<References>,
    /// Ends the session's background tasks.
    pub stop: CancellationToken,
}

/// What is known of the versions of what a job refers to.
#[derive(Clone, Debug, Default)]
pub(super) enum References {
    #[default]
    NotLooked,
    Unknown,
    /// From before anything of it was read.
    Mark(String),
}

/// Failures that may pass are told to the user from this one on.
pub(super) const TOLD_FROM: u32 = 3;

/// How often steps failed in a row, and when the next one may be tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    pub failures: u32,
    pub until: i64,
    pub trouble: Option<Trouble>,
}

/// A poisoned lock is one whose holder panicked; what it guards is a cache and stays usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub fn memory(&self) -> Memory {
        lock(&self.memory).clone()
    }

    pub fn remember(&self, edit: impl FnOnce(&mut Memory)) {
        edit(&mut lock(&self.memory));
    }

    pub fn hold_permit(&self, permit: PostPermit) {
        self.remember(|m| m.permit = Some(permit.intent_id().into()));
        *lock(&self.permit) = Some(permit);
    }

    pub fn take_permit(&self) -> Option<PostPermit> {
        self.remember(|m| m.permit = None);
        lock(&self.permit).take()
    }

    pub fn references(&self) -> References {
        lock(&self.references).clone()
    }

    pub fn refers(&self, references: References) {
        *lock(&self.references) = references;
    }

    pub fn tools(&self) -> Option<Arc<Tools>> {
        lock(&self.tools).clone()
    }

    pub fn keep_tools(&self, tools: Option<Arc<Tools>>) {
        *lock(&self.tools) = tools;
    }

    /// Of this task, or, of None, of the steps between them: until then none is taken.
    pub fn backoff(&self, what: Option<Task>) -> Backoff {
        lock(&self.backoffs).get(&what).cloned().unwrap_or_default()
    }

    /// Trouble `of` these that is worth a person's attention and not over yet: what failed most often in a row.
    pub fn lasting(&self, of: impl Fn(&Option<Task>) -> bool) -> Option<Trouble> {
        let backoffs = lock(&self.backoffs);
        let troubles = backoffs.iter().filter(|(what, _)| of(what));
        let troubles = troubles.filter_map(|(_, b)| Some((b.failures, b.trouble.as_ref()?)));
        let told = troubles.filter(|(failures, t)| !t.is_untold && (!t.may_pass || *failures >= TOLD_FROM));
        told.max_by_key(|(failures, _)| *failures).map(|(_, trouble)| trouble.clone())
    }

    /// Tasks that failed the last time, and when each may be tried again.
    pub fn in_vain(&self) -> BTreeMap<Task, i64> {
        lock(&self.backoffs).iter().filter_map(|(task, b)| Some(((*task)?, b.until))).collect()
    }

    /// Tasks that may not be tried again yet, and when the first of them may.
    pub fn held_back(&self, now: i64) -> (BTreeSet<Task>, Option<i64>) {
        let held_back: BTreeMap<Task, i64> = self.in_vain().into_iter().filter(|(_, until)| now < *until).collect();
        (held_back.keys().copied().collect(), held_back.into_values().min())
    }

    /// A person who changed something does not wait for the next try of what was before.
    pub fn asked(&self, what: String) {
        let mut last = lock(&self.asked);
        if *last != what {
            *last = what;
            lock(&self.backoffs).clear();
        }
    }

    pub fn succeeded(&self, what: Option<Task>) {
        lock(&self.backoffs).remove(&what);
    }

    /// There is nothing to do but what these tasks do: nothing else is tried any more, and so not in trouble.
    pub fn waits_for(&self, tasks: &BTreeSet<Task>) {
        lock(&self.backoffs).retain(|what, _| what.is_some_and(|task| tasks.contains(&task)));
    }

    /// Next try after 1 s, doubling up to a minute, to 15 s where a person may mend it at any time, or to 8 s where the API
    /// server is away, with a quarter of jitter; later where the other side asks for it.
    pub fn failed(&self, what: Option<Task>, trouble: Trouble, now: i64, jitter: u8) {
        let mut backoffs = lock(&self.backoffs);
        let backoff = backoffs.entry(what).or_default();
        backoff.failures = backoff.failures.saturating_add(1);
        let longest = match trouble.may_pass {
            _ if trouble.is_untold => 8_000,
            true => 60_000,
            false => 15_000,
        };
        let pause = (1_000i64 << backoff.failures.min(7).saturating_sub(1)).min(longest);
        let pause = pause + pause * i64::from(jitter) / 1024;
        let asked = trouble.retry_after.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX).min(3_600_000));
        backoff.until = now + pause.max(asked);
        backoff.trouble = Some(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Slot;

    /// Tries of somebody who fails for `away` milliseconds, and when the first one after that is.
    fn tries(trouble: &Trouble, away: i64) -> (usize, i64) {
        let session = Session::default();
        let (mut now, mut tries) = (0, 0);
        while now < away {
            tries += 1;
            session.failed(None, trouble.clone(), now, 255);
            now = session.backoff(None).until;
        }
        (tries, now - away)
    }

    #[test]
    fn what_is_away_is_tried_seldom_and_found_again_soon() {
        let provider = Trouble::passing("ProviderUnavailable", "");
        let (often, found) = tries(&provider, 600_000);
        assert!((8..=16).contains(&often) && found <= 75_000, "{often} tries, found again after {found} ms");
        let kubernetes = Trouble { is_untold: true, ..Trouble::passing("KubernetesUnavailable", "") };
        for away in 1..120 {
            let (_, found) = tries(&kubernetes, away * 1_000);
            assert!(found <= 10_000, "away for {away} s, found again after {found} ms");
        }
    }

    #[test]
    fn what_goes_well_does_not_hide_what_does_not_and_what_does_not_holds_nothing_else_back() {
        let session = Session::default();
        let collect = Task::Collect(Slot { shard: 1, attempt: 1 });
        for now in 0..4 {
            session.failed(Some(collect), Trouble::passing("ProviderUnavailable", ""), now, 0);
            session.failed(None, Trouble::passing("StorageUnavailable", ""), now, 0);
            session.succeeded(None);
            session.succeeded(Some(Task::Pass));
        }
        assert_eq!(session.backoff(None).failures, 0, "the steps go well");
        let told = || session.lasting(|_| true).map(|t| t.category());
        assert_eq!((session.backoff(Some(collect)).failures, told()), (4, Some("ProviderUnavailable")));
        let untold = Trouble { is_untold: true, ..Trouble::passing("KubernetesUnavailable", "") };
        (0..9).for_each(|now| session.failed(None, untold.clone(), now, 0));
        assert_eq!(told(), Some("ProviderUnavailable"), "what cannot be told hides nothing");
        assert_eq!(session.held_back(8_002), ([collect].into(), Some(8_003)));
        assert_eq!(session.held_back(8_003), (BTreeSet::new(), None));
        session.waits_for(&[collect].into());
        assert_eq!(told(), Some("ProviderUnavailable"), "it is being tried");
        session.waits_for(&BTreeSet::new());
        assert_eq!(told(), None, "nobody tries it any more");
    }
}
