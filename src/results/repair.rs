//! Repair of text that is nearly JSON. Only what readers of JSON lines would refuse is changed.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem;

use crate::store::LINE_LIMIT;

/// Returns a line as text, without a byte order mark. Bytes that are not UTF-8 are replaced, since an answer with a
/// blemish is better than one that is paid again.
pub(super) fn text(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    // The lossy conversion takes many times as long for valid text.
    simdutf8::basic::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed)
}

/// Returns `text` with the words and characters that JSON does not have replaced: numbers such as `NaN`, `Infinity` and
/// `-Infinity` by `null`, as JavaScript writes them; Python's `None`, `True` and `False` by JSON's words; control
/// characters in strings by their escapes; line breaks between values by spaces. The result need not be valid JSON. It
/// ends early once it is longer than a line may be.
pub(super) fn repaired(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 64);
    let (mut at, mut kept, mut in_string) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        let (taken, instead) = match byte {
            b'\\' if in_string => (2, None),
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            0..=0x1f if in_string => (1, Some(format!("\\u{byte:04x}"))),
            b'\n' | b'\r' => (1, Some(" ".into())),
            _ if !in_string && is_of_a_word(*byte) => {
                let end = bytes[at..].iter().position(|b| !is_of_a_word(*b)).map_or(bytes.len(), |n| at + n);
                (end - at, json_word(&text[at..end]).map(String::from))
            }
            _ => (1, None),
        };
        if let Some(instead) = instead {
            out.push_str(&text[kept..at]);
            out.push_str(&instead);
            kept = at + taken;
            if out.len() > LINE_LIMIT {
                return out;
            }
        }
        at += taken;
    }
    out.push_str(&text[kept..]);
    out
}

fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}

fn json_word(word: &str) -> Option<&'static str> {
    match word.trim_start_matches(['+', '-']) {
        "NaN" | "nan" | "NAN" | "Infinity" | "infinity" | "Inf" | "inf" | "INF" | "None" | "undefined" => Some("null"),
        "True" => Some("true"),
        "False" => Some("false"),
        _ => None,
    }
}

/// Replaces escapes of lone surrogates, which many readers refuse, with the replacement character.
pub(super) fn without_lone_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
    let Some(mut lone) = lone_surrogate(text.as_bytes(), 0) else { return text };
    let mut bytes = text.into_owned().into_bytes();
    loop {
        // Both escapes have the same length.
        bytes[lone..lone + 6].copy_from_slice(b"\\ufffd");
        match lone_surrogate(&bytes, lone + 6) {
            Some(next) => lone = next,
            None => break,
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
    }
}

/// Returns the offset of the first escape of a lone surrogate from `from` on. `from` must not be within an escape.
fn lone_surrogate(bytes: &[u8], from: usize) -> Option<usize> {
    static ESCAPE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\\u"));
    let mut low_of_a_pair = None;
    ESCAPE.find_iter(&bytes[from..]).map(|at| from + at).find(|at| {
        let slashes = bytes[..*at].iter().rev().take_while(|b| **b == b'\\').count();
        if slashes % 2 == 1 || low_of_a_pair == Some(*at) {
            return false;
        }
        match unit(bytes, *at) {
            Some(0xd800..=0xdbff) if matches!(unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => {
                low_of_a_pair = Some(at + 6);
                false
            }
            Some(0xd800..=0xdfff) => true,
            _ => false,
        }
    })
}

/// Returns the UTF-16 code unit of the escape at this offset.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_json_does_not_have_become_null_and_strings_stay() {
        for (from, to) in [
            (r#"{"a":NaN,"b":[-Infinity,Infinity, nan ],"c":-inf}"#, r#"{"a":null,"b":[null,null, null ],"c":null}"#),
            (r#"{"a":"NaN, -Infinity \" NaN","b":1e999}"#, r#"{"a":"NaN, -Infinity \" NaN","b":1e999}"#),
            (r#"{"a":None,"b":True,"c":false,"Nano":-1.5e-3}"#, r#"{"a":null,"b":true,"c":false,"Nano":-1.5e-3}"#),
            ("{\"a\":\n\"x\ny\tz\\\\\"}", "{\"a\": \"x\\u000ay\\u0009z\\\\\"}"),
            ("größe NaN", "größe null"),
            ("\"\\", "\"\\"),
        ] {
            assert_eq!(repaired(from), to);
        }
    }

    #[test]
    fn repairs_do_not_make_a_line_many_times_as_long() {
        let repaired = repaired(&format!("\"{}\"", "\u{1}".repeat(LINE_LIMIT / 2)));
        assert!((LINE_LIMIT..LINE_LIMIT + 10).contains(&repaired.len()), "{}", repaired.len());
    }

    #[test]
    fn surrogates_stay_in_pairs_and_go_alone() {
        for (from, to) in [
            (r#""\ud83d\ude00 \u00e9""#, r#""\ud83d\ude00 \u00e9""#),
            (r#""a\ud83d""#, r#""a\ufffd""#),
            (r#""\ude00\ud83d x""#, r#""\ufffd\ufffd x""#),
            (r#""\uD83D\uD83D\uDE00""#, r#""\ufffd\uD83D\uDE00""#),
            (r#""\\ud83d \\\ud83d""#, r#""\\ud83d \\\ufffd""#),
            (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#),
        ] {
            assert_eq!(without_lone_surrogates(from.into()), to, "{from}");
        }
    }
}
