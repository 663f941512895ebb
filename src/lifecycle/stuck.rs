//! Batches at the provider that do not get on, as far as looks at them show.

use super::attempt::{AttemptKey, AttemptState};
use super::decide::named;
use super::findings::{PollResult, PolledState, SeenTimes};
use super::journal::Journal;
use super::observed::Observed;
use super::shard::Shard;
use crate::api::conditions::reasons;
use crate::api::text::clock_time;

/// Milliseconds after its expiry for which a batch may still run.
const EXPIRY_GRACE: i64 = 3_600_000;
/// Milliseconds for which a batch may still run once all of its requests are done.
const FINALIZING_GRACE: i64 = 3_600_000;

/// The progress of a job's batches, as looks show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progressing {
    /// No batch runs.
    NothingRuns,
    /// This process has not looked at every batch that runs, so that nothing new is known.
    Unknown,
    /// The batches run, and none is overdue.
    Yes,
    /// Batches are overdue.
    No {
        /// CamelCase reason.
        reason: &'static str,
        /// The batches by name, since when, and what a person can do. It does not change with time.
        message: String,
    },
}

/// A batch that runs, by the last look at it.
struct RunningBatch {
    attempt_key: AttemptKey,
    submitted_at: i64,
    requests: i64,
    done: i64,
    looked_at: i64,
    times: SeenTimes,
}

/// Judges the progress of a job whose last progress was seen at `last_progress` (Unix milliseconds). A batch is overdue only
/// if a look showed it running after its time.
pub(super) fn progressing(o: &Observed, journal: &Journal, last_progress: Option<i64>) -> Progressing {
    let mut running = vec![];
    for (shard, of) in journal.shards.entries() {
        let Some((attempt, look)) = recorded(o, of) else { continue };
        match look {
            None => return Progressing::Unknown,
            Some((look, times)) => running.extend(RunningBatch::of(shard, (of, attempt), look, times)),
        }
    }
    if running.is_empty() {
        return Progressing::NothingRuns;
    }
    let since = last_progress.unwrap_or(o.now);
    let found = [no_progress(o, &running, since), past_expiry(o, &running), not_finalized(&running, since)];
    let mut found = found.into_iter().flatten();
    let Some((reason, mut message)) = found.next() else { return Progressing::Yes };
    found.for_each(|(_, more)| message += &format!(". {more}"));
    Progressing::No { reason, message }
}

/// A recorded batch's number of the attempt and time of submission.
type Recorded = (u32, i64);

/// Returns the recorded batch of a shard, with the last look at it.
fn recorded<'a>(o: &'a Observed, shard: &Shard) -> Option<(Recorded, Option<(&'a PollResult, SeenTimes)>)> {
    let attempt = shard.attempt.as_ref()?;
    let AttemptState::Submitted { batch_id, at } = &attempt.state else { return None };
    let times = o.memory.times.get(batch_id).copied();
    let look = o.memory.looks.get(batch_id).map(|look| {
        let unknown = SeenTimes { same_since: look.at, ..SeenTimes::default() };
        (look, times.unwrap_or(unknown))
    });
    Some(((attempt.number, *at), look))
}

impl RunningBatch {
    fn of(
        shard: usize,
        (of, (attempt, submitted_at)): (&Shard, Recorded),
        look: &PollResult,
        times: SeenTimes,
    ) -> Option<RunningBatch> {
        let PolledState::Running { done, .. } = look.seen else { return None };
        let (attempt_key, requests, done) = (AttemptKey { shard, attempt }, of.requests, done);
        Some(RunningBatch { attempt_key, submitted_at, requests, done, looked_at: look.at, times })
    }

    /// Returns the time of expiry (Unix milliseconds): the provider's, or else that of a batch which got the job's window.
    fn expires_at(&self, window: i64) -> i64 {
        match self.times.reported.expires_at {
            1.. => self.times.reported.expires_at.saturating_mul(1_000),
            _ => self.submitted_at.saturating_add(window),
        }
    }

    fn is_done(&self) -> bool {
        self.times.reported.is_finalizing || self.requests > 0 && self.done >= self.requests
    }
}

type Finding = Option<(&'static str, String)>;

fn no_progress(o: &Observed, running: &[RunningBatch], since: i64) -> Finding {
    let overdue_at = since.saturating_add(o.job.progress_deadline?);
    if running.iter().any(|batch| batch.looked_at < overdue_at) {
        return None;
    }
    let batches: Vec<String> = running
        .iter()
        .map(|RunningBatch { attempt_key, submitted_at, requests, done, .. }| {
            format!("{attempt_key} ({done} of {requests} done, submitted {})", clock_time(*submitted_at))
        })
        .collect();
    let message = format!(
        "no request was done since {}, longer than `spec.progressDeadlineSeconds` allows, in {}. The job waits on: ask the \
         provider about these batches, or end the job with `spec.stopPolicy`",
        clock_time(since),
        named(&batches)?
    );
    Some((reasons::PROGRESS_DEADLINE_EXCEEDED, message))
}

fn past_expiry(o: &Observed, running: &[RunningBatch]) -> Finding {
    let expiry = |batch: &RunningBatch| batch.expires_at(o.job.completion_window);
    let is_late = |batch: &&RunningBatch| batch.looked_at >= expiry(batch).saturating_add(EXPIRY_GRACE);
    let late = running.iter().filter(is_late);
    let batches: Vec<String> =
        late.map(|batch| format!("{} (expired {})", batch.attempt_key, clock_time(expiry(batch)))).collect();
    let message = format!(
        "batches run on after their expiry: {}. Ask the provider, or cancel them there: their answers are collected, and the \
         other requests are sent again",
        named(&batches)?
    );
    Some((reasons::BATCHES_PAST_EXPIRY, message))
}

fn not_finalized(running: &[RunningBatch], last_progress: i64) -> Finding {
    // A job without progress has had none in any of its batches.
    let since = |batch: &RunningBatch| batch.times.same_since.min(last_progress);
    let is_late = |batch: &&RunningBatch| batch.looked_at >= since(batch).saturating_add(FINALIZING_GRACE);
    let late = running.iter().filter(|batch| batch.is_done()).filter(is_late);
    let batches: Vec<String> =
        late.map(|batch| format!("{} (done since {})", batch.attempt_key, clock_time(since(batch)))).collect();
    let message = format!(
        "all requests are done, and the provider does not end the batch: {}. Ask the provider: the answers are fetched once it \
         does",
        named(&batches)?
    );
    Some((reasons::BATCHES_NOT_FINALIZED, message))
}
