//! The places of one job at a provider object.

use crate::lifecycle::{BatchLoad, Load};

/// Milliseconds after which a job that has a place, but whose POST is not under way, counts as stalled: it waits for its visit,
/// or for its own store.
pub(super) const STALLED: i64 = 3_000;
/// Milliseconds for which a place is kept for a job that does not use it.
pub(super) const KEPT: i64 = 30_000;
/// Milliseconds for which a job that was about to submit counts as such without further news of it.
pub(super) const HEARD: i64 = 60_000;
/// Milliseconds for which the status of a job counts while its journal is not read. Anybody may have written that status.
pub(super) const GUESSED: i64 = 600_000;

/// A job's batches and place at its account.
pub(super) struct Job {
    pub(super) namespace: String,
    /// Batches that may exist and have not ended.
    pub(super) live: Load,
    /// Time at which the first of them is expected to end (Unix milliseconds).
    pub(super) next_end: Option<i64>,
    /// Time at which it was guessed from the job's status; None if it is from the journal.
    pub(super) guessed: Option<i64>,
    pub(super) submission: Submission,
    /// Time of the last report of `submission`.
    pub(super) said: i64,
    pub(super) place: Option<Place>,
}

/// A place of a job, for a batch of this load.
pub(super) struct Place {
    pub(super) load: BatchLoad,
    pub(super) given: GivenPlace,
}

/// A job's use of its account, according to its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUse {
    /// Batches that may exist and have not ended.
    pub live: Load,
    /// Time at which the first of them is expected to end (Unix milliseconds); None if unknown.
    pub next_end: Option<i64>,
    /// Progress with one more.
    pub submission: Submission,
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
pub(super) enum GivenPlace {
    /// Given at this time, and not used yet.
    Since(i64),
    /// Used; the result shows in the job's journal when that is read next.
    Used,
}

impl Job {
    /// Returns a job that has nothing.
    pub(super) fn of(namespace: &str) -> Job {
        let (live, submission) = (Load::default(), Submission::None);
        Job { namespace: namespace.into(), live, next_end: None, guessed: None, submission, said: 0, place: None }
    }

    /// Returns the share of its batches, unless a guess of it is too old.
    pub(super) fn live(&self, now: i64) -> Option<&Load> {
        let is_out_of_date = self.guessed.is_some_and(|guessed| now >= guessed + GUESSED);
        (!is_out_of_date).then_some(&self.live)
    }

    /// Returns its place, unless it is too old.
    pub(super) fn place(&self, now: i64) -> Option<&Place> {
        self.place.as_ref().filter(|place| match place.given {
            GivenPlace::Since(given) => now < given + KEPT,
            GivenPlace::Used => self.is_submitting(now),
        })
    }

    /// Returns whether it is about to submit.
    pub(super) fn is_submitting(&self, now: i64) -> bool {
        self.submission != Submission::None && now < self.said + HEARD
    }

    /// Returns whether it is about to submit and made no progress for long.
    pub(super) fn is_stalled(&self, now: i64) -> bool {
        match (self.submission, self.place.as_ref().map(|place| place.given)) {
            (Submission::Posting, _) => false,
            (Submission::None, Some(GivenPlace::Since(given))) => now >= given + STALLED,
            _ => now >= self.said + STALLED,
        }
    }
}
