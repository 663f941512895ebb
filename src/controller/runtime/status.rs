//! Writes of the status of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::object::HasStatus;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::StepError;
use super::metadata;

/// Writes `status` over the object that was judged, as a patch of the fields that changed. Returns the metadata after the write;
/// None if the object changed in the meantime, or is gone.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub(crate) async fn write<K>(client: &Client, judged: &K, status: &K::Status) -> Result<Option<ObjectMeta>, StepError>
where
    K: Resource<DynamicType = ()> + HasStatus<Status: Serialize> + DeserializeOwned,
{
    let (before, after) = (to_json(judged.status())?, to_json(Some(status))?);
    // The resourceVersion keeps a status from being written over an object that nobody judged.
    let metadata = json!({"resourceVersion": judged.resource_version()});
    let patch = json!({"metadata": metadata, "status": merge_patch(&before, &after)});
    let (namespace, name) = (judged.namespace(), judged.name_any());
    match metadata::patch::<K>(client, namespace.as_deref(), &name, Some("status"), &patch).await {
        Ok(metadata) => Ok(Some(metadata)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn to_json<S: Serialize>(status: Option<&S>) -> Result<Value, StepError> {
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
