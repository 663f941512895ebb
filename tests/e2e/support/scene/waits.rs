//! Waits of a scene for jobs, batches and providers.

use batchjob_operator::api::{BatchJobObject as BatchJob, BatchProviderObject as BatchProvider};
use kube::Api;
use serde_json::Value;

use super::{Scene, condition};
use crate::support::eventually;

impl Scene {
    /// Waits until the job's condition of this type has this status; returns the job.
    pub async fn wait_condition(&self, name: &str, type_: &str, status: &str, seconds: u64) -> BatchJob {
        let what = format!("{}/{name} has {type_}={status}", self.namespace);
        self.wait_job(&what, name, seconds, |job| condition(job, type_).is_some_and(|(s, _, _)| s == status)).await
    }

    pub async fn wait_complete(&self, name: &str) -> BatchJob {
        self.wait_condition(name, "Complete", "True", 60).await
    }

    /// Waits until nothing is left to tidy.
    pub async fn wait_tidy(&self, name: &str) -> BatchJob {
        let tidy =
            |job: &BatchJob| condition(job, "Reconciling").is_some_and(|(s, r, _)| s == "False" && r == "Finished");
        self.wait_job(&format!("{name} is tidy"), name, 30, tidy).await
    }

    pub async fn wait_job(&self, what: &str, name: &str, seconds: u64, is_so: impl Fn(&BatchJob) -> bool) -> BatchJob {
        let mut last = None;
        let jobs = self.jobs();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
        loop {
            if let Some(job) = jobs.get_opt(name).await.unwrap() {
                if is_so(&job) {
                    return job;
                }
                last = Some(job);
            }
            if std::time::Instant::now() > deadline {
                let status = serde_json::to_string_pretty(&last.and_then(|j| j.status)).unwrap();
                panic!("not within {seconds} s: {what}\nstatus: {status}\noperator: {}", self.log());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    pub async fn wait_gone(&self, name: &str) {
        let jobs = self.jobs();
        eventually(&format!("{name} is gone"), 60, || async {
            jobs.get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    }

    pub async fn wait_batch(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, 30, || async {
            let state = self.sim.state().await;
            state["batches"].as_array().unwrap().iter().find(|b| is_so(b)).cloned()
        })
        .await
    }

    /// The batch of a job that has one, once it runs.
    pub async fn batch_of(&self, job: &str) -> Value {
        let job = self.wait_condition(job, "Submitted", "True", 60).await;
        let id = job.status.unwrap().batches[0].provider_id.clone().unwrap();
        self.wait_batch("its batch runs", |b| b["id"] == id && b["status"] == "in_progress").await
    }

    /// Waits until status says of the provider as it is whether it is ready.
    pub async fn provider_judged(&self, name: &str) -> BatchProvider {
        let judged = |p: &BatchProvider| {
            p.status
                .as_ref()
                .is_some_and(|s| s.observed_generation.is_some() && s.observed_generation == p.metadata.generation)
        };
        self.wait_provider("it is judged", name, judged).await
    }

    pub async fn wait_provider(&self, what: &str, name: &str, is_so: impl Fn(&BatchProvider) -> bool) -> BatchProvider {
        let providers: Api<BatchProvider> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("provider {name}: {what}"), 60, || async {
            providers.get_opt(name).await.unwrap().filter(|p| is_so(p))
        })
        .await
    }
}
