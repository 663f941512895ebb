//! One job from its application to its end, with people in between.

use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::jobs::{Job, Meddling};
use crate::support::scene::condition;
use crate::world::{World, insist};

/// Sees `job` through; the job as it ended, or what it still was at the deadline.
pub async fn see_through(world: &World, job: &Job, deadline: Instant) -> Result<BatchJob, String> {
    job.prepare(world).await;
    job.apply(world).await;
    meddle(world, job, deadline).await?;
    wait(world, job, "ends", deadline, |found| found.filter(over)).await
}

/// Whether it has ended and nothing is left to tidy.
fn over(job: &BatchJob) -> bool {
    condition(job, "Reconciling").is_some_and(|(status, reason, _)| status == "False" && reason == "Finished")
}

async fn meddle(world: &World, job: &Job, deadline: Instant) -> Result<(), String> {
    let pause = |from: u64, to: u64| tokio::time::sleep(Duration::from_millis(to.saturating_sub(from)));
    match job.meddling {
        Meddling::Nothing => {}
        Meddling::HeldBack { until } => {
            pause(0, until).await;
            patch(world, job, json!({"suspend": false})).await;
        }
        Meddling::Paused { at, until } => {
            pause(0, at).await;
            patch(world, job, json!({"suspend": true})).await;
            pause(at, until).await;
            patch(world, job, json!({"suspend": false})).await;
        }
        Meddling::Parallelism { at, to } => {
            pause(0, at).await;
            patch(world, job, json!({"parallelism": to})).await;
        }
        Meddling::Again { at } => {
            pause(0, at).await;
            let jobs = world.jobs();
            let uid = insist("look", || jobs.get(&job.name)).await.metadata.uid;
            let params = DeleteParams::default();
            insist("delete", || jobs.delete(&job.name, &params)).await;
            let gone = |found: Option<BatchJob>| found.is_none_or(|j| j.metadata.uid != uid).then_some(());
            wait(world, job, "is gone", deadline, gone).await?;
            job.apply(world).await;
        }
        Meddling::Wiped { at } => {
            pause(0, at).await;
            // It may have ended, or have no status yet.
            let wipe = Patch::Merge(json!({"status": null}));
            let wiped = world.jobs().patch_status(&job.name, &PatchParams::default(), &wipe).await;
            drop(wiped);
        }
    }
    Ok(())
}

async fn patch(world: &World, job: &Job, spec: Value) {
    let (jobs, patch, params) = (world.jobs(), Patch::Merge(json!({"spec": spec})), PatchParams::default());
    insist(&job.name, || jobs.patch(&job.name, &params, &patch)).await;
}

async fn wait<T>(
    world: &World,
    job: &Job,
    what: &str,
    deadline: Instant,
    is_so: impl Fn(Option<BatchJob>) -> Option<T>,
) -> Result<T, String> {
    let jobs = world.jobs();
    loop {
        let found = insist(&job.name, || jobs.get_opt(&job.name)).await;
        let seen = found.as_ref().map(|job| serde_json::to_string(&job.status).unwrap());
        if let Some(so) = is_so(found) {
            return Ok(so);
        }
        if Instant::now() > deadline {
            return Err(format!("not in time: {what}: {job:?}\nstatus: {}", seen.unwrap_or_default()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
