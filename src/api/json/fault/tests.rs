use proptest::prelude::*;

use super::super::Bounded;
use super::*;

fn told(text: &str) -> String {
    fault(text).map(|fault| fault.to_string()).unwrap_or_default()
}

#[test]
fn each_fault_is_named_with_its_column() {
    for (text, words) in [
        (r#"{"a": "é \ud83d"}"#, r"half of a surrogate pair, `\ud83d`, at column 10"),
        (r#"{"a": "\ud83d\ud83d"}"#, r"half of a surrogate pair, `\ud83d`, at column 8"),
        (r#"["\ude00"]"#, r"half of a surrogate pair, `\ude00`, at column 3"),
        (r#"["\ud83d\u0041"]"#, r"half of a surrogate pair, `\ud83d`, at column 3"),
        ("{\"a\": \"x\0\"}", "a NUL byte at column 9"),
        ("\0\0", "a NUL byte at column 1"),
        ("{}\0", "a NUL byte at column 3"),
        ("[\"\t\"]", "a control character, U+0009, at column 3"),
        (r#"{"a": NaN}"#, "`NaN`, which JSON does not have, at column 7"),
        (r#"{"a": [1, -Infinity]}"#, "`-Infinity`, which JSON does not have, at column 11"),
        (r#"{"a": undefined}"#, "`undefined`, which JSON does not have, at column 7"),
        (r#"{"a": None}"#, "`None`, which JSON does not have, at column 7"),
        (r#"{"a": 1e400}"#, "a number that is too large, `1e400`, at column 7"),
        (r#"{"a": -1E+999, "b": 1}"#, "a number that is too large, `-1E+999`, at column 7"),
        (r#"["C:\Users"]"#, r"an escape that JSON does not have, `\U`, at column 5"),
        (r#"["\u00"]"#, r"an escape that JSON does not have, `\u`, at column 3"),
        ("{'a': 1}", "a quote that JSON does not have, ', at column 2"),
        ("{“a”: 1}", "a quote that JSON does not have, “, at column 2"),
        (r#"{"a": 1,}"#, "a comma with nothing behind it at column 8"),
        ("[1, ]", "a comma with nothing behind it at column 3"),
        ("{}\u{feff}{}", "a byte order mark at column 3"),
        ("{\"a\": 1}\r{\"a\": 2}", "a line end of CR alone at column 9"),
        (r#"{"a": 1"#, "it ends too early"),
        (r#"{"a": "x"#, "it ends too early"),
        (r#"{"a": tr"#, "it ends too early"),
        ("{} {}", "error at column 4"),
        ("hello", "error at column 1"),
        ("[1 2]", "error at column 4"),
        ("[01]", "error at column 3"),
        ("[1}", "error at column 3"),
        ("{\"a\" 1}", "error at column 6"),
        ("{a: 1}", "error at column 2"),
        ("", "it ends too early"),
        (r#" {"a": ["\ud83d\ude00", 1e308, -0.5e-2, true, null, {}, []]} "#, ""),
    ] {
        assert_eq!(told(text), words, "{text:?}");
    }
    let long = format!("[{}]", "9".repeat(400));
    assert_eq!(told("{\n \"é\":\n  NaN}"), "`NaN`, which JSON does not have, at line 3, column 3");
    assert_eq!(told(&long), "a number that is too large at column 2", "long ones are not repeated");
}

#[test]
fn a_repeated_key_is_named_with_its_column() {
    for (text, found) in [
        (r#"{"a": 1, "b": 2, "a": 3}"#, Some(("a", 18))),
        (r#"{"é": [{"x": 1, "x": {}}]}"#, Some(("x", 17))),
        (r#"{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 1}]}"#, None),
        (r#"{"a": 1, "a": }"#, None),
    ] {
        let place = |(key, column)| (key, Position { line: None, column });
        assert_eq!(repeated_key(text), found.map(place), "{text}");
    }
    assert_eq!((shown("a"), shown(&"x".repeat(65))), ("`a`".into(), "a key of 65 bytes".into()));
}

#[test]
fn depth_takes_no_stack() {
    let deep = "[".repeat(1 << 20);
    assert_eq!(told(&deep), "it ends too early");
    assert_eq!(told(&format!("{deep}{}", "]".repeat(1 << 20))), "");
}

proptest! {
    /// Any text that `serde_json` refuses has a fault, and no other text has one.
    #[test]
    fn faults_are_those_of_the_parser(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "\"a\":", "\"é\"", "1", "-", "0", ".5", "e9", "E+400", "true", "null", "NaN",
            " ", "\t", "\r", "\\u0041", "\\ud83d", "\\ude00", "\\n", "\\x", "\\", "'", "\0", "\u{1}", "\u{feff}",
        ]), 0..12)
    ) {
        let text = pieces.concat();
        let refused = serde_json::from_str::<Bounded>(&text).is_err();
        prop_assert_eq!(fault(&text).is_some(), refused, "{:?}: {:?}", text, fault(&text));
    }
}
