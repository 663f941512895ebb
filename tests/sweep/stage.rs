//! Where stories take place: a simulator after another story's, a namespace and an output folder of their own.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use batchjob_operator::api::{
    BatchJobObject as BatchJob, BatchProviderObject as BatchProvider, NotificationState, NotificationStatus,
};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use object_store::aws::AmazonS3;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::operator::{Log, Operator, SkewedClock};
use super::wires::Script;
use crate::support::scene::{batch_lines, condition};
use crate::support::shared::{Cluster, bare_cluster, storage};
use crate::support::simulator::Simulator;
use crate::support::webhooks::Receiver;

/// Requests of the job, and how many go into a batch.
pub const LINES: usize = 8;
const PER_BATCH: usize = 3;

/// The control plane of this run. That of the end-to-end tests keeps a log of all requests for tests/rights.rs.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = bare_cluster("control-plane");
        cluster.install();
        cluster
    })
}

/// What all stories of a run share.
#[derive(Clone)]
pub struct World {
    pub client: Client,
    bucket: Arc<AmazonS3>,
    http: reqwest::Client,
    /// The webhook of each story is named after its namespace.
    pub webhooks: Arc<Receiver>,
}

/// A simulator, and what was there before the story at hand.
pub struct Lane {
    sim: Simulator,
    world: World,
    billed: usize,
    overlaps: u64,
    batches: HashSet<String>,
    files: HashSet<String>,
}

/// What a story left at the provider.
pub struct Account {
    /// Custom ids of the lines that were billed, one entry a charge.
    pub billed: Vec<String>,
    /// Lines that were billed while another batch with them was alive.
    pub overlaps: u64,
    pub batches: Vec<Value>,
    /// Files that are still there.
    pub files: Vec<Value>,
}

/// A namespace with a provider and a place for results.
pub struct Stage {
    pub namespace: String,
    pub world: World,
    pub log: Log,
}

impl World {
    pub async fn new() -> World {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let bucket = Arc::new(storage().bucket());
        bucket.put(&"sweep/in.jsonl".into(), batch_lines("line", LINES).into()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let webhooks = Arc::new(Receiver::start().await);
        World { client: cluster().client().await, bucket, http, webhooks }
    }

    /// An object's bytes; None where there is none.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let got = self.bucket.get(&key.into()).await.ok()?;
        Some(got.bytes().await.unwrap().to_vec())
    }

    /// Keys below `prefix`, sorted, without it.
    pub async fn list(&self, prefix: &str) -> Vec<String> {
        let all: Vec<_> = self.bucket.list(Some(&prefix.into())).try_collect().await.unwrap();
        let mut names: Vec<String> =
            all.iter().map(|m| m.location.as_ref().trim_start_matches(prefix).trim_start_matches('/').into()).collect();
        names.sort();
        names
    }
}

impl Lane {
    pub fn new(world: &World, number: usize) -> Lane {
        let sim = Simulator::start(&format!("lane-{number}"), &["--batch-duration", "300ms"]);
        let (batches, files) = Default::default();
        Lane { sim, world: world.clone(), billed: 0, overlaps: 0, batches, files }
    }

    async fn admin(&self, path: &str) -> String {
        let answer = self.world.http.get(format!("{}/{path}", self.sim.admin)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// What was billed, made and left since the last story; this one's story is over then.
    pub async fn settle(&mut self) -> Account {
        let ledger = self.admin("ledger").await;
        let state: Value = serde_json::from_str(&self.admin("state").await).unwrap();
        let new = |list: &str, known: &mut HashSet<String>| -> Vec<Value> {
            let all = state[list].as_array().unwrap().iter();
            all.filter(|v| known.insert(v["id"].as_str().unwrap().to_string())).cloned().collect()
        };
        let id = |line: &str| {
            let charge: Value = serde_json::from_str(line).unwrap();
            charge["custom_id"].as_str().unwrap().to_string()
        };
        let billed: Vec<String> = ledger.lines().skip(self.billed).map(id).collect();
        self.billed += billed.len();
        let overlaps = state["overlaps"].as_u64().unwrap() - self.overlaps;
        self.overlaps += overlaps;
        Account { billed, overlaps, batches: new("batches", &mut self.batches), files: new("files", &mut self.files) }
    }

    /// A stage for the next story, in which the first batch has a line that fails in a way that may pass.
    pub async fn stage(&mut self) -> Stage {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("s{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.world.http.delete(format!("{}/faults", self.sim.admin)).send().await.unwrap();
        self.sim.fault(json!({"point": "batch", "action": "fail_rows", "rows": 1, "status": 503})).await;
        let stage = Stage { namespace, world: self.world.clone(), log: Log::default() };
        create::<Namespace>(Api::all(self.world.client.clone()), json!({"metadata": {"name": stage.namespace}})).await;
        for (name, data) in [
            ("llm-key", json!({"api-key": "sk-test"})),
            ("hooks", json!({"url": stage.world.webhooks.url(&stage.namespace)})),
            ("s3", json!({"aws_access_key_id": storage().access_key, "aws_secret_access_key": storage().secret_key})),
        ] {
            create::<Secret>(stage.api(), json!({"metadata": {"name": name}, "stringData": data})).await;
        }
        let spec = json!({
            "type": "OpenAICompatible", "baseURL": self.sim.url,
            "auth": {"secretKeyRef": {"name": "llm-key", "key": "api-key"}},
            "limits": {"maxRequestsPerBatch": PER_BATCH},
        });
        create::<BatchProvider>(stage.api(), json!({"metadata": {"name": "llm"}, "spec": spec})).await;
        stage
    }
}

fn location(key: &str) -> Value {
    json!({"uri": format!("s3://tests/{key}"), "endpoint": storage().endpoint, "secretRef": {"name": "s3"}})
}

/// Creates an object.
pub async fn create<K>(api: Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

impl Stage {
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// Where the job's results are.
    pub fn out(&self, file: &str) -> String {
        format!("{}/out/j/{file}", self.namespace)
    }

    /// Creates the job, with `change` over its spec.
    pub async fn create_job(&self, change: &Value) {
        let mut spec = json!({
            "providerRef": {"name": "llm"}, "pollPeriodSeconds": 1,
            "input": {"objectStore": location("sweep/in.jsonl")},
            "output": {"objectStore": location(&self.out("")), "partialResults": true},
        });
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        create::<BatchJob>(self.api(), json!({"metadata": {"name": "j"}, "spec": spec})).await;
    }

    /// Waits until the provider was looked at, or `enough` is so.
    pub async fn provider_judged(&self, enough: impl Fn() -> bool) {
        let providers: Api<BatchProvider> = self.api();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && !enough() {
            let judged = providers.get("llm").await.unwrap().status.is_some_and(|s| s.observed_generation.is_some());
            if judged {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The job once nothing is left to do for it, or why that did not come about.
    pub async fn job_done(&self, seconds: u64) -> Result<BatchJob, String> {
        match self.wait(seconds, |job| job.is_some_and(is_done)).await.flatten() {
            Some(job) => Ok(job),
            None => Err(format!("not done within {seconds} s: {}", self.shown().await)),
        }
    }

    /// Waits until status shows each message to a webhook as delivered.
    pub async fn told(&self, seconds: u64) -> Result<(), String> {
        let is_delivered = |m: &NotificationStatus| m.state == NotificationState::Delivered;
        let told = |job: Option<&BatchJob>| {
            let all = job.and_then(|job| job.status.as_ref()).map(|status| status.notifications.as_slice());
            all.is_some_and(|all| !all.is_empty() && all.iter().all(is_delivered))
        };
        match self.wait(seconds, told).await {
            Some(_) => Ok(()),
            None => Err(format!("not told within {seconds} s: {}", self.shown().await)),
        }
    }

    /// Waits until the object is gone.
    pub async fn job_gone(&self, seconds: u64) -> Result<(), String> {
        match self.wait(seconds, |job| job.is_none()).await {
            Some(_) => Ok(()),
            None => Err(format!("not gone within {seconds} s: {}", self.shown().await)),
        }
    }

    /// The job once `is_so`; None if that does not come about in time. A watch that breaks off because the API server is busy says
    /// nothing of the job, and begins anew.
    async fn wait(&self, seconds: u64, is_so: impl Fn(Option<&BatchJob>) -> bool + Clone) -> Option<Option<BatchJob>> {
        let waited = async {
            loop {
                match kube::runtime::wait::await_condition(self.api(), "j", is_so.clone()).await {
                    Ok(job) => return job,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(seconds), waited).await.ok()
    }

    /// The object as it is, for a person.
    async fn shown(&self) -> String {
        let job = self.api::<BatchJob>().get_opt("j").await.unwrap();
        serde_json::to_string_pretty(&job.map(|j| (j.metadata, j.status))).unwrap()
    }

    /// Type, reason and note of what was told of the job.
    pub async fn events(&self) -> Vec<(String, String, String)> {
        self.events_on("BatchJob").await
    }

    /// Type, reason and note of what was told of objects of a kind.
    pub async fn events_on(&self, kind: &str) -> Vec<(String, String, String)> {
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap().items.into_iter();
        let of_kind = events.filter(|e| e.regarding.as_ref().is_some_and(|r| r.kind.as_deref() == Some(kind)));
        of_kind
            .map(|e| (e.type_.unwrap_or_default(), e.reason.unwrap_or_default(), e.note.unwrap_or_default()))
            .collect()
    }

    /// Runs an operator, and the next one whenever one dies, as a kubelet does.
    pub fn keep(&self, script: &Arc<Script>, clock: &SkewedClock) -> Keeper {
        let (namespace, log) = (self.namespace.clone(), self.log.clone());
        let (script, clock) = (script.clone(), clock.clone());
        Keeper(tokio::spawn(async move {
            loop {
                let operator = Operator::start(&namespace, &script, clock.clone(), &log);
                operator.ended.cancelled().await;
                drop(operator);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

/// Keeps an operator running until dropped.
pub struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether it ended, everything is tidied up, and it says so of the spec as it is.
fn is_done(job: &BatchJob) -> bool {
    let finished =
        condition(job, "Reconciling").is_some_and(|(status, reason, _)| status == "False" && reason == "Finished");
    finished && job.status.as_ref().is_some_and(|s| s.observed_generation == job.metadata.generation)
}
