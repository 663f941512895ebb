//! Steps at the Kubernetes API.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Act;
use crate::api::{BatchJob, FIELD_MANAGER, FINALIZER};
use crate::controller::trouble::Trouble;
use crate::lifecycle::Owner;

impl Act<'_> {
    pub(super) async fn set_finalizer(&self, wanted: bool) -> Result<(), Trouble> {
        let job = &self.world.job;
        let mut finalizers: Vec<&String> = job.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        let ours = FINALIZER.to_string();
        if wanted {
            finalizers.push(&ours);
        }
        // With resourceVersion: a list that somebody changed in the meantime is not overwritten.
        let patch = json!({"metadata": {"resourceVersion": job.resource_version(), "finalizers": finalizers}});
        let jobs: Api<BatchJob> = Api::namespaced(self.ctx.client.clone(), &job.namespace().unwrap_or_default());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        match jobs.patch(&job.name_any(), &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn find_owner(&self, owner: &Owner) -> Result<(), Trouble> {
        let jobs: Api<BatchJob> = Api::namespaced(self.ctx.client.clone(), &owner.namespace);
        let alive = match jobs.get_opt(&owner.name).await {
            Ok(found) => found.is_some_and(|j| j.uid().as_deref() == Some(&owner.uid)),
            // A namespace that we may not read: not known to be gone is alive.
            Err(kube::Error::Api(status)) if status.is_forbidden() => true,
            Err(e) => return Err(e.into()),
        };
        self.session.remember(|m| m.owner_alive = Some((owner.clone(), alive)));
        Ok(())
    }
}
