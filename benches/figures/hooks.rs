//! `hooks`: from the end of a batch at the provider to `Complete`, with events and polls an hour apart, for batches that end one after
//! the other and for all of them at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support::eventually;
use crate::support::process::free_port;
use crate::support::scene::{Scene, condition, requests};
use crate::{Bar, Figure, scaled};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Time between the ends of two batches.
const APART: Duration = Duration::from_millis(100);
/// Jobs that are created at a time.
const WIDTH: usize = 16;

/// Times at which jobs were seen complete, by name.
type Seen = Arc<Mutex<HashMap<String, Instant>>>;

pub async fn measure() -> Figure {
    let count = scaled(200);
    let port = free_port();
    let mut scene = Scene::set("hooks", &["--batch-duration", "1h"]).await;
    scene.settings.env.push(("RUST_LOG", "info".into()));
    scene.settings.extra = vec!["--provider-webhook-addr".into(), format!("127.0.0.1:{port}")];
    let hook =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "stringData": {"secret": SECRET}});
    scene.apply(&hook.to_string());
    let provider = scene.manifest("provider.yaml");
    scene.apply(&format!("{provider}  webhook: {{signingSecretKeyRef: {{name: hook, key: secret}}}}\n"));
    scene.restart().await;
    let path = |p: &batchjob_operator::api::BatchProviderObject| p.status.as_ref().and_then(|s| s.webhook_path.clone());
    let provider = scene.wait_provider("it has a path", "llm", |p| path(p).is_some()).await;
    let url = format!("http://127.0.0.1:{port}{}", path(&provider).unwrap());
    scene.sim.admin_post("webhooks", json!({"url": url, "secret": SECRET})).await;
    let seen: Seen = Arc::default();
    let watching = tokio::spawn(watch(scene.jobs(), seen.clone()));
    let times = run(&scene, &seen, count, Some(APART)).await;
    let at_once = run(&scene, &seen, count, None).await;
    watching.abort();
    scene.stop().await;
    for (how, times) in [("one after the other", &times), ("all at once", &at_once)] {
        let of = |share: f64| percentile(times, share);
        println!(
            "hooks: {count} batches that end {how}: median {:.3} s, 99 % {:.3} s, last {:.3} s",
            of(0.5),
            of(0.99),
            of(1.0)
        );
    }
    let name = format!(
        "from the end of a batch to `Complete`, by a webhook, 99th percentile of {count} batches that end {} ms apart; what it may take",
        APART.as_millis()
    );
    Figure::of_pairs("hooks", name, "s", &[(percentile(&times, 0.99), 2.0)], Bar::AtMost(1.0))
}

/// Returns the seconds from the end of each batch until its job is complete.
async fn run(scene: &Scene, seen: &Seen, count: usize, apart: Option<Duration>) -> Vec<f64> {
    let kind = if apart.is_some() { "a" } else { "b" };
    let create = async |i: usize| {
        let name = format!("{kind}{i}");
        let input = json!({"inline": {"requests": requests(&name, 1)}});
        let job = scene.job(&name, json!({"spec": {"pollPeriodSeconds": 3600, "input": input}}));
        scene.jobs().create(&Default::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    };
    let before = polls(scene).await;
    futures::stream::iter(0..count).for_each_concurrent(WIDTH, create).await;
    let all = async || (polls(scene).await - before >= count as f64).then_some(());
    eventually("each batch was polled, which is the last poll for an hour", 300, all).await;
    searched(scene).await;
    let state = scene.sim.state().await;
    let runs: Vec<_> = state["batches"].as_array().unwrap().iter().filter(|b| b["status"] == "in_progress").collect();
    assert_eq!(runs.len(), count);
    let names: HashMap<String, String> = scene
        .jobs()
        .list(&Default::default())
        .await
        .unwrap()
        .iter()
        .filter_map(|job| Some((job.status.as_ref()?.batches.first()?.provider_id.clone()?, job.name_any())))
        .collect();
    let ended: Mutex<Vec<(String, Instant)>> = Mutex::default();
    let finish = async |i: usize| {
        if let Some(apart) = apart {
            tokio::time::sleep(apart * u32::try_from(i).unwrap()).await;
        }
        // Before the simulator is told, so that its own time counts as well.
        let at = Instant::now();
        scene.finish(runs[i]).await;
        ended.lock().unwrap().push((names[runs[i]["id"].as_str().unwrap()].clone(), at));
    };
    futures::stream::iter(0..count).for_each_concurrent(count, finish).await;
    let ended = ended.into_inner().unwrap();
    let all = async || ended.iter().all(|(job, _)| seen.lock().unwrap().contains_key(job)).then_some(());
    eventually("each job is complete", 120, all).await;
    let seen = seen.lock().unwrap();
    ended.iter().map(|(job, at)| seen[job].saturating_duration_since(*at).as_secs_f64()).collect()
}

/// Waits until each batch was searched for in the account's list, which happens in the minutes after its submission.
async fn searched(scene: &Scene) {
    let lists = async || scene.sim.state().await["calls"]["list_batches"].as_i64().unwrap_or(0);
    let quiet = async || {
        let before = lists().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        (lists().await == before).then_some(())
    };
    eventually("nothing is searched for any more", 120, quiet).await;
}

async fn polls(scene: &Scene) -> f64 {
    scene.operator.as_ref().unwrap().metric("batchjob_steps_total{step=\"Poll\"}").await
}

async fn watch(jobs: Api<BatchJob>, seen: Seen) {
    let mut events = watcher(jobs, watcher::Config::default()).applied_objects().boxed();
    while let Ok(Some(job)) = events.try_next().await {
        if condition(&job, "Complete").is_some_and(|(status, ..)| status == "True") {
            seen.lock().unwrap().entry(job.name_any()).or_insert_with(Instant::now);
        }
    }
}

fn percentile(times: &[f64], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
}
