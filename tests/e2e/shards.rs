//! An input is cut by the provider's limits; the batches run side by side, and the answers come back as one.

use serde_json::json;

use crate::support::scene::{Scene, batch_lines};

/// A job of `lines` requests, `per_batch` in a batch and `parallelism` batches at a time, seen through. A batch runs for so
/// long that the others are submitted meanwhile.
async fn cut(name: &str, duration: &str, lines: usize, per_batch: usize, parallelism: usize) {
    let mut scene = Scene::set(name, &["--batch-duration", duration]).await;
    scene.apply(&(scene.manifest("provider.yaml") + &format!("  limits:\n    maxRequestsPerBatch: {per_batch}\n")));
    scene.put("in/many.jsonl", batch_lines("n", lines)).await;
    scene.restart().await;
    scene.apply_job("j", json!({"inputKey": "many.jsonl", "spec": {"model": null, "parallelism": parallelism}}));
    scene.wait_complete("j").await;
    let job = scene.wait_tidy("j").await;
    let wanted: Vec<String> = (0..lines).map(|i| format!("n-{i}")).collect();
    assert_eq!(scene.result_ids("j").await, wanted, "the order of the requests");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded), (lines as i64, lines as i64));
    scene.sim.assert_billed_once(lines).await;
    let (state, shards) = (scene.sim.state().await, lines.div_ceil(per_batch));
    assert_eq!(state["creates"], shards, "a batch a shard");
    assert_eq!(
        state["most_alive"],
        shards.min(parallelism),
        "as many batches at a time as the job allows, and no more"
    );
    assert_eq!(state["files"], json!([]), "nothing is left at the provider");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_one_batch() {
    cut("one-shard", "300ms", 20, 20, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_more_is_another_batch_and_one_at_a_time_is_one_at_a_time() {
    cut("two-shards", "700ms", 21, 20, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_batches_run_eight_at_a_time() {
    cut("forty-shards", "3s", 400, 10, 8).await;
}
