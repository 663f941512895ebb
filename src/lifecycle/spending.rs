//! What a job used and cost: tokens, kinds of answers and amounts of money, for status, commit and manifest.

use super::forecast::expected_cost;
use super::journal::Journal;
use super::observed::Observed;
use super::shard::Shard;
use super::usage_by_model::{ModelTotals, UsageByModel};
use crate::api::{CostStatus, ModelUsage, Spending, UsageStatus};
use crate::money::{Cost, Usd};

/// Returns what the job used and cost so far.
pub(super) fn spending(o: &Observed, journal: &Journal) -> Spending {
    let (totals, usage) = (journal.shards.totals(), journal.shards.usage());
    // Shards that an earlier version sealed are in no sum of usage.
    let uncounted =
        totals.counts.succeeded.saturating_sub(totals.counts.reused).saturating_sub(usage.all().answered).max(0);
    Spending {
        usage: usage_of(&usage, uncounted),
        answers: totals.answers,
        cost: if uncounted == 0 { cost_of(o, &usage).map(|cost| with_origin(journal, cost)) } else { None },
    }
}

/// Adds the origin of the prices.
fn with_origin(journal: &Journal, cost: CostStatus) -> CostStatus {
    CostStatus { prices_from: journal.pricing.from(), ..cost }
}

fn usage_of(usage: &UsageByModel, uncounted: i64) -> Option<UsageStatus> {
    let mut tokens = usage.all().tokens;
    tokens.answers_without_usage = tokens.answers_without_usage.saturating_add(uncounted);
    let of_model = |(name, totals): (&str, &ModelTotals)| ModelUsage { name: name.into(), tokens: totals.tokens };
    let models = usage.by_model().filter(|(_, totals)| !totals.tokens.is_zero()).map(of_model).collect();
    (!tokens.is_zero()).then_some(UsageStatus { tokens, models })
}

/// Returns the amounts; None without prices for every model that was used: a sum without some of them would look whole.
fn cost_of(o: &Observed, usage: &UsageByModel) -> Option<CostStatus> {
    let mut actual = Cost::default();
    let mut unconfirmed = Usd::ZERO;
    for (model, totals) in usage.by_model() {
        if totals.unpriced > 0 {
            return None;
        }
        actual += totals.cost;
        unconfirmed += unconfirmed_of(o, model, totals)?;
    }
    let is_known = !usage.is_empty();
    is_known.then(|| CostStatus {
        actual_usd: Some(actual.batch.rounded()),
        real_time_usd: Some(actual.real_time.rounded()),
        saved_usd: Some(actual.real_time.saturating_sub(actual.batch).rounded()),
        unconfirmed_usd: (unconfirmed != Usd::ZERO).then(|| unconfirmed.rounded()),
        ..CostStatus::default()
    })
}

/// Returns what requests of a model may have cost without a report: each as much as an answered request did or, if there is no such
/// request, as much as it was expected to. None if neither is known.
fn unconfirmed_of(o: &Observed, model: &str, totals: &ModelTotals) -> Option<Usd> {
    let without_usage = totals.tokens.answers_without_usage;
    let unreported = totals.unreported.saturating_add(without_usage);
    let counted = totals.answered.saturating_sub(without_usage);
    match unreported {
        0 => Some(Usd::ZERO),
        _ if counted > 0 => Some(totals.cost.batch.share(unreported, counted)),
        // Nothing tells the tokens of answers if none of them has a count.
        _ if without_usage > 0 || totals.unreported_hints.is_zero() => None,
        _ => {
            let (requests, hints) = (totals.unreported_of, totals.unreported_hints);
            let shard = Shard { model: model.into(), requests, hints, ..Shard::default() };
            Some(expected_cost(o, &shard)?.batch.share(unreported, requests))
        }
    }
}
