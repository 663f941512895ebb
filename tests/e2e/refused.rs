//! Bad input and missing pieces: one clear line that says what to do, and nothing paid.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::careless::careless_store;
use crate::support::process::scratch;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::bare_cluster;

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_are_refused_before_anything_is_sent() {
    let scene = Scene::new("bad-input", &[]).await;
    let good = batch_lines("x", 1);
    let long_id =
        json!({"custom_id": "i".repeat(600), "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}});
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("broken", format!("{good}{{\n").into(), "line 2: is not JSON"),
        ("utf8", [good.as_bytes(), b"\xff\xfe\n"].concat(), "line 2: is not UTF-8"),
        ("empty", b"\n\n".to_vec(), "holds no requests"),
        ("twice", format!("{good}{good}").into(), "line 2: has a custom id that an earlier request has"),
        ("method", good.replace("POST", "GET").into(), "line 1: has another `method`"),
        ("url", good.replace("chat/completions", "embeddings").into(), "line 1: has another `url`"),
        ("noid", good.replace("custom_id", "id").into(), "line 1: has no `custom_id`"),
        ("longid", long_id.to_string().into(), "line 1: has a custom id of 600 bytes"),
        (
            "body",
            br#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":"x"}"#.to_vec(),
            "`body` that is not an object",
        ),
        ("stream", good.replace("\"model\"", "\"stream\":true,\"model\"").into(), "`stream`"),
        (
            "models",
            format!("{good}{}", batch_lines("y", 1).replace("gpt-5-mini", "other")).into(),
            "line 2: names another model",
        ),
        ("array", b"[]\n".to_vec(), "line 1: is not a JSON object"),
    ];
    for (name, bytes, _) in &table {
        scene.put(&format!("in/{name}.jsonl"), bytes.clone()).await;
        scene.apply_job(name, json!({"inputKey": format!("{name}.jsonl"), "spec": {"model": null}}));
    }
    for (name, _, words) in &table {
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert_eq!(reason, "InvalidInput", "{name}");
        assert!(message.contains(words) && message.contains(&format!("in/{name}.jsonl")), "{name}: {message}");
        assert!(job.status.unwrap().lock.is_none(), "the spec can be mended");
    }
    assert_eq!(scene.sim.spent().await, (0, 0));
}

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
async fn what_is_missing_is_named_and_its_arrival_noticed() {
    let scene = Scene::new("missing", &["--batch-duration", "200ms"]).await;
    let missing = |path: &[&str], value: &str| {
        let mut job = scene.job("x", json!({}));
        let mut at = &mut job["spec"];
        for key in path {
            at = &mut at[*key];
        }
        *at = value.into();
        job
    };
    let mut input = scene.job("x", json!({"inputKey": "none.jsonl"}));
    input["spec"]["output"]["objectStore"]["uri"] = format!("s3://tests/{}/out/input/", scene.namespace).into();
    let cases: Vec<(&str, Value, &str)> = vec![
        ("provider", missing(&["providerRef", "name"], "nope"), "BatchProvider 'nope' was not found"),
        (
            "secret",
            missing(&["output", "objectStore", "secretRef", "name"], "later"),
            "Secret 'later', which `spec.output` names, was not found",
        ),
        ("bucket", missing(&["output", "objectStore", "uri"], "s3://no-such-bucket/out/"), "no-such-bucket"),
        ("input", input, "none.jsonl does not exist"),
        ("variable", missing(&["output", "objectStore", "uri"], "s3://tests/$(runID)/"), "`spec.runID` is not set"),
        ("unknown", missing(&["output", "objectStore", "uri"], "s3://tests/$(uid)/"), "`$(uid)`"),
    ];
    for (name, job, _) in &cases {
        let mut job = job.clone();
        job["metadata"]["name"] = (*name).into();
        scene.apply(&job.to_string());
    }
    for (name, _, words) in &cases {
        let job = scene.wait_condition(name, "Stalled", "True", 60).await;
        let (_, reason, message) = condition(&job, "Stalled").unwrap();
        assert!(message.contains(words), "{name}: {reason}: {message}");
    }
    assert_eq!(scene.sim.spent().await.0, 0);
    let secret = scene.manifest("storage.yaml").replace("name: s3", "name: later");
    scene.apply(&secret);
    scene.wait_complete("secret").await;
    // What never started is not held back when it is deleted.
    scene.kubectl(&["delete", "bjob", "provider", "bucket", "input", "variable", "unknown", "--timeout=30s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_is_named_and_a_better_one_noticed() {
    let scene = Scene::new("refused-key", &["--batch-duration", "200ms"]).await;
    scene.apply(&scene.manifest("provider.yaml").replace("sk-test", "sk-wrong"));
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "CredentialsRejected");
    assert!(message.contains("BatchProvider's Secret") && !message.contains("sk-wrong"), "{message}");
    scene.example("provider.yaml");
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused_before_anything_is_paid() {
    let scene = Scene::new("careless", &[]).await;
    let mut job = scene.job("j", json!({}));
    job["spec"]["output"]["objectStore"]["endpoint"] = careless_store().await.into();
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
    assert!(code == Some(2) && said.contains("--watch-namespaces"), "{said}");
    let (code, said) = operator(&["run", "--health-addr", "nonsense"], "");
    assert!(code == Some(2) && said.contains("--health-addr"), "{said}");
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
    let weak = cluster.operator_kubeconfig("weak", &cluster.server);
    let (code, said) =
        operator(&["run", "--spool-dir", scratch().to_str().unwrap(), "--health-addr", "127.0.0.1:0"], &weak);
    assert!(code == Some(1) && said.contains("may not list BatchJobs"), "{said}");
}
