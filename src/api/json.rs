//! JSON from outside, read in bounded memory or kept as text. All keys are read as keys. [`Value`]'s own deserializer
//! gives some keys of `serde_json`'s a special meaning, by which it fails or reads JSON out of a string.

use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

mod fault;

pub use fault::{fault, repeated_key, shown};

/// Elements of a list and pairs of an object that are kept. The rest is read and dropped.
pub const MOST_ELEMENTS: usize = 1_000;
/// Most values of one document. `{"":0}` takes 100 times its length in memory.
const MOST_VALUES: usize = 100_000;
/// Bytes from which documents are read one at a time by [`with`].
const HEAVY: usize = 16 << 10;

/// A document of at most 100,000 values, with at most the first 1,000 elements of each list and object. `serde_json`
/// limits its depth (128).
#[derive(Clone, Debug, PartialEq)]
pub struct Bounded(pub Value);

/// Reads the document in `bytes`; None if it is not JSON, or has too many values.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Bounded>(bytes).ok().map(|b| b.0)
}

/// Returns what `read` takes of the document in `bytes`; None if it is not JSON, or has too many values. The values of longer documents
/// are held for one of them at a time, on however many threads documents are read.
pub fn with<T>(bytes: &[u8], read: impl FnOnce(&Value) -> T) -> Option<T> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = (bytes.len() > HEAVY).then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner));
    Some(read(&parse(bytes)?))
}

/// Reads `text` as an object, as a tree. Tests compare other readers with it.
///
/// # Errors
/// Fails if the text is not an object, or is nested too deep.
#[cfg(test)]
pub fn object(text: &str) -> serde_json::Result<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let object = deserializer.deserialize_map(Keep::everything(&Cell::new(usize::MAX)))?;
    deserializer.end()?;
    match object {
        Value::Object(object) => Ok(object),
        _ => Err(Error::custom("not an object")),
    }
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keep = Keep { left: &Cell::new(MOST_VALUES), elements: MOST_ELEMENTS };
        keep.deserialize(deserializer).map(Bounded)
    }
}

/// Keeps a value as long as some of the allowance is left.
#[derive(Clone, Copy)]
struct Keep<'a> {
    left: &'a Cell<usize>,
    /// Most elements of each list and object.
    elements: usize,
}

impl<'a> Keep<'a> {
    #[cfg(test)]
    fn everything(left: &'a Cell<usize>) -> Self {
        Keep { left, elements: usize::MAX }
    }
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| D::Error::custom("the document holds too many values"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut kept = vec![];
        while kept.len() < self.elements {
            match list.next_element_seed(self)? {
                Some(value) => kept.push(value),
                None => return Ok(kept.into()),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while kept.len() < self.elements {
            match object.next_key()? {
                Some(key) => kept.insert(key, object.next_value_seed(self)?),
                None => return Ok(kept.into()),
            };
        }
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_people_send_is_kept_as_it_is() {
        let document = json!({"a": [1, -2, 1.5, "x", null, true, {"b": {}}], "": []});
        assert_eq!(parse(document.to_string().as_bytes()), Some(document));
        assert_eq!(parse(b"<html>"), None);
        assert_eq!(parse(b"{} {}"), None);
        assert_eq!(parse(b"\xff"), None);
        assert_eq!(parse("[".repeat(1 << 20).as_bytes()), None);
    }

    #[test]
    fn keys_are_keys_whatever_they_are_called() {
        for key in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
            let document = json!({"a": {key: "[1]"}, "b": [{key: 1}], "c": [1, -2, 1.5, "x", null, true, u64::MAX]});
            let text = document.to_string();
            assert_eq!(parse(text.as_bytes()), Some(document.clone()));
            assert_eq!(Value::Object(object(&text).unwrap()), document);
        }
    }

    #[test]
    fn an_object_is_read_to_its_end() {
        let list = vec![0; 2 * MOST_ELEMENTS];
        assert_eq!(object(&json!({"a": list}).to_string()).unwrap()["a"], json!(list));
        assert!(object("[1]").unwrap_err().is_data());
        assert!(object("{} {}").unwrap_err().is_syntax());
        assert!(object("{").unwrap_err().is_eof());
    }

    #[test]
    fn of_what_nobody_needs_only_the_beginning_is_kept() {
        let list = format!("[{}0]", "0,".repeat(1 << 20));
        assert_eq!(parse(list.as_bytes()).unwrap().as_array().unwrap().len(), MOST_ELEMENTS);
        let object = format!("{{{}\"x\":0}}", (0..5_000).map(|i| format!("\"{i}\":[],")).collect::<String>());
        assert_eq!(parse(object.as_bytes()).unwrap().as_object().unwrap().len(), MOST_ELEMENTS);
        let bomb = format!("[{}0]", format!("[{}0],", "{\"\":0},".repeat(999)).repeat(999));
        assert_eq!(parse(bomb.as_bytes()), None, "a document that takes 100 times its size");
    }
}
