//! The ends of a BatchJob, for the tests of status and of the tools that read it.

use batchjob_operator::api::Outcome;

/// Every end after something was sent: its outcome and its reason.
pub const ENDS: [(Outcome, &str); 9] = [
    (Outcome::Succeeded, "AllSucceeded"),
    (Outcome::PartiallySucceeded, "CompletedWithFailures"),
    (Outcome::Failed, "ProviderRejected"),
    (Outcome::Failed, "BackoffLimitExceeded"),
    (Outcome::Failed, "MaxFailedRequestsExceeded"),
    (Outcome::Failed, "BudgetExceeded"),
    (Outcome::Failed, "DeadlineExceeded"),
    (Outcome::Failed, "JournalLost"),
    (Outcome::Cancelled, "Cancelled"),
];

/// Reasons of failures before anything was sent.
pub const FREE_FAILURES: [&str; 5] =
    ["InvalidInput", "OutputConflict", "BudgetExceeded", "CostUnknown", "DeadlineExceeded"];
