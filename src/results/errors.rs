//! Why requests have no answer, by code.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::line::ProviderLine;
use crate::api::ErrorSummary;
use crate::api::json::{self, Bounded};

/// Codes that are told apart; more are counted as one.
const CODES: usize = 50;
/// Codes that are kept of one batch.
const KEPT: usize = 10;
const OTHER: &str = "other";

/// Counts codes, and remembers one request of each.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<String, (i64, i64)>);

impl Tally {
    /// Counts a request by its index.
    pub fn add(&mut self, code: String, index: i64) {
        let known = self.0.contains_key(&code) || self.0.len() < CODES;
        self.0.entry(if known { code } else { OTHER.into() }).or_insert((0, index)).0 += 1;
    }

    /// The most frequent ones, with the index of one request of each.
    pub fn most(self) -> Vec<(ErrorSummary, i64)> {
        let mut all: Vec<(String, (i64, i64))> = self.0.into_iter().collect();
        all.sort_by_key(|(_, (count, _))| -count);
        let rest: i64 = all.iter().skip(KEPT).map(|(_, (count, _))| count).sum();
        all.truncate(KEPT);
        if let (Some((code, (count, _))), true) = (all.last_mut(), rest > 0) {
            (*code, *count) = (OTHER.into(), *count + rest);
        }
        let summary = |code, count| ErrorSummary { code, count, ..Default::default() };
        all.into_iter().map(|(code, (count, index))| (summary(code, count), index)).collect()
    }
}

#[derive(Deserialize)]
struct Response<'a> {
    status_code: Option<Bounded>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Body {
    error: Option<Bounded>,
}

/// The code of a line without an answer: the row's, or that of the error in its body, or its HTTP status. Anything that does
/// not look like a code is none, for it may be text.
pub(super) fn code(line: &ProviderLine<'_>) -> String {
    let row = line.error.and_then(|e| json::parse(e.get().as_bytes()));
    let response = line.response.and_then(|r| serde_json::from_str::<Response>(r.get()).ok());
    let body = || serde_json::from_str::<Body>(response.as_ref()?.body?.get()).ok()?.error;
    let status = || match &response.as_ref()?.status_code.as_ref()?.0 {
        Value::Number(n) => Some(format!("http_{n}")),
        Value::String(s) => word(&Value::String(format!("http_{s}"))),
        _ => None,
    };
    let named = |error: &Value| ["code", "type"].iter().find_map(|key| word(error.get(key)?));
    row.as_ref().and_then(named).or_else(|| named(&body()?.0)).or_else(status).unwrap_or_else(|| "unknown".into())
}

fn word(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    (plain && (1..=64).contains(&text.len())).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_where_providers_put_them_and_text_is_none() {
        for (line, wanted) in [
            (r#"{"response":null,"error":{"code":"batch_expired","message":"x"}}"#, "batch_expired"),
            (
                r#"{"response":{"status_code":400,"body":{"error":{"code":"content_filter"}}},"error":null}"#,
                "content_filter",
            ),
            (
                r#"{"response":{"status_code":400,"body":{"error":{"code":null,"type":"invalid_request_error"}}}}"#,
                "invalid_request_error",
            ),
            (r#"{"response":{"status_code":503,"body":"<html>"}}"#, "http_503"),
            (r#"{"response":{"status_code":"500","body":{}}}"#, "http_500"),
            (r#"{"response":{"status_code":400,"body":{"error":{"code":"my prompt was: x"}}}}"#, "http_400"),
            (r#"{"error":"odd"}"#, "unknown"),
            (r#"{}"#, "unknown"),
        ] {
            assert_eq!(code(&serde_json::from_str(line).unwrap()), wanted, "{line}");
        }
    }

    #[test]
    fn the_most_frequent_codes_are_kept_and_nothing_is_lost() {
        let mut tally = Tally::default();
        for index in 0..200 {
            tally.add(format!("code-{}", index % 60), index);
        }
        for index in 200..300 {
            tally.add("often".into(), index);
        }
        let most = tally.most();
        assert_eq!(most.len(), KEPT);
        assert_eq!(most.iter().map(|(e, _)| e.count).sum::<i64>(), 300);
        assert!(most.iter().any(|(e, _)| e.code == OTHER));
    }
}
