//! Servers that stand in front of others, and accounts with less room than a job needs.

use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::scene::{Scene, condition};

/// Waits until `Complete` of a job that goes on says this, with this reason.
async fn shows(scene: &Scene, job: &str, reason: &str, words: &str) {
    let so = |job: &BatchJob| {
        condition(job, "Complete").is_some_and(|(s, r, m)| s == "Unknown" && r == reason && m.contains(words))
    };
    scene.wait_job(&format!("{job} shows '{words}' as {reason}"), job, 20, so).await;
}

fn notes(events: &[Value]) -> Vec<String> {
    events.iter().map(|e| e["note"].as_str().unwrap().to_string()).collect()
}

/// Case 24-create-refused-at-once.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_refusal_is_shown_at_once_and_nothing_is_paid_twice_for_it() {
    let scene = Scene::new("declined", &["--batch-duration", "300ms"]).await;
    let refusal = json!({"error": {"message": "model is required"}}).to_string();
    let refused = json!({"point": "create_batch", "action": "status", "status": 400, "body": refusal, "times": 100});
    scene.sim.fault(refused).await;
    let began = Instant::now();
    scene.apply_job("refused", json!({}));
    shows(&scene, "refused", "Submitting", "model is required (400").await;
    assert!(began.elapsed() < Duration::from_secs(10), "at once: {:?}", began.elapsed());
    let told = scene.wait_told("SubmissionDeclined", 1).await;
    assert!(notes(&told)[0].contains("model is required (400"), "{told:?}");
    // It is resolved like any submission of unknown outcome before it is sent again.
    let told = scene.wait_told("SubmissionUnknown", 1).await;
    assert!(!notes(&told)[0].contains("lost"), "{told:?}");
    scene.sim.no_more_faults().await;
    scene.wait_complete("refused").await;
    scene.sim.assert_billed_once(3).await;
    // A batch that exists although it was refused is adopted.
    let denied = json!({"point": "create_batch", "action": "deny", "status": 429, "retry_after": 1, "body": "10 batches at most"});
    scene.sim.fault(denied).await;
    scene.apply_job("denied", json!({}));
    scene.wait_complete("denied").await;
    scene.sim.assert_billed_once(6).await;
    assert_eq!(scene.sim.state().await["creates"], 2);
    // One that does not is sent again after the pause that the server asked for.
    let busy =
        json!({"point": "create_batch", "action": "status", "status": 429, "retry_after": 12, "body": "slow down"});
    scene.sim.fault(busy).await;
    let began = Instant::now();
    scene.apply_job("busy", json!({}));
    shows(&scene, "busy", "WaitingForQuota", "slow down (429").await;
    scene.wait_complete("busy").await;
    assert!(began.elapsed() > Duration::from_secs(12), "the server's pause: {:?}", began.elapsed());
    scene.sim.assert_billed_once(9).await;
}

/// Case 22-token-limit-for-ever, and case 23-file-not-there-yet beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_account_has_no_room_for_is_halved_and_a_file_that_is_not_there_yet_asked_for_again() {
    let mut scene = Scene::set("halved", &["--batch-duration", "200ms", "--max-enqueued-requests", "1"]).await;
    scene.settings.extra = ["--post-window-seconds", "1", "--send-timeout-seconds", "1"].map(String::from).to_vec();
    scene.restart().await;
    scene.sim.fault(json!({"point": "create_batch", "action": "unknown_file"})).await;
    scene.apply_job("j", json!({"spec": {"parallelism": 1}}));
    shows(&scene, "j", "WaitingForQuota", "Limit: 1 enqueued requests").await;
    shows(&scene, "j", "WaitingForQuota", "limits.maxRequestsPerBatch").await;
    let job = scene.wait_condition("j", "Complete", "True", 90).await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    assert_eq!(scene.result_ids("j").await, ["j-0", "j-1", "j-2"], "in the order of the requests");
    scene.sim.assert_billed_once(3).await;
    assert_eq!(scene.sim.state().await["overlaps"], 0);
    let told = notes(&scene.wait_told("BatchHalved", 1).await);
    assert!(told.iter().any(|note| note.contains("3 requests") && note.contains("of 2 and 1 requests")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_looks_into_files_is_tried_out_and_a_model_that_it_has_not_is_no_bad_key() {
    let scene =
        Scene::new("looks-into", &["--batch-duration", "200ms", "--model", "other", "--model", "gpt-5-mini"]).await;
    let ready = |p: &batchjob_operator::api::BatchProviderObject| {
        p.status.as_ref().and_then(|s| s.capabilities).is_some_and(|can| can.can_resolve())
    };
    scene.wait_provider("it was tried out", "llm", ready).await;
    // What a lost reply needs is there: nobody is asked.
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("lost", json!({}));
    scene.wait_complete("lost").await;
    scene.sim.assert_billed_once(3).await;
    let uploads = scene.sim.state().await["uploads"].clone();
    scene.apply_job("unknown", json!({"spec": {"model": "huge"}}));
    let job = scene.wait_condition("unknown", "Failed", "True", 40).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert!(reason == "InvalidInput" && message.contains("Line 1: Model 'huge' has not been configured"), "{message}");
    scene.apply_job("after", json!({}));
    scene.wait_complete("after").await;
    assert_eq!(scene.sim.state().await["uploads"], uploads.as_i64().unwrap() + 1, "nothing of it is uploaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_a_gateway_made_is_stopped_at_once_and_what_it_was_billed_for_is_told() {
    let mut scene = Scene::set("twins", &["--batch-duration", "1h"]).await;
    // The list must show all only after a long time.
    scene.settings.extra = ["--listing-lag-seconds", "600"].map(String::from).to_vec();
    scene.restart().await;
    scene.sim.fault(json!({"point": "create_batch", "action": "double"})).await;
    scene.apply_job("stopped", json!({}));
    let is_stopped = |b: &Value| b["status"] == "cancelled";
    let twin = scene.wait_batch("the twin is stopped", is_stopped).await;
    let batch = scene.batch_of("stopped").await;
    scene.finish(&batch).await;
    let job = scene.wait_complete("stopped").await;
    assert_eq!(condition(&job, "BilledTwice"), None, "it was billed for nothing");
    scene.sim.assert_billed_once(3).await;
    let told = notes(&scene.wait_told("DuplicateBatches", 1).await);
    assert!(told[0].contains(twin["id"].as_str().unwrap()), "{told:?}");
    // One that ran to its end first.
    scene.sim.admin_post("batch-duration", json!({"duration": "0s"})).await;
    scene.sim.fault(json!({"point": "create_batch", "action": "double"})).await;
    scene.apply_job("ran", json!({}));
    let job = scene.wait_complete("ran").await;
    let (status, _, message) = condition(&job, "BilledTwice").unwrap();
    assert!(status == "True" && message.contains("up to 3 requests were billed twice"), "{message}");
    let manifest: Value = serde_json::from_str(&scene.get("out/ran/manifest.json").await.unwrap()).unwrap();
    assert_eq!((&manifest["billedTwice"], &manifest["requests"]["resent"]), (&json!(3), &json!(3)));
    assert_eq!(job.status.unwrap().requests.unwrap().resent, 3);
    let told = notes(&scene.wait_told("BilledTwice", 1).await);
    assert!(told[0].contains("up to 3 requests"), "{told:?}");
    let batches = scene.sim.state().await["batches"].clone();
    let ended = batches.as_array().unwrap().iter().filter(|b| b["status"] == "completed").count();
    assert_eq!((ended, scene.wait_told("NotCancelled", 1).await.len()), (3, 1), "nobody says that it was cancelled");
}
