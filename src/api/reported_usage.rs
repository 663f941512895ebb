//! Counts of tokens in the `usage` of an answer or a batch, in the spellings of OpenAI's endpoints and of servers that follow them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
struct Keys {
    prompt_tokens: Count,
    input_tokens: Count,
    completion_tokens: Count,
    output_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Details,
    input_tokens_details: Details,
    completion_tokens_details: Details,
    output_tokens_details: Details,
    /// DeepSeek's spelling.
    prompt_cache_hit_tokens: Count,
    /// Spelling of servers without details.
    cached_tokens: Count,
    /// Spelling of servers without details.
    reasoning_tokens: Count,
}

/// The details of a count. All other values than an object have none.
#[derive(Clone, Copy, Default)]
struct Details {
    cached_tokens: Count,
    reasoning_tokens: Count,
}

/// A number of tokens.
#[derive(Clone, Copy, Default)]
enum Count {
    #[default]
    Absent,
    Unusable,
    Of(i64),
}

impl Count {
    /// Returns the count if it is a number from 0 to `most`.
    fn given(self, most: i64) -> Option<i64> {
        match self {
            Count::Of(count) if (0..=most).contains(&count) => Some(count),
            _ => None,
        }
    }

    /// Returns the larger of two spellings of a count, `Some(None)` without any; None if one is not a number from 0 to `most`.
    /// Some gateways write both, one of them with zeros.
    fn either(self, other: Count, most: i64) -> Option<Option<i64>> {
        let usable = |count: Count| match count {
            Count::Absent => Some(None),
            count => count.given(most).map(Some),
        };
        Some(usable(self)?.max(usable(other)?))
    }
}

impl ReportedUsage {
    /// Reads the JSON of a `usage` object. None if it is no object, or one of its counts of input or output is not a number of
    /// tokens from 0 to `most`. Numbers may be texts or have a fraction of zero. Unusable details count as absent.
    pub fn read(json: &str, most: i64) -> Option<ReportedUsage> {
        if !json.starts_with('{') {
            return None;
        }
        let keys: Keys = serde_json::from_str(json).ok()?;
        let largest = |counts: [Count; 4]| counts.into_iter().filter_map(|count| count.given(most)).max().unwrap_or(0);
        let (of_prompt, of_input) = (keys.prompt_tokens_details, keys.input_tokens_details);
        let (of_completion, of_output) = (keys.completion_tokens_details, keys.output_tokens_details);
        Some(ReportedUsage {
            input: keys.prompt_tokens.either(keys.input_tokens, most)?,
            output: keys.completion_tokens.either(keys.output_tokens, most)?,
            total: keys.total_tokens.given(most),
            cached: largest([
                keys.prompt_cache_hit_tokens,
                keys.cached_tokens,
                of_prompt.cached_tokens,
                of_input.cached_tokens,
            ]),
            reasoning: largest([
                keys.reasoning_tokens,
                Count::Absent,
                of_completion.reasoning_tokens,
                of_output.reasoning_tokens,
            ]),
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

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl<'de> Visitor<'de> for Number {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of tokens")
            }

            fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
                Ok(i64::try_from(count).map_or(Count::Unusable, Count::Of))
            }

            fn visit_i64<E>(self, count: i64) -> Result<Count, E> {
                Ok(Count::Of(count))
            }

            /// Some servers write `12.0`, which is exact up to this number.
            fn visit_f64<E>(self, count: f64) -> Result<Count, E> {
                let is_whole = count.fract() == 0.0 && count.abs() <= 9e15;
                Ok(if is_whole { Count::Of(count as i64) } else { Count::Unusable })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Count, E> {
                match (text.trim().parse(), text.trim().parse()) {
                    (Ok(count), _) => Ok(Count::Of(count)),
                    (_, Ok(count)) => self.visit_f64(count),
                    _ => Ok(Count::Unusable),
                }
            }

            fn visit_unit<E>(self) -> Result<Count, E> {
                Ok(Count::Absent)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
                Ok(Count::Unusable)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Count::Unusable)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Count, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Count::Unusable)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Key {
            CachedTokens,
            ReasoningTokens,
            #[serde(other)]
            Other,
        }

        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Details;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("details of a number of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Details, A::Error> {
                let mut details = Details::default();
                while let Some(key) = object.next_key()? {
                    match key {
                        Key::CachedTokens => details.cached_tokens = object.next_value()?,
                        Key::ReasoningTokens => details.reasoning_tokens = object.next_value()?,
                        Key::Other => _ = object.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(details)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Details, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Details::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Details, E> {
                Ok(Details::default())
            }

            fn visit_unit<E>(self) -> Result<Details, E> {
                Ok(Details::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Details, E> {
                Ok(Details::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Details, E> {
                Ok(Details::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Details, E> {
                Ok(Details::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Details, E> {
                Ok(Details::default())
            }
        }
        deserializer.deserialize_any(Object)
    }
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
