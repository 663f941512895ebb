//! Annotations of a `BatchJob`.

/// Answers a hold: `<hold id>=<answer>`; `status.holds` lists the values to copy.
pub const RESOLVE: &str = "llmbatch.dev/resolve";
/// Approves the requests behind a canary: the id of the question, such as `canary-0123abcd`, from `status.holds`.
pub const APPROVE: &str = "llmbatch.dev/approve";
/// Asks for another judgement of a failure that cost nothing, by any new value (Flux's idiom, in our own group).
pub const RECONCILE_REQUESTED_AT: &str = "llmbatch.dev/reconcile-requested-at";
/// Time at which a BatchJob of a CronBatchJob was to start, in RFC 3339 and the time zone of the schedule.
pub const SCHEDULED_TIMESTAMP: &str = "llmbatch.dev/scheduled-timestamp";
