//! The memory that a journal takes. It is measured, because the owner can write a large journal.

use super::attempt::{Attempt, AttemptState, Payload, Rejection};
use super::journal::{Commit, Journal, Owner, Plan, RecordedAnswers, Takeover};
use super::shard::Shard;
use super::shard_list::{Sealed, Shards};
use crate::api::{ErrorSummary, InputStatus};

/// Bytes that a text, or an entry of a map, takes besides its content.
const ENTRY_BYTES: usize = 64;

fn text(text: &str) -> usize {
    ENTRY_BYTES + text.len()
}

fn texts<'a>(all: impl IntoIterator<Item = &'a String>) -> usize {
    all.into_iter().map(|one| text(one)).sum()
}

impl Journal {
    /// Returns the bytes of memory that the journal takes, including an allocator's overhead. A version that was made of
    /// another one shares the shards that did not change.
    pub fn weight(&self) -> usize {
        let Journal { rev: _, protocol_version: _, closing: _, out_of_time_since: _, .. } = self;
        let Journal { work_id, owner, spec_hash, plan, shards, commit, taken_over, heard, .. } = self;
        let Owner { cluster, namespace, name, uid } = owner;
        let of_plan = |Plan { work_hash, input, requests: _, too_large: _, left_out: _ }: &Plan| {
            let InputStatus { version, size_bytes: _, sources: _, skipped: _ } = input;
            texts([work_hash, version])
        };
        let of_end = |Commit { outcome: _, reason, message, at: _, requests: _ }: &Commit| texts([reason, message]);
        let of_answers =
            |RecordedAnswers { said, to }: &RecordedAnswers| text(said) + texts(to.keys()) + texts(to.values());
        size_of::<Journal>()
            + texts([work_id, cluster, namespace, name, uid, spec_hash])
            + plan.as_ref().map_or(0, of_plan)
            + shards.weight()
            + commit.as_ref().map_or(0, of_end)
            + taken_over.as_ref().map_or(0, |Takeover { from, times: _ }| text(from))
            + heard.as_ref().map_or(0, of_answers)
    }
}

impl Shards {
    fn weight(&self) -> usize {
        let Shards { len: _, resident, next: _, plan, sealed } = self;
        let Sealed { segments, totals: _, errors, recent } = sealed;
        let batches = recent.iter().map(|batch| {
            size_of_val(batch) + texts([&batch.state, &batch.model]) + batch.batch_id.as_ref().map_or(0, |id| text(id))
        });
        resident.values().map(|shard| shard.weight()).sum::<usize>()
            + plan.iter().map(|segment| size_of_val(segment) + text(&segment.name)).sum::<usize>()
            + segments.iter().map(|segment| size_of_val(segment) + text(&segment.name)).sum::<usize>()
            + errors.0.iter().map(|(code, sum)| text(code) + size_of_val(sum) + text(&sum.sample)).sum::<usize>()
            + batches.sum::<usize>()
    }
}

impl Shard {
    /// Returns the bytes of memory that the shard takes as an entry of a map.
    fn weight(&self) -> usize {
        let Shard { bytes: _, first: _, requests: _, failures: _, round: _, prior_counts: _, streaks: _, .. } = self;
        let Shard { sha256, index_sha256, attempt, prior_errors, model, .. } = self;
        ENTRY_BYTES
            + size_of::<Shard>()
            + texts([sha256, index_sha256, model])
            + attempt.as_ref().map_or(0, Attempt::weight)
            + of_errors(prior_errors)
    }
}

impl Attempt {
    /// Returns the bytes of memory that the attempt takes besides the struct itself.
    fn weight(&self) -> usize {
        let Attempt { number: _, post_by: _, billed_again: _, repeats: _, .. } = self;
        let Attempt { intent_id, payload, fingerprint, declined, state, .. } = self;
        let of_payload = match payload {
            Payload::File { id } => text(id),
            Payload::Object { name } => text(name),
            Payload::Inline {} => 0,
        };
        let of_state = match state {
            AttemptState::Intended | AttemptState::Revoking => 0,
            AttemptState::Revoked { message } | AttemptState::Refused { message, .. } => text(message),
            AttemptState::Submitted { batch_id, at: _ } => text(batch_id),
            AttemptState::Abandoned { batch_id } => batch_id.as_ref().map_or(0, |id| text(id)),
            AttemptState::Settled { batch_id, ended, part, counts: _, retryable: _, errors, files } => {
                let part = part.as_ref().map_or(0, |part| texts([&part.name, &part.sha256]));
                texts([batch_id, ended]) + part + of_errors(errors) + texts(files)
            }
        };
        let declined = declined.as_ref().map_or(0, |Rejection { refusal: _, message, retry_at: _ }| text(message));
        texts([intent_id, fingerprint]) + of_payload + declined + of_state
    }
}

fn of_errors(errors: &[ErrorSummary]) -> usize {
    let of = |error: &ErrorSummary| {
        let ErrorSummary { code, count: _, sample_custom_id, message } = error;
        size_of_val(error) + texts([code, sample_custom_id, message])
    };
    errors.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A head with everything that a journal can hold, with texts of `bytes` bytes.
    fn head(bytes: usize) -> Value {
        let long = "x".repeat(bytes);
        let error = json!({"code": long, "count": 1, "sampleCustomID": long, "message": long});
        let shard = |state: Value| {
            let mut attempt = json!({"number": 1, "intentID": long, "fileID": long, "postBy": 1, "fingerprint": long,
                "declined": {"refusal": "Failed", "message": long}});
            attempt.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
            json!({"sha256": long, "indexSha256": long, "bytes": 1, "first": 0, "requests": 1, "failures": 0,
                "attempt": attempt, "model": long, "tookErrors": [error]})
        };
        let counts = json!({"total": 1, "succeeded": 1, "failed": 0, "expired": 0, "cancelled": 0, "missing": 0});
        let settled = json!({"state": "Settled", "batchID": long, "ended": long, "counts": counts, "errors": [error],
            "part": {"name": long, "sha256": long}, "files": [long, long]});
        let states = [
            json!({"state": "Intended"}),
            json!({"state": "Revoked", "message": long}),
            json!({"state": "Refused", "refusal": "Failed", "message": long, "at": 1}),
            json!({"state": "Submitted", "batchID": long, "at": 1}),
            json!({"state": "Abandoned", "batchID": long}),
            settled,
        ];
        let open: serde_json::Map<String, Value> =
            (1..).zip(states).map(|(index, state): (usize, Value)| (index.to_string(), shard(state))).collect();
        let recent = json!({"shard": 0, "attempt": 1, "state": long, "batchID": long, "requests": 1, "model": long});
        json!({
            "rev": 1, "protocolVersion": 2, "workID": long, "specHash": long, "closing": null,
            "owner": {"cluster": long, "namespace": long, "name": long, "uid": long},
            "plan": {"workHash": long, "input": {"version": long, "sizeBytes": 1}, "requests": 1},
            "commit": {"outcome": "Failed", "reason": long, "message": long, "at": 1, "requests": counts},
            "takenOver": {"from": long, "times": 1}, "heard": {"said": long, "to": {(long.clone()): long}},
            "shards": {"count": 8, "open": open, "next": 7,
                "plan": [{"name": long, "from": 7, "count": 1, "requests": 1, "round": 0}],
                "sealed": {"segments": [{"name": long, "count": 1}], "recent": [recent],
                    "errors": {(long.clone()): {"count": 1, "sample": long}}}},
        })
    }

    #[test]
    fn a_journal_weighs_more_than_its_text() {
        for bytes in [0, 10, 4_000] {
            let text = head(bytes).to_string();
            let journal: Journal = serde_json::from_str(&text).unwrap();
            // Absent fields are not weighed; names of fields are text of the head alone.
            let (weight, texts) = (journal.weight(), text.matches(&"x".repeat(bytes.max(1))).count() * bytes);
            assert!(weight > texts && weight > bytes * 80, "{weight} of {} bytes of text", text.len());
            assert!(weight < 2 * text.len() + (20 << 10), "{weight} of {} bytes of text", text.len());
        }
    }
}
