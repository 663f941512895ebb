//! Estimates of the memory that JSON takes in addition to its text: `{"":0}` takes a hundred times its length.

use std::sync::{Mutex, PoisonError};

/// Most bytes that the values of one document may take: some two million numbers, or a hundred thousand objects.
pub const LIMIT: usize = 64 << 20;
/// Least bytes of a value, a list, and an object with a pair.
const VALUE_BYTES: usize = 32;
const LIST_BYTES: usize = 128;
const OBJECT_BYTES: usize = 640;
/// The same of a text, beside its bytes.
const TEXT_BYTES: usize = 56;

/// Reads a document that others may have written, unless it is too heavy. Documents of more than [`HEAVY`] bytes are
/// read one at a time, because each takes several times its text while it is read.
///
/// # Errors
/// Fails if the document is too heavy, or does not have this type; names line and column.
pub fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    static ONE: Mutex<()> = Mutex::new(());
    if of_text(bytes) + TEXT_BYTES * texts(bytes) > LIMIT {
        return Err(too_heavy());
    }
    let _one = (bytes.len() > HEAVY).then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner));
    serde_json::from_slice(bytes).map_err(|e| format!("line {}, column {}", e.line(), e.column()))
}

/// Returns the bytes of a value's JSON text.
pub fn json_bytes(value: &impl serde::Serialize) -> u64 {
    struct Length(u64);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    match serde_json::to_writer(&mut length, value) {
        Ok(()) => length.0,
        Err(_) => u64::MAX >> 8,
    }
}

/// Bytes from which documents are read one at a time.
const HEAVY: usize = 256 << 10;

fn too_heavy() -> String {
    format!("holds so many lists, objects and values that it takes more than {} MiB to read", LIMIT >> 20)
}

/// Checks that the values of a document fit into the limit.
///
/// # Errors
/// Fails if they do not. The message has no remedy.
pub fn check(text: &str) -> Result<(), String> {
    match of_text(text.as_bytes()) > LIMIT {
        true => Err(too_heavy()),
        false => Ok(()),
    }
}

/// Counts the texts of a document, keys among them. The document need not be valid.
fn texts(text: &[u8]) -> usize {
    let mut escaped = false;
    let quotes = text.iter().filter(|byte| {
        let is_quote = **byte == b'"' && !escaped;
        escaped = **byte == b'\\' && !escaped;
        is_quote
    });
    quotes.count() / 2
}

/// Estimates the bytes that the values of a document take. The document need not be valid.
fn of_text(text: &[u8]) -> usize {
    let (mut weight, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        weight += match (quoted, *byte) {
            _ if escaped => 0,
            (false, b'{') => OBJECT_BYTES,
            (false, b'[') => LIST_BYTES,
            (false, b',') => VALUE_BYTES,
            _ => 0,
        };
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_weighs_what_its_values_take() {
        for (text, weight) in [
            ("null", 0),
            (r#""{[,\"{""#, 0),
            ("[]", LIST_BYTES),
            ("[1, 2, [3, {}]]", 2 * LIST_BYTES + OBJECT_BYTES + 3 * VALUE_BYTES),
            (r#"[{"a": 1, "b,[": 2}, 3]"#, LIST_BYTES + OBJECT_BYTES + 2 * VALUE_BYTES),
        ] {
            assert_eq!(of_text(text.as_bytes()), weight, "{text}");
        }
    }

    #[test]
    fn a_document_that_takes_too_much_is_not_read_and_what_is_no_such_document_is_named_with_its_place() {
        assert_eq!(read::<Vec<u8>>(b"[1, 2]"), Ok(vec![1, 2]));
        assert_eq!(read::<Vec<u8>>(b"[1,\n  true]"), Err("line 2, column 6".into()));
        let heavy = |values: usize| format!("[{}0]", "0,".repeat(values));
        assert_eq!(read::<Vec<u8>>(heavy(2_000_000).as_bytes()).map(|list| list.len()), Ok(2_000_001));
        assert_eq!(read::<Vec<u8>>(heavy(2_200_000).as_bytes()), Err(too_heavy()));
    }
}
