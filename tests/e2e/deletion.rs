//! Deleting, and applying again.

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn deleted_while_running_it_is_cancelled_and_nothing_is_left_at_the_provider() {
    let scene = Scene::new("delete", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.kubectl(&["delete", "bjob", "j", "--wait=false"]);
    scene.wait_gone("j").await;
    let state = scene.sim.state().await;
    assert_eq!(state["batches"][0]["status"], "cancelled");
    assert_eq!(state["files"], json!([]));
    let manifest: Value = serde_json::from_str(&scene.get("out/j/manifest.json").await.unwrap()).unwrap();
    assert_eq!(manifest["outcome"], "Cancelled");
    assert_eq!(manifest["requests"]["cancelled"], 3);
    assert_eq!(scene.get("out/j/errors.jsonl").await.unwrap().lines().count(), 3, "no line is lost");
    assert_eq!(scene.list("out/j/_batchjob").await, ["journal.json"], "prompts are left nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_before_it_was_sent_it_leaves_nothing_staged_and_applied_again_it_starts_anew() {
    let scene = Scene::new("unsent", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({"spec": {"suspend": true}}));
    scene.wait_condition("j", "Planned", "True", 30).await;
    assert!(scene.list("out/j/_batchjob").await.iter().any(|file| file.contains("/shards/")), "it is staged");
    scene.kubectl(&["delete", "bjob", "j", "--timeout=30s"]);
    assert_eq!(scene.list("out/j/_batchjob").await, ["journal.json"]);
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    assert_eq!(scene.list("out/j/_batchjob").await, ["journal.json"]);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_after_it_failed_before_it_was_sent_it_leaves_nothing_staged_and_mended_it_runs() {
    let scene = Scene::with("unsound", &["--batch-duration", "200ms"], "limits: {maxRequestsPerBatch: 2}").await;
    scene.put("in/j.jsonl", format!("{}nonsense\n", batch_lines("j", 5))).await;
    scene.apply_job("j", json!({"inputKey": "j.jsonl"}));
    scene.wait_condition("j", "Failed", "True", 30).await;
    assert!(scene.list("out/j/_batchjob").await.iter().any(|file| file.contains("/shards/")), "it is staged");
    scene.kubectl(&["delete", "bjob", "j", "--timeout=30s"]);
    assert_eq!(scene.list("out/j/_batchjob").await, ["journal.json", "report.jsonl"], "what is wrong is still told");
    scene.put("in/j.jsonl", batch_lines("j", 5)).await;
    scene.apply_job("j", json!({"inputKey": "j.jsonl"}));
    scene.wait_tidy("j").await;
    assert_eq!(scene.list("out/j/_batchjob").await, ["journal.json"]);
    scene.sim.assert_billed_once(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_applied_again_it_is_adopted_and_nothing_is_billed() {
    let scene = Scene::new("again", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    let first = scene.wait_tidy("j").await;
    scene.kubectl(&["delete", "bjob", "j"]);
    scene.apply_job("j", json!({}));
    let second = scene.wait_complete("j").await;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    assert_eq!(condition(&second, "ResultsReused").unwrap().0, "True");
    assert_eq!(condition(&second, "Complete").unwrap().1, "AllSucceeded");
    assert_eq!(first.status.unwrap().requests, second.status.unwrap().requests);
    assert_eq!(scene.sim.spent().await.0, 1);
    scene.sim.assert_billed_once(3).await;

    // Of two more jobs with a TTL, the one that paid is deleted, and the other would only be applied again.
    scene.apply_job("k", json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    eventually("the job with a TTL goes", 60, async || {
        scene.jobs().get_opt("k").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(scene.get("out/k/manifest.json").await.is_some(), "its results stay");
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec":{"ttlSecondsAfterFinished":0}}"#]);
    let generation = scene.get_job("j").await.metadata.generation;
    let seen = |j: &BatchJob| j.status.as_ref().unwrap().observed_generation == generation;
    scene.wait_job("its change is seen", "j", 30, seen).await;
    assert!(scene.get_job("j").await.metadata.deletion_timestamp.is_none(), "it reused results");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_work_does_not_overwrite_what_lies_there() {
    let scene = Scene::new("conflict", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    let before = scene.get("out/j/results.jsonl").await;
    scene.kubectl(&["delete", "bjob", "j"]);
    scene.apply_job("j", json!({"spec": {"runID": "v2"}}));
    let job = scene.wait_condition("j", "Failed", "True", 30).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert_eq!(reason, "OutputConflict");
    assert!(message.contains("$(runID)"), "{message}");
    assert_eq!(scene.get("out/j/results.jsonl").await, before);
    assert_eq!(scene.sim.spent().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_of_one_destination_do_not_share_it() {
    let scene = Scene::new("two", &["--batch-duration", "8s"]).await;
    scene.apply_job("a", json!({}));
    scene.wait_batch("a runs", |_| true).await;
    let mut other = scene.job("b", json!({}));
    other["spec"]["output"] = scene.job("a", json!({}))["spec"]["output"].clone();
    scene.apply(&other.to_string());
    let job = scene.wait_condition("b", "Failed", "True", 30).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert_eq!(reason, "OutputConflict");
    assert!(message.contains(&format!("{}/a", scene.namespace)), "{message}");
    scene.wait_complete("a").await;
    assert_eq!(scene.sim.spent().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_batch_is_picked_up_by_the_same_job_applied_again() {
    let scene = Scene::new("orphan", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({"spec": {"deletionPolicy": "Orphan"}}));
    let batch = scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    scene.kubectl(&["delete", "bjob", "j", "--wait=false"]);
    scene.wait_gone("j").await;
    assert_eq!(scene.sim.state().await["batches"][0]["status"], "in_progress", "it runs on");
    scene.apply_job("j", json!({"spec": {"deletionPolicy": "Orphan"}}));
    scene.wait_condition("j", "Submitted", "True", 30).await;
    scene.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    scene.wait_complete("j").await;
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_wiped_by_hand_it_goes_on_from_the_journal() {
    let scene = Scene::new("wiped", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    let batch = scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    scene.kubectl(&[
        "patch",
        "bjob",
        "j",
        "--subresource=status",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/status"}]"#,
    ]);
    let job = scene.wait_condition("j", "Submitted", "True", 30).await;
    assert_eq!(job.status.unwrap().batches[0].provider_id.as_deref(), batch["id"].as_str());
    scene.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    scene.wait_complete("j").await;
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_wiped_when_all_is_over_comes_back_from_the_journal() {
    let scene = Scene::new("wiped-late", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    let before = scene.wait_tidy("j").await.status.unwrap();
    let wipe = r#"[{"op":"remove","path":"/status"}]"#;
    scene.kubectl(&["patch", "bjob", "j", "--subresource=status", "--type=json", "-p", wipe]);
    let after = scene.wait_tidy("j").await.status.unwrap();
    assert_eq!((after.outcome, after.requests), (before.outcome, before.requests));
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_secrets_are_deleted_with_it_still_settles() {
    let scene = Scene::new("together", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.kubectl(&["delete", "secret/s3", "secret/llm-key", "batchprovider/llm", "bjob/j", "--wait=false"]);
    scene.wait_gone("j").await;
    eventually("the batch is cancelled", 10, || async {
        (scene.sim.state().await["batches"][0]["status"] == "cancelled").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_while_the_operator_starts_with_its_secrets_first_is_waited_for_by_nobody() {
    let mut scene = Scene::new("gone-first", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    let batch = scene.batch_of("j").await;
    scene.stop().await;
    scene.kubectl(&["delete", "secret", "--all"]);
    cluster().kubectl(&["delete", "namespace", &scene.namespace, "--wait=false"]);
    scene.restart().await;
    eventually("the namespace is gone", 90, || async {
        let (found, _) = cluster().try_kubectl(&["get", "namespace", &scene.namespace], None);
        (!found).then_some(())
    })
    .await;
    let told = eventually("it is told where the operator runs", 30, || async {
        let home = cluster().kubectl(&["-n", &scene.settings.home, "get", "events.events.k8s.io", "-o", "json"]);
        let home: Value = serde_json::from_str(&home).unwrap();
        let mut notes = home["items"].as_array().unwrap().iter().filter_map(|e| e["note"].as_str());
        notes.find(|note| note.contains(batch["id"].as_str().unwrap())).map(String::from)
    })
    .await;
    let job = format!("BatchJob {}/j is gone", scene.namespace);
    assert!(
        told.contains(&job) && told.contains("went before the job") && told.contains("may run on, and cost"),
        "{told}"
    );
    assert!(!told.contains("create it"), "{told}");
    assert_eq!(scene.sim.state().await["creates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_just_as_it_is_let_go_goes_all_the_same() {
    let mut scene = Scene::set("touched", &["--batch-duration", "200ms"]).await;
    let kubernetes = Proxy::start(&cluster().server, Some(&cluster().ca_file)).await;
    scene.settings.server = Some(kubernetes.url.clone());
    scene.restart().await;
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    // A label is nothing that the operator looks again for.
    let namespace = scene.namespace.clone();
    let strike = Box::new(move || drop(cluster().kubectl(&["-n", &namespace, "label", "bjob", "j", "touched=yes"])));
    kubernetes.place(Fault { method: "PATCH", path: "/batchjobs/j", nth: 1, when: When::Meanwhile, strike });
    scene.kubectl(&["delete", "bjob", "j", "--timeout=30s"]);
    assert!(kubernetes.struck());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_provider_never_comes_back_goes_once_its_deletion_is_overdue() {
    let mut scene = Scene::set("never-back", &["--batch-duration", "1h"]).await;
    let gate = Gate::to(&scene.sim.url).await;
    scene.base_url = format!("{}/v1", gate.url);
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.example("provider.yaml");
    scene.settings.extra = ["--deletion-deadline-seconds", "20"].map(String::from).to_vec();
    scene.restart().await;
    scene.apply_job("j", json!({}));
    scene.batch_of("j").await;
    gate.close();
    scene.kubectl(&["delete", "bjob", "j", "--wait=false"]);
    scene.wait_gone("j").await;
    let told = eventually("it is told", 30, || async {
        let events = scene.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let notes = events["items"].as_array().unwrap().iter().filter_map(|e| e["note"].as_str().map(String::from));
        notes.into_iter().find(|note| note.contains("the deletion was let through"))
    })
    .await;
    assert!(told.contains("cannot reach the provider") && told.contains("may still run and cost"), "{told}");
    let state = scene.sim.state().await;
    assert_eq!((&state["creates"], &state["batches"][0]["status"]), (&json!(1), &json!("in_progress")));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_an_object_that_is_let_go_by_hand_ends_with_it() {
    let scene = Scene::new("by-hand", &["--batch-duration", "1h"]).await;
    scene.sim.fault(json!({"point": "get_batch", "action": "status", "status": 500, "times": 1000})).await;
    scene.apply_job("j", json!({}));
    let operator = scene.operator.as_ref().unwrap();
    let failing = async || operator.metric("batchjob_failing_calls{call=\"Poll\"}").await;
    eventually("its polls are seen to fail", 60, || async { (failing().await == 1.0).then_some(()) }).await;
    scene.kubectl(&["delete", "bjob", "j", "--wait=false"]);
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    scene.wait_gone("j").await;
    eventually("nobody polls for it any more", 20, || async { (failing().await == 0.0).then_some(()) }).await;
    scene.sim.no_more_faults().await;
}
