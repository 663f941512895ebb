//! The place that a job's next batch needs at its account, and the words for the wait for it.

use super::clients::Clients;
use super::observe::Snapshot;
use crate::account::QuotaFull;
use crate::api::text::clock_time;
use crate::lifecycle::{Applicant, AttemptKey, BatchLoad, Journal, Lack, Owner, Place};

/// Numbers of jobs before a waiting one that are told apart. With fewer than the first one its place is told, so that a queue that
/// moves on costs a waiting job few writes of its status.
const BEFORE: [usize; 3] = [5, 20, 100];

/// Returns what the job applies for, to submit the batch of this attempt as `journal` has it.
pub(super) fn applicant(snapshot: &Snapshot, journal: &Journal, attempt_key: AttemptKey) -> Applicant {
    let known = snapshot.view.provider.as_ref().map(|provider| &*provider.models).unwrap_or_default();
    let load = journal.shards.get(attempt_key.shard).map(|shard| BatchLoad::of(shard, known));
    let created = snapshot.job.metadata.creation_timestamp.as_ref();
    Applicant {
        namespace: snapshot.view.owner.namespace.clone(),
        priority: snapshot.job.spec.priority,
        created: created.map_or(0, |created| created.0.as_second()),
        turn: 0,
        load: load.unwrap_or_default(),
    }
}

/// Returns the place that the account has for the batch of this attempt.
pub(super) fn place(snapshot: &Snapshot, attempt_key: AttemptKey) -> Place {
    let (Some(clients), Some((journal, _))) = (&snapshot.clients, &snapshot.journal) else { return Place::Free };
    if let Some(left) = clients.calls.pace().pause() {
        let until = snapshot.now.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
        // Rounded up to whole minutes, so that an unchanged wait leaves the status unchanged.
        let until = clock_time(until.saturating_add(59_999) / 60_000 * 60_000);
        return Place::Full(format!(
            "the provider asked for a pause of all calls of its account, until {until} at most"
        ));
    }
    let Owner { uid, namespace, .. } = &snapshot.view.owner;
    let wants = applicant(snapshot, journal, attempt_key);
    match clients.quota.full(uid, &wants) {
        None => Place::Free,
        Some(QuotaFull::Submitting) => Place::Soon,
        Some(QuotaFull::NoRoom { limit, before }) => {
            let why = no_room(clients, &wants.load, limit);
            Place::Full(format!("{why}; {}", rank(before, namespace)))
        }
    }
}

fn no_room(clients: &Clients, load: &BatchLoad, limit: Option<(Lack, u64)>) -> String {
    let name = &clients.account.name;
    match limit {
        None => format!("a larger batch that comes before waits for room at {name}"),
        Some((Lack::Batches, limit))
            if clients.account.limits_in_flight().batches.is_none_or(|most| limit < most as u64) =>
        {
            format!("{name} takes {limit} batches at a time for now, because it refused more; more are tried later")
        }
        Some((Lack::Batches, limit)) => {
            format!(
                "{limit} of {limit} batches are in flight at {name}, as many as its `limits.maxBatchesInFlight` allows"
            )
        }
        Some((Lack::Requests, limit)) => format!(
            "the next batch has {} requests, and the requests in flight at {name} leave no room for it in the {limit} of its \
             `limits.maxEnqueuedRequests`",
            load.requests
        ),
        Some((Lack::BatchesOfModel(model), limit)) => {
            format!(
                "{name} takes {limit} batches of model '{model}' at a time for now, because it refused the tokens of more; \
                 more are tried later"
            )
        }
        Some((Lack::Tokens(entry), limit)) => format!(
            "the next batch has about {} input tokens, and those in flight at {name} leave no room for it in the {limit} of \
             `maxEnqueuedTokens` of '{entry}' in its `spec.models`",
            rounded(load.tokens)
        ),
    }
}

/// Returns the place in the queue of the namespace.
fn rank(before: usize, namespace: &str) -> String {
    match BEFORE.iter().rev().find(|least| before >= **least) {
        None => format!("the job has place {} in namespace '{namespace}'", before + 1),
        Some(least) => format!("{least} jobs of namespace '{namespace}' or more come before"),
    }
}

/// Returns the number with two significant digits, since estimates change with experience.
fn rounded(tokens: u64) -> u64 {
    let step = 10u64.pow(tokens.checked_ilog10().unwrap_or(0).saturating_sub(1));
    tokens / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_moves_on_changes_the_words_of_a_waiting_job_a_few_times() {
        let words = (0..1_000).rev().map(|before| rank(before, "shop"));
        let mut told: Vec<String> = words.collect();
        told.dedup();
        assert_eq!(told.len(), 3 + 5);
        assert_eq!(told[0], "100 jobs of namespace 'shop' or more come before");
        assert_eq!(told[7], "the job has place 1 in namespace 'shop'");
    }

    #[test]
    fn estimates_are_told_with_two_digits() {
        assert_eq!([0, 7, 42, 1_299, 987_654].map(rounded), [0, 7, 42, 1_200, 980_000]);
    }
}
