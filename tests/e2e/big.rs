//! Fixed memory, whatever the size of the input.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use serde_json::json;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

use crate::support::quiet::CANARY;
use crate::support::scene::Scene;

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
