//! What is away for a while: the API server, the leader, the provider, the object store.

use std::time::{Duration, Instant};

use batchjob_operator::api::{BatchJobObject as BatchJob, BatchProviderObject as BatchProvider};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::operator::{Operator, Settings};
use crate::support::process::free_port;
use crate::support::proxy::Proxy;
use crate::support::scene::{Scene, condition};
use crate::support::shared::{cluster, storage};

/// Two scenes that elect a leader would elect one together.
static ELECTION: Mutex<()> = Mutex::const_new(());

fn replica(scene: &Scene, name: &str) -> Settings {
    let name = format!("{}-{name}", scene.namespace);
    Settings {
        extra: ["--leader-election", "true", "--identity", &name].map(String::from).to_vec(),
        server: scene.settings.server.clone(),
        ..Settings::new(&name, &scene.namespace)
    }
}

const REFUSED: &str = "batchjob_provider_webhooks_total{outcome=\"Refused\"}";

/// The same replica, where webhooks are taken; its URL for them.
fn taking_webhooks(mut replica: Settings) -> (Settings, String) {
    let address = format!("127.0.0.1:{}", free_port());
    replica.extra.extend(["--provider-webhook-addr".into(), address.clone()]);
    replica.env.push(("POD_IP", "127.0.0.1".into()));
    (replica, format!("http://{address}"))
}

async fn leads(operator: &Operator, seconds: u64) -> Duration {
    let asked = Instant::now();
    eventually("it leads", seconds, || async { (operator.metric("batchjob_leader").await == 1.0).then_some(()) }).await;
    asked.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over_within_three_seconds_and_is_replaced_within_twenty() {
    let _alone = ELECTION.lock().await;
    let mut scene = Scene::set("elected", &["--batch-duration", "1h"]).await;
    let mut first = taking_webhooks(replica(&scene, "first")).0.start().await;
    leads(&first, 40).await;
    let (second, webhooks) = taking_webhooks(replica(&scene, "second"));
    let mut second = second.start().await;
    scene.apply_job("a", json!({}));
    let batch = scene.batch_of("a").await;
    assert_eq!(second.metric("batchjob_leader").await, 0.0);
    eventually("a webhook that reaches the standby is judged by the leader", 10, async || {
        let answer = reqwest::Client::new().post(format!("{webhooks}/hooks/nobody")).send().await.unwrap();
        (answer.status() == 401 && first.metric(REFUSED).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(second.metric(REFUSED).await, 0.0);
    let asked = Instant::now();
    assert_eq!(first.process.terminate(), Some(0), "{}", first.process.tail(20));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    leads(&second, 10).await;
    let handed_over = asked.elapsed();
    assert!(handed_over < Duration::from_secs(3), "{handed_over:?}");
    let third = replica(&scene, "third").start().await;
    scene.apply_job("b", json!({}));
    scene.batch_of("b").await;
    assert_eq!(third.metric("batchjob_leader").await, 0.0);
    second.process.kill();
    let killed = Instant::now();
    leads(&third, 30).await;
    let replaced = killed.elapsed();
    assert!(replaced < Duration::from_secs(20), "{replaced:?}");
    assert!(replaced > Duration::from_secs(5), "a lease is not taken from a leader that may be alive: {replaced:?}");
    eprintln!("handed over after {handed_over:?}, replaced after {replaced:?}");
    scene.operator = Some(third);
    scene.finish(&batch).await;
    scene.wait_complete("a").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_no_job_fails_and_all_goes_on_soon_after() {
    let _alone = ELECTION.lock().await;
    let mut scene = Scene::set("apiserver", &["--batch-duration", "1h"]).await;
    let proxy = Proxy::start(&cluster().server, Some(&cluster().ca_file)).await;
    let gate = Gate::to(&proxy.url).await;
    scene.settings.server = Some(gate.url.clone());
    let first = replica(&scene, "first").start().await;
    leads(&first, 40).await;
    scene.operator = Some(first);
    scene.provider_judged("llm").await;
    let second = replica(&scene, "second").start().await;
    // A job at every stage.
    for (job, change) in [
        ("runs", json!({})),
        ("ends", json!({})),
        ("goes", json!({})),
        ("done", json!({})),
        ("stops", json!({"spec": {"suspend": true}})),
    ] {
        scene.apply_job(job, change);
    }
    let mut batches = vec![];
    for job in ["runs", "ends", "goes", "done"] {
        batches.push(scene.batch_of(job).await);
    }
    scene.finish(&batches[3]).await;
    let done = scene.wait_tidy("done").await;
    scene.wait_condition("stops", "Suspended", "True", 30).await;
    scene.kubectl(&["delete", "bjob", "goes", "--wait=false"]);
    scene.apply_job("begins", json!({}));
    gate.close();
    let away = Instant::now();
    scene.finish(&batches[1]).await;
    scene.apply_job("comes", json!({}));
    scene.kubectl(&["patch", "bjob", "stops", "--type=merge", "-p", r#"{"spec": {"suspend": false}}"#]);
    // As long as an API server is restarted.
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(away.elapsed())).await;
    let operator = scene.operator.as_ref().unwrap();
    assert_eq!(scene.get_job("comes").await.metadata.finalizers, None, "it was away");
    assert_eq!(reqwest::get(format!("{}/livez", operator.health)).await.unwrap().status(), 200);
    gate.open();
    let back = Instant::now();
    let polls = || operator.metric("batchjob_steps_total{step=\"Poll\"}");
    let before = polls().await;
    scene.wait_job("what came meanwhile is seen", "comes", 15, |job| job.metadata.finalizers.is_some()).await;
    let seen = back.elapsed();
    eventually("what runs is polled", 15, || async { (polls().await > before).then_some(()) }).await;
    let polled = back.elapsed();
    assert!(polled < Duration::from_secs(15), "{polled:?}");
    eprintln!("the watch was fresh after {seen:?}, work went on after {polled:?}");
    assert_eq!(operator.metric("batchjob_leader").await, 1.0, "nobody took the lease");
    assert_eq!(second.metric("batchjob_leader").await, 0.0);
    scene.wait_complete("ends").await;
    scene.wait_gone("goes").await;
    scene.finish(&batches[0]).await;
    for job in ["begins", "comes", "stops"] {
        scene.finish(&scene.batch_of(job).await).await;
    }
    for job in ["runs", "begins", "comes", "stops"] {
        assert_eq!(condition(&scene.wait_complete(job).await, "Complete").unwrap().1, "AllSucceeded", "{job}");
    }
    assert_eq!(scene.get_job("done").await.status, done.status, "what was done is not touched");
    assert_eq!(scene.told("Stalled").await, Vec::<Value>::new(), "what is over is not told of");
    assert_eq!(scene.sim.state().await["creates"], 7);
    scene.sim.assert_billed_once(18).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_away_nothing_fails_and_nothing_is_sent_twice() {
    let mut scene = Scene::set("provider-away", &["--batch-duration", "1h"]).await;
    let gate = Gate::to(&scene.sim.url).await;
    scene.base_url = format!("{}/v1", gate.url);
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.example("provider.yaml");
    scene.restart().await;
    for job in ["runs", "ends", "goes"] {
        scene.apply_job(job, json!({}));
    }
    scene.apply_job("lost", json!({"spec": {"suspend": true}}));
    let mut batches = vec![];
    for job in ["runs", "ends", "goes"] {
        batches.push(scene.batch_of(job).await);
    }
    scene.wait_condition("lost", "Planned", "True", 30).await;
    // The reply to its POST is lost, and the list cannot be asked.
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.kubectl(&["patch", "bjob", "lost", "--type=merge", "-p", r#"{"spec": {"suspend": false}}"#]);
    eventually("it is sent", 30, || async { (scene.sim.state().await["creates"] == 4).then_some(()) }).await;
    gate.close();
    scene.finish(&batches[1]).await;
    scene.apply_job("comes", json!({}));
    scene.kubectl(&["delete", "bjob", "goes", "--wait=false"]);
    for job in ["runs", "ends", "comes", "lost"] {
        let job = scene.wait_condition(job, "Stalled", "True", 60).await;
        let (_, reason, message) = condition(&job, "Stalled").unwrap();
        assert_eq!(reason, "ProviderUnavailable");
        assert!(message.contains("cannot reach the provider"), "{message}");
        assert_ne!(condition(&job, "Failed").unwrap().0, "True");
    }
    let says = |job: &BatchJob| condition(job, "Stalled").is_some_and(|(_, _, why)| why.contains(" times since "));
    let told = condition(&scene.wait_job("it says how often and when", "runs", 60, says).await, "Stalled").unwrap().2;
    assert!(told.contains(&format!("GET {}/v1/batches/", gate.url)) && told.ends_with(" UTC"), "{told}");
    scene.wait_provider("its object says so", "llm", |p| ready(p) == "False").await;
    let operator = scene.operator.as_ref().unwrap();
    assert!(operator.metric("batchjob_failing_calls{call=\"Poll\"}").await >= 1.0);
    assert!(scene.get_job("goes").await.metadata.deletion_timestamp.is_some(), "it is not let go");
    gate.open();
    scene.wait_gone("goes").await;
    scene.wait_complete("ends").await;
    scene.finish(&batches[0]).await;
    for job in ["comes", "lost"] {
        scene.finish(&scene.batch_of(job).await).await;
    }
    for job in ["runs", "comes", "lost"] {
        let job = scene.wait_complete(job).await;
        assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
        assert_eq!(condition(&job, "Stalled").unwrap().0, "False");
    }
    scene.wait_provider("its object says that it is back", "llm", |p| ready(p) == "True").await;
    assert_eq!(scene.sim.state().await["creates"], 5, "one a job");
    scene.sim.assert_billed_once(12).await;
}

fn ready(provider: &BatchProvider) -> String {
    let conditions = provider.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_hangs_is_told_after_the_first_time_out_and_its_object_is_not_ready_a_minute_later() {
    let mut scene = Scene::set("hangs", &["--batch-duration", "1h"]).await;
    let gate = Gate::to(&scene.sim.url).await;
    scene.base_url = format!("{}/v1", gate.url);
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.example("provider.yaml");
    scene.restart().await;
    scene.apply_job("j", json!({}));
    let batch = scene.batch_of("j").await;
    gate.hang();
    let job = scene.wait_condition("j", "Stalled", "True", 60).await;
    let told = condition(&job, "Stalled").unwrap().2;
    assert!(told.contains(&format!("GET {}/v1/batches/", gate.url)), "{told}");
    assert!(told.contains("; failed at ") && told.contains("tried again at"), "{told}");
    scene.wait_provider("its object says so", "llm", |p| ready(p) == "False").await;
    gate.open();
    scene.finish(&batch).await;
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Stalled").unwrap().0, "False");
    scene.wait_provider("its object says that it is back", "llm", |p| ready(p) == "True").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_object_store_is_away_paid_results_wait_at_the_provider() {
    let mut scene = Scene::set("store-away", &["--batch-duration", "1h"]).await;
    let gate = Gate::to(&storage().endpoint).await;
    scene.endpoint = gate.url.clone();
    scene.example("storage.yaml");
    scene.restart().await;
    scene.apply_job("j", json!({}));
    let batch = scene.batch_of("j").await;
    gate.close();
    scene.finish(&batch).await;
    let job = scene.wait_condition("j", "Stalled", "True", 60).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "StorageUnavailable");
    assert!(!message.is_empty());
    let kept = scene.sim.state().await["files"].as_array().unwrap().len();
    assert_eq!(kept, 2, "the input and the answers stay at the provider");
    gate.open();
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "AllSucceeded");
    assert_eq!(scene.result_ids("j").await, ["j-0", "j-1", "j-2"]);
    eventually("nothing is left at the provider", 20, || async {
        (scene.sim.state().await["files"] == json!([])).then_some(())
    })
    .await;
    scene.sim.assert_billed_once(3).await;
}
