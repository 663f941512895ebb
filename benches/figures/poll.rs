//! `poll`: calls at the provider in one poll period, with 5,000 batches of 500 jobs in flight in one account.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::Scene;
use crate::{Figure, scaled};

const JOBS: usize = 500;
const BATCHES_A_JOB: usize = 10;
/// Seconds.
const PERIOD: u64 = 60;
const PERIODS: usize = 3;
const MOST: f64 = 60.0;

pub async fn measure() -> Figure {
    let mut scene = Scene::set("poll", &["--batch-duration", "12h"]).await;
    scene.settings.env.push(("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into())));
    let one_each = json!({"spec": {"limits": {"maxRequestsPerBatch": 1}}}).to_string();
    scene.kubectl(&["patch", "batchprovider", "llm", "--type", "merge", "-p", &one_each]);
    scene.restart().await;
    let (jobs, began) = (scaled(JOBS), Instant::now());
    for i in 0..jobs {
        scene.jobs().create(&Default::default(), &serde_json::from_value(job(&scene, i)).unwrap()).await.unwrap();
    }
    let batches = jobs * BATCHES_A_JOB;
    eventually("all batches in flight", 1_800, async || {
        (scene.sim.state().await["creates"].as_u64() == Some(batches as u64)).then_some(())
    })
    .await;
    println!("poll: {batches} batches in flight after {:.0} s", began.elapsed().as_secs_f64());
    let mut calls = vec![];
    // The first looks and searches of the batches are made once; then all that is asked is whether they ended.
    settle(&scene).await;
    for _ in 0..PERIODS {
        let before = total(&scene.sim.state().await);
        tokio::time::sleep(Duration::from_secs(PERIOD)).await;
        let state = scene.sim.state().await;
        calls.push(total(&state) - before);
        println!("poll: {} calls in a period; so far {}", calls.last().unwrap(), state["calls"]);
    }
    let ours = crate::median(calls);
    Figure {
        id: "poll",
        name: format!(
            "calls at the provider in a poll period, {batches} batches of {jobs} jobs in flight; one a batch"
        ),
        ours,
        reference: batches as f64,
        ratio: ours / batches as f64,
        unit: "calls",
        bar: (format!("<= {MOST} calls"), ours <= MOST),
    }
}

/// Ten requests, a batch each, all in flight at a time.
fn job(scene: &Scene, i: usize) -> Value {
    let request = |line: usize| json!({"customID": format!("line-{line}"), "body": {"messages": [{"role": "user", "content": format!("{i} {line}")}]}});
    let requests: Vec<Value> = (0..BATCHES_A_JOB).map(request).collect();
    let spec = json!({
        "parallelism": BATCHES_A_JOB, "pollPeriodSeconds": PERIOD, "input": {"inline": {"requests": requests}},
    });
    scene.job(&format!("poll-{i:03}"), json!({"spec": spec}))
}

/// Waits until a period passes without the first looks and searches of new batches.
async fn settle(scene: &Scene) {
    let mut before = total(&scene.sim.state().await);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(PERIOD)).await;
        let state = scene.sim.state().await;
        let calls = total(&state) - before;
        println!("poll: {calls} calls in a period: {}", state["calls"]);
        if calls < 500.0 {
            return;
        }
        before += calls;
    }
    panic!("the jobs do not come to rest");
}

fn total(state: &Value) -> f64 {
    state["calls"].as_object().unwrap().values().map(|n| n.as_f64().unwrap()).sum()
}
