//! Whatever a person can get wrong in an input: one clear line with source, place and remedy, and nothing sent or paid.

mod lines;
mod missing;
mod places;
mod schema;
mod tables;

use std::collections::BTreeSet;

use async_compression::tokio::write::GzipEncoder;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, batch_lines, condition};

/// A job over objects, and what it is told.
struct Case {
    name: &'static str,
    /// What its input's URI ends in.
    key: String,
    /// Objects to put, by key.
    objects: Vec<(String, Vec<u8>)>,
    spec: Value,
    /// Parts of the message: the place, and what to do.
    words: &'static [&'static str],
}

/// Over one object of this content.
fn case(name: &'static str, bytes: impl AsRef<[u8]>, spec: Value, words: &'static [&'static str]) -> Case {
    file(name, "jsonl", bytes, spec, words)
}

/// The same with another name.
fn file(
    name: &'static str,
    extension: &str,
    bytes: impl AsRef<[u8]>,
    spec: Value,
    words: &'static [&'static str],
) -> Case {
    let key = format!("{name}.{extension}");
    Case { name, objects: vec![(key.clone(), bytes.as_ref().to_vec())], key, spec, words }
}

/// Over whatever lies where.
fn place(
    name: &'static str,
    key: &str,
    objects: &[(&str, &[u8])],
    spec: Value,
    words: &'static [&'static str],
) -> Case {
    let objects = objects.iter().map(|(key, bytes)| (key.to_string(), bytes.to_vec())).collect();
    Case { name, key: key.into(), objects, spec, words }
}

fn template(content: &str) -> Value {
    json!({"customID": "$(row.id)", "body": {"messages": [{"role": "user", "content": content}]}})
}

/// Rows with this content.
fn rows(content: &str) -> Value {
    json!({"input": {"template": template(content)}})
}

/// Objects with this content, read like this.
fn objects(content: &str, change: Value) -> Value {
    let mut input = json!({"format": "Objects", "template": {"customID": "$(object.key)", "body": {"text": content}}});
    input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"input": input})
}

fn input(change: Value) -> Value {
    json!({"input": change})
}

fn none() -> Value {
    json!({})
}

/// A line without a model of its own.
fn line(id: &Value, body: &str) -> String {
    format!("{{\"custom_id\":{id},\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{body}}}\n")
}

fn utf16(text: &str) -> Vec<u8> {
    [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat()
}

/// A provider with small limits.
fn small() -> Value {
    json!({"providerRef": {"name": "small"}})
}

fn tiny(change: Value) -> Value {
    let mut spec = small();
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    spec
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(vec![]);
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_are_refused_with_their_place_and_a_remedy_before_anything_is_sent() {
    let scene = Scene::new("bad-input", &[]).await;
    let limits = json!({"allowedModels": ["tiny"], "limits": {"maxBytesPerBatch": 1024}});
    scene.apply(&provider(&scene, "small", limits).to_string());
    scene.provider_judged("small").await;
    scene.sim.begin().await;
    let without_model = lines::lines().into_iter().map(|mut case| {
        case.spec.as_object_mut().unwrap().entry("model").or_insert(Value::Null);
        case
    });
    let mut cases: Vec<Case> = without_model.chain(tables::tables()).chain(places::places().await).collect();
    cases.push(places::within("below", "same/", "in/same/out/"));
    cases.push(places::within("pattern", "same/*.jsonl", "in/same/"));
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "each has its own name");
    for (key, bytes) in cases.iter().flat_map(|case| &case.objects) {
        scene.put(&format!("in/{key}"), bytes.clone()).await;
    }
    let mut jobs: Vec<Value> =
        cases.iter().map(|c| scene.job(c.name, json!({"inputKey": c.key, "spec": c.spec}))).collect();
    let uri = |path: &str| Value::from(format!("s3://tests/{}/{path}", scene.namespace));
    for job in &mut jobs {
        if let Some(path) = job["spec"]["output"].as_object_mut().unwrap().remove("path") {
            job["spec"]["output"]["objectStore"]["uri"] = uri(path.as_str().unwrap());
        }
    }
    let same = json!([{"customID": "a", "body": {}}, {"customID": "a", "body": {}}]);
    jobs.push(scene.job("inline", json!({"spec": {"input": {"inline": {"requests": same}}}})));
    let streams = json!([{"customID": "a", "body": {"stream": true}}]);
    jobs.push(scene.job("inlinestream", json!({"spec": {"input": {"inline": {"requests": streams}}}})));
    let inline = [
        ("inline", "`spec.input.inline.requests`: request 2: has a custom id that an earlier request has; give each"),
        ("inlinestream", "`spec.input.inline.requests`: request 1: asks for `stream`"),
    ];
    scene.apply(&list(jobs));
    let all = cases.iter().map(|c| (c.name, c.words.to_vec())).chain(inline.map(|(name, words)| (name, vec![words])));
    for (name, words) in all {
        let job = scene.wait_condition(name, "Failed", "True", 120).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert_eq!(reason, "InvalidInput", "{name}: {message}");
        for words in words {
            assert!(message.contains(words), "{name}: wanted {words:?}: {message}");
        }
        let placed = message.contains(&format!("s3://tests/{}/in/", scene.namespace)) || message.contains("`spec.");
        assert!(placed && !message.contains(CANARY), "{name}: {message}");
        assert!(job.status.unwrap().lock.is_none(), "the spec can be mended");
    }
    let report = scene.get("out/many/_batchjob/report.jsonl").await.expect("a report beside the journal");
    assert_eq!(report.lines().count(), 30);
    nothing_was_sent(&scene).await;
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn provider(scene: &Scene, name: &str, change: Value) -> Value {
    let mut spec = json!({"type": "OpenAICompatible", "baseURL": scene.base_url,
        "auth": {"secretKeyRef": {"name": "llm-key", "key": "api-key"}}});
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": name}, "spec": spec})
}

async fn nothing_was_sent(scene: &Scene) {
    assert_eq!(scene.sim.spent().await, (0, 0));
    assert_eq!(scene.sim.ledger().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_odd_is_taken() {
    let scene = Scene::new("odd-input", &[]).await;
    let (x, y) = (batch_lines("x", 1), batch_lines("y", 1));
    let quoted = "\u{feff}id,text\r\n\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n2,\r\n3,\"\"";
    let cases = [
        (case("bom", format!("\u{feff}{x}"), none(), &[]), 1),
        (case("crlf", format!("{x}{y}").replace('\n', "\r\n"), none(), &[]), 2),
        (case("gaps", format!("\n\n{x}  \n\t\n{}", y.trim_end()), none(), &[]), 2),
        (case("extra", x.replace("{\"body\"", "{\"note\":1,\"body\""), none(), &[]), 1),
        (case("nostream", line(&json!("a"), "{\"stream\":false}"), none(), &[]), 1),
        (case("longest", line(&json!("i".repeat(512)), "{}"), none(), &[]), 1),
        (case("odd", line(&json!("ä/ \u{1f600}"), "{}"), none(), &[]), 1),
        (file("quoted", "csv", quoted, rows("$(row.text)"), &[]), 3),
        (file("semicolons", "csv", "sep=;\r\nid;text\r\n1;\"a;b\"\r\n;\r\n", rows("$(row.text)"), &[]), 1),
        (file("wide", "tsv", utf16("id\ttext\n1\tx\n"), rows("$(row.text)"), &[]), 1),
        (file("packed", "dat", gzip(format!("\u{feff}{x}").as_bytes()).await, none(), &[]), 1),
        (file("object", "txt", "\u{feff}x", objects("$(object.text)", none()), &[]), 1),
    ];
    let mut jobs = vec![];
    for (case, _) in &cases {
        let mut spec = json!({"suspend": true});
        spec.as_object_mut().unwrap().extend(case.spec.as_object().unwrap().clone());
        jobs.push(scene.job(case.name, json!({"inputKey": case.key, "spec": spec})));
        for (key, bytes) in &case.objects {
            scene.put(&format!("in/{key}"), bytes.clone()).await;
        }
    }
    scene.apply(&list(jobs));
    for (case, requests) in &cases {
        let job = scene.wait_condition(case.name, "Planned", "True", 60).await;
        assert_eq!(job.status.unwrap().requests.unwrap().total, *requests, "{}", case.name);
    }
    nothing_was_sent(&scene).await;
}
