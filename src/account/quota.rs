//! Places for batches: the limits of a provider object on what is in flight, and a limit on the jobs that submit at a time.

mod job;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use job::{GivenPlace, Job, Place};
pub use job::{JobUse, Submission};

use crate::api::EnqueuedTokenLimits;
use crate::lifecycle::{
    AccountUsage, Applicant, BatchLoad, CapacityNews, InFlight, Lack, Load, Room, ShownRoom, admit,
};

/// Maximum number of jobs that submit at a time: twice the calls in flight, so that the right to submit does not expire in the
/// queue. One namespace has at most half of these places, which is as many as calls are in flight.
const SUBMITTING: usize = 16;
/// Least milliseconds between two reports of the use of the account.
const REPORT: i64 = 60_000;
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
    limits: AccountLimits,
    /// The room that the account showed to have.
    shown_room: ShownRoom,
    /// The use that this process reported last.
    reported: Option<AccountUsage>,
    /// Time of the last check whether the use is to be reported, and from which on it may be (Unix milliseconds).
    report_looked: i64,
    report_from: i64,
    /// Jobs by uid.
    jobs: HashMap<String, Job>,
    waiting: Vec<Waiter>,
    turns: u64,
    /// Time of the last check which jobs can have a place.
    looked: i64,
    /// See [`InFlight::served`].
    served: BTreeMap<String, u64>,
}

/// Limits of a provider object on what is in flight over all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// `limits.maxBatchesInFlight`
    pub batches: Option<usize>,
    /// `limits.maxEnqueuedRequests`
    pub requests: Option<u64>,
    /// `models[].maxEnqueuedTokens`
    pub tokens: EnqueuedTokenLimits,
}

struct Waiter {
    job: String,
    applicant: Applicant,
    give: oneshot::Sender<()>,
}

/// The reason why a job has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaFull {
    /// Other jobs are submitting; this takes a moment.
    Submitting,
    /// The account has no room for the batch.
    NoRoom {
        /// The limit that keeps it back, with its value; None if the room is for a batch that comes before.
        limit: Option<(Lack, u64)>,
        /// Number of jobs of the same namespace that come before.
        before: usize,
    },
}

impl Quota {
    pub(super) fn new(clock: super::Clock) -> Arc<Quota> {
        Arc::new(Quota { clock, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limits.
    pub fn set_limits(&self, limits: AccountLimits) {
        self.lock().limits = limits;
        self.give_out();
    }

    /// Takes in a job's status, for as long as its journal was not read.
    pub fn guess(&self, job: &str, namespace: &str, live: Load) {
        let now = (self.clock)();
        let mut state = self.lock();
        if live.batches == 0 && !state.jobs.contains_key(job) {
            return;
        }
        let of = state.jobs.entry(job.into()).or_insert_with(|| Job { guessed: Some(now), ..Job::of(namespace) });
        if of.guessed.is_some() {
            of.live = live;
        }
    }

    /// Takes in a job's journal: the batches that may exist and have not ended, and the progress with one more.
    pub fn report(&self, job: &str, namespace: &str, JobUse { live, next_end, submission }: JobUse) {
        let now = (self.clock)();
        {
            let mut state = self.lock();
            let of = state.job(job, namespace);
            (of.live, of.next_end, of.guessed, of.submission, of.said) = (live, next_end, None, submission, now);
            of.place.take_if(|place| matches!(place.given, GivenPlace::Used));
        }
        self.give_out();
    }

    /// Takes in what a change of a job's journal says about the room of the account. `live` are the batches that may exist after it, and
    /// have not ended.
    pub fn learn(&self, job: &str, live: Load, news: &[CapacityNews]) {
        let now = (self.clock)();
        {
            let mut state = self.lock();
            if let Some(of) = state.jobs.get_mut(job) {
                of.live = live;
                of.place.take_if(|place| matches!(place.given, GivenPlace::Used));
            }
            let in_flight = state.in_flight(now, None).load;
            news.iter().for_each(|news| state.shown_room.learn(news, &in_flight, now));
        }
        self.give_out();
    }

    /// Returns the use of the account.
    pub fn usage(&self) -> AccountUsage {
        self.lock().usage((self.clock)())
    }

    /// Returns whether the use is another one than was reported last; true once a minute at most.
    pub fn is_to_be_reported(&self) -> bool {
        let (now, mut state) = ((self.clock)(), self.lock());
        if now < state.report_from || now < state.report_looked + LOOK {
            return false;
        }
        state.report_looked = now;
        let usage = state.usage(now);
        let is_news = state.reported.as_ref().is_none_or(|reported| !reported.is_same(&usage));
        if is_news {
            state.report_from = now + REPORT;
        }
        is_news
    }

    /// Records that the use was reported. Returns whether it is the one that was reported last.
    pub fn reports(&self, usage: &AccountUsage) -> bool {
        let before = self.lock().reported.replace(usage.clone());
        before.is_some_and(|before| before.is_same(usage))
    }

    /// Records that the last report was not written.
    pub fn was_not_reported(&self) {
        self.lock().reported = None;
    }

    /// Returns the reason why a job would have to wait with the batch that it `wants` to submit; None if there is room, or it has
    /// a place for it. If the job waits, it waits for this batch from now on. Its turn is the quota's to say.
    pub fn full(&self, job: &str, wants: &Applicant) -> Option<QuotaFull> {
        self.lock().full((self.clock)(), job, wants)
    }

    /// Uses the job's place, or free room, for the batch that it `wants` to submit. Returns None if there is none any more.
    pub fn take(self: &Arc<Self>, job: &str, wants: &Applicant) -> Option<UsedPlace> {
        let now = (self.clock)();
        let mut state = self.lock();
        if state.full(now, job, wants).is_some() {
            return None;
        }
        if !state.has_place_for(now, job, &wants.load) {
            state.serve(&wants.namespace);
        }
        let of = state.job(job, &wants.namespace);
        of.place = Some(Place { load: wants.load.clone(), given: GivenPlace::Used });
        (of.submission, of.said) = (Submission::Begun, now);
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
            of.is_some_and(|of| of.place.take_if(|place| matches!(place.given, GivenPlace::Since(_))).is_some());
        drop(state);
        if is_released {
            self.give_out();
        }
    }

    /// Waits until the job has a place for the batch that it `wants` to submit. Dropping the future takes it out of the queue.
    pub async fn place(&self, job: &str, wants: Applicant) {
        let (give, mut given) = oneshot::channel();
        {
            let mut state = self.lock();
            state.turns += 1;
            let applicant = Applicant { turn: state.turns, ..wants };
            // A place for another batch is of no use.
            if let Some(of) = state.jobs.get_mut(job) {
                of.place.take_if(|place| matches!(place.given, GivenPlace::Since(_)));
            }
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

    /// Returns what is in flight, or has a place, by namespace.
    pub(super) fn in_flight(&self) -> BTreeMap<String, Load> {
        let (now, state) = ((self.clock)(), self.lock());
        let mut loads: BTreeMap<String, Load> = BTreeMap::new();
        for job in state.jobs.values() {
            let load = loads.entry(job.namespace.clone()).or_default();
            job.live(now).into_iter().for_each(|live| load.merge(live));
            job.place(now).into_iter().for_each(|place| load.add(&place.load));
        }
        loads.retain(|_, load| load.batches > 0);
        loads
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
        let in_flight = state.in_flight(now, None);
        let mut admitted = admit(&state.room(&in_flight.load, now), in_flight, &waiting);
        admitted.sort_unstable_by(|a, b| b.cmp(a));
        for i in admitted {
            let Waiter { job, applicant, give } = state.waiting.swap_remove(i);
            if give.send(()).is_ok() {
                state.serve(&applicant.namespace);
                let place = Place { load: applicant.load, given: GivenPlace::Since(now) };
                state.job(&job, &applicant.namespace).place = Some(place);
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

    fn room(&mut self, in_flight: &Load, now: i64) -> Room {
        self.shown_room.update(in_flight, now);
        let AccountLimits { batches, requests, tokens } = self.limits.clone();
        let limits = Room { batches, requests, tokens, batches_of_models: BTreeMap::new(), submitting: SUBMITTING };
        self.shown_room.of(limits)
    }

    fn usage(&mut self, now: i64) -> AccountUsage {
        let load = self.in_flight(now, None).load;
        let room = self.room(&load, now);
        let limit = self.limits.batches;
        AccountUsage {
            batches: load.batches,
            requests: load.requests,
            tokens: load.tokens(),
            waiting: self.waiting.len(),
            tried: self.shown_room.least().filter(|tried| limit.is_none_or(|limit| *tried < limit)),
            is_full: self.waiting.iter().any(|waiter| room.lacks(&load, &waiter.applicant.load).is_some()),
            next_end: self.jobs.values().filter_map(|job| job.next_end).filter(|end| *end > now).min(),
        }
    }

    /// Returns the use of the account, without the place of one job.
    fn in_flight(&self, now: i64, without: Option<&str>) -> InFlight {
        let mut in_flight = InFlight { served: self.served.clone(), ..Default::default() };
        for (uid, job) in &self.jobs {
            let place = job.place(now).filter(|_| without != Some(uid));
            let live = job.live(now);
            live.into_iter().for_each(|live| in_flight.load.merge(live));
            place.into_iter().for_each(|place| in_flight.load.add(&place.load));
            let batches = live.map_or(0, |live| live.batches) + usize::from(place.is_some());
            if batches > 0 {
                *in_flight.batches.entry(job.namespace.clone()).or_insert(0) += batches;
            }
            if place.is_some() || job.is_submitting(now) {
                *in_flight.submitting.entry(job.namespace.clone()).or_insert(0) += 1;
                in_flight.stalled += usize::from(job.is_stalled(now));
            }
        }
        in_flight
    }

    fn has_place_for(&self, now: i64, job: &str, load: &BatchLoad) -> bool {
        self.jobs.get(job).and_then(|of| of.place(now)).is_some_and(|place| place.load == *load)
    }

    fn full(&mut self, now: i64, job: &str, wants: &Applicant) -> Option<QuotaFull> {
        if self.has_place_for(now, job, &wants.load) {
            return None;
        }
        let mut wants = Applicant { turn: self.turns + 1, ..wants.clone() };
        if let Some(waiter) = self.waiting.iter_mut().find(|waiter| waiter.job == job) {
            wants.turn = waiter.applicant.turn;
            waiter.applicant = wants.clone();
        }
        let others = self.waiting.iter().filter(|waiter| waiter.job != job).map(|waiter| waiter.applicant.clone());
        let all: Vec<Applicant> = std::iter::once(wants.clone()).chain(others).collect();
        let in_flight = self.in_flight(now, Some(job));
        let room = self.room(&in_flight.load, now);
        let lack = room.lacks(&in_flight.load, &wants.load);
        if lack.is_none() && admit(&room, in_flight.clone(), &all).contains(&0) {
            return None;
        }
        if lack.is_none() && !in_flight.may_submit(&room, &wants.namespace) {
            return Some(QuotaFull::Submitting);
        }
        let is_before = |other: &&Applicant| other.namespace == wants.namespace && other.rank() < wants.rank();
        let limit = lack.and_then(|lack| Some((room.limit(&lack, &wants.load.model)?, lack)));
        let limit = limit.map(|(limit, lack)| (lack, limit));
        Some(QuotaFull::NoRoom { limit, before: all.iter().filter(is_before).count() })
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
