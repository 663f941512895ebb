//! What JSON takes in memory beside its text: `{"":0}` takes a hundred times its length.

use serde_json::{Map, Value};

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

/// The same of a value that was read.
pub fn of_value(value: &Value) -> usize {
    match value {
        Value::Array(list) => LIST_BYTES + after_the_first(list.len()) + list.iter().map(of_value).sum::<usize>(),
        Value::Object(object) => of_object(object),
        _ => 0,
    }
}

/// The same of an object that was read.
pub fn of_object(object: &Map<String, Value>) -> usize {
    OBJECT_BYTES + after_the_first(object.len()) + object.values().map(of_value).sum::<usize>()
}

fn after_the_first(values: usize) -> usize {
    VALUE_BYTES * values.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_weighs_what_its_text_does() {
        for value in [
            json!(null),
            json!("{[,\\\"{"),
            json!([]),
            json!([1, 2, [3, {}]]),
            json!({"a": {"b": [true, {"c": "[", "d": {}}]}, "{\"": [[], []]}),
        ] {
            assert_eq!(of_value(&value), of_text(&value.to_string()), "{value}");
        }
        assert_eq!(of_value(&json!([{"a": 1, "b": 2}, 3])), LIST_BYTES + OBJECT_BYTES + 2 * VALUE_BYTES);
    }
}
