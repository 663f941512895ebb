//! Many faults in one story, two operators at once without a lease, clocks that are off and jump, a person who suspends,
//! resumes, deletes and creates again: what is promised holds all the same. A seed makes the choices; `SEED=7 cargo test --test
//! sweep schedules` makes those again, and with `SCHEDULES=200` those of the seeds from there on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::calls::{Call, Fault, Point, Way};
use super::checks::{self, Complaints};
use super::operator::SkewedClock;
use super::stage::{Account, LINES, Lane, Stage, World};
use super::wires::{Met, Script};
use super::{in_lanes, points, say, with_last_words};
use crate::support::dice::Dice;

/// Schedules of an ordinary run.
const SEEDS: u64 = 200;
/// After so many a line says how it goes.
const TOLD: usize = 500;

/// What a seed chooses.
#[derive(Debug)]
struct Schedule {
    faults: Vec<Point>,
    /// How late what comes late is, in milliseconds.
    late_by: u64,
    /// How far off the operators' clocks are, in milliseconds.
    clocks: Vec<i64>,
    /// What happens when so many calls were made.
    meanwhile: Vec<(usize, Event)>,
    deletion_policy: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock of this operator jumps by so many milliseconds.
    Jump(usize, i64),
    /// The job is suspended, and resumed after so many milliseconds.
    Suspend(u64),
    /// The job is deleted, and created again once it is gone.
    Recreate,
}

impl Schedule {
    fn new(seed: u64, calls: &[Met]) -> Schedule {
        let mut dice = Dice(seed);
        let mut kinds = BTreeMap::<Call, Vec<Point>>::new();
        for point in points::all(calls) {
            kinds.entry(point.call.clone()).or_default().push(point);
        }
        let (heart, rest): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|(call, _)| is_at_the_heart(call));
        let mut any = |most: usize| dice.roll(0, most as u64 - 1) as usize;
        let mut draw = |kinds: &[(Call, Vec<Point>)]| {
            let (_, points) = &kinds[any(kinds.len())];
            points[any(points.len())].clone()
        };
        let faults: Vec<Point> = (0..6).map(|i| draw(if i % 2 == 0 { &heart } else { &rest })).collect();
        let many = dice.roll(2, 6) as usize;
        let operators = dice.roll(1, 2) as usize;
        let mut off = || dice.roll(0, 16_000) as i64 - 8_000;
        let clocks: Vec<i64> = (0..operators).map(|_| off()).collect();
        let jump = off();
        let (place, suspended) = (dice.roll(0, operators as u64 - 1) as usize, dice.roll(100, 1_500));
        let chance = [
            (dice.roll(0, 2) == 0).then_some(Event::Jump(place, jump)),
            (dice.roll(0, 3) == 0).then_some(Event::Suspend(suspended)),
            (dice.roll(0, 3) == 0).then_some(Event::Recreate),
        ];
        let mut meanwhile: Vec<_> = chance.into_iter().flatten().map(|e| (dice.roll(30, 320) as usize, e)).collect();
        meanwhile.sort_by_key(|(when, _)| *when);
        Schedule {
            faults: faults.into_iter().take(many).collect(),
            late_by: dice.roll(50, 5_000),
            clocks,
            meanwhile,
            deletion_policy: if dice.roll(0, 1) == 0 { "Cancel" } else { "Orphan" },
        }
    }

    /// Whether nothing is put beside results once somebody tidied up: there is one operator, and the network holds nothing back.
    fn nothing_comes_late(&self) -> bool {
        let late = |point: &Point| point.call.way == Way::Storage && point.fault == Fault::Late;
        self.clocks.len() == 1 && !self.faults.iter().any(late)
    }
}

/// Calls that the promises hang on.
fn is_at_the_heart(call: &Call) -> bool {
    call.is(Way::Provider, "POST", "batches")
        || call.is(Way::Provider, "GET", "batches")
        || call.is(Way::Provider, "DELETE", "files/*")
        || call.is(Way::Storage, "PUT", "_batchjob/journal.json")
        || call.is(Way::Kubernetes, "PATCH", "batchjobs/j/status")
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_of_many_faults_keep_the_promises() {
    let began = Instant::now();
    let number =
        |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap_or_else(|_| panic!("{name}: {n}")));
    let seeds: Vec<u64> = match (number("SEED"), number("SCHEDULES")) {
        (Some(seed), None) => vec![seed],
        (from, to) => (from.unwrap_or(1)..=to.unwrap_or(SEEDS)).collect(),
    };
    let (alone, count) = (seeds.len() == 1, seeds.len());
    let world = World::new().await;
    let undisturbed = points::undisturbed(&world).await;
    let (failed, struck) = (Mutex::new(vec![]), Mutex::new(vec![]));
    let tell = |struck: &[usize]| {
        let (seen, faults, failed) = (struck.len(), struck.iter().sum::<usize>(), failed.lock().unwrap().len());
        let seconds = began.elapsed().as_secs();
        say(&format!("schedules: {seen} seen through, {faults} faults struck, {failed} failed, {seconds} s\n"));
    };
    in_lanes(&world, seeds, async |lane: &mut Lane, seed| {
        let schedule = Schedule::new(seed, &undisturbed.calls);
        let (faults, outcome) = see_through(lane, &schedule, alone).await;
        if let Err(why) = outcome {
            say(&format!("--- SEED={seed} {schedule:#?}\n{why}\n"));
            failed.lock().unwrap().push(seed);
        }
        let mut struck = struck.lock().unwrap();
        struck.push(faults);
        if struck.len().is_multiple_of(TOLD) && struck.len() < count {
            tell(&struck);
        }
    })
    .await;
    let struck = struck.into_inner().unwrap();
    tell(&struck);
    let (failed, struck) = (failed.into_inner().unwrap(), struck.iter().sum::<usize>());
    assert!(failed.is_empty(), "again with SEED=… cargo test --test sweep schedules: {failed:?}");
    assert!(alone || struck > count, "most schedules are to meet a fault");
}

/// How many faults struck, and what is wrong in the end.
async fn see_through(lane: &mut Lane, schedule: &Schedule, alone: bool) -> (usize, Result<(), String>) {
    let stage = lane.stage().await;
    let script = Script::new(schedule.faults.clone(), Duration::from_millis(schedule.late_by));
    let clocks: Vec<SkewedClock> = schedule.clocks.iter().map(|off| SkewedClock(Arc::new((*off).into()))).collect();
    let keepers: Vec<_> = clocks.iter().map(|clock| stage.keep(&script, clock)).collect();
    let change = json!({"deletionPolicy": schedule.deletion_policy});
    stage.create_job(&change).await;
    let events = async {
        for (when, event) in &schedule.meanwhile {
            let enough = async {
                while script.calls_made() < *when {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! { () = enough => {}, _ = stage.job_done(120) => {} }
            happen(*event, schedule, &stage, &clocks, &change).await?;
        }
        stage.job_done(120).await
    };
    let done = events.await;
    while script.late() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(keepers);
    let account = lane.settle().await;
    let mut wrong = Complaints::default();
    checks::log_is_quiet(&stage, &mut wrong);
    paid_at_most_once(&account, &mut wrong);
    match done {
        Err(why) => wrong.unless(false, || why),
        Ok(job) => {
            nothing_is_lost(&stage, &job, &account, &mut wrong).await;
            if schedule.nothing_comes_late() {
                checks::nothing_staged(&stage, "in the end", &mut wrong).await;
            }
        }
    }
    if alone {
        say(&stage.log.text());
    }
    let outcome = wrong.into_result().map_err(|why| with_last_words(&stage.log.text(), &why));
    (script.struck().iter().filter(|p| p.fault != Fault::Delay).count(), outcome)
}

async fn happen(
    event: Event,
    schedule: &Schedule,
    stage: &Stage,
    clocks: &[SkewedClock],
    change: &Value,
) -> Result<(), String> {
    let jobs: Api<BatchJob> = stage.api();
    let suspend = async |suspend: bool| {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        jobs.patch("j", &PatchParams::default(), &patch).await.map(drop).map_err(|e| e.to_string())
    };
    match event {
        Event::Jump(operator, by) => {
            clocks[operator].0.fetch_add(by, Ordering::Relaxed);
        }
        Event::Suspend(pause) => {
            suspend(true).await?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            suspend(false).await?;
        }
        Event::Recreate => {
            match jobs.delete("j", &DeleteParams::default()).await {
                // The client asks again where the API server was busy, and then it may be gone.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                asked => drop(asked.map_err(|e| e.to_string())?),
            }
            stage.job_gone(90).await?;
            let mut wrong = Complaints::default();
            if schedule.deletion_policy == "Cancel" && schedule.nothing_comes_late() {
                checks::nothing_staged(stage, "once the job is gone", &mut wrong).await;
            }
            wrong.into_result()?;
            stage.create_job(change).await;
        }
    }
    Ok(())
}

fn paid_at_most_once(account: &Account, wrong: &mut Complaints) {
    wrong.unless(account.overlaps == 0, || format!("{} lines were billed in two live batches", account.overlaps));
    let once: BTreeSet<&str> = lines_of(&account.billed).collect();
    wrong.unless(once.len() == account.billed.len(), || format!("billed were {:?}", account.billed));
    let over = |b: &Value| matches!(b["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"));
    wrong.unless(account.batches.iter().all(over), || format!("a batch runs on: {:?}", account.batches));
}

/// The lines of ids such as `r4-0f3c…`.
fn lines_of(ids: &[String]) -> impl Iterator<Item = &str> {
    ids.iter().map(|id| id.split('-').next().unwrap())
}

/// Every line has one end, every line that was paid for its answer, and the manifest and status tell of them.
async fn nothing_is_lost(stage: &Stage, job: &BatchJob, account: &Account, wrong: &mut Complaints) {
    let file =
        async |name: &str| String::from_utf8(stage.world.get(&stage.out(name)).await.unwrap_or_default()).unwrap();
    let number = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["custom_id"].as_str().unwrap().replacen("line-", "r", 1)
    };
    let answered: Vec<String> = file("results.jsonl").await.lines().map(number).collect();
    let without: Vec<String> = file("errors.jsonl").await.lines().map(number).collect();
    let all: BTreeSet<&String> = answered.iter().chain(&without).collect();
    wrong.unless(all.len() == LINES && answered.len() + without.len() == LINES, || {
        format!("answered are {answered:?}, without an answer {without:?}")
    });
    for line in lines_of(&account.billed) {
        wrong.unless(answered.iter().any(|a| a == line), || format!("{line} was paid for and has no answer"));
    }
    let manifest: Value = serde_json::from_str(&file("manifest.json").await).unwrap_or_default();
    let counts = job.status.as_ref().and_then(|s| s.requests);
    wrong.unless(manifest["requests"] == json!(counts), || {
        format!("status {counts:?}, manifest {}", manifest["requests"])
    });
    let counts = counts.unwrap_or_default();
    let ended = counts.succeeded + counts.failed + counts.expired + counts.cancelled + counts.missing;
    wrong.unless((counts.total, ended) == (LINES as i64, LINES as i64), || format!("counted are {counts:?}"));
    wrong.unless(counts.succeeded == answered.len() as i64, || format!("{} answers, {counts:?}", answered.len()));
    let holds = job.status.as_ref().map(|s| s.holds.len());
    wrong.unless(holds == Some(0), || format!("holds are left: {holds:?}"));
}
