//! What an input names and is not there.

use super::*;
use crate::support::shared::storage;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_its_arrival_noticed() {
    let scene = Scene::new("missing", &["--batch-duration", "200ms"]).await;
    let changed = |path: &str, value: &str| {
        let mut job = scene.job("x", json!({"inputKey": "there.jsonl"}));
        *job["spec"].pointer_mut(path).unwrap() = value.into();
        job
    };
    let (input, output) = ("/input/objectStore", "/output/objectStore");
    let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    let auth = |name: &str, key: &str| json!({"auth": {"secretKeyRef": {"name": name, "key": key}}});
    let maps = |maps: Value| scene.job("x", json!({"spec": {"input": {"inline": null, "configMaps": maps}}}));
    let wrong = json!({"aws_access_key_id": storage().access_key, "aws_secret_access_key": "wrong"});
    scene.put("in/there.jsonl", batch_lines("t", 1)).await;
    scene.apply(&list(vec![
        secret("wrong", wrong),
        secret("half", json!({"aws_access_key_id": "a"})),
        secret("hollow", json!({"aws_access_key_id": "a", "aws_secret_access_key": " "})),
        provider(&scene, "nosecret", auth("none", "api-key")),
        provider(&scene, "nokey", auth("llm-key", "none")),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"a": "x"}}),
    ]));
    let cases: Vec<(&str, Value, &str, &[&str])> = vec![
        (
            "provider",
            changed("/providerRef/name", "nope"),
            "ProviderNotFound",
            &["BatchProvider 'nope' was not found in namespace", "create it, or correct `spec.providerRef`"],
        ),
        (
            "later",
            changed(&format!("{output}/secretRef/name"), "later"),
            "SecretNotFound",
            &["Secret 'later', which `spec.output` names, was not found", "create it"],
        ),
        (
            "inputsecret",
            changed(&format!("{input}/secretRef/name"), "none"),
            "SecretNotFound",
            &["Secret 'none', which `spec.input` names, was not found", "create it"],
        ),
        (
            "half",
            changed(&format!("{input}/secretRef/name"), "half"),
            "SecretNotFound",
            &["Secret 'half', which `spec.input` names, has no key 'aws_secret_access_key'; add it"],
        ),
        (
            "hollow",
            changed(&format!("{output}/secretRef/name"), "hollow"),
            "SecretNotFound",
            &["key 'aws_secret_access_key' of Secret 'hollow'", "is empty or not text"],
        ),
        (
            "nosecret",
            changed("/providerRef/name", "nosecret"),
            "SecretNotFound",
            &["Secret 'none', which BatchProvider 'nosecret' names, was not found", "create it"],
        ),
        (
            "nokey",
            changed("/providerRef/name", "nokey"),
            "SecretNotFound",
            &["Secret 'llm-key', which BatchProvider 'nokey' names, has no key 'none'; add it"],
        ),
        (
            "bucket",
            changed(&format!("{output}/uri"), "s3://no-such-bucket/out/"),
            "StorageUnavailable",
            &["the bucket of s3://no-such-bucket/out/", "does not exist; create it, or correct the URI"],
        ),
        (
            "inputbucket",
            changed(&format!("{input}/uri"), "s3://no-such-bucket/in/"),
            "StorageUnavailable",
            &["the bucket of s3://no-such-bucket/in/", "does not exist; create it, or correct the URI"],
        ),
        (
            "wrong",
            changed(&format!("{input}/secretRef/name"), "wrong"),
            "CredentialsRejected",
            &["s3://tests/", "the store refused the credentials", "check the Secret"],
        ),
        (
            "slashes",
            changed(&format!("{input}/uri"), "s3://tests/a//b.jsonl"),
            "StorageUnavailable",
            &["'s3://tests/a//b.jsonl' is not a URI of the form s3://BUCKET/KEY", "correct the URI"],
        ),
        (
            "dots",
            changed(&format!("{input}/uri"), "s3://tests/a/../b.jsonl"),
            "StorageUnavailable",
            &["'s3://tests/a/../b.jsonl' is not a URI of the form s3://BUCKET/KEY"],
        ),
        (
            "variable",
            changed(&format!("{output}/uri"), "s3://tests/$(runID)/"),
            "InvalidInput",
            &["`spec.output` uses `$(runID)`, but `spec.runID` is not set"],
        ),
        (
            "unknown",
            changed(&format!("{output}/uri"), "s3://tests/$(uid)/"),
            "InvalidInput",
            &["`spec.output` uses `$(uid)`; only `$(namespace)`, `$(name)` and `$(runID)` are known"],
        ),
        (
            "unclosed",
            changed(&format!("{output}/uri"), "s3://tests/$(name/"),
            "InvalidInput",
            &["`spec.output` has a `$(` without its `)`"],
        ),
        (
            "map",
            maps(json!([{"name": "map", "key": "a"}, {"name": "none"}])),
            "ConfigMapNotFound",
            &["ConfigMap 'none', which `spec.input` names, was not found in namespace", "create it"],
        ),
        (
            "key",
            maps(json!([{"name": "map", "key": "b"}])),
            "ConfigMapNotFound",
            &["ConfigMap 'map', which `spec.input` names, has no key 'b'; add it"],
        ),
    ];
    let named = cases.iter().map(|(name, job, ..)| {
        let mut job = job.clone();
        job["metadata"]["name"] = (*name).into();
        if job["spec"]["output"]["objectStore"]["uri"].as_str().unwrap().ends_with("/out/x/") {
            job["spec"]["output"]["objectStore"]["uri"] = format!("s3://tests/{}/out/{name}/", scene.namespace).into();
        }
        job
    });
    scene.apply(&list(named.collect()));
    for (name, _, wanted, words) in &cases {
        let job = scene.wait_condition(name, "Stalled", "True", 60).await;
        let (_, reason, message) = condition(&job, "Stalled").unwrap();
        assert_eq!(reason, *wanted, "{name}: {message}");
        assert!(words.iter().all(|words| message.contains(words)), "{name}: {message}");
    }
    nothing_was_sent(&scene).await;
    scene.apply(&scene.manifest("storage.yaml").replace("name: s3", "name: later"));
    scene.wait_complete("later").await;
    // What never started is not held back when it is deleted.
    let never: Vec<&str> = cases.iter().map(|(name, ..)| *name).filter(|name| *name != "later").collect();
    scene.kubectl(&[&["delete", "bjob", "--timeout=60s"], &never[..]].concat());
}
