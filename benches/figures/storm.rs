//! `storm`: a thousand one-line jobs created at once, held against what the API server itself can do: how many
//! compare-and-swap writes (a read, and a write with the `resourceVersion` that was read) it takes in a second on objects of that size.

use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, requests};
use crate::support::shared::audit_log;
use crate::{Bar, Figure, scaled};

const ROUNDS: usize = 3;
/// Clients that write at a time, and jobs that are created at a time.
const WIDTH: usize = 32;
/// Writes that the API server is measured with.
const SWAPS: usize = 3_000;

pub async fn measure() -> Vec<Figure> {
    let count = scaled(1_000);
    let (mut rates, mut writes_a_job) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut scene = super::end_to_end::scene("storm").await;
        scene.provider_judged("llm").await;
        let (seconds, writes) = storm(&scene, count).await;
        scene.stop().await;
        let limit = SWAPS as f64 / swaps(&scene, count).await;
        println!("storm: {seconds:.1} s, {writes} writes; the API server swaps {limit:.0} objects a second");
        rates.push((writes as f64 / seconds, limit));
        writes_a_job.push((writes as f64 / count as f64, 8.0));
    }
    let name = format!(
        "life-cycle writes of {count} one-line jobs created at once; swaps of the API server, {WIDTH} at a time"
    );
    let few = "life-cycle writes of a one-line job; what it may take".to_string();
    vec![
        Figure::of_pairs("storm", name, "writes/s", &rates, Bar::AtLeast(0.5)),
        Figure::of_pairs("storm-writes", few, "writes", &writes_a_job, Bar::AtMost(1.0)),
    ]
}

/// Seconds from the first creation to the last end, and the writes that the operator made for it.
async fn storm(scene: &Scene, count: usize) -> (f64, usize) {
    let from = std::fs::read_to_string(audit_log()).unwrap().lines().count();
    let began = Instant::now();
    let create = async |i: usize| {
        let input = json!({"spec": {"input": {"inline": {"requests": requests(&format!("s{i}"), 1)}}}});
        let job = scene.job(&format!("s{i}"), input);
        scene.jobs().create(&Default::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    };
    futures::stream::iter(0..count).for_each_concurrent(WIDTH, create).await;
    let operator = scene.operator.as_ref().unwrap();
    let tidied = async || operator.metric("batchjob_steps_total{step=\"CleanUp\"}").await;
    let all = || async { (tidied().await >= count as f64).then_some(()) };
    eventually("every job is at its end", 900, all).await;
    let seconds = began.elapsed().as_secs_f64();
    let jobs = scene.jobs().list(&ListParams::default()).await.unwrap();
    let ended = |status: &str| {
        jobs.iter()
            .filter(|job| job.status.as_ref().and_then(|s| s.outcome).is_some_and(|o| format!("{o:?}") == status))
            .count()
    };
    assert_eq!(ended("Succeeded"), count);
    scene.sim.assert_billed_once(count).await;
    // What was told last is written beside the loop.
    tokio::time::sleep(Duration::from_secs(2)).await;
    (seconds, writes(scene, from))
}

/// What the operator wrote in the namespace: finalizers, statuses and events.
fn writes(scene: &Scene, from: usize) -> usize {
    let log = std::fs::read_to_string(audit_log()).unwrap();
    let events = log.lines().skip(from).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_write = |event: &Value| {
        let of = &event["objectRef"];
        of["namespace"] == scene.namespace.as_str()
            && matches!(of["resource"].as_str(), Some("batchjobs" | "events"))
            && matches!(event["verb"].as_str(), Some("create" | "patch" | "update"))
    };
    events.filter(is_write).count()
}

/// Seconds that so many writes of statuses take, each over the version that was read before it.
async fn swaps(scene: &Scene, count: usize) -> f64 {
    let jobs = scene.jobs();
    let names: Vec<String> =
        jobs.list_metadata(&ListParams::default()).await.unwrap().iter().map(|job| job.name_any()).collect();
    assert_eq!(names.len(), count);
    let began = Instant::now();
    let swap = async |i: usize| {
        let mut job = jobs.get(&names[i % count]).await.unwrap();
        if let Some(display) = job.status.as_mut().and_then(|status| status.display.as_mut()) {
            display.progress = format!("{i}/{i}");
        }
        jobs.replace_status(&names[i % count], &PostParams::default(), &job).await.unwrap();
    };
    futures::stream::iter(0..SWAPS).for_each_concurrent(WIDTH, swap).await;
    began.elapsed().as_secs_f64()
}
