//! Batches that run and that no job follows: found in the provider's list, told of, and stopped only where that is certain.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::Scene;
use crate::support::shared::cluster;

/// Where the operator is installed.
const HOME: &str = "batchjob-operator-system";
const EVERY_SECOND: [&str; 2] = ["--orphan-check-seconds", "1"];
const OWN: &str = "batchjob_orphan_batches{provider=\"BatchProvider\"}";
const ADMINS: &str = "batchjob_orphan_batches{provider=\"ClusterBatchProvider\"}";

/// A provider's account, used by hand.
struct Account<'a> {
    scene: &'a Scene,
    key: &'a str,
    /// A file of one request; batches may share it.
    file: String,
}

impl<'a> Account<'a> {
    async fn of(scene: &'a Scene, key: &'a str) -> Account<'a> {
        let line = json!({"custom_id": "r", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "by hand"}]}});
        let part = reqwest::multipart::Part::text(format!("{line}\n")).file_name("by-hand.jsonl");
        let form = reqwest::multipart::Form::new().text("purpose", "batch").part("file", part);
        let request = reqwest::Client::new().post(format!("{}/files", scene.sim.url)).bearer_auth(key).multipart(form);
        let file: Value = request.send().await.unwrap().json().await.unwrap();
        Account { scene, key, file: file["id"].as_str().unwrap().into() }
    }

    /// The id of a batch that says this of itself.
    async fn batch(&self, metadata: &Value) -> String {
        let body = json!({"input_file_id": self.file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": metadata});
        let url = format!("{}/batches", self.scene.sim.url);
        let request = reqwest::Client::new().post(url).bearer_auth(self.key).json(&body);
        let batch: Value = request.send().await.unwrap().json().await.unwrap();
        batch["id"].as_str().unwrap().into()
    }

    async fn metadata_of(&self, batch: &Value) -> Value {
        let url = format!("{}/batches/{}", self.scene.sim.url, batch["id"].as_str().unwrap());
        let batch: Value =
            reqwest::Client::new().get(url).bearer_auth(self.key).send().await.unwrap().json().await.unwrap();
        batch["metadata"].clone()
    }
}

/// `metadata` with `change`.
fn but(metadata: &Value, change: Value) -> Value {
    let mut changed = metadata.clone();
    changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    changed
}

async fn state_of(scene: &Scene, id: &str) -> String {
    let state = scene.sim.state().await;
    let batch = state["batches"].as_array().unwrap().iter().find(|b| b["id"] == id).unwrap();
    batch["status"].as_str().unwrap().into()
}

/// The events of orphans that speak of this batch.
async fn reports(scene: &Scene, id: &str) -> Vec<Value> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{HOME}/events");
    let list: Value = scene.client.request(http::Request::get(path).body(vec![]).unwrap()).await.unwrap();
    let of = |e: &&Value| e["reason"] == "OrphanBatch" && e["note"].as_str().unwrap().contains(id);
    list["items"].as_array().unwrap().iter().filter(of).cloned().collect()
}

async fn report(scene: &Scene, id: &str) -> String {
    let event = eventually("an orphan is told of", 60, || async { reports(scene, id).await.first().cloned() }).await;
    assert_eq!((&event["type"], &event["regarding"]["kind"]), (&json!("Warning"), &json!("Lease")));
    event["note"].as_str().unwrap().into()
}

/// Waits until `n` orphans are counted.
async fn counted(scene: &Scene, metric: &str, n: f64) {
    let operator = scene.operator.as_ref().unwrap();
    eventually(&format!("{metric} is {n}"), 60, || async { (operator.metric(metric).await == n).then_some(()) }).await;
}

async fn scene(name: &str, sim: &[&str]) -> Scene {
    let mut scene = Scene::set(name, &[&["--batch-duration", "1h"], sim].concat()).await;
    scene.settings.extra = EVERY_SECOND.map(String::from).to_vec();
    scene.restart().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_nobody_follows_is_told_of_once_and_left_alone() {
    let mut scene = Scene::set("orphan", &["--batch-duration", "1h"]).await;
    scene.settings.extra = EVERY_SECOND.map(String::from).to_vec();
    let namespace = &scene.namespace.clone();
    let cluster = cluster().kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    let by_hand = Account::of(&scene, "sk-test").await;
    let gone = json!({"bj-cluster": cluster, "bj-job": format!("{namespace}/gone"), "bj-work": "dead", "bj-intent": "beef",
        "bj-shard": "00000-1"});
    let gone_one = by_hand.batch(&gone).await;
    // Another cluster's, another namespace's, and those that say too little or lead astray; enough of them for two pages.
    let theirs = [
        but(&gone, json!({"bj-cluster": "another"})),
        but(&gone, json!({"bj-job": "elsewhere/gone"})),
        but(&gone, json!({"bj-job": format!("{namespace}/gone/status")})),
        json!({"bj-cluster": cluster, "bj-job": gone["bj-job"]}),
        json!({}),
    ];
    let mut others = vec![];
    for metadata in theirs.iter().cycle().take(105) {
        others.push(by_hand.batch(metadata).await);
    }
    scene.restart().await;
    scene.apply_job("living", json!({}));
    scene.apply_job("orphan", json!({"spec": {"deletionPolicy": "Orphan"}}));
    let (living, orphan) = (scene.batch_of("living").await, scene.batch_of("orphan").await);
    let by_hand = Account::of(&scene, "sk-test").await;
    let said = by_hand.metadata_of(&living).await;
    let forgotten = by_hand.batch(&but(&said, json!({"bj-intent": "cafe"}))).await;
    scene.kubectl(&["delete", "bjob", "orphan", "--wait=false"]);
    scene.wait_gone("orphan").await;
    let note = report(&scene, &gone_one).await;
    for words in [
        format!("BatchJob {namespace}/gone, work dead").as_str(),
        &format!("the account of BatchProvider 'llm' of namespace '{namespace}'"),
        "there is no BatchJob of that name",
        "cancel it at the provider",
    ] {
        assert!(note.contains(words), "{words}: {note}");
    }
    let note = report(&scene, &forgotten).await;
    assert!(note.contains(&format!("BatchJob {namespace}/living")) && note.contains("has it no longer"), "{note}");
    let (living, orphan) = (living["id"].as_str().unwrap(), orphan["id"].as_str().unwrap());
    let note = report(&scene, orphan).await;
    assert!(note.contains("apply that BatchJob again"), "{note}");
    counted(&scene, OWN, 3.0).await;
    // Picked up, it is none any more; and one that comes up later is told of after more looks at the others.
    scene.apply_job("orphan", json!({"spec": {"deletionPolicy": "Orphan"}}));
    counted(&scene, OWN, 2.0).await;
    let late = by_hand.batch(&gone).await;
    report(&scene, &late).await;
    for id in [&gone_one, &forgotten, orphan, &late] {
        let told = reports(&scene, id).await;
        assert!(told.len() == 1 && told[0]["series"].is_null(), "{told:?}");
    }
    assert!(reports(&scene, living).await.is_empty());
    for id in &others {
        assert!(reports(&scene, id).await.is_empty(), "{id}");
    }
    for id in [living, orphan, &gone_one, &forgotten, &late].into_iter().chain(others.iter().map(String::as_str)) {
        assert_eq!(state_of(&scene, id).await, "in_progress", "{id}");
    }
    // It ends, and is counted no longer.
    scene.finish(&json!({"id": late})).await;
    counted(&scene, OWN, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_the_list_shows_after_the_recorded_batch_was_settled_is_told_to_stop() {
    let scene = scene("twin", &["--api-key", "sk-admin"]).await;
    scene.apply_job("done", json!({}));
    scene.apply_job("living", json!({}));
    let (done, living) = (scene.batch_of("done").await, scene.batch_of("living").await);
    let by_hand = Account::of(&scene, "sk-test").await;
    let (of_done, of_living) = (by_hand.metadata_of(&done).await, by_hand.metadata_of(&living).await);
    scene.finish(&done).await;
    scene.wait_complete("done").await;
    scene.wait_tidy("done").await;
    let results = scene.get("out/done/results.jsonl").await.unwrap();
    let twin = by_hand.batch(&of_done).await;
    let twin_of_living = by_hand.batch(&of_living).await;
    // The same in the account of an admin, where the recorded one is not.
    let admins = format!("{}-admins", scene.namespace);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": admins, "namespace": HOME},
        "stringData": {"key": "sk-admin"}});
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": admins},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.sim.url, "namespaces": [{"names": [scene.namespace]}],
            "auth": {"secretKeyRef": {"name": admins, "key": "key"}}}});
    for manifest in [secret, provider] {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    }
    let admins_account = Account::of(&scene, "sk-admin").await;
    let gone = but(&of_done, json!({"bj-job": format!("{}/gone", scene.namespace)}));
    let (elsewhere, orphan) = (admins_account.batch(&of_done).await, admins_account.batch(&gone).await);
    for id in [&twin, &twin_of_living] {
        eventually("a twin is stopped", 60, || async { (state_of(&scene, id).await == "cancelled").then_some(()) })
            .await;
    }
    let told = eventually("the twin is told of", 30, || async {
        let told = scene.told("DuplicateBatches").await;
        told.into_iter().find(|e| e["note"].as_str().unwrap().contains(&twin))
    })
    .await;
    let note = told["note"].as_str().unwrap();
    assert_eq!(told["regarding"]["name"], "done");
    assert!(note.contains(done["id"].as_str().unwrap()) && note.contains("told to stop"), "{note}");
    let note = report(&scene, &orphan).await;
    assert!(note.contains(&format!("the account of ClusterBatchProvider '{admins}' and no")), "{note}");
    counted(&scene, ADMINS, 1.0).await;
    // What cannot be certain is not stopped.
    assert_eq!(state_of(&scene, &elsewhere).await, "in_progress");
    for id in [&twin, &twin_of_living] {
        assert!(reports(&scene, id).await.is_empty());
    }
    counted(&scene, OWN, 0.0).await;
    assert_eq!(state_of(&scene, living["id"].as_str().unwrap()).await, "in_progress");
    scene.finish(&living).await;
    scene.wait_complete("living").await;
    assert_eq!(scene.get("out/done/results.jsonl").await.unwrap(), results);
    cluster().kubectl(&["delete", "cbprov", &admins, "--wait=false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_whose_sibling_the_provider_does_not_confirm_is_told_of_and_not_stopped() {
    let mut scene = scene("unsure", &[]).await;
    scene.apply_job("j", json!({"spec": {"pollPeriodSeconds": 600}}));
    let batch = scene.batch_of("j").await;
    // Searches for twins would find it first.
    scene.stop().await;
    let by_hand = Account::of(&scene, "sk-test").await;
    let twin = by_hand.batch(&by_hand.metadata_of(&batch).await).await;
    // As after a wrong answer to a question: the batch that is recorded is none.
    let key = "out/j/_batchjob/journal.json";
    let journal = scene.get(key).await.unwrap();
    scene.put(key, journal.replace(batch["id"].as_str().unwrap(), "batch_that_never_was")).await;
    scene.restart().await;
    let note = report(&scene, &twin).await;
    assert!(note.contains("does not confirm"), "{note}");
    assert_eq!(state_of(&scene, &twin).await, "in_progress");
    scene.put(key, journal).await;
}
