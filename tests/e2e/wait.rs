//! `batchjob-operator wait`: what a pipeline learns of a job.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::json;

use crate::support::eventually;
use crate::support::scene::Scene;
use crate::support::shared::cluster;

/// Starts to wait, with these arguments.
fn waiting(scene: &Scene, args: &[&str]) -> Child {
    let mut wait = Command::new(env!("CARGO_BIN_EXE_batchjob-operator"));
    wait.args(["wait", "--namespace", &scene.namespace]).args(args);
    wait.env("KUBECONFIG", &cluster().kubeconfig).stderr(Stdio::piped()).spawn().unwrap()
}

/// The exit code, and what was said.
async fn ended(mut wait: Child) -> (Option<i32>, String) {
    let mut stderr = wait.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        said
    });
    let wait = Mutex::new(wait);
    let status = eventually("the end of `wait`", 60, || async { wait.lock().unwrap().try_wait().unwrap() }).await;
    (status.code(), said.join().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_learns_how_a_job_ended_by_its_exit_code() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let bad = json!([{"contains": "partial 1", "status": 400, "code": "bad_request", "message": "no"}]);
    std::fs::write(rules.path(), bad.to_string()).unwrap();
    let args = ["--batch-duration", "300ms", "--answers", rules.path().to_str().unwrap()];
    let scene = Scene::new("wait", &args).await;
    // Before there is a job: the two may be applied together.
    let (whole, partial) = (waiting(&scene, &["whole"]), waiting(&scene, &["partial"]));
    let (failed, late) = (waiting(&scene, &["failed"]), waiting(&scene, &["late", "--timeout=4s"]));
    let (deleted, told_to_stop) = (waiting(&scene, &["deleted"]), waiting(&scene, &["deleted"]));
    for name in ["whole", "partial"] {
        scene.apply_job(name, json!({}));
    }
    for name in ["late", "deleted"] {
        scene.apply_job(name, json!({"spec": {"suspend": true}}));
    }
    scene.apply_job("failed", json!({"spec": {"requestDefaults": {"stream": true}}}));

    let (code, said) = ended(whole).await;
    assert_eq!(code, Some(0), "{said}");
    let id = format!("BatchJob '{}/whole'", scene.namespace);
    assert!(said.contains(&format!("{id} has the outcome Succeeded: AllSucceeded: ")), "{said}");
    assert!(said.contains(&format!("{id} is at InProgress: the provider is working")), "{said}");
    let (code, said) = ended(partial).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("PartiallySucceeded: CompletedWithFailures"), "{said}");
    let (code, said) = ended(failed).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has the outcome Failed: InvalidInput"), "{said}");
    let (code, said) = ended(late).await;
    assert_eq!(code, Some(124), "{said}");
    assert!(said.contains("has not ended within 4s: Suspended: "), "{said}");
    // A Pod that is told to go.
    let reason = r#"jsonpath={.status.conditions[?(@.type=="Complete")].reason}"#;
    eventually("the job is seen", 30, || async {
        (scene.kubectl(&["get", "bjob", "deleted", "-o", reason]) == "Suspended").then_some(())
    })
    .await;
    Command::new("kill").arg(told_to_stop.id().to_string()).status().unwrap();
    assert_eq!(ended(told_to_stop).await.0, Some(143));
    scene.kubectl(&["delete", "bjob", "deleted"]);
    let (code, said) = ended(deleted).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was deleted before its end was seen"), "{said}");

    let (code, said) = ended(waiting(&scene, &["whole", "--no-such-flag"])).await;
    assert_eq!(code, Some(64), "not the code of a job: {said}");
}
