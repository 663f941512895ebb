//! What a cluster forgets and what is brought back: objects made anew, older status, a copy in another cluster. The journal at
//! the destination knows better, and nothing is paid twice.

use std::sync::Arc;

use batchjob_operator::api::BatchJobObject as BatchJob;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::scene::{Scene, condition};
use crate::support::shared::another_cluster;

fn provider_id(job: &BatchJob) -> Option<String> {
    job.status.as_ref()?.batches.first()?.provider_id.clone()
}

fn is_reused(job: &BatchJob) -> bool {
    condition(job, "ResultsReused").is_some_and(|(status, ..)| status == "True")
}

/// Takes the object away as if no finalizer were on it, and applies its manifest again.
fn recreated(scene: &Scene, name: &str) {
    scene.kubectl(&["patch", "bjob", name, "--type=merge", "-p", r#"{"metadata": {"finalizers": null}}"#]);
    scene.kubectl(&["delete", "bjob", name, "--wait=true"]);
    scene.apply_job(name, json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_made_anew_adopts_its_batches() {
    let mut scene = Scene::new("recreated", &["--batch-duration", "1h"]).await;
    scene.apply_job("away", json!({}));
    scene.apply_job("lost", json!({"spec": {"suspend": true}}));
    let before = scene.batch_of("away").await;
    scene.wait_condition("lost", "Planned", "True", 30).await;
    // As from a backup without status, while nobody looks; of the other job nobody knows whether its batch was created.
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.kubectl(&["patch", "bjob", "lost", "--type=merge", "-p", r#"{"spec": {"suspend": false}}"#]);
    scene.wait_batch("the other one is created", |b| b["id"] != before["id"]).await;
    scene.stop().await;
    for job in ["away", "lost"] {
        recreated(&scene, job);
    }
    scene.restart().await;
    let again = scene.batch_of("away").await;
    assert_eq!(again["id"], before["id"]);
    assert_eq!(scene.wait_told("WorkAdopted", 2).await.len(), 2);
    let other = scene.batch_of("lost").await;
    for batch in [&again, &other] {
        scene.finish(batch).await;
    }
    for job in ["away", "lost"] {
        let job = scene.wait_complete(job).await;
        assert!(!is_reused(&job));
    }
    assert_eq!(scene.sim.state().await["creates"], 2);
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_status_is_overtaken_by_the_journal() {
    let mut scene = Scene::new("older", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({"spec": {"suspend": true}}));
    let planned = scene.wait_condition("j", "Planned", "True", 30).await;
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec": {"suspend": false}}"#]);
    let batch = scene.batch_of("j").await;
    let restore = async |scene: &mut Scene, to: &BatchJob| {
        scene.stop().await;
        let mut job = scene.get_job("j").await;
        job.status = to.status.clone();
        scene.jobs().replace_status("j", &PostParams::default(), &job).await.unwrap();
        scene.restart().await;
    };
    restore(&mut scene, &planned).await;
    assert_eq!(scene.batch_of("j").await["id"], batch["id"], "from before it was sent");
    let running = scene.get_job("j").await;
    scene.finish(&batch).await;
    let done = scene.wait_tidy("j").await;
    for older in [&running, &planned] {
        restore(&mut scene, older).await;
        let again = scene.wait_tidy("j").await;
        assert_eq!(again.status.as_ref().unwrap().requests, done.status.as_ref().unwrap().requests);
        assert_eq!(condition(&again, "Complete").unwrap().1, "AllSucceeded");
    }
    assert_eq!(scene.sim.state().await["creates"], 1);
    assert_eq!(scene.sim.spent().await.0, 1);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_copied_to_another_cluster_waits_there_and_takes_the_work_over_on_a_persons_word() {
    let mut scene = Scene::new("copied", &["--batch-duration", "1h"]).await;
    let elsewhere = Arc::new(another_cluster("another-control-plane"));
    let copy = scene.copy(&elsewhere).await;
    // All that a new cluster has is the repository's manifests: results in the bucket are adopted, and nobody is asked.
    scene.apply_job("done", json!({}));
    scene.finish(&scene.batch_of("done").await).await;
    scene.wait_tidy("done").await;
    copy.apply_job("done", json!({}));
    assert!(is_reused(&copy.wait_complete("done").await));
    // The first goes on, and its results are the copy's, too.
    scene.apply_job("goes-on", json!({}));
    let batch = scene.batch_of("goes-on").await;
    copy.apply_job("goes-on", json!({}));
    let held = copy.wait_condition("goes-on", "Held", "True", 60).await;
    let (_, reason, message) = condition(&held, "Stalled").unwrap();
    assert_eq!(reason, "AwaitingAnswer");
    assert!(message.contains("of another cluster") && message.contains("nothing is sent from here"), "{message}");
    assert!(condition(&scene.get_job("goes-on").await, "Held").unwrap().0 == "False", "the first has no question");
    // The first is gone: the copy takes over what it left.
    scene.apply_job("gone", json!({}));
    let gone = scene.batch_of("gone").await;
    // The first let go of it.
    scene.apply_job("released", json!({"spec": {"deletionPolicy": "Orphan"}}));
    let released = scene.batch_of("released").await;
    scene.kubectl(&["delete", "bjob", "released"]);
    // The first lives, and has it taken away.
    scene.apply_job("taken", json!({}));
    let taken = scene.batch_of("taken").await;
    scene.finish(&batch).await;
    scene.wait_tidy("goes-on").await;
    assert!(is_reused(&copy.wait_complete("goes-on").await));
    copy.apply_job("taken", json!({}));
    copy.wait_condition("taken", "Held", "True", 60).await;
    copy.answer("taken", "take").await;
    let job = copy.wait_condition("taken", "Submitted", "True", 60).await;
    assert_eq!(provider_id(&job).as_deref(), taken["id"].as_str());
    let job = scene.wait_condition("taken", "Held", "True", 90).await;
    assert!(condition(&job, "Held").unwrap().2.contains("of another cluster"));
    assert_ne!(condition(&job, "Failed").unwrap().0, "True", "what was paid has not failed");
    scene.stop().await;
    copy.apply_job("released", json!({}));
    let job = copy.wait_condition("released", "Submitted", "True", 60).await;
    assert_eq!(provider_id(&job).as_deref(), released["id"].as_str(), "nobody is asked");
    copy.apply_job("gone", json!({}));
    copy.wait_condition("gone", "Held", "True", 60).await;
    copy.answer("gone", "take").await;
    let job = copy.wait_condition("gone", "Submitted", "True", 60).await;
    assert_eq!(provider_id(&job).as_deref(), gone["id"].as_str());
    for batch in [&gone, &released, &taken] {
        scene.finish(batch).await;
    }
    for job in ["gone", "released", "taken"] {
        let done = copy.wait_complete(job).await;
        assert_eq!(condition(&done, "Complete").unwrap().1, "AllSucceeded", "{job}");
        assert!(!is_reused(&done), "{job}");
    }
    assert_eq!(scene.sim.state().await["files"], json!([]), "files go under the name that they were made with");
    // The first comes back, and has its answer.
    scene.restart().await;
    for job in ["gone", "taken"] {
        assert!(is_reused(&scene.wait_complete(job).await), "{job}");
    }
    assert_eq!(scene.sim.state().await["creates"], 5);
    scene.sim.assert_billed_once(15).await;
    let manifest: Value = serde_json::from_str(&scene.get("out/gone/manifest.json").await.unwrap()).unwrap();
    assert_eq!(manifest["outcome"], "Succeeded");
}
