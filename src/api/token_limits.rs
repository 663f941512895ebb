//! Limits of the input tokens that an account takes at a time, and the names by which models have them.

use std::sync::Arc;

use super::{ModelStatus, ProviderModel};

/// Bytes of text for an input token by which batches are cut, unless a model is known to make more tokens of them. Texts of
/// European languages have four to five.
const CUT_BYTES_PER_TOKEN: u64 = 3;
/// Input tokens from which on the experience with a model counts for the cut.
const EXPERIENCE: i64 = 10_000;

/// Returns the entry of the very name of a model, or else that of the longest name with a `*` at its end that fits.
pub fn fitting<'a, T>(list: &'a [(String, T)], model: &str) -> Option<&'a (String, T)> {
    let fits = |name: &str| match name.strip_suffix('*') {
        Some(start) => model.starts_with(start).then_some(start.len()),
        None => (name == model).then_some(usize::MAX),
    };
    let fitting = list.iter().filter_map(|entry| Some((fits(&entry.0)?, entry)));
    fitting.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
}

/// The input tokens that an account takes at a time, by the names of the entries of `spec.models` that limit them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnqueuedTokenLimits(Arc<[(String, u64)]>);

impl EnqueuedTokenLimits {
    /// Returns the limits in `spec.models`.
    pub fn of(models: &[ProviderModel]) -> EnqueuedTokenLimits {
        let limit =
            |model: &ProviderModel| Some((model.name.clone(), model.max_enqueued_tokens?.max(1).unsigned_abs()));
        EnqueuedTokenLimits(models.iter().filter_map(limit).collect())
    }

    /// Returns the limit for a model, with the name of its entry; None if it has none. Models of one entry share its limit.
    pub fn of_model(&self, model: &str) -> Option<(&str, u64)> {
        fitting(&self.0, model).map(|(name, limit)| (name.as_str(), *limit))
    }

    /// Returns the bytes of text in one batch that keep within the limits, by the same names. `known` is the experience with
    /// models.
    pub fn text_of_batches(&self, known: &[ModelStatus]) -> TextLimits {
        let of = |(name, limit): &(String, u64)| {
            let own = known.iter().filter(|model| self.of_model(&model.name).is_some_and(|(of, _)| of == name));
            let shown = own.map(|model| &model.tokens).filter(|tokens| tokens.input_tokens >= EXPERIENCE);
            let bytes = shown.map(|tokens| {
                u128::from(tokens.text_bytes.max(0).unsigned_abs()) * 1_000
                    / u128::from(tokens.input_tokens.unsigned_abs())
            });
            let careful = CUT_BYTES_PER_TOKEN * 1_000;
            let shown = bytes.min().and_then(|bytes| u64::try_from(bytes).ok());
            // A token has a byte at least.
            let thousandths = shown.map_or(careful, |shown| shown.clamp(1_000, careful));
            (name.clone(), limit.saturating_mul(thousandths) / 1_000)
        };
        TextLimits(self.0.iter().map(of).collect())
    }

    /// Returns the bytes of memory that the limits take.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(name, _)| name.len() + size_of::<(String, u64)>()).sum()
    }
}

/// The most bytes of text in one batch, by models as in [`EnqueuedTokenLimits`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextLimits(Vec<(String, u64)>);

impl TextLimits {
    /// Returns the most bytes for a model; None for no limit.
    pub fn of_model(&self, model: &str) -> Option<u64> {
        fitting(&self.0, model).map(|(_, bytes)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LearnedTokens;

    fn limits(models: &[(&str, Option<i64>)]) -> EnqueuedTokenLimits {
        let model = |(name, max_enqueued_tokens): &(&str, Option<i64>)| ProviderModel {
            name: (*name).into(),
            max_enqueued_tokens: *max_enqueued_tokens,
            ..ProviderModel::default()
        };
        EnqueuedTokenLimits::of(&models.iter().map(model).collect::<Vec<_>>())
    }

    #[test]
    fn models_share_the_limit_of_the_entry_with_the_longest_name_that_fits_and_has_one() {
        let limits = limits(&[("gpt-5*", Some(900)), ("gpt-5-mini", None), ("gpt-5-nano", Some(7))]);
        assert_eq!(limits.of_model("gpt-5-mini"), Some(("gpt-5*", 900)));
        assert_eq!(limits.of_model("gpt-5-nano"), Some(("gpt-5-nano", 7)));
        assert_eq!(limits.of_model("o3"), None);
    }

    #[test]
    fn batches_are_cut_by_three_bytes_a_token_or_fewer_where_a_model_showed_that() {
        let limits = limits(&[("m*", Some(1_000)), ("o", Some(1_000))]);
        let known = |name: &str, text_bytes, input_tokens| ModelStatus {
            name: name.into(),
            tokens: LearnedTokens { text_bytes, input_tokens, ..LearnedTokens::default() },
            ..ModelStatus::default()
        };
        let text = |known: &[ModelStatus]| limits.text_of_batches(known).of_model("m-1");
        assert_eq!(text(&[]), Some(3_000));
        assert_eq!(text(&[known("m-2", 40_000, 20_000), known("o", 20_000, 20_000)]), Some(2_000));
        assert_eq!(text(&[known("m-2", 100_000, 20_000)]), Some(3_000), "a cut that is careful");
        assert_eq!(text(&[known("m-2", 100, 9_999)]), Some(3_000), "too little to go by");
        assert_eq!(text(&[known("m-2", -5, i64::MAX)]), Some(1_000), "forged");
        assert_eq!(limits.text_of_batches(&[]).of_model("other"), None);
    }
}
