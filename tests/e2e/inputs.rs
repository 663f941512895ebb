//! Every way to write requests: many objects, ConfigMaps, rows, CSV, compressed, none at all.

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use batchjob_operator::api::BatchJobObject as BatchJob;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::eventually;
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::quiet::CANARY;
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
    let job = scene.wait_complete("below").await;
    assert_eq!(scene.result_ids("below").await, ids(&[("z", 2), ("b", 3), ("c", 2), ("d", 1)]));
    scene.sim.assert_billed_once(8).await;
    let left_out = "left out: objects whose name begins with `_` or `.`: 1 (`spec.input.hiddenObjects: Include` takes them \
                    in), empty objects: 1";
    let planned = condition(&job, "Planned").unwrap().2;
    assert!(planned.starts_with(&format!("8 requests were read and are sound; {left_out}; ")), "{planned}");
    assert!(planned.contains("single calls in real time may suit this job better"), "{planned}");
    let input = job.status.unwrap().input.unwrap();
    assert_eq!((input.sources, input.skipped), (4, 2));
    let told = scene.wait_told("InputSkipped", 1).await;
    assert_eq!(told.iter().map(|event| event["note"].as_str().unwrap()).collect::<Vec<_>>(), [left_out], "once");
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
    // The first look is at its version only.
    kubernetes.place(Fault { method: "GET", path: "/configmaps/between", nth: 2, when: When::Meanwhile, strike });
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
    let spec = json!({"input": {"format": "Rows", "template": template(&format!("{CANARY} $(row.o.t)"))}});
    scene.apply_job("rows", json!({"inputKey": "rows.jsonl", "spec": spec}));
    let german = "sep=;\r\nid;text\r\nr-1;\"Schnell, gut; gerne\"\r\nr-2;zu sp\u{e4}t\r\n;\r\n";
    scene.put("in/german.csv", german.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>()).await;
    let csv = json!({"template": template("german: $(row.text)"), "csv": {"encoding": "Windows-1252"}});
    scene.apply_job("german", json!({"inputKey": "german.csv", "spec": {"input": csv}}));
    scene.put("in/bare.jsonl", "{\"custom_id\":\"p\",\"body\":{\"messages\":[]}}\n").await;
    scene.apply_job("bare", json!({"inputKey": "bare.jsonl", "spec": {"input": {"format": "Requests"}}}));
    for (job, folder, wanted) in [
        ("reviews-csv", "reviews-csv/v1", vec!["r-1", "r-2", "r-3"]),
        ("windows", "windows", vec!["r-1", "r-2", "r-3"]),
        ("german", "german", vec!["r-1", "r-2"]),
        ("rows", "rows", vec!["7", "x"]),
        ("bare", "bare", vec!["p"]),
    ] {
        scene.wait_complete(job).await;
        assert_eq!(scene.result_ids(folder).await, wanted, "{job}");
    }
    scene.sim.assert_billed_once(11).await;
}

/// Every line of the files that the simulator was sent and keeps, as it was sent.
async fn lines_sent(scene: &Scene) -> Vec<String> {
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let answer = client.get(format!("{}/{path}", scene.sim.url)).bearer_auth("sk-test").send().await.unwrap();
        answer.text().await.unwrap()
    };
    let files: Value = serde_json::from_str(&get("files?purpose=batch").await).unwrap();
    let mut lines = vec![];
    for file in files["data"].as_array().unwrap() {
        let content = get(&format!("files/{}/content", file["id"].as_str().unwrap())).await;
        lines.extend(content.lines().map(String::from));
    }
    lines
}

/// Cases 01-column-with-parenthesis, 04-stream-null, 14-azure-lines, 15-csv-numbers-are-text and 17-schema-key-order, on a whole
/// system: the API server takes the fields, leaves text alone, and the provider gets what was written.
#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_sent_what_was_written() {
    let scene = Scene::new("as-written", &["--batch-duration", "200ms"]).await;
    let root = crate::support::process::root();
    scene.put("in/tickets.csv", std::fs::read_to_string(root.join("examples/tickets.csv")).unwrap()).await;
    let tickets = scene.manifest("tickets.yaml");
    scene.apply(&tickets.replace("  runID: v1", "  runID: v1\n  providerFilePolicy: Retain"));
    let retain = |input: Value| json!({"providerFilePolicy": "Retain", "input": input});
    let body = r#"{ "z": [19.90, 1e3, 12345678901234567890123], "a": "\u00e9\/", "messages": [] }"#;
    let mut inline = scene
        .job("inline", json!({"spec": retain(json!({"inline": {"requests": [{"customID": "i", "bodyJSON": body}]}}))}));
    inline["spec"]["requestDefaultsJSON"] = r#"{"tools": [{"b": 1, "a": 2}]}"#.into();
    scene.apply(&inline.to_string());
    let azure = r#"{"custom_id": "q", "method": "post", "url": "/chat/completions", "body": {"messages": [], "stream": null, "top_p": 0.90, "user": "CANARY"}}"#;
    scene.put("in/azure.jsonl", azure.replace("CANARY", CANARY)).await;
    scene.apply_job("azure", json!({"inputKey": "azure.jsonl", "spec": {"providerFilePolicy": "Retain"}}));
    let schema = json!({"response_format": {"json_schema": {"schema": {"properties": {"b": {}, "a": {}}}}}});
    scene.apply_job("sorted", json!({"spec": {"requestDefaults": schema}}));
    for job in ["tickets", "inline", "azure", "sorted"] {
        scene.wait_complete(job).await;
    }
    scene.sim.assert_billed_once(8).await;
    let told = scene.wait_told("SchemaSorted", 1).await;
    let note = told.iter().map(|event| event["note"].as_str().or(event["message"].as_str()).unwrap_or_default());
    let note: Vec<&str> = note.collect();
    assert!(note.len() == 1 && note[0].contains("into `requestDefaultsJSON`"), "{note:?}");
    let sent = lines_sent(&scene).await;
    let schema = r#""properties":{"reasoning":{"type":"string"},"label":{"type":"string","enum":["bug","question","praise"]},"confidence":{"type":"number"}}"#;
    for words in [
        schema,
        r#""content":"Order of 29.90 euro: The app closes when I rotate the screen."}],"max_completion_tokens":40,"response_format":{"type""#,
        r#""body":{ "z": [19.90, 1e3, 12345678901234567890123], "a": "\u00e9\/", "messages": [],"tools":[{"b": 1, "a": 2}],"model":"gpt-5-mini" }}"#,
        r#""url":"/v1/chat/completions","body":{"messages": [], "top_p": 0.90, "user": "#,
    ] {
        assert!(sent.iter().any(|line| line.contains(words)), "{words}: {sent:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_do_is_done_where_that_is_fine() {
    let scene = Scene::new("empty", &[]).await;
    scene.put("in/blank.jsonl", "\n\n").await;
    scene.put("in/day/_SUCCESS", "").await;
    let success = format!("s3://tests/{}/in/day/_SUCCESS", scene.namespace);
    let elsewhere = json!({"uri": "s3://no-such-bucket/day.jsonl"});
    let spec = json!({"input": {"emptyPolicy": "Complete", "objectStore": elsewhere}});
    scene.apply_job("elsewhere", json!({"inputKey": "day.jsonl", "spec": spec}));
    for (name, key) in [("none", "none/"), ("absent", "absent.jsonl"), ("whole", "day/"), ("blank", "blank.jsonl")] {
        let mut spec = json!({"input": {"emptyPolicy": "Complete"}, "requestDefaults": {"instructions": CANARY}});
        if name == "whole" {
            spec["input"]["waitFor"] = json!({"uri": success});
        }
        scene.apply_job(name, json!({"inputKey": key, "spec": spec}));
        let job = scene.wait_complete(name).await;
        let (_, reason, message) = condition(&job, "Complete").unwrap();
        assert!(reason == "AllSucceeded" && message.contains("the input holds no requests"), "{reason}: {message}");
        assert_eq!(job.status.unwrap().requests.unwrap().total, 0);
        scene.wait_tidy(name).await;
        assert_eq!(scene.get(&format!("out/{name}/results.jsonl")).await.unwrap(), "");
        let manifest: Value =
            serde_json::from_str(&scene.get(&format!("out/{name}/manifest.json")).await.unwrap()).unwrap();
        assert_eq!(manifest["files"][0]["lines"], 0);
    }
    let elsewhere = scene.wait_condition("elsewhere", "Stalled", "True", 30).await;
    let (_, reason, message) = condition(&elsewhere, "Stalled").unwrap();
    assert!(reason == "StorageUnavailable" && message.contains("s3://no-such-bucket/"), "{reason}: {message}");
    assert_eq!(scene.sim.spent().await, (0, 0));
}

/// A change to a job that reads `in/day/`, with this `waitFor`.
fn of_a_day(wait_for: Value) -> Value {
    json!({"inputKey": "day/", "spec": {"input": {"waitFor": wait_for}}})
}

fn stage(job: &BatchJob) -> String {
    condition(job, "Complete").map(|(_, reason, _)| reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_the_object_that_shows_that_its_input_is_whole() {
    let scene = Scene::new("late", &["--batch-duration", "200ms"]).await;
    scene.put("in/day/a.jsonl", batch_lines("a", 2)).await;
    let uri = |key: &str| format!("s3://tests/{}/in/{key}", scene.namespace);
    let annotate = |name: &str| {
        scene.kubectl(&["annotate", "--overwrite", "bjob", name, "llmbatch.dev/reconcile-requested-at=now"]);
    };
    scene.apply_job("waits", of_a_day(json!({"uri": uri("day/_SUCCESS")})));
    let waits = scene.wait_job("it waits", "waits", 30, |job| stage(job) == "WaitingForInput").await;
    let told = condition(&waits, "Complete").unwrap().2;
    assert!(
        told.starts_with(&format!("{} is not there yet; the job waits for it since", uri("day/_SUCCESS"))),
        "{told}"
    );
    assert!(scene.kubectl(&["get", "bjob", "waits"]).contains("WaitingForInput"));

    let unknown = json!({"uri": "s3://no-such-bucket/_SUCCESS"});
    scene.apply_job("misspelt", of_a_day(unknown));
    scene.apply_job("too-late", of_a_day(json!({"uri": uri("day/_DONE"), "timeoutSeconds": 1})));
    let misspelt = scene.wait_condition("misspelt", "Stalled", "True", 30).await;
    let (_, reason, told) = condition(&misspelt, "Stalled").unwrap();
    assert!(reason == "StorageUnavailable" && told.contains("s3://no-such-bucket/"), "{reason}: {told}");
    let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "stranger"},
        "stringData": {"aws_access_key_id": "stranger", "aws_secret_access_key": "stranger"}});
    scene.apply(&keys.to_string());
    let mut refused = of_a_day(json!({"uri": uri("day/_SUCCESS")}));
    refused["spec"]["input"]["objectStore"] = json!({"secretRef": {"name": "stranger"}});
    scene.apply_job("refused", refused);
    let refused = scene.wait_condition("refused", "Stalled", "True", 30).await;
    let (_, reason, told) = condition(&refused, "Stalled").unwrap();
    assert!(reason == "CredentialsRejected" && told.contains("s3:ListBucket"), "{reason}: {told}");

    let failed = scene.wait_condition("too-late", "Failed", "True", 60).await;
    let (_, reason, told) = condition(&failed, "Failed").unwrap();
    assert!(reason == "InputDeadlineExceeded" && told.contains("day/_DONE is not there yet"), "{reason}: {told}");
    assert_eq!(scene.sim.spent().await, (0, 0));

    scene.put("in/day/b.jsonl", batch_lines("b", 2)).await;
    scene.put("in/day/_SUCCESS", "").await;
    annotate("waits");
    scene.wait_complete("waits").await;
    assert_eq!(scene.result_ids("waits").await, ids(&[("a", 2), ("b", 2)]), "the whole day");
    for reason in ["WaitingForInput", "InputAppeared"] {
        let of_waits = async || {
            let told = scene.told(reason).await.into_iter().filter(|event| event["regarding"]["name"] == "waits");
            Some(told.count()).filter(|count| *count > 0)
        };
        assert_eq!(eventually(reason, 20, of_waits).await, 1, "{reason}");
    }
    scene.sim.assert_billed_once(4).await;
    for name in ["misspelt", "too-late"] {
        let correct = json!({"spec": {"input": {"waitFor": {"uri": uri("day/_SUCCESS")}}}}).to_string();
        scene.kubectl(&["patch", "bjob", name, "--type=merge", "-p", &correct]);
        scene.wait_complete(name).await;
        assert_eq!(scene.result_ids(name).await.len(), 4, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_input_is_read_is_locked() {
    let scene = Scene::new("input-schema", &["--batch-duration", "60s"]).await;
    scene.put("in/x.csv", format!("id,text\n1,{CANARY}\n")).await;
    let spec = json!({"input": {"format": "CSV", "template": template("$(row.text)")}});
    scene.apply_job("j", json!({"inputKey": "x.csv", "spec": spec}));
    scene.wait_job("it is locked", "j", 30, |j| j.status.as_ref().is_some_and(|s| s.lock.is_some())).await;
    for change in [
        json!({"format": "Rows"}),
        json!({"format": "Objects", "maxObjectBytes": 5}),
        json!({"compression": "None"}),
        json!({"emptyPolicy": "Complete"}),
        json!({"csv": {"delimiter": ";"}}),
        json!({"hiddenObjects": "Include"}),
        json!({"template": {"customID": "x-$(row.id)"}}),
        json!({"template": null, "format": "Auto"}),
        json!({"template": {"body": null, "bodyJSON": "{}"}}),
        json!({"objectStore": {"uri": "s3://tests/elsewhere.csv"}}),
        json!({"objectStore": {"endpoint": "https://elsewhere.example"}}),
        json!({"objectStore": {"region": "eu-west-3"}}),
        json!({"objectStore": {"addressingStyle": "VirtualHosted"}}),
        json!({"objectStore": null, "configMaps": [{"name": "x"}]}),
    ] {
        let (ok, said) = patched(&scene, &json!({"spec": {"input": change}}));
        let advice = "`spec.input` may not be changed once the job has started; create another BatchJob instead";
        assert!(!ok && said.contains(advice), "{change}: {said}");
    }
    let (ok, said) = patched(&scene, &json!({"spec": {"endpoint": "Responses"}}));
    assert!(!ok && said.contains("spec.endpoint: Invalid value"), "{said}");
    // It shapes no request, and may be corrected while the job waits.
    let (ok, said) = patched(&scene, &json!({"spec": {"input": {"waitFor": {"uri": "s3://tests/x/_SUCCESS"}}}}));
    assert!(ok, "{said}");
    for (wait_for, advice) in [("s3://tests/x/", "waitFor.uri"), ("s3://tests/x/*", "waitFor.uri")] {
        let (ok, said) = patched(&scene, &json!({"spec": {"input": {"waitFor": {"uri": wait_for}}}}));
        assert!(!ok && said.contains(advice), "{wait_for}: {said}");
    }
    let spec = json!({"input": {"waitFor": {"uri": "s3://tests/x/_SUCCESS"}}});
    let (ok, said) = scene.try_apply(&scene.job("inline", json!({"spec": spec})).to_string());
    assert!(!ok && said.contains("set `waitFor` with `objectStore` only"), "{said}");
    // Another Secret opens the same objects.
    for place in ["input", "output"] {
        let (ok, said) =
            patched(&scene, &json!({"spec": {place: {"objectStore": {"secretRef": {"name": "rotated"}}}}}));
        assert!(ok, "{place}: {said}");
    }
}

/// Whether the API server would take a change of the job `j`, and its words. Nothing is changed.
fn patched(scene: &Scene, change: &Value) -> (bool, String) {
    let change = change.to_string();
    let patch = ["-n", &scene.namespace, "patch", "bjob", "j", "--dry-run=server", "--type=merge", "-p", &change];
    cluster().try_kubectl(&patch, None)
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap().as_str().unwrap().into()
}
