//! Measurements of the batches that a change of a job's journal begins or settles.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::{RequestCounts, TokenUsage};
use crate::controller::provider::ProviderKey;
use crate::lifecycle::{Attempt, AttemptState, Journal, Memory, PolledState, Shard};
use crate::telemetry::{Names, Usage};

/// Longest name of a model that has series of its own, in bytes: a journal may hold any text.
const MODEL_LIMIT: usize = 253;

/// Returns the names of the series of a model that jobs of `namespace` use at a provider object.
pub(super) fn names(namespace: &str, provider: &ProviderKey, model: &str) -> Names {
    let model = if model.len() <= MODEL_LIMIT { model } else { "other" };
    Names { namespace: namespace.into(), provider: provider.to_string(), model: model.into() }
}

/// Returns the model of the attempt with this intent, and a usage of nothing, so that its series begin before the batch ends: an increase
/// is seen only of a series that is there.
pub(super) fn begun<'a>(journal: &'a Journal, intent_id: &str) -> Option<(&'a str, Usage)> {
    let is_it = |attempt: &Attempt| attempt.intent_id == intent_id;
    let (_, shard) = journal.shards.entries().find(|(_, shard)| shard.attempt.as_ref().is_some_and(is_it))?;
    let is_priced = shard.attempt.as_ref()?.prices.is_some();
    Some((&shard.model, Usage { cost_and_saved_usd: is_priced.then_some((0.0, 0.0)), ..Usage::default() }))
}

/// The times of a batch that is settled (Unix milliseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// Time at which it was recorded.
    submitted: i64,
    /// Time at which it ended.
    pub ended: i64,
}

impl Times {
    /// Returns the time that the batch took.
    pub fn turnaround(&self) -> Duration {
        between(self.submitted, self.ended)
    }
}

/// Returns the time between two moments (Unix milliseconds). Clocks of servers differ, so it may seem negative; then it is none.
pub(super) fn between(from: i64, to: i64) -> Duration {
    Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or_default())
}

/// Returns the times of the batches that a change of the journal settled and whose end this process saw.
pub(super) fn times(old: &Journal, new: &Journal, memory: &Memory) -> Vec<Times> {
    let times = |(before, _): (Option<&Shard>, &Shard)| match &before?.attempt.as_ref()?.state {
        AttemptState::Submitted { batch_id, at } => {
            let look = memory.looks.get(batch_id)?;
            let has_ended = matches!(look.seen, PolledState::Ended { .. });
            let reported = memory.times.get(batch_id).map_or(0, |times| times.reported.completed_at);
            // A clock that is wrong by more than the batch took says nothing.
            let is_usable = |ended: &i64| (*at..=look.at).contains(ended);
            let ended = Some(reported.saturating_mul(1_000)).filter(is_usable).unwrap_or(look.at);
            has_ended.then_some(Times { submitted: *at, ended })
        }
        _ => None,
    };
    new.settled_since(old).filter_map(times).collect()
}

/// Returns the use of the batches that a change of the journal settled, by model.
pub(super) fn settled<'a>(old: &'a Journal, new: &'a Journal) -> BTreeMap<&'a str, Usage> {
    let mut by_model: BTreeMap<&str, Usage> = BTreeMap::new();
    for (_, shard) in new.settled_since(old) {
        if let Some(usage) = usage(shard) {
            *by_model.entry(&shard.model).or_default() += usage;
        }
    }
    by_model
}

fn usage(shard: &Shard) -> Option<Usage> {
    let AttemptState::Settled { counts, usage, cost, .. } = &shard.attempt.as_ref()?.state else { return None };
    let RequestCounts { total: _, succeeded, reused: _, failed, expired, cancelled, missing, resent: _ } = *counts;
    let TokenUsage {
        input_tokens,
        cached_input_tokens,
        output_tokens,
        reasoning_tokens,
        embedding_tokens,
        answers_without_usage: _,
    } = usage.tokens;
    let count = |n: i64| u64::try_from(n).unwrap_or_default();
    let without = |all: i64, part: i64| count(all.saturating_sub(part.max(0)));
    let cost = cost.as_deref();
    Some(Usage {
        requests: [succeeded, failed, expired, cancelled, missing].map(count),
        tokens: [
            without(input_tokens, cached_input_tokens),
            count(cached_input_tokens),
            without(output_tokens, reasoning_tokens),
            count(reasoning_tokens),
            count(embedding_tokens),
        ],
        cost_and_saved_usd: cost.map(|cost| (cost.batch.to_f64(), cost.real_time.saturating_sub(cost.batch).to_f64())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BatchEnd, BatchUsage};
    use crate::lifecycle::{Owner, Payload, PollResult, ReportedTimes};
    use crate::money::{Cost, Prices, Usd};

    fn journal(state: AttemptState) -> Journal {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let mut journal = Journal::open("w".into(), owner, "s".into());
        let prices = Some(Box::new(Prices::default()));
        let attempt = Attempt { prices, state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") };
        journal.shards.push(Shard { requests: 3, model: "gpt".into(), attempt: Some(attempt), ..Shard::default() });
        journal
    }

    fn ended(ended: &str) -> Journal {
        let tokens = TokenUsage {
            input_tokens: 100,
            cached_input_tokens: 30,
            output_tokens: 20,
            reasoning_tokens: i64::MAX,
            ..TokenUsage::default()
        };
        let cost = |batch: &str, real_time: &str| Cost {
            batch: Usd::parse(batch).unwrap_or_default(),
            real_time: Usd::parse(real_time).unwrap_or_default(),
        };
        journal(AttemptState::Settled {
            batch_id: "b".into(),
            ended: ended.into(),
            part: None,
            counts: RequestCounts { total: 3, succeeded: 2, expired: 1, missing: -5, ..Default::default() },
            retryable: 0,
            usage: BatchUsage { tokens, ..BatchUsage::default() }.into(),
            cost: Some(cost("0.25", "0.5").into()),
            errors: vec![],
            files: vec![],
        })
    }

    #[test]
    fn a_batch_counts_when_it_is_settled_and_never_again_and_no_token_in_two_kinds() {
        let submitted = journal(AttemptState::Submitted { batch_id: "b".into(), at: 0 });
        let used = Usage {
            requests: [2, 0, 1, 0, 0],
            tokens: [70, 30, 0, u64::try_from(i64::MAX).unwrap_or_default(), 0],
            cost_and_saved_usd: Some((0.25, 0.25)),
        };
        assert_eq!(settled(&submitted, &ended("expired")), [("gpt", used)].into());
        assert_eq!(settled(&ended("expired"), &ended("lost")), [].into());
        assert_eq!(settled(&submitted, &submitted), [].into());
    }

    #[test]
    fn a_batch_ends_when_its_provider_says_unless_that_cannot_be() {
        let submitted = journal(AttemptState::Submitted { batch_id: "b".into(), at: 10_000 });
        let times = |completed_at: i64| {
            let mut memory = Memory::default();
            let seen = PolledState::Ended { state: BatchEnd::Completed, done: 3, rejected: None };
            let reported = ReportedTimes { completed_at, ..ReportedTimes::default() };
            memory.looked("b".into(), PollResult { at: 90_000, seen }, reported);
            times(&submitted, &ended("completed"), &memory)
        };
        for (completed_at, ended) in [(60, 60_000), (0, 90_000), (5, 90_000), (91, 90_000), (i64::MAX, 90_000)] {
            assert_eq!(times(completed_at), [Times { submitted: 10_000, ended }], "{completed_at}");
        }
        assert_eq!(super::times(&submitted, &ended("completed"), &Memory::default()), []);
    }

    #[test]
    fn series_begin_with_the_intent_and_cost_has_some_where_there_are_prices() {
        let intended = journal(AttemptState::Intended);
        let nothing = Usage { cost_and_saved_usd: Some((0.0, 0.0)), ..Usage::default() };
        assert_eq!((begun(&intended, "i"), begun(&intended, "other")), (Some(("gpt", nothing)), None));
    }

    #[test]
    fn a_model_that_only_a_forged_journal_can_have_is_another_one() {
        let provider =
            ProviderKey { kind: crate::api::ProviderKind::BatchProvider, namespace: None, name: "llm".into() };
        let of = |model: &str| names("shop", &provider, model);
        assert_eq!((of("gpt").provider.as_str(), of("gpt").model.as_str()), ("BatchProvider/llm", "gpt"));
        assert_eq!(of(&"m".repeat(10_000)).model, "other");
    }
}
