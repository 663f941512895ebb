//! The prices and limits that an account has for its models.

use std::sync::Arc;

use super::Prices;
use crate::api::fitting;

/// Limits that a model itself has, whatever a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenLimits {
    /// Input tokens of one request; None if unknown.
    pub max_input_tokens: Option<i64>,
    /// Output tokens of one answer; None if unknown.
    pub max_output_tokens: Option<i64>,
}

/// The prices and limits that an account has, by model. In both lists, a name that ends in `*` stands for all models that begin with
/// the rest of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PriceList {
    /// Origin of the prices, for people.
    pub from: String,
    /// Prices by model.
    pub models: Vec<(String, Prices)>,
    /// Limits by model.
    pub limits: Vec<(String, TokenLimits)>,
    /// List for the models that this one has nothing about.
    pub otherwise: Option<Arc<PriceList>>,
    /// The reason why a list that should have been there is not, and the remedy.
    pub fault: Option<String>,
}

/// Prices of a model, and their origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced<'a> {
    /// The prices.
    pub prices: &'a Prices,
    /// Origin of the prices, for people.
    pub from: &'a str,
}

impl PriceList {
    /// Returns the prices of a model: those of its very name, or else those of the longest name with a `*` that fits.
    pub fn of(&self, model: &str) -> Option<&Prices> {
        Some(self.priced(model)?.prices)
    }

    /// Returns the same with their origin.
    pub fn priced(&self, model: &str) -> Option<Priced<'_>> {
        match fitting(&self.models, model) {
            Some((_, prices)) => Some(Priced { prices, from: &self.from }),
            None => self.otherwise.as_deref()?.priced(model),
        }
    }

    /// Returns the limits of a model, each from the first list that has it.
    pub fn limits_of(&self, model: &str) -> TokenLimits {
        let own = fitting(&self.limits, model).map(|(_, limits)| *limits).unwrap_or_default();
        let other = self.otherwise.as_deref().map(|list| list.limits_of(model)).unwrap_or_default();
        TokenLimits {
            max_input_tokens: own.max_input_tokens.or(other.max_input_tokens),
            max_output_tokens: own.max_output_tokens.or(other.max_output_tokens),
        }
    }

    /// Returns the reason why a model has no prices, and the remedy, for people.
    pub fn no_prices(&self, model: &str) -> String {
        let model: String = model.chars().take(64).collect();
        match &self.fault {
            Some(fault) => format!("model '{model}' has no prices: {fault}"),
            None => format!(
                "the provider object has no prices for model '{model}'; set `prices` in `spec.models`, or name a table with \
                 `spec.pricesRef`"
            ),
        }
    }

    /// Returns the number of names that have prices.
    pub fn priced_names(&self) -> usize {
        self.models.len() + self.otherwise.as_deref().map_or(0, PriceList::priced_names)
    }

    /// Returns the origins of the prices, for people; empty if there are none.
    pub fn origins(&self) -> String {
        let own = (!self.models.is_empty()).then(|| self.from.clone());
        let other = self.otherwise.as_deref().map(PriceList::origins).filter(|from| !from.is_empty());
        own.into_iter().chain(other).collect::<Vec<_>>().join("; ")
    }

    /// Returns the bytes of memory that the list takes.
    pub fn weight(&self) -> usize {
        let names = self.models.iter().map(|(name, _)| name.len() + size_of::<(String, Prices)>());
        let limits = self.limits.iter().map(|(name, _)| name.len() + size_of::<(String, TokenLimits)>());
        let other = self.otherwise.as_deref().map_or(0, PriceList::weight);
        size_of::<PriceList>()
            + self.from.len()
            + self.fault.as_ref().map_or(0, String::len)
            + names.chain(limits).sum::<usize>()
            + other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Rates, Usd};

    fn at(amount: &str) -> Prices {
        Prices { batch: Rates { input: Usd::parse(amount).unwrap(), ..Rates::default() }, ..Prices::default() }
    }

    fn list(from: &str, names: &[(&str, &str)]) -> PriceList {
        let models = names.iter().map(|(name, amount)| (name.to_string(), at(amount))).collect();
        PriceList { from: from.into(), models, ..PriceList::default() }
    }

    #[test]
    fn the_longest_name_that_fits_a_model_has_its_prices() {
        let list = list("p", &[("*", "1"), ("gpt-5*", "2"), ("gpt-5-mini", "3"), ("gpt-5-mini*", "4")]);
        for (model, amount) in [("o3", "1"), ("gpt-5", "2"), ("gpt-5-mini", "3"), ("gpt-5-mini-2025-08-07", "4")] {
            assert_eq!(list.of(model), Some(&at(amount)), "{model}");
        }
        assert_eq!(PriceList::default().of("o3"), None);
    }

    #[test]
    fn a_list_comes_before_the_one_for_other_models_whose_prices_keep_their_origin() {
        let table = Arc::new(list("table", &[("gpt-5-mini", "1"), ("o3", "2")]));
        let both = PriceList { otherwise: Some(table), ..list("object", &[("gpt-5*", "3")]) };
        let of = |model| both.priced(model).map(|priced| (priced.prices.batch.input, priced.from));
        assert_eq!(of("gpt-5-mini"), Some((Usd::parse("3").unwrap(), "object")));
        assert_eq!(of("o3"), Some((Usd::parse("2").unwrap(), "table")));
        assert_eq!((of("o4"), both.priced_names()), (None, 3));
    }

    #[test]
    fn each_limit_is_that_of_the_first_list_that_has_it() {
        let limits = |max_input_tokens, max_output_tokens| TokenLimits { max_input_tokens, max_output_tokens };
        let table = PriceList { limits: vec![("gpt-5*".into(), limits(Some(1), Some(2)))], ..PriceList::default() };
        let both = PriceList {
            limits: vec![("gpt-5-mini".into(), limits(None, Some(3)))],
            otherwise: Some(Arc::new(table)),
            ..PriceList::default()
        };
        assert_eq!(both.limits_of("gpt-5-mini"), limits(Some(1), Some(3)));
        assert_eq!(both.limits_of("gpt-5"), limits(Some(1), Some(2)));
        assert_eq!(both.limits_of("o3"), limits(None, None));
    }
}
