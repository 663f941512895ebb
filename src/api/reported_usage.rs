//! Counts of tokens in the `usage` of an answer or a batch, in the spellings of OpenAI's endpoints and of servers that follow them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::TokenUsage;

/// Most tokens of one request that are believed. The largest contexts hold a few million.
pub const MOST_TOKENS: i64 = 100_000_000;

/// The counts in a `usage` object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedUsage {
    input: Option<i64>,
    output: Option<i64>,
    total: Option<i64>,
    cached: i64,
    reasoning: i64,
}

/// The keys that are read. `prompt_tokens` and `completion_tokens` are those of chat and text completions and of embeddings,
/// `input_tokens` and `output_tokens` those of responses and of batch objects.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Keys<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    total_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
    /// DeepSeek's spelling.
    #[serde(borrow)]
    prompt_cache_hit_tokens: Option<&'a RawValue>,
    /// Spelling of servers without details.
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    /// Spelling of servers without details.
    #[serde(borrow)]
    reasoning_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_tokens: Option<&'a RawValue>,
}

impl ReportedUsage {
    /// Reads the JSON of a `usage` object. None if it is no object, or one of its counts of input or output is not a number of
    /// tokens from 0 to `most`. Numbers may be texts or have a fraction of zero. Unusable details count as absent.
    pub fn read(json: &str, most: i64) -> Option<ReportedUsage> {
        if !json.starts_with('{') {
            return None;
        }
        let keys: Keys = serde_json::from_str(json).ok()?;
        // Some gateways write both spellings, one of them with zeros.
        let either = |one, other| Some(count(one, most)?.max(count(other, most)?));
        let one = |raw| count(raw, most).flatten();
        let of_input = details([keys.prompt_tokens_details, keys.input_tokens_details]).map(|d| one(d.cached_tokens));
        let of_output = details([keys.completion_tokens_details, keys.output_tokens_details]);
        let of_output = of_output.map(|d| one(d.reasoning_tokens));
        let cached = [one(keys.prompt_cache_hit_tokens), one(keys.cached_tokens)].into_iter().chain(of_input);
        Some(ReportedUsage {
            input: either(keys.prompt_tokens, keys.input_tokens)?,
            output: either(keys.completion_tokens, keys.output_tokens)?,
            total: one(keys.total_tokens),
            cached: cached.flatten().max().unwrap_or(0),
            reasoning: of_output.chain([one(keys.reasoning_tokens)]).flatten().max().unwrap_or(0),
        })
    }

    /// Returns the tokens of an answer that is text; None if there is no count of its input or of its output, and neither follows
    /// from the total.
    pub fn of_text(self) -> Option<TokenUsage> {
        let rest = |part: i64| self.total.and_then(|total| total.checked_sub(part)).filter(|rest| *rest >= 0);
        let (input, mut output) = match (self.input, self.output) {
            (Some(input), Some(output)) => (input, output),
            (Some(input), None) => (input, rest(input)?),
            (None, Some(output)) => (rest(output)?, output),
            (None, None) => return None,
        };
        // xAI counts reasoning beside the output.
        let with_reasoning = input.saturating_add(output).saturating_add(self.reasoning);
        let is_beside = self.total == Some(with_reasoning) || self.reasoning > output;
        if is_beside {
            output = output.saturating_add(self.reasoning);
        }
        Some(TokenUsage {
            input_tokens: input,
            cached_input_tokens: self.cached.min(input),
            output_tokens: output,
            reasoning_tokens: self.reasoning,
            ..TokenUsage::default()
        })
    }

    /// Returns the tokens of an answer that is embeddings; None if there is no count.
    pub fn of_embeddings(self) -> Option<TokenUsage> {
        let embedding_tokens = self.input.or(self.total)?;
        Some(TokenUsage { embedding_tokens, ..TokenUsage::default() })
    }
}

fn details<'a>(raws: [Option<&'a RawValue>; 2]) -> impl Iterator<Item = Details<'a>> {
    raws.into_iter().flatten().filter_map(|raw| serde_json::from_str(raw.get()).ok())
}

/// Reads a count. `Some(None)` if there is none, None if it is not a number from 0 to `most`.
fn count(raw: Option<&RawValue>, most: i64) -> Option<Option<i64>> {
    let Some(raw) = raw else { return Some(None) };
    let text = raw.get();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).trim();
    // Some servers write a count as `12.0`, which is exact up to this number.
    let whole = |f: f64| (f.fract() == 0.0 && f.abs() <= 9e15).then_some(f as i64);
    let count = text.parse().ok().or_else(|| whole(text.parse().ok()?))?;
    (0..=most).contains(&count).then_some(Some(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Input, cached input, output, reasoning.
    fn of_text(usage: &Value) -> Option<[i64; 4]> {
        let tokens = ReportedUsage::read(&usage.to_string(), MOST_TOKENS)?.of_text()?;
        assert_eq!((tokens.embedding_tokens, tokens.answers_without_usage), (0, 0));
        Some([tokens.input_tokens, tokens.cached_input_tokens, tokens.output_tokens, tokens.reasoning_tokens])
    }

    #[test]
    fn usage_is_read_in_the_spelling_of_each_server() {
        for (server, usage, tokens) in [
            (
                "OpenAI, chat completions",
                json!({"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29,
                    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 5, "accepted_prediction_tokens": 0}}),
                [20, 16, 9, 5],
            ),
            (
                "OpenAI, responses",
                json!({"input_tokens": 20, "input_tokens_details": {"cached_tokens": 16}, "output_tokens": 9,
                    "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 29}),
                [20, 16, 9, 5],
            ),
            (
                "vLLM",
                json!({"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": null}),
                [7, 0, 3, 0],
            ),
            ("a server without details", json!({"prompt_tokens": 7, "completion_tokens": 3}), [7, 0, 3, 0]),
            (
                "DeepSeek",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 3}),
                [7, 4, 3, 0],
            ),
            (
                "cached tokens beside the others",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2}),
                [7, 2, 3, 0],
            ),
            (
                "xAI, whose reasoning is beside the output",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}),
                [7, 0, 33, 30],
            ),
            (
                "reasoning beside the output, without a total",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "reasoning_tokens": 30}),
                [7, 0, 33, 30],
            ),
            (
                "a gateway with zeros in the other spelling",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "input_tokens": 0, "output_tokens": 0}),
                [7, 0, 3, 0],
            ),
            ("numbers as text", json!({"prompt_tokens": "7", "completion_tokens": " 3 "}), [7, 0, 3, 0]),
            (
                "numbers with a fraction of zero",
                json!({"prompt_tokens": 7.0, "completion_tokens": "3.0"}),
                [7, 0, 3, 0],
            ),
            ("output by the total", json!({"prompt_tokens": 7, "total_tokens": 10}), [7, 0, 3, 0]),
            (
                "input by the total",
                json!({"completion_tokens": 3, "prompt_tokens": null, "total_tokens": 10}),
                [7, 0, 3, 0],
            ),
            (
                "an unusable total",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": -1}),
                [7, 0, 3, 0],
            ),
            (
                "unusable details",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -4},
                "completion_tokens_details": "none"}),
                [7, 0, 3, 0],
            ),
            (
                "more cached than there is",
                json!({"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 99}),
                [7, 7, 3, 0],
            ),
            ("zeros", json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), [0, 0, 0, 0]),
        ] {
            assert_eq!(of_text(&usage), Some(tokens), "{server}: {usage}");
        }
    }

    #[test]
    fn counts_that_nobody_can_believe_are_no_usage() {
        for usage in [
            json!(null),
            json!({}),
            json!([1, 2]),
            json!("{\"prompt_tokens\": 7}"),
            json!({"total_tokens": 10}),
            json!({"prompt_tokens": 7}),
            json!({"prompt_tokens": 7, "total_tokens": 3}),
            json!({"prompt_tokens": -7, "completion_tokens": 3}),
            json!({"prompt_tokens": 7, "completion_tokens": MOST_TOKENS + 1}),
            json!({"prompt_tokens": 1e30, "completion_tokens": 3}),
            json!({"prompt_tokens": 7.5, "completion_tokens": 3}),
            json!({"prompt_tokens": "inf", "completion_tokens": "NaN"}),
            json!({"prompt_tokens": "", "completion_tokens": 3}),
            json!({"prompt_tokens": true, "completion_tokens": 3}),
            json!({"prompt_tokens": {"count": 7}, "completion_tokens": 3}),
        ] {
            assert_eq!(of_text(&usage), None, "{usage}");
        }
    }

    #[test]
    fn embeddings_have_input_alone() {
        for usage in [
            json!({"prompt_tokens": 8, "total_tokens": 8}),
            json!({"total_tokens": 8}),
            json!({"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0, "prompt_tokens_details": null}),
        ] {
            let tokens = ReportedUsage::read(&usage.to_string(), MOST_TOKENS).and_then(ReportedUsage::of_embeddings);
            assert_eq!(tokens, Some(TokenUsage { embedding_tokens: 8, ..TokenUsage::default() }), "{usage}");
        }
        assert_eq!(ReportedUsage::read("{}", MOST_TOKENS).and_then(ReportedUsage::of_embeddings), None);
    }

    fn any_count() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            (0..2 * MOST_TOKENS).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(|n| n.to_string().into()),
            ".{0,6}".prop_map(Value::from),
            Just(Value::Null),
            (0..9i64).prop_map(|n| json!({"cached_tokens": n, "reasoning_tokens": n})),
            any::<i64>().prop_map(|n| json!({"cached_tokens": n, "reasoning_tokens": n})),
        ]
    }

    proptest! {
        #[test]
        fn no_usage_whatever_makes_a_sum_negative(
            usages in prop::collection::vec(prop::collection::btree_map(
                prop::sample::select(vec!["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens",
                    "prompt_tokens_details", "output_tokens_details", "cached_tokens", "reasoning_tokens"]),
                any_count(), 0..9), 1..6),
            most in prop::sample::select(vec![MOST_TOKENS, i64::MAX]),
        ) {
            let mut sum = TokenUsage::default();
            for usage in usages {
                let Some(reported) = ReportedUsage::read(&json!(usage).to_string(), most) else { continue };
                for tokens in [reported.of_text(), reported.of_embeddings()].into_iter().flatten() {
                    prop_assert!(tokens.cached_input_tokens <= tokens.input_tokens, "{:?}", tokens);
                    prop_assert!(tokens.reasoning_tokens <= tokens.output_tokens, "{:?}", tokens);
                    sum += tokens;
                    let TokenUsage { input_tokens: i, cached_input_tokens: c, output_tokens: o, reasoning_tokens: r,
                        embedding_tokens: e, answers_without_usage: w } = sum;
                    prop_assert!([i, c, o, r, e, w].iter().all(|count| *count >= 0), "{:?}", sum);
                }
            }
        }
    }
}
