//! Parsing of the replies that servers really send: open types, wrappers, numbers as strings, HTML instead of JSON.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::words;
use crate::api::text::clip;
use crate::api::{ReportedUsage, TokenUsage, json};
use crate::provider::{ApiError, Batch, BatchError, Dialect, ErrorKind};
use crate::transport::retry_after;

/// Maximum length of the name of a batch or a file, in bytes. Vendors' names have 30 to 80 bytes. Gateways that put the model,
/// the deployment and the vendor's own id into theirs use up to 500 (LiteLLM's managed files). A journal holds five names a
/// batch, and is read up to 16 MiB.
pub(super) const ID_LIMIT: usize = 2_048;
/// Maximum length of a server's message that is shown, in bytes.
const WORDS_LIMIT: usize = 480;
/// Maximum length of a state or an error code that is shown, in bytes.
const WORD_LIMIT: usize = 64;
/// Maximum length of a key or a value of metadata that is kept, in bytes: twice what we write.
const METADATA_LIMIT: usize = 1 << 10;
/// Most tokens of one batch that are believed.
const TOKENS_LIMIT: i64 = 1 << 50;

/// Returns the batch of a document, which may be wrapped in another object; None if it has no id, or is an error.
pub(super) fn batch(dialect: &Dialect, value: &Value) -> Option<Batch> {
    let value = ["job", "batch", "data"].iter().find_map(|k| value.get(*k).filter(|v| v.is_object())).unwrap_or(value);
    entry(dialect, value).filter(|batch| !batch.id.is_empty() && !is_error(value))
}

/// Returns the name of an uploaded file; None if the document is an error.
pub(super) fn file(value: &Value) -> Option<String> {
    id(value, "id").filter(|_| !is_error(value))
}

/// Returns whether the document is an error. An error may have an id, that of the call; a failed batch may contain an error
/// (Together).
fn is_error(value: &Value) -> bool {
    let is_batch = value.get("object").and_then(Value::as_str) == Some("batch") || id(value, "input_file_id").is_some();
    !is_batch && value.get("error").is_some_and(|e| !e.is_null())
}

/// Returns an entry of a list of batches; None if it is not an object. Its id is empty if it has none.
pub(super) fn entry(dialect: &Dialect, value: &Value) -> Option<Batch> {
    let unusable = ["output_file_id", "error_file_id"].into_iter().filter_map(|key| unusable(value, key));
    let input_file_id = id(value, "input_file_id");
    let status = clip(text(value, "status").unwrap_or_default().trim().to_ascii_lowercase(), WORD_LIMIT);
    value.is_object().then(|| Batch {
        unusable: unusable.collect(),
        id: id(value, "id").unwrap_or_default(),
        state: words::state(&status),
        is_finalizing: words::is_finalizing(&status),
        status,
        created_at: seconds(value.get("created_at")),
        completed_at: seconds(value.get("completed_at")),
        expires_at: seconds(value.get("expires_at")),
        output_file_id: id(value, "output_file_id"),
        error_file_id: id(value, "error_file_id"),
        done: value.get("request_counts").and_then(done),
        usage: value.get("usage").and_then(usage),
        metadata: metadata(value),
        errors: errors(dialect, value, input_file_id.as_deref()),
        input_file_id,
    })
}

/// Returns the total of the batch's tokens, which OpenAI reports since 2025-09-07; None without usable counts. Zeros are none:
/// servers write them while a batch runs, and if they do not count.
fn usage(usage: &Value) -> Option<TokenUsage> {
    let usage = ReportedUsage::read(&usage.to_string(), TOKENS_LIMIT)?.of_text()?;
    (!usage.is_zero()).then_some(usage)
}

/// Returns the number of requests that are done; None without usable counts, so that answers to all requests are expected.
fn done(counts: &Value) -> Option<i64> {
    let count = |key| counts.get(key).filter(|count| !count.is_null()).map(count_of);
    match (count("completed"), count("failed")) {
        (None, None) => None,
        (completed, failed) => Some(completed.unwrap_or(Some(0))?.saturating_add(failed.unwrap_or(Some(0))?)),
    }
}

fn count_of(value: &Value) -> Option<i64> {
    let count = match value {
        Value::Number(n) => n.as_i64().or(n.as_f64().map(|f| f as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    count.filter(|count| *count >= 0)
}

/// Returns the name in a field, if it can be used in paths, in status and in logs.
pub(super) fn id(value: &Value, key: &str) -> Option<String> {
    text(value, key).filter(|id| no_id(id).is_none())
}

/// Returns why a text cannot be used as a name; None if it can.
fn no_id(id: &str) -> Option<String> {
    match id.bytes().all(|b| b.is_ascii_graphic()) {
        _ if id.len() > ID_LIMIT => Some(format!("has {} bytes, and at most {ID_LIMIT} are taken", id.len())),
        false => Some("holds spaces, control characters or letters outside ASCII".into()),
        true => matches!(id, "." | "..").then(|| "is a step of a path".into()),
    }
}

/// Returns the problem of a field whose value is no usable name. Null, `false` and an empty text, list or object are no
/// problem: servers write them if there is no file.
pub(super) fn unusable(value: &Value, key: &str) -> Option<String> {
    let wrong = match value.get(key)? {
        Value::Null | Value::Bool(false) => return None,
        Value::String(id) if id.trim().is_empty() => return None,
        Value::Array(list) if list.is_empty() => return None,
        Value::Object(object) if object.is_empty() => return None,
        Value::String(id) => no_id(id)?,
        Value::Number(_) => return None,
        Value::Bool(true) => "is `true`".into(),
        Value::Array(_) => "is a list".into(),
        Value::Object(_) => "is an object".into(),
    };
    Some(format!("its `{key}` {wrong}"))
}

/// Returns the text of a field, if it is not empty. A number counts as its text.
pub(super) fn text(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Returns a time in Unix seconds; 0 if there is none. It may be a number, a number as text or, as in Azure's samples,
/// `2024-07-19T13:43:01Z`.
fn seconds(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Number(n)) => n.as_i64().or(n.as_f64().map(|f| f as i64)).unwrap_or(0),
        Some(Value::String(s)) => s.parse().or_else(|_| s.parse().map(jiff::Timestamp::as_second)).unwrap_or(0),
        _ => 0,
    }
}

fn metadata(value: &Value) -> Vec<(String, String)> {
    let pairs = value.get("metadata").and_then(Value::as_object).into_iter().flatten();
    let pair = |(key, value): (&String, &Value)| {
        Some((clip(key.clone(), METADATA_LIMIT), clip(value.as_str()?.into(), METADATA_LIMIT)))
    };
    pairs.filter_map(pair).take(64).collect()
}

/// Returns the reasons why a batch failed as a whole. Servers write a list, or a text or an object instead.
fn errors(dialect: &Dialect, value: &Value, input_file_id: Option<&str>) -> Vec<BatchError> {
    let errors = value.get("errors").map(|errors| errors.get("data").unwrap_or(errors));
    let error = |e: &Value| {
        let code = clip(text(e, "code").unwrap_or_default(), WORD_LIMIT);
        let message = clip(text(e, "message").or_else(|| message(e, 3)).unwrap_or_default(), 512);
        let kind = words::failure(dialect, &code, &message, input_file_id);
        BatchError { kind, code, message, line: e.get("line").and_then(Value::as_i64) }
    };
    match errors {
        Some(Value::Array(list)) if !list.is_empty() => list.iter().take(8).map(error).collect(),
        other => {
            let some = other.filter(|e| message(e, 3).is_some()).or_else(|| value.get("error"));
            some.map(error).filter(|e| !e.message.is_empty() || !e.code.is_empty()).into_iter().collect()
        }
    }
}

/// Returns the error for a reply to `call` whose status is not 2xx.
pub(super) fn api_error(
    dialect: &Dialect,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    call: &str,
) -> ApiError {
    let by_code = code(body).filter(|_| status.is_client_error()).and_then(|code| dialect.class_of(&code));
    let kind = by_code.unwrap_or(match status.as_u16() {
        401..=403 => ErrorKind::Auth,
        404 | 410 => ErrorKind::NotFound,
        429 => ErrorKind::Capacity,
        405 | 501 => ErrorKind::Unsupported,
        408 | 409 | 425 => ErrorKind::Transient,
        400..=499 => ErrorKind::InvalidInput,
        _ => ErrorKind::Transient,
    });
    let message = match said(body).or_else(|| page(body)) {
        Some(said) => format!("{} ({}, {call})", clip(said, WORDS_LIMIT), status.as_u16()),
        None => format!("the server answered {status} without a message ({call})"),
    };
    ApiError { kind, message, status: Some(status.as_u16()), retry_after: retry_after(headers), source: None }
}

/// Returns the message of an error document, in any of the shapes that servers use, with its code if it has one. None if the
/// body is not JSON, such as a page of HTML, or has no message.
pub(super) fn said(body: &[u8]) -> Option<String> {
    json::with(body, |value| message(value, 4))?
}

fn message(value: &Value, levels: u32) -> Option<String> {
    let levels = levels.checked_sub(1)?;
    match value {
        Value::String(said) => Some(said.trim().to_string()).filter(|said| !said.is_empty()),
        Value::Array(list) => {
            let all: Vec<String> = list.iter().take(4).filter_map(|e| message(e, levels)).collect();
            Some(all.join("; ")).filter(|said| !said.is_empty())
        }
        Value::Object(object) => {
            let get = |key: &str| object.get(key).and_then(|inner| message(inner, levels));
            // FastAPI's `msg`; RFC 9457's `title`.
            let said = get("message").or_else(|| get("msg"));
            let inner = ["error", "detail", "errors", "title"].into_iter().find_map(get);
            match (inner, said) {
                (Some(code), Some(said)) if code != said => Some(format!("{code}: {said}")),
                (inner, said) => said.or(inner),
            }
        }
        _ => None,
    }
}

/// Returns the message of a body that is not JSON: its text, or the title of a page of HTML.
fn page(body: &[u8]) -> Option<String> {
    const READ: usize = 8 << 10;
    if json::with(body, |_| ()).is_some() {
        return None;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(READ)]);
    let lower = text.to_ascii_lowercase();
    let said = match lower.trim_start().starts_with('<') {
        true => {
            let from = lower.find("<title")? + "<title".len();
            let from = from + lower[from..].find('>')? + 1;
            &text[from..from + lower[from..].find('<')?]
        }
        false => &text,
    };
    let words: Vec<&str> =
        said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    Some(words.join(" ")).filter(|said| !said.is_empty())
}

/// Returns the code of an error document.
pub(super) fn code(body: &[u8]) -> Option<String> {
    of_error(body, "code")
}

/// Returns the name of the parameter that an error document is about.
pub(super) fn param(body: &[u8]) -> Option<String> {
    of_error(body, "param")
}

fn of_error(body: &[u8], key: &str) -> Option<String> {
    json::with(body, |value| {
        let detail = value.get("detail").unwrap_or(value);
        text(detail.get("error").unwrap_or(detail), key)
    })?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::openai::OPENAI;

    fn batch(value: &Value) -> Option<Batch> {
        super::batch(&OPENAI, value)
    }

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
    fn totals_of_tokens_are_read_if_they_are_usable() {
        let read = |usage: Value| batch(&json!({"id": "b", "status": "completed", "usage": usage})).unwrap().usage;
        let tokens = TokenUsage {
            input_tokens: 1_200,
            cached_input_tokens: 200,
            output_tokens: 340,
            reasoning_tokens: 40,
            ..Default::default()
        };
        let usage = json!({"input_tokens": 1_200, "input_tokens_details": {"cached_tokens": 200}, "output_tokens": "340",
            "output_tokens_details": {"reasoning_tokens": 40}, "total_tokens": 1_540.0});
        assert_eq!(read(usage), Some(tokens));
        let large = read(json!({"input_tokens": 60_000_000_000_i64, "output_tokens": 1})).unwrap();
        assert_eq!(large.input_tokens, 60_000_000_000, "50,000 requests of more than a million tokens");
        for none in [
            json!(null),
            json!({}),
            json!([7]),
            json!("7"),
            json!({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}),
            json!({"input_tokens": -1, "output_tokens": 1}),
            json!({"input_tokens": i64::MAX, "output_tokens": 1}),
        ] {
            assert_eq!(read(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn a_full_queue_is_a_wait_and_a_bad_line_is_not() {
        let failed = |code: &str| {
            let value =
                json!({"id": "b", "status": "failed", "errors": {"data": [{"code": code, "message": "m", "line": 3}]}});
            batch(&value).unwrap().rejection().unwrap()
        };
        assert_eq!(failed("token_limit_exceeded").kind, ErrorKind::TokenLimit);
        assert_eq!(failed("rate_limit_exceeded").kind, ErrorKind::Capacity);
        let bad = failed("invalid_json_line");
        assert_eq!(
            (bad.kind, bad.message.as_str()),
            (ErrorKind::InvalidInput, "invalid_json_line: m (line 3 of the batch)")
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
            r#"{"errors":[{"message":"m"}]}"#,
            r#"{"detail":[{"loc":["body","model"],"msg":"m","type":"missing"}]}"#,
            r#""m""#,
        ] {
            assert_eq!(said(body.as_bytes()).as_deref(), Some("m"), "{body}");
        }
        assert_eq!(said(b"<html>502</html>"), None);
    }

    #[test]
    fn no_words_of_a_refusal_are_dropped() {
        let told = |body: &str| {
            api_error(&OPENAI, StatusCode::BAD_REQUEST, &HeaderMap::new(), body.as_bytes(), "GET h/v1/x").message
        };
        for (body, wanted) in [
            (
                r#"{"error":"model_not_found","message":"no such model"}"#,
                "model_not_found: no such model (400, GET h/v1/x)",
            ),
            (
                "Line 1: Model 'x' has not\n been configured",
                "Line 1: Model 'x' has not been configured (400, GET h/v1/x)",
            ),
            ("<html><head><TITLE lang=en>502 Bad\nGateway</title>", "502 Bad Gateway (400, GET h/v1/x)"),
            (r#"{"errors":["a",{"message":"b"}]}"#, "a; b (400, GET h/v1/x)"),
            ("", "the server answered 400 Bad Request without a message (GET h/v1/x)"),
            ("<html><h1>x</h1>", "the server answered 400 Bad Request without a message (GET h/v1/x)"),
            ("{}", "the server answered 400 Bad Request without a message (GET h/v1/x)"),
        ] {
            assert_eq!(told(body), wanted);
        }
        assert!(told(&"é".repeat(100_000)).len() <= WORDS_LIMIT + 24);
    }

    #[test]
    fn a_file_that_nobody_can_name_is_not_taken_for_none() {
        let long = "f".repeat(ID_LIMIT + 1);
        for (odd, why) in [
            (json!(long), "has 2049 bytes"),
            (json!(["file-1"]), "is a list"),
            (json!({"id": "file-1"}), "is an object"),
            (json!(true), "is `true`"),
            (json!("a b"), "holds spaces"),
            (json!(".."), "is a step"),
        ] {
            let read = batch(&json!({"id": "b", "status": "failed", "output_file_id": odd})).unwrap();
            let said = read.unnamed_answers().unwrap();
            assert!(said.starts_with(&format!("its `output_file_id` {why}")), "{said}");
            assert_eq!(read.rejection(), None, "it is not turned away");
        }
        for none in [json!(null), json!(""), json!(false), json!([]), json!({})] {
            let read = batch(&json!({"id": "b", "status": "completed", "output_file_id": none})).unwrap();
            assert_eq!((read.unnamed_answers(), read.output_file_id), (None, None));
        }
        let id = "f".repeat(ID_LIMIT);
        assert_eq!(batch(&json!({"id": "b", "output_file_id": id})).unwrap().output_file_id, Some(id));
    }
}
