//! The same jobs at a batch server that nobody here wrote: AIBrix's metadata service, which answers every request with the
//! request itself (`--dry-run`). It leaves out what has no value, names files by bare UUIDs and has a state of its own,
//! `scheduling`.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::operator::Operator;
use crate::support::process::{Process, free_port, python, scratch};
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::quiet::{CANARY, prompt};
use crate::support::scene::{Scene, condition};

struct Aibrix {
    _process: Process,
    /// Its address, without a path.
    url: String,
}

impl Aibrix {
    async fn start(name: &str) -> Aibrix {
        let port = free_port().to_string();
        let args = ["--host", "127.0.0.1", "--port", &port, "--dry-run"].map(String::from);
        let storage = scratch().join(format!("{name}-aibrix")).to_str().unwrap().to_string();
        let program = python("aibrix", "aibrix_metadata");
        let envs = [("STORAGE_LOCAL_PATH", storage)];
        let process = Process::supervised(&program, &args, &envs, &format!("{name}-aibrix-server"));
        let url = format!("http://127.0.0.1:{port}");
        eventually("AIBrix answers", 60, || async {
            let answer = reqwest::get(format!("{url}/healthz")).await;
            answer.is_ok_and(|r| r.status().is_success()).then_some(())
        })
        .await;
        Aibrix { _process: process, url }
    }

    /// What it lists as `files` or `batches`.
    async fn list_all(&self, what: &str) -> Vec<Value> {
        let url = format!("{}/v1/{what}?limit=100", self.url);
        let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        assert_eq!(page["has_more"], false);
        page["data"].as_array().unwrap().clone()
    }

    /// Without the batch that it makes of a deleted file when it is tried out: nothing was in it.
    async fn list(&self, what: &str) -> Vec<Value> {
        let mut all = self.list_all(what).await;
        all.retain(|thing| thing["metadata"]["bj-probe"].is_null());
        all
    }

    /// It makes an empty file of errors for each batch and tells nobody of it, so that nobody can ask for its deletion.
    async fn files_with_content(&self) -> Vec<Value> {
        let mut files = self.list("files").await;
        files.retain(|file| file["bytes"] != 0);
        files
    }

    /// Requests of all its batches, and how many of them it answered.
    async fn asked_and_answered(&self) -> (i64, i64) {
        let batches = self.list("batches").await;
        let sum = |count: &str| batches.iter().map(|b| b["request_counts"][count].as_i64().unwrap()).sum();
        (sum("total"), sum("completed"))
    }
}

/// A scene whose provider is at `url`, with 40 requests a batch at most.
async fn scene_at(name: &str, url: &str) -> Scene {
    let mut scene = Scene::set(name, &[]).await;
    scene.base_url = format!("{url}/v1");
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 40\n"));
    scene.put("in/reviews.jsonl", (0..60).map(request).collect::<String>()).await;
    scene
}

fn body(i: usize) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": format!("Review {i} {CANARY}: „gut“, 👟\n\u{2028}")}]})
}

fn request(i: usize) -> String {
    let line =
        json!({"custom_id": format!("review {i}"), "method": "POST", "url": "/v1/chat/completions", "body": body(i)});
    line.to_string() + "\n"
}

/// Custom id and answer of each line of the results.
async fn results(scene: &Scene, job: &str) -> Vec<(String, Value)> {
    let text = scene.get(&format!("out/{job}/results.jsonl")).await.unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["custom_id"].as_str().unwrap().into(), line["response"]["body"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_vendors_server_runs_the_same_jobs() {
    let server = Aibrix::start("aibrix").await;
    let mut scene = scene_at("aibrix", &server.url).await;
    scene.restart().await;
    let can = scene.provider_judged("llm").await.status.unwrap().capabilities.unwrap();
    assert!(can.list_batches() && !can.delete_files(), "{can:?}");
    let made = &server.list_all("batches").await[0];
    assert!(made["request_counts"]["completed"].as_i64().unwrap_or(0) == 0 && made["status"] != "completed", "{made}");
    scene.apply_job("small", json!({}));
    scene.apply_job("large", json!({"inputKey": "reviews.jsonl", "spec": {"model": null}}));
    for (job, batches, lines) in [("small", 1, 3), ("large", 2, 60)] {
        scene.wait_complete(job).await;
        let status = scene.wait_tidy(job).await.status.unwrap();
        let counts = status.requests.unwrap();
        assert_eq!((counts.total, counts.succeeded), (lines, lines), "{job}");
        assert_eq!(status.batches.len(), batches, "{job}");
    }
    let asked =
        |i: usize| json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt("small", i)}]});
    let wanted: Vec<_> = (0..3).map(|i| (format!("small-{i}"), asked(i))).collect();
    assert_eq!(results(&scene, "small").await, wanted);
    let wanted: Vec<_> = (0..60).map(|i| (format!("review {i}"), body(i))).collect();
    assert_eq!(results(&scene, "large").await, wanted, "the answers, line by line");
    assert_eq!(server.asked_and_answered().await, (63, 63), "each line once");
    assert_eq!(server.files_with_content().await, [Value::Null; 0], "nothing is left at the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_another_vendors_server_has_created_a_batch_each_line_is_answered_once() {
    let server = Aibrix::start("aibrix-killed").await;
    let proxy = Proxy::start(&server.url, None).await;
    let mut scene = scene_at("aibrix-killed", &proxy.url).await;
    let operator: Arc<Mutex<Option<Operator>>> = Arc::new(Mutex::new(Some(scene.settings.start().await)));
    // Trying the provider out posts a batch too, and a kill at the first one forgets the second one's upload.
    scene.provider_judged("llm").await;
    let victim = operator.clone();
    let strike = Box::new(move || drop(victim.lock().unwrap().take()));
    proxy.place(Fault { method: "POST", path: "/batches", nth: 2, when: When::After, strike });
    scene.apply_job("large", json!({"inputKey": "reviews.jsonl", "spec": {"model": null}}));
    eventually("killed after the second create", 40, || async { proxy.struck().then_some(()) }).await;
    eventually("the operator is gone", 10, || async { operator.lock().unwrap().is_none().then_some(()) }).await;
    scene.restart().await;
    let job = scene.wait_complete("large").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    scene.wait_tidy("large").await;
    let wanted: Vec<_> = (0..60).map(|i| (format!("review {i}"), body(i))).collect();
    assert_eq!(results(&scene, "large").await, wanted, "the answers, line by line");
    let batches = server.list("batches").await;
    assert_eq!(batches.len(), 2, "the batch was adopted: {batches:?}");
    assert_eq!(server.asked_and_answered().await, (60, 60), "each line once");
    assert_eq!(server.files_with_content().await, [Value::Null; 0], "nothing is left at the server");
}
