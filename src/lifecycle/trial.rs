//! Trials of shards that the account had no room for.
//!
//! A refusal for tokens says that a batch exceeds what the account takes only if no other batch of the job was live. So shards
//! that were refused for their tokens are sent one at a time, until one of the job's batches runs.

use std::cmp::Reverse;

use super::attempt::{Attempt, AttemptKey, Refusal};
use super::findings::PolledState;
use super::follow::look;
use super::journal::Journal;
use super::observed::Observed;
use super::refused::not_before;
use super::shard::Shard;
use super::submission::{Round, attempts};
use super::task::Task;
use super::twins;
use crate::api::conditions::reasons;

/// Milliseconds for which a batch counts as undecided once the list must show it: the provider checks it, and a rejection is
/// recorded.
const UNDECIDED: i64 = 300_000;
/// Longest pause, in milliseconds, in which other shards leave the account to the one on trial.
const LONGEST_PAUSE: i64 = 300_000;

/// Whether a shard may be sent now.
pub(super) enum Turn {
    /// It may be.
    Now,
    /// It waits for another shard of the job.
    Later,
    /// It waits for a look at another shard's batch.
    Look(AttemptKey),
}

/// Returns whether a shard whose pause is over may be sent now, and explains the wait in `round`. `next` are the shards that are
/// to be sent.
///
/// It waits while other batches of the job are live and none is known to be taken, and while the shard that was refused most
/// often while alone is about to be sent. Once a batch runs, a refusal says nothing about size, and shards are sent as usual.
pub(super) fn turn(o: &Observed, journal: &Journal, next: &[(usize, &Shard)], shard: usize, round: &mut Round) -> Turn {
    let Some(this) = journal.shards.get(shard).filter(|s| is_doubtful(s)) else { return Turn::Now };
    let live = attempts(journal).filter(|(key, _)| journal.shards.get(key.shard).is_some_and(Shard::is_live));
    let turn = match live.map(|(key, attempt)| (taken_from(o, attempt), key)).min() {
        Some((from, _)) if o.now < from => {
            round.due(from);
            Turn::Later
        }
        Some((from, key)) if from > 0 && is_to_be_looked_at(o, journal, key, from) => Turn::Look(key),
        None if on_trial(o, next).is_some_and(|other| other != shard) => Turn::Later,
        _ => return Turn::Now,
    };
    let note = format!(
        "the account had no room for a batch of {} requests; it is sent again once it shows whether the account takes another \
         batch of this job",
        this.requests
    );
    round.say(reasons::WAITING_FOR_QUOTA, note);
    turn
}

/// Returns whether the last look at a running batch is older than the time `from` which it counts as taken. Jobs may poll
/// seldom. A batch that cannot be looked at is not waited for: another refusal beside it says nothing about size, and costs nothing.
fn is_to_be_looked_at(o: &Observed, journal: &Journal, key: AttemptKey, from: i64) -> bool {
    let attempt = journal.shards.get(key.shard).and_then(|s| s.attempt.as_ref());
    let seen = attempt.and_then(|attempt| look(o, attempt));
    let fails = o.memory.failed_calls.contains_key(&Task::Call(key));
    !fails && seen.is_some_and(|look| matches!(look.seen, PolledState::Running { .. }) && look.at < from)
}

/// Returns whether the account may be too small for the shard: the last attempt was refused for its tokens, or it is half of
/// such a shard.
fn is_doubtful(shard: &Shard) -> bool {
    match &shard.attempt {
        Some(_) => shard.refusal() == Some(Refusal::TokenLimit),
        None => shard.streaks.alone > 0,
    }
}

/// Returns the shard that was refused most often while alone, if its pause is not long and its own upload or halving does not fail. Of
/// several, the first.
fn on_trial(o: &Observed, next: &[(usize, &Shard)]) -> Option<usize> {
    let is_due = |s: &Shard| not_before(s).is_none_or(|at| at <= o.now + LONGEST_PAUSE);
    let fails = |shard: usize, s: &Shard| {
        let last = s.attempt.as_ref().map_or(0, |attempt| attempt.number);
        let key = |attempt| AttemptKey { shard, attempt };
        let tasks = [Task::Upload(key(last + 1)), Task::Halve(key(last))];
        tasks.iter().any(|task| o.memory.failed_calls.contains_key(task))
    };
    let doubtful = next.iter().filter(|(i, s)| s.streaks.alone > 0 && is_doubtful(s) && is_due(s) && !fails(*i, s));
    doubtful.max_by_key(|(i, s)| (s.streaks.alone, Reverse(*i))).map(|(i, _)| *i)
}

/// Returns the time (Unix milliseconds) from which the account counts as having taken a live attempt's batch; 0 if a look shows
/// that requests were done. Providers do not say so, but a batch that is not rejected for so long is taken.
fn taken_from(o: &Observed, attempt: &Attempt) -> i64 {
    match look(o, attempt).map(|look| &look.seen) {
        Some(
            PolledState::Running { done: 1.., .. }
            | PolledState::Ended { rejected: None, .. }
            | PolledState::Gone { .. }
            | PolledState::Unnamed { .. },
        ) => 0,
        _ => twins::shown_at(o, attempt) + UNDECIDED,
    }
}
