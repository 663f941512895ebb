//! The prices that the batches of a work are accounted at, so that a change of them, and a lack of them, is told.

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::observed::Observed;
use super::weight::text;
use crate::api::text::clip;
use crate::money::{PriceList, Priced, Prices};

/// Most models whose prices are remembered.
const MODELS: usize = 16;
/// Most models without prices that are remembered and named.
const UNPRICED: usize = 4;
/// Most bytes of an origin.
const ORIGIN_BYTES: usize = 512;

/// The prices that the batches of a work are accounted at, and their origin. Part of the journal.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct Pricing {
    /// Origin of the first prices; empty if there were none.
    #[serde(skip_serializing_if = "String::is_empty")]
    first: String,
    /// Origin of the latest prices, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<String>,
    /// Whether there were others between the two.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    others: bool,
    /// Latest prices by model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<ModelPricing>,
    /// The first change of a model's prices, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<String>,
    /// Models that were submitted and have had no prices since.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unpriced: Vec<String>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
struct ModelPricing {
    model: String,
    prices: Box<Prices>,
}

impl Pricing {
    pub(super) fn is_none(&self) -> bool {
        *self == Pricing::default()
    }

    /// Records the prices that a batch of a model is accounted at, or that there are none where other models have some.
    pub(super) fn note(&mut self, model: &str, list: &PriceList) {
        let Some(Priced { prices, from }) = list.priced(model) else {
            if *list != PriceList::default()
                && self.unpriced.len() < UNPRICED
                && !self.unpriced.iter().any(|name| name == model)
            {
                self.unpriced.push(model.into());
            }
            return;
        };
        self.unpriced.retain(|name| name != model);
        let has_room = self.models.len() < MODELS;
        let known = self.models.iter_mut().find(|known| known.model == model);
        match known {
            Some(known) if *known.prices == *prices => return,
            Some(known) => {
                let before = std::mem::replace(&mut *known.prices, *prices);
                self.changed.get_or_insert_with(|| change(model, &before, prices, from));
            }
            None if has_room => {
                self.models.push(ModelPricing { model: model.into(), prices: Box::new(*prices) });
            }
            None => {}
        }
        let from = clip(from.into(), ORIGIN_BYTES);
        if self.first.is_empty() {
            self.first = from;
        } else if self.latest.as_ref().unwrap_or(&self.first) != &from {
            self.others |= self.latest.is_some();
            self.latest = Some(from);
        }
    }

    /// Returns the origin of the prices, for people: one, or the first and the latest; None if there were none.
    pub fn from(&self) -> Option<String> {
        let first = Some(&self.first).filter(|first| !first.is_empty())?;
        Some(match &self.latest {
            None => first.clone(),
            Some(latest) if self.others => format!("several, at first {first}, at last {latest}"),
            Some(latest) => format!("{first}; later {latest}"),
        })
    }

    /// Returns the change of prices in the middle of the work, for people. There is one message, about the first change.
    pub fn changed(&self) -> Option<&str> {
        self.changed.as_deref()
    }

    /// Returns the bytes of memory that it takes besides the struct itself.
    pub(super) fn weight(&self) -> usize {
        let Pricing { first, latest, others: _, models, changed, unpriced } = self;
        let of = |known: &ModelPricing| text(&known.model) + size_of::<ModelPricing>() + size_of::<Prices>();
        text(first)
            + latest.iter().chain(changed).chain(unpriced).map(|one| text(one)).sum::<usize>()
            + models.iter().map(of).sum::<usize>()
    }
}

fn change(model: &str, before: &Prices, now: &Prices, from: &str) -> String {
    let (model, from) = (clip(model.into(), 128), clip(from.into(), ORIGIN_BYTES));
    let shown = |prices: &Prices| format!("{} for input and {} for output", prices.batch.input, prices.batch.output);
    let (before, now) = (shown(before), shown(now));
    let what = match before == now {
        true => "for cached input, long prompts or single calls".into(),
        false => format!("from {before}, for a million tokens in a batch, to {now}"),
    };
    format!(
        "the prices of model '{model}' changed {what}, by {from}; batches that were submitted before keep their prices"
    )
}

/// Explains that a job has not all of its cost, and how to give its models prices; None if they have some, or if nothing is sent.
pub(super) fn without_prices(o: &Observed, journal: &Journal) -> Option<String> {
    let provider = o.job.provider.as_ref()?;
    if *provider.prices == PriceList::default() && journal.pricing.is_none() {
        let sends = journal.plan.as_ref().is_some_and(|plan| !plan.models.is_empty());
        return sends.then(|| {
            let name = &provider.name;
            format!(
                "no cost is known, since {name} has no prices; set `spec.models[].prices` or `spec.pricesRef` there"
            )
        });
    }
    let unsent = journal.shards.iter().filter(|shard| shard.is_unsent()).map(|shard| &shard.model);
    let unsent = unsent.filter(|model| provider.prices.of(model).is_none());
    let mut models: Vec<&String> = vec![];
    for model in journal.pricing.unpriced.iter().chain(unsent) {
        if models.len() < UNPRICED && !models.contains(&model) {
            models.push(model);
        }
    }
    let first = models.first()?;
    let names: Vec<String> = models.iter().map(|model| format!("'{}'", clip((*model).clone(), 64))).collect();
    let remedy = match &provider.prices.fault {
        Some(fault) => format!(": {fault}"),
        None => {
            let (kind, name) = provider.name.split_once(' ').unwrap_or(("BatchProvider", &provider.name));
            format!(
                "; `kubectl edit {} {}` sets them in `spec.models`: - {{name: {}, prices: {{inputUSDPerMillion: '…', \
                 outputUSDPerMillion: '…'}}}}",
                kind.to_lowercase(),
                name.trim_matches('\''),
                clip((*first).clone(), 64)
            )
        }
    };
    let (model, have) = if names.len() == 1 { ("model", "has") } else { ("models", "have") };
    Some(format!("the cost is not known as a whole: {model} {} {have} no prices{remedy}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Rates, Usd};

    /// A list with one model.
    fn list(model: &str, input: &str, from: &str) -> PriceList {
        let rates = Rates { input: Usd::parse(input).unwrap(), ..Rates::default() };
        let prices = Prices { batch: rates, real_time: rates, long_context: None };
        PriceList { from: from.into(), models: vec![(model.into(), prices)], ..PriceList::default() }
    }

    #[test]
    fn a_price_that_changes_is_told_once_with_both_prices_and_the_origin_names_both() {
        let mut pricing = Pricing::default();
        assert_eq!((pricing.from(), pricing.is_none()), (None, true));
        let mut note = |model: &str, input: &str, from: &str| {
            pricing.note(model, &list(model, input, from));
            (pricing.from().unwrap(), pricing.changed().map(String::from))
        };
        assert_eq!(note("m", "1", "A"), ("A".into(), None));
        assert_eq!(note("m", "1", "B"), ("A".into(), None), "another edition with the same prices");
        assert_eq!(note("other", "2", "A"), ("A".into(), None));
        let (from, changed) = note("m", "1.5", "C");
        assert_eq!(from, "A; later C");
        let told = "the prices of model 'm' changed from $1.00 for input and $0.00 for output, for a million tokens in a batch, to $1.50 \
                    for input and $0.00 for output, by C; batches that were submitted before keep their prices";
        assert_eq!(changed.as_deref(), Some(told));
        assert_eq!(note("other", "3", "C"), ("A; later C".into(), changed.clone()));
        assert_eq!(note("m", "1", "D"), ("several, at first A, at last D".into(), changed));
    }

    #[test]
    fn models_beyond_those_that_are_remembered_take_no_more_room() {
        let mut pricing = Pricing::default();
        (0..1_000).for_each(|n| {
            let model = format!("m{n}");
            let list = list(&model, "1", &"x".repeat(2_000));
            pricing.note(&model, &list);
            pricing.note(&format!("n{n}"), &list);
        });
        assert_eq!(
            (pricing.models.len(), pricing.unpriced.len(), pricing.from().unwrap().len()),
            (MODELS, UNPRICED, ORIGIN_BYTES)
        );
    }

    #[test]
    fn a_model_that_gets_prices_later_lacks_none() {
        let mut pricing = Pricing::default();
        pricing.note("m", &PriceList::default());
        assert!(pricing.is_none(), "nobody asks for a cost");
        pricing.note("m", &list("other", "1", "A"));
        assert_eq!(pricing.unpriced, ["m"]);
        pricing.note("m", &list("m", "1", "A"));
        assert!(pricing.unpriced.is_empty());
        assert_eq!(serde_json::from_value::<Pricing>(serde_json::to_value(&pricing).unwrap()).unwrap(), pricing);
    }
}
