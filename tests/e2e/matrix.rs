//! Each way to write requests with each place for results.

use serde_json::{Value, json};

use crate::support::scene::{Scene, batch_lines, requests};

/// What `spec.input` may be, with the ids that it holds in order.
async fn inputs(scene: &Scene) -> Vec<(&'static str, Value, Vec<String>)> {
    let csv = "id,text\nr-1,one\nr-2,two\n";
    let rows = "{\"id\":\"r-1\",\"text\":\"one\"}\n{\"id\":\"r-2\",\"text\":\"two\"}\n";
    let bare =
        "{\"custom_id\":\"r-1\",\"body\":{\"messages\":[]}}\n{\"custom_id\":\"r-2\",\"body\":{\"messages\":[]}}\n";
    for (key, text) in [
        ("lines.jsonl", batch_lines("r", 3)),
        ("bare.jsonl", bare.into()),
        ("rows.jsonl", rows.into()),
        ("table.csv", csv.into()),
        ("folder/b.jsonl", batch_lines("b", 1)),
        ("folder/a.jsonl", batch_lines("a", 1)),
        ("docs/x.txt", "one".into()),
        ("docs/y.txt", "two".into()),
    ] {
        scene.put(&format!("in/{key}"), text).await;
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in"},
        "data": {"lines.jsonl": batch_lines("r", 3), "table.csv": csv}});
    scene.apply(&map.to_string());
    let template = |prefix: &str| {
        let content = if prefix == "row" { "say $(row.text)" } else { "say $(object.text)" };
        let id = if prefix == "row" { "$(row.id)" } else { "$(object.key)" };
        json!({"customID": id, "body": {"messages": [{"role": "user", "content": content}]}})
    };
    let at = |key: &str| scene.job("x", json!({"inputKey": key}))["spec"]["input"]["objectStore"].clone();
    let own = |ids: &[&str]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>();
    let (three, two) = (own(&["r-0", "r-1", "r-2"]), own(&["r-1", "r-2"]));
    vec![
        ("inline", json!({"inline": {"requests": requests("r", 3)}}), three.clone()),
        ("object", json!({"objectStore": at("lines.jsonl"), "format": "OpenAIBatch"}), three.clone()),
        ("requests", json!({"objectStore": at("bare.jsonl"), "format": "Requests"}), two.clone()),
        ("rows", json!({"objectStore": at("rows.jsonl"), "format": "Rows", "template": template("row")}), two.clone()),
        ("csv", json!({"objectStore": at("table.csv"), "template": template("row")}), two.clone()),
        ("folder", json!({"objectStore": at("folder/")}), own(&["a-0", "b-0"])),
        ("pattern", json!({"objectStore": at("folder/b*")}), own(&["b-0"])),
        (
            "objects",
            json!({"objectStore": at("docs/"), "format": "Objects", "template": template("object")}),
            own(&["x.txt", "y.txt"]),
        ),
        ("map", json!({"configMaps": [{"name": "in", "key": "lines.jsonl"}]}), three),
        ("map-csv", json!({"configMaps": [{"name": "in", "key": "table.csv"}], "template": template("row")}), two),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_input_goes_with_each_output() {
    let scene = Scene::new("matrix", &["--batch-duration", "200ms"]).await;
    let inputs = inputs(&scene).await;
    let outputs = [("s3", "None"), ("s3-gz", "Gzip"), ("cm", "None"), ("cm-zst", "Zstd")];
    let mut lines = 0;
    for (input, spec, ids) in &inputs {
        for (output, compression) in outputs {
            let name = format!("{input}-{output}");
            let mut job = scene.job(&name, json!({}));
            job["spec"]["input"] = spec.clone();
            if output.starts_with("cm") {
                job["spec"]["output"] = json!({"configMap": {"name": name}});
            }
            job["spec"]["output"]["compression"] = compression.into();
            scene.apply(&job.to_string());
            lines += ids.len();
        }
    }
    for (input, _, ids) in &inputs {
        for (output, _) in outputs {
            let name = format!("{input}-{output}");
            scene.wait_complete(&name).await;
            assert_eq!(scene.answered_ids(&name).await, *ids, "{name}");
        }
    }
    assert_eq!(scene.sim.ledger().await.len(), lines);
}
