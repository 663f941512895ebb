//! Stopped at every kind of moment, the operator ends right and pays once.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::eventually;
use crate::support::operator::Operator;
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::scene::{Scene, condition};
use crate::support::shared::{cluster, storage};

/// A moment: which way out, which request of a job's life, and whether the server still gets it.
struct Moment {
    what: &'static str,
    way: Way,
    method: &'static str,
    path: &'static str,
    nth: usize,
    when: When,
}

#[derive(Clone, Copy)]
enum Way {
    Kubernetes,
    Storage,
    Provider,
}

const fn moment(
    what: &'static str,
    way: Way,
    method: &'static str,
    path: &'static str,
    nth: usize,
    when: When,
) -> Moment {
    Moment { what, way, method, path, nth, when }
}

use Way::{Kubernetes, Provider, Storage};
use When::{After, Before};

/// The journal's writes in order: opened, planned, intent, recorded, settled, committed.
const EARLY: [Moment; 7] = [
    moment("the finalizer is on", Kubernetes, "PATCH", "/batchjobs/", 1, After),
    moment("the spec is locked", Kubernetes, "PATCH", "/status", 1, After),
    moment("the journal is open", Storage, "PUT", "journal.json", 1, After),
    moment("a shard is not staged yet", Storage, "PUT", "/shards/", 2, Before),
    moment("the plan is written", Storage, "PUT", "journal.json", 2, After),
    moment("the file is uploaded", Provider, "POST", "/files", 1, After),
    moment("the intent is about to be written", Storage, "PUT", "journal.json", 3, Before),
];
const LATE: [Moment; 7] = [
    moment("the intent is written, nothing is sent", Storage, "PUT", "journal.json", 3, After),
    moment("the batch is asked for and not created", Provider, "POST", "/batches", 1, Before),
    moment("the batch is created, its id unknown", Provider, "POST", "/batches", 1, After),
    moment("the id is recorded", Storage, "PUT", "journal.json", 4, After),
    moment("the answers are being fetched", Provider, "GET", "/content", 1, Before),
    moment("the end is decided", Storage, "PUT", "journal.json", 6, After),
    moment("the manifest is written, status is not", Storage, "PUT", "manifest.json", 1, After),
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_before_the_intent_each_line_is_billed_once() {
    killed_at("crash-early", &EARLY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_after_the_intent_each_line_is_billed_once() {
    killed_at("crash-late", &LATE).await;
}

async fn killed_at(name: &str, moments: &[Moment]) {
    let mut scene = Scene::set(name, &["--batch-duration", "200ms"]).await;
    let kubernetes = Proxy::start(&cluster().server, Some(&cluster().ca_file)).await;
    let store = Proxy::start(&storage().endpoint, None).await;
    let provider = Proxy::start(scene.sim.url.trim_end_matches("/v1"), None).await;
    scene.settings.server = Some(kubernetes.url.clone());
    scene.endpoint = store.url.clone();
    scene.base_url = format!("{}/v1", provider.url);
    scene.kubectl(&["delete", "batchprovider", "llm"]);
    scene.example("provider.yaml");
    let spool = tempfile::tempdir().unwrap();
    scene.settings.extra = vec!["--spool-dir".into(), spool.path().to_str().unwrap().into()];
    // Trying the provider out is over before the first fault is placed, and is not done again by the next operator.
    scene.restart().await;
    scene.stop().await;
    for (i, moment) in moments.iter().enumerate() {
        let proxy = match moment.way {
            Kubernetes => &kubernetes,
            Storage => &store,
            Provider => &provider,
        };
        let operator: Arc<Mutex<Option<Operator>>> = Arc::new(Mutex::new(Some(scene.settings.start().await)));
        let victim = operator.clone();
        let strike = Box::new(move || drop(victim.lock().unwrap().take()));
        let Moment { method, path, nth, when, .. } = *moment;
        proxy.place(Fault { method, path, nth, when, strike });
        let job = format!("k{i}");
        scene.apply_job(&job, json!({}));
        eventually(&format!("killed where {}", moment.what), 40, || async { proxy.struck().then_some(()) }).await;
        drop(operator.lock().unwrap().take());
        // In a Pod the folder outlives the container: what lay in it would add up.
        let left: Vec<_> = std::fs::read_dir(&spool).unwrap().collect();
        assert!(left.is_empty(), "killed where {}: {left:?}", moment.what);
        scene.restart().await;
        let done = scene.wait_complete(&job).await;
        assert_eq!(condition(&done, "Complete").unwrap().1, "AllSucceeded", "killed where {}", moment.what);
        let wanted: Vec<String> = (0..3).map(|n| format!("{job}-{n}")).collect();
        assert_eq!(scene.result_ids(&job).await, wanted, "killed where {}", moment.what);
        scene.sim.assert_billed_once(3 * (i + 1)).await;
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_reply_was_lost_is_adopted() {
    let scene = Scene::new("lost-reply", &["--batch-duration", "500ms"]).await;
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.apply_job("j", json!({}));
    scene.wait_complete("j").await;
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_arrived_is_revoked_and_sent_again() {
    let scene = Scene::new("lost-request", &["--batch-duration", "300ms"]).await;
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_complete("j").await;
    assert_eq!(job.status.unwrap().batches[0].name, "00000-2", "a second attempt with a file of its own");
    scene.sim.assert_billed_once(3).await;
    let state = scene.sim.state().await;
    assert_eq!(state["creates"], 1);
    assert!(scene.sim.spent().await.0 >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_provider_are_waited_out() {
    let scene = Scene::new("errors", &["--batch-duration", "300ms"]).await;
    for (point, status, times) in [("upload", 503, 2), ("list_batches", 500, 1), ("get_batch", 502, 3)] {
        scene.sim.fault(json!({"point": point, "action": "status", "status": status, "times": times})).await;
    }
    scene.sim.fault(json!({"point": "content", "action": "drop_request"})).await;
    scene.apply_job("j", json!({}));
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}
