//! The JSON form of the shards in a journal's head. The owner of a journal can write it, so everything in it is bounded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::attempt::{Attempt, AttemptState, PartRef};
use super::shard::Shard;
use super::shard_list::{PlanSegment, Sealed, Shards};
use super::submission::WRITTEN_OFF_LIMIT;
use super::totals::{CODE_LIMIT, Totals};
use super::usage_by_model::MODEL_LIMIT;
use crate::api::{AnswerCounts, AnswerKind, BatchUsage, RequestCounts, TokenUsage};

/// Maximum number of shards that one document holds.
const IN_ONE_DOCUMENT: usize = 2_000;
/// Maximum number of shards of a work, whatever its own limit is.
const IN_ALL: usize = 1_000_000;
/// Maximum number of a work's batches that run at a time: five times what a BatchJob may ask for. Each batch that is followed
/// is held beside the journal.
const LIVE_LIMIT: usize = 500;
/// Maximum number of files, and of error codes, of one attempt: about five and ten times what is written.
const OF_AN_ATTEMPT: usize = 64;
/// Maximum length of a name that a provider gave, in bytes.
pub(super) const ID_LIMIT: usize = 4_096;
/// Maximum of any count of requests.
const REQUESTS: i64 = 1_000_000_000_000;
/// Maximum of the tokens of one batch.
const TOKENS: i64 = 1_000_000_000_000_000;

/// The head as it is written. The first version wrote a list of all shards in its place.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    /// Number of all shards.
    count: usize,
    /// Shards that are neither planned nor sealed.
    #[serde(default)]
    open: Open<'a>,
    /// Index of the first planned shard.
    #[serde(default)]
    next: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    plan: Vec<PlanSegment>,
    #[serde(default, skip_serializing_if = "is_nothing")]
    sealed: Cow<'a, Sealed>,
}

fn is_nothing(sealed: &Sealed) -> bool {
    *sealed == Sealed::default()
}

/// Shards by index.
#[derive(Default)]
struct Open<'a>(BTreeMap<usize, Cow<'a, Shard>>);

impl Serialize for Shards {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Head {
            count: self.len,
            open: Open(self.in_head().map(|(index, shard)| (index, Cow::Borrowed(shard))).collect()),
            next: self.next_planned(),
            plan: self.plan.clone(),
            sealed: Cow::Borrowed(&self.sealed),
        }
        .serialize(to)
    }
}

impl Serialize for Open<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let shards = from.deserialize_any(AsWritten)?;
        shards.check().map(|()| shards).map_err(D::Error::custom)
    }
}

/// Reads a head of this version, or the list of the first one.
struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shards of a journal")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shards, A::Error> {
        let mut shards = Shards::default();
        while let Some(shard) = list.next_element()? {
            shards.push(shard);
            few(shards.len)?;
        }
        Ok(shards)
    }

    fn visit_map<A: MapAccess<'de>>(self, head: A) -> Result<Shards, A::Error> {
        let head = Head::deserialize(MapAccessDeserializer::new(head))?;
        Ok(Shards {
            len: head.count,
            resident: head.open.0.into_iter().map(|(index, shard)| (index, Arc::new(shard.into_owned()))).collect(),
            next: if head.plan.is_empty() { 0 } else { head.next },
            plan: head.plan,
            sealed: head.sealed.into_owned(),
        })
    }
}

impl<'de> Deserialize<'de> for Open<'_> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ByIndex;
        impl<'de> Visitor<'de> for ByIndex {
            type Value = BTreeMap<usize, Shard>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("shards by index")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut shards = BTreeMap::new();
                while let Some((index, shard)) = map.next_entry()? {
                    shards.insert(index, shard);
                    few(shards.len())?;
                }
                Ok(shards)
            }
        }
        let shards = from.deserialize_map(ByIndex)?;
        Ok(Open(shards.into_iter().map(|(index, shard)| (index, Cow::Owned(shard))).collect()))
    }
}

fn few<E: Error>(shards: usize) -> Result<(), E> {
    match shards > IN_ONE_DOCUMENT {
        true => Err(E::custom(format!("more than {IN_ONE_DOCUMENT} shards in one document"))),
        false => Ok(()),
    }
}

impl Shards {
    /// Checks that every shard is in one place, and that all values are within bounds.
    fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(why.to_string());
        if self.len > IN_ALL || self.plan.len() + self.sealed.segments.len() > IN_ONE_DOCUMENT {
            return wrong("too many shards");
        }
        let follow = self.plan.windows(2).all(|pair| pair[0].end() == pair[1].from);
        let first = self.plan.first().is_none_or(|s| (s.from..s.end()).contains(&self.next));
        if !follow || !first || self.planned_end() > self.len {
            return wrong("segments of the plan that do not follow each other");
        }
        if self.resident.keys().any(|index| *index >= self.len || self.is_planned(*index)) {
            return wrong("a shard in two places");
        }
        let sealed: usize = self.sealed.segments.iter().map(|s| s.count.min(IN_ALL)).sum();
        if self.resident.len() + sealed + (self.planned_end() - self.next) != self.len {
            return wrong("a shard that is nowhere, or in two places");
        }
        if self.iter().filter(|shard| shard.is_live()).count() > LIVE_LIMIT {
            return Err(format!("more than {LIVE_LIMIT} batches that may run"));
        }
        if !self.sealed.is_sane() || self.sealed.totals.reused > sealed {
            return wrong("sums out of bounds");
        }
        if self.iter().any(|shard| !shard.is_sane()) || self.plan.iter().any(|s| !is_count(s.requests)) {
            return wrong("a number or a name out of bounds");
        }
        Ok(())
    }
}

impl Sealed {
    fn is_sane(&self) -> bool {
        let Totals {
            counts, open, refused, done, failed_for_good, retryable, failed_before, given_up, too_large, ..
        } = self.totals;
        let (RequestCounts { total, succeeded, reused, failed, expired, cancelled, missing, resent }, again) =
            (counts, self.totals.billed_again);
        // A sealed shard of a later round subtracts the earlier outcomes of its requests, whose own shards may not be sealed
        // yet. So a sum can be negative.
        let is_sum = |n: i64| n.unsigned_abs() <= REQUESTS.unsigned_abs();
        [open, refused, done, failed_for_good, retryable, failed_before, given_up, too_large, again]
            .into_iter()
            .all(is_sum)
            && [total, succeeded, reused, failed, expired, cancelled, missing].into_iter().all(is_sum)
            && resent >= 0
            && self.totals.repeated_rows >= 0
            && AnswerKind::ALL.iter().all(|kind| is_sum(self.totals.answers.of(*kind)))
            && self.totals.mixed_answers.counts().all(is_sum)
            && self.usage.0.len() <= MODEL_LIMIT + 1
            && self.usage.0.keys().all(|model| model.len() <= ID_LIMIT)
            && self.errors.0.len() <= CODE_LIMIT
            && self.errors.0.values().all(|sum| is_sum(sum.count))
            && self.recent.len() <= IN_ONE_DOCUMENT
    }
}

fn is_usage(BatchUsage { tokens, long_context, answers, mixed_answers, repeated_rows }: &BatchUsage) -> bool {
    let are_counts = |tokens: &TokenUsage| {
        let TokenUsage { input_tokens: i, cached_input_tokens: c, output_tokens: o, .. } = tokens;
        let TokenUsage { reasoning_tokens: r, embedding_tokens: e, answers_without_usage: w, .. } = tokens;
        [i, c, o, r, e, w].into_iter().all(|count| (0..=TOKENS).contains(count))
    };
    let AnswerCounts { empty, refused, truncated, filtered } = *answers;
    are_counts(tokens)
        && are_counts(long_context)
        && *repeated_rows >= 0
        && [empty, refused, truncated, filtered].into_iter().chain(mixed_answers.counts()).all(is_count)
}

fn is_count(requests: i64) -> bool {
    (0..=REQUESTS).contains(&requests)
}

impl Shard {
    /// Returns whether its numbers and names are within bounds, so that sums and lists of them are bounded too.
    pub(super) fn is_sane(&self) -> bool {
        let counts = |c: &RequestCounts| {
            [c.total, c.succeeded, c.reused, c.failed, c.expired, c.cancelled, c.missing].into_iter().all(is_count)
        };
        // A shard with reused answers that was sent as well would be paid for nothing.
        let reused = |part: &PartRef| {
            let is_of_plan = self.attempt.is_none() && self.round == 0 && self.prior_counts == RequestCounts::default();
            is_of_plan && part.name.len().max(part.sha256.len()) <= ID_LIMIT
        };
        let attempt = self.attempt.as_ref();
        is_count(self.requests)
            && counts(&self.prior_counts)
            && attempt.is_none_or(|a| a.ids().all(|id| id.len() <= ID_LIMIT) && is_count(a.billed_again))
            && self.written_off <= WRITTEN_OFF_LIMIT
            && self.prior_errors.len() <= OF_AN_ATTEMPT
            && self.reused.as_ref().is_none_or(reused)
            && is_count(self.unreported_cost.unbounded)
            && match attempt.map(|a| &a.state) {
                Some(AttemptState::Settled { counts: c, retryable, usage, errors, files, .. }) => {
                    counts(c)
                        && is_count(*retryable)
                        && is_usage(usage)
                        && errors.len().max(files.len()) <= OF_AN_ATTEMPT
                }
                _ => true,
            }
    }
}

impl Attempt {
    fn ids(&self) -> impl Iterator<Item = &str> {
        let (batch, files): (Option<&String>, &[String]) = match &self.state {
            AttemptState::Submitted { batch_id, .. } => (Some(batch_id), &[]),
            AttemptState::Settled { batch_id, files, .. } => (Some(batch_id), files),
            AttemptState::Abandoned { batch_id } => (batch_id.as_ref(), &[]),
            _ => (None, &[]),
        };
        let named = batch.into_iter().chain(files).map(String::as_str);
        [self.intent_id.as_str(), self.payload.name()].into_iter().chain(named)
    }
}
