//! Places for batches: `limits.maxBatchesInFlight` of a provider object, and a limit on the jobs that submit at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::lifecycle::{Applicant, InFlight, Room, admit};

/// Maximum number of jobs that submit at a time: twice the calls in flight, so that the right to submit does not expire in the
/// queue. One namespace has at most half of these places, which is as many as calls are in flight.
const SUBMITTING: usize = 16;
/// Milliseconds after which a job that has a place, but whose POST is not under way, counts as stalled: it waits for its visit,
/// or for its own store.
const STALLED: i64 = 3_000;
/// Milliseconds for which a place is kept for a job that does not use it.
const KEPT: i64 = 30_000;
/// Milliseconds for which a job that was about to submit counts as such without further news of it.
const HEARD: i64 = 60_000;
/// Milliseconds for which the status of a job counts while its journal is not read. Anybody may have written that status.
const GUESSED: i64 = 600_000;
/// Milliseconds between two checks whether such a time is over.
const LOOK: i64 = 1_000;

/// The places of one provider object, whatever its credential.
pub struct Quota {
    clock: super::Clock,
    state: Mutex<State>,
}

impl std::fmt::Debug for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quota").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    limit: Option<usize>,
    /// Jobs by uid.
    jobs: HashMap<String, Job>,
    waiting: Vec<Waiter>,
    turns: u64,
    /// Time of the last check which jobs can have a place.
    looked: i64,
    /// See [`InFlight::served`].
    served: BTreeMap<String, u64>,
}

struct Job {
    namespace: String,
    /// Batches that may exist and have not ended.
    live: usize,
    /// Time at which it was guessed from the job's status; None if it is from the journal.
    guessed: Option<i64>,
    submission: Submission,
    /// Time of the last report of `submission`.
    said: i64,
    place: Option<GivenPlace>,
}

/// Progress of a job with the submission of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// The job does not submit.
    None,
    /// The job is about to submit: its intent is being written, or it holds a permit.
    Begun,
    /// The POST is under way, or waits for its turn at the account.
    Posting,
}

/// A place that was given to a job.
#[derive(Clone, Copy)]
enum GivenPlace {
    /// Given at this time, and not used yet.
    Since(i64),
    /// Used; the result shows in the job's journal when that is read next.
    Used,
}

struct Waiter {
    job: String,
    applicant: Applicant,
    give: oneshot::Sender<()>,
}

/// The reason why a job has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaFull {
    /// Other jobs are submitting; this takes a moment.
    Submitting,
    /// This number of batches is in flight, which is the limit.
    Batches(usize),
}

impl Quota {
    pub(super) fn new(clock: super::Clock) -> Arc<Quota> {
        Arc::new(Quota { clock, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `limits.maxBatchesInFlight`.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.lock().limit = limit;
        self.give_out();
    }

    /// Takes in a job's status, for as long as its journal was not read.
    pub fn guess(&self, job: &str, namespace: &str, live: usize) {
        let now = (self.clock)();
        let mut state = self.lock();
        if live == 0 && !state.jobs.contains_key(job) {
            return;
        }
        let of = state.jobs.entry(job.into()).or_insert_with(|| Job { guessed: Some(now), ..Job::of(namespace) });
        if of.guessed.is_some() {
            of.live = live;
        }
    }

    /// Takes in a job's journal: the batches that may exist and have not ended, and the progress with one more.
    pub fn report(&self, job: &str, namespace: &str, live: usize, submission: Submission) {
        let now = (self.clock)();
        {
            let mut state = self.lock();
            let of = state.job(job, namespace);
            (of.live, of.guessed, of.submission, of.said) = (live, None, submission, now);
            if matches!(of.place, Some(GivenPlace::Used)) {
                of.place = None;
            }
        }
        self.give_out();
    }

    /// Returns the reason why a job of `namespace` would have to wait with a submission; None if there is room, or it has a
    /// place.
    pub fn full(&self, job: &str, namespace: &str) -> Option<QuotaFull> {
        let (now, state) = ((self.clock)(), self.lock());
        if state.jobs.get(job).is_some_and(|of| of.has_place(now)) {
            return None;
        }
        state.full(now, namespace)
    }

    /// Uses the job's place, or a free one. Returns None if there is none any more.
    pub fn take(self: &Arc<Self>, job: &str, namespace: &str) -> Option<UsedPlace> {
        let now = (self.clock)();
        let mut state = self.lock();
        let had_place = state.job(job, namespace).has_place(now);
        if !had_place && state.full(now, namespace).is_some() {
            return None;
        }
        if !had_place {
            state.serve(namespace);
        }
        let of = state.job(job, namespace);
        (of.place, of.submission, of.said) = (Some(GivenPlace::Used), Submission::Begun, now);
        Some(UsedPlace { quota: self.clone(), job: job.into(), has_permit: false })
    }

    /// Forgets that the job was about to submit.
    fn give_up(&self, job: &str) {
        if let Some(of) = self.lock().jobs.get_mut(job) {
            (of.place, of.submission) = (None, Submission::None);
        }
        self.give_out();
    }

    /// Gives back a place that the job does not need now.
    pub fn release(&self, job: &str) {
        let mut state = self.lock();
        let of = state.jobs.get_mut(job);
        let is_released =
            of.is_some_and(|of| of.place.take_if(|place| matches!(place, GivenPlace::Since(_))).is_some());
        drop(state);
        if is_released {
            self.give_out();
        }
    }

    /// Waits until the job has a place. Dropping the future takes it out of the queue.
    pub async fn place(&self, job: &str, namespace: &str) {
        let (give, mut given) = oneshot::channel();
        {
            let mut state = self.lock();
            state.turns += 1;
            let applicant = Applicant { namespace: namespace.into(), turn: state.turns };
            state.waiting.push(Waiter { job: job.into(), applicant, give });
        }
        self.give_out();
        while let Err(_later) = tokio::time::timeout(Duration::from_millis(LOOK.unsigned_abs()), &mut given).await {
            // One check serves all waiting jobs.
            if (self.clock)() >= self.lock().looked + LOOK {
                self.give_out();
            }
        }
    }

    /// Returns true if the journal of the job was reported.
    pub(super) fn has_reported(&self, job: &str) -> bool {
        self.lock().jobs.get(job).is_some_and(|of| of.guessed.is_none())
    }

    /// Returns the uids of the jobs that count at this provider object.
    pub(super) fn jobs(&self) -> Vec<String> {
        self.lock().jobs.keys().cloned().collect()
    }

    /// Returns true if any job counts here.
    pub(super) fn counts_jobs(&self) -> bool {
        !self.lock().jobs.is_empty()
    }

    /// Forgets a job that is over.
    pub fn forget(&self, job: &str) {
        let known = {
            let mut state = self.lock();
            let known = state.jobs.remove(job);
            if let Some(of) = &known
                && !state.jobs.values().any(|other| other.namespace == of.namespace)
            {
                state.served.remove(&of.namespace);
            }
            known
        };
        if known.is_some() {
            self.give_out();
        }
    }

    fn give_out(&self) {
        let now = (self.clock)();
        let mut state = self.lock();
        state.looked = now;
        state.waiting.retain(|waiter| !waiter.give.is_closed());
        let waiting: Vec<Applicant> = state.waiting.iter().map(|w| w.applicant.clone()).collect();
        if waiting.is_empty() {
            return;
        }
        let mut admitted = admit(state.room(), state.in_flight(now), &waiting);
        admitted.sort_unstable_by(|a, b| b.cmp(a));
        for i in admitted {
            let Waiter { job, applicant, give } = state.waiting.swap_remove(i);
            if give.send(()).is_ok() {
                state.serve(&applicant.namespace);
                state.job(&job, &applicant.namespace).place = Some(GivenPlace::Since(now));
            }
        }
    }
}

impl State {
    fn job(&mut self, job: &str, namespace: &str) -> &mut Job {
        self.jobs.entry(job.into()).or_insert_with(|| Job::of(namespace))
    }

    fn serve(&mut self, namespace: &str) {
        let last = self.served.values().max().copied().unwrap_or(0);
        self.served.insert(namespace.into(), last + 1);
    }

    fn room(&self) -> Room {
        Room { batches: self.limit, submitting: SUBMITTING }
    }

    fn in_flight(&self, now: i64) -> InFlight {
        let mut in_flight = InFlight { served: self.served.clone(), ..Default::default() };
        for job in self.jobs.values() {
            let has_place = job.has_place(now);
            let is_out_of_date = job.guessed.is_some_and(|guessed| now >= guessed + GUESSED);
            let batches = if is_out_of_date { 0 } else { job.live } + usize::from(has_place);
            if batches > 0 {
                *in_flight.batches.entry(job.namespace.clone()).or_insert(0) += batches;
            }
            if has_place || job.is_submitting(now) {
                *in_flight.submitting.entry(job.namespace.clone()).or_insert(0) += 1;
                in_flight.stalled += usize::from(job.is_stalled(now));
            }
        }
        in_flight
    }

    fn full(&self, now: i64, namespace: &str) -> Option<QuotaFull> {
        let (in_flight, room) = (self.in_flight(now), self.room());
        match in_flight.has_room(room, namespace) {
            true => None,
            false if in_flight.has_room(Room { submitting: usize::MAX, ..room }, namespace) => {
                Some(QuotaFull::Submitting)
            }
            false => Some(QuotaFull::Batches(room.batches.unwrap_or_default())),
        }
    }
}

impl Job {
    fn of(namespace: &str) -> Job {
        Job { namespace: namespace.into(), live: 0, guessed: None, submission: Submission::None, said: 0, place: None }
    }

    fn has_place(&self, now: i64) -> bool {
        match self.place {
            Some(GivenPlace::Since(given)) => now < given + KEPT,
            Some(GivenPlace::Used) => self.is_submitting(now),
            None => false,
        }
    }

    fn is_submitting(&self, now: i64) -> bool {
        self.submission != Submission::None && now < self.said + HEARD
    }

    fn is_stalled(&self, now: i64) -> bool {
        match (self.submission, self.place) {
            (Submission::Posting, _) => false,
            (Submission::None, Some(GivenPlace::Since(given))) => now >= given + STALLED,
            _ => now >= self.said + STALLED,
        }
    }
}

/// A place in use while the intent is being written. Dropping it frees the place, unless there is a permit to POST.
#[derive(Debug)]
#[must_use]
pub struct UsedPlace {
    quota: Arc<Quota>,
    job: String,
    has_permit: bool,
}

impl UsedPlace {
    /// Keeps the place until the job's journal shows the outcome of the POST.
    pub fn keep(mut self) {
        self.has_permit = true;
    }
}

impl Drop for UsedPlace {
    fn drop(&mut self) {
        if !self.has_permit {
            self.quota.give_up(&self.job);
        }
    }
}

#[cfg(test)]
mod tests;
