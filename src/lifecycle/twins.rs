//! Other batches of a submission that is recorded: a gateway in front of the provider sent our POST twice.

use super::attempt::{Attempt, AttemptKey};
use super::findings::{PollResult, PolledState, PostResult};
use super::follow::recorded_at;
use super::observed::Observed;
use super::step::Step;
use super::submission::Round;
use crate::api::BatchEnd;

/// Milliseconds between the first two looks through a list that may show a twin.
const SECOND_LOOK: i64 = 5_000;

/// Longest pause after a search that failed, in milliseconds: a twin costs money for as long as it runs.
const LONGEST_PAUSE: i64 = 600_000;

/// Returns a batch of this intent, other than the recorded one, whose cancellation was not requested yet.
pub(super) fn to_stop<'a>(o: &'a Observed, attempt: &Attempt, recorded: &str) -> Option<&'a String> {
    twins(o, attempt, recorded).find(|id| !o.memory.cancelled.contains(*id))
}

/// Returns the batches of this intent other than the recorded one.
pub(super) fn twins<'a>(o: &'a Observed, attempt: &Attempt, recorded: &str) -> impl Iterator<Item = &'a String> {
    let found = o.memory.searches.get(&attempt.intent_id).into_iter().flat_map(|s| s.batches());
    let told = match o.memory.posted.get(&attempt.intent_id) {
        Some(PostResult::Created(id)) => Some(id),
        _ => None,
    };
    found.chain(told).filter(move |id| *id != recorded)
}

/// Searches the list for twins. The reply to a POST names one batch, however many a gateway made of it. The list is searched
/// when it must show them all, and at the latest when the batch ended. Behind a gateway it is searched at once too, and then at
/// growing intervals, because a twin costs money for as long as it runs. A search that failed is repeated at growing intervals while
/// the recorded batch runs, and once after its end.
pub(super) fn look_for(
    o: &Observed,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    look: &PollResult,
    round: &mut Round,
) -> Option<Step> {
    let ended = match look.seen {
        PolledState::Running { .. } => false,
        PolledState::Ended { .. } | PolledState::Gone { .. } | PolledState::Unnamed { .. } => true,
        PolledState::NotFound | PolledState::NotOurs => return None,
    };
    let can = o.capabilities();
    if can.can_repeat() || !can.can_search() {
        return None;
    }
    let all = shown_at(o, attempt);
    let failed = o.memory.failed_searches.get(&attempt.intent_id).copied();
    let gateway = o.job.provider.as_ref().is_none_or(|p| !p.is_vendors_own);
    let next = match o.memory.searches.get(&attempt.intent_id) {
        Some(search) if search.began >= all => return None,
        // The answers of an ended batch do not wait for a list that cannot be read.
        _ if ended && failed.is_some_and(|at| at >= look.at) => return None,
        _ if o.now >= all => o.now,
        None if ended || gateway => o.now,
        Some(_) if ended => return None,
        Some(search) if gateway => {
            let so_far = (search.began - recorded_at(attempt)).max(0);
            (search.began + SECOND_LOOK + 2 * so_far).min(all)
        }
        _ => all,
    };
    let next = match failed.filter(|_| !ended) {
        Some(at) => next.max(at + (at - recorded_at(attempt)).clamp(SECOND_LOOK, LONGEST_PAUSE)),
        None => next,
    };
    if o.now >= next { Some(Step::Search(attempt_key)) } else { round.due(next) }
}

/// Returns the time by which the list must show every batch of the attempt's POST. The journal has the end of the
/// POST's time by another clock, unless this process's clock runs since before it.
pub(super) fn shown_at(o: &Observed, attempt: &Attempt) -> i64 {
    attempt.post_by.max(o.memory.clock_since) + o.timing.send_timeout + o.timing.listing_lag
}

/// Returns a twin that was not looked at since the recorded batch ended: its bill is reported before the recorded batch is
/// settled.
pub(super) fn unseen<'a>(o: &'a Observed, attempt: &Attempt, recorded: &str, ended_at: i64) -> Option<&'a String> {
    let is_told = |look: &PollResult| look.at >= ended_at || !matches!(look.seen, PolledState::Running { .. });
    twins(o, attempt, recorded).find(|id| !o.memory.looks.get(*id).is_some_and(is_told))
}

/// Returns how many of the recorded batch's `requests` its twins were billed for, at most.
pub(super) fn billed_again(o: &Observed, attempt: &Attempt, recorded: &str, requests: i64) -> i64 {
    let of = |id: &String| match o.memory.looks.get(id).map(|look| &look.seen) {
        Some(PolledState::NotOurs | PolledState::Ended { rejected: Some(_), .. }) => 0,
        Some(PolledState::Ended { state, done, .. }) if *state != BatchEnd::Completed || *done > 0 => {
            (*done).min(requests)
        }
        // It may still be billed for all of them, or its state is not known.
        _ => requests,
    };
    let mut ids: Vec<&String> = twins(o, attempt, recorded).collect();
    ids.sort();
    ids.dedup();
    ids.into_iter().map(of).sum()
}
