//! Keeps a provider that is being deleted for as long as a batch may run in its account.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tracing::info;

use super::Provider;
use crate::api::{BatchJob, IN_USE_FINALIZER, ProviderKind, ProviderStatus};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::{finalizer, metadata};
use crate::lifecycle::{is_finished, kept_by};

/// Time until the next look, if the watches show jobs that need the provider.
const WATCHED: Duration = Duration::from_secs(5);
/// Time until the next look, if only a live list shows such jobs: they are in namespaces that this operator does not watch.
const LISTED: Duration = Duration::from_secs(30);

/// Removes the finalizer if no job needs the provider any more. Otherwise returns the status that names the jobs that do, and
/// the time until the next look.
pub(super) async fn kept_or_let_go<P: Provider>(
    ctx: &Context,
    provider: &P,
    old: &ProviderStatus,
) -> Result<Option<(ProviderStatus, Duration)>, StepError> {
    let known = watched(ctx, provider);
    let pause = if known.is_empty() { LISTED } else { WATCHED };
    let listed = if known.is_empty() || !is_seen_whole(ctx, provider) { listed(ctx, provider).await? } else { vec![] };
    if known.is_empty() && listed.is_empty() {
        // While the finalizer is there: a failure, or a crash, leaves no ledger behind.
        if !ctx.ledgers.delete_with(ctx, provider, false).await? {
            return Ok(Some((old.clone(), WATCHED)));
        }
        if finalizer::set::<P>(&ctx.client, provider.meta(), IN_USE_FINALIZER, false).await?.is_some() {
            info!(namespace = provider.namespace(), name = provider.name_any(), "no job needs the provider any more");
        }
        return Ok(None);
    }
    // A job without a batch releases the provider once it sees the deletion. A list does not show which jobs have one; a look
    // that finds nothing to do is cheap.
    let to_visit = if known.is_empty() { &listed } else { &known };
    to_visit.iter().filter(|user| !user.sent).for_each(|user| ctx.jobs.poke(user.job.clone()));
    if known.is_empty() && !provider.is_ours(ctx).await? {
        // The operators of the namespaces to which it is granted report on it.
        return Ok(Some((old.clone(), pause)));
    }
    let mut names: Vec<String> = known.iter().chain(&listed).map(|user| user.name(P::KIND)).collect();
    names.sort();
    names.dedup();
    let status = kept_by(old, provider.meta().generation, &names, names.len(), ctx.clock.now());
    Ok(Some((status, pause)))
}

/// A job that needs the provider.
struct User {
    job: ObjectRef<BatchJob>,
    /// True if status says that a batch was submitted.
    sent: bool,
}

impl User {
    fn name(&self, of: ProviderKind) -> String {
        match (&self.job.namespace, of) {
            (Some(namespace), ProviderKind::ClusterBatchProvider) => format!("{namespace}/{}", self.job.name),
            _ => self.job.name.clone(),
        }
    }
}

/// Returns the jobs that need the provider, as far as the watches show. An empty result proves nothing.
fn watched<P: Provider>(ctx: &Context, provider: &P) -> Vec<User> {
    let namespace = provider.namespace();
    ctx.jobs.watched_in(namespace.as_deref()).filter_map(|job| user(&job, provider)).collect()
}

/// Returns true if the watches show every job that may refer to the provider. An operator of some namespaces does not see those of
/// others that an admin's account is granted to; it lists them, so that all such operators report the same jobs.
fn is_seen_whole<P: Provider>(ctx: &Context, provider: &P) -> bool {
    provider.namespace().is_some() || ctx.jobs.scopes().any(|scope| scope.is_none())
}

/// Lists the jobs that need the provider, in every namespace that may refer to it, watched or not.
async fn listed<P: Provider>(ctx: &Context, provider: &P) -> Result<Vec<User>, StepError> {
    // The same conditions as in `user`: a job that ended has an outcome, and one whose end cost nothing has no pin.
    let fields = format!(
        "spec.providerRef.name={},spec.providerRef.kind={:?},status.provider.uid!=,status.outcome=",
        provider.name_any(),
        P::KIND
    );
    let jobs = metadata::list::<BatchJob>(&ctx.client, provider.namespace().as_deref(), &fields).await?;
    let user = |job: ObjectMeta| {
        let found = ObjectRef::new(&job.name.unwrap_or_default());
        User { job: found.within(&job.namespace.unwrap_or_default()), sent: false }
    };
    Ok(jobs.into_iter().map(user).collect())
}

/// Returns the job as a user of the provider, if it is one. A job is pinned before its first intent, and no longer needs the
/// provider when it has ended.
fn user<P: Provider>(job: &BatchJob, provider: &P) -> Option<User> {
    let (reference, status) = (&job.spec.provider_ref, job.status.as_ref()?);
    let named = reference.kind == P::KIND && reference.name == provider.name_any();
    let needed = named && status.provider.is_some() && !is_finished(job);
    needed.then(|| User { job: ObjectRef::from_obj(job), sent: status.submission_time.is_some() })
}
