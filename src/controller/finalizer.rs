//! Our finalizers: put on and taken off without overwriting anybody else's.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::trouble::Trouble;
use crate::api::FIELD_MANAGER;

/// Puts `finalizer` on the object that was judged, or takes it off. None: it changed in the meantime, or is gone.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub(super) async fn set<K>(api: &Api<K>, judged: &K, finalizer: &str, wanted: bool) -> Result<Option<K>, Trouble>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut finalizers: Vec<&str> =
        judged.finalizers().iter().map(String::as_str).filter(|f| *f != finalizer).collect();
    if wanted {
        finalizers.push(finalizer);
    }
    // With resourceVersion: a list that somebody changed in the meantime is not overwritten.
    let patch = json!({"metadata": {"resourceVersion": judged.resource_version(), "finalizers": finalizers}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    match api.patch(&judged.name_any(), &params, &Patch::Merge(patch)).await {
        Ok(patched) => Ok(Some(patched)),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(e) => Err(e.into()),
    }
}
