//! Tokens of requests, estimated before they run, and their cost.

use super::{Cost, LongContextPrices, Prices, Rates, TokenLimits, Usd};
use crate::api::{BatchUsage, LearnedTokens, TokenHints, TokenUsage};

/// Bytes of text for an input token where nothing was learned: some four to five in European languages with the tokenizers of
/// today, three in Chinese and Japanese, one in tables of numbers.
const BYTES_PER_TOKEN: i64 = 4;
/// Weight of this default against learned tokens, in input tokens.
const INPUT_TOKENS_OF_DEFAULT: i64 = 1_000;
/// Output tokens of an answer where nothing was learned.
const OUTPUT_TOKENS: i64 = 300;
/// Number of learned answers from which on this default counts no more. Until then it stands for the answers that are missing.
const ANSWERS_OF_DEFAULT: i64 = 10;

/// The tokens that requests may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenEstimate {
    /// Tokens to be expected. The tokens of images and files are not among them: nothing tells their number.
    pub expected: TokenUsage,
    /// Tokens at most; None if neither the requests nor the limits of the model bound them. A tokenizer makes at most one input token
    /// of each byte of text; tables of numbers come near that. Never below what is expected.
    pub ceiling: Option<TokenUsage>,
    /// Input tokens of a request, on average as expected, and of the longest one at most.
    per_request: (i64, i64),
}

impl TokenEstimate {
    /// Estimates the tokens of so many requests to a model with these limits.
    pub fn of(hints: &TokenHints, requests: i64, limits: TokenLimits) -> TokenEstimate {
        TokenEstimate::learned(&LearnedTokens::default(), hints, requests, limits)
    }

    /// Estimates the tokens of so many requests to a model with these limits, by the answers that it gave to earlier ones.
    pub fn learned(learned: &LearnedTokens, hints: &TokenHints, requests: i64, limits: TokenLimits) -> TokenEstimate {
        let requests = requests.max(0);
        let hints = &match hints.is_zero() {
            // Requests that an earlier version planned told nothing.
            true => TokenHints { opaque_requests: requests, unlimited_requests: requests, ..*hints },
            // A journal is its user's to write.
            false => TokenHints {
                opaque_requests: hints.opaque_requests.max(0),
                max_output_tokens: hints.max_output_tokens.max(0),
                limited_answers: hints.limited_answers.max(0),
                unlimited_requests: hints.unlimited_requests.max(0),
                ..*hints
            },
        };
        let of_text = |bytes| input_tokens(learned, bytes);
        let at_most = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX).max(of_text(bytes));
        let beyond =
            |count: i64, limit: Option<i64>| if count == 0 { Some(0) } else { Some(count.saturating_mul(limit?)) };
        let of_all = limits.max_input_tokens.map_or(i64::MAX, |limit| requests.saturating_mul(limit));
        let most_input = beyond(hints.opaque_requests, limits.max_input_tokens)
            .map(|opaque| opaque.saturating_add(at_most(hints.text_bytes)).min(of_all));
        // No answer has more output than the model makes, whatever its request allows.
        let of_limited = limits.max_output_tokens.filter(|_| hints.limited_answers > 0);
        let of_limited = of_limited.map_or(i64::MAX, |limit| hints.limited_answers.saturating_mul(limit));
        let most_output = beyond(hints.unlimited_requests, limits.max_output_tokens)
            .map(|unlimited| unlimited.saturating_add(hints.max_output_tokens.min(of_limited)));
        let input = of_text(hints.text_bytes).min(of_all);
        let output = output_tokens(learned, requests).min(most_output.unwrap_or(i64::MAX));
        // Requests that make no output are of embeddings: answers of moderations have no tokens.
        let tokens = |input, output| match most_output {
            Some(0) => TokenUsage { embedding_tokens: input, ..TokenUsage::default() },
            _ => TokenUsage { input_tokens: input, output_tokens: output, ..TokenUsage::default() },
        };
        let longest = if hints.opaque_requests > 0 { i64::MAX } else { at_most(hints.longest_text_bytes) };
        TokenEstimate {
            expected: tokens(input, output),
            ceiling: most_input.zip(most_output).map(|(input, output)| tokens(input, output)),
            per_request: (input / requests.max(1), longest.min(limits.max_input_tokens.unwrap_or(i64::MAX))),
        }
    }

    /// Returns the cost that is to be expected.
    pub fn expected_cost(&self, prices: &Prices) -> Cost {
        let is_long = prices.long_context.is_some_and(|long| self.per_request.0 > long.above_input_tokens);
        prices.cost(&usage(self.expected, is_long))
    }

    /// Returns the cost of batches at most; None if there is no such amount.
    pub fn ceiling_cost(&self, prices: &Prices) -> Option<Usd> {
        let most = self.ceiling?;
        // Nobody knows which tokens the cache has.
        let dear = |rates: Rates| Rates { input: rates.input.max(rates.cached_input), ..rates };
        let long_context = prices.long_context.map(|long| LongContextPrices { batch: dear(long.batch), ..long });
        let prices = &Prices { batch: dear(prices.batch), long_context, ..*prices };
        let may_be_long = prices.long_context.is_some_and(|long| self.per_request.1 > long.above_input_tokens);
        Some(prices.cost(&usage(most, false)).batch.max(prices.cost(&usage(most, may_be_long)).batch))
    }
}

fn usage(tokens: TokenUsage, is_long: bool) -> BatchUsage {
    let long_context = if is_long { tokens } else { TokenUsage::default() };
    BatchUsage { tokens, long_context, ..BatchUsage::default() }
}

/// Returns the tokens of text to be expected.
fn input_tokens(learned: &LearnedTokens, bytes: u64) -> i64 {
    // A token has a byte at least: what one namespace teaches does not raise another one's ceiling.
    let (bytes_learned, tokens_learned) =
        (wide(learned.text_bytes), wide(learned.input_tokens.min(learned.text_bytes)));
    let default = wide(INPUT_TOKENS_OF_DEFAULT);
    let (tokens, of_bytes) = (tokens_learned + default, bytes_learned + default * wide(BYTES_PER_TOKEN));
    narrow((i128::from(bytes) * tokens + of_bytes - 1) / of_bytes)
}

/// Returns the tokens of answers to be expected.
fn output_tokens(learned: &LearnedTokens, requests: i64) -> i64 {
    let default = (wide(ANSWERS_OF_DEFAULT) - wide(learned.answers)).max(0);
    let tokens = wide(learned.output_tokens) + default * wide(OUTPUT_TOKENS);
    narrow(wide(requests) * tokens / (wide(learned.answers) + default))
}

fn wide(count: i64) -> i128 {
    i128::from(count.max(0))
}

fn narrow(count: i128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: TokenLimits = TokenLimits { max_input_tokens: None, max_output_tokens: None };

    #[test]
    fn limits_of_the_model_bound_requests_that_set_none_or_hold_images() {
        let of = |hints: TokenHints, limits| {
            let ceiling = TokenEstimate::of(&hints, 10, limits).ceiling?;
            Some((ceiling.input_tokens, ceiling.output_tokens))
        };
        let limits = TokenLimits { max_input_tokens: Some(1_000), max_output_tokens: Some(100) };
        let (input, output) =
            (TokenLimits { max_output_tokens: None, ..limits }, TokenLimits { max_input_tokens: None, ..limits });
        let text = TokenHints { text_bytes: 4_000, max_output_tokens: 70, ..TokenHints::default() };
        assert_eq!(of(text, NONE), Some((4_000, 70)), "the requests bound all");
        let unlimited = TokenHints { unlimited_requests: 3, ..text };
        assert_eq!((of(unlimited, NONE), of(unlimited, input)), (None, None));
        assert_eq!((of(unlimited, output), of(unlimited, limits)), (Some((4_000, 370)), Some((4_000, 370))));
        let images = TokenHints { opaque_requests: 2, ..text };
        assert_eq!((of(images, NONE), of(images, output)), (None, None));
        assert_eq!((of(images, input), of(images, limits)), (Some((6_000, 70)), Some((6_000, 70))));
        let long = TokenHints { text_bytes: 80_000, ..text };
        assert_eq!(of(long, limits), Some((10_000, 70)), "no request has more input than the model takes");
        let greedy = TokenHints { max_output_tokens: 1_000_000, limited_answers: 12, ..text };
        assert_eq!(of(greedy, NONE), Some((4_000, 1_000_000)));
        assert_eq!(of(greedy, output), Some((4_000, 1_200)), "no answer has more output than the model makes");
        assert_eq!(of(TokenHints { unlimited_requests: 3, ..greedy }, output), Some((4_000, 1_500)));
        assert_eq!(of(TokenHints { max_output_tokens: 70, ..greedy }, output), Some((4_000, 70)));
        assert_eq!(
            of(TokenHints { limited_answers: 0, ..greedy }, output),
            Some((4_000, 1_000_000)),
            "of an earlier version"
        );
        let unknown = TokenHints::default();
        assert_eq!((of(unknown, NONE), of(unknown, limits)), (None, Some((10_000, 1_000))), "of an earlier version");
    }

    #[test]
    fn no_experience_makes_the_ceiling_of_a_text_more_than_a_token_for_each_byte() {
        let forged = LearnedTokens { text_bytes: 1, input_tokens: 1_000_000_000, ..LearnedTokens::default() };
        let hints = TokenHints { text_bytes: 4_000, max_output_tokens: 70, ..TokenHints::default() };
        let ceiling = TokenEstimate::learned(&forged, &hints, 10, NONE).ceiling.unwrap();
        assert_eq!(ceiling.input_tokens, 4_000);
    }

    #[test]
    fn the_first_batches_move_the_defaults_and_many_replace_them() {
        let hints = TokenHints { text_bytes: 400_000, unlimited_requests: 1_000, ..TokenHints::default() };
        let expected = |answers: i64| {
            // Five bytes a token, and answers of 20 tokens.
            let tokens = |per_answer: i64| answers * per_answer;
            let learned = LearnedTokens {
                text_bytes: tokens(500),
                input_tokens: tokens(100),
                answers,
                output_tokens: tokens(20),
            };
            let TokenUsage { input_tokens, output_tokens, .. } =
                TokenEstimate::learned(&learned, &hints, 1_000, NONE).expected;
            (input_tokens, output_tokens)
        };
        assert_eq!(expected(0), (100_000, 300_000));
        assert_eq!(expected(5), (92_308, 160_000));
        assert_eq!(expected(10), (88_889, 20_000));
        assert_eq!(expected(10_000), (80_016, 20_000));
    }

    #[test]
    fn embeddings_are_estimated_without_output_and_all_of_them_bounded() {
        let hints = TokenHints { text_bytes: 4_000, ..TokenHints::default() };
        let TokenEstimate { expected, ceiling, .. } = TokenEstimate::of(&hints, 10, NONE);
        let of = |embedding_tokens| TokenUsage { embedding_tokens, ..TokenUsage::default() };
        assert_eq!((expected, ceiling), (of(1_000), Some(of(4_000))));
    }

    #[test]
    fn a_prompt_that_may_be_long_has_the_ceiling_of_long_prompts() {
        let rates = |input: &str| Rates { input: Usd::parse(input).unwrap(), ..Rates::default() };
        let long = LongContextPrices { above_input_tokens: 1_000, batch: rates("2"), real_time: rates("4") };
        let prices = Prices { batch: rates("1"), real_time: rates("2"), long_context: Some(long) };
        let of = |longest_text_bytes, requests| {
            let hints =
                TokenHints { text_bytes: 100_000, longest_text_bytes, max_output_tokens: 1, ..TokenHints::default() };
            let estimate = TokenEstimate::of(&hints, requests, NONE);
            (estimate.expected_cost(&prices).batch.rounded(), estimate.ceiling_cost(&prices).unwrap().rounded())
        };
        assert_eq!(of(1_000, 100), ("0.025".into(), "0.10".into()));
        assert_eq!(of(1_001, 100), ("0.025".into(), "0.20".into()), "digits, perhaps");
        assert_eq!(of(20_000, 5), ("0.05".into(), "0.20".into()));
    }

    #[test]
    fn the_ceiling_of_input_is_at_the_price_of_cached_tokens_if_that_is_the_dearer_one() {
        let usd = |amount| Usd::parse(amount).unwrap();
        let batch = Rates { input: usd("1"), cached_input: usd("3"), ..Rates::default() };
        let prices = Prices { batch, ..Prices::default() };
        let hints = TokenHints { text_bytes: 1_000_000, max_output_tokens: 1, ..TokenHints::default() };
        let ceiling = TokenEstimate::of(&hints, 1, NONE).ceiling_cost(&prices).unwrap();
        assert_eq!(ceiling.rounded(), "3.00");
    }

    proptest! {
        #[test]
        fn the_ceiling_is_never_below_the_expectation(
            hints in (any::<u64>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<u64>()),
            learned in (any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()),
            limits in (prop::option::of(0..=i64::MAX), prop::option::of(0..=i64::MAX)),
            requests in any::<i64>(),
            small in any::<bool>(),
        ) {
            let few = |count: i64| if small { count % 1_000 } else { count };
            let hints = TokenHints {
                text_bytes: if small { hints.0 % 100_000 } else { hints.0 },
                opaque_requests: few(hints.1) / 2,
                max_output_tokens: few(hints.2),
                limited_answers: few(hints.2) / 7,
                unlimited_requests: few(hints.3) / 2,
                longest_text_bytes: hints.4,
            };
            let learned = LearnedTokens {
                text_bytes: few(learned.0), input_tokens: few(learned.1), answers: few(learned.2), output_tokens: few(learned.3),
            };
            let limits = TokenLimits { max_input_tokens: limits.0.map(few), max_output_tokens: limits.1.map(few) };
            let estimate = TokenEstimate::learned(&learned, &hints, few(requests), limits);
            let TokenUsage { input_tokens, output_tokens, embedding_tokens, .. } = estimate.expected;
            prop_assert!(input_tokens >= 0 && output_tokens >= 0 && embedding_tokens >= 0);
            if let Some(ceiling) = estimate.ceiling {
                prop_assert!(ceiling.input_tokens >= input_tokens && ceiling.output_tokens >= output_tokens);
                prop_assert!(ceiling.embedding_tokens >= embedding_tokens);
            }
        }
    }
}
