//! The canonical spelling of JSON that free-form content is known by, made in memory that is a small multiple of the
//! text.
//!
//! It has no spaces, the keys of each object in the order of their bytes with the last value of a repeated key, and
//! strings and numbers as `serde_json` writes them. It equals the serialized tree of the content, without the tree,
//! which takes a hundred times the text of `{"":0}`.

use std::cmp::Ordering;
use std::fmt::Write;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::weight;

/// Returns the spelling of the object in `text`. None if `text` is not an object, if its nesting, numbers or escapes
/// are beyond `serde_json`, or if its values weigh more than [`weight::LIMIT`].
pub(super) fn object(text: &str) -> Option<String> {
    weight::check(text).ok()?;
    let mut spelling = Spelling { out: String::with_capacity(text.len()), starts: vec![] };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(&mut spelling).ok()?;
    deserializer.end().ok()?;
    spelling.out.starts_with('{').then_some(spelling.out)
}

struct Spelling {
    out: String,
    /// Offsets in `out` of the pairs of open objects.
    starts: Vec<u32>,
}

impl Spelling {
    fn push<E: serde::de::Error>(&mut self, what: impl std::fmt::Display) -> Result<(), E> {
        write!(self.out, "{what}").map_err(E::custom)
    }

    fn push_text(&mut self, text: &str) {
        self.out.push('"');
        match text.bytes().any(|b| b < b' ' || matches!(b, b'"' | b'\\')) {
            false => self.out.push_str(text),
            // The spelling escapes with a reverse solidus, as `serde_json` does, and only the same characters.
            true => text.chars().for_each(|c| match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c < ' ' => _ = write!(self.out, "\\u{:04x}", u32::from(c)),
                c => self.out.push(c),
            }),
        }
        self.out.push('"');
    }

    /// Sorts the pairs that begin at `starts[open..]` by their keys.
    fn sort(&mut self, open: usize) {
        let starts = self.starts.split_off(open);
        let Some(from) = starts.first().map(|start| *start as usize) else { return };
        let ends = starts.iter().skip(1).map(|next| *next as usize - 1).chain([self.out.len()]);
        let in_order = |pairs: &[u32]| compare(&self.out[pairs[0] as usize..], &self.out[pairs[1] as usize..]).is_lt();
        if starts.windows(2).all(in_order) {
            return;
        }
        let mut pairs: Vec<(u32, u32)> =
            starts.iter().zip(ends).map(|(start, end)| (*start - from as u32, (end - from) as u32)).collect();
        let object = self.out.split_off(from);
        let pair = |(start, end): (u32, u32)| &object[start as usize..end as usize];
        // The sort is stable, so the last of equal keys stays last.
        pairs.sort_by(|a, b| compare(pair(*a), pair(*b)));
        for (i, this) in pairs.iter().enumerate() {
            if pairs.get(i + 1).is_some_and(|next| compare(pair(*this), pair(*next)).is_eq()) {
                continue;
            }
            if self.out.len() > from {
                self.out.push(',');
            }
            self.out.push_str(pair(*this));
        }
    }
}

/// Compares the keys at the beginning of two spelled pairs, by the bytes that they stand for.
fn compare(a: &str, b: &str) -> Ordering {
    key(a).cmp(key(b))
}

/// Returns the bytes of the key at the beginning of `pair`.
fn key(pair: &str) -> impl Iterator<Item = u8> {
    let mut rest = pair.as_bytes()[1..].iter().copied();
    std::iter::from_fn(move || match rest.next()? {
        b'"' => None,
        b'\\' => Some(match rest.next()? {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 12,
            b'r' => b'\r',
            b'u' => {
                let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = (rest.nth(2)?, rest.next()?);
                digit(high)? << 4 | digit(low)?
            }
            itself => itself,
        }),
        byte => Some(byte),
    })
}

/// A key, which is spelled as it is read.
struct Key<'a>(&'a mut Spelling);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        self.0.push_text(key);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Spelling {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Spelling {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.push(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match Number::from_f64(value) {
            Some(number) => self.push(number),
            None => self.push("null"),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.push_text(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.out.push_str("null");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.out.push('[');
        let from = self.out.len();
        loop {
            let before = self.out.len();
            if before > from {
                self.out.push(',');
            }
            if list.next_element_seed(&mut *self)?.is_none() {
                self.out.truncate(before);
                self.out.push(']');
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        self.out.push('{');
        let (open, from) = (self.starts.len(), self.out.len());
        loop {
            let before = self.out.len();
            if before > from {
                self.out.push(',');
            }
            let start = u32::try_from(self.out.len()).map_err(serde::de::Error::custom)?;
            if object.next_key_seed(Key(self))?.is_none() {
                self.out.truncate(before);
                break;
            }
            self.starts.push(start);
            self.out.push(':');
            object.next_value_seed(&mut *self)?;
        }
        self.sort(open);
        self.out.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::api::json;

    /// The definition of the spelling: the content as a tree, serialized.
    fn by_tree(text: &str) -> Option<String> {
        weight::check(text).ok()?;
        json::object(text).ok().map(|object| Value::Object(object).to_string())
    }

    /// Texts of JSON of any kind: repeated keys, escapes, odd numbers, nesting.
    fn texts() -> impl Strategy<Value = String> {
        let string = prop::sample::select(vec![
            r#""""#,
            r#""a""#,
            r#""b""#,
            r#""aa""#,
            r#""\u0061""#,
            r#""\"""#,
            r#""\\""#,
            r#""\/""#,
            r#""\b\f\n\r\t""#,
            r#""\u0000""#,
            r#""\u001f""#,
            r#""\u007f""#,
            r#""é""#,
            r#""\u00e9""#,
            r#""\ud83d\ude00""#,
            r#""😀""#,
            r#""!""#,
            r##""#""##,
            r#""[""#,
            r#""]""#,
            r#""\ud800""#,
            r#""$serde_json::private::RawValue""#,
            r#""$serde_json::private::Number""#,
            r#""{,}""#,
        ]);
        let number = prop::sample::select(vec![
            "0",
            "-0",
            "-0.0",
            "1",
            "-1",
            "1.0",
            "1.50",
            "1e2",
            "1E-7",
            "1e15",
            "1e16",
            "1e300",
            "1e999",
            "0.1",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "0.30000000000000004",
            "4.35",
        ]);
        let leaf = prop_oneof![
            prop::sample::select(vec!["true", "false", "null"]).prop_map(String::from),
            number.prop_map(String::from),
            string.clone().prop_map(String::from),
        ];
        let space = || prop::sample::select(vec!["", "", " ", "\n\t"]);
        let value = leaf.prop_recursive(5, 64, 6, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..6);
            let pairs = prop::collection::vec((string.clone(), inner), 0..6);
            prop_oneof![
                (list, space()).prop_map(|(list, s)| format!("[{s}{}{s}]", list.join(&format!("{s},{s}")))),
                (pairs, space()).prop_map(|(pairs, s)| {
                    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}{s}:{s}{value}")).collect();
                    format!("{{{s}{}{s}}}", pairs.join(&format!("{s},{s}")))
                }),
            ]
        });
        prop_oneof![9 => value.clone().prop_map(|v| format!("{{\"x\": {v}, \"a\": {v}}}")), 1 => value]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn content_is_spelled_as_its_tree_is_written(text in texts()) {
            prop_assert_eq!(object(&text), by_tree(&text), "{}", text);
        }
    }

    #[test]
    fn content_that_is_no_object_or_too_much_has_no_spelling() {
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        let many = |n: usize| format!("{{\"x\": [{}0]}}", "{},".repeat(n));
        for text in ["[]", "1", "\"x\"", "null", "{} {}", "{", "{\"x\": 1e999}", "{\"\\ud800\": 1}"] {
            assert_eq!((object(text), by_tree(text)), (None, None), "{text}");
        }
        for text in [nested(126), nested(127), nested(128), nested(5_000), many(100_000), many(110_000)] {
            assert_eq!(object(&text), by_tree(&text), "{text:.60}");
        }
    }

    /// This text takes 100 times its length as a tree.
    #[test]
    fn many_objects_are_spelled_in_about_their_length() {
        let text = format!("{{\"x\":[{}0]}}", "{\"\":0},".repeat(90_000));
        let spelled = object(&text).unwrap();
        assert_eq!((spelled.as_str(), spelled.capacity()), (text.as_str(), text.len()));
        let backwards: Vec<String> = (0..100_000).rev().map(|i| format!("\"{i:06}\":0")).collect();
        let spelled = object(&format!("{{{}}}", backwards.join(","))).unwrap();
        assert!(spelled.starts_with("{\"000000\":0,\"000001\":0,") && spelled.len() == 100_000 * 11 + 1);
    }
}
