//! The cost of shards before they run.

use super::observed::Observed;
use super::shard::Shard;
use crate::api::BatchUsage;
use crate::money::{Cost, Prices, TokenEstimate, Usd};

fn prices<'a>(o: &Observed<'a>, shard: &Shard) -> Option<&'a Prices> {
    o.job.provider.as_ref()?.prices.of(&shard.model)
}

/// Returns the cost that a shard is expected to have; None without prices of its model.
pub(super) fn expected_cost(o: &Observed, shard: &Shard) -> Option<Cost> {
    let tokens = TokenEstimate::of(&shard.hints, shard.requests).expected;
    Some(prices(o, shard)?.cost(&BatchUsage { tokens, ..BatchUsage::default() }))
}

/// Returns the most that a batch of the shard can cost.
///
/// # Errors
/// If there is no such amount: the reason, and its remedy.
pub(super) fn ceiling(o: &Observed, shard: &Shard) -> Result<Usd, String> {
    let Some(prices) = prices(o, shard) else {
        return Err(format!(
            "the provider object has no prices for model '{}'; set `spec.models[].prices` there",
            shard.model
        ));
    };
    let Some(tokens) = TokenEstimate::of(&shard.hints, shard.requests).ceiling else {
        return Err(
            "some requests set no limit of output tokens, or hold images or files; set `max_completion_tokens` in \
                    `spec.requestDefaults`"
                .into(),
        );
    };
    Ok(prices.cost(&BatchUsage { tokens, ..BatchUsage::default() }).batch)
}
