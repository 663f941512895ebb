//! How the operator behaves as a process: quiet, stopped in time, kept to its namespaces.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, condition, requests};
use crate::support::shared::audit_log;

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_poll_writes_nothing() {
    let scene = Scene::new("quiet", &["--batch-duration", "10h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    let operator = scene.operator.as_ref().unwrap();
    let polls = || operator.metric("batchjob_steps_total{step=\"Poll\"}");
    eventually("two polls", 20, || async { (polls().await >= 2.0).then_some(()) }).await;
    let (before, writes) = (scene.get_job("j").await, operator.metric("batchjob_status_writes_total").await);
    let journal = scene.get("out/j/_batchjob/journal.json").await;
    let seen = polls().await;
    eventually("three more polls", 20, || async { (polls().await >= seen + 3.0).then_some(()) }).await;
    assert_eq!(scene.get_job("j").await.metadata.resource_version, before.metadata.resource_version);
    assert_eq!(operator.metric("batchjob_status_writes_total").await, writes);
    assert_eq!(scene.get("out/j/_batchjob/journal.json").await, journal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_answers_that_it_reuses_while_their_batch_runs() {
    let scene = Scene::new("reuse-running", &["--batch-duration", "1h"]).await;
    scene.apply_job("first", json!({}));
    let batch = scene.batch_of("first").await;
    let uri = format!("s3://tests/{}/out/first", scene.namespace);
    let from = json!([{"objectStore": {"uri": uri, "endpoint": scene.endpoint, "secretRef": {"name": "s3"}}}]);
    let same = json!({"input": {"inline": {"requests": requests("first", 3)}}, "reuseFrom": from});
    scene.apply_job("second", json!({"spec": same}));
    let waits = |job: &BatchJob| condition(job, "Complete").is_some_and(|(_, reason, _)| reason == "WaitingForInput");
    let waiting = scene.wait_job("it waits", "second", 60, waits).await;
    let (_, _, message) = condition(&waiting, "Complete").unwrap();
    assert!(message.contains(&uri) && message.contains("spec.reuseFrom[0]"), "{message}");
    scene.finish(&batch).await;
    scene.wait_complete("first").await;
    let done = scene.wait_complete("second").await;
    assert_eq!(done.status.unwrap().requests.unwrap().reused, 3);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_costs_nothing_and_a_whole_life_few_writes() {
    let scene = Scene::new("few-writes", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    let operator = scene.operator.as_ref().unwrap();
    let writes = operator.metric("batchjob_status_writes_total").await;
    assert!(writes <= 12.0, "{writes} status writes");
    let steps = || async {
        let text = reqwest::get(format!("{}/metrics", operator.health)).await.unwrap().text().await.unwrap();
        text.lines().filter(|l| l.starts_with("batchjob_steps_total")).map(String::from).collect::<Vec<_>>()
    };
    // Another job's whole life goes by; the finished one is not looked at.
    let wait = "batchjob_steps_total{step=\"CleanUp\"}";
    assert!(steps().await.iter().any(|l| l.starts_with(wait)));
    scene.kubectl(&["label", "bjob", "j", "touched=yes"]);
    scene.sim.fault(json!({"point": "upload", "action": "status", "status": 500, "times": 1})).await;
    scene.apply_job("k", json!({}));
    scene.wait_tidy("k").await;
    assert_eq!(operator.metric(wait).await, 2.0);
    times_and_lines_say_what_was_done(&scene).await;
}

/// Of two jobs, of which the second one's upload failed once.
async fn times_and_lines_say_what_was_done(scene: &Scene) {
    let operator = scene.operator.as_ref().unwrap();
    let counted =
        async |name: &str, labels: &str| operator.metric(&format!("batchjob_{name}_seconds_count{labels}")).await;
    for name in ["transfer_duration", "transfer_queue_duration"] {
        assert_eq!(counted(name, "{kind=\"Upload\"}").await, 3.0, "{name}");
    }
    assert_eq!(counted("provider_request_duration", "{method=\"POST\",code=\"5xx\"}").await, 1.0);
    let series = format!("namespace=\"{}\",provider=\"BatchProvider/llm\",model=\"gpt-5-mini\"", scene.namespace);
    let succeeded = format!("batchjob_requests_total{{{series},outcome=\"Succeeded\"}}");
    assert_eq!(operator.metric(&succeeded).await, 6.0);
    for (name, labels) in [
        ("provider_request_duration", "{method=\"POST\",code=\"2xx\"}"),
        ("visit_duration", ""),
        ("visit_queue_duration", ""),
        ("provider_request_queue_duration", ""),
        ("storage_request_duration", "{method=\"PUT\",code=\"2xx\"}"),
    ] {
        assert!(counted(name, labels).await >= 2.0, "{name}");
    }
    let log = operator.process.tail(100_000);
    for (name, words) in [("j", "the job is done"), ("k", "the job is done"), ("k", "what ran beside the loop failed")]
    {
        let span = format!("visit{{namespace=\"{}\" name=\"{name}\" uid=\"", scene.namespace);
        assert!(log.lines().any(|line| line.contains(&span) && line.contains(words)), "{name}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_a_job_that_ended_is_seen_and_changes_nothing() {
    let scene = Scene::new("ended", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    let ended = scene.wait_tidy("j").await;
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec": {"suspend": true}}"#]);
    // It looks at observedGeneration, of the condition and of the object.
    scene.kubectl(&["wait", "bjob", "j", "--for=condition=Complete", "--timeout=20s"]);
    let (seen, before) = (scene.get_job("j").await.status.unwrap(), ended.status.unwrap());
    assert_eq!(seen.observed_generation, before.observed_generation.map(|g| g + 1));
    assert_eq!((seen.outcome, seen.completion_time), (before.outcome, before.completion_time));
    scene.sim.assert_billed_once(3).await;
}

/// Every scene looks for its prompts, answers and keys in what was told, at its end; this one at every level, in libraries too.
#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_answer_or_key_is_told_to_anybody() {
    let mut scene = Scene::set("secrets", &["--batch-duration", "200ms"]).await;
    scene.settings.env = vec![("RUST_LOG", "trace".into())];
    scene.restart().await;
    scene.apply_job("j", json!({}));
    let map = json!({"spec": {"output": {"objectStore": null, "configMap": {"name": "answers"}}}});
    scene.apply_job("map", map);
    scene.put("in/bad.jsonl", format!("{{\"custom_id\": \"{CANARY}")).await;
    scene.apply_job("bad", json!({"inputKey": "bad.jsonl"}));
    let body = json!({"messages": CANARY, "n": CANARY, CANARY: 1});
    scene.apply_job("odd", json!({"spec": {"input": {"inline": {"requests": [{"customID": "a", "body": body}]}}}}));
    for job in ["j", "map"] {
        scene.wait_tidy(job).await;
    }
    scene.wait_condition("bad", "Failed", "True", 30).await;
    let ended = |job: &BatchJob| job.status.as_ref().is_some_and(|s| s.outcome.is_some());
    scene.wait_job("odd ends", "odd", 30, ended).await;
    let log = std::fs::read_to_string(&scene.operator.as_ref().unwrap().process.log).unwrap();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "every level is on");
    for (place, text) in [
        ("results", scene.get("out/j/results.jsonl").await.unwrap()),
        ("the ConfigMap", scene.kubectl(&["get", "configmap", "answers", "-o", "yaml"])),
    ] {
        assert!(text.contains(CANARY), "the answers are where they belong: {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_keeps_to_its_namespaces() {
    let scene = Scene::new("mine", &["--batch-duration", "200ms"]).await;
    let other = Scene::set("others", &[]).await;
    other.apply_job("j", json!({}));
    scene.apply_job("j", json!({}));
    scene.wait_complete("j").await;
    assert!(other.get_job("j").await.status.is_none());
    assert!(other.get_job("j").await.metadata.finalizers.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_and_sigterm_in_the_middle_of_work_loses_nothing() {
    let mut scene = Scene::new("term", &["--batch-duration", "3s"]).await;
    let health = scene.operator.as_ref().unwrap().health.clone();
    assert_eq!(reqwest::get(format!("{health}/livez")).await.unwrap().status(), 200);
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |_| true).await;
    let asked = Instant::now();
    assert_eq!(scene.operator.as_mut().unwrap().process.terminate(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    scene.restart().await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_no_submission_is_begun() {
    let mut scene = Scene::with("last-post", &["--batch-duration", "200ms"], "limits: {maxRequestsPerBatch: 2}").await;
    scene.sim.fault(json!({"point": "create_batch", "action": "delay", "milliseconds": 3000})).await;
    scene.apply_job("j", json!({"spec": {"parallelism": 2}}));
    eventually("one batch is made, and the file of the other one is there", 30, || async {
        let state = scene.sim.state().await;
        (state["creates"] == 1 && state["files"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    assert_eq!(scene.operator.as_mut().unwrap().process.terminate(), Some(0));
    assert_eq!(scene.sim.state().await["creates"], 1, "the other one was next");
    scene.restart().await;
    let job = scene.wait_complete("j").await;
    assert_eq!(job.status.unwrap().batches.len(), 2);
    scene.sim.assert_billed_once(3).await;
}

/// How often the operator asked the API server for what, in the scene's namespace: verb, resource and name.
fn calls(scene: &Scene, from: usize) -> BTreeMap<(String, String, String), usize> {
    let log = std::fs::read_to_string(audit_log()).unwrap();
    let mut calls = BTreeMap::new();
    for event in log.lines().skip(from).filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let of = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        if text(&of["namespace"]) == scene.namespace && event["stage"] == "ResponseComplete" {
            let resource = match text(&of["subresource"]) {
                sub if sub.is_empty() => text(&of["resource"]),
                sub => format!("{}/{sub}", text(&of["resource"])),
            };
            let name = if resource == "events" { String::new() } else { text(&of["name"]) };
            *calls.entry((text(&event["verb"]), resource, name)).or_default() += 1;
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_line_job_asks_the_api_server_for_little() {
    let scene = Scene::new("few-calls", &["--batch-duration", "200ms"]).await;
    scene.provider_judged("llm").await;
    let one_line = |job: &str| json!({"spec": {"input": {"inline": {"requests": requests(job, 1)}}}});
    let from = std::fs::read_to_string(audit_log()).unwrap().lines().count();
    scene.apply_job("j", one_line("j"));
    scene.wait_tidy("j").await;
    assert_eq!(scene.wait_told("Completed", 1).await.len(), 1);
    let calls = calls(&scene, from);
    let count = |verb: &str, resource: &str| -> usize {
        calls.iter().filter(|((v, r, _), _)| v == verb && r == resource).map(|(_, n)| n).sum()
    };
    assert!(count("get", "batchjobs") <= 8, "{calls:#?}");
    // One of them is the look that shows in the provider's status what is in flight, at most once a minute for all jobs.
    assert!(count("get", "batchproviders") <= 2, "{calls:#?}");
    assert!(count("get", "secrets") <= 2, "{calls:#?}");
    assert!(count("patch", "batchjobs/status") <= 4, "{calls:#?}");
    assert_eq!(count("update", "batchjobs/status"), 0, "{calls:#?}");
    assert_eq!(
        (count("patch", "batchjobs"), count("create", "events"), count("patch", "events")),
        // One of the events says that single calls would do for so few requests.
        (1, 5, 0),
        "{calls:#?}"
    );
    // Jobs that name the same Secrets and provider share what was read of them.
    let from = std::fs::read_to_string(audit_log()).unwrap().lines().count();
    let began = Instant::now();
    for i in 0..8 {
        let job = format!("many-{i}");
        scene.apply_job(&job, one_line(&job));
    }
    for i in 0..8 {
        scene.wait_tidy(&format!("many-{i}")).await;
    }
    let rounds = began.elapsed().as_secs() as usize / 15 + 1;
    let shared = self::calls(&scene, from);
    let secrets: usize = shared.iter().filter(|((v, r, _), _)| v == "get" && r == "secrets").map(|(_, n)| n).sum();
    assert!(secrets <= 2 * rounds, "{shared:#?}");
    scene.sim.assert_billed_once(9).await;
}

/// The first job teaches how long a batch takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_when_it_will_be_done_and_whether_its_batches_hang() {
    let scene = Scene::with("eta", &["--batch-duration", "3s"], "limits: {maxRequestsPerBatch: 1}").await;
    let of = |n, more: Value| {
        let mut spec = json!({"input": {"inline": {"requests": requests("r", n)}}, "pollPeriodSeconds": 1});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"spec": spec})
    };
    scene.apply_job("first", of(6, json!({"parallelism": 6, "runID": "first"})));
    scene.wait_complete("first").await;
    scene.apply_job("second", of(5, json!({"parallelism": 1, "runID": "second"})));
    let has_estimate =
        |job: &BatchJob| job.status.as_ref().is_some_and(|status| status.estimated_completion_time.is_some());
    scene.wait_job("it has an estimate", "second", 60, has_estimate).await;
    let table = scene.kubectl(&["get", "bjob", "second", "-o", "wide"]);
    let (header, row) = table.split_once('\n').unwrap();
    let at = header.find("ETA").expect("a column");
    assert!(row[at..].split("  ").next().unwrap().ends_with(" UTC"), "{table}");
    let done = scene.wait_complete("second").await.status.unwrap();
    assert_eq!((done.estimated_completion_time, done.display.unwrap().eta), (None, String::new()));

    scene.sim.fault(json!({"point": "batch", "action": "stuck", "after": 0})).await;
    scene.apply_job("stuck", of(1, json!({"progressDeadlineSeconds": 60, "runID": "stuck"})));
    let batch = scene.batch_of("stuck").await;
    let hangs = |job: &BatchJob| condition(job, "Progressing").is_some_and(|(status, ..)| status == "False");
    let job = scene.wait_job("it hangs", "stuck", 120, hangs).await;
    let (_, reason, message) = condition(&job, "Progressing").unwrap();
    assert!(reason == "ProgressDeadlineExceeded" && message.contains("00000-1 (0 of 1 done"), "{message}");
    assert_eq!(condition(&job, "Stalled").unwrap().0, "True");
    assert_eq!(scene.wait_told("ProgressDeadlineExceeded", 1).await.len(), 1);
    scene.finish(&batch).await;
    let done = scene.wait_complete("stuck").await;
    assert!(condition(&done, "Progressing").is_none() && condition(&done, "Stalled").unwrap().0 == "False");
}
