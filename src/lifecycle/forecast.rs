//! The cost of shards before they run.

use super::observed::{JobView, Observed};
use super::shard::Shard;
use crate::api::{LearnedTokens, ModelStatus, TokenHints};
use crate::money::{Cost, PriceList, Prices, TokenEstimate, Usd};

/// The knowledge of the models of an account.
pub(super) struct Models<'a> {
    /// Prices and limits; None without a provider object.
    pub prices: Option<&'a PriceList>,
    /// Experience.
    pub known: &'a [ModelStatus],
}

impl<'a> Models<'a> {
    pub fn of(job: &'a JobView) -> Models<'a> {
        let provider = job.provider.as_ref();
        Models {
            prices: provider.map(|provider| &*provider.prices),
            known: provider.map(|provider| &*provider.models).unwrap_or_default(),
        }
    }

    /// Returns the prices of a model.
    ///
    /// # Errors
    /// If it has none: the reason, and its remedy.
    pub fn prices(&self, model: &str) -> Result<&'a Prices, String> {
        let list = self.prices.ok_or("the provider object was not found")?;
        list.of(model).ok_or_else(|| list.no_prices(model))
    }

    /// Estimates the tokens of requests by the answers that the model gave to earlier ones.
    pub fn estimate(&self, model: &str, hints: &TokenHints, requests: i64) -> TokenEstimate {
        let limits = self.prices.map(|list| list.limits_of(model)).unwrap_or_default();
        let known = self.known.iter().find(|known| known.name == model);
        let learned = known.map_or(LearnedTokens::default(), |known| known.tokens);
        TokenEstimate::learned(&learned, hints, requests, limits)
    }
}

/// Returns the hints of a shard. Of one that an earlier version planned, nothing but its size is known.
fn hints(shard: &Shard) -> TokenHints {
    let (text_bytes, requests) = (shard.bytes, shard.requests);
    match shard.hints.is_zero() {
        true => TokenHints {
            text_bytes,
            longest_text_bytes: text_bytes,
            opaque_requests: requests,
            unlimited_requests: requests,
            ..TokenHints::default()
        },
        false => shard.hints,
    }
}

/// Returns the cost that a shard is expected to have; None without prices of its model.
pub(super) fn expected_cost(o: &Observed, shard: &Shard) -> Option<Cost> {
    let models = Models::of(o.job);
    let prices = models.prices(&shard.model).ok()?;
    Some(models.estimate(&shard.model, &hints(shard), shard.requests).expected_cost(prices))
}

/// Returns the most that a batch of the shard can cost at the prices of now.
///
/// # Errors
/// If there is no such amount: the reason, and its remedy.
pub(super) fn ceiling(o: &Observed, shard: &Shard) -> Result<Usd, String> {
    at_most(o, Models::of(o.job).prices(&shard.model)?, shard)
}

/// Returns the most that a batch of the shard can cost at these prices.
///
/// # Errors
/// If there is no such amount: the reason, and its remedy.
pub(super) fn at_most(o: &Observed, prices: &Prices, shard: &Shard) -> Result<Usd, String> {
    let (models, hints) = (Models::of(o.job), hints(shard));
    let most = models.estimate(&shard.model, &hints, shard.requests).ceiling_cost(prices);
    most.ok_or_else(|| unbounded(&hints))
}

/// Returns the reason why nothing bounds the cost of requests, and its remedy.
pub(super) fn unbounded(hints: &TokenHints) -> String {
    let of_provider = "of the model in `spec.models` of the provider object";
    match (hints.unlimited_requests, hints.opaque_requests) {
        (1.., 0) => format!(
            "some requests set no limit of output tokens; set it in `spec.requestDefaults`, such as `max_completion_tokens: 500`, or \
             `maxOutputTokens` {of_provider}"
        ),
        (0, _) => format!(
            "some requests hold images or files, or refer to content elsewhere; set `maxInputTokens` {of_provider}"
        ),
        _ => format!(
            "some requests set no limit of output tokens, and some hold images or files, or refer to content elsewhere; set \
             `maxOutputTokens` and `maxInputTokens` {of_provider}"
        ),
    }
}
