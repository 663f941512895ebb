//! Annotations that a person or a tool sets on a `BatchJob`.

/// Answers a hold: `<hold id>=<answer>`; `status.holds` lists the values to copy.
pub const RESOLVE: &str = "llmbatch.dev/resolve";
/// Asks for another judgement of a failure that cost nothing, by any new value (Flux's idiom, in our own group).
pub const RECONCILE_REQUESTED_AT: &str = "llmbatch.dev/reconcile-requested-at";
