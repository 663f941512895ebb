//! Budgets of a provider object, over the jobs of all namespaces that use it.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition};
use crate::support::shared::cluster;

/// A ClusterBatchProvider with a budget for the day and each namespace, where a request can cost a dollar.
fn provider(scene: &Scene, other: &Scene, budget: &str) -> Value {
    let name = &scene.namespace;
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.base_url,
            "auth": {"secretKeyRef": {"name": name, "key": "key"}},
            "models": [{"name": "*", "prices": {"inputUSDPerMillion": "0", "outputUSDPerMillion": "100000"}}],
            "budgets": [{"period": "Day", "maxCostUSD": budget, "perNamespace": true}],
            "namespaces": [{"names": [name, other.namespace]}]}})
}

fn apply(manifest: &Value) {
    let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
    assert!(ok, "{said}");
}

/// What the provider's status says of each namespace: spent and reserved.
fn shown(name: &str) -> Vec<(String, String, String)> {
    let text = cluster().kubectl(&["get", "cbprov", name, "-o", "jsonpath={.status.budgets}"]);
    let budgets: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let text = |budget: &Value, key: &str| budget[key].as_str().unwrap_or_default().to_string();
    budgets.iter().map(|b| (text(b, "namespace"), text(b, "spentUSD"), text(b, "reservedUSD"))).collect()
}

async fn batches(scene: &Scene) -> usize {
    scene.sim.state().await["batches"].as_array().unwrap().len()
}

/// Has the operator look at the provider now.
fn look(name: &str, mark: &str) {
    cluster().kubectl(&["annotate", "cbprov", name, "--overwrite", &format!("look={mark}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_used_up_its_budget_waits_and_others_go_on_whatever_becomes_of_the_operator_and_its_ledger() {
    let other = Scene::set("budget-other", &["--batch-duration", "1h"]).await;
    let mut scene = Scene::set("budget", &["--batch-duration", "1h"]).await;
    scene.settings.namespaces = format!("{},{}", scene.namespace, other.namespace);
    let (name, home) = (scene.namespace.clone(), scene.settings.home.clone());
    apply(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": home}, "stringData": {"key": "sk-test"}}));
    apply(&provider(&scene, &other, "4"));
    scene.restart().await;
    let spec = json!({"spec": {"providerRef": {"kind": "ClusterBatchProvider", "name": name},
        "requestDefaults": {"max_completion_tokens": 10}}});
    scene.apply_job("a1", spec.clone());
    scene.wait_condition("a1", "Submitted", "True", 60).await;
    scene.apply_job("a2", spec.clone());
    let waits = |job: &batchjob_operator::api::BatchJobObject| {
        condition(job, "Complete").is_some_and(|(_, reason, message)| {
            reason == "WaitingForBudget" && message.contains(&format!("of $4.00 a day for namespace '{name}'"))
        })
    };
    scene.wait_job("it waits for its budget", "a2", 60, waits).await;
    other.apply_job("b1", spec);
    other.wait_condition("b1", "Submitted", "True", 60).await;
    assert_eq!(batches(&scene).await, 2);

    // What is reserved outlives the operator, and another one counts it.
    scene.restart().await;
    look(&name, "1");
    let own = (name.clone(), "0.00".to_string(), "3.00".to_string());
    eventually("status shows what is reserved", 60, || async { shown(&name).contains(&own).then_some(()) }).await;
    let uid = cluster().kubectl(&["get", "cbprov", &name, "-o", "jsonpath={.metadata.uid}"]);
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), &home);
    let map_name = format!("batchjob-operator-budgets-{uid}");
    let ledger = || async {
        let map = maps.get(&map_name).await.ok()?;
        serde_json::from_str::<Value>(&map.data?["ledger.json"]).ok()
    };
    let reserved = |ledger: Value, namespace: &str| {
        ledger["open"].as_object().is_some_and(|all| all.values().any(|open| open["namespace"] == namespace))
    };
    assert!(reserved(ledger().await.unwrap(), &name));

    // A batch that ended is settled.
    let id = other.get_job("b1").await.status.unwrap().batches[0].provider_id.clone();
    scene.finish(&json!({"id": id})).await;
    other.wait_complete("b1").await;
    let left = ledger().await.unwrap();
    assert!(!reserved(left.clone(), &other.namespace) && left["spent"][&other.namespace] != json!(null), "{left}");

    // A ledger that is gone begins anew with what was shown: it is never taken for a budget that nobody used.
    maps.delete(&map_name, &DeleteParams::default()).await.unwrap();
    scene.restart().await;
    look(&name, "2");
    let spent = (name.clone(), "3.00".to_string(), "0.00".to_string());
    eventually("batches in flight count as spent", 60, || async { shown(&name).contains(&spent).then_some(()) }).await;
    let lost = || {
        cluster().kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"]).contains("BudgetLedgerLost")
    };
    eventually("the loss is told", 30, || async { lost().then_some(()) }).await;
    scene.wait_job("it still waits", "a2", 60, waits).await;

    apply(&provider(&scene, &other, "7"));
    scene.wait_condition("a2", "Submitted", "True", 60).await;
    assert_eq!(batches(&scene).await, 3);
}

/// An account with a budget, whose job has a batch at the provider, and the name of its ledger.
async fn scene_with_a_ledger(name: &str) -> (Scene, Api<ConfigMap>, String) {
    let mut scene = Scene::set(name, &["--batch-duration", "1h"]).await;
    let budget = "  models: [{name: '*', prices: {inputUSDPerMillion: '0', outputUSDPerMillion: '100000'}}]\n  \
                  budgets: [{period: Day, maxCostUSD: '5'}]\n";
    scene.apply(&format!("{}{budget}", scene.manifest("provider.yaml")));
    scene.restart().await;
    scene.apply_job("a", json!({"spec": {"requestDefaults": {"max_completion_tokens": 10}}}));
    scene.wait_condition("a", "Submitted", "True", 60).await;
    let uid = scene.kubectl(&["get", "bprov", "llm", "-o", "jsonpath={.metadata.uid}"]);
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), &scene.settings.home);
    let ledger = format!("batchjob-operator-budgets-{uid}");
    assert!(maps.get_opt(&ledger).await.unwrap().is_some());
    (scene, maps, ledger)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_a_provider_goes_with_it_once_no_job_needs_it() {
    let (scene, maps, ledger) = scene_with_a_ledger("budget-gone").await;
    let is_there = || async { maps.get_opt(&ledger).await.unwrap().is_some() };
    scene.kubectl(&["delete", "bprov", "llm", "--wait=false"]);
    let names_the_job = || async {
        scene.kubectl(&["get", "bprov", "llm", "-o", "jsonpath={.status}"]).contains("takes no new jobs").then_some(())
    };
    eventually("it stays for the job that runs", 60, names_the_job).await;
    assert!(is_there().await);

    let id = scene.get_job("a").await.status.unwrap().batches[0].provider_id.clone();
    scene.finish(&json!({"id": id})).await;
    scene.wait_complete("a").await;
    let is_gone = || async {
        scene.kubectl(&["get", "bprov", "llm", "--ignore-not-found", "-o", "name"]).is_empty().then_some(())
    };
    eventually("the provider goes", 60, is_gone).await;
    assert!(!is_there().await, "its ledger goes before it");
}

/// Nobody can reserve in it any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_a_provider_whose_finalizer_a_person_took_away_goes_too() {
    let (scene, maps, ledger) = scene_with_a_ledger("budget-torn").await;
    scene.kubectl(&["delete", "bprov", "llm", "--wait=false"]);
    scene.kubectl(&["patch", "bprov", "llm", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    eventually("its ledger goes", 60, || async { maps.get_opt(&ledger).await.unwrap().is_none().then_some(()) }).await;
    assert_eq!(batches(&scene).await, 1);
}
