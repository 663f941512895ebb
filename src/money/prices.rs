//! Prices of tokens, and the cost of usage.

use serde::{Deserialize, Serialize};

use super::Usd;
use crate::api::{BatchUsage, TokenUsage};

/// USD for a million tokens of each kind.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// Input tokens that were not cached, and tokens of embeddings.
    pub input: Usd,
    /// Input tokens that the provider read from its cache.
    pub cached_input: Usd,
    /// Output tokens, those of reasoning included.
    pub output: Usd,
}

/// The prices of one model, by batch and in real time.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Prices {
    /// Prices of batches.
    pub batch: Rates,
    /// Prices of single calls.
    pub real_time: Rates,
    /// Prices of requests with long prompts, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongContextPrices>,
}

/// The prices of requests whose prompt exceeds a number of tokens. They apply to all tokens of such a request.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct LongContextPrices {
    /// Input tokens that a request has to exceed.
    pub above_input_tokens: i64,
    /// Prices of batches.
    pub batch: Rates,
    /// Prices of single calls.
    pub real_time: Rates,
}

/// The cost of usage, in USD.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Cost by batch.
    pub batch: Usd,
    /// Cost of the same usage in real time.
    pub real_time: Usd,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, Cost { batch, real_time }: Cost) {
        self.batch += batch;
        self.real_time += real_time;
    }
}

impl Rates {
    /// Returns the cost of tokens at these prices.
    pub fn cost(&self, tokens: &TokenUsage) -> Usd {
        let cached = tokens.cached_input_tokens.clamp(0, tokens.input_tokens.max(0));
        let fresh = tokens.input_tokens.saturating_sub(cached).saturating_add(tokens.embedding_tokens);
        self.input.for_tokens(fresh)
            + self.cached_input.for_tokens(cached)
            + self.output.for_tokens(tokens.output_tokens)
    }
}

impl Prices {
    /// Returns the cost of a batch.
    pub fn cost(&self, usage: &BatchUsage) -> Cost {
        let Some(long) = &self.long_context else {
            return Cost { batch: self.batch.cost(&usage.tokens), real_time: self.real_time.cost(&usage.tokens) };
        };
        let usual = without(&usage.tokens, &usage.long_context);
        Cost {
            batch: self.batch.cost(&usual) + long.batch.cost(&usage.long_context),
            real_time: self.real_time.cost(&usual) + long.real_time.cost(&usage.long_context),
        }
    }
}

/// Returns the tokens in `all` that are not in `some`.
pub(super) fn without(all: &TokenUsage, some: &TokenUsage) -> TokenUsage {
    let rest = |all: i64, some: i64| all.saturating_sub(some).max(0);
    TokenUsage {
        input_tokens: rest(all.input_tokens, some.input_tokens),
        cached_input_tokens: rest(all.cached_input_tokens, some.cached_input_tokens),
        output_tokens: rest(all.output_tokens, some.output_tokens),
        reasoning_tokens: rest(all.reasoning_tokens, some.reasoning_tokens),
        embedding_tokens: rest(all.embedding_tokens, some.embedding_tokens),
        answers_without_usage: rest(all.answers_without_usage, some.answers_without_usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(amount: &str) -> Usd {
        Usd::parse(amount).unwrap()
    }

    fn rates(input: &str, cached_input: &str, output: &str) -> Rates {
        Rates { input: usd(input), cached_input: usd(cached_input), output: usd(output) }
    }

    #[test]
    fn cached_tokens_cost_less_and_long_prompts_more_for_all_tokens_of_their_request() {
        let tokens = TokenUsage {
            input_tokens: 3_000_000,
            cached_input_tokens: 1_000_000,
            output_tokens: 1_000_000,
            ..Default::default()
        };
        let mut prices =
            Prices { batch: rates("1", "0.1", "4"), real_time: rates("2", "0.2", "8"), long_context: None };
        let usage = BatchUsage { tokens, ..Default::default() };
        assert_eq!(prices.cost(&usage), Cost { batch: usd("6.1"), real_time: usd("12.2") });
        prices.long_context = Some(LongContextPrices {
            above_input_tokens: 272_000,
            batch: rates("2", "0.2", "6"),
            real_time: rates("4", "0.4", "12"),
        });
        let long_context = TokenUsage { input_tokens: 1_000_000, output_tokens: 500_000, ..Default::default() };
        let usage = BatchUsage { tokens, long_context, ..Default::default() };
        assert_eq!(prices.cost(&usage), Cost { batch: usd("8.1"), real_time: usd("16.2") });
    }
}
