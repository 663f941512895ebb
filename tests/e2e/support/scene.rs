//! A scene: a namespace, a simulator and, mostly, an operator of its own.

mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use batchjob_operator::api::BatchJobObject as BatchJob;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::operator::{Operator, Settings};
use super::process::root;
use super::quiet::{self, CANARY, Told, prompt};
use super::shared::{Cluster, cluster, record, storage};
use super::simulator::Simulator;

pub struct Scene {
    pub namespace: String,
    pub client: Client,
    pub settings: Settings,
    pub operator: Option<Operator>,
    pub sim: Simulator,
    pub bucket: AmazonS3,
    /// Where the manifests say that storage is: a proxy, or the server.
    pub endpoint: String,
    /// Where the provider object says that the simulator is.
    pub base_url: String,
    /// Metrics of its operators that are gone.
    metrics: Vec<Told>,
    /// Whether there was a job, and whether a prompt with the canary.
    jobs: AtomicBool,
    planted: AtomicBool,
}

impl Scene {
    /// A scene with an operator that runs.
    pub async fn new(name: &str, sim_args: &[&str]) -> Scene {
        let mut scene = Scene::set(name, sim_args).await;
        scene.restart().await;
        scene
    }

    /// A scene with an operator that runs, whose provider has this field of its spec too, and was tried out with it.
    pub async fn with(name: &str, sim_args: &[&str], field: &str) -> Scene {
        let mut scene = Scene::set(name, sim_args).await;
        scene.apply(&format!("{}  {field}\n", scene.manifest("provider.yaml")));
        scene.restart().await;
        scene
    }

    /// A scene without an operator yet.
    pub async fn set(name: &str, sim_args: &[&str]) -> Scene {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let namespace = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        cluster().kubectl(&["create", "namespace", &namespace]);
        let sim = Simulator::start(&namespace, sim_args);
        let scene = Scene {
            client: cluster().client().await,
            settings: Settings::new(&namespace, &namespace),
            operator: None,
            endpoint: storage().endpoint.clone(),
            base_url: sim.url.clone(),
            namespace,
            sim,
            bucket: storage().bucket(),
            metrics: vec![],
            jobs: AtomicBool::new(false),
            planted: AtomicBool::new(false),
        };
        record(&json!({"begun": scene.namespace}));
        scene.example("provider.yaml");
        scene.example("storage.yaml");
        scene
    }

    /// The same namespace in another cluster, with an operator that runs, the same bucket and the same account.
    pub async fn copy(&self, elsewhere: &Arc<Cluster>) -> Scene {
        elsewhere.kubectl(&["create", "namespace", &self.namespace]);
        let name = format!("{}-copy", self.namespace);
        let settings = Settings { elsewhere: Some(elsewhere.clone()), ..Settings::new(&name, &self.namespace) };
        let mut copy = Scene {
            namespace: self.namespace.clone(),
            client: elsewhere.client().await,
            settings,
            operator: None,
            // Nobody calls this one: the provider is the first scene's.
            sim: Simulator::start(&name, &[]),
            bucket: storage().bucket(),
            endpoint: self.endpoint.clone(),
            base_url: self.base_url.clone(),
            metrics: vec![],
            jobs: AtomicBool::new(false),
            planted: AtomicBool::new(false),
        };
        copy.example("provider.yaml");
        copy.example("storage.yaml");
        copy.restart().await;
        copy
    }

    /// A manifest of `examples/` as it stands, but for addresses, keys and the bucket, and polled each second.
    pub fn manifest(&self, example: &str) -> String {
        let text = std::fs::read_to_string(root().join("examples").join(example)).unwrap();
        polled_each_second(&text)
            .replace("http://127.0.0.1:8333", &self.endpoint)
            .replace("http://127.0.0.1:8080/v1", &self.base_url)
            .replace("ACCESS_KEY", &storage().access_key)
            .replace("SECRET_KEY", &storage().secret_key)
            .replace("s3://shop/", &format!("s3://tests/{}/", self.namespace))
    }

    pub fn example(&self, example: &str) {
        self.apply(&self.manifest(example));
    }

    pub fn apply(&self, manifest: &str) {
        let (ok, said) = self.try_apply(manifest);
        assert!(ok, "{said}");
    }

    pub fn try_apply(&self, manifest: &str) -> (bool, String) {
        self.jobs.fetch_or(manifest.contains("BatchJob"), Ordering::Relaxed);
        self.plant(manifest.as_bytes());
        self.settings.cluster().try_kubectl(&["-n", &self.namespace, "apply", "-f", "-"], Some(manifest))
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.settings.cluster().kubectl(&[&["-n", &self.namespace], args].concat())
    }

    /// A job with `change` over a plain inline one.
    pub fn job(&self, name: &str, change: Value) -> Value {
        let location = |uri: String| json!({"uri": uri, "endpoint": self.endpoint, "secretRef": {"name": "s3"}});
        let mut job = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": name},
            "spec": {
                "providerRef": {"name": "llm"}, "model": "gpt-5-mini", "pollPeriodSeconds": 1,
                "input": {"inline": {"requests": requests(name, 3)}},
                "output": {"objectStore": location(format!("s3://tests/{}/out/{name}/", self.namespace))},
            },
        });
        if let Some(key) = change["inputKey"].as_str() {
            job["spec"]["input"] = json!({"objectStore": location(format!("s3://tests/{}/in/{key}", self.namespace))});
        }
        merge(&mut job["spec"], &change["spec"]);
        job
    }

    pub fn apply_job(&self, name: &str, change: Value) {
        self.apply(&self.job(name, change).to_string());
    }

    pub async fn put(&self, key: &str, bytes: impl Into<object_store::PutPayload>) {
        let payload = bytes.into();
        payload.iter().for_each(|part| self.plant(part));
        self.bucket.put(&format!("{}/{key}", self.namespace).into(), payload).await.unwrap();
    }

    /// Notes whether what a job is given has the canary in it.
    pub fn plant(&self, given: &[u8]) {
        self.planted.fetch_or(memchr::memmem::find(given, CANARY.as_bytes()).is_some(), Ordering::Relaxed);
    }

    pub async fn delete(&self, key: &str) {
        self.bucket.delete(&format!("{}/{key}", self.namespace).into()).await.unwrap();
    }

    /// An object's text; None where there is none.
    pub async fn get(&self, key: &str) -> Option<String> {
        let got = self.bucket.get(&format!("{}/{key}", self.namespace).into()).await.ok()?;
        Some(String::from_utf8(got.bytes().await.unwrap().to_vec()).unwrap())
    }

    /// Keys below `prefix`, sorted.
    pub async fn list(&self, prefix: &str) -> Vec<String> {
        use futures::TryStreamExt;
        use object_store::ObjectStore;
        let prefix = format!("{}/{prefix}", self.namespace);
        let all: Vec<_> = self.bucket.list(Some(&prefix.as_str().into())).try_collect().await.unwrap();
        let mut names: Vec<String> = all
            .iter()
            .map(|m| m.location.to_string().trim_start_matches(&prefix).trim_start_matches('/').to_string())
            .collect();
        names.sort();
        names
    }

    pub fn jobs(&self) -> Api<BatchJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn get_job(&self, name: &str) -> BatchJob {
        self.jobs().get(name).await.unwrap()
    }

    /// Lets a batch come to its end.
    pub async fn finish(&self, batch: &Value) {
        self.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    }

    /// The events of a reason.
    pub async fn told(&self, reason: &str) -> Vec<Value> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace);
        let list: Value = self.client.request(http::Request::get(path).body(vec![]).unwrap()).await.unwrap();
        list["items"].as_array().unwrap().iter().filter(|e| e["reason"] == reason).cloned().collect()
    }

    /// The events of a reason, as soon as there are this many: an event is published beside the work that it tells of.
    pub async fn wait_told(&self, reason: &str, count: usize) -> Vec<Value> {
        super::eventually(&format!("{count} events {reason}"), 30, async || {
            Some(self.told(reason).await).filter(|events| events.len() >= count)
        })
        .await
    }

    /// Answers a job's question with the one of its answers that ends like this, as status has it.
    pub async fn answer(&self, job: &str, ending: &str) {
        let holds = self.get_job(job).await.status.unwrap().holds;
        let answer = holds[0].answers.iter().find(|a| a.ends_with(&format!("={ending}"))).unwrap().clone();
        self.kubectl(&["annotate", "--overwrite", "bjob", job, &format!("llmbatch.dev/resolve={answer}")]);
    }

    /// The custom ids of the results, in order.
    pub async fn result_ids(&self, name: &str) -> Vec<String> {
        ids(&self.get(&format!("out/{name}/results.jsonl")).await.expect("results.jsonl"))
    }

    /// The custom ids of the results, in order, wherever status says that they are and however they are compressed.
    pub async fn answered_ids(&self, name: &str) -> Vec<String> {
        let uri = self.get_job(name).await.status.unwrap().results.unwrap().uri;
        let bytes = match uri.strip_prefix("s3://tests/") {
            Some(key) => self.bucket.get(&key.into()).await.unwrap().bytes().await.unwrap().to_vec(),
            None => {
                let path: Vec<&str> = uri.strip_prefix("configmap://").unwrap().split('/').collect();
                let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), path[0]);
                let map = maps.get(path[1]).await.unwrap();
                let text = map.data.and_then(|mut d| d.remove(path[2])).map(String::into_bytes);
                text.or_else(|| Some(map.binary_data?.remove(path[2])?.0)).unwrap()
            }
        };
        ids(&uncompressed(&uri, &bytes).await)
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.operator = Some(self.settings.start().await);
        self.provider_judged("llm").await;
        if !self.sim.has_begun() {
            self.sim.begin().await;
        }
    }

    /// Kills its operator.
    pub async fn stop(&mut self) {
        if let Some(operator) = self.operator.take() {
            self.metrics.extend(operator.metrics().await.map(|text| ("metrics".to_string(), text)));
        }
    }

    /// Fails if a prompt, an answer or a key was told to anybody.
    async fn end(&mut self) {
        self.stop().await;
        let mut told = quiet::logs(&self.namespace);
        let worked = !told.is_empty();
        let looked = json!({"quiet": self.namespace, "logs": told.len(), "metrics": self.metrics.len()});
        told.append(&mut self.metrics);
        told.extend(quiet::objects(&self.client, &self.namespace).await);
        told.extend(quiet::files(self).await);
        quiet::assert_quiet(&told);
        let planted = self.planted.load(Ordering::Relaxed) || !self.jobs.load(Ordering::Relaxed);
        assert!(
            planted || !worked,
            "no prompt of {} has the canary, so that looking for it shows nothing",
            self.namespace
        );
        record(&looked);
    }

    fn log(&self) -> String {
        self.operator.as_ref().map(|o| o.process.tail(60)).unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the operator's last words in {} ---\n{}", self.namespace, self.log());
        } else {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.end()));
        }
    }
}

/// What a file of this name holds.
pub async fn uncompressed(name: &str, bytes: &[u8]) -> String {
    let mut reader: Box<dyn AsyncRead + Unpin> = match name {
        gz if gz.ends_with(".gz") => Box::new(GzipDecoder::new(bytes)),
        zst if zst.ends_with(".zst") => Box::new(ZstdDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

/// The custom ids of result lines.
pub fn ids(lines: &str) -> Vec<String> {
    let id = |l: &str| serde_json::from_str::<Value>(l).unwrap()["custom_id"].as_str().unwrap().to_string();
    lines.lines().map(id).collect()
}

/// `n` inline requests that no other job of the scene has.
pub fn requests(job: &str, n: usize) -> Value {
    (0..n).map(|i| json!({"customID": format!("{job}-{i}"), "body": {"messages": [{"role": "user", "content": prompt(job, i)}]}})).collect()
}

/// `n` lines of OpenAI's batch format.
pub fn batch_lines(job: &str, n: usize) -> String {
    (0..n)
        .map(|i| {
            let body = json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt(job, i)}]});
            json!({"custom_id": format!("{job}-{i}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
                .to_string()
                + "\n"
        })
        .collect()
}

/// Status, reason and message of a condition.
pub fn condition(job: &BatchJob, type_: &str) -> Option<(String, String, String)> {
    let conditions = &job.status.as_ref()?.conditions;
    let c = conditions.iter().find(|c| c.type_ == type_)?;
    Some((c.status.clone(), c.reason.clone(), c.message.clone()))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from.clone(),
    }
}

/// Sets `pollPeriodSeconds` of the BatchJobs of a manifest, the template of a CronBatchJob included, unless one sets it itself.
pub fn polled_each_second(manifest: &str) -> String {
    if manifest.contains("pollPeriodSeconds") {
        return manifest.to_string();
    }
    let before_output = |indent: &str| format!("\n{indent}pollPeriodSeconds: 1\n{indent}output:\n");
    ["  ", "      "].iter().fold(manifest.to_string(), |text, indent| {
        text.replace(&format!("\n{indent}output:\n"), &before_output(indent))
    })
}
