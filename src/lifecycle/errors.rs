//! Errors of the requests without an answer, over all batches.

use super::journal::Journal;
use crate::api::ErrorSummary;

/// Maximum number of codes that status lists.
const LISTED: usize = 10;

/// OpenAI's code of a request that by itself exceeds the account's limit.
pub const TOO_LARGE: &str = "token_limit_exceeded";

/// Returns the most frequent codes of the requests that have no answer now; requests that a later round settled no longer
/// count.
pub fn error_summary(journal: &Journal) -> Vec<ErrorSummary> {
    let mut sums = journal.shards.errors().0;
    if let count @ 1.. = journal.shards.totals().too_large {
        sums.entry(TOO_LARGE.into()).or_default().count += count;
    }
    let mut all: Vec<ErrorSummary> = sums
        .into_iter()
        .filter(|(_, sum)| sum.count > 0)
        .map(|(code, sum)| ErrorSummary {
            message: advice(&code).into(),
            code,
            count: sum.count,
            sample_custom_id: sum.sample,
        })
        .collect();
    all.sort_by_key(|e| -e.count);
    all.truncate(LISTED);
    all
}

/// Returns what a well-known code means, in our own words, because a provider's message may quote the request. The codes are
/// OpenAI's (https://platform.openai.com/docs/guides/error-codes).
fn advice(code: &str) -> &'static str {
    match code {
        "context_length_exceeded" => "the request is longer than the model's context; shorten it",
        "content_filter" | "content_policy_violation" => "the provider's filter refused the request or its answer",
        "invalid_request_error" | "invalid_value" | "NonRetriableHttpStatus" => {
            "the provider refused the request as it is; errors.jsonl has the reason"
        }
        TOO_LARGE => "the account has no room for the request, even alone; raise its limit, or shorten the request",
        "model_not_found" | "http_404" => "the account has no such model",
        "rate_limit_exceeded" | "http_429" => "the provider had no room; such requests are sent again",
        "batch_expired" => "not executed within the completion window; such requests are sent again",
        "batch_cancelled" | "batch_canceled" => "not executed because the batch was cancelled",
        "server_error" | "internal_error" | "http_500" | "http_502" | "http_503" | "http_504" => {
            "the provider failed; such requests are sent again within `spec.backoffLimitPerRequest`"
        }
        "unreadable_answer" => "answered in a way that cannot be read, and not sent again; errors.jsonl has the line",
        "answer_too_long" => "the answer is longer than what is read; the provider keeps it",
        "no_answer" => "the provider reported success and gave no answer; not sent again",
        code if code.starts_with("http_4") => "the provider refused the request as it is; errors.jsonl has the reason",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RequestCounts;
    use crate::lifecycle::{Attempt, AttemptState, Owner, PartRef, Payload, Shard};

    fn errors(list: &[(&str, i64, &str)]) -> Vec<ErrorSummary> {
        let error = |(code, count, sample): &(&str, i64, &str)| ErrorSummary {
            code: code.to_string(),
            count: *count,
            sample_custom_id: sample.to_string(),
            message: String::new(),
        };
        list.iter().map(error).collect()
    }

    fn shard(round: u32, ended: Option<Vec<ErrorSummary>>, prior_errors: Vec<ErrorSummary>) -> Shard {
        let attempt = ended.map(|errors| Attempt {
            state: AttemptState::Settled {
                batch_id: "b".into(),
                ended: "completed".into(),
                part: Some(PartRef { name: String::new(), sha256: String::new() }),
                counts: RequestCounts::default(),
                usage: Default::default(),
                cost: None,
                retryable: 0,
                errors,
                files: vec![],
            },
            ..Attempt::intended(1, "", Payload::default(), 0, "")
        });
        Shard { attempt, round, prior_errors, ..Shard::default() }
    }

    #[test]
    fn what_a_later_round_settled_counts_no_more() {
        let owner = Owner { cluster: "".into(), namespace: "".into(), name: "".into(), uid: "".into() };
        let mut journal = Journal::open("w".into(), owner, "s".into());
        journal.shards.push(shard(0, Some(errors(&[("batch_expired", 4, "a"), ("http_500", 2, "b")])), vec![]));
        journal.shards.push(shard(0, Some(errors(&[("content_filter", 3, "c")])), vec![]));
        let codes = |journal: &Journal| -> Vec<(String, i64, String)> {
            error_summary(journal).into_iter().map(|e| (e.code, e.count, e.sample_custom_id)).collect()
        };
        let row = |code: &str, count, sample: &str| (code.to_string(), count, sample.to_string());
        let before = [row("batch_expired", 4, "a"), row("content_filter", 3, "c"), row("http_500", 2, "b")];
        assert_eq!(codes(&journal), before);
        let prior_counts = errors(&[("batch_expired", 4, ""), ("http_500", 2, "")]);
        journal.shards.push(shard(1, None, prior_counts.clone()));
        assert_eq!(codes(&journal), before, "not settled yet");
        journal.shards[2] = shard(1, Some(errors(&[("http_500", 1, "d")])), prior_counts);
        assert_eq!(codes(&journal), [row("content_filter", 3, "c"), row("http_500", 1, "d")]);
    }
}
