//! Faults at every way out of the operator, one at a time at each call and many at once, on a real Kubernetes API server, a
//! real S3 server and a real HTTP provider, under the rights that we ship.
//!
//! `make test` runs a sample. `SWEEP=all` runs every point, `SWEEP=text` those that have it in their names, and `SCHEDULES=10000`
//! so many schedules; `POINT='…'` or `SEED=7` runs one alone, and says what the operator said.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod checks;
mod nights;
mod operator;
mod points;
mod schedules;
mod stage;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod wires;

use std::io::Write;
use std::sync::Mutex;

use stage::{Lane, World};

/// Stories that take place side by side: mostly they wait.
const LANES: usize = 12;
/// Stories of one simulator: it tells after each what it did in all of them.
const STORIES: usize = 200;

/// Runs all stories, some at a time, each in a lane that no other one uses.
async fn in_lanes<T>(world: &World, stories: Vec<T>, run: impl AsyncFn(&mut Lane, T)) {
    let lanes = stories.len().min(LANES);
    let left = Mutex::new(stories.into_iter().rev().collect::<Vec<_>>());
    let lane = async |number| {
        loop {
            let mut lane = Lane::new(world, number);
            for _ in 0..STORIES {
                let next = left.lock().unwrap().pop();
                let Some(story) = next else { return };
                run(&mut lane, story).await;
            }
        }
    };
    futures::future::join_all((1..=lanes).map(lane)).await;
}

/// Past the harness, which would keep what a test that passes prints.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// The end of a log, and then what is wrong: it is what the end of a longer log shows.
fn with_last_words(log: &str, wrong: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    format!("{}\n{wrong}", lines[lines.len().saturating_sub(40)..].join("\n"))
}
