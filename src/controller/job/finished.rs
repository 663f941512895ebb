//! Whether a job is over, as its status tells.

use kube::ResourceExt;

use crate::api::conditions::{self, reasons};
use crate::api::text::clip;
use crate::api::{BatchJob, Outcome, annotations};

/// Whether status tells of a failure before anything was paid.
pub(crate) fn cost_nothing(job: &BatchJob) -> bool {
    job.status.as_ref().is_some_and(|s| s.outcome == Some(Outcome::Failed) && s.lock.is_none())
}

/// Whether status says how it ended and nothing about the object asks for another look: a failure that cost nothing is
/// judged again when the spec or the annotation changes; what else it is judged again for, `references` tells.
pub(crate) fn is_finished(job: &BatchJob) -> bool {
    let Some(status) = &job.status else { return false };
    if status.outcome.is_none() {
        return false;
    }
    let changed = status.observed_generation != job.metadata.generation
        || status.last_handled_reconcile_at != reconcile_requested_at(job);
    !(cost_nothing(job) && changed)
}

/// What asks for another look, as far as status has room for it.
pub(crate) fn reconcile_requested_at(job: &BatchJob) -> Option<String> {
    job.annotations().get(annotations::RECONCILE_REQUESTED_AT).map(|asked| clip(asked.clone(), 253))
}

/// Whether nothing is left to do for a finished job.
pub(crate) fn is_tidy(job: &BatchJob) -> bool {
    let conditions = job.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == conditions::RECONCILING && c.status == "False" && c.reason == reasons::FINISHED)
}
