//! The `response` of a row: its status, and whether its body is an answer.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::ending::{is_nothing, value_of};
use super::repair::repaired;

/// A row's `response`.
#[derive(Default)]
pub(super) struct Response {
    pub status: Status,
    pub body: Body,
}

#[derive(Clone, Copy, Default)]
pub(super) enum Status {
    #[default]
    Absent,
    Code(i64),
    /// A status that is not a number.
    NotANumber,
}

impl Status {
    fn of(raw: &RawValue) -> Status {
        match value_of(raw) {
            Value::Null => Status::Absent,
            value => value.as_i64().or_else(|| value.as_str()?.parse().ok()).map_or(Status::NotANumber, Status::Code),
        }
    }
}

/// The facts about a row's `body` that decide whether it is an answer.
#[derive(Default)]
pub(super) struct Body {
    /// Whether the body has any content other than text.
    something: bool,
    /// Whether the body has a non-empty key of an answer.
    answer: bool,
    /// Number of keys that neither answers nor errors need to have.
    others: usize,
    /// The body's values under keys of failures.
    pub reasons: Map<String, Value>,
}

impl Body {
    /// Returns whether the body is an answer. Some servers return errors with a status of success: OpenAI's shape, vLLM's
    /// (`"object": "error"`), FastAPI's `detail`, a gateway's `message` alone. A key of an answer takes precedence over
    /// all of them.
    pub fn is_answer(&self) -> bool {
        let says = |key: &str| self.reasons.get(key).is_some_and(|value| !is_nothing(value));
        let is_error = |key: &str| self.reasons.get(key).and_then(Value::as_str) == Some("error");
        let message = self.others == 0 && self.reasons.get("message").is_some_and(Value::is_string);
        let failed =
            is_error("object") || is_error("type") || says("error") || says("detail") || says("errors") || message;
        self.answer || (self.something && !failed)
    }
}

/// The kind of a key in a body.
enum Key {
    Answer,
    Reason(&'static str),
    Beside,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                let reason = REASON.iter().find(|reason| **reason == key);
                Ok(match reason {
                    Some(reason) => Key::Reason(reason),
                    None if ANSWER.contains(&key) => Key::Answer,
                    None if BESIDE.contains(&key) => Key::Beside,
                    None => Key::Other,
                })
            }
        }
        deserializer.deserialize_identifier(Word)
    }
}

/// Keys of answers, over all endpoints.
const ANSWER: &[&str] = &["choices", "output", "data", "results", "content"];
/// Keys of failures.
const REASON: &[&str] =
    &["error", "errors", "detail", "message", "object", "type", "code", "status", "status_code", "statusCode"];
/// Keys that gateways add to any body.
const BESIDE: &[&str] = &["param", "request_id", "requestId", "trace_id", "path", "timestamp", "success", "name"];

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Frame;
        impl<'de> Visitor<'de> for Frame {
            type Value = Response;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a response")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Response, A::Error> {
                let mut response = Response::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "status_code" => response.status = Status::of(map.next_value()?),
                        "body" => response.body = map.next_value()?,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(response)
            }
        }
        deserializer.deserialize_map(Frame)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Frame;
        impl<'de> Visitor<'de> for Frame {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a body")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
                let mut body = Body::default();
                while let Some(key) = map.next_key()? {
                    body.something = true;
                    match key {
                        Key::Answer => body.answer |= map.next_value::<HasContent>()?.0,
                        Key::Reason(key) => _ = body.reasons.insert(key.into(), value_of(map.next_value()?)),
                        Key::Beside => _ = map.next_value::<IgnoredAny>()?,
                        Key::Other => {
                            body.others += 1;
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(body)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Body, A::Error> {
                Ok(Body { something: HasContent::any_of(list)?, ..Body::default() })
            }

            /// Some servers return JSON as text. Any other text is not an answer, since the endpoints answer in JSON.
            fn visit_str<E>(self, text: &str) -> Result<Body, E> {
                let json = text.trim_start().starts_with(['{', '[']);
                if !json {
                    return Ok(Body::default());
                }
                let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&repaired(text)));
                Ok(parsed.unwrap_or_default())
            }

            fn visit_unit<E>(self) -> Result<Body, E> {
                Ok(Body::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Body, E> {
                Ok(Body::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Body, E> {
                Ok(Body::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Body, E> {
                Ok(Body::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Body, E> {
                Ok(Body::default())
            }
        }
        deserializer.deserialize_any(Frame)
    }
}

/// Whether a value has content: a list or an object with an element, a text with a character.
struct HasContent(bool);

impl HasContent {
    fn any_of<'de, A: SeqAccess<'de>>(mut list: A) -> Result<bool, A::Error> {
        let mut some = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            some = true;
        }
        Ok(some)
    }
}

impl<'de> Deserialize<'de> for HasContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &RawValue = Deserialize::deserialize(deserializer)?;
        let inside = raw.get().as_bytes();
        let inside = inside.get(1..inside.len().saturating_sub(1)).unwrap_or_default();
        Ok(HasContent(raw.get().starts_with(['[', '{', '"']) && !inside.trim_ascii().is_empty()))
    }
}
