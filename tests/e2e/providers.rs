//! Whose account may be used by whom and for what, and what odd servers do.

use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::cluster;

/// An admin's account at the scene's simulator, granted to these namespaces.
fn cluster_provider(scene: &Scene, grant: Value) -> String {
    let name = scene.namespace.clone();
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": "batchjob-operator-system"}, "stringData": {"key": "sk-test"}});
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.base_url,
            "auth": {"secretKeyRef": {"name": name, "key": "key"}}, "namespaces": [grant]}});
    for manifest in [secret, provider] {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admins_account_serves_the_namespaces_that_it_is_granted_to_and_no_other() {
    let scene = Scene::new("granted", &["--batch-duration", "200ms"]).await;
    let name = cluster_provider(&scene, json!({"names": ["another"]}));
    let reference = json!({"spec": {"providerRef": {"kind": "ClusterBatchProvider", "name": name}}});
    scene.apply_job("j", reference);
    let job = scene.wait_condition("j", "Stalled", "True", 30).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert!(reason == "ProviderNotFound" && message.contains("not granted"), "{message}");
    scene.kubectl(&["label", "namespace", &scene.namespace, "team=ml"]);
    let expressions = json!([
        {"key": "team", "operator": "In", "values": ["ml", "search"]},
        {"key": "kubernetes.io/metadata.name", "operator": "Exists"},
        {"key": "stage", "operator": "NotIn", "values": ["test"]},
    ]);
    cluster_provider(&scene, json!({"namespaceSelector": {"matchExpressions": expressions}}));
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_models_are_asked_for() {
    let scene = Scene::with("models", &[], "allowedModels: [small, gpt-5-mini]").await;
    scene.provider_judged("llm").await;
    scene.sim.begin().await;
    let lines = batch_lines("a", 1) + &batch_lines("b", 1).replace("gpt-5-mini", "huge");
    scene.put("in/j.jsonl", lines).await;
    scene.apply_job("j", json!({"inputKey": "j.jsonl", "spec": {"model": null}}));
    let job = scene.wait_condition("j", "Failed", "True", 30).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert!(
        reason == "InvalidInput" && message.contains("line 2") && message.contains("small, gpt-5-mini"),
        "{message}"
    );
    assert_eq!(scene.sim.spent().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_at_the_provider_where_that_is_asked_for() {
    let scene = Scene::new("retain", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({"spec": {"providerFilePolicy": "Retain"}}));
    scene.wait_tidy("j").await;
    assert_eq!(scene.sim.state().await["files"].as_array().unwrap().len(), 2, "input and output");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_provider_ends_in_whole_results_in_order() {
    let scene = Scene::new("faults", &["--batch-duration", "300ms"]).await;
    let faults = [
        json!({"point": "batch", "action": "expire", "after": 0.5}),
        json!({"point": "batch", "action": "fail", "code": "token_limit_exceeded", "message": "wait"}),
        json!({"point": "batch", "action": "fail", "code": "server_error", "message": "oops"}),
        json!({"point": "batch", "action": "odd_state", "state": "queued_for_gpu"}),
        json!({"point": "batch", "action": "lose_rows", "rows": 2}),
        json!({"point": "batch", "action": "lose_rows", "rows": 8}),
        json!({"point": "batch", "action": "double_rows", "rows": 2}),
        json!({"point": "batch", "action": "foreign_rows", "rows": 2}),
        json!({"point": "batch", "action": "fail_rows", "rows": 2, "status": 503}),
        json!({"point": "batch", "action": "totals_differ", "tokens": 4321}),
        json!({"point": "batch", "action": "no_counts"}),
        json!({"point": "batch", "action": "metadata_lost"}),
        json!({"point": "content", "action": "truncate"}),
        json!({"point": "get_batch", "action": "html", "times": 2}),
        json!({"point": "upload", "action": "status", "status": 429, "retry_after": 1}),
        json!({"point": "list_batches", "action": "lag", "seconds": 1}),
        json!({"point": "create_batch", "action": "truncate"}),
        json!({"point": "create_batch", "action": "delay", "milliseconds": 300}),
    ];
    for (i, fault) in faults.iter().enumerate() {
        scene.sim.admin_post("faults", fault.clone()).await;
        let (job, n) = (format!("f{i}"), 8);
        let requests = crate::support::scene::requests(&job, n);
        scene.apply_job(&job, json!({"spec": {"input": {"inline": {"requests": requests}}}}));
        let done = scene.wait_complete(&job).await;
        assert_eq!(condition(&done, "Complete").unwrap().1, "AllSucceeded", "{fault}");
        let wanted: Vec<String> = (0..n).map(|r| format!("{job}-{r}")).collect();
        assert_eq!(scene.result_ids(&job).await, wanted, "{fault}");
        // Rows that are in no file were billed, and no other fault has requests billed twice.
        let lost = if fault["action"] == "lose_rows" { fault["rows"].as_i64().unwrap() } else { 0 };
        assert_eq!(done.status.unwrap().requests.unwrap().resent, lost, "{fault}");
        let state = scene.sim.state().await;
        assert_eq!(state["overlaps"], 0, "no line was billed while another batch with it was alive: {fault}");
        scene.kubectl(&["delete", "bjob", &job]);
    }
    assert_eq!(scene.sim.state().await["files"], json!([]), "nothing is left at the provider");
    totals_that_differ_are_told(&scene, &faults).await;
}

/// Where the provider's totals of a batch are not those of its answers, an event says so, and nowhere else.
async fn totals_that_differ_are_told(scene: &Scene, faults: &[Value]) {
    let differing = |fault: &Value| ["lose_rows", "totals_differ"].iter().any(|action| fault["action"] == *action);
    let wanted: Vec<String> = (0..faults.len()).filter(|i| differing(&faults[*i])).map(|i| format!("f{i}")).collect();
    let told = eventually("events about totals that differ", 30, async || {
        let told = scene.told("UsageDiffers").await;
        (told.len() >= wanted.len()).then_some(told)
    });
    let told = told.await;
    let mut jobs: Vec<String> = told.iter().map(|e| e["regarding"]["name"].as_str().unwrap().to_string()).collect();
    jobs.sort_by_key(|job| job[1..].parse::<usize>().unwrap());
    assert_eq!(jobs, wanted, "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_where_answers_were_due_is_not_taken_for_missing_answers() {
    let scene = Scene::new("page", &["--batch-duration", "200ms"]).await;
    let page = "<!doctype html>\n<h1>Sign in</h1>\n";
    scene.sim.fault(json!({"point": "content", "action": "status", "status": 200, "body": page, "times": 5})).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    assert_eq!(scene.sim.state().await["creates"], 1, "nothing was sent again");
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_asks_for_a_pause_has_it_from_every_batch_of_the_job() {
    let scene = Scene::with("pause", &["--batch-duration", "1h"], "limits: {maxRequestsPerBatch: 1}").await;
    scene.apply_job("j", json!({}));
    let batches = scene.wait_job("three batches run", "j", 60, |job| running(job).len() == 3).await;
    // For longer than a call waits to be made again.
    let busy = json!({"point": "get_batch", "action": "status", "status": 429, "retry_after": 12, "times": 9});
    scene.sim.fault(busy).await;
    let left = async || scene.sim.faults_left().await[0]["times"].as_u64();
    let asked = async |times: u64| {
        eventually("a batch is asked for", 40, async || (left().await == Some(9 - times)).then_some(())).await;
        Instant::now()
    };
    let (first, second) = (asked(1).await, asked(2).await);
    assert!(second - first > Duration::from_secs(11), "{:?}", second - first);
    scene.sim.no_more_faults().await;
    for id in running(&batches) {
        scene.finish(&json!({"id": id})).await;
    }
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_no_more_batches_in_flight_than_its_limit_and_who_waits_says_so() {
    let mut scene =
        Scene::with("quota", &["--batch-duration", "1s"], "limits: {maxRequestsPerBatch: 1, maxBatchesInFlight: 2}")
            .await;
    scene.apply_job("big", json!({"spec": {"parallelism": 3}}));
    scene.apply_job("other", json!({"spec": {"parallelism": 3}}));
    let waits = |job: &BatchJob| {
        let (status, reason, message) = condition(job, "Complete").unwrap_or_default();
        (status == "Unknown" && reason == "WaitingForQuota").then_some(message)
    };
    let job = scene.wait_job("it waits for a place", "other", 60, |job| waits(job).is_some()).await;
    let message = waits(&job).unwrap();
    assert!(message.contains("2 of 2 batches are in flight at BatchProvider 'llm'"), "{message}");
    // The next process knows of batches that it did not submit.
    scene.restart().await;
    for name in ["big", "other"] {
        let job = scene.wait_complete(name).await;
        assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    }
    let state = scene.sim.state().await;
    assert_eq!((state["creates"].as_i64(), state["most_alive"].as_i64()), (Some(6), Some(2)));
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_that_never_answer_delay_nobody_elses_ready() {
    let mut scene = Scene::set("silent", &[]).await;
    let neighbour = Scene::set("beside-silent", &[]).await;
    scene.settings.namespaces = format!("{},{}", scene.namespace, neighbour.namespace);
    scene.restart().await;
    neighbour.provider_judged("llm").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (connected, mut connections) = tokio::sync::mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        while let Ok((connection, _)) = silent.accept().await {
            connected.send(connection).unwrap();
        }
    });
    let provider = |name: &str, url: &str| {
        json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": name},
            "spec": {"type": "OpenAICompatible", "baseURL": url}})
    };
    let url = format!("http://127.0.0.1:{port}/v1");
    let many: Vec<Value> = (0..64).map(|i| provider(&format!("silent-{i}"), &url)).collect();
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": many}).to_string());
    // What connects first is being waited for from now on.
    let held = connections.recv().await.unwrap();
    let began = Instant::now();
    let mut quiet = provider("quiet", &neighbour.base_url);
    quiet["spec"]["auth"] = json!({"secretKeyRef": {"name": "llm", "key": "api-key"}});
    neighbour.apply(&quiet.to_string());
    let judged = neighbour.provider_judged("quiet").await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}: {:?}", began.elapsed(), judged.status);
    drop(held);
    server.abort();
}

/// The ids of the batches that the provider is at work on.
fn running(job: &BatchJob) -> Vec<String> {
    let batches = job.status.iter().flat_map(|status| &status.batches);
    batches.filter(|b| b.state == "InProgress").filter_map(|b| b.provider_id.clone()).collect()
}

/// Cases 21-long-file-ids, 25-nan-in-answers and 26-ok-with-an-error-in-it, and shapes of their kinds.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_its_request_however_a_server_writes_it_and_no_line_is_paid_twice() {
    let scene = Scene::new("shapes", &["--batch-duration", "100ms"]).await;
    let rows = |shape: &str, rows: u64| json!({"point": "batch", "action": "odd_rows", "shape": shape, "rows": rows});
    let faults = [
        (json!({"point": "batch", "action": "long_file_id", "characters": 500}), 3, ""),
        (rows("infinity", 3), 3, ""),
        (rows("text_body", 3), 3, ""),
        (rows("error_of_nulls", 3), 3, ""),
        (rows("error_body", 1), 2, "content_filter"),
        (rows("single_quotes", 2), 1, "unreadable_answer"),
        (rows("cut_off", 1), 2, "unreadable_answer"),
        (rows("garbled", 1), 2, "unreadable_answer"),
    ];
    for (i, (fault, succeeded, code)) in faults.iter().enumerate() {
        scene.sim.fault(fault.clone()).await;
        let name = format!("s{i}");
        scene.apply_job(&name, json!({}));
        let job = scene.wait_complete(&name).await;
        let status = job.status.unwrap();
        let counts = status.requests.unwrap();
        assert_eq!((counts.succeeded, counts.failed, counts.total), (*succeeded, 3 - succeeded, 3), "{fault}");
        let codes: Vec<&str> = status.error_summary.iter().map(|e| e.code.as_str()).collect();
        assert_eq!(codes.concat(), *code, "{fault}");
        let results = scene.get(&format!("out/{name}/results.jsonl")).await.unwrap();
        for line in results.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["response"]["body"]["choices"].is_array() && line["error"]["code"].is_null(), "{line}");
        }
        let errors = scene.get(&format!("out/{name}/errors.jsonl")).await.unwrap_or_default();
        assert_eq!((results.lines().count(), errors.lines().count() as i64), (*succeeded as usize, 3 - succeeded));
        assert_eq!(errors.contains("raw_line"), *code == "unreadable_answer", "{errors}");
        assert_eq!(scene.sim.state().await["creates"], i + 1, "nothing is sent again: {fault}");
    }
    scene.sim.assert_billed_once(3 * faults.len()).await;
}
