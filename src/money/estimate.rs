//! Tokens of requests, estimated before they run.

use super::TokenLimits;
use crate::api::{TokenHints, TokenUsage};

/// Bytes of text for an input token, until batches of the model taught better: some four in English prose.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of text for an input token at a ceiling. Few texts have more tokens: digits and rare scripts come near it.
const BYTES_PER_TOKEN_AT_MOST: u64 = 2;
/// Output tokens of a request, until batches of the model taught better, if its own limit is not lower.
const OUTPUT_TOKENS: i64 = 300;

/// The tokens that requests may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenEstimate {
    /// Tokens to be expected.
    pub expected: TokenUsage,
    /// Tokens at most; None if the requests do not bound them.
    pub ceiling: Option<TokenUsage>,
}

impl TokenEstimate {
    /// Estimates the tokens of so many requests to a model with these limits.
    pub fn of(hints: &TokenHints, requests: i64, limits: TokenLimits) -> TokenEstimate {
        let of_text =
            |bytes_per_token: u64| i64::try_from(hints.text_bytes.div_ceil(bytes_per_token)).unwrap_or(i64::MAX);
        let expected_output = match hints.unlimited_requests {
            0 => hints.max_output_tokens.min(requests.saturating_mul(OUTPUT_TOKENS)),
            _ => requests.saturating_mul(OUTPUT_TOKENS),
        };
        let tokens = |input_tokens, output_tokens| TokenUsage { input_tokens, output_tokens, ..TokenUsage::default() };
        // What the requests do not bound, the limits of the model do.
        let beyond = |count: i64, limit: Option<i64>| match count {
            0 => Some(0),
            _ => limit.map(|limit| count.saturating_mul(limit)),
        };
        let input = beyond(hints.opaque_requests, limits.max_input_tokens);
        let output = beyond(hints.unlimited_requests, limits.max_output_tokens);
        let most = |(input, output): (i64, i64)| {
            let input = input.saturating_add(of_text(BYTES_PER_TOKEN_AT_MOST));
            let all = limits.max_input_tokens.map_or(i64::MAX, |limit| requests.saturating_mul(limit));
            tokens(input.min(all), output.saturating_add(hints.max_output_tokens))
        };
        TokenEstimate {
            expected: tokens(of_text(BYTES_PER_TOKEN), expected_output),
            ceiling: input.zip(output).map(most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_model_bound_requests_that_set_none_or_hold_images() {
        let of = |hints: TokenHints, limits| {
            let ceiling = TokenEstimate::of(&hints, 10, limits).ceiling?;
            Some((ceiling.input_tokens, ceiling.output_tokens))
        };
        let limits = TokenLimits { max_input_tokens: Some(1_000), max_output_tokens: Some(100) };
        let (input, output) =
            (TokenLimits { max_output_tokens: None, ..limits }, TokenLimits { max_input_tokens: None, ..limits });
        let (none, text) =
            (TokenLimits::default(), TokenHints { text_bytes: 8_000, max_output_tokens: 70, ..TokenHints::default() });
        assert_eq!(of(text, none), Some((4_000, 70)), "the requests bound all");
        let unlimited = TokenHints { unlimited_requests: 3, ..text };
        assert_eq!((of(unlimited, none), of(unlimited, input)), (None, None));
        assert_eq!((of(unlimited, output), of(unlimited, limits)), (Some((4_000, 370)), Some((4_000, 370))));
        let images = TokenHints { opaque_requests: 2, ..text };
        assert_eq!((of(images, none), of(images, output)), (None, None));
        assert_eq!((of(images, input), of(images, limits)), (Some((6_000, 70)), Some((6_000, 70))));
        let long = TokenHints { text_bytes: 80_000, ..text };
        assert_eq!(of(long, limits), Some((10_000, 70)), "no request has more input than the model takes");
    }
}
