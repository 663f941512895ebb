//! What the API server refuses at once.

use super::*;
use crate::support::shared::cluster;

/// What is refused; with the words that are said.
fn refused(scene: &Scene) -> Vec<(Value, &'static str)> {
    let over = |change: Value| scene.job("refused", json!({"inputKey": "x.csv", "spec": {"input": change}}));
    let inline = |change: Value| scene.job("refused", json!({"spec": {"input": change}}));
    let requests = |requests: Value| inline(json!({"inline": {"requests": requests}}));
    let uri = |uri: &str| over(json!({"objectStore": {"uri": uri}}));
    let maps = |maps: Value| inline(json!({"inline": null, "configMaps": maps}));
    let of_maps =
        json!({"inline": null, "configMaps": [{"name": "a"}], "format": "Objects", "template": template("x")});
    let many: Vec<Value> = (0..501).map(|i| json!({"customID": format!("c{i}"), "body": {}})).collect();
    vec![
        (over(json!({"format": "CSV"})), "set `template` with the formats Rows, CSV and Objects"),
        (over(json!({"format": "Objects"})), "set `template` with the formats Rows, CSV and Objects"),
        (over(json!({"format": "Requests", "template": template("x")})), "set `template` with the formats"),
        (over(json!({"maxObjectBytes": 5})), "with the format Objects only"),
        (over(json!({"onTooLarge": "Skip"})), "with the format Objects only"),
        (over(json!({"format": "Objects", "template": template("x"), "maxObjectBytes": 0})), "maxObjectBytes"),
        (over(json!({"format": "Objects", "template": template("x"), "maxObjectBytes": 7_000_000})), "maxObjectBytes"),
        (over(json!({"format": "Objects", "template": template("x"), "onTooLarge": "Cut"})), "\"Truncate\""),
        (over(json!({"format": "Xml"})), "\"OpenAIBatch\""),
        (over(json!({"compression": "Bzip2"})), "\"Zstd\""),
        (over(json!({"template": {"body": {}}})), "template.customID"),
        (over(json!({"template": {"customID": "", "body": {}}})), "template.customID"),
        (inline(of_maps), "so it needs `objectStore`"),
        (inline(json!({"compression": "Gzip"})), "`inline` requests are whole as they are"),
        (inline(json!({"template": template("x")})), "`inline` requests are whole as they are"),
        (inline(json!({"configMaps": [{"name": "a"}]})), "set exactly one of"),
        (requests(json!(many)), "500"),
        (requests(json!([])), "spec.input.inline.requests"),
        (requests(json!([{"customID": "i".repeat(513), "body": {}}])), "512"),
        (requests(json!([{"customID": "a", "body": "x"}])), "body"),
        (requests(json!([{"body": {}}])), "customID"),
        (maps(json!([])), "configMaps"),
        (maps(json!([{"name": "a", "key": "b/c"}])), "key"),
        (uri("https://bucket/x"), "objectStore.uri"),
        (uri("s3://bucket"), "objectStore.uri"),
        (uri("s3://Bucket/x"), "objectStore.uri"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_that_a_schema_sees_are_refused_at_once() {
    let scene = Scene::set("bad-schema", &[]).await;
    let refused = refused(&scene);
    let named = refused.iter().enumerate().map(|(i, (job, _))| {
        let mut job = job.clone();
        job["metadata"]["name"] = format!("refused-{i}").into();
        if job["spec"]["input"]["configMaps"].is_array() && job["spec"]["input"]["inline"].is_null() {
            job["spec"]["input"].as_object_mut().unwrap().remove("inline");
        }
        job
    });
    // What kubectl sees by itself, it says of the first one only.
    let apply = ["-n", &scene.namespace, "apply", "--validate=false", "-f", "-"];
    let (ok, said) = cluster().try_kubectl(&apply, Some(&list(named.collect())));
    assert!(!ok && !said.contains(" created"), "{said}");
    for (i, (_, words)) in refused.iter().enumerate() {
        let about = said.split("\"refused-").find(|about| about.starts_with(&format!("{i}\" is invalid")));
        assert!(about.is_some_and(|about| about.contains(words)), "refused-{i}: {words}: {about:?}: {said}");
    }
}
