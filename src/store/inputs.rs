//! Inputs of embeddings requests. One line may hold many, and providers limit their number over all lines of a batch.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Counts the inputs in the body of an embeddings request: a text or a list of tokens is one, a list of those has as
/// many as it has elements (<https://platform.openai.com/docs/api-reference/embeddings/create>). Returns 1 for any
/// other body.
pub fn inputs_of_body(body: &str) -> u64 {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        input: Option<&'a RawValue>,
    }
    let Ok(Body { input: Some(input) }) = serde_json::from_str(body) else { return 1 };
    inputs_of(input.get())
}

/// Counts the inputs in a value of this form.
pub(super) fn inputs_of(value: &str) -> u64 {
    let Some(list) = value.strip_prefix('[') else { return 1 };
    let is_tokens = list.trim_start().starts_with(|c: char| c.is_ascii_digit());
    if is_tokens { 1 } else { serde_json::from_str(value).map_or(1, |Length(length)| length.max(1)) }
}

/// Counts the inputs in a whole line of a batch's file.
pub fn inputs_of_line(line: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
    }
    serde_json::from_slice::<Line>(line).map_or(1, |line| inputs_of_body(line.body.get()))
}

/// Length of a list of any elements.
struct Length(u64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_lists_of_tokens_are_an_input_each() {
        for (input, inputs) in [
            (r#""a text""#, 1),
            (r#"["a", "b", "c"]"#, 3),
            ("[1, 2, 3]", 1),
            ("[ [1, 2], [3], [] ]", 3),
            ("[]", 1),
            ("null", 1),
            ("7", 1),
            (r#"["[1", "\"]"]"#, 2),
        ] {
            let body = format!(r#"{{"model":"m","input":{input}}}"#);
            assert_eq!(inputs_of_body(&body), inputs, "{body}");
            let line = format!(r#"{{"custom_id":"r0","method":"POST","url":"/v1/embeddings","body":{body}}}"#);
            assert_eq!(inputs_of_line(line.as_bytes()), inputs, "{line}");
        }
        assert_eq!((inputs_of_body(r#"{"model":"m"}"#), inputs_of_line(b"{")), (1, 1));
    }
}
