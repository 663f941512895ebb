//! The cost of shards before they run.

use super::observed::Observed;
use super::shard::Shard;
use crate::api::BatchUsage;
use crate::money::{Cost, PriceList, TokenEstimate, Usd};

fn list<'a>(o: &Observed<'a>) -> Option<&'a PriceList> {
    Some(&o.job.provider.as_ref()?.prices)
}

fn estimate(o: &Observed, shard: &Shard) -> TokenEstimate {
    let limits = list(o).map(|list| list.limits_of(&shard.model)).unwrap_or_default();
    TokenEstimate::of(&shard.hints, shard.requests, limits)
}

/// Returns the cost that a shard is expected to have; None without prices of its model.
pub(super) fn expected_cost(o: &Observed, shard: &Shard) -> Option<Cost> {
    let tokens = estimate(o, shard).expected;
    Some(list(o)?.of(&shard.model)?.cost(&BatchUsage { tokens, ..BatchUsage::default() }))
}

/// Returns the most that a batch of the shard can cost.
///
/// # Errors
/// If there is no such amount: the reason, and its remedy.
pub(super) fn ceiling(o: &Observed, shard: &Shard) -> Result<Usd, String> {
    let list = list(o).ok_or("the provider object was not found")?;
    let prices = list.of(&shard.model).ok_or_else(|| list.no_prices(&shard.model))?;
    let Some(tokens) = estimate(o, shard).ceiling else {
        return Err(
            "some requests set no limit of output tokens, or hold images or files; set `max_completion_tokens` in \
                    `spec.requestDefaults`, or `maxOutputTokens` and `maxInputTokens` of the model in `spec.models` of the provider object"
                .into(),
        );
    };
    Ok(prices.cost(&BatchUsage { tokens, ..BatchUsage::default() }).batch)
}
