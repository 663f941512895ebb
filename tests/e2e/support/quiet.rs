//! Prompts, answers and keys are looked for wherever the operator says or writes something, at the end of every scene.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::process::scratch;
use super::scene::Scene;
use super::shared::storage;
use batchjob_operator::api::FIELD_MANAGER;

/// In every prompt that the helpers of scenes write, and so in every answer.
pub const CANARY: &str = "Canary-4711";

/// A prompt that no other request of the job has.
pub fn prompt(job: &str, i: usize) -> String {
    format!("{job} {i} {CANARY}")
}

/// A place, and what was told there.
pub type Told = (String, String);

/// Fails where one of the canaries was told.
pub fn assert_quiet(told: &[Told]) {
    assert_untold(told, &storage().secret_key);
}

/// Fails where one of the canaries or this key was told.
pub fn assert_untold(told: &[Told], key: &str) {
    let keys = ["sk-test", "sk-wrong", "sk-other", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", key];
    let plain = keys.into_iter().chain([CANARY]).map(String::from);
    // As a Secret holds them, too.
    let canaries: Vec<String> = plain.flat_map(|c| [STANDARD.encode(&c), c]).collect();
    for (place, text) in told {
        for canary in &canaries {
            let line = text.lines().find(|line| line.contains(canary.as_str()));
            assert!(line.is_none(), "{canary} in {place}: {}", line.unwrap_or_default());
        }
    }
}

/// What the operators of a scene said on standard error.
pub fn logs(namespace: &str) -> Vec<Told> {
    let files = std::fs::read_dir(scratch()).unwrap().map(|f| f.unwrap().path());
    let ours = files.filter(|f| {
        let name = f.file_name().unwrap().to_str().unwrap();
        let of_scene = name.strip_prefix(namespace).is_some_and(|rest| rest.starts_with(['.', '-']));
        of_scene && name.ends_with(".log") && !name.ends_with("-sim.log")
    });
    let read = |f: &std::path::Path| String::from_utf8_lossy(&std::fs::read(f).unwrap()).into_owned();
    ours.map(|f| (format!("the log {}", f.display()), read(&f))).collect()
}

/// Every object of a kind that the operator may write, without what is somebody else's to say.
pub async fn objects(client: &kube::Client, namespace: &str) -> Vec<Told> {
    let mut told = vec![];
    for path in [
        format!("/apis/llmbatch.dev/v1alpha1/namespaces/{namespace}/batchjobs"),
        format!("/apis/llmbatch.dev/v1alpha1/namespaces/{namespace}/cronbatchjobs"),
        format!("/apis/llmbatch.dev/v1alpha1/namespaces/{namespace}/batchproviders"),
        "/apis/llmbatch.dev/v1alpha1/clusterbatchproviders".into(),
        format!("/api/v1/namespaces/{namespace}/configmaps"),
        format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
        // Those about what lies in no namespace.
        "/apis/events.k8s.io/v1/namespaces/default/events".into(),
        "/apis/coordination.k8s.io/v1/namespaces/batchjob-operator-system/leases".into(),
    ] {
        let request = http::Request::get(&path).body(vec![]).unwrap();
        let list: Value = client.request(request).await.unwrap();
        let items = list["items"].as_array().unwrap().iter().cloned().map(ours);
        told.extend(items.map(|item| (path.clone(), format!("{item:#}"))));
    }
    told
}

/// An object without its spec, without a manifest that was applied, and without results.
fn ours(mut object: Value) -> Value {
    let managers = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let written = managers.iter().any(|m| m["manager"].as_str().is_some_and(|m| m.starts_with(FIELD_MANAGER)));
    let output = object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == FIELD_MANAGER;
    let fields = object.as_object_mut().unwrap();
    if fields
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| ["Batch", "CronBatch", "ClusterBatch"].iter().any(|ours| kind.starts_with(ours)))
    {
        fields.remove("spec");
    }
    if let Some(metadata) = fields["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    for content in ["data", "binaryData"] {
        let Some(files) = fields.get_mut(content).and_then(Value::as_object_mut) else { continue };
        files.retain(|name, _| written && !(output && holds_content(name)));
    }
    object
}

/// Whether a file of an output is there to hold prompts or answers.
fn holds_content(name: &str) -> bool {
    let told = ["journal.json", "manifest.json", "report.jsonl"].iter().any(|told| name.ends_with(told));
    !told && !name.contains("_batchjob/journal/")
}

/// The operator's own files beside results.
pub async fn files(scene: &Scene) -> Vec<Told> {
    let all = scene.bucket.list(Some(&scene.namespace.as_str().into())).try_collect::<Vec<_>>().await.unwrap();
    let mut told = vec![];
    for file in all.into_iter().filter(|file| !holds_content(file.location.as_ref())) {
        // One that is being replaced is not there for a moment.
        let Ok(got) = scene.bucket.get(&file.location).await else { continue };
        let text = String::from_utf8_lossy(&got.bytes().await.unwrap()).into_owned();
        told.push((file.location.to_string(), text));
    }
    told
}
