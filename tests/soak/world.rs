//! All that a soak needs, started once.

use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use object_store::aws::AmazonS3;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::gate::Gate;
use crate::ground::Ground;
use crate::jobs::PROVIDERS;
use crate::replicas::Replicas;
use crate::support::process::root;
use crate::support::simulator::Simulator;

pub const NAMESPACE: &str = "soak";

/// How long the API server may be away from those who ask as people do.
const PATIENCE: Duration = Duration::from_secs(240);

pub struct World {
    pub replicas: Replicas,
    pub gate: Gate,
    pub sim: Simulator,
    pub client: Client,
    pub bucket: AmazonS3,
    pub endpoint: String,
    pub secret_key: String,
    pub ground: Ground,
}

impl World {
    pub async fn start() -> World {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ground = Ground::start();
        let sim = Simulator::start(NAMESPACE, &["--batch-duration", "1s"]);
        let gate = Gate::open(sim.url.trim_start_matches("http://").trim_end_matches("/v1").into()).await;
        let (config, kubeconfig) = ground.with_cluster(|cluster| {
            cluster.kubectl(&["create", "namespace", NAMESPACE]);
            let kubeconfig = cluster.operator_kubeconfig("soak", &cluster.server, "batchjob-operator-system");
            (kube::config::Kubeconfig::read_from(&cluster.kubeconfig).unwrap(), kubeconfig)
        });
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let (bucket, endpoint, secret_key) =
            ground.with_storage(|s| (s.bucket(), s.endpoint.clone(), s.secret_key.clone()));
        let world = World {
            replicas: Replicas::new(&kubeconfig),
            gate,
            sim,
            client: Client::try_from(config).unwrap(),
            bucket,
            endpoint,
            secret_key,
            ground,
        };
        world.furnish();
        world
    }

    /// The Secrets and the providers: one account with several limits.
    fn furnish(&self) {
        let read = |file: &str| std::fs::read_to_string(root().join("examples").join(file)).unwrap();
        let access_key = self.ground.with_storage(|s| s.access_key.clone());
        self.apply(&read("storage.yaml").replace("ACCESS_KEY", &access_key).replace("SECRET_KEY", &self.secret_key));
        let provider = read("provider.yaml").replace("http://127.0.0.1:8080", &self.gate.url);
        for (name, lines) in PROVIDERS {
            let limits = format!("  limits:\n    maxRequestsPerBatch: {lines}\n");
            self.apply(&(provider.replace("name: llm\n", &format!("name: {name}\n")) + &limits));
        }
    }

    fn apply(&self, manifest: &str) {
        let args = ["-n", NAMESPACE, "apply", "-f", "-"];
        let (ok, said) = self.ground.with_cluster(|cluster| cluster.try_kubectl(&args, Some(manifest)));
        assert!(ok, "{said}");
    }

    pub fn jobs(&self) -> Api<BatchJob> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub async fn put(&self, key: &str, text: String) {
        insist(key, || async { self.bucket.put(&key.into(), text.clone().into()).await }).await;
    }

    /// What lies among results and is neither a result nor a journal, in the bucket and in ConfigMaps.
    pub async fn staged(&self) -> Vec<String> {
        let (prefix, maps, all) = (format!("{NAMESPACE}/out").into(), self.config_maps(), ListParams::default());
        let objects = insist("list", || self.bucket.list(Some(&prefix)).try_collect::<Vec<_>>()).await;
        let objects = objects.into_iter().map(|object| object.location.to_string());
        let keys = insist("list", || maps.list(&all)).await.into_iter().flat_map(|map| {
            let name = map.name_any();
            let (text, binary) = (map.data.unwrap_or_default(), map.binary_data.unwrap_or_default());
            text.into_keys().chain(binary.into_keys()).map(move |key| format!("{name}/{key}"))
        });
        let staged = |key: &String| ["/shards/", "/parts/", ".shards.", ".parts."].iter().any(|of| key.contains(of));
        objects.chain(keys).filter(staged).collect()
    }

    /// An object's text; None where there is none.
    pub async fn get(&self, key: &str) -> Option<String> {
        let read = || async {
            match self.bucket.get(&key.into()).await {
                Ok(got) => Ok(Some(got.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let bytes = insist(key, read).await;
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }
}

/// Asks until there is an answer: what is asked may be away for a while.
pub async fn insist<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
