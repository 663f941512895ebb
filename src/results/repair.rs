//! Text that is nearly JSON, made JSON: only what readers of JSON lines stumble over is changed.

use std::borrow::Cow;

use memchr::memmem;

use crate::store::LINE_LIMIT;

/// A line as text: what is not UTF-8 in it is replaced, for an answer with a blot is better than one that is paid again; a
/// byte-order mark goes.
pub(super) fn text(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    // The lossy reading takes several times as long where there is nothing to lose.
    std::str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed)
}

/// `text` with what servers write and JSON does not have replaced: numbers that are none (`NaN`, `Infinity`, `-Infinity`) by
/// `null`, as JavaScript writes them; Python's `None`, `True` and `False` by JSON's words; control characters in strings by
/// their escapes, and line ends between values by spaces. What comes out need not be JSON, and of what would be longer than a line
/// may be only the beginning does.
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

/// JSON text whose escapes of lone surrogates, which many readers refuse, are those of the replacement character.
pub(super) fn without_lone_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
    let Some(mut lone) = lone_surrogate(text.as_bytes(), 0) else { return text };
    let mut bytes = text.into_owned().into_bytes();
    loop {
        // As long as what it takes the place of.
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

/// Where the first escape of a lone surrogate begins, from `from` on, which is in no escape.
fn lone_surrogate(bytes: &[u8], from: usize) -> Option<usize> {
    let mut low_of_a_pair = None;
    memmem::find_iter(&bytes[from..], b"\\u").map(|at| from + at).find(|at| {
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

/// The UTF-16 code unit that is escaped here.
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
