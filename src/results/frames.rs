//! Places of objects in text that need not be JSON lines: several on one line, one over many lines, or a list.

use std::ops::Range;

use memchr::memmem;

/// A scanner of strings and brackets, byte by byte and at any depth. It checks nothing else of JSON. Strings may have
/// single quotes, as Python prints them.
#[derive(Default)]
pub(super) struct Brackets {
    depth: u64,
    quote: Option<u8>,
    escaped: bool,
}

/// The effect of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    /// Begins an object that is not within another.
    Opens,
    /// Ends that object.
    Closes,
    /// Closes a bracket that was never opened.
    Orphan,
    /// Has no effect on objects.
    No,
}

impl Brackets {
    pub fn see(&mut self, byte: u8) -> Bracket {
        if let Some(quote) = self.quote {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                _ if byte == quote => self.quote = None,
                _ => {}
            }
            return Bracket::No;
        }
        match byte {
            b'{' if self.depth == 0 => {
                self.depth = 1;
                Bracket::Opens
            }
            b'}' if self.depth == 0 => Bracket::Orphan,
            // Brackets and quotes outside objects are ignored.
            _ if self.depth == 0 => Bracket::No,
            b'"' | b'\'' => {
                self.quote = Some(byte);
                Bracket::No
            }
            b'{' | b'[' => {
                self.depth += 1;
                Bracket::No
            }
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 { Bracket::Closes } else { Bracket::No }
            }
            _ => Bracket::No,
        }
    }
}

/// Returns the ranges of the objects in `line`; None if one is cut off, or there is none. They are found one by one,
/// since a list of them could take eight times the memory of the line.
pub(super) fn objects(line: &[u8]) -> Option<impl Iterator<Item = Range<usize>>> {
    let (mut brackets, mut closed, mut open) = (Brackets::default(), false, false);
    for byte in line {
        match brackets.see(*byte) {
            Bracket::Opens => open = true,
            Bracket::Closes => (closed, open) = (true, false),
            Bracket::Orphan => return None,
            Bracket::No => {}
        }
    }
    let (mut brackets, mut begun) = (Brackets::default(), 0);
    let found = line.iter().enumerate().filter_map(move |(at, byte)| match brackets.see(*byte) {
        Bracket::Opens => {
            begun = at;
            None
        }
        Bracket::Closes => Some(begun..at + 1),
        Bracket::Orphan | Bracket::No => None,
    });
    (closed && !open).then_some(found)
}

/// Returns the indexes of the requests of `work_id` that `text` names, each once, in order. Our ids end in a mark of
/// the work that no model is shown, so an id counts wherever it occurs.
pub(super) fn named(text: &[u8], work_id: &str) -> Vec<i64> {
    let Some(mark) = work_id.get(..8).map(|mark| format!("-{mark}")) else { return vec![] };
    let mut all = vec![];
    for at in memmem::find_iter(text, mark.as_bytes()) {
        let digits = text[..at].iter().rev().take(20).take_while(|b| b.is_ascii_digit()).count();
        let begins = (at - digits).checked_sub(1).filter(|begins| text[*begins] == b'r');
        let free = |neighbour: Option<&u8>| neighbour.is_none_or(|b| !b.is_ascii_alphanumeric());
        let alone = begins.is_some_and(|b| free(b.checked_sub(1).and_then(|b| text.get(b))));
        let index = std::str::from_utf8(&text[at - digits..at]).ok().and_then(|digits| {
            let index: i64 = digits.parse().ok()?;
            // Only our own spelling counts; `01` is not.
            (index.to_string() == digits).then_some(index)
        });
        if alone && free(text.get(at + mark.len())) {
            all.extend(index);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_whatever_is_around_them() {
        let found = |line: &str| objects(line.as_bytes()).map(|all| all.map(|r| line[r].to_string()).collect());
        let some = |all: &[&str]| Some(all.iter().map(|o| o.to_string()).collect::<Vec<_>>());
        assert_eq!(found(r#"{"a":1}{"b":"}{"}"#), some(&[r#"{"a":1}"#, r#"{"b":"}{"}"#]));
        assert_eq!(found(r#"[{"a":[{}]}, {"b":"\"}"}]"#), some(&[r#"{"a":[{}]}"#, r#"{"b":"\"}"}"#]));
        assert_eq!(found("data: {'a': \"it's }\"}"), some(&["{'a': \"it's }\"}"]));
        for none in ["", "x", r#"{"a":"#, r#"{"a":"}"#, "}", r#"{"a":1}}"#] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn only_our_own_ids_are_ids() {
        let of = |text: &str| named(text.as_bytes(), "0123456789abcdef");
        assert_eq!(of(r#"{\"custom_id\":\"r17-01234567\"} 'r17-01234567' r3-01234567"#), [3, 17]);
        assert_eq!(of("r0-01234567"), [0]);
        for none in
            ["r01-01234567", "xr1-01234567", "r1-012345678", "r-01234567", "r+1-01234567", "r1-ffffffff", "-01234567"]
        {
            assert_eq!(of(none), [] as [i64; 0], "{none}");
        }
        assert_eq!(of("r99999999999999999999999-01234567"), [] as [i64; 0]);
    }
}
