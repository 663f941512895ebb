//! Limits on what is in flight in an account that namespaces share: who waits, for what, and who goes next.

use batchjob_operator::api::{BatchJobObject as BatchJob, ClusterBatchProviderObject as ClusterBatchProvider};
use kube::Api;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition};
use crate::support::shared::cluster;

/// Two namespaces that one operator looks after and that share an account at the simulator of the first, and the account's name.
async fn two_namespaces(name: &str, limits: Value) -> (Scene, Scene, String) {
    let mut shop = Scene::set(name, &["--batch-duration", "1h"]).await;
    let press = Scene::set(&format!("{name}-beside"), &[]).await;
    shop.settings.namespaces += &format!(",{}", press.namespace);
    let account = shop.namespace.clone();
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": account, "namespace": shop.settings.home}, "stringData": {"key": "sk-test"}});
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": account},
        "spec": {"type": "OpenAICompatible", "baseURL": shop.base_url, "limits": limits,
            "auth": {"secretKeyRef": {"name": account, "key": "key"}},
            "namespaces": [{"names": [shop.namespace, press.namespace]}]}});
    for manifest in [secret, provider] {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    }
    shop.restart().await;
    (shop, press, account)
}

fn waits(job: &BatchJob) -> Option<String> {
    let (status, reason, message) = condition(job, "Complete").unwrap_or_default();
    (status == "Unknown" && reason == "WaitingForQuota").then_some(message)
}

/// Applies a job of three requests, and returns what it says that it waits for.
async fn queues(scene: &Scene, account: &str, name: &str, priority: i32) -> String {
    let reference = json!({"kind": "ClusterBatchProvider", "name": account});
    scene.apply_job(name, json!({"spec": {"providerRef": reference, "priority": priority}}));
    let job = scene.wait_job("it waits for room", name, 60, |job| waits(job).is_some()).await;
    waits(&job).unwrap()
}

/// Waits until a batch of this job runs, and lets it end.
async fn runs_next(scene: &Scene, sim: &Scene, name: &str) {
    let running = |job: &BatchJob| {
        let batches = job.status.iter().flat_map(|status| &status.batches);
        batches.filter(|batch| batch.state == "InProgress").find_map(|batch| batch.provider_id.clone())
    };
    let job = scene.wait_job("it runs", name, 60, |job| running(job).is_some()).await;
    sim.finish(&json!({"id": running(&job).unwrap()})).await;
    scene.wait_complete(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_take_turns_at_a_limit_of_requests_and_priority_decides_within_one() {
    let (shop, press, account) = two_namespaces("turns", json!({"maxEnqueuedRequests": 5})).await;
    let reference = json!({"spec": {"providerRef": {"kind": "ClusterBatchProvider", "name": account}}});
    shop.apply_job("first", reference);
    shop.wait_batch("the first batch runs", |batch| batch["status"] == "in_progress").await;
    let low = queues(&shop, &account, "low", -1).await;
    assert!(low.contains("3 requests") && low.contains("the 5 of its `limits.maxEnqueuedRequests`"), "{low}");
    let place = |n: u8| format!("the job has place {n} in namespace '{}'", shop.namespace);
    assert!(low.contains(&place(1)), "{low}");
    let high = queues(&shop, &account, "high", 7).await;
    assert!(high.contains(&place(1)), "{high}");
    let last = queues(&shop, &account, "last", -2).await;
    assert!(last.contains(&place(3)), "{last}");
    queues(&press, &account, "other", 0).await;
    let providers: Api<ClusterBatchProvider> = Api::all(shop.client.clone());
    eventually("status of the account shows its use", 90, || async {
        let status = providers.get(&account).await.unwrap().status?;
        let of = (status.batches_in_flight, status.enqueued_requests, status.enqueued_tokens.is_some_and(|n| n > 0));
        (of == (Some(1), Some(3), true)).then_some(())
    })
    .await;
    runs_next(&shop, &shop, "first").await;
    for (scene, name) in [(&press, "other"), (&shop, "high"), (&shop, "low"), (&shop, "last")] {
        runs_next(scene, &shop, name).await;
    }
    assert_eq!(shop.sim.state().await["most_alive"], 1);
    shop.sim.assert_billed_once(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_refuses_more_is_tried_with_as_many_as_it_takes_and_says_so() {
    let sim = ["--batch-duration", "1h", "--max-enqueued-requests", "2"];
    let scene = Scene::with("refuses", &sim, "limits: {maxRequestsPerBatch: 1}").await;
    scene.apply_job("runs", json!({"spec": {"parallelism": 2, "input": {"inline": {"requests": two("runs")}}}}));
    eventually("two batches run", 60, || async {
        let job = scene.get_job("runs").await;
        let running = job.status.iter().flat_map(|s| &s.batches).filter(|b| b.state == "InProgress").count();
        (running == 2).then_some(())
    })
    .await;
    scene.apply_job("more", json!({}));
    let tried = |n: i64| {
        let of = move |p: &batchjob_operator::api::BatchProviderObject| {
            p.status.as_ref().and_then(|status| status.tried_batches_in_flight) == Some(n)
        };
        scene.wait_provider("it is tried with fewer", "llm", of)
    };
    tried(2).await;
    let told = scene.wait_told("CapacityLowered", 1).await;
    assert!(told[0]["note"].as_str().unwrap().contains("takes 2 batches"), "{told:?}");
    let job = scene.get_job("runs").await;
    for batch in &job.status.unwrap().batches {
        scene.finish(&json!({"id": batch.provider_id})).await;
    }
    scene.sim.admin_post("batch-duration", json!({"duration": "200ms"})).await;
    for name in ["runs", "more"] {
        scene.wait_condition(name, "Complete", "True", 120).await;
    }
    assert!(scene.told("BatchHalved").await.is_empty());
    scene.sim.assert_billed_once(5).await;
}

fn two(job: &str) -> Value {
    crate::support::scene::requests(job, 2)
}
