//! Notices for tests: one of each event.

use super::Notice;
use crate::api::{
    CostStatus, ModelUsage, NotificationEvent, Outcome, ProviderReference, RequestCounts, Results, TokenUsage,
    UsageStatus,
};

/// 2026-11-30 12:00:00 UTC, in Unix milliseconds.
const START: i64 = 1_796_040_000_000;

/// Returns the notice of a job with 10,000 reviews, of which 32 were refused.
pub(crate) fn complete() -> Notice {
    let folder = "s3://shop/out/reviews-csv/v1";
    let tokens = TokenUsage { input_tokens: 1_160_000, output_tokens: 400_000, ..TokenUsage::default() };
    Notice {
        id: "msg_2f1c9a70-complete-1".into(),
        event: NotificationEvent::Complete,
        at: START + 5_025_000,
        namespace: "shop".into(),
        name: "reviews-csv".into(),
        uid: "2f1c9a70-5d1e-4c8a-9a39-6f2f8c0b7f11".into(),
        outcome: Some(Outcome::PartiallySucceeded),
        reason: "CompletedWithFailures".into(),
        message: "32 of 10000 requests have no answer".into(),
        requests: Some(RequestCounts { total: 10_000, succeeded: 9_968, failed: 32, ..Default::default() }),
        usage: Some(UsageStatus { tokens, models: vec![ModelUsage { name: "gpt-5-mini".into(), tokens }] }),
        cost: Some(CostStatus {
            estimated_usd: Some("0.62".into()),
            actual_usd: Some("0.545".into()),
            real_time_usd: Some("1.09".into()),
            saved_usd: Some("0.545".into()),
            ..CostStatus::default()
        }),
        start: Some(START),
        end: Some(START + 5_025_000),
        results: Some(Results {
            uri: format!("{folder}/results.jsonl"),
            errors_uri: Some(format!("{folder}/errors.jsonl")),
            manifest_uri: format!("{folder}/manifest.json"),
            config_maps: vec![],
        }),
        provider: ProviderReference { name: "llm".into(), ..Default::default() },
        model: Some("gpt-5-mini".into()),
    }
}

/// Returns the notice of a job whose requests were all answered, most of them by an earlier job.
pub(crate) fn succeeded() -> Notice {
    Notice {
        id: "msg_2f1c9a70-complete-2".into(),
        outcome: Some(Outcome::Succeeded),
        reason: "AllSucceeded".into(),
        message: String::new(),
        requests: Some(RequestCounts { total: 406, succeeded: 406, reused: 389, ..Default::default() }),
        end: Some(START + 42_999),
        at: START + 42_999,
        results: complete().results.map(|results| Results { errors_uri: None, ..results }),
        ..complete()
    }
}

/// Returns the notice of a job whose first batch is about to be submitted.
pub(crate) fn started() -> Notice {
    Notice {
        id: "msg_2f1c9a70-started-1".into(),
        event: NotificationEvent::Started,
        outcome: None,
        reason: "Submitting".into(),
        message: "submitting batches to the provider".into(),
        requests: Some(RequestCounts { total: 10_000, ..Default::default() }),
        usage: None,
        cost: None,
        end: None,
        at: START + 4_000,
        results: None,
        ..complete()
    }
}

/// Returns the notice of a job whose input cannot be used, before requests were counted.
pub(crate) fn failed() -> Notice {
    Notice {
        id: "msg_2f1c9a70-failed-1".into(),
        event: NotificationEvent::Failed,
        outcome: Some(Outcome::Failed),
        reason: "InvalidInput".into(),
        message: "s3://shop/in/reviews.csv, line 7: the column `text` is missing & <nothing> was sent".into(),
        requests: None,
        usage: None,
        cost: None,
        end: Some(START + 3_000),
        at: START + 3_000,
        results: None,
        model: None,
        ..complete()
    }
}

/// Returns the notice of a job with a question.
pub(crate) fn held() -> Notice {
    Notice {
        id: "msg_2f1c9a70-held-1".into(),
        event: NotificationEvent::Held,
        outcome: None,
        reason: "AwaitingAnswer".into(),
        message:
            "the provider does not know batch batch_17 under this credential. Answer with `kubectl -n shop annotate \
                  --overwrite bjob reviews-csv llmbatch.dev/resolve=lost-4f1c2a90=lost` or `kubectl -n shop annotate \
                  --overwrite bjob reviews-csv llmbatch.dev/resolve=lost-4f1c2a90=resend`"
                .into(),
        requests: Some(RequestCounts { total: 10_000, succeeded: 8_000, ..Default::default() }),
        usage: None,
        cost: None,
        end: None,
        at: START + 190_000_000,
        results: None,
        ..complete()
    }
}

/// Returns the notice of a job that cannot go on until its Secret is there.
pub(crate) fn stalled() -> Notice {
    Notice {
        id: "msg_2f1c9a70-stalled-1".into(),
        event: NotificationEvent::Stalled,
        reason: "SecretNotFound".into(),
        message: "Secret 's3' is not there".into(),
        requests: None,
        at: START + 1_000,
        ..started()
    }
}

/// Returns one notice of each event, and both ways to be complete.
pub(crate) fn all() -> Vec<Notice> {
    vec![complete(), succeeded(), started(), failed(), held(), stalled()]
}
