//! What this process remembers of one job; losing it is always safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Failed};
use super::clients::Clients;
use super::journal::Judged;
use super::last_look::LastLook;
use super::permit::PostPermit;
use crate::api::BatchJob;
use crate::controller::provider::ProviderKey;
use crate::lifecycle::{Memory, Task, Waiting};

/// The sessions of this process, by the job's uid.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// The session of `job`, whose uid this is.
    pub fn get(&self, uid: &str, job: &BatchJob) -> Arc<Session> {
        let session = lock(&self.0).entry(uid.to_string()).or_default().clone();
        lock(&session.job).get_or_insert_with(|| ObjectRef::from_obj(job));
        session
    }

    /// Whether the last step of the job with this uid failed.
    pub fn has_failed(&self, uid: &str) -> bool {
        lock(&self.0).get(uid).is_some_and(|session| session.backoff(None).failures > 0)
    }

    /// Has whatever failed at this account tried again at once; the jobs that it is tried for.
    pub fn try_again(&self, account: &ProviderKey) -> Vec<ObjectRef<BatchJob>> {
        let sessions: Vec<Arc<Session>> = lock(&self.0).values().cloned().collect();
        let jobs = sessions.iter().filter(|s| s.account().as_ref() == Some(account) && s.try_again());
        jobs.filter_map(|session| lock(&session.job).clone()).collect()
    }

    /// Calls whose failing is worth a person's attention, by the step or the transfer that makes them.
    pub fn failing(&self) -> Vec<(&'static str, i64)> {
        let sessions: Vec<Arc<Session>> = lock(&self.0).values().cloned().collect();
        let mut calls = BTreeMap::new();
        for session in sessions {
            for backoff in lock(&session.backoffs).values().filter(|b| b.error().is_some()) {
                *calls.entry(backoff.call).or_insert(0) += 1;
            }
        }
        calls.into_iter().collect()
    }

    /// Bytes that the session of the job with this uid keeps of its object and its journal; None where there is no session.
    pub fn weight(&self, uid: &str) -> Option<usize> {
        let session = lock(&self.0).get(uid).cloned()?;
        let (seen, journal) = (session.seen(), session.journal());
        Some(seen.map_or(0, |seen| seen.weight) + journal.map_or(0, |(journal, _)| journal.weight()))
    }

    /// Lets go of what can be read again of the job with this uid.
    pub fn let_go(&self, uid: &str) {
        if let Some(session) = lock(&self.0).get(uid) {
            session.keep_seen(None);
            session.journal_is_old();
            session.forget_journal();
        }
    }

    /// Bytes that visits of the job with this uid need, where they hold much.
    pub fn room(&self, uid: &str) -> Option<u64> {
        let session = lock(&self.0).get(uid).cloned()?;
        *lock(&session.room)
    }

    pub fn end(&self, uid: &str) {
        if let Some(session) = lock(&self.0).remove(uid) {
            session.stop.cancel();
        }
    }

    /// Ends the sessions of jobs that are gone: whoever takes a finalizer off by hand lets them go without a last visit.
    pub fn end_where(&self, is_gone: impl Fn(&str, &ObjectRef<BatchJob>) -> bool) {
        lock(&self.0).retain(|uid, session| {
            let gone = lock(&session.job).as_ref().is_some_and(|job| is_gone(uid, job));
            if gone {
                session.stop.cancel();
            }
            !gone
        });
    }
}

/// What this process remembers of one job.
#[derive(Default)]
pub(crate) struct Session {
    memory: Mutex<Memory>,
    permit: Mutex<Option<PostPermit>>,
    /// Of each task, and, under None, of the steps between them: what goes well says nothing of what does not.
    backoffs: Mutex<HashMap<Option<Task>, Backoff>>,
    /// What was last waited for, and since when (Unix milliseconds) at this stage.
    waiting: Mutex<Option<(Waiting, i64)>>,
    job: Mutex<Option<ObjectRef<BatchJob>>>,
    clients: Mutex<Option<Arc<Clients>>>,
    /// The journal that this process read or wrote last.
    journal: Mutex<Option<Judged>>,
    /// When it was known to be that one (Unix milliseconds).
    journal_at: AtomicI64,
    seen: Mutex<Option<LastLook>>,
    asked: Mutex<String>,
    /// Since when (Unix milliseconds) what is read of credentials counts.
    distrusts: AtomicI64,
    references: Mutex<References>,
    /// Bytes that a visit needs, where it holds much.
    room: Mutex<Option<u64>>,
    /// MiB that transfers need which were larger than their place.
    needs: Mutex<BTreeMap<Task, u64>>,
    /// One look at a batch at a time: a server that asks for a pause is not asked for the next one.
    pub looks: tokio::sync::Mutex<()>,
    /// Ends the session's background tasks.
    pub stop: CancellationToken,
}

/// What is known of the versions of what a job refers to.
#[derive(Clone, Debug, Default)]
pub(crate) enum References {
    #[default]
    NotLooked,
    Unknown,
    /// From before anything of it was read.
    Mark(String),
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

    /// It is used from now on, or given back by [`Session::hold_permit`].
    pub fn take_permit(&self) -> Option<PostPermit> {
        self.remember(|m| m.permit = None);
        lock(&self.permit).take()
    }

    /// MiB that this transfer needs, where it once was larger than its place.
    pub fn need(&self, task: Task) -> Option<u64> {
        lock(&self.needs).get(&task).copied()
    }

    /// Remembers that it needs so many MiB.
    pub fn found_need(&self, task: Task, need: u64) {
        let mut needs = lock(&self.needs);
        let known = needs.entry(task).or_default();
        *known = need.max(*known);
    }

    /// Remembers how many bytes a visit needs; None: it is a small one.
    pub fn found_room(&self, room: Option<u64>) {
        *lock(&self.room) = room;
    }

    /// The journal that this process read or wrote last: what lies in storage may be newer.
    pub fn journal(&self) -> Option<Judged> {
        lock(&self.journal).clone()
    }

    pub fn keep_journal(&self, journal: Option<Judged>) {
        *lock(&self.journal) = journal;
    }

    /// Has the next read fetch it whole.
    pub fn forget_journal(&self) {
        self.keep_journal(None);
    }

    pub fn references(&self) -> References {
        lock(&self.references).clone()
    }

    pub fn refers(&self, references: References) {
        *lock(&self.references) = references;
    }

    pub fn clients(&self) -> Option<Arc<Clients>> {
        lock(&self.clients).clone()
    }

    /// Who has just put another credential in place does not wait for the next try of what failed with the last one.
    pub fn keep_tools(&self, clients: Arc<Clients>) {
        let before = lock(&self.clients).replace(clients.clone());
        if before.is_some_and(|before| before.credentials != clients.credentials) {
            lock(&self.backoffs).clear();
        }
    }

    /// The provider's account, where it was opened.
    pub fn account(&self) -> Option<ProviderKey> {
        self.clients().map(|clients| clients.account.object.clone())
    }

    /// What is waited for at `now`, for when something fails later; since when this stage is waited at.
    pub fn waits(&self, why: &Waiting, now: i64) -> i64 {
        let mut waiting = lock(&self.waiting);
        let since = waiting.as_ref().filter(|(last, _)| last.stage == why.stage).map_or(now, |(_, since)| *since);
        *waiting = Some((why.clone(), since));
        since
    }

    /// What was waited for last.
    pub fn waiting(&self) -> Option<Waiting> {
        lock(&self.waiting).as_ref().map(|(why, _)| why.clone())
    }

    /// The last look at the object.
    pub fn seen(&self) -> Option<LastLook> {
        lock(&self.seen).clone()
    }

    /// Keeps a look at the object; None where it turned out to be no longer true.
    pub fn keep_seen(&self, seen: Option<LastLook>) {
        *lock(&self.seen) = seen;
    }

    /// When the journal was known to be the one that is kept, or that there is none (Unix milliseconds).
    pub fn journal_at(&self) -> i64 {
        self.journal_at.load(Ordering::Relaxed)
    }

    /// The journal that is kept is the one that lay in storage at this time (Unix milliseconds).
    pub fn journal_is_of(&self, at: i64) {
        self.journal_at.store(at, Ordering::Relaxed);
    }

    /// The journal has changed, or may have: it is read before anything else is decided.
    pub fn journal_is_old(&self) {
        self.journal_is_of(0);
    }

    /// Of this task, or, of None, of the steps between them: until then none is taken.
    pub fn backoff(&self, what: Option<Task>) -> Backoff {
        lock(&self.backoffs).get(&what).cloned().unwrap_or_default()
    }

    /// What failed most often in a row `of` these, where that is worth a person's attention and not over yet.
    pub fn lasting(&self, of: impl Fn(&Option<Task>) -> bool) -> Option<Backoff> {
        let backoffs = lock(&self.backoffs);
        let told = backoffs.iter().filter(|(what, b)| of(what) && b.error().is_some());
        told.max_by_key(|(_, b)| b.failures).map(|(_, b)| b.clone())
    }

    /// Whether something failed that a person may mend at any time.
    pub fn may_be_mended(&self) -> bool {
        lock(&self.backoffs).values().any(Backoff::may_be_mended)
    }

    /// Lets whatever failed be tried again at once, without forgetting how often it failed. False: nothing did.
    fn try_again(&self) -> bool {
        let mut backoffs = lock(&self.backoffs);
        backoffs.values_mut().for_each(|b| b.until = 0);
        !backoffs.is_empty()
    }

    /// Tasks that failed the last time, and when each may be tried again.
    pub fn failed_calls(&self) -> BTreeMap<Task, i64> {
        lock(&self.backoffs).iter().filter_map(|(task, b)| Some(((*task)?, b.until))).collect()
    }

    /// A person who changed something does not wait for the next try of what was before, nor for credentials to be read again.
    pub fn asked(&self, what: String, now: i64) {
        let mut last = lock(&self.asked);
        if *last != what {
            if !last.is_empty() {
                self.distrusts.store(now, Ordering::Relaxed);
            }
            *last = what;
            lock(&self.backoffs).clear();
        }
    }

    /// Since when (Unix milliseconds) what is read of credentials counts.
    pub fn distrusts(&self) -> i64 {
        self.distrusts.load(Ordering::Relaxed)
    }

    /// How it had failed before, if it had.
    pub fn succeeded(&self, what: Option<Task>) -> Option<Backoff> {
        lock(&self.backoffs).remove(&what)
    }

    /// There is nothing to do but what these tasks do: nothing else is tried any more, and so not in trouble.
    pub fn waits_for(&self, tasks: &BTreeSet<Task>) {
        lock(&self.backoffs).retain(|what, _| what.is_some_and(|task| tasks.contains(&task)));
    }

    /// When it is tried again, [`Backoff`] knows.
    pub fn failed(&self, what: Option<Task>, failed: Failed, now: i64, jitter: u8) {
        if !failed.error.retryable {
            self.distrusts.store(now, Ordering::Relaxed);
        }
        lock(&self.backoffs).entry(what).or_default().failed(failed, now, jitter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::StepError;
    use crate::lifecycle::AttemptKey;

    fn fails(session: &Session, what: Option<Task>, reason: &'static str, now: i64) {
        let error =
            StepError { api_server_unavailable: reason == "KubernetesUnavailable", ..StepError::passing(reason, "") };
        session.failed(what, Failed { call: "Call", error, took: 0 }, now, 0);
    }

    /// Tasks that may not be tried again yet at `now`, and when the first of them may.
    fn held_back(session: &Session, now: i64) -> (BTreeSet<Task>, Option<i64>) {
        let mut memory = Memory { failed_calls: session.failed_calls(), ..Default::default() };
        let due = memory.hold_back(now);
        (memory.running, due)
    }

    #[test]
    fn what_goes_well_does_not_hide_what_does_not_and_what_does_not_holds_nothing_else_back() {
        let session = Session::default();
        let collect = Task::Collect(AttemptKey { shard: 1, attempt: 1 });
        for now in 0..4 {
            fails(&session, Some(collect), "ProviderUnavailable", now);
            fails(&session, None, "StorageUnavailable", now);
            session.succeeded(None);
            session.succeeded(Some(Task::Plan));
        }
        assert_eq!(session.backoff(None).failures, 0, "the steps go well");
        let told = || session.lasting(|_| true).and_then(|b| b.told()).map(|blocked| blocked.reason);
        assert_eq!((session.backoff(Some(collect)).failures, told()), (4, Some("ProviderUnavailable")));
        (0..9).for_each(|now| fails(&session, None, "KubernetesUnavailable", now));
        assert_eq!(told(), Some("ProviderUnavailable"), "what cannot be told hides nothing");
        assert_eq!(held_back(&session, 8_002), ([collect].into(), Some(8_003)));
        assert_eq!(held_back(&session, 8_003), (BTreeSet::new(), None));
        session.waits_for(&[collect].into());
        assert_eq!(told(), Some("ProviderUnavailable"), "it is being tried");
        session.waits_for(&BTreeSet::new());
        assert_eq!(told(), None, "nobody tries it any more");
    }

    #[test]
    fn the_failures_of_one_batch_are_not_reset_by_anothers_success() {
        let session = Session::default();
        let [bad, good] = [0, 1].map(|shard| Some(Task::Call(AttemptKey { shard, attempt: 1 })));
        for now in 0..5 {
            fails(&session, bad, "ProviderUnavailable", now);
            session.succeeded(good);
        }
        assert_eq!(session.lasting(|_| true).map(|b| b.failures), Some(5));
    }

    #[test]
    fn an_account_that_is_back_is_tried_at_once_and_its_failures_are_not_forgotten() {
        let session = Session::default();
        let poll = Task::Call(AttemptKey { shard: 0, attempt: 1 });
        (0..5).for_each(|now| fails(&session, Some(poll), "ProviderUnavailable", now));
        assert!(held_back(&session, 5).0.contains(&poll));
        assert!(session.try_again());
        assert_eq!((held_back(&session, 5), session.backoff(Some(poll)).failures), ((BTreeSet::new(), None), 5));
        session.succeeded(Some(poll));
        assert!(!session.try_again(), "there is nothing to try");
    }
}
