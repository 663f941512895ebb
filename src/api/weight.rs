//! What JSON takes in memory beside its text: `{"":0}` takes a hundred times its length.

/// The most that the values of one document may take, in bytes: some two million numbers, or a hundred thousand objects.
pub const LIMIT: usize = 64 << 20;
/// What a value, a list and an object with a pair take at least.
const VALUE_BYTES: usize = 32;
const LIST_BYTES: usize = 128;
const OBJECT_BYTES: usize = 640;

/// Whether the values of a document can be held.
///
/// # Errors
/// That they cannot, without what to do.
pub fn check(text: &str) -> Result<(), String> {
    match of_text(text) > LIMIT {
        true => {
            Err(format!("holds so many lists, objects and values that it takes more than {} MiB to read", LIMIT >> 20))
        }
        false => Ok(()),
    }
}

/// What the values of a document would take; the document need not be sound.
fn of_text(text: &str) -> usize {
    let (mut weight, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        weight += match (quoted, byte) {
            _ if escaped => 0,
            (false, b'{') => OBJECT_BYTES,
            (false, b'[') => LIST_BYTES,
            (false, b',') => VALUE_BYTES,
            _ => 0,
        };
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
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
            assert_eq!(of_text(text), weight, "{text}");
        }
    }
}
