//! A job in the dialect of another vendor, from manifest to results.

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::scene::{Scene, condition};

/// Given Azure OpenAI, when the reply to a create is lost, when the account has no room for a batch, and when lines are written
/// for Azure, then each job ends with its answers, and nothing is billed twice. Case 14-azure-lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_on_azure_openai_where_a_lost_reply_is_found_and_a_full_queue_waited_for() {
    let mut scene = Scene::set("azure", &["--batch-duration", "200ms"]).await;
    scene.settings.extra = ["--post-window-seconds", "1", "--send-timeout-seconds", "1"].map(String::from).to_vec();
    scene.restart().await;
    let root = scene.base_url.replace("/v1", "/openai/v1");
    let manifest = scene.manifest("azure.yaml").replace("https://my-resource.openai.azure.com/openai/v1", &root);
    // The simulator refuses keys that come as bearer tokens here, and keeps files pending for a moment.
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.apply(&manifest.replace("AZURE_KEY", "sk-test"));
    let ready = |p: &batchjob_operator::api::BatchProviderObject| {
        p.status.as_ref().and_then(|s| s.capabilities).is_some_and(|can| can.can_resolve())
    };
    scene.wait_complete("kettles").await;
    scene.wait_provider("Azure was tried out", "azure", ready).await;
    assert_eq!(scene.result_ids("kettles").await, ["task-0", "task-1"]);
    scene.sim.assert_billed_once(2).await;
    // Lines as Azure's documentation has them, and an account that has no room for the first batch.
    let line = |n: usize| {
        let body = json!({"model": "my-batch-deployment", "messages": [{"role": "user", "content": format!("{n}?")}]});
        json!({"custom_id": format!("task-{n}"), "method": "POST", "url": "/chat/completions", "body": body})
            .to_string()
    };
    scene.put("in/14.jsonl", (0..3).map(|n| line(n) + "\n").collect::<String>()).await;
    scene
        .sim
        .fault(json!({"point": "batch", "action": "fail", "code": "token_limit_exceeded", "message": "30K"}))
        .await;
    scene.apply_job("full", json!({"inputKey": "14.jsonl", "spec": {"providerRef": {"name": "azure"}, "model": null}}));
    let waits = |job: &BatchJob| {
        condition(job, "Complete").is_some_and(|(_, reason, said)| reason == "WaitingForQuota" && said.contains("30K"))
    };
    scene.wait_job("the job waits for room", "full", 30, waits).await;
    scene.wait_complete("full").await;
    assert_eq!(scene.result_ids("full").await, ["task-0", "task-1", "task-2"]);
    scene.sim.assert_billed_once(5).await;
    // What Azure has no batches of is said before anything is uploaded.
    let uploads = scene.sim.state().await["uploads"].clone();
    let spec = json!({"providerRef": {"name": "azure"}, "endpoint": "Embeddings"});
    scene.apply_job("embeddings", json!({"spec": spec}));
    let job = scene.wait_condition("embeddings", "Failed", "True", 30).await;
    let (_, reason, said): (String, String, String) = condition(&job, "Failed").unwrap();
    assert!(reason == "InvalidInput" && said.contains("`spec.endpoint: Embeddings` has no batches"), "{said}");
    assert_eq!(scene.sim.state().await["uploads"], uploads);
    let batches = scene.sim.state().await["batches"].clone();
    let endpoint = |batch: &Value| batch["endpoint"] == "/chat/completions";
    assert!(batches.as_array().unwrap().iter().all(endpoint), "{batches}");
}
