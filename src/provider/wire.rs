//! Reading what servers really answer: open types, wrappers, numbers as strings, HTML where JSON was due.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::{ApiError, Batch, BatchError, Class};
use crate::api::json;
use crate::api::text::clip;

/// Longest name of a batch or a file that is taken for one, in bytes; those that we know have 30 to 80.
const ID_LIMIT: usize = 256;
/// Longest state or error code that is shown, in bytes.
const WORD_LIMIT: usize = 64;

/// A batch, wherever in the document it is; None where there is no id, or an error.
pub(super) fn batch(value: &Value) -> Option<Batch> {
    let value = ["job", "batch", "data"].iter().find_map(|k| value.get(*k).filter(|v| v.is_object())).unwrap_or(value);
    entry(value).filter(|batch| !batch.id.is_empty() && !is_error(value))
}

/// The name of a file that was made.
pub(super) fn file(value: &Value) -> Option<String> {
    id(value, "id").filter(|_| !is_error(value))
}

/// An error has an id too, sometimes: the request's.
fn is_error(value: &Value) -> bool {
    value.get("error").is_some_and(|e| !e.is_null())
}

/// An entry of a list of batches; its id is empty where it has none. None where it is no object.
pub(super) fn entry(value: &Value) -> Option<Batch> {
    value.is_object().then(|| Batch {
        id: id(value, "id").unwrap_or_default(),
        status: clip(text(value, "status").unwrap_or_default().trim().to_ascii_lowercase(), WORD_LIMIT),
        created_at: number(value.get("created_at")),
        input_file_id: id(value, "input_file_id"),
        output_file_id: id(value, "output_file_id"),
        error_file_id: id(value, "error_file_id"),
        done: value.get("request_counts").and_then(done),
        metadata: metadata(value),
        errors: errors(value),
    })
}

fn done(counts: &Value) -> Option<i64> {
    let count = |key| Some(number(Some(counts.get(key)?)).max(0));
    match (count("completed"), count("failed")) {
        (None, None) => None,
        (completed, failed) => Some(completed.unwrap_or(0).saturating_add(failed.unwrap_or(0))),
    }
}

/// A name that can stand in a path, a status and a log line: no other is one.
pub(super) fn id(value: &Value, key: &str) -> Option<String> {
    text(value, key).filter(|id| {
        let plain = id.bytes().all(|b| b.is_ascii_graphic());
        plain && id.len() <= ID_LIMIT && !matches!(id.as_str(), "." | "..")
    })
}

/// A non-empty string; an id of another type is taken as its text.
pub(super) fn text(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Number(n)) => n.as_i64().or(n.as_f64().map(|f| f as i64)).unwrap_or(0),
        Some(Value::String(s)) => s.parse().unwrap_or(0),
        _ => 0,
    }
}

fn metadata(value: &Value) -> Vec<(String, String)> {
    let pairs = value.get("metadata").and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).take(64).collect()
}

fn errors(value: &Value) -> Vec<BatchError> {
    let Some(errors) = value.get("errors") else { return vec![] };
    let list = errors.get("data").unwrap_or(errors).as_array().cloned().unwrap_or_default();
    list.iter()
        .take(8)
        .map(|e| BatchError {
            code: clip(text(e, "code").unwrap_or_default(), WORD_LIMIT),
            message: clip(text(e, "message").or(e.as_str().map(String::from)).unwrap_or_default(), 512),
            line: e.get("line").and_then(Value::as_i64),
        })
        .collect()
}

/// The error that an answer other than 2xx means.
pub(super) fn api_error(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
    let class = match status.as_u16() {
        401..=403 => Class::Auth,
        404 | 410 => Class::NotFound,
        429 => Class::Capacity,
        405 | 501 => Class::Unsupported,
        408 | 409 | 425 => Class::Transient,
        400..=499 => Class::InvalidInput,
        _ => Class::Transient,
    };
    let message = match said(body) {
        Some(said) => format!("{} ({})", clip(said, 480), status.as_u16()),
        None => format!("the server answered {status} without a message"),
    };
    ApiError { class, message, status: Some(status.as_u16()), retry_after: retry_after(headers) }
}

/// The message of an error document in any of the shapes that are around; None where there is none, as in an HTML page.
pub(super) fn said(body: &[u8]) -> Option<String> {
    let value = json::parse(body)?;
    let detail = value.get("detail").unwrap_or(&value);
    let error = detail.get("error").unwrap_or(detail);
    error.as_str().map(String::from).or_else(|| text(error, "message"))
}

/// The code of an error document, for programs.
pub(super) fn code(body: &[u8]) -> Option<String> {
    of_error(body, "code")
}

/// The name of the parameter that an error document is about.
pub(super) fn param(body: &[u8]) -> Option<String> {
    of_error(body, "param")
}

fn of_error(body: &[u8], key: &str) -> Option<String> {
    let value = json::parse(body)?;
    let detail = value.get("detail").unwrap_or(&value);
    text(detail.get("error").unwrap_or(detail), key)
}

/// `Retry-After` in seconds; its date form is not used by any batch API that we know.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn batches_are_read_however_they_are_dressed() {
        let plain = json!({"id": "b", "status": "InProgress", "created_at": "1700000000", "output_file_id": "",
            "request_counts": {"completed": "3", "failed": 1.0}, "metadata": {"k": "v", "n": 1}, "extra": {}});
        let read = batch(&json!({"job": plain.clone()})).unwrap();
        assert_eq!(read, batch(&plain).unwrap());
        assert_eq!((read.done, read.created_at, read.output_file_id.as_deref()), (Some(4), 1_700_000_000, None));
        assert_eq!(read.said("k"), Some("v"));
        assert!(!read.has_ended());
        assert!(batch(&json!({"status": "completed"})).is_none());
        assert!(batch(&json!([])).is_none());
    }

    #[test]
    fn a_full_queue_is_a_wait_and_a_bad_line_is_not() {
        let failed = |code: &str| {
            let value =
                json!({"id": "b", "status": "failed", "errors": {"data": [{"code": code, "message": "m", "line": 3}]}});
            batch(&value).unwrap().rejection().unwrap()
        };
        assert_eq!(failed("token_limit_exceeded").class, Class::TokenLimit);
        assert_eq!(failed("rate_limit_exceeded").class, Class::Capacity);
        let bad = failed("invalid_json_line");
        assert_eq!(
            (bad.class, bad.message.as_str()),
            (Class::InvalidInput, "invalid_json_line: m (line 3 of the batch)")
        );
        let partial = json!({"id": "b", "status": "failed", "output_file_id": "f"});
        assert_eq!(batch(&partial).unwrap().rejection(), None);
    }

    #[test]
    fn error_documents_of_every_shape_are_read() {
        for body in [
            r#"{"error":{"message":"m","code":null}}"#,
            r#"{"detail":"m"}"#,
            r#"{"detail":{"error":{"message":"m"}}}"#,
            r#"{"error":"m"}"#,
            r#"{"message":"m"}"#,
        ] {
            assert_eq!(said(body.as_bytes()).as_deref(), Some("m"), "{body}");
        }
        assert_eq!(said(b"<html>502</html>"), None);
    }
}
