//! What has no answer is sent again, and only that; what failed too often ends the job.

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::quiet::prompt;
use crate::support::scene::{Scene, condition};

fn rules(rules: Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules.to_string()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_batch_left_is_sent_again_and_nothing_else() {
    let scene = Scene::new("resend", &["--batch-duration", "8s"]).await;
    let requests = crate::support::scene::requests("j", 40);
    scene.apply_job("j", json!({"spec": {"input": {"inline": {"requests": requests}}}}));
    let half_done = |b: &Value| b["request_counts"]["completed"].as_i64().is_some_and(|n| n >= 5);
    let batch = scene.wait_batch("some lines are done", half_done).await;
    // Somebody stops it at the provider's own console.
    let url = format!("{}/batches/{}/cancel", scene.sim.url, batch["id"].as_str().unwrap());
    let stopped = reqwest::Client::new().post(url).bearer_auth("sk-test").send().await.unwrap();
    assert!(stopped.status().is_success());
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    let wanted: Vec<String> = (0..40).map(|i| format!("j-{i}")).collect();
    assert_eq!(scene.result_ids("j").await, wanted, "one result set in the order of the requests");
    scene.sim.assert_billed_once(40).await;
    assert_eq!(scene.sim.state().await["creates"], 2);
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.cancelled), (40, 40, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_keeps_failing_is_sent_as_often_as_allowed() {
    let rules = rules(json!([{"contains": "j 1", "status": 500, "code": "server_error", "message": "oops"}]));
    let scene =
        Scene::new("keeps-failing", &["--batch-duration", "200ms", "--answers", rules.path().to_str().unwrap()]).await;
    scene.apply_job("j", json!({"spec": {"backoffLimitPerRequest": 1}}));
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "CompletedWithFailures");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.failed), (3, 2, 1));
    assert_eq!(scene.sim.state().await["creates"], 2, "once, and once again");
    scene.sim.assert_billed_once(2).await;
    let again: Value = serde_json::from_str(&scene.get("out/j/unsuccessful.jsonl").await.unwrap()).unwrap();
    assert_eq!(
        (again["custom_id"].as_str(), again["body"]["messages"][0]["content"].as_str()),
        (Some("j-1"), Some(prompt("j", 1).as_str()))
    );
    // What was unsuccessful is an input as it stands.
    let lines = scene.get("out/j/unsuccessful.jsonl").await.unwrap();
    scene.put("in/again.jsonl", lines).await;
    scene.apply_job("again", json!({"inputKey": "again.jsonl", "spec": {"suspend": true}}));
    scene.wait_condition("again", "Planned", "True", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_stop_further_batches_and_what_was_answered_is_written() {
    let rules = rules(json!([{"contains": "j 0", "status": 400, "code": "bad", "message": "no"}]));
    let mut scene =
        Scene::set("too-many", &["--batch-duration", "300ms", "--answers", rules.path().to_str().unwrap()]).await;
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 2\n"));
    scene.restart().await;
    let requests = crate::support::scene::requests("j", 6);
    let spec = json!({"input": {"inline": {"requests": requests}}, "parallelism": 1, "maxFailedRequests": "10%"});
    scene.apply_job("j", json!({"spec": spec}));
    let job = scene.wait_condition("j", "Failed", "True", 60).await;
    assert_eq!(condition(&job, "Failed").unwrap().1, "MaxFailedRequestsExceeded");
    assert_eq!(condition(&job, "Complete").unwrap().0, "False");
    assert_eq!(scene.sim.state().await["creates"], 1, "no further batch");
    assert_eq!(scene.result_ids("j").await, ["j-1"]);
    assert_eq!(scene.get("out/j/errors.jsonl").await.unwrap().lines().count(), 5, "no line is lost");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.failed, counts.cancelled), (6, 1, 1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_a_job_is_cancelled_collected_and_failed() {
    let scene = Scene::new("deadline", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({"spec": {"activeDeadlineSeconds": 8}}));
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    assert_eq!(condition(&job, "Failed").unwrap().1, "DeadlineExceeded");
    let state = scene.sim.state().await;
    assert_eq!((state["batches"][0]["status"].as_str(), &state["files"]), (Some("cancelled"), &json!([])));
    assert_eq!(scene.get("out/j/errors.jsonl").await.unwrap().lines().count(), 3);
    assert_eq!(serde_json::to_value(job.status.unwrap().outcome).unwrap(), "Failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_told_to_stop_sends_no_further_batch_and_writes_what_it_has() {
    let mut scene = Scene::set("told-to-stop", &["--batch-duration", "1h"]).await;
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 2\n"));
    scene.restart().await;
    let manifest = |name: &str, change: Value| {
        let mut job = scene.job(name, json!({"spec": {"parallelism": 1}}));
        job["spec"]["input"] = json!({"inline": {"requests": crate::support::scene::requests(name, 6)}});
        job["spec"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        job.to_string()
    };
    let apply = |name: &str, change: Value| scene.apply(&manifest(name, change));
    let refused = |manifest: &str, words: &str| {
        let (applied, said) = scene.try_apply(manifest);
        assert!(!applied && said.contains(words), "{said}");
    };
    let runs = |j: &BatchJob| j.status.as_ref().is_some_and(|s| s.batches.iter().any(|b| b.provider_id.is_some()));
    let says = |reason: &'static str| move |j: &BatchJob| condition(j, "Complete").is_some_and(|c| c.1 == reason);

    apply("j", json!({}));
    scene.wait_job("its first batch runs", "j", 40, runs).await;
    apply("j", json!({"stopPolicy": "Drain"}));
    scene.wait_job("it drains", "j", 20, says("Draining")).await;
    scene.finish(&scene.sim.state().await["batches"][0]).await;
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    assert_eq!(condition(&job, "Failed").unwrap().1, "Cancelled");
    assert_eq!(scene.result_ids("j").await, ["j-0", "j-1"]);
    assert_eq!(scene.get("out/j/unsuccessful.jsonl").await.unwrap().lines().count(), 4, "another job can run these");
    let status = job.status.unwrap();
    assert_eq!(serde_json::to_value(status.outcome).unwrap(), "Cancelled");
    let counts = status.requests.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.cancelled), (6, 2, 4));

    apply("k", json!({}));
    scene.wait_job("its first batch runs", "k", 40, runs).await;
    apply("k", json!({"stopPolicy": "Drain"}));
    scene.wait_job("it drains", "k", 20, says("Draining")).await;
    apply("k", json!({"stopPolicy": "Cancel"}));
    scene.wait_condition("k", "Failed", "True", 40).await;
    assert_eq!(scene.sim.state().await["batches"][1]["status"], "cancelled");
    refused(&manifest("k", json!({"stopPolicy": "Drain"})), "`spec.stopPolicy` may not be changed once it is set");
    assert_eq!(scene.wait_told("Draining", 2).await.len(), 2, "once for each job");

    // One that was not sent ends at once, and stays at its end whatever is applied.
    apply("n", json!({"suspend": true}));
    scene.wait_condition("n", "Planned", "True", 30).await;
    apply("n", json!({"suspend": true, "stopPolicy": "Drain"}));
    let job = scene.wait_condition("n", "Failed", "True", 20).await;
    assert_eq!(condition(&job, "Failed").unwrap().1, "Cancelled");
    assert_eq!(serde_json::to_value(job.status.unwrap().outcome).unwrap(), "Cancelled");
    refused(&manifest("n", json!({})), "to go on, create another BatchJob");
    apply("n", json!({"suspend": false, "stopPolicy": "Drain"}));
    let generation = scene.get_job("n").await.metadata.generation;
    let is_seen = |j: &BatchJob| j.status.as_ref().is_some_and(|s| s.observed_generation == generation);
    let is_over = |j: &BatchJob| is_seen(j) && condition(j, "Failed").unwrap().1 == "Cancelled";
    scene.wait_job("it is over all the same", "n", 20, is_over).await;
    assert_eq!(scene.sim.state().await["creates"], 2, "a batch of j and one of k");

    // Applied again after its deletion, the job adopts its end.
    scene.kubectl(&["delete", "bjob", "j"]);
    apply("j", json!({"stopPolicy": "Drain"}));
    let again = scene.wait_condition("j", "Failed", "True", 30).await;
    assert_eq!(condition(&again, "ResultsReused").unwrap().0, "True");
    scene.sim.assert_billed_once(2).await;

    let template = scene.job("t", json!({"spec": {"stopPolicy": "Drain"}}))["spec"].clone();
    let cron = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "metadata": {"name": "t"},
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": template}}});
    refused(&cron.to_string(), "`spec.jobTemplate.spec.stopPolicy` may not be set");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_deadline_a_job_ends_without_a_batch_that_does_not_and_says_what_it_may_cost() {
    let mut scene = Scene::set("endless", &["--batch-duration", "1h"]).await;
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 2\n"));
    scene.settings.extra = ["--abandon-after-seconds", "3"].map(String::from).to_vec();
    scene.restart().await;
    scene.sim.fault(json!({"point": "batch", "action": "ignore_cancel"})).await;
    scene.apply_job("j", json!({"spec": {"activeDeadlineSeconds": 8, "parallelism": 2}}));
    let job = scene.wait_condition("j", "Failed", "True", 60).await;
    let batches = scene.sim.state().await["batches"].as_array().unwrap().clone();
    let endless = batches.iter().find(|b| b["status"] == "cancelling").expect("one ends and one does not");
    let (id, requests) = (endless["id"].as_str().unwrap(), endless["request_counts"]["total"].as_i64().unwrap());
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert_eq!(reason, "DeadlineExceeded");
    let cost = format!("up to {requests} requests may still be billed");
    assert!(message.contains(id) && message.contains(&cost), "{message}");
    let notes: Vec<String> = scene.wait_told("BatchAbandoned", 1).await.iter().map(|e| e["note"].to_string()).collect();
    assert!(notes.len() == 1 && notes[0].contains(id) && notes[0].contains(&cost), "{notes:?}");
    let manifest: serde_json::Value = serde_json::from_str(&scene.get("out/j/manifest.json").await.unwrap()).unwrap();
    assert_eq!(manifest["abandonedBatches"][0]["batchID"], id);
    assert_eq!(manifest["abandonedBatches"][0]["requests"], requests);
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.missing, counts.cancelled), (3, requests, 3 - requests));
    let errors = scene.get("out/j/errors.jsonl").await.unwrap();
    assert_eq!((errors.lines().count(), errors.matches("batch_abandoned").count() as i64), (3, requests));
    // Whoever applies it again adopts that end.
    scene.kubectl(&["delete", "bjob", "j"]);
    scene.finish(endless).await;
    scene.apply_job("j", json!({}));
    let again = scene.wait_condition("j", "Failed", "True", 30).await;
    assert_eq!(condition(&again, "ResultsReused").unwrap().0, "True");
    assert_eq!(scene.sim.state().await["creates"], 2, "nothing is sent again");
    scene.sim.assert_billed_once(requests as usize).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_a_job_that_could_send_nothing_fails_and_nothing_is_paid() {
    let scene = Scene::new("too-late", &[]).await;
    scene.sim.fault(json!({"point": "upload", "action": "status", "status": 503, "times": 100})).await;
    scene.apply_job("j", json!({"spec": {"activeDeadlineSeconds": 4}}));
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    assert_eq!(condition(&job, "Failed").unwrap().1, "DeadlineExceeded");
    assert_eq!(job.status.unwrap().lock, None, "what cost nothing may be mended");
    assert_eq!(scene.sim.state().await["creates"], 0);
    let journal: serde_json::Value =
        serde_json::from_str(&scene.get("out/j/_batchjob/journal.json").await.unwrap()).unwrap();
    assert!(journal["rev"].as_u64().unwrap() < 10, "{journal}");
}
