//! The answer in the body of a response, whatever the endpoint.

use std::fmt;
use std::io::Write;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Writes the answer in the body of a response, as JSON: the text of the first choice of chat completions (`content`,
/// as it is) and of completions, the texts of a response of the Responses API one after the other, the vector of an
/// embedding or the list of several vectors, the results of a moderation. Writes `null` if the body has none, as for a
/// call of a tool.
pub(super) fn write_answer(body: &RawValue, out: &mut impl Write) -> std::io::Result<()> {
    // Some servers return JSON as text.
    if body.get().starts_with('"')
        && let Ok(text) = serde_json::from_str::<String>(body.get())
        && let Ok(inner) = serde_json::from_str::<&RawValue>(&text)
        && inner.get().starts_with('{')
    {
        return write_answer(inner, out);
    }
    let Some([choices, output, data, results]) = fields(body, ["choices", "output", "data", "results"]) else {
        return out.write_all(b"null");
    };
    match (choices.and_then(first_choice), output, data, results) {
        (Some(text), ..) => out.write_all(text.get().as_bytes()),
        (None, Some(output), ..) => write_texts(output, out),
        (None, None, Some(data), _) => write_vectors(data, out),
        (None, None, None, Some(results)) => out.write_all(results.get().as_bytes()),
        (None, None, None, None) => out.write_all(b"null"),
    }
}

fn first_choice(choices: &RawValue) -> Option<&RawValue> {
    let mut first = None;
    each(choices, |choice| first = first.or(Some(choice)));
    let [message, text] = fields(first?, ["message", "text"])?;
    match message {
        Some(message) => fields(message, ["content"])?[0],
        None => text,
    }
}

/// Writes the texts of all messages in `output` as one string.
fn write_texts(output: &RawValue, out: &mut impl Write) -> std::io::Result<()> {
    let mut texts = vec![];
    each(output, |item| {
        let Some([Some(content)]) = fields(item, ["content"]) else { return };
        each(content, |part| match fields(part, ["type", "text"]) {
            Some([Some(kind), Some(text)]) if kind.get() == "\"output_text\"" => texts.extend(inside(text)),
            _ => {}
        });
    });
    if texts.is_empty() {
        return out.write_all(b"null");
    }
    out.write_all(b"\"")?;
    texts.iter().try_for_each(|text| out.write_all(text.as_bytes()))?;
    out.write_all(b"\"")
}

/// Returns a string as it is written, without its quotes.
fn inside(text: &RawValue) -> Option<&str> {
    text.get().strip_prefix('"')?.strip_suffix('"')
}

fn write_vectors(data: &RawValue, out: &mut impl Write) -> std::io::Result<()> {
    let mut vectors = vec![];
    each(data, |item| vectors.extend(fields(item, ["embedding"]).and_then(|[embedding]| embedding)));
    match &vectors[..] {
        [] => out.write_all(b"null"),
        [one] => out.write_all(one.get().as_bytes()),
        many => {
            for (i, vector) in many.iter().enumerate() {
                out.write_all(if i == 0 { b"[" } else { b"," })?;
                out.write_all(vector.get().as_bytes())?;
            }
            out.write_all(b"]")
        }
    }
}

/// Returns these fields of an object, as they are written; None if it is no object. The last value of a repeated key
/// counts.
pub(super) fn fields<'a, const N: usize>(object: &'a RawValue, keys: [&str; N]) -> Option<[Option<&'a RawValue>; N]> {
    struct Fields<'k, const N: usize>([&'k str; N]);
    impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(key) = map.next_key::<String>()? {
                match self.0.iter().position(|wanted| *wanted == key) {
                    Some(at) => found[at] = Some(map.next_value()?),
                    None => _ = map.next_value::<IgnoredAny>()?,
                }
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Fields(keys)).ok()
}

/// Shows each element of a list to `see`; none if it is no list.
fn each<'a>(list: &'a RawValue, see: impl FnMut(&'a RawValue)) {
    struct Each<F>(F);
    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(element) = list.next_element()? {
                (self.0)(element);
            }
            Ok(())
        }
    }
    // The text is valid JSON, so the only error is that it is something else than a list.
    let _ = serde_json::Deserializer::from_str(list.get()).deserialize_seq(Each(see));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_its_answer() {
        for (body, answer) in [
            (
                r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hé\n\u0041"}}]}"#,
                r#""Hé\n\u0041""#,
            ),
            (r#"{"choices":[{"message":{"content":"first"}},{"message":{"content":"second"}}]}"#, r#""first""#),
            (
                r#"{"choices":[{"message":{"content":[{"type":"text","text":"x"}]}}]}"#,
                r#"[{"type":"text","text":"x"}]"#,
            ),
            (r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c"}]}}]}"#, "null"),
            (r#"{"object":"text_completion","choices":[{"text":" a text","index":0}]}"#, r#"" a text""#),
            (
                r#"{"object":"response","output":[{"type":"reasoning","summary":[]},{"type":"message","content":[
                    {"type":"output_text","text":"one\n"},{"type":"refusal","refusal":"no"},{"type":"output_text","text":"two"}]},
                    {"type":"message","content":[{"type":"output_text","text":"\"3\""}]}]}"#,
                r#""one\ntwo\"3\"""#,
            ),
            (r#"{"output":[{"type":"function_call","name":"f"}]}"#, "null"),
            (r#"{"object":"list","data":[{"embedding":[0.10,-2e-3]}]}"#, "[0.10,-2e-3]"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":"AAAA"}]}"#, r#"[[1],"AAAA"]"#),
            (r#"{"id":"modr-1","results":[{"flagged":false}]}"#, r#"[{"flagged":false}]"#),
            (r#""{\"choices\":[{\"message\":{\"content\":\"as text\"}}]}""#, r#""as text""#),
            (r#"{"content":[{"type":"text"}]}"#, "null"),
            (r#"{"choices":[]}"#, "null"),
            (r#"{"choices":{"message":{"content":"x"}}}"#, "null"),
            (r#"{"output":"x"}"#, "null"),
            (r#""plain""#, "null"),
            ("[]", "null"),
        ] {
            let (body, mut out): (&RawValue, _) = (serde_json::from_str(body).unwrap(), vec![]);
            write_answer(body, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), answer, "{body}");
        }
    }
}
