//! The batches in status.

use crate::api::text::clip;
use crate::api::{BatchEnd, BatchJobStatus, BatchStatus};
use crate::lifecycle::attempt::{AttemptKey, AttemptState};
use crate::lifecycle::findings::PolledState;
use crate::lifecycle::follow::look;
use crate::lifecycle::journal::Journal;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::shard::Shard;
use crate::lifecycle::shard_list::SealedBatch;

/// Maximum number of settled batches that status lists.
const SETTLED_LISTED: usize = 32;
/// Maximum size of the batches in status, in bytes, so that the whole stays below 64 KiB.
const LISTED_BYTES: usize = 19 << 10;
const SUBMITTING: &str = "Submitting";
const REVOKING: &str = "Revoking";

/// Returns whether status shows a batch, or a submission that may have made one.
pub fn may_be_submitted(status: &BatchJobStatus) -> bool {
    status.submission_time.is_some()
        || status.batches.iter().any(|b| [SUBMITTING, REVOKING].contains(&b.state.as_str()))
}

/// Returns whether status shows a batch in a state in which it may still run.
pub fn is_in_flight(batch: &BatchStatus) -> bool {
    const OVER: [&str; 9] =
        ["Completed", "Failed", "Expired", "Cancelled", "Canceled", "Lost", "Abandoned", "Revoked", "Refused"];
    !OVER.contains(&batch.state.as_str())
}

pub(super) fn batches(o: &Observed, journal: &Journal, old: &BatchJobStatus) -> Vec<BatchStatus> {
    let resident = journal.shards.entries().filter_map(|(shard, s)| {
        let attempt = s.attempt.as_ref()?;
        let (state, provider_id) = match &attempt.state {
            AttemptState::Intended => (SUBMITTING.to_string(), None),
            AttemptState::Revoking => (REVOKING.into(), None),
            AttemptState::Revoked { .. } => ("Revoked".into(), None),
            AttemptState::Refused { .. } => ("Refused".into(), None),
            AttemptState::Submitted { batch_id, .. } => {
                let state = match look(o, attempt).map(|l| &l.seen) {
                    Some(PolledState::Running { state, .. }) => camel(state),
                    Some(
                        PolledState::Ended { state, .. }
                        | PolledState::Gone { state }
                        | PolledState::Unnamed { state, .. },
                    ) => camel(state.word()),
                    Some(PolledState::NotFound) => "NotFound".into(),
                    Some(PolledState::NotOurs) => "NotOurs".into(),
                    None => "Submitted".into(),
                };
                (state, Some(batch_id.clone()))
            }
            AttemptState::Settled { batch_id, ended, .. } => (camel(ended), Some(batch_id.clone())),
            AttemptState::Abandoned { batch_id } => ("Abandoned".into(), batch_id.clone()),
        };
        let name = AttemptKey { shard, attempt: attempt.number }.to_string();
        let state = clip(state, 32);
        let model = s.model.clone();
        let mut batch = BatchStatus { name, state, provider_id, requests: s.requests, done: 0, model };
        if matches!(attempt.state, AttemptState::Submitted { .. }) {
            // A restarted operator may not have asked the provider yet.
            let before = earlier(old, &batch).map_or(0, |before| before.done);
            batch.done = done(o, s).unwrap_or(0).max(before).clamp(0, s.requests.max(0));
        }
        Some((s.settled().is_some(), batch))
    });
    let (mut settled, unsettled): (Vec<_>, Vec<_>) = resident.partition(|(settled, _)| *settled);
    settled.extend(journal.shards.recently_sealed().iter().map(|batch| (true, sealed(batch))));
    settled.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let latest = settled.into_iter().rev().take(SETTLED_LISTED);
    let mut room = LISTED_BYTES;
    let fits = |batch: &BatchStatus| {
        room = room.saturating_sub(bytes_of(batch));
        room > 0
    };
    let mut listed: Vec<BatchStatus> =
        unsettled.into_iter().take(100).chain(latest).map(|(_, batch)| batch).take_while(fits).collect();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed
}

/// Returns a batch as an earlier status shows it.
pub(super) fn earlier<'a>(old: &'a BatchJobStatus, batch: &BatchStatus) -> Option<&'a BatchStatus> {
    old.batches.iter().find(|before| before.name == batch.name && before.provider_id == batch.provider_id)
}

/// Returns the number of a batch's requests that are done by the provider's count; None without a count.
pub(super) fn done(o: &Observed, shard: &Shard) -> Option<i64> {
    match &look(o, shard.attempt.as_ref()?)?.seen {
        // Some servers do not count. All requests of a completed batch are done.
        PolledState::Ended { state: BatchEnd::Completed, rejected: None, .. } => Some(shard.requests),
        PolledState::Running { done, .. } | PolledState::Ended { done, rejected: None, .. } => {
            Some((*done).clamp(0, shard.requests.max(0)))
        }
        _ => None,
    }
}

fn sealed(batch: &SealedBatch) -> BatchStatus {
    BatchStatus {
        name: AttemptKey { shard: batch.shard, attempt: batch.attempt }.to_string(),
        state: clip(camel(&batch.state), 32),
        provider_id: batch.batch_id.clone(),
        requests: batch.requests,
        done: 0,
        model: batch.model.clone(),
    }
}

fn bytes_of(batch: &BatchStatus) -> usize {
    let texts = [&batch.name, &batch.state, &batch.model].into_iter().chain(&batch.provider_id);
    texts.map(|text| text.len()).sum::<usize>() + 96
}

/// Spells `in_progress` as Kubernetes does: `InProgress`.
fn camel(word: &str) -> String {
    word.split(['_', '-', ' '])
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
        })
        .collect()
}
