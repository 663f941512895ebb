//! Shards as the store staged them, as the journal has them, and as results are made of them.

use std::borrow::Cow;

use crate::lifecycle::{AttemptState, PartRef, RequestHistory, Shard, TOO_LARGE};
use crate::results::{FollowUp, Part, RequestRounds, ReusedShard, SettledShard};
use crate::store::StagedShard;

/// The journal's entry for a staged shard without an attempt.
impl From<StagedShard> for Shard {
    fn from(staged: StagedShard) -> Shard {
        let StagedShard { sha256, index_sha256, bytes, first, requests, model, hints } = staged;
        Shard { sha256, index_sha256, bytes, first, requests, model, hints, ..Shard::default() }
    }
}

/// The journal's entry for a staged shard whose answers are those of earlier jobs.
impl From<ReusedShard> for Shard {
    fn from(ReusedShard { shard, part }: ReusedShard) -> Shard {
        let Part { name, sha256 } = part;
        Shard { reused: Some(PartRef { name, sha256 }), ..shard.into() }
    }
}

/// A shard of requests that are sent again, but for its round.
impl From<FollowUp> for Shard {
    fn from(FollowUp { shard, prior_counts, prior_errors }: FollowUp) -> Shard {
        Shard { prior_counts, prior_errors, ..shard.into() }
    }
}

impl From<&RequestRounds> for RequestHistory {
    fn from(&RequestRounds { ended, failed, lost, given_up }: &RequestRounds) -> RequestHistory {
        RequestHistory { ended, failed, lost, given_up }
    }
}

/// A shard as the join takes it, with the error for requests that have no line in its part.
impl From<&Shard> for SettledShard {
    fn from(shard: &Shard) -> SettledShard {
        let state = shard.attempt.as_ref().map(|a| &a.state);
        let (part, absent) = match state {
            None if shard.reused.is_some() => (
                shard.reused.as_ref(),
                (Cow::Borrowed("missing"), "the part of reused answers has none for this request".to_string()),
            ),
            Some(AttemptState::Settled { part, .. }) => (
                part.as_ref(),
                (
                    Cow::Borrowed("missing"),
                    "the provider gave no line for this request in either of its files".to_string(),
                ),
            ),
            Some(AttemptState::Abandoned { batch_id }) => {
                let which = batch_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default();
                let message =
                    format!("batch{which} did not end when the job's time was over; it may still run and cost");
                (None, ("batch_abandoned".into(), message))
            }
            Some(AttemptState::Refused { message, .. }) if shard.is_refused_for_good() => {
                (None, ("provider_rejected".into(), message.clone()))
            }
            Some(AttemptState::Refused { message, .. }) if shard.is_too_large() => {
                (None, (TOO_LARGE.into(), message.clone()))
            }
            _ => (None, ("not_submitted".into(), "the job ended before this request was sent".to_string())),
        };
        let part = part.map(|p| Part { name: p.name.clone(), sha256: p.sha256.clone() });
        SettledShard {
            sha256: shard.sha256.clone(),
            index: shard.index().to_string(),
            first: shard.first,
            model: shard.model.clone(),
            round: shard.round,
            part,
            reused: shard.reused.is_some(),
            given_up: shard.is_given_up() || shard.is_too_large(),
            absent,
        }
    }
}
