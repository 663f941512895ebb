//! Where results go: ConfigMaps, compressed files, and what is in the way.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::odd_store::Oddity;
use crate::support::process::scratch;
use crate::support::proxy::Proxy;
use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, batch_lines, condition, ids, requests, uncompressed};
use crate::support::shared::{cluster, storage};

/// A job with `change` over one that writes to the ConfigMap `map`.
fn into_map(scene: &Scene, name: &str, map: &str, change: Value) -> Value {
    let mut job = scene.job(name, change);
    job["spec"]["output"] = json!({"configMap": {"name": map}});
    job
}

fn maps(scene: &Scene) -> Api<ConfigMap> {
    Api::namespaced(scene.client.clone(), &scene.namespace)
}

/// The names of ConfigMaps that begin with `name`, and the keys of each.
async fn held(scene: &Scene, name: &str) -> Vec<(String, Vec<String>)> {
    let all = maps(scene).list(&Default::default()).await.unwrap();
    let ours = all.into_iter().filter(|m| m.name_any().starts_with(name));
    ours.map(|m| {
        let text = m.data.iter().flatten().map(|(k, _)| k.clone());
        let mut keys: Vec<String> = text.chain(m.binary_data.iter().flatten().map(|(k, _)| k.clone())).collect();
        keys.sort();
        (m.name_any(), keys)
    })
    .collect()
}

fn own_ids(job: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{job}-{i}")).collect()
}

/// The simulator's rule that makes every answer 100 KB that hardly shrink.
fn long_answers(scene: &str) -> String {
    let mut state = 1u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    let answer: String = std::iter::once(CANARY.to_string()).chain((0..6_400).map(|_| word())).collect();
    let path = scratch().join(format!("{scene}-answers.json"));
    std::fs::write(&path, json!([{"answer": answer}]).to_string()).unwrap();
    path.to_str().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_holds_the_results_and_stays_when_the_job_goes() {
    let scene = Scene::new("map-out", &["--batch-duration", "200ms"]).await;
    scene.apply(&into_map(&scene, "j", "answers", json!({})).to_string());
    let job = scene.wait_complete("j").await;
    let results = job.status.unwrap().results.unwrap();
    assert_eq!(results.uri, format!("configmap://{}/answers/results.jsonl", scene.namespace));
    assert_eq!(results.config_maps, ["answers"]);
    scene.wait_tidy("j").await;
    let keys = ["_SUCCESS", "_batchjob.journal.json", "manifest.json", "results.jsonl"].map(String::from).to_vec();
    assert_eq!(held(&scene, "answers").await, [("answers".to_string(), keys.clone())]);
    let map = maps(&scene).get("answers").await.unwrap();
    assert_eq!(ids(&map.data.as_ref().unwrap()["results.jsonl"]), own_ids("j", 3));
    assert!(map.owner_references().is_empty(), "results outlive their job");
    assert_eq!(map.labels()["llmbatch.dev/job"], "j");
    scene.kubectl(&["delete", "bjob", "j"]);
    assert_eq!(held(&scene, "answers").await, [("answers".to_string(), keys)]);
    scene.apply(&into_map(&scene, "j", "answers", json!({})).to_string());
    scene.wait_condition("j", "ResultsReused", "True", 30).await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_goes_compressed_and_into_config_maps_beside_it() {
    let answers = long_answers("map-large");
    let scene = Scene::with(
        "map-large",
        &["--batch-duration", "200ms", "--answers", &answers],
        "limits: {maxRequestsPerBatch: 6}",
    )
    .await;
    let change = json!({"spec": {"input": {"inline": {"requests": requests("j", 24)}}}});
    scene.apply(&into_map(&scene, "j", "large", change).to_string());
    let job = scene.wait_complete("j").await;
    scene.wait_tidy("j").await;
    let results = job.status.unwrap().results.unwrap();
    assert!(results.config_maps.len() > 1 && results.uri.ends_with("/results-00000.jsonl.gz"), "{results:?}");
    let manifest: Value =
        serde_json::from_str(&maps(&scene).get("large").await.unwrap().data.unwrap()["manifest.json"]).unwrap();
    let mut read = vec![];
    for file in manifest["files"].as_array().unwrap() {
        let map = maps(&scene).get(file["configMap"].as_str().unwrap()).await.unwrap();
        let name = file["name"].as_str().unwrap();
        let text = uncompressed(name, &map.binary_data.unwrap()[name].0).await;
        assert_eq!(text.lines().count(), file["lines"].as_u64().unwrap() as usize);
        read.extend(ids(&text));
    }
    assert_eq!(read, own_ids("j", 24));
    let staged =
        |(_, keys): &(String, Vec<String>)| keys.iter().any(|k| k.contains(".parts.") || k.contains(".shards."));
    let held = held(&scene, "large").await;
    assert!(!held.iter().any(staged) && held.iter().all(|(_, keys)| !keys.is_empty()), "{held:?}");
    scene.sim.assert_billed_once(24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_find_no_room_stay_at_the_provider_until_there_is() {
    let answers = long_answers("map-full");
    let mut scene = Scene::set("map-full", &["--batch-duration", "200ms", "--answers", &answers]).await;
    scene.settings.extra = vec!["--output-config-maps".into(), "1".into()];
    scene.restart().await;
    let change = json!({"spec": {"input": {"inline": {"requests": requests("j", 24)}}}});
    scene.apply(&into_map(&scene, "j", "full", change).to_string());
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert!(reason == "ResultsTooLarge" && message.contains("--output-config-maps"), "{reason}: {message}");
    scene.stop().await;
    scene.settings.extra = vec![];
    scene.restart().await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(24).await;
}

/// A ConfigMap of nine requests of 100 KB that hardly shrink.
async fn put_noise(scene: &Scene, name: &str) {
    let mut state = u64::from(name.as_bytes()[0]);
    let mut noise = |n: usize| -> String {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (state >> 33) as u8 % 90).to_string().replace(['"', '\\', '`'], "x")
        };
        (0..n).map(next).collect()
    };
    let lines: String = (0..9)
        .map(|i| batch_lines(&format!("{name}{i}"), 1).replace(&format!("{name}{i} 0"), &noise(100_000)))
        .collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x.jsonl": lines}});
    scene.plant(lines.as_bytes());
    // Too large for the annotation that `kubectl apply` keeps.
    maps(scene).create(&Default::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_was_made_for_more_than_fits_goes_when_nothing_needs_it() {
    let answers = scratch().join("map-less-answers.json");
    std::fs::write(&answers, json!([{"answer": CANARY}]).to_string()).unwrap();
    let args = ["--batch-duration", "200ms", "--answers", answers.to_str().unwrap()];
    let scene = Scene::with("map-less", &args, "limits: {maxRequestsPerBatch: 9}").await;
    let mut job = into_map(&scene, "j", "less", json!({"spec": {"suspend": true}}));
    job["spec"]["input"] = json!({"configMaps": [{"name": "a"}, {"name": "b"}]});
    for name in ["a", "b"] {
        put_noise(&scene, name).await;
    }
    scene.apply(&job.to_string());
    scene.wait_condition("j", "Planned", "True", 40).await;
    assert!(held(&scene, "less").await.len() > 1, "what is to be sent takes more than one");
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    scene.wait_tidy("j").await;
    assert_eq!(held(&scene, "less").await.len(), 1);
    scene.sim.assert_billed_once(18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_find_no_room_are_refused_before_anything_is_paid() {
    let scene = Scene::new("map-input", &[]).await;
    for name in ["a", "b", "c"] {
        put_noise(&scene, name).await;
    }
    let mut job = into_map(&scene, "j", "out", json!({}));
    job["spec"]["input"] = json!({"configMaps": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
    scene.apply(&job.to_string());
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert!(reason == "InvalidInput" && message.contains("write to object storage"), "{reason}: {message}");
    let mut job = into_map(&scene, "k", "c", json!({}));
    job["spec"]["input"] = json!({"configMaps": [{"name": "c"}]});
    scene.apply(&job.to_string());
    let job = scene.wait_condition("k", "Stalled", "True", 40).await;
    let message = condition(&job, "Stalled").unwrap().2;
    assert!(message.contains("was not made for this job"), "{message}");
    assert_eq!(scene.sim.spent().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_left_alone_and_refused_before_an_upload() {
    let scene = Scene::new("foreign", &["--batch-duration", "200ms"]).await;
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {"a": "b"}});
    scene.apply(&theirs.to_string());
    let before = maps(&scene).get("theirs").await.unwrap();
    scene.apply(&into_map(&scene, "map", "theirs", json!({})).to_string());
    scene.put("out/object/results.jsonl", "somebody else's").await;
    scene.apply_job("object", json!({}));
    scene.put("out/manifest/manifest.json", "{\"kind\": \"else\"}").await;
    scene.apply_job("manifest", json!({}));
    for (name, words) in [
        ("map", "ConfigMap 'theirs' of namespace"),
        ("object", "out/object/results.jsonl"),
        ("manifest", "manifest.json"),
    ] {
        let job = scene
            .wait_job("it is refused", name, 40, |j| {
                ["Stalled", "Failed"].iter().any(|c| condition(j, c).is_some_and(|(s, _, _)| s == "True"))
            })
            .await;
        let (_, reason, message) =
            ["Failed", "Stalled"].iter().filter_map(|c| condition(&job, c)).find(|c| c.0 == "True").unwrap();
        assert!(reason == "OutputConflict" && message.contains(words), "{name}: {reason}: {message}");
    }
    assert_eq!(scene.sim.spent().await, (0, 0));
    assert_eq!(maps(&scene).get("theirs").await.unwrap(), before);
    assert_eq!(scene.get("out/object/results.jsonl").await.unwrap(), "somebody else's");
    scene.kubectl(&["delete", "configmap", "theirs"]);
    scene.wait_complete("map").await;
    scene.sim.assert_billed_once(3).await;
}

/// Case 30-other-stores.
#[tokio::test(flavor = "multi_thread")]
async fn stores_as_they_are_do_or_are_refused_before_anything_is_sent() {
    let scene = Scene::new("stores", &["--batch-duration", "200ms"]).await;
    scene.put("in/region.jsonl", batch_lines("region", 3)).await;
    let odd = async |oddity| Proxy::odd(&storage().endpoint, oddity).await.url;
    for (name, oddity, words) in [
        ("creates", Oddity::Lacks("if-none-match"), "does not take `If-None-Match` (NotImplemented"),
        ("swaps", Oddity::Lacks("if-match"), "does not take `If-Match` (NotImplemented"),
        ("path", Oddity::WantsBucketInHost, "set `addressingStyle: VirtualHosted`"),
    ] {
        let mut job = scene.job(name, json!({}));
        job["spec"]["output"]["objectStore"]["endpoint"] = odd(oddity).await.into();
        scene.apply(&job.to_string());
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert!(reason == "StorageRejected" && message.contains(words), "{name}: {reason}: {message}");
        scene.kubectl(&["delete", "bjob", name, "--timeout=30s"]);
    }
    assert_eq!(scene.sim.spent().await, (0, 0));
    // The store names the region, and what was signed anew is what it checks.
    let region = odd(Oddity::Region("eu-west-3")).await;
    let mut job = scene.job("region", json!({"inputKey": "region.jsonl"}));
    for place in ["input", "output"] {
        job["spec"][place]["objectStore"]["endpoint"] = region.clone().into();
    }
    scene.apply(&job.to_string());
    let mut job = scene.job("unlisted", json!({}));
    job["spec"]["output"]["objectStore"]["endpoint"] = odd(Oddity::NoListing(403, "AccessDenied")).await.into();
    scene.apply(&job.to_string());
    for name in ["region", "unlisted"] {
        scene.wait_complete(name).await;
        scene.wait_tidy(name).await;
        assert_eq!(scene.result_ids(name).await, own_ids(name, 3));
        let staged = scene.list(&format!("out/{name}/_batchjob/")).await;
        assert_eq!(staged, ["journal.json"], "{name}");
    }
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn result_files_are_compressed_where_that_is_asked_for() {
    let scene = Scene::new("compressed", &["--batch-duration", "200ms"]).await;
    for (name, compression, file) in [("gz", "Gzip", "results.jsonl.gz"), ("zst", "Zstd", "results.jsonl.zst")] {
        scene.apply_job(name, json!({"spec": {"output": {"compression": compression}}}));
        let job = scene.wait_complete(name).await;
        let uri = job.status.unwrap().results.unwrap().uri;
        assert_eq!(uri, format!("s3://tests/{}/out/{name}/{file}", scene.namespace));
        let path = format!("{}/out/{name}/{file}", scene.namespace).into();
        let bytes = scene.bucket.get(&path).await.unwrap().bytes().await.unwrap();
        let text = uncompressed(file, &bytes).await;
        assert_eq!(ids(&text), own_ids(name, 3));
        let manifest: Value =
            serde_json::from_str(&scene.get(&format!("out/{name}/manifest.json")).await.unwrap()).unwrap();
        assert_eq!(manifest["files"][0]["bytes"], text.len());
    }
    let (ok, said) =
        scene.try_apply(&scene.job("gz", json!({"spec": {"output": {"compression": "Zstd"}}})).to_string());
    assert!(!ok && said.contains("`spec.output` may not be changed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_make_batches_of_their_own_and_one_result_in_order() {
    let scene = Scene::with("several-models", &["--batch-duration", "200ms"], "limits: {maxRequestsPerBatch: 4}").await;
    let model = |i: usize| ["small", "large", "small", "tiny"][i % 4];
    let lines: String =
        batch_lines("n", 22).lines().enumerate().map(|(i, l)| l.replace("gpt-5-mini", model(i)) + "\n").collect();
    scene.put("in/n.jsonl", lines).await;
    scene.sim.admin_post("faults", json!({"point": "batch", "action": "expire", "after": 0.5, "times": 2})).await;
    scene.apply_job("j", json!({"inputKey": "n.jsonl", "spec": {"model": null}}));
    let job = scene.wait_complete("j").await;
    assert_eq!(scene.result_ids("j").await, own_ids("n", 22));
    let batches = job.status.unwrap().batches;
    assert!(batches.iter().any(|b| b.model == "tiny") && batches.len() > 7, "{batches:?}");
    for batch in scene.sim.state().await["batches"].as_array().unwrap() {
        let of: Vec<Value> = scene.sim.ledger().await.into_iter().filter(|l| l["batch_id"] == batch["id"]).collect();
        assert!(of.iter().all(|l| l["model"] == of[0]["model"]), "one model a batch: {of:?}");
    }
    scene.sim.assert_billed_once(22).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_with_its_journal_leaves_nothing_running() {
    let scene = Scene::new("map-gone", &["--batch-duration", "1h"]).await;
    scene.apply(&into_map(&scene, "j", "answers", json!({})).to_string());
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    cluster().kubectl(&["delete", "namespace", &scene.namespace, "--wait=false"]);
    eventually("the namespace is gone", 90, || async {
        let (found, _) = cluster().try_kubectl(&["get", "namespace", &scene.namespace], None);
        (!found).then_some(())
    })
    .await;
    scene.wait_batch("the batch was stopped", |b| b["status"] == "cancelled").await;
    assert_eq!(scene.sim.state().await["creates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_a_config_map_survives_kills_and_lost_replies() {
    let mut scene = Scene::new("map-crash", &["--batch-duration", "2s"]).await;
    scene.sim.admin_post("faults", json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.apply(&into_map(&scene, "j", "journal", json!({})).to_string());
    scene.wait_batch("a batch exists", |_| true).await;
    scene.stop().await;
    scene.restart().await;
    eventually("the batch is recorded", 30, || async {
        let map = maps(&scene).get("journal").await.unwrap();
        map.data.unwrap()["_batchjob.journal.json"].contains("\"Submitted\"").then_some(())
    })
    .await;
    scene.stop().await;
    scene.restart().await;
    scene.wait_complete("j").await;
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.sim.assert_billed_once(3).await;
}
