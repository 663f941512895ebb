//! Answers that are readable while the job runs.

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition, ids, requests};

/// The published files that the list names, and their text in that order.
async fn published(scene: &Scene, job: &str) -> (Vec<String>, String) {
    let folder = format!("out/{job}/results.partial");
    let Some(index) = scene.get(&format!("{folder}/index.json")).await else { return Default::default() };
    let index: Value = serde_json::from_str(&index).unwrap();
    let (mut names, mut text) = (vec![], String::new());
    for file in index["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap().to_string();
        let content = scene.get(&format!("{folder}/{name}")).await.expect("a file that is listed is there");
        assert_eq!((&file["lines"], &file["bytes"]), (&content.lines().count().into(), &content.len().into()));
        names.push(name);
        text += &content;
    }
    assert_eq!(index["requests"]["succeeded"], text.lines().count());
    (names, text)
}

/// Waits until the answers of the job `j` are readable in these files; returns them.
async fn answers(scene: &Scene, files: &[&str]) -> String {
    eventually(&format!("{files:?} are readable"), 30, async || {
        let (names, text) = published(scene, "j").await;
        (names == files).then_some(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_batches_that_ended_are_readable_while_others_run_and_gone_at_the_end() {
    let mut scene = Scene::with("partial", &["--batch-duration", "10h"], "limits: {maxRequestsPerBatch: 2}").await;
    // Somebody's file is in the way of the first batch's answers.
    scene.put("out/j/results.partial/00000.jsonl", "mine").await;
    let partial = |is_wanted: bool| {
        let input = json!({"inline": {"requests": requests("j", 6)}});
        scene.job("j", json!({"spec": {"input": input, "output": {"partialResults": is_wanted}}})).to_string()
    };
    scene.apply(&partial(true));
    let (ok, said) = scene.try_apply(&partial(false));
    assert!(!ok && said.contains("`spec.output` may not be changed"), "{said}");
    let is_submitted = |job: &BatchJob| {
        job.status.as_ref().is_some_and(|s| s.batches.iter().filter(|b| b.provider_id.is_some()).count() == 3)
    };
    let job = scene.wait_job("three batches run", "j", 60, is_submitted).await;
    let batches: Vec<Value> =
        job.status.unwrap().batches.into_iter().map(|batch| json!({"id": batch.provider_id.unwrap()})).collect();
    scene.finish(&batches[0]).await;
    let told = scene.wait_told("PartialResultsNotPublished", 1).await;
    let note = told[0]["note"].as_str().unwrap().to_string();
    assert!(note.contains("00000.jsonl exists and was not written by this work"), "{note}");
    let says_so = |job: &BatchJob| {
        condition(job, "Complete").is_some_and(|(_, reason, why)| reason == "InProgress" && why.contains("00000.jsonl"))
    };
    let job = scene.wait_job("the job says so and goes on", "j", 30, says_so).await;
    assert_eq!(condition(&job, "Stalled").unwrap().0, "False");
    assert_eq!(scene.get("out/j/results.partial/00000.jsonl").await.unwrap(), "mine");
    scene.finish(&batches[2]).await;
    let third = answers(&scene, &["00002.jsonl"]).await;
    assert_eq!(ids(&third), ["j-4", "j-5"], "it is in nobody else's way");
    // The operator dies between the end of the batch, which the journal has, and the publication.
    scene.stop().await;
    scene.delete("out/j/results.partial/00000.jsonl").await;
    scene.restart().await;
    let both = answers(&scene, &["00002.jsonl", "00000.jsonl"]).await;
    assert!(both.starts_with(&third) && ids(&both) == ["j-4", "j-5", "j-0", "j-1"]);
    let uri = scene.get_job("j").await.status.unwrap().partial_results_uri;
    assert_eq!(uri, Some(format!("s3://tests/{}/out/j/results.partial/", scene.namespace)));
    scene.finish(&batches[1]).await;
    scene.wait_complete("j").await;
    let job = scene.wait_tidy("j").await;
    let results = scene.get("out/j/results.jsonl").await.unwrap();
    assert_eq!(ids(&results), (0..6).map(|i| format!("j-{i}")).collect::<Vec<_>>());
    assert!(both.lines().all(|line| results.lines().any(|whole| whole == line)), "the lines are those of the results");
    assert_eq!(scene.list("out/j").await, ["_SUCCESS", "_batchjob/journal.json", "manifest.json", "results.jsonl"]);
    assert_eq!(job.status.unwrap().partial_results_uri, None);
    assert_eq!(scene.told("PartialResultsNotPublished").await.len(), 1, "it is told once");
    scene.sim.assert_billed_once(6).await;
}
