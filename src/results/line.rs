//! Lines that come back, and lines that are handed on: OpenAI's output shape, whatever the provider.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::json::{self, Bounded};

/// How one request ended, as a part says it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ended {
    Succeeded,
    /// It was refused; sending it again would not help.
    Failed,
    /// It failed in a way that may pass.
    Errored,
    Expired,
    Cancelled,
}

/// A line of a part: the request's index, how it ended, and the provider's line as it came.
#[derive(Serialize, Deserialize)]
pub(super) struct PartLine<'a> {
    pub index: i64,
    pub ended: Ended,
    #[serde(borrow)]
    pub line: &'a RawValue,
}

/// A request as it is sent: OpenAI's batch line.
#[derive(Serialize, Deserialize)]
pub(super) struct RequestLine<'a> {
    pub custom_id: Cow<'a, str>,
    pub method: &'a str,
    pub url: &'a str,
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// A provider's line, of which only the frame is read.
#[derive(Deserialize)]
pub(super) struct ProviderLine<'a> {
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    pub custom_id: Option<String>,
    #[serde(borrow)]
    pub response: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ResponseHead {
    status_code: Option<Bounded>,
}

/// A line of `results.jsonl` or `errors.jsonl`.
#[derive(Serialize)]
pub(super) struct ResultLine<'a> {
    pub id: Option<&'a RawValue>,
    pub custom_id: &'a str,
    pub response: Option<&'a RawValue>,
    pub error: Option<&'a RawValue>,
    pub request_sha256: &'a str,
}

impl ProviderLine<'_> {
    /// How the request ended. OpenAI answers 2xx rows without an error; rows that were never executed have no response
    /// and `batch_expired` or `batch_cancelled` as code.
    pub fn ended(&self) -> Ended {
        let error = self.error.map(|e| json::parse(e.get().as_bytes()));
        let code = error.as_ref().and_then(|e| e.as_ref()?.get("code")?.as_str());
        match code {
            Some("batch_expired") => return Ended::Expired,
            Some("batch_cancelled" | "batch_canceled") => return Ended::Cancelled,
            _ => {}
        }
        let head = self.response.and_then(|r| serde_json::from_str::<ResponseHead>(r.get()).ok());
        let status = head.and_then(|h| h.status_code).and_then(|s| s.0.as_i64().or_else(|| s.0.as_str()?.parse().ok()));
        let no_error = error.is_none_or(|e| e.is_some_and(|e| is_nothing(&e)));
        match status {
            Some(200..=299) if no_error => Ended::Succeeded,
            Some(400..=499) if !matches!(status, Some(408 | 409 | 429)) => Ended::Failed,
            _ => Ended::Errored,
        }
    }
}

/// What servers write where there is no error.
fn is_nothing(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_apart() {
        for (line, ended) in [
            (r#"{"custom_id":"a","response":{"status_code":200,"body":{}},"error":null}"#, Ended::Succeeded),
            (r#"{"custom_id":"a","response":{"status_code":"201","body":"{}"}}"#, Ended::Succeeded),
            (r#"{"custom_id":"a","response":{"status_code":200,"body":{}},"error":{}}"#, Ended::Succeeded),
            (r#"{"custom_id":"a","response":{"status_code":200,"body":{}},"error":{"code":7}}"#, Ended::Errored),
            (r#"{"custom_id":"a","response":{"status_code":400,"body":{}},"error":null}"#, Ended::Failed),
            (r#"{"custom_id":"a","response":{"status_code":0}}"#, Ended::Errored),
            (r#"{"custom_id":"a","response":{"status_code":429,"body":{}}}"#, Ended::Errored),
            (r#"{"custom_id":"a","response":{"status_code":503,"body":"<html>"}}"#, Ended::Errored),
            (r#"{"custom_id":"a","response":null,"error":{"code":"batch_expired"}}"#, Ended::Expired),
            (r#"{"custom_id":"a","response":null,"error":{"code":"batch_cancelled"}}"#, Ended::Cancelled),
            (r#"{"custom_id":"a","response":null,"error":"odd"}"#, Ended::Errored),
            (r#"{"custom_id":"a"}"#, Ended::Errored),
        ] {
            assert_eq!(serde_json::from_str::<ProviderLine>(line).unwrap().ended(), ended, "{line}");
        }
    }
}
