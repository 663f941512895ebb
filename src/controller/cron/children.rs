//! The BatchJobs of a CronBatchJob: reads, creation and deletion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use crate::api::conditions::reasons;
use crate::api::{ActiveBatchJob, BatchJob, BatchJobObject, CronBatchJob, annotations, owner_of_child};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::metadata;
use crate::schedule::Child;

/// Returns the BatchJobs that belong to the CronBatchJob: those that the watch knows, and those of `status.active` that it does
/// not know yet. Of the latter only a name and a uid are known, so they count as running.
///
/// # Errors
/// When the API server cannot be asked.
pub(super) async fn of(ctx: &Context, cron: &CronBatchJob) -> Result<Vec<Child>, StepError> {
    let namespace = cron.namespace();
    let is_ours = |job: &BatchJob| job.metadata.namespace == namespace && belongs_to(cron, &job.metadata);
    let watched = ctx.jobs.watched_in(namespace.as_deref()).filter(|job| is_ours(job));
    let mut children: Vec<Child> = watched.map(|job| Child::of(&job)).collect();
    let active = cron.status.iter().flat_map(|status| &status.active);
    for ActiveBatchJob { name, uid } in active {
        if children.iter().any(|child| child.uid == *uid) {
            continue;
        }
        let live = metadata::get::<BatchJob>(&ctx.client, namespace.as_deref(), name).await?;
        if let Some(live) = live.filter(|live| live.uid.as_ref() == Some(uid) && belongs_to(cron, live)) {
            let deleting = live.deletion_timestamp.is_some();
            children.push(Child { name: name.clone(), uid: uid.clone(), started: None, end: None, deleting });
        }
    }
    Ok(children)
}

/// Returns true if the BatchJob with this metadata has the CronBatchJob as its owner.
fn belongs_to(cron: &CronBatchJob, job: &ObjectMeta) -> bool {
    owner_of_child(job).is_some_and(|owner| cron.metadata.uid.as_ref() == Some(&owner.uid))
}

/// The outcome of a creation.
pub(super) enum Created {
    /// The BatchJob of the start is there, made now or by an earlier try; or by a person, from what `batchjob-operator schedule
    /// render` wrote, and then it is not the schedule's.
    There { uid: String, is_new: bool, is_ours: bool },
    /// The API server refuses it, or its name is taken.
    Refused(String),
}

/// Creates the child of a start. A child of that name that belongs to the CronBatchJob is the one of an earlier try.
///
/// # Errors
/// When the API server cannot be asked. The child may have been created all the same: the next try finds it under its name.
pub(super) async fn create(ctx: &Context, cron: &CronBatchJob, child: &BatchJobObject) -> Result<Created, StepError> {
    match metadata::create(&ctx.client, cron.namespace().as_deref(), child).await {
        Ok(created) => Ok(Created::There { uid: created.uid.unwrap_or_default(), is_new: true, is_ours: true }),
        Err(kube::Error::Api(status)) if status.is_already_exists() => found(ctx, cron, child).await,
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
            Ok(Created::Refused(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks at the BatchJob that has the name of the child.
async fn found(ctx: &Context, cron: &CronBatchJob, child: &BatchJobObject) -> Result<Created, StepError> {
    let name = child.name_any();
    let scheduled = |meta: &ObjectMeta| meta.annotations.as_ref()?.get(annotations::SCHEDULED_TIMESTAMP).cloned();
    let live = metadata::get::<BatchJob>(&ctx.client, cron.namespace().as_deref(), &name).await?;
    let Some(live) = live else {
        let gone = format!("the BatchJob '{name}' was deleted while it was looked at");
        return Err(StepError::passing(reasons::PENDING, gone));
    };
    let is_ours = belongs_to(cron, &live);
    let is_by_hand = owner_of_child(&live).is_none() && scheduled(&live) == scheduled(&child.metadata);
    Ok(match is_ours || is_by_hand {
        true => Created::There { uid: live.uid.unwrap_or_default(), is_new: false, is_ours },
        false => Created::Refused(format!(
            "a BatchJob '{name}' exists that is not of this schedule; delete it, or give the schedule another name"
        )),
    })
}

/// Deletes a child. Returns false if it is gone already.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub(super) async fn delete(ctx: &Context, cron: &CronBatchJob, child: &Child) -> Result<bool, kube::Error> {
    let preconditions = Some(Preconditions { uid: Some(child.uid.clone()), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    match metadata::delete::<BatchJob>(&ctx.client, cron.namespace().as_deref(), &child.name, &params).await {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}
