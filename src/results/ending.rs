//! The end of a request, by its line: whether it has an answer, and if not, whether the failure may pass; what it used, and of
//! what kind its answer is.

use serde_json::Value;
use serde_json::value::RawValue;

use super::body::{Body, Response, Status};
use super::line::{LineOutcome, ProviderLine};
use crate::api::{AnswerCounts, TokenUsage, json};

/// Most levels of nested errors that are read.
const LEVELS: u32 = 5;

/// The facts about a request that its line tells.
pub(super) struct RequestEnd {
    pub outcome: LineOutcome,
    /// The tokens that it used.
    pub tokens: TokenUsage,
    /// The kinds of its answer. All zero without an answer.
    pub answers: AnswerCounts,
}

impl ProviderLine<'_> {
    /// Returns how the request ended. OpenAI's rows of answers have a 2xx status and no error; rows that were never
    /// executed have no response, and the code `batch_expired` or `batch_cancelled`. A failure counts as one that may
    /// pass only if its status or code says so, because any other request may have been paid.
    pub fn end(&self) -> RequestEnd {
        let (outcome, body, _) = self.judged();
        let is_answered = outcome == LineOutcome::Succeeded;
        let answers = body.text().filter(|_| is_answered).map(|content| AnswerCounts {
            empty: i64::from(!content.says_something && !content.refused),
            refused: i64::from(content.refused),
            truncated: i64::from(content.truncated),
            filtered: i64::from(content.filtered),
        });
        RequestEnd { outcome, tokens: body.tokens(is_answered), answers: answers.unwrap_or_default() }
    }

    /// Returns the reason for a missing answer as a code: the row's, or that of the error in its body, or its HTTP
    /// status. A value that does not look like a code is ignored, for it may be text.
    pub fn code(&self) -> String {
        let (_, _, why) = self.judged();
        why.name().unwrap_or_else(|| "unknown".into())
    }

    fn judged(&self) -> (LineOutcome, Body, FailureReasons) {
        let error = self.error.map(value_of);
        let mut why = FailureReasons::default();
        if let Some(error) = &error {
            why.read(error, LEVELS);
        }
        if why.says("batch_expired") {
            return (LineOutcome::Expired, Body::default(), why);
        }
        if why.says("batch_cancelled") || why.says("batch_canceled") {
            return (LineOutcome::Cancelled, Body::default(), why);
        }
        let response = self.response.and_then(|r| Response::read(r.get()));
        let Response { status, mut body } = response.unwrap_or_default();
        let fine = matches!(status, Status::Absent | Status::Code(200..=299));
        let (has_error, answered) = (error.is_some_and(|e| !is_nothing(&e)), fine && body.is_answer());
        match status {
            _ if answered && !has_error => return (LineOutcome::Succeeded, body, why),
            Status::Code(200..=299) | Status::Absent => {}
            Status::Code(status) => why.statuses.insert(0, status),
            Status::NotANumber => why.odd = true,
        }
        why.read(&Value::Object(std::mem::take(&mut body.reasons)), LEVELS);
        // An answer beside an error has been paid, too.
        let ended = if why.retryable() && !answered { LineOutcome::Errored } else { LineOutcome::Failed };
        if why.is_silent() && self.response.is_some() && !has_error && !answered {
            why.codes.push("no_answer".into());
        }
        (ended, body, why)
    }
}

pub(super) fn value_of(raw: &RawValue) -> Value {
    // JSON that is nested too deep or too large is an error, too.
    json::parse(raw.get().as_bytes()).unwrap_or(Value::Bool(true))
}

/// Returns whether a value is one that servers write in place of an error, such as an object of nulls.
pub(super) fn is_nothing(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.trim().is_empty(),
        // Only the beginning of a longer list or object was read.
        Value::Array(list) => list.len() < json::MOST_ELEMENTS && list.iter().all(is_nothing),
        Value::Object(object) => object.len() < json::MOST_ELEMENTS && object.values().all(is_nothing),
        _ => false,
    }
}

/// The codes, types and statuses of a failure in a row and its body, the outermost first.
#[derive(Default)]
struct FailureReasons {
    codes: Vec<String>,
    types: Vec<String>,
    statuses: Vec<i64>,
    /// Whether the row's status is not a number.
    odd: bool,
}

impl FailureReasons {
    fn read(&mut self, error: &Value, levels: u32) {
        let Some(levels) = levels.checked_sub(1) else { return };
        match error {
            // Some servers pass errors on as the text of their JSON.
            Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
                if let Some(inner) = json::parse(text.trim().as_bytes()) {
                    self.read(&inner, levels);
                }
            }
            Value::String(_) => self.codes.extend(word(error).filter(|word| is_a_code(word))),
            Value::Array(list) => list.iter().take(3).filter(|e| !e.is_string()).for_each(|e| self.read(e, levels)),
            Value::Object(object) => {
                let get = |key| object.get(key).filter(|value| !is_nothing(value));
                for key in ["status_code", "statusCode", "status", "http_status", "code"] {
                    self.statuses.extend(get(key).and_then(status));
                }
                self.codes.extend(get("code").filter(|code| status(code).is_none()).and_then(word));
                self.types.extend(get("type").and_then(word));
                // Google's `status` is a word such as `RESOURCE_EXHAUSTED`. Others have the state of a response there.
                self.types.extend(
                    get("status")
                        .and_then(word)
                        .filter(|word| !word.contains(|c: char| !c.is_ascii_uppercase() && c != '_')),
                );
                for key in ["error", "errors", "detail", "message", "body", "cause", "response"] {
                    match get(key) {
                        Some(text @ Value::String(_)) if key != "error" && !is_json(text) => {}
                        Some(inner) => self.read(inner, levels),
                        None => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn says(&self, code: &str) -> bool {
        self.codes.iter().any(|c| c == code)
    }

    fn is_silent(&self) -> bool {
        self.codes.is_empty() && self.types.is_empty() && self.statuses.is_empty()
    }

    fn name(self) -> Option<String> {
        // The type of every error document carries no information.
        let types = self.types.into_iter().filter(|t| t != "error");
        let status = self.statuses.first().map(|status| format!("http_{status}"));
        self.codes.into_iter().chain(types).next().or(status)
    }

    /// Returns whether another try of the same request may get an answer. A status takes precedence over words. A status of
    /// zero means that the server got no answer from its backend.
    fn retryable(&self) -> bool {
        let words = || self.codes.iter().chain(&self.types).map(|word| plain(word));
        if words().any(|w| w.contains("nonretriable") || w.contains("nonretryable") || w.contains("notretryable")) {
            return false;
        }
        match self.statuses.first() {
            Some(0 | 408 | 409 | 425 | 429 | 500..=599) => true,
            Some(_) => false,
            None if self.odd => false,
            None => words().any(|word| PASSING.contains(&word.as_str())),
        }
    }
}

/// Codes and types of failures that may pass, in lower case and without separators: those of OpenAI, Anthropic, Google,
/// vLLM, LiteLLM and gateways.
const PASSING: &[&str] = &[
    "apiconnectionerror",
    "apierror",
    "apitimeouterror",
    "badgateway",
    "connectionerror",
    "deadlineexceeded",
    "engineoverloaded",
    "gatewaytimeout",
    "internal",
    "internalerror",
    "internalservererror",
    "overloaded",
    "overloadederror",
    "ratelimit",
    "ratelimiterror",
    "ratelimitexceeded",
    "requesttimeout",
    "resourceexhausted",
    "servererror",
    "serviceunavailable",
    "serviceunavailableerror",
    "slowdown",
    "timeout",
    "timeouterror",
    "toomanyrequests",
    "unavailable",
    "upstreamerror",
    "upstreamtimeout",
];

fn plain(word: &str) -> String {
    word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Returns whether a text of one word is a code rather than a message.
fn is_a_code(word: &str) -> bool {
    word.contains('_') || PASSING.contains(&plain(word).as_str())
}

fn is_json(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim_start().starts_with(['{', '[']))
}

/// Reads the HTTP status of a failure, from a number or its digits.
fn status(value: &Value) -> Option<i64> {
    let status = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
    (400..=599).contains(&status).then_some(status)
}

fn word(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    (plain && (1..=64).contains(&text.len())).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(line: &str) -> (LineOutcome, String) {
        let line: ProviderLine = serde_json::from_str(line).unwrap();
        (line.end().outcome, line.code())
    }

    fn row(status: &str, body: &str, error: &str) -> String {
        format!(r#"{{"custom_id":"a","response":{{"status_code":{status},"body":{body}}},"error":{error}}}"#)
    }

    const ANSWER: &str = r#"{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}"#;

    #[test]
    fn an_answer_is_one_whatever_empty_errors_stand_beside_it() {
        for line in [
            row("200", ANSWER, "null"),
            row("\"201\"", ANSWER, "{}"),
            row("200", ANSWER, r#"{"code":null,"message":null,"param":""}"#),
            row("200", ANSWER, r#"[null,{"message":""}]"#),
            row("200", r#"{"object":"response","error":null,"status":"completed","output":[{}]}"#, "false"),
            row("200", r#"{"object":"response","error":null,"status":"incomplete","output":[]}"#, "null"),
            row("200", r#"{"results":[{}],"model":"m"}"#, "\" \""),
            row("200", r#"{"object":"list","data":[{}]}"#, "null"),
            row("200", "\"{\\\"choices\\\":[{}]}\"", "null"),
            row("null", ANSWER, "null"),
            row("200", r#"{"of":1,"message":"hello"}"#, "null"),
            row("200", r#"{"message":{"role":"assistant"},"done":true}"#, "null"),
            row("200", r#"{"choices":[{}],"error":{"message":"cut short"}}"#, "null"),
            format!(r#"{{"custom_id":"a","response":{{"body":{ANSWER}}}}}"#),
            format!(r#"{{"custom_id":"b","custom_id":"b","response":null,"response":{{"body":{ANSWER}}}}}"#),
        ] {
            assert_eq!(ended(&line).0, LineOutcome::Succeeded, "{line}");
        }
    }

    #[test]
    fn what_has_no_answer_is_sent_again_only_where_its_status_or_code_may_pass() {
        use LineOutcome::{Cancelled, Errored, Expired, Failed};
        let dwctl = |kind: &str, status: u16| {
            let inner = serde_json::json!({"type": kind, "status": status, "body": "{\"error\":\"no such model\"}"});
            row("null", "null", &serde_json::json!({"code": null, "message": inner.to_string()}).to_string())
        };
        for (line, wanted, code) in [
            (row("400", "{}", "null"), Failed, "http_400"),
            (row("400", r#"{"error":{"code":"content_filter"}}"#, "null"), Failed, "content_filter"),
            (
                row("400", r#"{"error":{"code":null,"type":"invalid_request_error"}}"#, "null"),
                Failed,
                "invalid_request_error",
            ),
            (row("400", r#"{"error":{"code":"my prompt was: x"}}"#, "null"), Failed, "http_400"),
            (row("404", "\"\"", "null"), Failed, "http_404"),
            (row("429", r#"{"of":1}"#, "null"), Errored, "http_429"),
            (row("\"500\"", "{}", "null"), Errored, "http_500"),
            (row("503", "\"<html>\"", "null"), Errored, "http_503"),
            (row("0", "\"\"", "null"), Errored, "http_0"),
            (row("302", "null", "null"), Failed, "http_302"),
            (row("1e400", "null", "null"), Failed, "no_answer"),
            // Case 26-ok-with-an-error-in-it and its kind.
            (
                row("200", r#"{"error":{"message":"m","type":"server_error","code":504}}"#, "null"),
                Errored,
                "server_error",
            ),
            (row("200", r#"{"error":{"message":"m","code":"content_filter"}}"#, "null"), Failed, "content_filter"),
            (row("200", r#"{"error":"upstream timed out"}"#, "null"), Failed, "no_answer"),
            (row("200", r#"{"error":"rate_limit_exceeded"}"#, "null"), Errored, "rate_limit_exceeded"),
            (
                row("200", r#"{"object":"error","type":"BadRequestError","code":400,"message":"m"}"#, "null"),
                Failed,
                "BadRequestError",
            ),
            (
                row("200", r#"{"type":"error","error":{"type":"overloaded_error"}}"#, "null"),
                Errored,
                "overloaded_error",
            ),
            (row("200", r#"{"detail":[{"loc":["body"],"msg":"m"}]}"#, "null"), Failed, "no_answer"),
            (row("200", r#"{"message":"no Route matched","request_id":"x"}"#, "null"), Failed, "no_answer"),
            (row("200", "\"{\\\"error\\\":{\\\"code\\\":\\\"server_error\\\"}}\"", "null"), Errored, "server_error"),
            (
                row("200", r#"{"choices":[],"error":{"code":"rate_limit_exceeded"}}"#, "null"),
                Errored,
                "rate_limit_exceeded",
            ),
            (
                row(
                    "200",
                    r#"{"object":"response","status":"failed","error":{"code":"server_error"},"output":[]}"#,
                    "null",
                ),
                Errored,
                "server_error",
            ),
            (row("200", "null", "null"), Failed, "no_answer"),
            (row("200", "{}", "null"), Failed, "no_answer"),
            (row("200", "\"<html>\"", "null"), Failed, "no_answer"),
            (row("200", "7", "null"), Failed, "no_answer"),
            (row("200", ANSWER, r#"{"code":"rate_limit_exceeded"}"#), Failed, "rate_limit_exceeded"),
            (row("200", ANSWER, "\"no\""), Failed, "unknown"),
            (row("null", "null", r#"{"code":"batch_expired","message":"x"}"#), Expired, "batch_expired"),
            (r#"{"response":null,"error":{"code":"batch_cancelled"}}"#.into(), Cancelled, "batch_cancelled"),
            (r#"{"response":null,"error":"something odd happened"}"#.into(), Failed, "unknown"),
            (r#"{"response":null,"error":{"code":"server_error","message":"m"}}"#.into(), Errored, "server_error"),
            (
                r#"{"response":null,"error":{"code":"processing_error","message":"m"}}"#.into(),
                Failed,
                "processing_error",
            ),
            (r#"{"response":null,"error":{"message":"m","status":503}}"#.into(), Errored, "http_503"),
            (r#"{"response":null,"error":{"message":"m","code":"422"}}"#.into(), Failed, "http_422"),
            (r#"{"response":"x"}"#.into(), Failed, "no_answer"),
            ("{}".into(), Failed, "unknown"),
            (dwctl("NonRetriableHttpStatus", 400), Failed, "NonRetriableHttpStatus"),
            (dwctl("NonRetriableHttpStatus", 500), Failed, "NonRetriableHttpStatus"),
            (dwctl("RetriableHttpStatus", 503), Errored, "RetriableHttpStatus"),
        ] {
            assert_eq!(ended(&line), (wanted, code.to_string()), "{line}");
        }
    }
}
