//! Every way to write requests: many objects, ConfigMaps, rows, CSV, compressed, none at all.

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use object_store::ObjectStoreExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::proxy::{Fault, Proxy, When};
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::{cluster, storage};

async fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(vec![]);
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(text: &str) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(vec![]);
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn ids(jobs: &[(&str, usize)]) -> Vec<String> {
    jobs.iter().flat_map(|(job, n)| (0..*n).map(move |i| format!("{job}-{i}"))).collect()
}

fn template(content: &str) -> Value {
    json!({"customID": "$(row.id)", "body": {"messages": [{"role": "user", "content": content}]}})
}

/// A ConfigMap of the scene's namespace.
fn config_map(scene: &Scene, name: &str, data: Value, binary: Value) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data, "binaryData": binary});
    scene.apply(&map.to_string());
}

/// A job that reads these ConfigMaps.
fn from_maps(scene: &Scene, name: &str, maps: Value) -> Value {
    let mut job = scene.job(name, json!({}));
    job["spec"]["input"] = json!({"configMaps": maps});
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_read_by_key_and_answered_in_that_order() {
    let scene = Scene::new("many", &["--batch-duration", "200ms"]).await;
    for (key, bytes) in [
        ("in/day/b.jsonl", batch_lines("b", 3).into_bytes()),
        ("in/day/a/z.jsonl.gz", gzip(&batch_lines("z", 2)).await),
        ("in/day/c.jsonl.zst", zstd(&batch_lines("c", 2)).await),
        ("in/day/d.txt", batch_lines("d", 1).into_bytes()),
        ("in/day/empty.jsonl", vec![]),
        ("in/day/_SUCCESS", b"not a request".to_vec()),
        ("in/day/_batchjob/x.jsonl", b"not a request".to_vec()),
        ("in/day/.hidden", b"not a request".to_vec()),
        ("in/days/other.jsonl", b"not a request".to_vec()),
    ] {
        scene.put(key, bytes).await;
    }
    scene.apply_job("below", json!({"inputKey": "day/"}));
    scene.wait_complete("below").await;
    assert_eq!(scene.result_ids("below").await, ids(&[("z", 2), ("b", 3), ("c", 2), ("d", 1)]));
    scene.sim.assert_billed_once(8).await;
    scene.put("in/glob/x-1.jsonl", batch_lines("x1", 1)).await;
    scene.put("in/glob/x-2.jsonl", batch_lines("x2", 1)).await;
    scene.put("in/glob/y-1.jsonl", "not a request").await;
    scene.put("in/glob/deep/x-3.jsonl", "not a request").await;
    scene.apply_job("glob", json!({"inputKey": "glob/x-*.jsonl"}));
    scene.wait_complete("glob").await;
    assert_eq!(scene.result_ids("glob").await, ids(&[("x1", 1), ("x2", 1)]));
    scene.sim.assert_billed_once(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_maps_are_read_in_their_order_and_their_arrival_noticed() {
    let scene = Scene::new("maps", &["--batch-duration", "200ms"]).await;
    config_map(&scene, "two", json!({"b.jsonl": batch_lines("b", 2), "other": batch_lines("o", 1)}), json!({}));
    scene.apply(&from_maps(&scene, "maps", json!([{"name": "two", "key": "b.jsonl"}, {"name": "late"}])).to_string());
    let job = scene.wait_condition("maps", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "ConfigMapNotFound");
    assert!(message.contains("ConfigMap 'late', which `spec.input` names, was not found"), "{message}");
    scene.apply(&from_maps(&scene, "key", json!([{"name": "two", "key": "none"}])).to_string());
    let job = scene.wait_condition("key", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert!(reason == "ConfigMapNotFound" && message.contains("no key 'none'"), "{message}");
    assert_eq!(scene.sim.spent().await.0, 0);
    // Base64 of gzip: kubectl takes binaryData so.
    let packed = base64(&gzip(&batch_lines("z", 2)).await);
    config_map(&scene, "late", json!({"y": batch_lines("y", 1)}), json!({"z.gz": packed}));
    scene.wait_complete("maps").await;
    assert_eq!(scene.result_ids("maps").await, ids(&[("b", 2), ("y", 1), ("z", 2)]));
    scene.sim.assert_billed_once(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_changes_while_it_is_read_is_read_again() {
    let mut scene = Scene::set("changing", &["--batch-duration", "200ms"]).await;
    let kubernetes = Proxy::start(&cluster().server, Some(&cluster().ca_file)).await;
    let store = Proxy::start(&storage().endpoint, None).await;
    (scene.settings.server, scene.endpoint) = (Some(kubernetes.url.clone()), store.url.clone());
    scene.example("storage.yaml");
    scene.operator = Some(scene.settings.start().await);
    config_map(&scene, "split", json!({"x": batch_lines("x", 1), "y": batch_lines("y", 1)}), json!({}));
    config_map(&scene, "between", json!({"m": batch_lines("m", 1)}), json!({}));
    let namespace = scene.namespace.clone();
    let edit = json!({"data": {"x": batch_lines("x2", 1), "y": batch_lines("y2", 1)}}).to_string();
    let strike = Box::new(move || {
        cluster().kubectl(&["-n", &namespace, "patch", "configmap", "split", "--type=merge", "-p", &edit]);
    });
    kubernetes.place(Fault { method: "GET", path: "/configmaps/between", nth: 1, when: When::Meanwhile, strike });
    let maps = json!([{"name": "split", "key": "x"}, {"name": "between"}, {"name": "split", "key": "y"}]);
    scene.apply(&from_maps(&scene, "maps", maps).to_string());
    scene.wait_complete("maps").await;
    assert!(kubernetes.struck());
    assert_eq!(scene.result_ids("maps").await, ids(&[("x2", 1), ("m", 1), ("y2", 1)]), "one state, not two");
    for name in ["a", "b"] {
        scene.put(&format!("in/objects/{name}.jsonl"), batch_lines(name, 1)).await;
    }
    let (bucket, key) = (scene.bucket.clone(), format!("{}/in/objects/b.jsonl", scene.namespace));
    let strike = Box::new(move || {
        let put = async move { bucket.put(&key.as_str().into(), batch_lines("b", 2).into()).await.unwrap() };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put));
    });
    store.place(Fault { method: "GET", path: "/in/objects/a.jsonl", nth: 1, when: When::Meanwhile, strike });
    scene.apply_job("objects", json!({"inputKey": "objects/"}));
    scene.wait_complete("objects").await;
    assert!(store.struck());
    assert_eq!(scene.result_ids("objects").await, ids(&[("a", 1), ("b", 2)]));
    let operator = scene.operator.as_ref().unwrap();
    assert_eq!(operator.metric("batchjob_step_failures_total{reason=\"InputChanged\"}").await, 2.0);
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_tables_and_bare_requests_become_requests() {
    let scene = Scene::new("rows", &["--batch-duration", "200ms"]).await;
    let root = crate::support::process::root();
    let csv = std::fs::read_to_string(root.join("examples/reviews.csv")).unwrap();
    scene.put("in/reviews.csv", csv.clone()).await;
    scene.example("reviews-csv.yaml");
    scene.put("in/windows.csv.gz", gzip(&format!("\u{feff}{}", csv.replace('\n', "\r\n"))).await).await;
    let auto = json!({"spec": {"input": {"template": template("windows: $(row.text)")}}, "inputKey": "windows.csv.gz"});
    scene.apply_job("windows", auto);
    let rows = [json!({"id": 7, "o": {"t": "deep"}}), json!({"id": "x", "o": {"t": "$(row.id)"}})];
    let rows: String = rows.iter().map(|r| format!("{r}\n")).collect();
    scene.put("in/rows.jsonl", rows).await;
    let spec = json!({"input": {"format": "Rows", "template": template("say $(row.o.t)")}});
    scene.apply_job("rows", json!({"inputKey": "rows.jsonl", "spec": spec}));
    scene.put("in/bare.jsonl", "{\"custom_id\":\"p\",\"body\":{\"messages\":[]}}\n").await;
    scene.apply_job("bare", json!({"inputKey": "bare.jsonl", "spec": {"input": {"format": "Requests"}}}));
    for (job, folder, wanted) in [
        ("reviews-csv", "reviews-csv/v1", vec!["r-1", "r-2", "r-3"]),
        ("windows", "windows", vec!["r-1", "r-2", "r-3"]),
        ("rows", "rows", vec!["7", "x"]),
        ("bare", "bare", vec!["p"]),
    ] {
        scene.wait_complete(job).await;
        assert_eq!(scene.result_ids(folder).await, wanted, "{job}");
    }
    scene.sim.assert_billed_once(9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_do_is_done_where_that_is_fine() {
    let scene = Scene::new("empty", &[]).await;
    scene.put("in/blank.jsonl", "\n\n").await;
    for (name, key) in [("none", "none/"), ("blank", "blank.jsonl")] {
        scene.apply_job(name, json!({"inputKey": key, "spec": {"input": {"emptyPolicy": "Complete"}}}));
        let job = scene.wait_complete(name).await;
        assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
        assert_eq!(job.status.unwrap().requests.unwrap().total, 0);
        scene.wait_tidy(name).await;
        assert_eq!(scene.get(&format!("out/{name}/results.jsonl")).await.unwrap(), "");
        let manifest: Value =
            serde_json::from_str(&scene.get(&format!("out/{name}/manifest.json")).await.unwrap()).unwrap();
        assert_eq!(manifest["files"][0]["lines"], 0);
    }
    assert_eq!(scene.sim.spent().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_of_every_kind_are_refused_with_their_place() {
    let scene = Scene::new("bad-kinds", &[]).await;
    let rows = |content: &str| json!({"input": {"template": template(content)}});
    let gz = gzip(&batch_lines("g", 500)).await;
    let (cut, one) = (gz[..gz.len() - 20].to_vec(), batch_lines("s", 1));
    scene.put("in/two/a.jsonl", one.clone()).await;
    scene.put("in/two/b.jsonl", format!("\n{one}")).await;
    let table: Vec<(&str, &str, Vec<u8>, Value, &str)> = vec![
        ("twice", "two/", vec![], json!({}), "in/two/b.jsonl: line 2: has a custom id that an earlier"),
        ("none", "nothing/", vec![], json!({}), "in/nothing/ holds no requests"),
        ("nomatch", "two/*.csv", vec![], json!({}), "in/two/*.csv holds no requests"),
        ("star", "*/x.jsonl", vec![], json!({}), "only the last part of the URI may hold one"),
        ("cut", "cut.gz", cut, json!({}), "in/cut.gz: as gzip it is cut short"),
        (
            "other",
            "other.jsonl",
            one.clone().into(),
            json!({"input": {"compression": "Gzip"}}),
            "as gzip it is damaged",
        ),
        (
            "ragged",
            "r.csv",
            b"id,text\n1,x\n\n2\n".to_vec(),
            rows("$(row.text)"),
            "line 4: begins a row of 1 fields; the header has 2",
        ),
        (
            "column",
            "c.csv",
            b"id,text\n1,private\n".to_vec(),
            rows("$(row.txt)"),
            "line 2: has no column `txt`, which the template uses; it has `id`, `text`",
        ),
        (
            "variable",
            "v.csv",
            b"id\n1\n".to_vec(),
            rows("$(txt)"),
            "`body.messages[0].content` uses the variable `$(txt)`",
        ),
        ("notemplate", "n.csv", b"id\n1\n".to_vec(), json!({}), "set `spec.input.template`"),
        ("norow", "w.jsonl", b"[1]\n".to_vec(), rows("$(row.x)"), "line 1: is not a JSON object of columns"),
        ("method", "m.jsonl", one.into(), json!({"input": {"format": "Requests"}}), "set the format OpenAIBatch"),
    ];
    for (name, key, bytes, spec, _) in &table {
        if !bytes.is_empty() {
            scene.put(&format!("in/{key}"), bytes.clone()).await;
        }
        scene.apply_job(name, json!({"inputKey": key, "spec": spec}));
    }
    let mut within = scene.job("within", json!({"inputKey": "two/"}));
    within["spec"]["output"]["objectStore"]["uri"] = format!("s3://tests/{}/in/two/out/", scene.namespace).into();
    scene.apply(&within.to_string());
    let others = [("within", "lie within each other")];
    for (name, words) in table.iter().map(|(name, .., words)| (*name, *words)).chain(others) {
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert_eq!(reason, "InvalidInput", "{name}");
        assert!(message.contains(words) && !message.contains("private"), "{name}: {message}");
    }
    assert_eq!(scene.sim.spent().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_input_is_read_is_locked_and_mistakes_are_refused_at_once() {
    let scene = Scene::new("input-schema", &["--batch-duration", "60s"]).await;
    let input = |change: Value| scene.job("bad", json!({"inputKey": "x.csv", "spec": {"input": change}}));
    let inline = |change: Value| scene.job("bad", json!({"spec": {"input": change}}));
    let mut objects_of_maps = from_maps(&scene, "bad", json!([{"name": "a"}]));
    objects_of_maps["spec"]["input"]["format"] = "Objects".into();
    objects_of_maps["spec"]["input"]["template"] = template("x");
    for (job, words) in [
        (input(json!({"format": "CSV"})), "set `template` with the formats Rows, CSV and Objects"),
        (input(json!({"format": "Requests", "template": template("x")})), "set `template` with the formats"),
        (inline(json!({"compression": "Gzip"})), "`inline` requests are whole as they are"),
        (inline(json!({"template": template("x")})), "`inline` requests are whole as they are"),
        (inline(json!({"configMaps": [{"name": "a"}]})), "set exactly one of"),
        (from_maps(&scene, "bad", json!([])), "configMaps"),
        (input(json!({"format": "Objects"})), "set `template` with the formats Rows, CSV and Objects"),
        (input(json!({"maxObjectBytes": 5})), "with the format Objects only"),
        (input(json!({"onTooLarge": "Skip"})), "with the format Objects only"),
        (input(json!({"format": "Objects", "template": template("x"), "maxObjectBytes": 7_000_000})), "maxObjectBytes"),
        (objects_of_maps, "so it needs `objectStore`"),
    ] {
        let (ok, said) = scene.try_apply(&job.to_string());
        assert!(!ok && said.contains(words), "{words}: {said}");
    }
    scene.put("in/x.csv", "id,text\n1,a\n").await;
    let spec = json!({"input": {"format": "CSV", "template": template("$(row.text)")}});
    scene.apply_job("j", json!({"inputKey": "x.csv", "spec": spec}));
    scene.wait_job("it is locked", "j", 30, |j| j.status.as_ref().is_some_and(|s| s.lock.is_some())).await;
    for change in [
        json!({"format": "Rows"}),
        json!({"format": "Objects", "maxObjectBytes": 5}),
        json!({"compression": "None"}),
        json!({"emptyPolicy": "Complete"}),
        json!({"template": {"customID": "x-$(row.id)"}}),
        json!({"template": null, "format": "Auto"}),
    ] {
        let (ok, said) = cluster().try_kubectl(
            &[
                "-n",
                &scene.namespace,
                "patch",
                "bjob",
                "j",
                "--type=merge",
                "-p",
                &json!({"spec": {"input": change}}).to_string(),
            ],
            None,
        );
        assert!(!ok && said.contains("`spec.input` may not be changed"), "{change}: {said}");
    }
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap().as_str().unwrap().into()
}
