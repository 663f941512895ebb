//! Batches that do not end after they were to stop, at the job's deadline or with `stopPolicy: Cancel`: after a while, the job
//! ends without them.

use super::attempt::{Attempt, AttemptKey, AttemptState};
use super::findings::PolledState;
use super::journal::{Commit, Journal};
use super::observed::Observed;
use super::step::Step;
use super::task::Task;
use super::{job_budget, reservation, submission, twins};
use crate::api::{Spending, StopPolicy};
use crate::money::for_people;

/// The largest number of batches that a message names.
const NAMED: usize = 3;
/// Milliseconds for which a failing call is retried before a batch is given up on: one bad answer is no reason.
const LAST_TRIES: i64 = 300_000;

/// Returns when the batches of a job that is to stop are given up on. None if the journal does not say yet since when they are to
/// stop. A deadline that was moved since then counts as it is now, unless the job was told to cancel its batches.
pub(super) fn due(o: &Observed, journal: &Journal) -> Option<i64> {
    let deadline = o.job.deadline.filter(|_| o.job.stop != Some(StopPolicy::Cancel));
    let since = journal.out_of_time_since?.max(deadline.unwrap_or_default());
    Some(since.saturating_add(o.timing.abandon_after))
}

/// Gives up on one batch that had until `due` to end, or takes a last look at it. Answers of an ended batch are still
/// collected. A batch is given up on only after its cancellation was requested, unless that fails.
pub(super) fn abandon(o: &Observed, journal: &Journal, due: i64) -> Option<Step> {
    submission::attempts(journal).find_map(|(attempt_key, attempt)| match fate(o, attempt_key, attempt, due) {
        Fate::GoesOn => None,
        Fate::LastLook => Some(Step::Poll(attempt_key)),
        Fate::Abandoned => {
            let batch_id = match &attempt.state {
                AttemptState::Submitted { batch_id, .. } => Some(batch_id.clone()),
                _ => None,
            };
            let abandoned = submission::with_state(journal, attempt_key, AttemptState::Abandoned { batch_id });
            let counted = || job_budget::may_have_cost(o, journal, (attempt_key, attempt), abandoned);
            reservation::settle(o, attempt_key, attempt, None).ok().map(|step| step.unwrap_or_else(counted))
        }
    })
}

enum Fate {
    GoesOn,
    LastLook,
    Abandoned,
}

fn fate(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, due: i64) -> Fate {
    let fails = |task: Task| o.memory.failed_calls.contains_key(&task);
    let failed_calls = |fails: bool| fails && o.now >= due + o.timing.abandon_after.min(LAST_TRIES);
    let call = Task::Call(attempt_key);
    match &attempt.state {
        AttemptState::Intended | AttemptState::Revoking => {
            let searched = o.memory.searches.get(&attempt.intent_id).is_some_and(|s| s.began >= due);
            match (searched || failed_calls(fails(call))) && o.now >= twins::shown_at(o, attempt) {
                true => Fate::Abandoned,
                false => Fate::GoesOn,
            }
        }
        AttemptState::Submitted { batch_id, .. } if !o.memory.collected.contains_key(batch_id) => {
            let look = o.memory.looks.get(batch_id);
            match look.filter(|look| look.at >= due).map(|look| &look.seen) {
                Some(PolledState::Running { .. }) if o.memory.cancelled.contains(batch_id) => Fate::Abandoned,
                Some(
                    PolledState::NotFound
                    | PolledState::NotOurs
                    | PolledState::Gone { .. }
                    | PolledState::Unnamed { .. },
                ) => Fate::Abandoned,
                _ if failed_calls(
                    [call, Task::Cancel(attempt_key), Task::Collect(attempt_key)].into_iter().any(fails),
                ) =>
                {
                    Fate::Abandoned
                }
                None if look.is_some() && !o.memory.running.contains(&call) => Fate::LastLook,
                _ => Fate::GoesOn,
            }
        }
        _ => Fate::GoesOn,
    }
}

/// Adds the batches that were given up on, and their possible cost, to the end's message.
pub(super) fn with_abandoned(journal: &Journal, mut end: Commit, spending: &Spending) -> Commit {
    let abandoned: Vec<(String, i64)> =
        journal.abandoned_batches().map(|(attempt_key, id, n)| (name(attempt_key, id), n)).collect();
    if abandoned.is_empty() {
        return end;
    }
    let names: Vec<&str> = abandoned.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
    let more = match abandoned.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let requests: i64 = abandoned.iter().map(|(_, n)| n).sum();
    // The amount is that of all requests without a report.
    let are_all = journal.shards.usage().all().unreported == requests;
    let amount = spending.cost.as_ref().and_then(|cost| for_people::amount(cost.unconfirmed_usd.as_deref()));
    let cost = amount.filter(|_| are_all).map_or(String::new(), |amount| format!(", for about {amount}"));
    end.message += &format!(
        "; given up on, for they did not end: batch {}{more}; they may still run, and up to {requests} requests may still be \
         billed{cost}: cancel them at the provider",
        names.join(", ")
    );
    end
}

/// Returns a batch's name in messages about giving it up.
fn name(attempt_key: AttemptKey, batch_id: Option<&str>) -> String {
    match batch_id {
        Some(id) => format!("{id} ({attempt_key})"),
        None => format!("{attempt_key}, if there is one"),
    }
}
