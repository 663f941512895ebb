//! Steps at the Kubernetes API.

use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};

use super::{Act, Flow};
use crate::api::conditions::reasons;
use crate::api::{BatchJob, BatchProvider, ClusterBatchProvider, FINALIZER, IN_USE_FINALIZER, ProviderKind};
use crate::controller::provider::Provider;
use crate::controller::provider::account::is_kept;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::{finalizer, metadata};
use crate::lifecycle::Owner;

impl Act<'_> {
    /// Adds our finalizer to the job, or removes it. Returns false if the job changed in the meantime, or is gone.
    pub(super) async fn set_finalizer(&self, wanted: bool) -> Result<bool, StepError> {
        let job = &self.snapshot.job;
        let at = self.ctx.clock.now();
        let set = finalizer::set::<BatchJob>(&self.ctx.client, &job.metadata, FINALIZER, wanted).await?;
        let is_set = set.is_some();
        let seen = self.job_state.seen().zip(set);
        self.job_state.keep_seen(seen.map(|(seen, metadata)| seen.after(metadata, |_| {}, at)));
        Ok(is_set)
    }

    /// Deletes the object of a job that is over, if it is still the one that was judged. Its finalizer is removed like that of any
    /// deleted job, by a later visit.
    pub(super) async fn delete_object(&self) -> Result<Flow, StepError> {
        let metadata = &self.snapshot.job.metadata;
        let (uid, resource_version) = (metadata.uid.clone(), metadata.resource_version.clone());
        let preconditions = Some(Preconditions { uid, resource_version });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        let Owner { namespace, name, .. } = &self.snapshot.view.owner;
        self.job_state.keep_seen(None);
        match metadata::delete::<BatchJob>(&self.ctx.client, Some(namespace), name, &params).await {
            Ok(()) => Ok(Flow::Wait(None)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Flow::Gone),
            // It changed in the meantime, and is judged again.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Flow::Again),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn keep_provider(&self) -> Result<(), StepError> {
        match self.snapshot.job.spec.provider_ref.kind {
            ProviderKind::BatchProvider => self.keep::<BatchProvider>().await,
            ProviderKind::ClusterBatchProvider => self.keep::<ClusterBatchProvider>().await,
        }
    }

    /// Adds our in-use finalizer to the provider, unless it is there already or the provider is being deleted.
    ///
    /// # Errors
    /// If the provider does not exist.
    async fn keep<P: Provider>(&self) -> Result<(), StepError> {
        let (job, account) = (&self.snapshot.job, &self.clients()?.account);
        // The first try is made on the metadata that the decision was based on, if it has all finalizers that the write must name.
        let seen = account.seen();
        if seen.has_all_finalizers
            && let Some(kept) = finalizer::set::<P>(&self.ctx.client, &seen.metadata, IN_USE_FINALIZER, true).await?
        {
            account.saw(kept);
            return Ok(());
        }
        let api = P::api(self.ctx.client.clone(), job.namespace().as_deref());
        let Some(provider) = api.get_opt(&job.spec.provider_ref.name).await? else {
            return Err(StepError::lasting(
                reasons::PROVIDER_NOT_FOUND,
                format!("{} is gone; create it", account.name),
            ));
        };
        if provider.meta().deletion_timestamp.is_some() || is_kept(provider.meta()) {
            account.saw(provider.meta().clone());
        } else if let Some(kept) =
            finalizer::set::<P>(&self.ctx.client, provider.meta(), IN_USE_FINALIZER, true).await?
        {
            account.saw(kept);
        }
        Ok(())
    }

    /// Finds out whether the object that a journal names as its owner still exists.
    pub(super) async fn find_owner(&self, owner: &Owner) -> Result<(), StepError> {
        let jobs: Api<BatchJob> = Api::namespaced(self.ctx.client.clone(), &owner.namespace);
        let alive = match jobs.get_opt(&owner.name).await {
            Ok(found) => found.is_some_and(|j| j.uid().as_deref() == Some(&owner.uid)),
            // An owner in a namespace that we may not read counts as alive.
            Err(kube::Error::Api(status)) if status.is_forbidden() => true,
            Err(e) => return Err(e.into()),
        };
        self.job_state.remember(|m| m.owner_alive = Some((owner.clone(), alive)));
        Ok(())
    }
}
