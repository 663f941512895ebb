//! Refusals that come from outside, and wrong starts: one clear line that says what to do, and nothing paid.

use std::process::Command;

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::json;

use crate::support::eventually;
use crate::support::odd_store::{OddStore, Oddity};
use crate::support::process::scratch;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::bare_cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_cost_nothing_comes_back_to_life_when_it_is_mended() {
    let scene = Scene::new("mended", &["--batch-duration", "200ms"]).await;
    let twice = json!([{"customID": "a", "body": {}}, {"customID": "a", "body": {}}]);
    scene.apply_job("j", json!({"spec": {"input": {"inline": {"requests": twice}}}}));
    scene.wait_condition("j", "Failed", "True", 30).await;
    scene.apply_job("j", json!({}));
    scene.wait_complete("j").await;
    scene.put("in/k.jsonl", "nonsense").await;
    scene.apply_job("k", json!({"inputKey": "k.jsonl"}));
    scene.wait_condition("k", "Failed", "True", 30).await;
    scene.put("in/k.jsonl", batch_lines("k", 2)).await;
    scene.kubectl(&["annotate", "bjob", "k", "llmbatch.dev/reconcile-requested-at=now"]);
    scene.wait_complete("k").await;
    scene.sim.assert_billed_once(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_nobody_can_use_fails_its_own_job_and_keeps_no_other_from_running() {
    let mut scene = Scene::new("unusable", &["--batch-duration", "200ms"]).await;
    let deep = (0..300).fold(json!(1), |inner, _| json!({"a": inner}));
    scene.apply_job("deep", json!({"spec": {"requestDefaults": {"x": deep}}}));
    scene.apply_job("odd", json!({"spec": {"requestDefaults": {"x": {"$serde_json::private::RawValue": 1}}}}));
    // The simulator itself cannot read it, and answers with failures.
    scene.wait_condition("odd", "Submitted", "True", 30).await;
    // Whoever starts lists all of them.
    scene.restart().await;
    scene.apply_job("after", json!({}));
    scene.wait_complete("after").await;
    let message = eventually("it says what is wrong", 30, || async {
        let said = scene.kubectl(&[
            "get",
            "bjob",
            "deep",
            "-o",
            r#"jsonpath={.status.conditions[?(@.type=="Failed")].message}"#,
        ]);
        (!said.is_empty()).then_some(said)
    })
    .await;
    assert!(message.contains("`spec.requestDefaults` is nested more than 127 deep"), "{message}");
    scene.kubectl(&["delete", "bjob", "deep", "odd", "--timeout=30s"]);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_cost_nothing_comes_back_to_life_when_what_it_refers_to_changes() {
    let mut scene = Scene::set("refers", &["--batch-duration", "200ms"]).await;
    scene.settings.extra = vec!["--recheck-seconds".into(), "1".into()];
    scene.restart().await;
    let map = |lines: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lines"}, "data": {"a": lines}})
            .to_string()
    };
    let provider = scene.manifest("provider.yaml");
    scene.apply(&map("nonsense"));
    scene.put("in/object.jsonl", "nonsense").await;
    scene.apply(&format!("{provider}  allowedModels: [other]\n"));
    scene.apply_job(
        "map",
        json!({"spec": {"model": "other", "input": {"inline": null, "configMaps": [{"name": "lines"}]}}}),
    );
    scene.apply_job("object", json!({"inputKey": "object.jsonl", "spec": {"model": "other"}}));
    scene.apply_job("model", json!({}));
    let mut before = vec![];
    for name in ["map", "object", "model"] {
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        before.push((name, job.metadata.resource_version));
    }
    let rechecks = "batchjob_steps_total{step=\"Recheck\"}";
    let looked = |scene: &Scene, times: f64| {
        let metrics = format!("{}/metrics", scene.operator.as_ref().unwrap().health);
        async move {
            eventually("it was looked again", 30, || async {
                let text = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
                let count =
                    text.lines().find_map(|l| l.strip_prefix(rechecks)).map(|n| n.trim().parse::<f64>().unwrap());
                (count.unwrap_or(0.0) >= times).then_some(())
            })
            .await;
        }
    };
    looked(&scene, 9.0).await;
    for (name, version) in before {
        assert_eq!(scene.get_job(name).await.metadata.resource_version, version, "{name}: looking writes nothing");
    }
    scene.apply(&provider);
    scene.wait_complete("model").await;
    scene.put("in/object.jsonl", batch_lines("o", 2)).await;
    scene.wait_complete("object").await;
    scene.wait_condition("map", "Failed", "True", 40).await;
    scene.stop().await;
    scene.apply(&map(&batch_lines("m", 1)));
    scene.restart().await;
    scene.wait_complete("map").await;
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_is_named_and_a_better_one_noticed() {
    let scene = Scene::new("refused-key", &["--batch-duration", "200ms"]).await;
    scene.apply(&scene.manifest("provider.yaml").replace("sk-test", "sk-wrong"));
    // A look at the provider reads the Secret anew, for its jobs too.
    scene.kubectl(&["annotate", "batchprovider", "llm", "--overwrite", "look=1"]);
    scene.wait_ready("llm", "False", "CredentialsRejected").await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "CredentialsRejected");
    assert!(message.contains("BatchProvider's Secret") && !message.contains("sk-wrong"), "{message}");
    scene.example("provider.yaml");
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

/// Case 28-redirects.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_lie_behind_a_redirect_are_told_with_its_host_and_fetched_once_it_is_gone() {
    let scene = Scene::new("redirect", &["--batch-duration", "200ms"]).await;
    let location = "https://store.example/bucket/f?X-Amz-Signature=s3cret";
    scene.sim.fault(json!({"point": "content", "action": "redirect", "location": location, "times": 1000})).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "ProviderRedirects");
    assert!(message.contains("leads to https://store.example; redirects are not followed"), "{message}");
    assert!(!serde_json::to_string(&job).unwrap().contains("s3cret"));
    scene.sim.no_more_faults().await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused_before_anything_is_paid() {
    let scene = Scene::new("careless", &[]).await;
    let mut job = scene.job("j", json!({}));
    job["spec"]["output"]["objectStore"]["endpoint"] = OddStore::start(Oddity::IgnoresConditions).await.url.into();
    scene.apply(&job.to_string());
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    let (_, reason, message) = condition(&job, "Failed").unwrap();
    assert_eq!(reason, "OutputConflict");
    assert!(message.contains("the store ignores conditions"), "{message}");
    assert_eq!(scene.sim.state().await["creates"], 0);
}

fn operator(args: &[&str], kubeconfig: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_batchjob-operator"))
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn wrong_flags_and_no_cluster_are_one_clear_line() {
    let (code, said) = operator(&["run", "--watch-namespace", "x"], "");
    assert!(code == Some(64) && said.contains("--watch-namespaces"), "{said}");
    let (code, said) = operator(&["run", "--health-addr", "nonsense"], "");
    assert!(code == Some(64) && said.contains("--health-addr"), "{said}");
    for (args, kubeconfig, words) in [
        (vec!["run"], "/nonexistent/config", "set KUBECONFIG"),
        (vec!["run", "--spool-dir", "/nonexistent"], "", "--spool-dir"),
    ] {
        let (code, said) = operator(&args, kubeconfig);
        let last = said.lines().last().unwrap_or_default();
        assert!(code == Some(1) && last.starts_with("batchjob-operator: ") && last.contains(words), "{said}");
    }
}

#[test]
fn a_cluster_without_our_crds_or_rights_is_told_so() {
    let cluster = bare_cluster("bare-control-plane");
    let (code, said) = operator(
        &["run", "--spool-dir", scratch().to_str().unwrap(), "--health-addr", "127.0.0.1:0"],
        &cluster.kubeconfig,
    );
    assert!(code == Some(1) && said.contains("the BatchJob CRD is not installed"), "{said}");
    cluster.kubectl(&["create", "namespace", "batchjob-operator-system"]);
    cluster.kubectl(&["create", "serviceaccount", "batchjob-operator", "-n", "batchjob-operator-system"]);
    let weak = cluster.operator_kubeconfig("weak", &cluster.server, "batchjob-operator-system");
    let (code, said) =
        operator(&["run", "--spool-dir", scratch().to_str().unwrap(), "--health-addr", "127.0.0.1:0"], &weak);
    assert!(code == Some(1) && said.contains("may not list BatchJobs"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_was_paid_for_is_final() {
    let mut scene = Scene::set("final", &["--batch-duration", "200ms"]).await;
    scene.settings.extra = vec!["--recheck-seconds".into(), "1".into()];
    scene.restart().await;
    let rows = json!({"point": "batch", "action": "fail_rows", "rows": 1, "status": 400, "code": "invalid"});
    scene.sim.fault(rows).await;
    let lines = |text: String| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lines"}, "data": {"a": text}}).to_string()
    };
    scene.apply(&lines(batch_lines("j", 3)));
    let spec = json!({"spec": {"maxFailedRequests": 0, "input": {"inline": null, "configMaps": [{"name": "lines"}]}}});
    scene.apply_job("j", spec);
    scene.wait_condition("j", "Failed", "True", 30).await;
    let end = |job: BatchJob| {
        let conditions = ["Complete", "Failed", "ResultsWritten"].map(|type_| condition(&job, type_));
        let status = job.status.unwrap();
        (conditions, status.outcome, status.requests, status.completion_time, status.lock, status.results)
    };
    let before = end(scene.wait_tidy("j").await);
    // Everything that would bring back what cost nothing.
    scene.apply(&lines(batch_lines("other", 3)));
    scene.kubectl(&["annotate", "bjob", "j", "llmbatch.dev/reconcile-requested-at=now", "llmbatch.dev/resolve=a=none"]);
    scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", r#"{"spec": {"maxFailedRequests": 3}}"#]);
    scene.kubectl(&["label", "secret", "llm-key", "touched=yes"]);
    // Another job fails for free, and is looked at twice.
    let twice = json!([{"customID": "a", "body": {}}, {"customID": "a", "body": {}}]);
    scene.apply_job("k", json!({"spec": {"input": {"inline": {"requests": twice}}}}));
    let operator = scene.operator.as_ref().unwrap();
    let looks = || operator.metric("batchjob_steps_total{step=\"Recheck\"}");
    eventually("the other one is looked at", 40, || async { (looks().await >= 2.0).then_some(()) }).await;
    scene.restart().await;
    scene.apply_job("l", json!({}));
    scene.wait_complete("l").await;
    assert_eq!(end(scene.get_job("j").await), before);
    assert_eq!(scene.sim.state().await["creates"], 2);
}
