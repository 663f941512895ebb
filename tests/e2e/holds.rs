//! Questions that only a person can answer, and changes under a running job.

use serde_json::json;

use crate::support::scene::{Scene, condition};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_provider_does_not_know_is_held_and_given_up_on_a_persons_word_only() {
    let scene = Scene::new("held", &["--batch-duration", "1h", "--api-key", "sk-other"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    // The key of another account: every batch "vanishes".
    let key = scene.manifest("provider.yaml").replace("sk-test", "sk-other");
    scene.apply(&key);
    let job = scene.wait_condition("j", "Held", "True", 90).await;
    let (_, _, message) = condition(&job, "Held").unwrap();
    let hold = &job.status.as_ref().unwrap().holds[0];
    assert!(message.contains(&format!("llmbatch.dev/resolve={}", hold.answers[0])), "{message}");
    assert_eq!(scene.sim.state().await["creates"], 1, "a 404 never makes a second batch");
    // The key comes back, and so does the batch.
    scene.example("provider.yaml");
    scene.wait_condition("j", "Held", "False", 40).await;
    scene.apply(&key);
    let job = scene.wait_condition("j", "Held", "True", 90).await;
    let answer = format!("llmbatch.dev/resolve={}", job.status.as_ref().unwrap().holds[0].answers[0]);
    scene.kubectl(&["annotate", "bjob", "j", &answer]);
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    assert_eq!(scene.sim.state().await["creates"], 1, "what was given up is not paid again");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.missing), (3, 3));
    assert_eq!(scene.get("out/j/errors.jsonl").await.unwrap().lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_gone_is_missed_and_nothing_is_paid_again() {
    let scene = Scene::new("gone", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_condition("j", "Submitted", "True", 30).await;
    let (key, journal) = ("out/j/_batchjob/journal.json", scene.get("out/j/_batchjob/journal.json").await.unwrap());
    scene.delete(key).await;
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    assert!(condition(&job, "Stalled").unwrap().2.contains("journal"), "{:?}", condition(&job, "Stalled"));
    let status = job.status.unwrap();
    assert!(
        status.submission_time.is_some() && status.batches.len() == 1,
        "what was submitted is not forgotten with it"
    );
    // Whatever asks for another look.
    scene.kubectl(&["annotate", "bjob", "j", "llmbatch.dev/reconcile-requested-at=now"]);
    let looked = |j: &batchjob_operator::api::BatchJob| {
        j.status.as_ref().is_some_and(|s| s.last_handled_reconcile_at.as_deref() == Some("now"))
    };
    scene.wait_job("it is looked at again", "j", 30, looked).await;
    assert_eq!(scene.get(key).await, None);
    scene.put(key, journal).await;
    scene.wait_condition("j", "Stalled", "False", 40).await;
    assert_eq!(scene.sim.state().await["creates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_started_what_shapes_requests_is_locked_and_the_rest_is_not() {
    let scene = Scene::new("locked", &["--batch-duration", "1h"]).await;
    let spec = json!({"spec": {"requestDefaults": {"max_completion_tokens": 512}}});
    scene.apply_job("j", spec.clone());
    let batch = scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    for (change, words) in [
        (json!({"spec": {"model": "other"}}), "spec.model"),
        (json!({"spec": {"runID": "v2"}}), "spec.runID"),
        (json!({"spec": {"providerRef": {"name": "other"}}}), "spec.providerRef"),
        (json!({"spec": {"input": {"inline": {"requests": [{"customID": "x", "body": {}}]}}}}), "spec.input"),
        (json!({"spec": {"output": {"objectStore": {"uri": "s3://tests/elsewhere/"}}}}), "spec.output"),
    ] {
        let mut change = change;
        if words != "spec.requestDefaults" {
            change["spec"]["requestDefaults"] = spec["spec"]["requestDefaults"].clone();
        }
        let (ok, said) = scene.try_apply(&scene.job("j", change).to_string());
        assert!(!ok && said.contains(words) && said.contains("may not be changed"), "{words}: {said}");
    }
    let allowed =
        json!({"spec": {"requestDefaults": {"max_completion_tokens": 512}, "parallelism": 9, "pollPeriodSeconds": 2}});
    scene.apply_job("j", allowed);
    // CEL cannot see this one: keys that one side lacks are skipped in free-form JSON.
    scene.kubectl(&[
        "patch",
        "bjob",
        "j",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/requestDefaults","value":{"n":100}}]"#,
    ]);
    let job = scene.wait_condition("j", "Stalled", "True", 30).await;
    assert_eq!(condition(&job, "Stalled").unwrap().1, "SpecDrift");
    scene.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}
