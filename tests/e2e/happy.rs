//! What a team does every day.

use serde_json::{Value, json};

use crate::support::scene::{Scene, batch_lines, condition, ids};

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_run_as_they_stand() {
    let scene = Scene::new("examples", &["--batch-duration", "300ms"]).await;
    let root = crate::support::process::root();
    scene.put("in/requests.jsonl", std::fs::read(root.join("examples/requests.jsonl")).unwrap()).await;
    scene.put("in/reviews.jsonl", batch_lines("review", 40)).await;
    for example in ["inline.yaml", "two-lines.yaml", "reviews.yaml", "config-map.yaml"] {
        scene.example(example);
    }
    for (name, folder, ids) in
        [("two-lines", "two-lines", vec!["req-1", "req-2"]), ("capitals", "capitals", vec!["france", "japan"])]
    {
        let job = scene.wait_complete(name).await;
        assert_eq!(scene.result_ids(folder).await, ids);
        let status = job.status.unwrap();
        assert_eq!(serde_json::to_value(status.outcome).unwrap(), "Succeeded");
        assert_eq!(status.results.unwrap().uri, format!("s3://tests/{}/out/{folder}/results.jsonl", scene.namespace));
    }
    scene.wait_complete("classify-reviews").await;
    let wanted: Vec<String> = (0..40).map(|i| format!("review-{i}")).collect();
    assert_eq!(scene.result_ids("classify-reviews/v1").await, wanted, "the order of the requests");
    scene.wait_complete("questions").await;
    let answers = scene.kubectl(&["get", "configmap", "answers", "-o", "jsonpath={.data.results\\.jsonl}"]);
    assert_eq!(ids(&answers), ["peru", "kenya"]);
    scene.sim.assert_billed_once(46).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_holds_a_whole_result_set_and_nothing_staged() {
    let scene = Scene::new("folder", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_complete("j").await;
    scene.wait_tidy("j").await;
    assert_eq!(scene.list("out/j").await, ["_SUCCESS", "_batchjob/journal.json", "manifest.json", "results.jsonl"]);
    let manifest: Value = serde_json::from_str(&scene.get("out/j/manifest.json").await.unwrap()).unwrap();
    let results = scene.get("out/j/results.jsonl").await.unwrap();
    assert_eq!(manifest["files"][0]["lines"], 3);
    assert_eq!(manifest["files"][0]["bytes"], results.len());
    let state = scene.sim.state().await;
    assert_eq!(state["files"], json!([]), "nothing is left at the provider");
    assert_eq!(scene.sim.spent().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_are_named_and_the_rest_is_there() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let bad = json!([{"contains": "j 1", "status": 400, "code": "bad_request", "message": "no"}]);
    std::fs::write(rules.path(), bad.to_string()).unwrap();
    let scene = Scene::new("failed", &["--batch-duration", "200ms", "--answers", rules.path().to_str().unwrap()]).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "CompletedWithFailures");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.failed), (3, 2, 1));
    assert_eq!(scene.result_ids("j").await, ["j-0", "j-2"]);
    let errors: Value = serde_json::from_str(&scene.get("out/j/errors.jsonl").await.unwrap()).unwrap();
    assert_eq!((errors["custom_id"].as_str(), errors["response"]["status_code"].as_i64()), (Some("j-1"), Some(400)));
    assert_eq!(errors["response"]["body"]["error"]["code"], "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_is_checked_and_counted_and_resuming_sends_it() {
    let scene = Scene::new("suspend", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({"spec": {"suspend": true}}));
    let job = scene.wait_job("it is checked", "j", 30, |j| {
        condition(j, "Complete").is_some_and(|(_, reason, _)| reason == "Suspended")
    });
    let job = job.await;
    assert_eq!(job.status.as_ref().unwrap().requests.unwrap().total, 3);
    let (is_suspended, _, plan) = condition(&job, "Suspended").unwrap();
    assert!(is_suspended == "True" && plan.contains("3 requests in 1 batch, some "), "{plan}");
    assert!(plan.contains("the cost is unknown: the provider object has no prices for model"), "{plan}");
    assert_eq!(scene.sim.spent().await.0, 0, "nothing leaves before the spend is approved");
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
    for reason in ["Suspended", "Resumed", "RealTimeWouldDo"] {
        assert_eq!(scene.wait_told(reason, 1).await.len(), 1, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_columns_and_events_that_tell_the_story() {
    let scene = Scene::with("people", &["--batch-duration", "200ms"], "limits: {maxRequestsPerBatch: 2}").await;
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    let table = scene.kubectl(&["get", "bjob"]);
    let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "STATUS", "PROGRESS", "FAILED", "COST", "AGE"]);
    assert_eq!(words[1][..5], ["j", "AllSucceeded", "3/3", "(100%)", "0"]);
    let wide = scene.kubectl(&["get", "bjob", "-o", "wide"]);
    assert!(wide.contains("PROVIDER") && wide.contains("MODEL") && wide.contains("results.jsonl"), "{wide}");
    // What nobody set stays unset in the objects, and what applies is shown.
    scene.provider_judged("llm").await;
    let limits = scene.kubectl(&["get", "bprov", "llm", "-o", "jsonpath={.spec.limits} {.status.limits}"]);
    let effective = r#"{"maxBytesPerBatch":200000000,"maxInputsPerBatch":50000,"maxRequestsPerBatch":2}"#;
    assert_eq!(limits, format!(r#"{{"maxRequestsPerBatch":2}} {effective}"#));
    assert_eq!(scene.kubectl(&["get", "bjob", "j", "-o", "jsonpath={.spec.completionWindowSeconds}"]), "");
    assert_eq!(scene.sim.state().await["batches"][0]["completion_window"], "24h");
    for reason in ["InputResolved", "BatchEnded", "Completed"] {
        scene.wait_told(reason, 1).await;
    }
    let told = scene.wait_told("BatchSubmitted", 2).await;
    let notes: Vec<&str> = told.iter().filter_map(|event| event["note"].as_str()).collect();
    for batch in ["batch 00000-1 runs as ", "batch 00001-1 runs as "] {
        assert!(notes.iter().any(|note| note.starts_with(batch)), "{batch} in {notes:?}");
    }
}
