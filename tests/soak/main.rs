//! Two replicas under fire: SIGKILL at any moment, an API server, an object store and a provider that go away and come back,
//! a provider with every fault it has, and people who change their minds. Every line ends once, right, and paid by one batch.
//!
//! `make test` runs a sample; `SOAK=full` is what `make soak` runs, with its figures in `target/soak.json`. The seed is said
//! first: `SEED=7` casts the same jobs and troubles again. `JOBS=50 KILLS=100` is anything between.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod figures;
mod gate;
mod ground;
mod jobs;
mod judge;
mod replicas;
mod story;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod troubles;
mod world;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;

use figures::{ended, figures};
use jobs::Job;
use judge::Verdict;
use support::quiet;
use troubles::Toll;
use world::{NAMESPACE, World};

/// How much of everything. Times are milliseconds.
#[derive(Debug)]
pub struct Size {
    full: bool,
    jobs: usize,
    at_a_time: usize,
    kills: u64,
    between_kills: (u64, u64),
    /// Of the API server, and of the object store.
    restarts: u64,
    longest_away: u64,
    outages: u64,
    outage: (u64, u64),
    between_faults: u64,
    /// A job has as long to end.
    patience: Duration,
}

impl Size {
    fn asked() -> Size {
        let full = std::env::var("SOAK").is_ok_and(|size| size == "full");
        let mut size = if full { Size::full() } else { Size::sample() };
        size.jobs = number("JOBS").map_or(size.jobs, |n| n as usize);
        size.kills = number("KILLS").unwrap_or(size.kills);
        size
    }

    fn sample() -> Size {
        Size {
            full: false,
            jobs: 12,
            at_a_time: 8,
            kills: 20,
            between_kills: (300, 3_000),
            restarts: 1,
            longest_away: 2_000,
            outages: 1,
            outage: (4_000, 8_000),
            between_faults: 3_000,
            patience: Duration::from_secs(300),
        }
    }

    fn full() -> Size {
        Size {
            full: true,
            jobs: 200,
            at_a_time: 12,
            kills: 500,
            between_kills: (200, 3_600),
            restarts: 10,
            longest_away: 20_000,
            outages: 4,
            outage: (60_000, 150_000),
            between_faults: 3_000,
            patience: Duration::from_secs(1200),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_cut_off_at_random_every_line_ends_once_and_is_paid_once() {
    let size = Size::asked();
    let seed = number("SEED").unwrap_or_else(|| if size.full { std::process::id().into() } else { 1 });
    say(&format!("soak: SEED={seed}, {} jobs, {} kills\n", size.jobs, size.kills));
    let begun = Instant::now();
    let world = Arc::new(World::start().await);
    let toll = Toll::default();
    let (outcome, (), (), ()) = tokio::join!(
        run_jobs(&world, &toll, &size, seed),
        troubles::strike(&world, &toll, &size, seed),
        troubles::vex(&world, &toll, &size, seed),
        troubles::look_after(&world, &toll),
    );
    let (jobs, mut verdict) = outcome;
    verdict.bill(&world, &jobs, toll.rows_lost.get()).await;
    let state = world.sim.state().await;
    if state["overlaps"] != 0 {
        verdict.complaints.push(format!("{} lines were billed by two live batches", state["overlaps"]));
    }
    if !state["batches"].as_array().unwrap().iter().all(ended) {
        verdict.complaints.push("a batch runs on".into());
    }
    let mut staged = world.staged().await;
    staged.retain(|file| !verdict.unsent.iter().any(|job| file.contains(job)));
    verdict.nothing_staged(&jobs, &staged);
    let figures = figures(&world, &toll, &verdict, jobs.len(), &state, staged.len(), begun.elapsed());
    let figures = format!("{figures:#}\n");
    say(&format!("{figures}outcomes: {:?}\n", verdict.outcomes));
    if std::env::var_os("SOAK").is_some() {
        std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("soak.json"), figures).unwrap();
    }
    let words = if verdict.sound() { String::new() } else { world.replicas.last_words() };
    assert!(verdict.sound(), "{words}\n{}\nagain with SEED={seed}", verdict.complaints.join("\n"));
    let mut told = quiet::logs(NAMESPACE);
    told.extend(quiet::objects(&world.client, NAMESPACE).await);
    quiet::assert_untold(&told, &world.secret_key);
}

/// Runs jobs, some at a time, for as long as there is trouble, and at least as many as asked for.
async fn run_jobs(world: &World, toll: &Toll, size: &Size, seed: u64) -> (Vec<Job>, Verdict) {
    let more = |number: &usize| futures::future::ready(*number < size.jobs || !toll.calm.get());
    let run = async |number: usize| {
        let job = Job::cast(seed, number);
        let ended = story::see_through(world, &job, Instant::now() + size.patience).await;
        (job, ended)
    };
    let (mut jobs, mut verdict) = (vec![], Verdict::default());
    let mut runs =
        std::pin::pin!(futures::stream::iter(0..).take_while(more).map(run).buffer_unordered(size.at_a_time));
    while let Some((job, ended)) = runs.next().await {
        match ended {
            Ok(ended) => verdict.judge(world, &job, &ended).await,
            Err(why) => verdict.unfinished(why),
        }
        jobs.push(job);
        if jobs.len().is_multiple_of(20) {
            say(&format!("soak: {} jobs have ended, {} kills\n", jobs.len(), toll.kills.get()));
        }
    }
    toll.over.set(true);
    (jobs, verdict)
}

/// Past the harness, which would keep what a test that passes prints.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
