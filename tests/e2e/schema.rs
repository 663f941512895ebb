//! What the API server itself refuses, and what kubectl explains.

use serde_json::{Value, json};

use crate::manifests;
use crate::support::scene::Scene;
use crate::support::shared::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_advice() {
    let scene = Scene::set("schema", &[]).await;
    let place = |uri: &str| json!({"objectStore": {"uri": uri, "secretRef": {"name": "s3"}}});
    let job = |name: &str, change: Value| scene.job(name, change);
    let mut both = job("both", json!({}));
    both["spec"]["input"]["objectStore"] = place("s3://tests/x")["objectStore"].clone();
    let mut neither = job("neither", json!({}));
    neither["spec"]["input"] = json!({});
    let many: Vec<Value> = (0..501).map(|i| json!({"customID": format!("c{i}"), "body": {}})).collect();
    let one = |request: Value| json!({"spec": {"input": {"inline": {"requests": [request]}}}});
    let mut two_defaults = job("defaults", json!({"spec": {"requestDefaults": {}}}));
    two_defaults["spec"]["requestDefaultsJSON"] = "{}".into();
    let mut partial_in_a_map = job("partial", json!({}));
    partial_in_a_map["spec"]["output"] = json!({"configMap": {"name": "m"}, "partialResults": true});
    let bad: Vec<(Value, &str)> = vec![
        (
            job("two", one(json!({"customID": "a", "body": {}, "bodyJSON": "{}"}))),
            "exactly one of `body` and `bodyJSON`",
        ),
        (job("none", one(json!({"customID": "a"}))), "exactly one of `body` and `bodyJSON`"),
        (two_defaults, "at most one of `spec.requestDefaults` and `spec.requestDefaultsJSON`"),
        (both, "set exactly one of `inline`, `objectStore` and `configMaps`"),
        (neither, "set exactly one of `inline`, `objectStore` and `configMaps`"),
        (job(&"n".repeat(64), json!({})), "no more than 63 characters"),
        (job("many", json!({"spec": {"input": {"inline": {"requests": many}}}})), "500"),
        (job("uri", json!({"spec": {"output": place("http://x/y")}})), "spec.output.objectStore.uri"),
        (partial_in_a_map, "set `partialResults` with `objectStore` only"),
        (job("window", json!({"spec": {"completionWindowSeconds": 5000}})), "multiple of 3600"),
        (job("parallel", json!({"spec": {"parallelism": 0}})), "spec.parallelism"),
        (job("run", json!({"spec": {"runID": "a/b"}})), "spec.runID"),
        (job("endpoint", json!({"spec": {"endpoint": "Chat"}})), "ChatCompletions"),
        (provider(json!({"type": "OpenAICompatible"})), "`baseURL` is required for type 'OpenAICompatible'"),
        (provider(json!({"type": "OpenAI"})), "`auth` is required for types 'OpenAI' and 'AzureOpenAI'"),
        (
            provider(
                json!({"type": "AzureOpenAI", "baseURL": "http://r.openai.azure.com", "auth": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            ),
            "`baseURL` of an Azure resource must begin with `https://`",
        ),
        (provider(json!({"type": "OpenAICompatible", "baseURL": "http://x/v1/"})), "spec.baseURL"),
        (
            provider(
                json!({"type": "OpenAI", "baseURL": "http://x/v1", "auth": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            ),
            "`baseURL` of type 'OpenAI' must begin with `https://`",
        ),
        (granted(json!({})), "set exactly one of `names` and `namespaceSelector`"),
        (
            granted(json!({"names": ["a"], "namespaceSelector": {}})),
            "set exactly one of `names` and `namespaceSelector`",
        ),
        (expression("NotIn", json!([])), "the operators In and NotIn need at least one of `values`"),
        (expression("In", Value::Null), "the operators In and NotIn need at least one of `values`"),
        (expression("Exists", json!(["ml"])), "the operators Exists and DoesNotExist take no `values`"),
        (expression("Near", json!(["ml"])), "supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\""),
        (expression("In", json!(["m l"])), "values[0]"),
        (granted(json!({"namespaceSelector": {"matchLabels": {"team": "m l"}}})), "matchLabels.team"),
        (
            granted(json!({"namespaceSelector": {"matchLabels": {"my team": "ml"}}})),
            "`matchLabels` has a key that is no label's",
        ),
    ];
    for (manifest, words) in bad {
        let (ok, said) = scene.try_apply(&manifest.to_string());
        assert!(!ok && said.contains(words), "{words}: {said}");
    }
    let good = [
        job(
            "good",
            json!({"spec": {"runID": "2026-11.22_a", "completionWindowSeconds": 7200, "deletionPolicy": "Orphan"}}),
        ),
        provider(json!({"type": "OpenAI", "auth": {"secretKeyRef": {"name": "a", "key": "b"}}})),
        provider(
            json!({"type": "OpenAI", "auth": {"secretKeyRef": {"name": "c", "key": "b"}}, "limits": {"maxRequestsPerBatch": 9}}),
        ),
    ];
    for manifest in &good {
        scene.apply(&manifest.to_string());
    }
    let (ok, said) = scene.try_apply(
        &provider(
            json!({"type": "OpenAI", "baseURL": "https://x/v1", "auth": {"secretKeyRef": {"name": "a", "key": "b"}}}),
        )
        .to_string(),
    );
    assert!(
        !ok && said
            .contains("`spec.baseURL` may not be changed, since batches may run there; create another BatchProvider"),
        "{said}"
    );
    scene.apply(&granted(json!({"names": ["a"]})).to_string());
    let mut moved = granted(json!({"names": ["a"]}));
    moved["spec"]["baseURL"] = "http://y/v1".into();
    let (ok, said) = scene.try_apply(&moved.to_string());
    assert!(!ok && said.contains("create another ClusterBatchProvider instead"), "{said}");
    scene.kubectl(&["delete", "cbprov", "schema-granted", "--wait=false"]);
    // What addresses a bucket says which bucket it is.
    for (field, value) in [("addressingStyle", "VirtualHosted"), ("region", "eu-west-3")] {
        let mut elsewhere = good[0].clone();
        elsewhere["spec"]["output"]["objectStore"][field] = value.into();
        let (ok, said) = scene.try_apply(&elsewhere.to_string());
        assert!(!ok && said.contains("`spec.output` may not be changed"), "{field}: {said}");
    }
    let defaults =
        scene.kubectl(&["get", "bjob", "good", "-o", "jsonpath={.spec.endpoint} {.spec.parallelism} {.spec.suspend}"]);
    assert_eq!(defaults, "ChatCompletions 4 false");
}

/// An admin's provider with one grant.
fn granted(grant: Value) -> Value {
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": "schema-granted"},
        "spec": {"type": "OpenAICompatible", "baseURL": "http://x/v1", "namespaces": [grant]}})
}

/// The same, for namespaces of which an expression about their label `team` holds.
fn expression(operator: &str, values: Value) -> Value {
    let mut expression = json!({"key": "team", "operator": operator});
    if !values.is_null() {
        expression["values"] = values;
    }
    granted(json!({"namespaceSelector": {"matchExpressions": [expression]}}))
}

fn provider(spec: Value) -> Value {
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": "p"}, "spec": spec})
}

/// Case 16-inline-over-256-kib. The API server says it before any rule of ours is asked, so the documentation has its words.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_above_256_kib_is_applied_on_the_servers_side() {
    let scene = Scene::set("long-manifest", &[]).await;
    let request = |i: usize| json!({"customID": format!("p-{i}"), "body": {"messages": [{"role": "user", "content": "x".repeat(800)}]}});
    let requests: Vec<Value> = (0..400).map(request).collect();
    let manifest = scene.job("long", json!({"spec": {"input": {"inline": {"requests": requests}}}})).to_string();
    assert!(manifest.len() > 262_144);
    let (ok, said) = scene.try_apply(&manifest);
    assert!(!ok && said.contains("metadata.annotations: Too long"), "{said}");
    for verb in [&["create"][..], &["apply", "--server-side"]] {
        let command = [&["-n", &scene.namespace], verb, &["-f", "-"]].concat();
        let (ok, said) = cluster().try_kubectl(&command, Some(&manifest));
        assert!(ok, "{verb:?}: {said}");
    }
    let explained = scene.kubectl(&["explain", "batchjob.spec.input.inline"]);
    for words in ["256 KiB", "metadata.annotations: Too long", "--server-side"] {
        assert!(explained.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {explained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_of_the_examples_and_the_docs_is_taken() {
    cluster().kubectl(&["create", "namespace", "shown"]);
    for manifests::Shown { place, objects } in manifests::shown() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let (ok, said) = cluster().try_kubectl(&["-n", "shown", "apply", "--dry-run=server", "-f", "-"], Some(&list));
        assert!(ok, "{place}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_explained() {
    let scene = Scene::set("explain", &[]).await;
    for kind in ["batchjob", "batchprovider", "clusterbatchprovider", "cronbatchjob"] {
        let text = scene.kubectl(&["explain", kind, "--recursive=false"]);
        assert!(!text.contains("<no description>"), "{text}");
    }
    let text = scene.kubectl(&["explain", "batchjob.spec.runID"]);
    assert!(text.contains("paid, again"), "{text}");
}
