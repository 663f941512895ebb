//! The `response` of a row: its status, whether its body is an answer, its content and its usage.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::content::{Any, Choice, Content, IncompleteDetails, Items, OutputItem, Shape, holds_something};
use super::ending::{is_nothing, value_of};
use super::repair::repaired;
use crate::api::{MOST_TOKENS, ReportedUsage, TokenUsage};

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
        if let Ok(code) = raw.get().parse() {
            return Status::Code(code);
        }
        match value_of(raw) {
            Value::Null => Status::Absent,
            value => value.as_i64().or_else(|| value.as_str()?.parse().ok()).map_or(Status::NotANumber, Status::Code),
        }
    }
}

/// The facts about a row's `body`.
#[derive(Default)]
pub(super) struct Body {
    /// Whether the body has any content other than text.
    something: bool,
    /// Whether the body has a non-empty key of an answer.
    answer: bool,
    /// Whether that is the key of embeddings.
    embeddings: bool,
    /// Whether that is the key of moderations.
    moderations: bool,
    /// The content of an answer that is text.
    content: Content,
    usage: Usage,
    /// Number of keys that neither answers nor errors need to have.
    others: usize,
    /// The body's values under keys of failures.
    pub reasons: Map<String, Value>,
}

/// The `usage` of a body.
#[derive(Clone, Copy, Default)]
enum Usage {
    #[default]
    Absent,
    /// A value that is no usage, such as a list.
    Unusable,
    Reported(ReportedUsage),
}

impl Body {
    /// Returns the content of an answer that is text; None of any other answer.
    pub fn text(&self) -> Option<Content> {
        Some(self.content).filter(|content| content.is_list)
    }

    /// Returns the tokens that the request used, or counts the answer as one without usage. Moderations are free and report
    /// none. A body that is no answer reports none either, as the request was not executed.
    pub fn tokens(&self, is_answer: bool) -> TokenUsage {
        let tokens = match self.usage {
            Usage::Reported(reported) if self.embeddings => reported.of_embeddings(),
            Usage::Reported(reported) => reported.of_text(),
            Usage::Absent | Usage::Unusable => None,
        };
        let may_be_billed = !matches!(self.usage, Usage::Absent) || is_answer || self.answer;
        let unknown = i64::from(may_be_billed && !self.moderations);
        tokens.unwrap_or(TokenUsage { answers_without_usage: unknown, ..TokenUsage::default() })
    }

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

/// A key in a body.
enum Key {
    Choices,
    Output,
    Data,
    Results,
    Content,
    Usage,
    IncompleteDetails,
    /// A key of failures.
    Reason(&'static str),
    /// A key that gateways add to any body.
    Beside,
    Other,
}

/// A key in a row's `response`.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ResponseKey {
    StatusCode,
    Body,
    #[serde(other)]
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
                Ok(match key {
                    "choices" => Key::Choices,
                    "output" => Key::Output,
                    "data" => Key::Data,
                    "results" => Key::Results,
                    "content" => Key::Content,
                    "usage" => Key::Usage,
                    "incomplete_details" => Key::IncompleteDetails,
                    "error" => Key::Reason("error"),
                    "errors" => Key::Reason("errors"),
                    "detail" => Key::Reason("detail"),
                    "message" => Key::Reason("message"),
                    "object" => Key::Reason("object"),
                    "type" => Key::Reason("type"),
                    "code" => Key::Reason("code"),
                    "status" => Key::Reason("status"),
                    "status_code" => Key::Reason("status_code"),
                    "statusCode" => Key::Reason("statusCode"),
                    "param" | "request_id" | "requestId" | "trace_id" | "path" | "timestamp" | "success" | "name" => {
                        Key::Beside
                    }
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_identifier(Word)
    }
}

/// How closely a response is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// With the content of answers.
    Close,
    /// Without it: it cannot be read.
    Plain,
}

impl Response {
    /// Reads a response; None if it is not an object. Content that cannot be read makes no difference to the rest.
    pub fn read(json: &str) -> Option<Response> {
        let read = |reading| ResponseSeed(reading).deserialize(&mut serde_json::Deserializer::from_str(json));
        read(Reading::Close).or_else(|_| read(Reading::Plain)).ok()
    }
}

struct ResponseSeed(Reading);

impl<'de> DeserializeSeed<'de> for ResponseSeed {
    type Value = Response;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Response, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ResponseSeed {
    type Value = Response;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Response, A::Error> {
        let mut response = Response::default();
        while let Some(key) = map.next_key()? {
            match key {
                ResponseKey::StatusCode => response.status = Status::of(map.next_value()?),
                ResponseKey::Body => response.body = map.next_value_seed(BodySeed(self.0))?,
                ResponseKey::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(response)
    }
}

struct BodySeed(Reading);

impl<'de> DeserializeSeed<'de> for BodySeed {
    type Value = Body;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl BodySeed {
    /// Reads a body that is the text of JSON.
    fn read(&self, json: &str) -> serde_json::Result<Body> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let body = BodySeed(self.0).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(body)
    }
}

impl<'de> Visitor<'de> for BodySeed {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a body")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let (mut body, mut incomplete) = (Body::default(), Content::default());
        while let Some(key) = map.next_key()? {
            body.something = true;
            match key {
                Key::Choices => body.answer |= self.items::<Choice, A>(&mut body.content, &mut map)?,
                Key::Output => body.answer |= self.items::<OutputItem, A>(&mut body.content, &mut map)?,
                Key::Data => body.embeddings |= holds_something(map.next_value()?),
                Key::Results => body.moderations |= holds_something(map.next_value()?),
                Key::Content => body.answer |= holds_something(map.next_value()?),
                Key::Usage => {
                    body.others += 1;
                    body.usage = Usage::of(map.next_value()?);
                }
                Key::IncompleteDetails => {
                    body.others += 1;
                    match self.0 {
                        Reading::Close => incomplete = map.next_value::<Any<IncompleteDetails>>()?.0.0,
                        Reading::Plain => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Key::Reason(key) => _ = body.reasons.insert(key.into(), value_of(map.next_value()?)),
                Key::Beside => _ = map.next_value::<IgnoredAny>()?,
                Key::Other => {
                    body.others += 1;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        body.content.add(incomplete);
        // Text takes precedence: a body has one kind of answer.
        body.embeddings &= !body.answer;
        body.moderations &= !body.answer && !body.embeddings;
        body.answer |= body.embeddings || body.moderations;
        Ok(body)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Body, A::Error> {
        let mut body = Body::default();
        while list.next_element::<IgnoredAny>()?.is_some() {
            body.something = true;
        }
        Ok(body)
    }

    /// Some servers return JSON as text. Any other text is not an answer, since the endpoints answer in JSON.
    fn visit_str<E: Error>(self, text: &str) -> Result<Body, E> {
        let json = text.trim_start().starts_with(['{', '[']);
        if !json {
            return Ok(Body::default());
        }
        match self.read(text).or_else(|_| self.read(&repaired(text))) {
            Err(error) if self.0 == Reading::Close => Err(E::custom(error)),
            read => Ok(read.unwrap_or_default()),
        }
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

impl BodySeed {
    /// Reads the choices or the output items of an answer. Returns whether there are any.
    fn items<'de, I, A>(&self, content: &mut Content, map: &mut A) -> Result<bool, A::Error>
    where
        I: Shape<'de> + Into<Content>,
        A: MapAccess<'de>,
    {
        if self.0 == Reading::Plain {
            return Ok(holds_something(map.next_value()?));
        }
        let Any(items) = map.next_value::<Any<Items<I>>>()?;
        *content = items.content;
        Ok(items.some)
    }
}

impl Usage {
    fn of(raw: &RawValue) -> Usage {
        match raw.get() {
            "null" | "{}" => Usage::Absent,
            json => ReportedUsage::read(json, MOST_TOKENS).map_or(Usage::Unusable, Usage::Reported),
        }
    }
}
