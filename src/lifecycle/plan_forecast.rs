//! What a plan is expected to take: batches, tokens and money, by batch and in real time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::forecast::{Models, unbounded};
use super::journal::{Journal, Plan};
use super::observed::JobView;
use super::shard::Shard;
use crate::api::{PlanEstimate, TokenHints, TokenUsage};
use crate::money::{Cost, Usd, for_people};

/// Requests below which a batch is hardly worth its latency.
const FEW_REQUESTS: i64 = 100;
/// Calls that somebody makes at a time in real time.
const CALLS_AT_A_TIME: i64 = 8;
/// Output tokens of one call in a second.
const TOKENS_A_SECOND: i64 = 50;
/// Seconds of real time within which an answer is worth the difference in cost.
const SOON: i64 = 600;

/// The requests of a plan that go to one model. Part of the journal.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct PlannedModel {
    /// Name of the model.
    pub name: String,
    /// Number of batches.
    pub batches: i64,
    /// Number of requests.
    pub requests: i64,
    /// Facts from which their tokens are estimated.
    pub hints: TokenHints,
}

/// The sums of a plan's shards, by model.
#[derive(Debug, Default)]
pub struct PlannedModels(BTreeMap<String, PlannedModel>);

impl PlannedModels {
    /// Adds a shard that is to be sent.
    pub fn add(&mut self, shard: &Shard) {
        let sums = self.0.entry(shard.model.clone()).or_default();
        sums.batches += 1;
        sums.requests += shard.requests;
        sums.hints += shard.hints;
    }

    /// Returns the sums, in the order of the models' names.
    pub fn finish(self) -> Vec<PlannedModel> {
        self.0.into_iter().map(|(name, sums)| PlannedModel { name, ..sums }).collect()
    }
}

/// What the requests that a plan sends are expected to take. Requests that are sent again are not foreseen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlanForecast {
    /// Number of batches.
    pub batches: i64,
    /// Number of requests.
    pub requests: i64,
    /// Requests with images or files, whose tokens are not in `expected`.
    pub opaque_requests: i64,
    /// Tokens to be expected.
    pub expected: TokenUsage,
    /// Tokens at most; None if nothing bounds them.
    pub ceiling: Option<TokenUsage>,
    /// Cost to be expected; an error if a model has no prices: the reason, and its remedy.
    pub cost: Result<Cost, String>,
    /// Cost at most; an error if there is no such amount: the reason, and its remedy.
    pub ceiling_cost: Result<Usd, String>,
}

/// Returns the forecast of a plan; None if it sends nothing, or if an earlier version made it.
pub(super) fn forecast(job: &JobView, plan: &Plan) -> Option<PlanForecast> {
    PlanForecast::of(&plan.models, &Models::of(job))
}

impl PlanForecast {
    fn of(planned: &[PlannedModel], account: &Models) -> Option<PlanForecast> {
        let empty = PlanForecast {
            batches: 0,
            requests: 0,
            opaque_requests: 0,
            expected: TokenUsage::default(),
            ceiling: Some(TokenUsage::default()),
            cost: Ok(Cost::default()),
            ceiling_cost: Ok(Usd::ZERO),
        };
        let whole = planned.iter().fold(empty, |sum, model| sum.and(account, model));
        (whole.requests > 0).then_some(whole)
    }

    fn and(mut self, account: &Models, planned: &PlannedModel) -> PlanForecast {
        let PlannedModel { name, batches, requests, hints } = planned;
        let estimate = account.estimate(name, hints, *requests);
        // A journal is its user's to write.
        for (sum, more) in [
            (&mut self.batches, *batches),
            (&mut self.requests, *requests),
            (&mut self.opaque_requests, hints.opaque_requests),
        ] {
            *sum = sum.saturating_add(more.max(0));
        }
        self.expected += estimate.expected;
        self.ceiling = self.ceiling.zip(estimate.ceiling).map(|(mut sum, more)| {
            sum += more;
            sum
        });
        let prices = account.prices(name);
        let ceiling = prices.clone().and_then(|prices| estimate.ceiling_cost(prices).ok_or_else(|| unbounded(hints)));
        self.cost = self.cost.and_then(|mut sum| {
            sum += estimate.expected_cost(prices?);
            Ok(sum)
        });
        self.ceiling_cost = self.ceiling_cost.and_then(|sum| Ok(sum + ceiling?));
        self
    }

    /// Returns the forecast as status has it.
    pub fn status(&self) -> PlanEstimate {
        let input = |tokens: &TokenUsage| tokens.input_tokens.saturating_add(tokens.embedding_tokens);
        PlanEstimate {
            batches: self.batches,
            requests: self.requests,
            input_tokens: input(&self.expected),
            output_tokens: self.expected.output_tokens,
            max_input_tokens: self.ceiling.as_ref().map(input),
            max_output_tokens: self.ceiling.map(|most| most.output_tokens),
            opaque_requests: self.opaque_requests,
            real_time_usd: self.cost.as_ref().ok().map(|cost| cost.real_time.rounded()),
            real_time_seconds: self.real_time_seconds(),
        }
    }

    /// Describes the plan for a person who is to approve it, in one sentence without its end.
    pub fn describe(&self) -> String {
        let PlanForecast { requests, batches, opaque_requests, .. } = self;
        let batches = if *batches == 1 { "1 batch".into() } else { format!("{batches} batches") };
        let mut said = format!("{requests} requests in {batches}, some {}", for_people::tokens(&self.expected));
        if *opaque_requests > 0 {
            said += &format!(" without the images and files of {opaque_requests} requests");
        }
        match &self.cost {
            Ok(Cost { batch, real_time }) => {
                let saved = real_time.saturating_sub(*batch);
                said +=
                    &format!(", about {batch}, where single calls in real time cost about {real_time} (saves {saved})");
                said += &match &self.ceiling_cost {
                    Ok(most) => format!(", and {most} at most"),
                    Err(why) => format!("; nothing bounds the cost: {why}"),
                };
            }
            Err(why) => said += &format!("; the cost is unknown: {why}"),
        }
        said
    }

    /// Returns the cost of the batches that is to be expected; None if it is unknown.
    pub fn batch_cost(&self) -> Option<Usd> {
        Some(self.cost.as_ref().ok()?.batch)
    }

    /// Returns the seconds in which single calls in real time would be answered.
    fn real_time_seconds(&self) -> i64 {
        // A call takes a second besides its tokens.
        let tokens = self.expected.output_tokens.saturating_add(self.requests.saturating_mul(TOKENS_A_SECOND));
        tokens / (CALLS_AT_A_TIME * TOKENS_A_SECOND) + 1
    }
}

/// Returns the advice to call in real time if a change of the journal from `old` to `new` makes a plan for which that would do.
pub fn advice(job: &JobView, old: &Journal, new: &Journal) -> Option<String> {
    let (None, Some(plan)) = (&old.plan, &new.plan) else { return None };
    let forecast = forecast(job, plan)?;
    real_time_tip(&forecast.status(), forecast.batch_cost())
}

/// Returns the advice to call in real time, if there is little to gain from a batch: for few requests, or if the answers were there
/// within minutes for less than a dollar more. `batch` is the cost of the batches as it was estimated.
pub(super) fn real_time_tip(estimate: &PlanEstimate, batch: Option<Usd>) -> Option<String> {
    let real_time = estimate.real_time_usd.as_deref().and_then(|usd| Usd::parse(usd).ok());
    let more = real_time.zip(batch).map(|(real_time, batch)| real_time.saturating_sub(batch));
    let seconds = estimate.real_time_seconds;
    let is_cheap_and_soon = seconds <= SOON && more.is_some_and(|more| more < Usd::ONE);
    if estimate.requests >= FEW_REQUESTS && !is_cheap_and_soon {
        return None;
    }
    let within = match seconds.saturating_add(59) / 60 {
        ..=1 => "less than a minute".into(),
        minutes => format!("some {minutes} minutes"),
    };
    let for_more = more.map(|more| format!(", and cost about {more} more")).unwrap_or_default();
    Some(format!(
        "single calls in real time may suit this job better than a batch: they take {within} instead of hours{for_more} \
         (estimated for {CALLS_AT_A_TIME} calls at a time, each of 1 s and 1 s more for every {TOKENS_A_SECOND} output tokens)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{LearnedTokens, ModelStatus};
    use crate::money::{PriceList, Prices, Rates, TokenLimits};

    fn usd(amount: &str) -> Usd {
        Usd::parse(amount).unwrap()
    }

    fn planned(name: &str, requests: i64, hints: TokenHints) -> PlannedModel {
        PlannedModel { name: name.into(), batches: 1 + requests / 5_000, requests, hints }
    }

    /// Ten thousand reviews of 150 bytes, with answers of at most 16 tokens.
    fn reviews(requests: i64) -> PlannedModel {
        let text_bytes = 150 * requests.unsigned_abs();
        let hints = TokenHints {
            text_bytes,
            longest_text_bytes: 400,
            max_output_tokens: 16 * requests,
            ..TokenHints::default()
        };
        planned("gpt-5-mini", requests, hints)
    }

    fn prices() -> PriceList {
        let rates = |input, output| Rates { input: usd(input), cached_input: Usd::ZERO, output: usd(output) };
        let (batch, real_time) = (rates("0.125", "1"), rates("0.25", "2"));
        let models = vec![("gpt-5-mini".into(), Prices { batch, real_time, long_context: None })];
        PriceList { models, ..PriceList::default() }
    }

    fn of(models: &[PlannedModel], prices: &PriceList, known: &[ModelStatus]) -> PlanForecast {
        let account = Models { prices: Some(prices), known };
        PlanForecast::of(models, &account).unwrap()
    }

    fn tip(forecast: &PlanForecast) -> Option<String> {
        real_time_tip(&forecast.status(), forecast.batch_cost())
    }

    #[test]
    fn a_plan_reads_well_whatever_is_known_of_it() {
        let no_limit = |opaque_requests| TokenHints {
            text_bytes: 4_000_000,
            opaque_requests,
            unlimited_requests: 2_000,
            ..TokenHints::default()
        };
        let learned =
            LearnedTokens { text_bytes: 450_000, input_tokens: 100_000, answers: 5_000, output_tokens: 10_000 };
        let known = [ModelStatus { name: "gpt-5-mini".into(), tokens: learned, ..ModelStatus::default() }];
        let limits = TokenLimits { max_input_tokens: Some(400_000), max_output_tokens: Some(128_000) };
        let limited = PriceList { limits: vec![("gpt-5*".into(), limits)], ..prices() };
        let images = planned("gpt-5-mini", 2_000, no_limit(50));
        let said = [
            of(&[reviews(10_000)], &prices(), &[]),
            of(&[reviews(10_000)], &prices(), &known),
            of(&[planned("gpt-5-mini", 2_000, no_limit(0))], &prices(), &[]),
            of(std::slice::from_ref(&images), &prices(), &[]),
            of(std::slice::from_ref(&images), &limited, &[]),
            of(&[reviews(10), planned("o3", 90, no_limit(0))], &prices(), &[]),
        ];
        let said = said.map(|forecast| forecast.describe()).join("\n");
        insta::assert_snapshot!(said);
    }

    #[test]
    fn single_calls_are_advised_for_few_requests_and_where_they_are_soon_done_for_little_more() {
        let text = |requests: i64, bytes: u64, output: i64| {
            let text_bytes = bytes * requests.unsigned_abs();
            let hints = TokenHints { text_bytes, max_output_tokens: output * requests, ..TokenHints::default() };
            of(&[planned("gpt-5-mini", requests, hints)], &prices(), &[])
        };
        let told =
            [text(99, 100_000, 300), text(100, 400, 16), text(1, 100, 16)].map(|forecast| tip(&forecast).unwrap());
        insta::assert_snapshot!(told.join("\n"));
        let unpriced = of(&[planned("o3", 99, reviews(99).hints)], &prices(), &[]);
        assert!(!tip(&unpriced).unwrap().contains('$'), "the cost is unknown");
        for (forecast, why) in [
            (of(&[reviews(10_000)], &prices(), &[]), "they take twenty minutes"),
            (text(100, 400_000, 16), "they cost more than a dollar more"),
            (of(&[planned("o3", 100, reviews(100).hints)], &prices(), &[]), "nobody knows what they cost more"),
        ] {
            assert_eq!(tip(&forecast), None, "{why}");
        }
    }

    #[test]
    fn sums_are_of_all_models_and_without_a_price_of_one_there_is_no_cost() {
        let mut sums = PlannedModels::default();
        for (model, requests) in [("b", 3), ("a", 2), ("b", 4)] {
            let hints = TokenHints { text_bytes: 10, longest_text_bytes: requests as u64, ..TokenHints::default() };
            sums.add(&Shard { model: model.into(), requests, hints, ..Shard::default() });
        }
        let models = sums.finish();
        let told: Vec<_> =
            models.iter().map(|m| (m.name.as_str(), m.batches, m.requests, m.hints.text_bytes)).collect();
        assert_eq!(told, [("a", 1, 2, 10), ("b", 2, 7, 20)]);
        assert_eq!(models[1].hints.longest_text_bytes, 4);
        let both = of(&[reviews(10), planned("o3", 5, reviews(5).hints)], &prices(), &[]);
        assert!(both.cost.clone().unwrap_err().contains("model 'o3'"), "{both:?}");
        assert_eq!((both.requests, both.status().max_output_tokens), (15, Some(16 * 15)));
        assert_eq!(PlanForecast::of(&[], &Models { prices: None, known: &[] }), None, "all answers are reused");
    }
}
