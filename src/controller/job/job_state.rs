//! The state that this process keeps of one job between visits. Losing it is always safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, FailedCall};
use super::cached_job::CachedJob;
use super::clients::Clients;
use super::journal::VersionedJournal;
use super::permit::PostPermit;
use super::spans::TraceState;
use super::task_room::TaskRooms;
use crate::api::BatchJob;
use crate::controller::provider::ProviderKey;
use crate::fair::{Budget, Grant};
use crate::lifecycle::{Memory, Task, Waiting};

/// The states that this process keeps of jobs, by the uid of the job.
pub(crate) struct JobStates {
    jobs: Mutex<HashMap<String, Arc<JobState>>>,
    /// The memory for large clients of jobs that are being deleted.
    of_deletions: Arc<Budget>,
}

/// Bytes of large clients of jobs that are being deleted: where a namespace goes, its Secrets are gone before its jobs, and clients that
/// are dropped cannot be opened again.
const OF_DELETIONS: u64 = 8 << 20;

impl Default for JobStates {
    fn default() -> Self {
        JobStates { jobs: Mutex::default(), of_deletions: Budget::new(OF_DELETIONS) }
    }
}

impl JobStates {
    /// Returns the state of `job`, whose uid is `uid`, and creates it if there is none.
    pub fn get(&self, uid: &str, job: &BatchJob) -> Arc<JobState> {
        let job_state = lock(&self.jobs).entry(uid.to_string()).or_default().clone();
        lock(&job_state.job).get_or_insert_with(|| ObjectRef::from_obj(job));
        job_state
    }

    /// Returns true if the last step of the job with this uid failed, tasks aside.
    pub fn has_failed(&self, uid: &str) -> bool {
        lock(&self.jobs).get(uid).is_some_and(|job_state| job_state.backoff(None).failures > 0)
    }

    /// Lets the jobs of this account try everything that failed again at once. Returns those that had failures, to visit them.
    pub fn try_again(&self, account: &ProviderKey) -> Vec<ObjectRef<BatchJob>> {
        let job_states: Vec<Arc<JobState>> = lock(&self.jobs).values().cloned().collect();
        let jobs = job_states.iter().filter(|s| s.account().as_ref() == Some(account) && s.try_again());
        jobs.filter_map(|job_state| lock(&job_state.job).clone()).collect()
    }

    /// Records a hint for a batch, if the job with this uid follows it, and returns the job, to visit it. A job whose
    /// findings were let go looks at its batches anyway once it is visited; for such a job, `is_named` tells whether
    /// the batch is one of them.
    pub fn hint(
        &self,
        uid: &str,
        batch_id: &str,
        now: i64,
        is_named: impl FnOnce(&ObjectRef<BatchJob>) -> bool,
    ) -> Option<ObjectRef<BatchJob>> {
        let job_state = lock(&self.jobs).get(uid).cloned()?;
        let (mut follows, mut has_looked) = (false, false);
        job_state.remember(|m| {
            (follows, has_looked) = (m.looks.contains_key(batch_id), !m.looks.is_empty());
            if follows {
                m.hint(batch_id, now);
            }
        });
        let job = lock(&job_state.job).clone()?;
        (follows || !has_looked && is_named(&job)).then_some(job)
    }

    /// Returns the number of failing calls that deserve a person's attention, by the step or transfer that makes them.
    pub fn failing(&self) -> Vec<(&'static str, i64)> {
        let job_states: Vec<Arc<JobState>> = lock(&self.jobs).values().cloned().collect();
        let mut calls = BTreeMap::new();
        for job_state in job_states {
            for backoff in lock(&job_state.backoffs).values().filter(|b| b.error().is_some()) {
                *calls.entry(backoff.call).or_insert(0) += 1;
            }
        }
        calls.into_iter().collect()
    }

    /// Returns the bytes that the state of the job with this uid keeps; None if there is none.
    pub fn weight(&self, uid: &str) -> Option<usize> {
        let job_state = lock(&self.jobs).get(uid).cloned()?;
        Some(job_state.weight())
    }

    /// Drops what the state of the job with this uid keeps and can find out again.
    pub fn let_go(&self, uid: &str) {
        let job_state = lock(&self.jobs).get(uid).cloned();
        if let Some(job_state) = job_state {
            job_state.let_go(&self.of_deletions);
        }
    }

    /// Returns the bytes that a visit of the job with this uid needs; None for a small visit.
    pub fn room(&self, uid: &str) -> Option<u64> {
        let job_state = lock(&self.jobs).get(uid).cloned()?;
        *lock(&job_state.room)
    }

    /// Gives back room for tasks that the last visit of the job with this uid did not use.
    pub fn give_back_room(&self, uid: &str) {
        let job_state = lock(&self.jobs).get(uid).cloned();
        if let Some(job_state) = job_state {
            job_state.task_rooms.give_back();
        }
    }

    /// Ends the state of the job with this uid, and its tasks.
    pub fn end(&self, uid: &str) {
        if let Some(job_state) = lock(&self.jobs).remove(uid) {
            job_state.stop.cancel();
        }
    }

    /// Returns the uids of the jobs for which `is_gone` is true. A job whose finalizer a person removed by hand has no last visit
    /// that drops its state.
    pub fn uids_where(&self, is_gone: impl Fn(&str, &ObjectRef<BatchJob>) -> bool) -> Vec<String> {
        let all = lock(&self.jobs);
        let gone = all.iter().filter(|(uid, state)| lock(&state.job).as_ref().is_some_and(|job| is_gone(uid, job)));
        gone.map(|(uid, _)| uid.clone()).collect()
    }
}

/// The state that this process keeps of one job.
#[derive(Default)]
pub(crate) struct JobState {
    memory: Mutex<Memory>,
    permit: Mutex<Option<PostPermit>>,
    /// The backoff of each task and, under None, of the steps that are not tasks. A success resets only its own entry.
    backoffs: Mutex<HashMap<Option<Task>, Backoff>>,
    /// The last reason to wait, and the time (Unix milliseconds) since which the job waits at this stage.
    waiting: Mutex<Option<(Waiting, i64)>>,
    job: Mutex<Option<ObjectRef<BatchJob>>>,
    clients: Mutex<Option<Arc<Clients>>>,
    /// The memory for clients that are large and kept for a deletion.
    kept_for_deletion: Mutex<Option<Grant>>,
    /// The account and the credentials of the last clients.
    opened: Mutex<Option<Opened>>,
    /// The journal that this process read or wrote last.
    journal: Mutex<Option<VersionedJournal>>,
    /// The time at which that journal was known to be current (Unix milliseconds).
    journal_at: AtomicI64,
    /// The last look at the object.
    seen: Mutex<Option<CachedJob>>,
    /// The parts of the object with which a person asks for another try, as they were last seen.
    asked: Mutex<String>,
    /// Credentials that were read before this time (Unix milliseconds) are read again before they are used.
    distrusts: AtomicI64,
    references: Mutex<References>,
    /// The bytes that a visit needs; None if it is a small one.
    room: Mutex<Option<u64>>,
    /// The MiB that a transfer needs, for each transfer that outgrew its place.
    needs: Mutex<BTreeMap<Task, u64>>,
    /// The MiB of local disk that a transfer needs, for each one that outgrew its share.
    disk_needs: Mutex<BTreeMap<Task, u64>>,
    /// The last end of a batch that this process settled, by the provider's clock where it tells (Unix milliseconds); 0: none.
    pub last_end: AtomicI64,
    /// Lets the job look at one batch at a time, so that a server that asks for a pause is spared the other looks.
    pub looks: tokio::sync::Mutex<()>,
    /// The job's trace.
    pub trace: TraceState,
    /// Room for the job's background tasks.
    pub task_rooms: TaskRooms,
    /// Ends the job's background tasks.
    pub stop: CancellationToken,
}

/// The account that a job used last, and what changes with its credentials.
struct Opened {
    account: ProviderKey,
    credentials: (String, Option<String>),
}

/// Bytes of clients, of findings and of errors, each, that the state of a job keeps in any case.
const SMALL: usize = 16 << 10;

/// The versions of the objects that a job refers to, from before this process read any of them.
#[derive(Clone, Debug, Default)]
pub(crate) enum References {
    #[default]
    /// Nobody has looked yet.
    NotLooked,
    /// The versions could not be read in time.
    Unknown,
    /// The mark of the versions.
    Mark(String),
}

/// Locks the mutex even if it is poisoned: it guards a cache, which stays usable after a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobState {
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

    /// Takes the permit, which the caller uses or gives back with [`JobState::hold_permit`].
    pub fn take_permit(&self) -> Option<PostPermit> {
        self.remember(|m| m.permit = None);
        lock(&self.permit).take()
    }

    /// Returns the MiB that this transfer needs, if it outgrew its place before.
    pub fn need(&self, task: Task) -> Option<u64> {
        lock(&self.needs).get(&task).copied()
    }

    /// Records the MiB that this transfer needs.
    pub fn found_need(&self, task: Task, need: u64) {
        let mut needs = lock(&self.needs);
        let known = needs.entry(task).or_default();
        *known = need.max(*known);
    }

    /// Returns the MiB of local disk that this transfer needs, if it outgrew its share before.
    pub fn disk_need(&self, task: Task) -> Option<u64> {
        lock(&self.disk_needs).get(&task).copied()
    }

    /// Records the MiB of local disk that this transfer needs.
    pub fn found_disk_need(&self, task: Task, need: u64) {
        lock(&self.disk_needs).insert(task, need);
    }

    /// Records the bytes that a visit needs; None for a small one.
    pub fn found_room(&self, room: Option<u64>) {
        *lock(&self.room) = room;
    }

    /// Returns the journal that this process read or wrote last. The one in storage may be newer.
    pub fn journal(&self) -> Option<VersionedJournal> {
        lock(&self.journal).clone()
    }

    pub fn keep_journal(&self, journal: Option<VersionedJournal>) {
        *lock(&self.journal) = journal;
    }

    /// Drops the cached journal, so that the next read fetches all of it.
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

    /// Keeps the clients. If their credentials differ from those of the clients before, everything that failed is tried again
    /// at once.
    pub fn keep_clients(&self, clients: Arc<Clients>) {
        *lock(&self.clients) = Some(clients.clone());
        let opened = Opened { account: clients.account.object.clone(), credentials: clients.credentials.clone() };
        let before = lock(&self.opened).replace(opened);
        if before.is_some_and(|before| before.credentials != clients.credentials) {
            lock(&self.backoffs).clear();
        }
    }

    /// Returns the provider's account; None before the clients were opened.
    pub fn account(&self) -> Option<ProviderKey> {
        lock(&self.opened).as_ref().map(|opened| opened.account.clone())
    }

    /// Takes in the time (Unix milliseconds) since which the clock runs without being set. If that time changed,
    /// findings, looks and pauses that end with a time are dropped.
    pub fn clock_runs_since(&self, since: i64) {
        let mut was_set = false;
        self.remember(|m| was_set = m.clock_runs_since(since));
        if was_set {
            self.keep_seen(None);
            self.journal_is_old();
            self.distrusts.store(0, Ordering::Relaxed);
            self.try_again();
        }
    }

    /// Returns the bytes that are kept of the job between visits: its object and its journal, and of all else what is large.
    fn weight(&self) -> usize {
        let large = |bytes: usize| if bytes > SMALL { bytes } else { 0 };
        let (seen, journal) = (self.seen().map_or(0, |seen| seen.weight), self.journal());
        let journal = journal.map_or(0, |(journal, _)| journal.weight());
        let clients = lock(&self.clients).as_ref().map_or(0, |clients| clients.weight());
        let errors = lock(&self.backoffs).values().map(Backoff::weight).sum();
        seen + journal + large(clients) + large(lock(&self.memory).weight()) + large(errors)
    }

    /// Drops the object, the journal, and clients and findings that are large. All of them can be found out again, as after a
    /// restart of the operator. Of errors the texts are dropped. Clients of a job that is being deleted are kept if there is memory.
    fn let_go(&self, of_deletions: &Arc<Budget>) {
        let is_deleting = self.seen().is_some_and(|seen| seen.job.metadata.deletion_timestamp.is_some());
        self.keep_seen(None);
        self.journal_is_old();
        self.forget_journal();
        lock(&self.clients).take_if(|clients| !self.keeps_clients(clients.weight(), is_deleting, of_deletions));
        self.remember(|memory| {
            if memory.weight() > SMALL {
                memory.start_anew();
            }
        });
        let mut backoffs = lock(&self.backoffs);
        if backoffs.values().map(Backoff::weight).sum::<usize>() > SMALL {
            backoffs.values_mut().for_each(Backoff::shorten);
        }
    }

    /// Returns whether clients of so many bytes are kept when a job state is let go.
    fn keeps_clients(&self, bytes: usize, is_deleting: bool, of_deletions: &Arc<Budget>) -> bool {
        let mut kept = lock(&self.kept_for_deletion);
        if bytes > SMALL && is_deleting && kept.is_none() {
            let namespace = lock(&self.job).as_ref().and_then(|job| job.namespace.clone()).unwrap_or_default();
            *kept = of_deletions.take(&namespace, bytes as u64);
        }
        bytes <= SMALL || kept.is_some()
    }

    /// Records the reason to wait at `now`, which status also shows when a later step fails. Returns the time (Unix
    /// milliseconds) since which the job waits at this stage.
    pub fn waits(&self, why: &Waiting, now: i64) -> i64 {
        let mut waiting = lock(&self.waiting);
        let since = waiting.as_ref().filter(|(last, _)| last.stage == why.stage).map_or(now, |(_, since)| *since);
        *waiting = Some((why.clone(), since));
        since
    }

    /// Returns the last reason to wait.
    pub fn waiting(&self) -> Option<Waiting> {
        lock(&self.waiting).as_ref().map(|(why, _)| why.clone())
    }

    /// Returns the last look at the object.
    pub fn seen(&self) -> Option<CachedJob> {
        lock(&self.seen).clone()
    }

    /// Keeps a look at the object; None drops a look that turned out to be outdated.
    pub fn keep_seen(&self, seen: Option<CachedJob>) {
        *lock(&self.seen) = seen;
    }

    /// Returns the time (Unix milliseconds) at which the cached journal, or its absence, was known to be current.
    pub fn journal_at(&self) -> i64 {
        self.journal_at.load(Ordering::Relaxed)
    }

    /// Records that the cached journal was the one in storage at this time (Unix milliseconds).
    pub fn journal_is_of(&self, at: i64) {
        self.journal_at.store(at, Ordering::Relaxed);
    }

    /// Marks the cached journal as outdated: it is read again before the next decision.
    pub fn journal_is_old(&self) {
        self.journal_is_of(0);
    }

    /// Returns the backoff of this task or, for None, of the steps that are not tasks. The next try is made once it is over.
    pub fn backoff(&self, what: Option<Task>) -> Backoff {
        lock(&self.backoffs).get(&what).cloned().unwrap_or_default()
    }

    /// Returns the backoff with the most failures in a row, of those that `of` selects and that deserve a person's attention.
    pub fn lasting(&self, of: impl Fn(&Option<Task>) -> bool) -> Option<Backoff> {
        let backoffs = lock(&self.backoffs);
        let blocked = backoffs.iter().filter(|(what, b)| of(what) && b.error().is_some());
        blocked.max_by_key(|(_, b)| b.failures).map(|(_, b)| b.clone())
    }

    /// Returns true if a person may fix the cause of a failure at any time.
    pub fn may_be_fixed(&self) -> bool {
        lock(&self.backoffs).values().any(Backoff::may_be_fixed)
    }

    /// Ends the pauses of everything that failed, and keeps the numbers of failures. Returns false if nothing had failed.
    fn try_again(&self) -> bool {
        let mut backoffs = lock(&self.backoffs);
        backoffs.values_mut().for_each(|b| b.until = 0);
        !backoffs.is_empty()
    }

    /// Returns the tasks whose last call failed, with the time of the next try.
    pub fn failed_calls(&self) -> BTreeMap<Task, i64> {
        lock(&self.backoffs).iter().filter_map(|(task, b)| Some(((*task)?, b.until))).collect()
    }

    /// Clears all backoffs and the pause before the next look for the input if `what` a person asks for differs from the last
    /// call's. Credentials are then read again, except at
    /// the first call.
    pub fn asked(&self, what: String, now: i64) {
        let mut last = lock(&self.asked);
        if *last != what {
            if !last.is_empty() {
                self.distrusts.store(now, Ordering::Relaxed);
            }
            *last = what;
            lock(&self.backoffs).clear();
            self.remember(Memory::look_for_input_again);
        }
    }

    /// Returns the earliest time (Unix milliseconds) at which credentials may have been read that are still used.
    pub fn distrusts(&self) -> i64 {
        self.distrusts.load(Ordering::Relaxed)
    }

    /// Removes the backoff of a task or, for None, of the steps that are not tasks. Returns it if there was one.
    pub fn succeeded(&self, what: Option<Task>) -> Option<Backoff> {
        lock(&self.backoffs).remove(&what)
    }

    /// Keeps only the backoffs of these tasks. The job waits for them and tries nothing else, so that no other failure lasts.
    pub fn waits_for(&self, tasks: &BTreeSet<Task>) {
        lock(&self.backoffs).retain(|what, _| what.is_some_and(|task| tasks.contains(&task)));
    }

    /// Records a failure at `now`; [`Backoff`] has the time of the next try. If the failure may be one of the credentials, they
    /// are read again before that.
    pub fn failed(&self, what: Option<Task>, failed: FailedCall, now: i64, jitter: u8) {
        if !failed.error.retryable {
            self.distrusts.store(now, Ordering::Relaxed);
        }
        lock(&self.backoffs).entry(what).or_default().failed(failed, now, jitter);
    }
}

#[cfg(test)]
mod tests;
