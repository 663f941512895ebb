//! Result sets whose answers are reused: a million of them, names as long as a line may be, and the longest answers.

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::json;

use super::*;

/// Answers of the set that has nothing to reuse.
const ANSWERS: usize = 1_000_000;

pub async fn reused(scene: &Scene) {
    result_set(scene).await;
    let location = |key: &str| {
        let uri = format!("s3://tests/{}/{key}/", scene.namespace);
        json!({"objectStore": {"uri": uri, "endpoint": scene.endpoint, "secretRef": {"name": "s3"}}})
    };
    // Both at a time, and the one with the longest answers has to copy them.
    let sets = [location("many"), location("out/long")];
    scene.apply_job("of-long", json!({"inputKey": "long.jsonl", "spec": {"reuseFrom": sets}}));
    scene.apply_job("of-many", json!({"spec": {"reuseFrom": [location("many")]}}));
    for (name, reused, total) in [("of-long", 16, 16), ("of-many", 0, 3)] {
        let job = scene.wait_condition(name, "Complete", "True", 300).await;
        let requests = job.status.unwrap().requests.unwrap();
        assert_eq!((requests.reused, requests.succeeded), (reused, total), "{name}");
    }
}

/// A result set of many answers, the last of which has a long name.
async fn result_set(scene: &Scene) {
    let line = |i: usize| {
        let name = if i == ANSWERS - 1 { "n".repeat(30 << 20) } else { i.to_string() };
        let hash = blake3::hash(&i.to_le_bytes()).to_hex();
        format!(r#"{{"id":null,"custom_id":"{name}","response":{{}},"error":null,"request_blake3":"{hash}"}}"#)
    };
    lines(scene, "many/results.jsonl.zst", ANSWERS, line).await;
    let (mut digest, mut bytes) = (Context::new(&SHA256), 0);
    for line in (0..ANSWERS).map(line) {
        digest.update(line.as_bytes());
        digest.update(b"\n");
        bytes += line.len() + 1;
    }
    let sha256: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let file = json!({"name": "results.jsonl.zst", "lines": ANSWERS, "bytes": bytes, "sha256": sha256});
    let manifest = json!({
        "manifestVersion": 1, "workID": "w", "workHash": "v2-h", "outcome": "Succeeded", "reason": "AllSucceeded",
        "message": "", "requests": {"total": ANSWERS, "succeeded": ANSWERS}, "files": [file], "batches": [],
        "completedAt": 0,
    });
    scene.put("many/manifest.json", manifest.to_string()).await;
}
