//! Adds and removes our finalizers without overwriting those of others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::StepError;
use super::metadata;

/// Adds `finalizer` to the object that was `judged`, or removes it. Returns the metadata after the write; None if the object
/// changed in the meantime, or is gone.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub(crate) async fn set<K>(
    client: &Client,
    judged: &ObjectMeta,
    finalizer: &str,
    wanted: bool,
) -> Result<Option<ObjectMeta>, StepError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let there = judged.finalizers.iter().flatten().map(String::as_str);
    let mut finalizers: Vec<&str> = there.filter(|f| *f != finalizer).collect();
    if wanted {
        finalizers.push(finalizer);
    }
    // The resourceVersion keeps a list that changed in the meantime from being overwritten.
    let patch = json!({"metadata": {"resourceVersion": judged.resource_version, "finalizers": finalizers}});
    let name = judged.name.as_deref().unwrap_or_default();
    match metadata::patch::<K>(client, judged.namespace.as_deref(), name, None, &patch).await {
        Ok(patched) => Ok(Some(patched)),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(e) => Err(e.into()),
    }
}
