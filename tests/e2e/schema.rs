//! What the API server itself refuses, and what kubectl explains.

use serde_json::{Value, json};

use crate::manifests;
use crate::support::eventually;
use crate::support::process::root;
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
        (both, "set exactly one of `inline`, `objectStore`, `configMaps`, `batchJobRef` and `results`"),
        (neither, "set exactly one of `inline`, `objectStore`, `configMaps`, `batchJobRef` and `results`"),
        (job(&"n".repeat(64), json!({})), "no more than 63 characters"),
        (job("many", json!({"spec": {"input": {"inline": {"requests": many}}}})), "500"),
        (job("uri", json!({"spec": {"output": place("http://x/y")}})), "spec.output.objectStore.uri"),
        (partial_in_a_map, "set `partialResults` with `objectStore` only"),
        (job("window", json!({"spec": {"completionWindowSeconds": 5000}})), "multiple of 3600"),
        (job("parallel", json!({"spec": {"parallelism": 0}})), "spec.parallelism"),
        (job("budget", json!({"spec": {"budget": {"maxCostUSD": "-1"}}})), "spec.budget.maxCostUSD"),
        (job("dollars", json!({"spec": {"budget": {"maxCostUSD": "$25"}}})), "spec.budget.maxCostUSD"),
        (job("number", json!({"spec": {"budget": {"maxCostUSD": 25}}})), "spec.budget.maxCostUSD"),
        (job("unlimited", json!({"spec": {"budget": {}}})), "spec.budget.maxCostUSD"),
        (job("bird", json!({"spec": {"canary": {"requests": 0}}})), "spec.canary.requests"),
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
        (priced(json!([{"name": "m"}])), "needs `prices`, `maxInputTokens`, `maxOutputTokens` or `maxEnqueuedTokens`"),
        (priced(json!([{"name": "a b", "maxInputTokens": 1}])), "spec.models[0].name"),
        (priced(json!([{"name": "a*b", "maxInputTokens": 1}])), "spec.models[0].name"),
        (priced(json!([{"name": "m", "maxInputTokens": 1}, {"name": "m", "maxInputTokens": 2}])), "Duplicate value"),
        (priced(json!([{"name": "m", "prices": {"inputUSDPerMillion": "1"}}])), "prices.outputUSDPerMillion"),
        (
            priced(json!([{"name": "m", "prices": {"inputUSDPerMillion": "0.0000001", "outputUSDPerMillion": "1"}}])),
            "prices.inputUSDPerMillion",
        ),
        (
            priced(json!([{"name": "m", "maxInputTokens": 1, "batchDiscountPercent": 50}])),
            "`batchDiscountPercent` is a discount on `prices`",
        ),
        (
            priced(
                json!([{"name": "m", "batchDiscountPercent": 50, "prices": {"inputUSDPerMillion": "1", "outputUSDPerMillion": "2",
                "batch": {"inputUSDPerMillion": "1", "outputUSDPerMillion": "2"}}}]),
            ),
            "both say what batches cost",
        ),
        (
            priced(json!([{"name": "m", "prices": {"inputUSDPerMillion": "1", "outputUSDPerMillion": "2",
                "longContext": {"aboveInputTokens": 1, "inputUSDPerMillion": "1", "outputUSDPerMillion": "2",
                    "batch": {"inputUSDPerMillion": "1", "outputUSDPerMillion": "2"}}}}])),
            "both in `prices` and in `prices.longContext`, or in neither",
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

/// A provider with these models.
fn priced(models: Value) -> Value {
    provider(json!({"type": "OpenAICompatible", "baseURL": "http://x/v1", "models": models}))
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

/// Fields of a schema that `values` set, at least one of them, and those that none does.
fn fields(schema: &Value, values: &[&Value], path: &str, set: &mut Vec<String>, unset: &mut Vec<String>) {
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        let given: Vec<&Value> = values.iter().filter_map(|value| value.get(field)).collect();
        if given.is_empty() {
            unset.push(path.clone())
        } else {
            set.push(path.clone())
        }
        let items: Vec<&Value> = given.iter().filter_map(|value| value.as_array()).flatten().collect();
        fields(schema, &given, &path, set, unset);
        fields(&schema["items"], &items, &path, set, unset);
    }
}

/// The manifest sets every field of every kind, but those of a template that are a BatchJob's as well.
fn sets_every_field(manifest: &str) {
    let documents: Vec<Value> =
        manifest.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    let (mut set, mut unset) = (vec![], vec![]);
    for (_, crd) in batchjob_operator::api::crds() {
        let kind = &crd.spec.names.kind;
        let values: Vec<&Value> = documents.iter().filter(|d| d["kind"] == **kind).map(|d| &d["spec"]).collect();
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        fields(spec, &values, kind, &mut set, &mut unset);
    }
    unset.retain(|path| !path.starts_with("CronBatchJob.jobTemplate.spec."));
    assert!(set.len() > 100 && unset.is_empty(), "no manifest sets {unset:?}");
}

/// The objects of the manifest, and those of the scene.
fn objects(scene: &Scene) -> Vec<Value> {
    let mut objects = vec![];
    for kind in ["bjob", "cbjob", "bprov", "cbprov/every-field"] {
        let text = scene.kubectl(&["get", kind, "-o", "json", "--show-managed-fields"]);
        let got: Value = serde_json::from_str(&text).unwrap();
        objects.extend(got["items"].as_array().cloned().unwrap_or_else(|| vec![got]));
    }
    objects
}

/// What a tool that applies again and again must not move: the generation, and what was applied, by whom and when. Status and
/// finalizers are operators'.
fn applied(scene: &Scene) -> Vec<Value> {
    let applied = |object: &Value| {
        let managers = object["metadata"]["managedFields"].as_array().unwrap();
        let ours: Vec<_> = managers.iter().filter(|m| m["manager"].as_str().unwrap().starts_with("kubectl")).collect();
        json!([object["metadata"]["name"], object["metadata"]["generation"], ours, object["spec"]])
    };
    objects(scene).iter().map(applied).collect()
}

/// An operator looks after the objects in the meantime. All lack a Secret or a ConfigMap, so that nothing is sent anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_manifest_applied_20_times_changes_nothing_and_differs_in_nothing() {
    let manifest = std::fs::read_to_string(root().join("tests/e2e/every-field.yaml")).unwrap();
    sets_every_field(&manifest);
    for (name, flags) in [("client-side", &[][..]), ("server-side", &["--server-side"])] {
        let scene = Scene::new(name, &[]).await;
        scene.kubectl(&["delete", "secret", "s3"]);
        let run = |verb: &str| {
            cluster().try_kubectl(&[&["-n", &scene.namespace, verb, "-f", "-"], flags].concat(), Some(&manifest))
        };
        let apply = || {
            let (ok, said) = run("apply");
            assert!(ok, "{name}: {said}");
        };
        apply();
        let before = applied(&scene);
        assert!(before.len() >= 8, "{before:?}");
        for _ in 0..20 {
            apply();
        }
        eventually(&format!("{name}: the operator has seen every object"), 60, || async {
            let is_seen = |o: &Value| o["status"]["observedGeneration"] == o["metadata"]["generation"];
            objects(&scene).iter().all(is_seen).then_some(())
        })
        .await;
        assert!(scene.get_job("least").await.metadata.finalizers.is_some(), "{name}: it is looked after");
        // A diff reads twice, and status may be written between.
        let differing = (0..3).map(|_| run("diff")).take_while(|(is_same, _)| !is_same);
        let differing: Vec<String> = differing.map(|(_, said)| said).collect();
        assert!(differing.len() < 3, "{name}: {}", differing.concat());
        let after = applied(&scene);
        assert_eq!(before.len(), after.len(), "{name}");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "{name}");
        }
        scene.kubectl(&["delete", "cbprov", "every-field", "--wait=true", "--timeout=60s"]);
    }
}
