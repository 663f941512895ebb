//! Tokens of requests, estimated before they run.

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
    /// Estimates the tokens of so many requests.
    pub fn of(hints: &TokenHints, requests: i64) -> TokenEstimate {
        let input =
            |bytes_per_token: u64| i64::try_from(hints.text_bytes.div_ceil(bytes_per_token)).unwrap_or(i64::MAX);
        let expected_output = match hints.unlimited_requests {
            0 => hints.max_output_tokens.min(requests.saturating_mul(OUTPUT_TOKENS)),
            _ => requests.saturating_mul(OUTPUT_TOKENS),
        };
        let tokens = |input_tokens, output_tokens| TokenUsage { input_tokens, output_tokens, ..TokenUsage::default() };
        let is_bounded = hints.unlimited_requests == 0 && hints.opaque_requests == 0;
        TokenEstimate {
            expected: tokens(input(BYTES_PER_TOKEN), expected_output),
            ceiling: is_bounded.then(|| tokens(input(BYTES_PER_TOKEN_AT_MOST), hints.max_output_tokens)),
        }
    }
}
