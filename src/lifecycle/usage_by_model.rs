//! Sums of tokens and cost over shards, by model, so that no sealed shard has to be read for them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attempt::AttemptState;
use super::shard::Shard;
use crate::api::{OTHER_MODELS, TokenHints, TokenUsage};
use crate::money::Cost;

/// The largest number of models with sums of their own. Further ones are summed under [`OTHER_MODELS`].
pub(super) const MODEL_LIMIT: usize = 32;
/// Maximum length of the name of such a model, in bytes, so that the head of a journal has room for the sums.
const NAME_LIMIT: usize = 253;

/// Sums by model. The order in which shards are added does not matter, unless there are more than [`MODEL_LIMIT`] models: then it
/// decides which of them have sums of their own.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(transparent)]
pub struct UsageByModel(pub(super) BTreeMap<String, ModelTotals>);

/// Sums of the shards that ask for one model.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct ModelTotals {
    /// Tokens that the provider reported, of all settled batches. Answers that an earlier version collected, which counted no
    /// tokens, are in `answersWithoutUsage`.
    pub tokens: TokenUsage,
    /// Requests that settled batches answered.
    pub answered: i64,
    /// Cost of `tokens`, as far as there were prices.
    pub cost: Cost,
    /// Settled batches without prices: `cost` lacks theirs.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: i64,
    /// Requests that may have been billed and of which no usage was reported, see [`Shard::unreported`].
    #[serde(skip_serializing_if = "is_zero")]
    pub unreported: i64,
    /// Requests of the shards that these are of.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreported_of: i64,
    /// Facts from which the tokens of those shards are estimated.
    #[serde(skip_serializing_if = "TokenHints::is_zero")]
    pub unreported_hints: TokenHints,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl std::ops::AddAssign for ModelTotals {
    /// Adds each count; a sum that is too large stays at the largest number.
    fn add_assign(&mut self, other: ModelTotals) {
        let ModelTotals { tokens, answered, cost, unpriced, unreported, unreported_of, unreported_hints } = other;
        self.tokens += tokens;
        self.cost += cost;
        self.unreported_hints += unreported_hints;
        for (sum, more) in [
            (&mut self.answered, answered),
            (&mut self.unpriced, unpriced),
            (&mut self.unreported, unreported),
            (&mut self.unreported_of, unreported_of),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

impl UsageByModel {
    /// Adds a shard in any state.
    pub fn add(&mut self, shard: &Shard) {
        let of_shard = shard.usage();
        if of_shard == ModelTotals::default() {
            return;
        }
        let fits = self.0.contains_key(&shard.model) || self.0.len() < MODEL_LIMIT;
        let model = if fits && shard.model.len() <= NAME_LIMIT { shard.model.as_str() } else { OTHER_MODELS };
        *self.0.entry(model.into()).or_default() += of_shard;
    }

    /// Returns the sums by model.
    pub fn by_model(&self) -> impl Iterator<Item = (&str, &ModelTotals)> {
        self.0.iter().map(|(model, totals)| (model.as_str(), totals))
    }

    /// Returns the sums over all models.
    pub fn all(&self) -> ModelTotals {
        self.0.values().fold(ModelTotals::default(), |mut sum, of_model| {
            sum += *of_model;
            sum
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Shard {
    fn usage(&self) -> ModelTotals {
        let unreported = self.unreported();
        let mut totals = ModelTotals { unreported, ..ModelTotals::default() };
        if unreported > 0 {
            (totals.unreported_of, totals.unreported_hints) = (self.requests, self.hints);
        }
        // Nothing is known of a batch that was given up.
        if let Some(AttemptState::Settled { part: Some(_), counts, usage, cost, .. }) =
            self.attempt.as_ref().map(|a| &a.state)
        {
            totals.tokens = usage.tokens;
            if usage.tokens.is_zero() {
                totals.tokens.answers_without_usage = counts.succeeded;
            }
            totals.answered = counts.succeeded;
            totals.cost = cost.as_deref().copied().unwrap_or_default();
            totals.unpriced = i64::from(cost.is_none());
        }
        totals
    }

    /// Returns the number of batches of the shard's requests that may have run: the latest one, unless it was refused or is proved
    /// not to exist, and those that a person wrote off.
    fn runs(&self) -> i64 {
        let is_ruled_out =
            |state: &AttemptState| matches!(state, AttemptState::Refused { .. } | AttemptState::Revoked { .. });
        let latest = self.attempt.as_ref().is_some_and(|attempt| !is_ruled_out(&attempt.state));
        i64::from(self.written_off) + i64::from(latest)
    }

    /// Returns the number of times that requests of the shard were sent again, or run twice, although they may have been billed
    /// before:
    /// - requests that came back in no file, which a later round sends again;
    /// - all requests of a batch that a person wrote off: with `resend` if it is lost, or with `none` if the outcome of its
    ///   submission is unknown;
    /// - requests of other batches that a gateway made of the same submission, at most.
    ///
    /// Not counted, because nothing ran, or a line of the provider's tells what was billed:
    /// - submissions that were refused, rejected as a whole, or are proved to have made no batch;
    /// - requests that expired or were cancelled before they ran;
    /// - requests that failed in a way that may pass: their line has their usage, if there was any;
    /// - a POST that is repeated with its token, and a batch that is adopted: there is one batch.
    pub(super) fn resent(&self) -> i64 {
        let runs = self.runs();
        let whole = self.requests.saturating_mul((runs - 1).max(0));
        let missing = if runs > 0 { self.prior_counts.missing } else { 0 };
        whole.saturating_add(missing).saturating_add(self.attempt.as_ref().map_or(0, |a| a.billed_again))
    }

    /// Returns the number of requests that may have been billed and of which no usage was reported: of batches that were
    /// written off, lost or given up, of other batches of the same submission, and requests that came back in no file.
    pub(super) fn unreported(&self) -> i64 {
        let written_off = self.requests.saturating_mul(i64::from(self.written_off));
        let latest = self.attempt.as_ref().map_or(0, |attempt| {
            let of_state = match &attempt.state {
                AttemptState::Settled { counts, .. } => counts.missing,
                AttemptState::Abandoned { .. } => self.requests,
                _ => 0,
            };
            of_state.saturating_add(attempt.billed_again)
        });
        written_off.saturating_add(latest)
    }
}
