//! The cost of a batch as a ledger of budgets computes it: from its own facts about the batch, and from the provider's answers.

use serde::{Deserialize, Serialize};

use super::prices::without;
use super::{Prices, Rates, Usd};
use crate::api::{BatchUsage, TokenUsage};

/// The number of requests of a batch and the prices of their model. Both are from the file that was uploaded and from the provider
/// object: nothing that the user of the journal may write changes them.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Requests in the file.
    pub requests: i64,
    /// Prices of the batch.
    pub rates: Rates,
    /// Prices of its requests with long prompts, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongRates>,
}

/// Prices of requests whose prompt exceeds a number of tokens.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct LongRates {
    /// Input tokens that a request has to exceed.
    pub above_input_tokens: i64,
    /// Prices for all tokens of such a request.
    pub rates: Rates,
}

/// The provider's answers of a batch that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Billed {
    /// Requests whose outcome it told.
    pub told: i64,
    /// Tokens of its answers.
    pub usage: BatchUsage,
    /// Input tokens above which a request is in `usage.long_context`; None if none is.
    pub long_context_above: Option<i64>,
    /// Requests that other batches of the same POST were billed for, at most.
    pub billed_again: i64,
}

impl Terms {
    /// Returns the terms of a batch of so many requests to a model with these prices.
    pub fn of(requests: i64, prices: &Prices) -> Terms {
        let long = |long: super::LongContextPrices| LongRates {
            above_input_tokens: long.above_input_tokens,
            rates: long.batch,
        };
        Terms { requests, rates: prices.batch, long_context: prices.long_context.map(long) }
    }

    /// Returns terms that hold for either of two batches; None if their prices differ.
    pub fn of_either(self, other: Terms) -> Option<Terms> {
        let requests = self.requests.max(other.requests);
        (Terms { requests, ..self } == Terms { requests, ..other }).then_some(Terms { requests, ..self })
    }

    /// Returns the cost of a batch that can cost `most`. Requests that the provider told nothing about cost a mean share of that.
    pub fn cost(&self, most: Usd, billed: &Billed) -> Usd {
        let silent = self.requests.saturating_sub(billed.told).max(0).saturating_add(billed.billed_again.max(0));
        let unreported = if self.requests > 0 { most.share(silent, self.requests) } else { most };
        self.of_usage(&billed.usage, billed.long_context_above) + unreported
    }

    /// Returns the cost of tokens. If long prompts were told apart by another number of tokens, all of them have the dearer prices.
    fn of_usage(&self, BatchUsage { tokens, long_context, .. }: &BatchUsage, above: Option<i64>) -> Usd {
        let at = |rates: &Rates, tokens: &TokenUsage| rates.cost(tokens);
        match &self.long_context {
            None => at(&self.rates, tokens),
            Some(long) if above == Some(long.above_input_tokens) => {
                at(&self.rates, &without(tokens, long_context)) + at(&long.rates, long_context)
            }
            Some(long) => at(&self.rates, tokens).max(at(&long.rates, tokens)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(amount: &str) -> Usd {
        Usd::parse(amount).unwrap()
    }

    fn terms() -> Terms {
        let rates = |input: &str| Rates { input: usd(input), ..Rates::default() };
        let long_context = Some(LongRates { above_input_tokens: 1_000, rates: rates("3") });
        Terms { requests: 10, rates: rates("1"), long_context }
    }

    fn used(all: i64, long: i64) -> BatchUsage {
        let input = |input_tokens| TokenUsage { input_tokens, ..TokenUsage::default() };
        BatchUsage { tokens: input(all), long_context: input(long), ..BatchUsage::default() }
    }

    #[test]
    fn answers_cost_their_tokens_and_requests_without_a_word_their_share_of_the_most() {
        let told = Billed { told: 10, usage: used(2_000_000, 0), long_context_above: Some(1_000), billed_again: 0 };
        let cost = |billed: Billed| terms().cost(usd("20"), &billed).rounded();
        assert_eq!(cost(told), "2.00");
        assert_eq!(cost(Billed { told: 7, ..told }), "8.00", "three in no file");
        assert_eq!(cost(Billed { billed_again: 5, ..told }), "12.00", "a second batch of half of them");
        assert_eq!(cost(Billed { told: 11, ..told }), "2.00");
        assert_eq!(Terms { requests: 0, ..terms() }.cost(usd("20"), &told).rounded(), "22.00");
    }

    #[test]
    fn long_prompts_that_were_told_apart_at_another_number_leave_all_tokens_at_the_dearer_prices() {
        let of =
            |above| Billed { told: 10, usage: used(2_000_000, 1_000_000), long_context_above: above, billed_again: 0 };
        let cost = |above| terms().cost(usd("20"), &of(above)).rounded();
        assert_eq!((cost(Some(1_000)), cost(Some(1_001)), cost(None)), ("4.00".into(), "6.00".into(), "6.00".into()));
        let flat = Terms { long_context: None, ..terms() };
        assert_eq!(flat.cost(usd("20"), &of(Some(1_000))).rounded(), "2.00", "these prices know no long prompts");
    }
}
