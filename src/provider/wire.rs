//! Reading what servers really answer: open types, wrappers, numbers as strings, HTML where JSON was due.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::{ApiError, Batch, BatchError, Class};
use crate::api::text::clip;

/// A batch, wherever in the document it is; None where there is no id.
pub(super) fn batch(value: &Value) -> Option<Batch> {
    let value = ["job", "batch", "data"].iter().find_map(|k| value.get(*k).filter(|v| v.is_object())).unwrap_or(value);
    Some(Batch {
        id: text(value, "id")?,
        status: text(value, "status").unwrap_or_default().to_ascii_lowercase(),
        created_at: number(value.get("created_at")),
        input_file_id: text(value, "input_file_id"),
        output_file_id: text(value, "output_file_id"),
        error_file_id: text(value, "error_file_id"),
        done: value.get("request_counts").map_or(0, |c| number(c.get("completed")) + number(c.get("failed"))),
        metadata: metadata(value),
        errors: errors(value),
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
            code: text(e, "code").unwrap_or_default(),
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
    ApiError { class, message, retry_after: retry_after(headers) }
}

/// The message of an error document in any of the shapes that are around; None where there is none, as in an HTML page.
pub(super) fn said(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let detail = value.get("detail").unwrap_or(&value);
    let error = detail.get("error").unwrap_or(detail);
    error.as_str().map(String::from).or_else(|| text(error, "message"))
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
        assert_eq!((read.done, read.created_at, read.output_file_id.as_deref()), (4, 1_700_000_000, None));
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
        assert_eq!(failed("token_limit_exceeded").class, Class::Capacity);
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
