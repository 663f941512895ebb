//! Memory that nobody's manifest, input or answer can break: the operator as a process, with the kernel's own peak.
//!
//! It is part of the end-to-end tests, for it needs a real API server and a real S3 server.

#[path = "memory/reuse.rs"]
mod reuse;

use std::time::{Duration, Instant};

use async_compression::Level;
use async_compression::tokio::write::ZstdEncoder;
use batchjob_operator::api::BatchJobObject as BatchJob;
use futures::StreamExt;
use kube::api::PostParams;
use object_store::buffered::BufWriter;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::quiet::{CANARY, prompt};
use crate::support::scene::{Scene, condition};

/// What the Deployment allows.
const LIMIT: u64 = 256 << 20;
/// What a join of sixteen models may take: some 100 MiB were seen, and 163 and 199 MiB where nothing but its number of models and rounds
/// bounded it.
const LIMIT_OF_JOIN: u64 = 144 << 20;
/// What answers of a provider may take that are no files: 83 MiB were seen, and 126 MiB where all their values were read.
const LIMIT_OF_DOCUMENTS: u64 = 112 << 20;

/// Objects that are over, each with annotations, a status and a template: 330 kB. The operator begins with the first few, and with all of
/// them. 700 is what CI has time for; held as they are, they would take 230 MiB. `MEMORY_OBJECTS=10000` of `make soak` makes more, which
/// have no more than what is kept of them: etcd has room for 2 GiB.
const FEW_OBJECTS: usize = 200;
const OBJECTS: usize = 700;
/// Batches that are kept of an object.
const KEPT_BATCHES: usize = 32;
/// What the watch keeps of an object, with room for what an allocator adds.
const OBJECT_BYTES: u64 = 16 << 10;
/// By how much two peaks of the same may differ.
const NOISE: u64 = 24 << 20;

/// Manifests whose values take a hundred times their text: one of 1.25 MB, which is most that etcd takes, and others of 330 kB, for
/// each write of the large one takes the API server seconds.
const TREES: usize = 20;

/// Batches of the job that has a hundred uploads at a time. All of them are planned; the job is deleted before they are sent.
const BATCHES: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn no_manifest_input_or_answer_takes_the_operator_beyond_its_memory() {
    let answers = tempfile::NamedTempFile::new().unwrap();
    let rules = json!([
        {"contains": "at length", "answer": "x".repeat(31 << 20)},
        {"contains": "by the page", "answer": "x".repeat(LONGEST_HELD)},
        {"contains": "in vain", "status": 500, "message": "x".repeat(1 << 20)},
    ]);
    std::fs::write(answers.path(), rules.to_string()).unwrap();
    let answers_file = answers.path().to_str().unwrap();
    let args = ["--batch-duration", "100ms", "--answers", answers_file, "--api-key", ACCOUNTS];
    let mut scene = Scene::set("memory", &args).await;
    objects(&mut scene).await;
    let mut stages = Stages::new(&scene);
    stages.of("ids", ids(&scene)).await;
    stages.of("answers", long_answers(&scene)).await;
    stages.of("reuse", reuse::reused(&scene)).await;
    stages.of("rows", long_rows(&scene)).await;
    stages.of("pages", pages(&scene)).await;
    stages.of("rounds", rounds(&scene)).await;
    stages.of("uploads", uploads(&scene)).await;
    stages.of("documents", documents(&scene)).await;
    stages.of("journals", journals(&scene)).await;
    stages.of("manifests", manifests(&scene)).await;
    stages.judge();
    // What a scene looks through at its end has to be held by somebody.
    scene.kubectl(&["delete", "bjob", "-l", "huge=yes", "--wait=false"]);
    for name in (0..TREES).map(|n| format!("tree-{n}")) {
        scene.wait_gone(&name).await;
    }
}

/// What each scenario takes at its peak.
struct Stages<'a> {
    scene: &'a Scene,
    peaks: Vec<(&'static str, u64)>,
}

impl<'a> Stages<'a> {
    fn new(scene: &'a Scene) -> Self {
        Stages { scene, peaks: vec![] }
    }

    /// A scenario, with honest jobs beside it: one at a time, each of which has to end.
    async fn of(&mut self, name: &'static str, scenario: impl Future<Output = ()>) {
        let began = Instant::now();
        let honest = async {
            for n in 0.. {
                let job = format!("honest-{name}-{n}");
                self.scene.apply_job(
                    &job,
                    json!({"spec": {"input": {"inline": {"requests": [
                        {"customID": "a", "body": {"messages": [{"role": "user", "content": prompt(&job, 0)}]}}
                    ]}}}}),
                );
                self.scene.wait_condition(&job, "Complete", "True", 120).await;
            }
        };
        tokio::select! { () = scenario => {}, () = honest => {} }
        // One more, when all is over.
        let job = format!("honest-{name}");
        self.scene.apply_job(&job, json!({}));
        self.scene.wait_condition(&job, "Complete", "True", 120).await;
        self.end(name, began.elapsed()).await;
    }

    async fn end(&mut self, name: &'static str, took: Duration) {
        let operator = self.scene.operator.as_ref().unwrap();
        let peak = operator.peak_memory();
        println!("{name}: {} MiB at the peak, {} s", peak >> 20, took.as_secs());
        self.peaks.push((name, peak));
        operator.forget_peak();
    }

    fn judge(&self) {
        // Those limits are of what a scenario takes beside the objects of CI.
        let more = all_objects().saturating_sub(OBJECTS) as u64 * OBJECT_BYTES;
        let limit = |name: &str| match name {
            "pages" | "rounds" => LIMIT.min(LIMIT_OF_JOIN + more),
            "documents" => LIMIT.min(LIMIT_OF_DOCUMENTS + more),
            _ => LIMIT,
        };
        let over: Vec<_> = self.peaks.iter().filter(|(name, peak)| *peak >= limit(name)).collect();
        assert!(over.is_empty(), "beyond what is allowed, in bytes: {over:?}");
    }
}

/// How many objects there are.
fn all_objects() -> usize {
    std::env::var("MEMORY_OBJECTS").map_or(OBJECTS, |n| n.parse().unwrap())
}

/// The peak does not grow with the objects by more than what is kept of each.
async fn objects(scene: &mut Scene) {
    let all = all_objects();
    let (mut made, mut peaks) = (0, vec![]);
    for count in [FEW_OBJECTS, all] {
        many_objects(scene, made..count).await;
        made = count;
        let seen = scene.operator.as_ref().map_or(0, |operator| operator.peak_memory());
        scene.restart().await;
        let job = format!("honest-{count}");
        scene.apply_job(&job, json!({}));
        scene.wait_condition(&job, "Complete", "True", 120).await;
        let begun = scene.operator.as_ref().unwrap().peak_memory();
        println!("{count} objects: {} MiB at the peak as they come, {} MiB as it begins", seen >> 20, begun >> 20);
        peaks.push(seen.max(begun));
    }
    let most = peaks[0] + (all - FEW_OBJECTS) as u64 * OBJECT_BYTES + NOISE;
    assert!(peaks[1] < most.min(LIMIT), "{peaks:?} bytes of {FEW_OBJECTS} and {all} objects");
    scene.operator.as_ref().unwrap().forget_peak();
}

/// Creates objects that are over, with all that they may hold beside requests.
async fn many_objects(scene: &Scene, numbers: std::ops::Range<usize>) {
    let jobs = scene.jobs();
    let create = async |n: usize| {
        let name = format!("large-{n}");
        let is_whole = n < OBJECTS;
        let text = |bytes: usize| "x".repeat(if is_whole { bytes } else { 0 });
        let mut job = scene.job(
            &name,
            json!({"spec": {"suspend": true, "input": {
                "inline": null, "objectStore": {"uri": "s3://tests/none.csv", "secretRef": {"name": "s3"}},
                "template": {"customID": "$(row.id)", "body": {"x": text(20_000)}},
            }}}),
        );
        job["metadata"]["annotations"] = json!({"note": text(255 << 10)});
        job["metadata"]["labels"] = json!({"huge": "yes"});
        let job: BatchJob = serde_json::from_value(job).unwrap();
        let mut job = jobs.create(&PostParams::default(), &job).await.unwrap();
        let batches = (0..if is_whole { 120 } else { KEPT_BATCHES }).map(|i| json!({
            "name": format!("{i:05}-1"), "state": "Settled", "providerID": "b".repeat(200), "requests": 1, "model": "m".repeat(250),
        }));
        let conditions = ["Complete", "Reconciling", "Held", "Stalled"].map(|kind| {
            json!({
                "type": kind, "status": if kind == "Complete" { "True" } else { "False" },
                "reason": if kind == "Reconciling" { "Finished" } else { "Succeeded" },
                "message": text(2_000), "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
            })
        });
        job.status = Some(
            serde_json::from_value(json!({
                "outcome": "Succeeded", "observedGeneration": 1, "lock": {"specHash": "s", "outputURI": "u"},
                "conditions": conditions, "batches": batches.collect::<Value>(),
            }))
            .unwrap(),
        );
        loop {
            // The operator may have been faster.
            let Err(kube::Error::Api(_)) = jobs.replace_status(&name, &PostParams::default(), &job).await else {
                break;
            };
            job.metadata.resource_version = jobs.get(&name).await.unwrap().metadata.resource_version;
        }
    };
    futures::stream::iter(numbers).map(create).buffer_unordered(16).collect::<Vec<()>>().await;
}

/// Bodies whose values take a hundred times their text.
async fn manifests(scene: &Scene) {
    let body = |items: usize| {
        let items = r#"{"":0},"#.repeat(items);
        let body = format!(r#"{{"messages": [{{"role": "user", "content": "{CANARY}"}}], "x": [{items}0]}}"#);
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let (large, small) = (body(78_000), body(20_000));
    let names: Vec<String> = (0..TREES).map(|n| format!("tree-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let body = if n == 0 { &large } else { &small };
        let requests = json!([{"customID": "a", "body": body}, {"customID": "b", "body": body}]);
        let mut job = scene.job(name, json!({"spec": {"suspend": true}}));
        job["spec"]["input"]["inline"]["requests"] = requests;
        job["metadata"]["labels"] = json!({"huge": "yes"});
        if n > 0 {
            // All of them are hashed; the requests of one are read as well.
            job["spec"]["providerRef"]["name"] = json!("none");
        }
        let job: BatchJob = serde_json::from_value(job).unwrap();
        scene.jobs().create(&PostParams::default(), &job).await.unwrap();
    }
    for name in &names {
        let was_seen =
            |job: &BatchJob| condition(job, "Stalled").is_some_and(|(_, reason, _)| reason == "ProviderNotFound");
        let was_read = |job: &BatchJob| job.status.as_ref().is_some_and(|s| s.requests.is_some());
        let is_so = |job: &BatchJob| was_read(job) || (job.spec.provider_ref.name == "none" && was_seen(job));
        scene.wait_job("it was looked at", name, 180, is_so).await;
    }
}

/// Lines by the million: refused ones in a few megabytes, and others just under the limit, in two jobs at a time.
async fn ids(scene: &Scene) {
    let models: Vec<String> = (0..17).map(|n| format!("m{n}")).collect();
    lines(scene, "in/refused.jsonl.zst", 8_000_000, |i| {
        let model = &models[i.min(16)];
        format!(r#"{{"custom_id": "{i}", "body": {{"model": "{model}", "messages": []}}}}"#)
    })
    .await;
    lines(scene, "in/many.jsonl.zst", 700_000, |i| {
        // Nothing is sent of it in the end.
        let id = if i == 699_999 { 0 } else { i };
        format!(r#"{{"custom_id": "{id}", "body": {{"messages": []}}}}"#)
    })
    .await;
    let jobs = [("refused", "refused"), ("many-0", "many"), ("many-1", "many")];
    for (name, key) in jobs {
        scene.apply_job(name, json!({"inputKey": format!("{key}.jsonl.zst")}));
    }
    for (name, key) in jobs {
        let job = scene.wait_condition(name, "Failed", "True", 300).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        let expected = match key {
            "refused" => "reading stopped after 1000000 requests",
            _ => "line 700000: has a custom id that an earlier request has",
        };
        assert!(reason == "InvalidInput" && message.contains(expected), "{name}: {reason}: {message}");
    }
}

async fn lines(scene: &Scene, key: &str, count: usize, line: impl Fn(usize) -> String) {
    let path = format!("{}/{key}", scene.namespace);
    let out = BufWriter::new(std::sync::Arc::new(scene.bucket.clone()), path.as_str().into());
    let mut out = ZstdEncoder::with_quality(out, Level::Fastest);
    let mut block = String::with_capacity(1 << 20);
    for i in 0..count {
        block += &line(i);
        block.push('\n');
        if block.len() > 1 << 20 {
            out.write_all(block.as_bytes()).await.unwrap();
            block.clear();
        }
    }
    out.write_all(block.as_bytes()).await.unwrap();
    out.shutdown().await.unwrap();
}

/// Answers as long as they may be, of sixteen models, so that sixteen parts are joined.
async fn long_answers(scene: &Scene) {
    let line = |n: usize| {
        let body = json!({"model": format!("m{n}"), "messages": [{"role": "user", "content": format!("{CANARY} at length {n}")}]});
        json!({"custom_id": n.to_string(), "body": body}).to_string() + "\n"
    };
    scene.put("in/long.jsonl", (0..16).map(line).collect::<String>()).await;
    let output = json!({"includeRequests": true});
    scene.apply_job("long", json!({"inputKey": "long.jsonl", "spec": {"parallelism": 16, "output": output}}));
    let job = scene.wait_condition("long", "Complete", "True", 300).await;
    assert_eq!(job.status.unwrap().requests.unwrap().succeeded, 16);
    let written: Vec<_> = scene.list("out/long/").await;
    assert!(written.contains(&"results.jsonl".to_string()), "{written:?}");
}

/// Requests that are made of answers of 31 MB and of their requests.
async fn long_rows(scene: &Scene) {
    let content = "$(row.answer) $(row.request.messages)";
    let template =
        json!({"customID": "$(row.custom_id)", "body": {"messages": [{"role": "user", "content": content}]}});
    let mut job = scene.job("rows", json!({"spec": {"suspend": true}}));
    job["spec"]["input"] = json!({"batchJobRef": {"name": "long", "select": "Succeeded"}, "template": template});
    scene.apply(&job.to_string());
    let job = scene.wait_condition("rows", "Planned", "True", 300).await;
    assert_eq!(job.status.unwrap().requests.unwrap().total, 16);
}

/// Bytes of an answer that is just short enough to be held without a turn, with what stands around it.
const LONGEST_HELD: usize = (4 << 20) - (1 << 10);

/// Answers of four megabytes, of sixteen models in turns: as many as may be held at a time.
async fn pages(scene: &Scene) {
    let job = of_sixteen_models(scene, "pages", "by the page", 48, json!({"parallelism": 16})).await;
    assert_eq!(job.status.unwrap().requests.unwrap().succeeded, 48);
}

/// Requests that fail at length in four rounds of sixteen models, so that the parts of 64 batches are joined at a time.
async fn rounds(scene: &Scene) {
    let spec = json!({"parallelism": 16, "backoffLimitPerRequest": 3});
    let job = of_sixteen_models(scene, "rounds", "in vain", 32, spec).await;
    let requests = job.status.unwrap().requests.unwrap();
    assert_eq!((requests.succeeded, requests.failed), (0, 32));
}

/// A job whose requests ask for sixteen models in turns, so that all batches of a round begin and end together.
async fn of_sixteen_models(scene: &Scene, name: &str, words: &str, requests: usize, spec: Value) -> BatchJob {
    let line = |n: usize| {
        let content = format!("{CANARY} {words} {n}");
        let body = json!({"model": format!("m{}", n % 16), "messages": [{"role": "user", "content": content}]});
        json!({"custom_id": n.to_string(), "body": body}).to_string() + "\n"
    };
    scene.put(&format!("in/{name}.jsonl"), (0..requests).map(line).collect::<String>()).await;
    scene.apply_job(name, json!({"inputKey": format!("{name}.jsonl"), "spec": spec}));
    let is_over = |job: &BatchJob| ["Complete", "Failed"].iter().any(|kind| is_true(job, kind));
    scene.wait_job("it is over", name, 300, is_over).await
}

fn is_true(job: &BatchJob, kind: &str) -> bool {
    condition(job, kind).is_some_and(|(status, ..)| status == "True")
}

/// Accounts at the provider, and their keys.
const ACCOUNTS: &str = "account-0,account-1,account-2,account-3,account-4,account-5,account-6,account-7";

/// Bytes of an answer that is no file: half of what is read of one, and as many as the simulator takes as a fault.
const DOCUMENT: usize = 1_900_000;

/// Answers of a provider that are no files, with ten times the values that are read, to a hundred jobs of eight accounts.
async fn documents(scene: &Scene) {
    let junk = format!(r#"{{"object": "list", "data": [{}0]}}"#, "0,".repeat(DOCUMENT / 2));
    let names: Vec<&str> = ACCOUNTS.split(',').collect();
    for name in &names {
        let provider = scene.manifest("provider.yaml").replace("name: llm\n", &format!("name: {name}\n"));
        scene.apply(&provider.replace("llm-key", &format!("{name}-key")).replace("sk-test", name));
        scene.provider_judged(name).await;
    }
    for point in ["get_batch", "list_batches"] {
        let fault = json!({"point": point, "action": "status", "status": 200, "body": junk, "times": 100});
        scene.sim.fault(fault).await;
    }
    let jobs: Vec<String> = (0..100).map(|n| format!("document-{n}")).collect();
    for (n, job) in jobs.iter().enumerate() {
        scene.apply_job(job, json!({"spec": {"providerRef": {"name": names[n % names.len()]}}}));
    }
    for job in &jobs {
        scene.wait_condition(job, "Complete", "True", 240).await;
    }
    scene.sim.no_more_faults().await;
}

/// Journals and manifests as long as they are read, of values that take sixteen times their text.
async fn journals(scene: &Scene) {
    let values = |bytes: usize| "0,".repeat(bytes / 2 - 256);
    let attempt = format!(r#"{{"number": 1, "junk": [{}0]}}"#, values(16 << 20));
    let shard = r#""sha256": "", "bytes": 1, "first": 0, "requests": 1, "failures": 0, "attempt": "#;
    let journal =
        format!(r#"{{"protocolVersion": 2, "shards": {{"count": 1, "open": {{"0": {{{shard}{attempt}}}}}}}}}"#);
    let manifest = format!(r#"{{"manifestVersion": 1, "batches": [{}""]}}"#, r#""","#.repeat((8 << 20) / 3 - 64));
    for n in 0..16 {
        scene.put(&format!("out/journal-{n}/_batchjob/journal.json"), journal.clone()).await;
        scene.put(&format!("out/manifest-{n}/manifest.json"), manifest.clone()).await;
        for name in [format!("journal-{n}"), format!("manifest-{n}")] {
            scene.apply_job(&name, json!({}));
        }
    }
    for n in 0..16 {
        for name in [format!("journal-{n}"), format!("manifest-{n}")] {
            let is_told = |job: &BatchJob| {
                ["Stalled", "Failed", "Reconciling"].iter().any(|kind| {
                    let told = condition(job, kind).filter(|(status, ..)| status == "True");
                    told.is_some_and(|(_, _, message)| {
                        message.contains("no journal") || message.contains("manifest.json")
                    })
                })
            };
            scene.wait_job("its owner is told", &name, 180, is_told).await;
        }
    }
}

/// A hundred uploads at a time of a job of many batches.
async fn uploads(scene: &Scene) {
    let provider = scene.manifest("provider.yaml").replace("name: llm\n", "name: small\n");
    scene.apply(&(provider + "  limits:\n    maxRequestsPerBatch: 1\n"));
    scene.provider_judged("small").await;
    let model = "m".repeat(250);
    let line = |n: usize| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": format!("{CANARY} {n}")}]});
        json!({"custom_id": n.to_string(), "body": body}).to_string() + "\n"
    };
    scene.put("in/many-batches.jsonl", (0..BATCHES).map(line).collect::<String>()).await;
    // So that they queue.
    scene.sim.fault(json!({"point": "upload", "action": "delay", "milliseconds": 4_000, "times": 100})).await;
    let spec = json!({"parallelism": 100, "providerRef": {"name": "small"}});
    scene.apply_job("many-batches", json!({"inputKey": "many-batches.jsonl", "spec": spec}));
    let is_at_work = |job: &BatchJob| {
        job.status
            .as_ref()
            .and_then(|status| status.requests.as_ref())
            .is_some_and(|requests| requests.succeeded >= 100)
    };
    scene.wait_job("100 batches are settled", "many-batches", 240, is_at_work).await;
    scene.kubectl(&["delete", "bjob", "many-batches", "--wait=false"]);
    scene.wait_gone("many-batches").await;
}
