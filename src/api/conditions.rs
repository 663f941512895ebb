//! Types and reasons of conditions, and the function that sets a condition.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::text::clip;

/// True when every request has its outcome and the results are written; False when the job ended in any other way;
/// Unknown until then, with the stage as reason.
pub const COMPLETE: &str = "Complete";
/// True when the job ended without a full set of results.
pub const FAILED: &str = "Failed";
/// True while `spec.suspend` keeps batches from being submitted.
pub const SUSPENDED: &str = "Suspended";
/// True while a person must answer a question before the job goes on.
pub const HELD: &str = "Held";
/// kstatus: True while the operator itself works, not for the hours that the provider works.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: True while a problem that a person must fix stops the job, and for every job that failed.
pub const STALLED: &str = "Stalled";
/// True once every request was checked and counted.
pub const PLANNED: &str = "Planned";
/// True once every batch of the plan was submitted.
pub const SUBMITTED: &str = "Submitted";
/// True once the manifest is written.
pub const RESULTS_WRITTEN: &str = "ResultsWritten";
/// True when the outcome is that of an earlier run of the same work, so that nothing was paid again.
pub const RESULTS_REUSED: &str = "ResultsReused";
/// True when more than one batch was made of one submission, so that requests may have been billed twice.
pub const BILLED_TWICE: &str = "BilledTwice";
/// While batches are at the provider: False if they do not get on, or do not end when they should.
pub const PROGRESSING: &str = "Progressing";
/// For a provider: True when its endpoint answers as a batch API with its credential. For a CronBatchJob: True unless no BatchJob
/// can be created.
pub const READY: &str = "Ready";
/// For a provider with a webhook: True when events that are signed with its secret are taken.
pub const WEBHOOK_READY: &str = "WebhookReady";
/// For a provider with prices: True when all of them are used.
pub const PRICES_READY: &str = "PricesReady";

/// Reasons of conditions and events.
pub mod reasons {
    #![allow(missing_docs)]
    pub const PENDING: &str = "Pending";
    pub const PLANNING: &str = "Planning";
    pub const SUBMITTING: &str = "Submitting";
    pub const WAITING_FOR_INPUT: &str = "WaitingForInput";
    pub const WAITING_FOR_QUOTA: &str = "WaitingForQuota";
    pub const WAITING_FOR_BUDGET: &str = "WaitingForBudget";
    pub const BUDGET_TOO_SMALL: &str = "BudgetTooSmall";
    pub const BUDGET_LEDGER_UNAVAILABLE: &str = "BudgetLedgerUnavailable";
    pub const BUDGET_LEDGER_LOST: &str = "BudgetLedgerLost";
    pub const CAPACITY_LOWERED: &str = "CapacityLowered";
    pub const CAPACITY_RESTORED: &str = "CapacityRestored";
    pub const IN_PROGRESS: &str = "InProgress";
    pub const DRAINING: &str = "Draining";
    pub const CANCELLING: &str = "Cancelling";
    pub const COLLECTING: &str = "Collecting";
    pub const WRITING_RESULTS: &str = "WritingResults";
    pub const SUSPENDED: &str = "Suspended";
    pub const HELD: &str = "Held";
    pub const SCHEDULED: &str = "Scheduled";
    pub const RESUMED: &str = "Resumed";
    pub const NOT_SUSPENDED: &str = "NotSuspended";
    pub const ALL_SUCCEEDED: &str = "AllSucceeded";
    pub const COMPLETED_WITH_FAILURES: &str = "CompletedWithFailures";
    pub const INVALID_INPUT: &str = "InvalidInput";
    pub const INPUT_CHANGED: &str = "InputChanged";
    pub const OUTPUT_CONFLICT: &str = "OutputConflict";
    pub const RESULTS_TOO_LARGE: &str = "ResultsTooLarge";
    pub const PROVIDER_REJECTED: &str = "ProviderRejected";
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    pub const MAX_FAILED_REQUESTS_EXCEEDED: &str = "MaxFailedRequestsExceeded";
    pub const BUDGET_EXCEEDED: &str = "BudgetExceeded";
    pub const COST_UNKNOWN: &str = "CostUnknown";
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    pub const BATCHES_PAST_EXPIRY: &str = "BatchesPastExpiry";
    pub const BATCHES_NOT_FINALIZED: &str = "BatchesNotFinalized";
    pub const INPUT_DEADLINE_EXCEEDED: &str = "InputDeadlineExceeded";
    pub const CANCELLED: &str = "Cancelled";
    pub const JOURNAL_LOST: &str = "JournalLost";
    pub const SPEC_DRIFT: &str = "SpecDrift";
    pub const PROVIDER_NOT_FOUND: &str = "ProviderNotFound";
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    pub const CONFIG_MAP_NOT_FOUND: &str = "ConfigMapNotFound";
    pub const CA_BUNDLE_NOT_FOUND: &str = "CABundleNotFound";
    pub const CREDENTIALS_REJECTED: &str = "CredentialsRejected";
    pub const HOST_NOT_ALLOWED: &str = "HostNotAllowed";
    pub const STORAGE_UNAVAILABLE: &str = "StorageUnavailable";
    pub const STORAGE_REJECTED: &str = "StorageRejected";
    pub const PROVIDER_UNAVAILABLE: &str = "ProviderUnavailable";
    pub const AWAITING_ANSWER: &str = "AwaitingAnswer";
    pub const AWAITING_INPUT: &str = "AwaitingInput";
    pub const AWAITING_PROVIDER: &str = "AwaitingProvider";
    pub const NOTHING_TO_ANSWER: &str = "NothingToAnswer";
    pub const FINISHED: &str = "Finished";
    pub const PROGRESSING: &str = "Progressing";
    pub const NOT_FAILED: &str = "NotFailed";
    pub const REQUESTS_CHECKED: &str = "RequestsChecked";
    pub const MANIFEST_WRITTEN: &str = "ManifestWritten";
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
    pub const PROVIDER_TERMINATING: &str = "ProviderTerminating";
    pub const PROBED: &str = "Probed";
    pub const PROVIDER_UNREACHABLE: &str = "ProviderUnreachable";
    pub const PROVIDER_REDIRECTS: &str = "ProviderRedirects";
    pub const NO_BATCH_API: &str = "NoBatchAPI";
    pub const DUPLICATE_BATCHES: &str = "DuplicateBatches";
    pub const SIGNING_SECRET_INVALID: &str = "SigningSecretInvalid";
    pub const WEBHOOKS_DISABLED: &str = "WebhooksDisabled";
    pub const LISTENING: &str = "Listening";
    pub const PRICES_READ: &str = "PricesRead";
    pub const PRICES_INVALID: &str = "PricesInvalid";
    pub const NEWER_PROTOCOL: &str = "NewerProtocol";
}

/// The value of a condition before it has a time, as `decide` and the projection produce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Type of the condition.
    pub type_: &'static str,
    /// Status: `Some(true)` is True, `Some(false)` False, `None` Unknown.
    pub status: Option<bool>,
    /// Reason in CamelCase.
    pub reason: String,
    /// Message for a person, of which at most 2,048 bytes are kept.
    pub message: String,
}

/// Sets `verdict` in `conditions`. `lastTransitionTime` changes only when the status does.
pub fn set(conditions: &mut Vec<Condition>, verdict: Verdict, generation: Option<i64>, now: Timestamp) {
    let status = match verdict.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = conditions.iter().position(|c| c.type_ == verdict.type_);
    let since = old.filter(|i| conditions[*i].status == status).map(|i| conditions[i].last_transition_time.clone());
    let new = Condition {
        type_: verdict.type_.into(),
        status: status.into(),
        reason: verdict.reason,
        message: clip(verdict.message, 2048),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    match old {
        Some(i) => conditions[i] = new,
        None => conditions.push(new),
    }
}

/// Returns the counts of conditions by their status; None counts as Unknown.
pub fn count_by_status(conditions: impl Iterator<Item = Option<bool>>) -> Vec<(&'static str, i64)> {
    let mut counts = [("True", 0), ("False", 0), ("Unknown", 0)];
    for status in conditions {
        let of = match status {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        };
        counts[of].1 += 1;
    }
    counts.into()
}

/// Keeps the condition `type_` alone, without its message.
pub fn keep_only(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ == type_);
    conditions.truncate(1);
    for condition in conditions.iter_mut() {
        (condition.message, condition.reason) = (String::new(), String::new());
    }
    conditions.shrink_to_fit();
}

/// Returns the status of the condition `type_`; None if it is Unknown or there is none.
pub fn status_of(conditions: &[Condition], type_: &str) -> Option<bool> {
    match conditions.iter().find(|c| c.type_ == type_)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// Removes the condition `type_`.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ != type_);
}

/// Returns whether the condition `type_` is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// Returns whether the condition `type_` is False.
pub fn is_false(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "False")
}
