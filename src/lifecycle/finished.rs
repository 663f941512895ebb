//! The end of a job, as its object shows it.

use super::notices;
use crate::api::conditions::{self, COMPLETE, RECONCILING, RESULTS_REUSED, RESULTS_WRITTEN};
use crate::api::text::clip;
use crate::api::{BatchJob, Outcome, annotations, owner_of_child};

/// Maximum length of the annotation's value in status, in bytes.
const REQUEST_LIMIT: usize = 253;

/// Returns whether a job failed, or was told to stop, before anything was paid.
pub fn cost_nothing(job: &BatchJob) -> bool {
    let ended = |outcome| matches!(outcome, Some(Outcome::Failed | Outcome::Cancelled));
    job.status.as_ref().is_some_and(|s| ended(s.outcome) && s.lock.is_none())
}

/// Returns whether status has the job's outcome, and nothing about the object asks for another look. A failure that cost
/// nothing is reevaluated when the spec or the annotation changes, and when the objects change that it refers to.
pub fn is_finished(job: &BatchJob) -> bool {
    let Some(status) = &job.status else { return false };
    if status.outcome.is_none() {
        return false;
    }
    let changed = status.observed_generation != job.metadata.generation
        || status.last_handled_reconcile_at != reconcile_requested_at(job);
    !(cost_nothing(job) && changed)
}

/// Returns whether a job that is over has nothing left to do: no condition says that it is still being worked on.
pub fn is_tidy(job: &BatchJob) -> bool {
    let Some(status) = &job.status else { return false };
    status.outcome.is_some() && conditions::is_false(&status.conditions, RECONCILING)
}

/// Milliseconds for which a job of a schedule stays at least, so that its CronBatchJob sees the end.
const SEEN_BY_SCHEDULE: i64 = 60_000;

/// Returns the time (Unix milliseconds) from which a job is to be deleted: `spec.ttlSecondsAfterFinished` after its
/// end. None if that is unset, or if the job has not ended, has no manifest, has files left to delete, or reused the
/// results of an earlier job. A tool that applies deleted objects again ends up with such a job; without it, the two
/// would go on for ever. A job with messages that wait for their delivery stays until they are delivered or given up.
///
/// A job of a CronBatchJob stays until [`SEEN_BY_SCHEDULE`] after status tells of its end and after `since`, the time from which
/// this process looks after schedules.
pub fn expiry(job: &BatchJob, since: i64) -> Option<i64> {
    let (ttl, status) = (job.spec.ttl_seconds_after_finished?, job.status.as_ref()?);
    let is_true = |type_| conditions::is_true(&status.conditions, type_);
    let is_over = is_finished(job) && is_tidy(job) && is_true(RESULTS_WRITTEN) && !is_true(RESULTS_REUSED);
    let end = status.completion_time.as_ref()?.0.as_millisecond();
    let told = status.conditions.iter().find(|condition| condition.type_ == COMPLETE);
    let told = told.map_or(end, |condition| condition.last_transition_time.0.as_millisecond());
    let seen = owner_of_child(&job.metadata).map(|_| told.max(since) + SEEN_BY_SCHEDULE);
    let told = notices::kept_until(status);
    is_over.then(|| [seen, told].into_iter().flatten().fold(end + i64::from(ttl) * 1000, i64::max))
}

/// Returns the value of the annotation that requests another look, clipped to the length that status has room for.
pub fn reconcile_requested_at(job: &BatchJob) -> Option<String> {
    let asked = job.metadata.annotations.as_ref()?.get(annotations::RECONCILE_REQUESTED_AT)?;
    Some(clip(asked.clone(), REQUEST_LIMIT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(status: serde_json::Value) -> BatchJob {
        let job = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
            "metadata": {"name": "j", "generation": 2, "annotations": {annotations::RECONCILE_REQUESTED_AT: "now"}},
            "spec": {"providerRef": {"name": "llm"}, "input": {}, "output": {}},
            "status": status,
        });
        serde_json::from_value(job).unwrap()
    }

    fn reconciling(status: &str, reason: &str) -> serde_json::Value {
        json!([{"type": "Reconciling", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn a_job_with_an_outcome_is_tidy_once_it_is_no_longer_reconciled_whatever_the_reason() {
        for (outcome, status, tidy) in
            [("Succeeded", "True", false), ("Succeeded", "False", true), ("Failed", "False", true)]
        {
            for reason in ["Finished", "Anything"] {
                let job = job(json!({"outcome": outcome, "conditions": reconciling(status, reason)}));
                assert_eq!(is_tidy(&job), tidy, "{outcome} {status} {reason}");
            }
        }
        assert!(
            !is_tidy(&job(json!({"conditions": reconciling("False", "AwaitingProvider")}))),
            "it has no outcome yet"
        );
        assert!(!is_tidy(&job(json!({"outcome": "Succeeded"}))), "a status that somebody wiped");
    }

    #[test]
    fn a_failure_that_cost_nothing_is_no_end_after_a_change_and_one_that_was_paid_for_is() {
        let status = |lock: serde_json::Value, generation: i64, asked: &str| {
            let mut status =
                json!({"outcome": "Failed", "observedGeneration": generation, "lastHandledReconcileAt": asked});
            if !lock.is_null() {
                status["lock"] = lock;
            }
            job(status)
        };
        let lock = json!({"specHash": "h", "outputURI": "s3://b/"});
        let free = serde_json::Value::Null;
        assert!(is_finished(&status(free.clone(), 2, "now")), "nothing changed");
        assert!(!is_finished(&status(free.clone(), 1, "now")), "the spec changed");
        assert!(!is_finished(&status(free, 2, "earlier")), "a person asks");
        assert!(is_finished(&status(lock, 1, "earlier")), "it was paid for");
        let stopped = job(json!({"outcome": "Cancelled", "observedGeneration": 1, "lastHandledReconcileAt": "now"}));
        assert!(cost_nothing(&stopped) && !is_finished(&stopped), "it was told to stop before it was sent");
    }
}
