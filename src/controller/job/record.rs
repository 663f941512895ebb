//! The only writer of a job's status. It writes over the resourceVersion that was judged, and only if something changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::job_state::JobState;
use super::observe::Snapshot;
use super::{cached_job, events};
use crate::api::{BatchJob, BatchJobStatus};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::publish;
use crate::controller::runtime::metadata;
use crate::lifecycle::{Blocked, Memory, Step, Waiting, is_finished, is_tidy, project, reconcile_requested_at, seen};

/// Writes the status for `step`. Returns false if the object changed in the meantime and must be read again. `references` is the mark
/// of the objects that the job refers to, for a failure before anything was paid.
pub(crate) async fn record(
    ctx: &Context,
    job_state: &JobState,
    snapshot: &Snapshot,
    memory: &Memory,
    step: &Step,
    references: Option<String>,
) -> Result<bool, StepError> {
    let old = snapshot.job.status.clone().unwrap_or_default();
    let observed = snapshot.observed(&ctx.timing, memory);
    let Some(mut status) = project(&observed, &old, snapshot.job.metadata.generation, step) else { return Ok(true) };
    if snapshot.unread.is_some() {
        // The journal could not be read, so everything that comes from it stays as it was.
        status = BatchJobStatus { conditions: status.conditions, ..old.clone() };
    }
    status.last_handled_reconcile_at = reconcile_requested_at(&snapshot.job);
    status.observed_references = references;
    if snapshot.job.status.as_ref() == Some(&status) {
        return Ok(true);
    }
    let news = events::events_of_conditions(&old.conditions, Some(&status.conditions));
    let at = ctx.clock.now();
    let metadata = write(ctx, &snapshot.job, &status).await?;
    let written = metadata.is_some();
    // The written object becomes the last look. If the write was refused, there is none, and the object is read again.
    let seen = job_state.seen().zip(metadata);
    job_state.keep_seen(seen.map(|(seen, metadata)| seen.after(metadata, |job| job.status = Some(status), at)));
    for news in news.into_iter().filter(|_| written) {
        publish(ctx, &snapshot.job, news);
    }
    Ok(written)
}

/// Records in the status of an ended job that a change of its spec was seen. Returns false if the object changed in the meantime and
/// must be read again.
pub(crate) async fn record_seen(ctx: &Context, key: &BatchJob) -> Result<bool, StepError> {
    let generation = key.metadata.generation;
    if key.status.as_ref().is_none_or(|status| seen(status, generation).is_none()) {
        return Ok(true);
    }
    let live = cached_job::read(ctx, key).await?.map(|(job, _)| job);
    let Some(job) = live.filter(|job| is_finished(job) && is_tidy(job)) else { return Ok(false) };
    match job.status.as_ref().and_then(|status| seen(status, job.metadata.generation)) {
        Some(status) => Ok(write(ctx, &job, &status).await?.is_some()),
        None => Ok(true),
    }
}

/// Writes the status, and returns the new metadata; None if the object is no longer the one that was judged.
async fn write(ctx: &Context, judged: &BatchJob, status: &BatchJobStatus) -> Result<Option<ObjectMeta>, StepError> {
    let before = to_json(judged.status.as_ref())?;
    let after = to_json(Some(status))?;
    // With a resourceVersion, the API server refuses the patch if the object has changed.
    let metadata = json!({"resourceVersion": judged.resource_version()});
    let patch = json!({"metadata": metadata, "status": merge_patch(&before, &after)});
    let (namespace, name) = (judged.namespace(), judged.name_any());
    match metadata::patch::<BatchJob>(&ctx.client, namespace.as_deref(), &name, Some("status"), &patch).await {
        Ok(metadata) => {
            ctx.metrics.status_writes.inc();
            Ok(Some(metadata))
        }
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn to_json(status: Option<&BatchJobStatus>) -> Result<Value, StepError> {
    let unfit = |e: serde_json::Error| {
        StepError::passing("KubernetesUnavailable", format!("the status cannot be written: {e}"))
    };
    serde_json::to_value(status).map_err(unfit)
}

/// Returns the merge patch (RFC 7396) that turns `before` into `after`. Removed fields are null, unchanged fields are absent.
fn merge_patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
    let changed = changed.map(|(key, value)| (key.clone(), merge_patch(old.get(key).unwrap_or(&Value::Null), value)));
    gone.chain(changed).collect()
}

/// Writes to status the reason why the job does not go on, at its current stage.
pub(crate) async fn record_error(
    ctx: &Context,
    snapshot: &Snapshot,
    job_state: &JobState,
    memory: &Memory,
    blocked: Blocked,
) -> Result<bool, StepError> {
    let journal = snapshot.journal.as_ref().map(|(journal, _)| &**journal);
    let mut why = job_state.waiting().unwrap_or_else(|| Waiting::at_stage_of(journal));
    (why.blocked, why.note) = (Some(blocked), None);
    record(ctx, job_state, snapshot, memory, &Step::Wait { until: None, why }, None).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Applies a merge patch as RFC 7396, section 2, says and the API server does.
    fn merged(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut merged = if let Value::Object(target) = target { target } else { Default::default() };
        for (key, value) in patch {
            match value {
                Value::Null => _ = merged.remove(key),
                value => {
                    let old = merged.remove(key).unwrap_or_default();
                    merged.insert(key.clone(), self::merged(old, value));
                }
            }
        }
        Value::Object(merged)
    }

    /// JSON as a status may be: no field is null.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i64>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_new_status_of_the_old_one_and_names_nothing_that_did_not_change(
            before in values(),
            after in values(),
        ) {
            let patch = merge_patch(&before, &after);
            prop_assert_eq!(merged(before.clone(), &patch), after.clone());
            if let (Value::Object(before), Value::Object(after), Value::Object(patch)) = (&before, &after, &patch) {
                prop_assert!(patch.keys().all(|key| before.get(key) != after.get(key)));
            }
        }
    }

    #[test]
    fn a_lock_that_is_taken_back_is_null_in_the_patch() {
        let before = json!({"lock": {"specHash": "h"}, "startTime": "t", "conditions": [1]});
        let patch = merge_patch(&before, &json!({"startTime": "t", "conditions": [2]}));
        assert_eq!(patch, json!({"lock": null, "conditions": [2]}));
        assert_eq!(merge_patch(&Value::Null, &json!({"lock": 1})), json!({"lock": 1}), "a status that was wiped");
    }
}
