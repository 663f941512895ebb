//! Fixed memory, whatever the size of the input.

use batchjob_operator::api::BatchJobObject as BatchJob;
use bytes::Bytes;
use object_store::buffered::BufWriter;
use serde_json::json;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

use crate::support::process::scratch;
use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, condition};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_megabytes_pass_under_256_mib() {
    let scene = Scene::new("big", &["--batch-duration", "100ms"]).await;
    let (lines, filler) = (40_000, "All work and no play makes a long review. ".repeat(120));
    let key = format!("{}/in/big.jsonl", scene.namespace);
    let mut out = BufWriter::new(Arc::new(scene.bucket.clone()), key.as_str().into());
    let mut bytes = 0;
    for i in 0..lines {
        let line = json!({"custom_id": format!("row-{i}"), "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": format!("{i} {CANARY} {filler}")}]}});
        let line = Bytes::from(line.to_string() + "\n");
        bytes += line.len();
        scene.plant(&line);
        out.write_all(&line).await.unwrap();
    }
    out.shutdown().await.unwrap();
    assert!(bytes > 200_000_000, "{bytes}");
    scene.apply_job("big", json!({"inputKey": "big.jsonl", "spec": {"model": null}}));
    let job = scene.wait_condition("big", "Complete", "True", 240).await;
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.succeeded), (lines, lines));
    assert_eq!(scene.sim.ledger().await.len(), lines as usize);
    let peak = scene.operator.as_ref().unwrap().peak_memory();
    println!("peak resident memory for {bytes} bytes: {} MiB", peak >> 20);
    assert!(peak < 256 << 20, "{} MiB", peak >> 20);
}

/// Case 08-line-over-8-mib: lines as long as they may be, of as many jobs as are read at a time.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_lines_of_three_jobs_pass_under_256_mib() {
    let scene = Scene::new("long-lines", &["--batch-duration", "100ms"]).await;
    let image = format!("data:image/jpeg;base64,{}", "x".repeat(31 << 20));
    let line = |id: usize| {
        let parts = json!([{"type": "text", "text": format!("{id} {CANARY}")}, {"type": "image_url", "image_url": {"url": image}}]);
        json!({"custom_id": id.to_string(), "body": {"model": "m", "messages": [{"role": "user", "content": parts}]}})
    };
    let lines: String = (0..2).map(|id| format!("{}\n", line(id))).collect();
    let rows = format!("id,url\r\n0,\"{image}\"\r\n1,\"{image}\"\r\n");
    let content = json!([{"type": "image_url", "image_url": {"url": "$(row.url)"}}]);
    let template = json!({"customID": "$(row.id)", "body": {"messages": [{"role": "user", "content": content}]}});
    scene.put("in/a.jsonl", lines.clone()).await;
    scene.put("in/b.jsonl", lines).await;
    scene.put("in/c.csv", rows).await;
    let jobs =
        [("a", "a.jsonl", json!({})), ("b", "b.jsonl", json!({})), ("c", "c.csv", json!({"template": template}))];
    for (name, key, input) in jobs.clone() {
        scene.apply_job(name, json!({"inputKey": key, "spec": {"input": input}}));
    }
    for (name, ..) in jobs {
        scene.wait_condition(name, "Complete", "True", 120).await;
        assert_eq!(scene.result_ids(name).await, ["0", "1"], "{name}");
    }
    let peak = scene.operator.as_ref().unwrap().peak_memory();
    println!("peak resident memory for lines of 31 MiB: {} MiB", peak >> 20);
    assert!(peak < 256 << 20, "{} MiB", peak >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_the_local_disk_has_no_room_for_are_told_of_and_collected_once_it_has() {
    // Given an operator whose transfers share 40 MiB of local disk,
    let rules = scratch().join("small-spool-answers.json");
    std::fs::write(&rules, json!([{"contains": "large ", "answer": "x".repeat(15 << 20)}]).to_string()).unwrap();
    let mut scene =
        Scene::set("small-spool", &["--batch-duration", "100ms", "--answers", rules.to_str().unwrap()]).await;
    let size = |size: &str| vec!["--spool-size".to_string(), size.to_string()];
    scene.settings.extra.extend(size("64Mi"));
    scene.restart().await;
    // when a batch has 45 MiB of answers,
    scene.apply_job("large", json!({}));
    let is_told = |job: &BatchJob| {
        condition(job, "Stalled").is_some_and(|(status, _, message)| {
            status == "True" && message.contains("the 40 MiB of local disk") && message.contains("--spool-size")
        })
    };
    scene.wait_job("its owner is told", "large", 60, is_told).await;
    // then others go on, and its answers are collected as soon as there is room.
    scene.apply_job("small", json!({}));
    scene.wait_condition("small", "Complete", "True", 30).await;
    let at = scene.settings.extra.len() - 2;
    scene.settings.extra.splice(at.., size("256Mi"));
    scene.restart().await;
    let job = scene.wait_condition("large", "Complete", "True", 60).await;
    assert_eq!(job.status.unwrap().requests.unwrap().succeeded, 3);
    scene.sim.assert_billed_once(6).await;
}
