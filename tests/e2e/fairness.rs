//! Nobody waits for somebody else: whatever the jobs of other namespaces meet, a one-line job of a quiet one takes no more than
//! twice its undisturbed time.
//!
//! One operator, one world. What disturbs stays, so that each disturbance comes on top of those before it.

use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, batch_lines, condition, requests};
use crate::support::shared::{cluster, storage};
use crate::support::slow_server::{Manner, Server};

/// How long a one-line job is waited for.
const LATE: Duration = Duration::from_secs(30);

/// A quiet namespace and noisy ones, which one operator looks after.
struct World {
    quiet: Scene,
    noisy: Vec<Scene>,
    /// Namespaces without a provider of their own.
    crowd: Vec<String>,
    /// How jobs refer to an account at the quiet scene's simulator that all namespaces may use.
    shared: Value,
    /// A server that drips.
    drips: Server,
    /// How long a one-line job takes undisturbed.
    undisturbed: Duration,
    jobs: usize,
    /// Disturbances among which it took too long.
    disturbed: Vec<String>,
}

impl World {
    async fn set(noisy: usize) -> World {
        let args = ["--batch-duration", "200ms"];
        let mut quiet = Scene::set("quiet", &args).await;
        let noisy: Vec<Scene> = futures::stream::iter(0..noisy)
            .then(|n| async move { Scene::set(&format!("noisy{n}"), &args).await })
            .collect()
            .await;
        for scene in &noisy {
            quiet.settings.namespaces += &format!(",{}", scene.namespace);
        }
        let crowd: Vec<String> = (0..24).map(|n| format!("crowd{n}-of-{}", quiet.namespace)).collect();
        for namespace in &crowd {
            cluster().kubectl(&["create", "namespace", namespace]);
            let secret = quiet.manifest("storage.yaml");
            cluster().try_kubectl(&["-n", namespace, "apply", "-f", "-"], Some(&secret));
            quiet.settings.namespaces += &format!(",{namespace}");
        }
        quiet.restart().await;
        let namespaces = noisy.iter().map(|scene| scene.namespace.as_str()).chain(crowd.iter().map(String::as_str));
        let shared = shared_provider(&quiet, namespaces.collect());
        let drips = Server::start(Manner::Drips).await;
        let mut world =
            World { quiet, noisy, crowd, shared, drips, undisturbed: Duration::ZERO, jobs: 0, disturbed: vec![] };
        let mut times = vec![];
        for _ in 0..3 {
            times.push(world.one_line().await);
        }
        times.sort();
        world.undisturbed = times[1];
        assert!(world.undisturbed * 2 < LATE, "{:?}", world.undisturbed);
        world
    }

    /// How long a one-line job of the quiet namespace takes, at the provider of this reference.
    async fn one_line_at(&mut self, provider: &Value) -> Duration {
        self.jobs += 1;
        let name = format!("one-line-{}", self.jobs);
        let began = Instant::now();
        let mut job = self.quiet.job(&name, one_line(&name));
        job["spec"]["providerRef"] = provider.clone();
        create(&self.quiet, &[job]).await;
        let complete = |job: &BatchJob| condition(job, "Complete").is_some_and(|(status, _, _)| status == "True");
        let done = self.quiet.wait_job("a one-line job is done", &name, 120, complete);
        // One that takes much longer than it may is too late, whatever comes of it.
        let _ = tokio::time::timeout(LATE, done).await;
        began.elapsed()
    }

    /// The same at the namespace's own provider.
    async fn one_line(&mut self) -> Duration {
        self.one_line_at(&json!({"name": "llm"})).await
    }

    /// Sees whether a one-line job of the quiet namespace takes more than twice its time, while this goes on.
    async fn is_undisturbed_by(&mut self, what: &str) {
        let took = self.one_line().await;
        self.is_soon_enough(what, took);
    }

    fn is_soon_enough(&mut self, what: &str, took: Duration) {
        let allowed = self.undisturbed * 2 + Duration::from_secs(2);
        let told = format!("{what}: a one-line job took {took:?} instead of {:?}", self.undisturbed);
        eprintln!("{told}");
        if took > allowed {
            self.disturbed.push(told);
        }
    }
}

fn one_line(name: &str) -> Value {
    json!({"spec": {"input": {"inline": {"requests": requests(name, 1)}}}})
}

async fn create(scene: &Scene, jobs: &[Value]) {
    create_with(scene.jobs(), scene, jobs).await;
}

async fn create_with(api: Api<BatchJob>, scene: &Scene, jobs: &[Value]) {
    let create = |job: &Value| {
        scene.plant(job.to_string().as_bytes());
        let (api, job): (_, BatchJob) = (api.clone(), serde_json::from_value(job.clone()).unwrap());
        async move { api.create(&PostParams::default(), &job).await.map(drop) }
    };
    let creations: Vec<_> = jobs.iter().map(create).collect();
    futures::stream::iter(creations).buffer_unordered(16).try_collect::<()>().await.unwrap();
}

/// One-line jobs of this scene, each with `change`.
async fn create_many(scene: &Scene, prefix: &str, n: usize, change: impl Fn(&mut Value)) {
    let jobs = (0..n).map(|i| {
        let name = format!("{prefix}-{i}");
        let mut job = scene.job(&name, one_line(&name));
        change(&mut job);
        job
    });
    create(scene, &jobs.collect::<Vec<_>>()).await;
}

/// One-line jobs in a namespace that has no scene, each with `change`, as this scene would have them.
async fn create_in(scene: &Scene, namespace: &str, n: usize, change: impl Fn(&mut Value)) {
    let jobs = (0..n).map(|i| {
        let name = format!("job-{i}");
        let mut job = scene.job(&name, one_line(&name));
        job["metadata"]["namespace"] = json!(namespace);
        change(&mut job);
        job
    });
    create_with(Api::namespaced(scene.client.clone(), namespace), scene, &jobs.collect::<Vec<_>>()).await;
}

/// Has the scene's provider object name this server.
fn provider_at(scene: &mut Scene, server: &Server) {
    scene.base_url = format!("{}/v1", server.url);
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.example("provider.yaml");
}

/// An admin's account at the scene's simulator, granted to its namespace and to others; how jobs refer to it.
fn shared_provider<'a>(scene: &'a Scene, mut namespaces: Vec<&'a str>) -> Value {
    let name = scene.namespace.as_str();
    namespaces.push(name);
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": scene.settings.home}, "stringData": {"key": "sk-test"}});
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.base_url,
            "auth": {"secretKeyRef": {"name": name, "key": "key"}}, "namespaces": [{"names": namespaces}]}});
    for manifest in [secret, provider] {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    }
    json!({"kind": "ClusterBatchProvider", "name": name})
}

fn output_at(url: &str) -> impl Fn(&mut Value) {
    move |job| job["spec"]["output"]["objectStore"]["endpoint"] = json!(url)
}

fn input_at(scene: &Scene, url: &str) -> impl Fn(&mut Value) {
    let uri = format!("s3://tests/{}/in/", scene.namespace);
    move |job| {
        let mut location = job["spec"]["output"]["objectStore"].clone();
        (location["endpoint"], location["uri"]) = (json!(url), json!(uri));
        job["spec"]["input"] = json!({"objectStore": location});
    }
}

async fn silent_provider(world: &mut World) {
    let silent = Server::start(Manner::Silent).await;
    provider_at(&mut world.noisy[0], &silent);
    create_many(&world.noisy[0], "silent-provider", 64, |_| {}).await;
    silent.holds(1).await;
    world.is_undisturbed_by("64 jobs on a silent provider").await;
}

async fn dripping_provider(world: &mut World) {
    provider_at(&mut world.noisy[1], &world.drips);
    create_many(&world.noisy[1], "dripping-provider", 64, |_| {}).await;
    world.drips.holds(1).await;
    world.is_undisturbed_by("64 jobs on a provider that drips a byte a second").await;
}

async fn silent_bucket(world: &mut World) {
    let bucket = Server::start(Manner::Silent).await;
    create_many(&world.noisy[2], "silent-bucket", 64, output_at(&bucket.url)).await;
    bucket.holds(4).await;
    world.is_undisturbed_by("64 jobs on a silent bucket").await;
}

async fn intents_of_a_shared_account_that_are_stuck(world: &mut World) {
    let shared = world.shared.clone();
    let bucket = Proxy::that_hangs_at(&storage().endpoint, "PUT", "journal.json", "\"intentID\"").await;
    create_many(&world.noisy[4], "stuck-intent", 24, |job| {
        output_at(&bucket.url)(job);
        job["spec"]["providerRef"] = shared.clone();
    })
    .await;
    let blocked = || async { (bucket.hanging() >= 8).then_some(()) };
    eventually("intents are being written", 60, blocked).await;
    let took = world.one_line_at(&shared).await;
    world.is_soon_enough("24 jobs of one account, on a bucket that hangs between their place and their POST", took);
}

async fn slow_uploads(world: &mut World) {
    let scene = &mut world.noisy[3];
    let slow = Server::start(Manner::TakesSlowly(scene.sim.url.trim_end_matches("/v1").into())).await;
    provider_at(scene, &slow);
    // Larger than what the operator's kernel takes in the server's place.
    let padded = format!("{CANARY} {}", "x".repeat(2_000));
    scene.put("in/large.jsonl", batch_lines("large", 3_000).replace(CANARY, &padded)).await;
    let large = scene.job("large", json!({"inputKey": "large.jsonl"}))["spec"]["input"].clone();
    create_many(scene, "slow-upload", 16, |job| job["spec"]["input"] = large.clone()).await;
    slow.holds(6).await;
    world.is_undisturbed_by("16 uploads at 1 kB a second").await;
}

/// Uploads that are sent and never answered, of eight namespaces with an account each. They can take all the places of uploads.
async fn uploads_that_are_never_answered(world: &mut World) {
    let scene = &world.quiet;
    let silent = Proxy::that_hangs_at(scene.sim.url.trim_end_matches("/v1"), "POST", "/files", CANARY).await;
    let provider = scene.manifest("provider.yaml").replace(&scene.base_url, &format!("{}/v1", silent.url));
    let provider = provider + "  limits:\n    maxRequestsPerBatch: 1\n";
    for namespace in &world.crowd[..8] {
        let (ok, said) = cluster().try_kubectl(&["-n", namespace, "apply", "-f", "-"], Some(&provider));
        assert!(ok, "{said}");
        let name = format!("uploads-of-{namespace}");
        let mut job = scene.job(&name, json!({"spec": {"parallelism": 16}}));
        job["metadata"]["namespace"] = json!(namespace);
        job["spec"]["input"] = json!({"inline": {"requests": requests(&name, 16)}});
        create_with(Api::namespaced(scene.client.clone(), namespace), scene, &[job]).await;
    }
    let blocked = || async { (silent.hanging() >= 64).then_some(()) };
    eventually("all places are taken", 60, blocked).await;
    world.is_undisturbed_by("uploads of eight namespaces that are never answered").await;
}

async fn flood(world: &mut World) {
    create_many(&world.noisy[5], "flood", 500, |_| {}).await;
    world.is_undisturbed_by("a flood of 500 jobs").await;
}

async fn silent_inputs_and_dripping_buckets(world: &mut World) {
    let input = Server::start(Manner::Silent).await;
    for scene in &world.noisy[..5] {
        create_many(scene, "dripping-bucket", 12, output_at(&world.drips.url)).await;
        create_many(scene, "silent-input", 12, input_at(scene, &input.url)).await;
    }
    input.holds(4).await;
    world.is_undisturbed_by("silent inputs and dripping buckets of five namespaces").await;
}

async fn shards_and_answers_that_are_stuck(world: &mut World) {
    let bucket = Proxy::that_hangs(&storage().endpoint, "PUT", "/shards/").await;
    for scene in &world.noisy[..5] {
        create_many(scene, "stuck-shards", 12, output_at(&bucket.url)).await;
        let provider = Proxy::that_hangs(scene.sim.url.trim_end_matches("/v1"), "GET", "/content").await;
        let manifest = scene.manifest("provider.yaml").replace(&scene.base_url, &format!("{}/v1", provider.url));
        scene.apply(&manifest.replace("name: llm\n", "name: half\n"));
        create_many(scene, "stuck-answers", 12, |job| job["spec"]["providerRef"]["name"] = json!("half")).await;
    }
    // How soon its answers are stuck too is a noisy namespace's own affair.
    let blocked = || async { (bucket.hanging() >= 4).then_some(()) };
    eventually("a bucket is stuck half way", 60, blocked).await;
    world.is_undisturbed_by("a bucket that is stuck half way, of five namespaces").await;
}

async fn silent_buckets_of_many_namespaces(world: &mut World) {
    let bucket = Server::start(Manner::Silent).await;
    let change = |job: &mut Value| {
        output_at(&bucket.url)(job);
        job["spec"]["providerRef"] = world.shared.clone();
    };
    join_all(world.crowd.iter().map(|ns| create_in(&world.quiet, ns, 12, change))).await;
    bucket.holds(60).await;
    world.is_undisturbed_by("silent buckets of 24 namespaces").await;
    world.is_undisturbed_by("silent buckets of 24 namespaces, a little later").await;
}

async fn floods(world: &mut World) {
    for scene in &world.noisy {
        let manifest = scene.manifest("provider.yaml").replace(&scene.base_url, &scene.sim.url);
        scene.apply(&manifest.replace("name: llm\n", "name: honest\n"));
    }
    let floods = world.noisy.iter().map(|scene| {
        create_many(scene, "another-flood", 60, |job| job["spec"]["providerRef"]["name"] = json!("honest"))
    });
    join_all(floods).await;
    world.is_undisturbed_by("floods of six namespaces").await;
}

async fn deletions(world: &mut World) {
    let noisy: Vec<Api<BatchJob>> = world.noisy.iter().map(Scene::jobs).collect();
    let (how, which) = (DeleteParams::default(), ListParams::default());
    let delete = noisy.iter().map(|jobs| jobs.delete_collection(&how, &which));
    let (deleted, ()) = tokio::join!(join_all(delete), world.is_undisturbed_by("deletions of them all"));
    deleted.into_iter().for_each(|deleted| drop(deleted.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_namespace_is_undisturbed_by_silent_and_slow_servers_and_by_a_flood_of_others() {
    let mut world = World::set(6).await;
    silent_provider(&mut world).await;
    dripping_provider(&mut world).await;
    silent_bucket(&mut world).await;
    intents_of_a_shared_account_that_are_stuck(&mut world).await;
    slow_uploads(&mut world).await;
    flood(&mut world).await;
    // The same again and worse, over several namespaces.
    silent_inputs_and_dripping_buckets(&mut world).await;
    shards_and_answers_that_are_stuck(&mut world).await;
    silent_buckets_of_many_namespaces(&mut world).await;
    floods(&mut world).await;
    deletions(&mut world).await;
    assert!(world.disturbed.is_empty(), "{:#?}", world.disturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_namespace_uploads_beside_eight_whose_uploads_are_never_answered() {
    let mut world = World::set(0).await;
    uploads_that_are_never_answered(&mut world).await;
    assert!(world.disturbed.is_empty(), "{:#?}", world.disturbed);
}
