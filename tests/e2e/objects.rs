//! Objects that are a request each: documents, images, whatever lies in a folder.

use async_compression::tokio::write::GzipEncoder;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, condition};

async fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(vec![]);
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

/// How a job reads objects.
fn objects(content: &str, change: Value) -> Value {
    let body = json!({"messages": [{"role": "user", "content": content}]});
    let mut input = json!({"format": "Objects", "template": {"customID": "$(object.key)", "body": body}});
    input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"input": input})
}

/// What the provider was asked, by custom id.
async fn asked(scene: &Scene, name: &str) -> Vec<(String, String)> {
    let text = scene.get(&format!("out/{name}/results.jsonl")).await.expect("results.jsonl");
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let word = |v: &Value| v.as_str().unwrap().to_string();
    let answer = |l: &Value| word(&l["response"]["body"]["choices"][0]["message"]["content"]);
    lines.map(|l| (word(&l["custom_id"]), answer(&l))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_objects_are_answered_in_the_order_of_their_keys_and_billed_once() {
    let scene = Scene::new("objects", &["--batch-duration", "200ms"]).await;
    let key = |i: usize| format!("{:02}/doc-{i:05}.txt", i % 7);
    let mut keys: Vec<String> = (0..5000).map(key).collect();
    let put = async |i: usize| scene.put(&format!("in/docs/{}", key(i)), format!("document {i} {CANARY}")).await;
    futures::stream::iter(0..5000).for_each_concurrent(32, put).await;
    let started = std::time::Instant::now();
    scene.apply_job("docs", json!({"inputKey": "docs/", "spec": objects("Summarise: $(object.text)", json!({}))}));
    let job = scene.wait_condition("docs", "Planned", "True", 120).await;
    println!("5,000 objects were planned in {:?}", started.elapsed());
    assert!(condition(&job, "Planned").unwrap().2.starts_with("5000 requests were read and are sound"));
    scene.wait_condition("docs", "Complete", "True", 120).await;
    keys.sort();
    assert_eq!(scene.result_ids("docs").await, keys);
    scene.sim.assert_billed_once(5000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_read_as_what_they_are_and_large_ones_as_the_job_says() {
    let scene = Scene::new("documents", &["--batch-duration", "200ms"]).await;
    scene.put("in/documents/1848/letter.txt", "Paris, in February").await;
    scene.example("documents.yaml");
    scene.put("in/d/a.txt.gz", gzip("packed").await).await;
    scene.put("in/d/b/c.md", format!("\u{feff}plain {CANARY}")).await;
    scene.put("in/d/large.txt", "ä".repeat(40)).await;
    scene.put("in/d/image.bin", vec![0xff, 0, 1]).await;
    let said = "$(object.key) says $(object.text)";
    let limited = |then: &str| objects(said, json!({"maxObjectBytes": 21, "onTooLarge": then}));
    scene.apply_job("one", json!({"inputKey": "d/b/c.md", "spec": objects(said, json!({}))}));
    scene.apply_job("bytes", json!({"inputKey": "d/*.bin", "spec": objects("is $(object.base64)", json!({}))}));
    scene.apply_job("text", json!({"inputKey": "d/", "spec": objects(said, json!({}))}));
    let job = scene.wait_condition("text", "Failed", "True", 40).await;
    let message = condition(&job, "Failed").unwrap().2;
    assert!(message.contains("/in/d/image.bin: is not UTF-8 (byte 1)") && message.contains("base64"), "{message}");
    scene.wait_complete("documents").await;
    assert_eq!(asked(&scene, "documents/v1").await, [pair("1848/letter.txt", "echo: Paris, in February")]);
    scene.wait_complete("one").await;
    assert_eq!(asked(&scene, "one").await, [pair("c.md", &format!("echo: c.md says plain {CANARY}"))]);
    scene.wait_complete("bytes").await;
    assert_eq!(asked(&scene, "bytes").await, [pair("image.bin", "echo: is /wAB")]);
    scene.delete("in/d/image.bin").await;
    scene.apply_job("cut", json!({"inputKey": "d/", "spec": limited("Truncate")}));
    scene.apply_job("fail", json!({"inputKey": "d/", "spec": limited("Fail")}));
    scene.apply_job("skip", json!({"inputKey": "d/", "spec": limited("Skip")}));
    let job = scene.wait_complete("skip").await;
    let left_out = "2 requests were read and are sound; objects with more than `spec.input.maxObjectBytes` that were left \
                    out: 1";
    assert!(condition(&job, "Planned").unwrap().2.starts_with(left_out));
    let plain = pair("b/c.md", &format!("echo: b/c.md says plain {CANARY}"));
    let whole = [pair("a.txt.gz", "echo: a.txt.gz says packed"), plain];
    assert_eq!(asked(&scene, "skip").await, whole);
    let job = scene.wait_complete("cut").await;
    assert!(condition(&job, "Planned").unwrap().2.contains("that were cut: 1; "));
    let cut = pair("large.txt", &format!("echo: large.txt says {}", "ä".repeat(10)));
    assert_eq!(asked(&scene, "cut").await, [whole.to_vec(), vec![cut]].concat());
    let job = scene.wait_condition("fail", "Failed", "True", 40).await;
    let message = condition(&job, "Failed").unwrap().2;
    assert!(
        message.contains("/in/d/large.txt: has more than the 21 bytes of `spec.input.maxObjectBytes`"),
        "{message}"
    );
}

fn pair(id: &str, said: &str) -> (String, String) {
    (id.into(), said.into())
}
