//! One fault at every call of a job: it ends as it would have without, and is paid for once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;

use super::calls::{Call, Fault, Point, Way};
use super::checks::{self, Complaints};
use super::operator::SkewedClock;
use super::stage::{Lane, World};
use super::wires::{Met, Script};
use super::{in_lanes, say, with_last_words};
use crate::support::dice::Dice;

/// The least that must have struck in an ordinary run: the n-th call of a kind is not made in every run.
const STRUCK: usize = 300;

/// Points that were red once, where the sample would not always take them.
const RED_ONCE: [&str; 8] = [
    "llm GET batches/* #16 stale",
    "s3 PUT _batchjob/*/* #1 409",
    "s3 PUT _batchjob/*/* #3 500-after",
    "s3 PUT _batchjob/*/* #3 503-after",
    "s3 PUT _batchjob/*/parts/*.jsonl.zst #3 409",
    "s3 PUT _batchjob/*/parts/*.jsonl.zst #4 late",
    "s3 PUT _batchjob/*/shards/*.index.zst #2 409",
    "s3 PUT _batchjob/*/shards/*.jsonl.zst #2 409",
];

/// How the job goes when nothing is wrong.
pub struct Undisturbed {
    results: String,
    pub calls: Vec<Met>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_changes_neither_results_nor_bill() {
    let began = Instant::now();
    let world = World::new().await;
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let undisturbed = undisturbed(&world).await;
    let all = all(&undisturbed.calls);
    let points = match (std::env::var("POINT"), std::env::var("SWEEP").as_deref()) {
        (Ok(point), _) => vec![point.parse::<Point>().unwrap_or_else(|why| panic!("POINT: {why}"))],
        (_, Ok("all")) => all.clone(),
        (_, Ok(part)) => all.iter().filter(|p| p.to_string().contains(part)).cloned().collect(),
        _ => sample(&all, &undisturbed.calls, seed),
    };
    let count = points.len();
    let alone = count == 1;
    let missed = Mutex::new(vec![]);
    let failed = Mutex::new(vec![]);
    in_lanes(&world, points, async |lane: &mut Lane, point: Point| {
        match visit(lane, &undisturbed, &point, alone).await {
            Ok(true) => {}
            Ok(false) => missed.lock().unwrap().push(point.to_string()),
            Err(why) => {
                say(&format!("--- POINT='{point}'\n{why}\n"));
                failed.lock().unwrap().push(point.to_string());
            }
        }
    })
    .await;
    let (missed, failed) = (missed.into_inner().unwrap(), failed.into_inner().unwrap());
    let struck = count - missed.len();
    say(&format!(
        "sweep: {struck} of {} points struck (seed {seed}), {} missed their call, {} failed, {} s\n",
        all.len(),
        missed.len(),
        failed.len(),
        began.elapsed().as_secs()
    ));
    assert!(failed.is_empty(), "again with POINT='…' cargo test --test sweep fault: {failed:#?}");
    assert!(struck >= count.min(STRUCK), "{} points missed their call: {missed:#?}", missed.len());
}

/// # Panics
/// When something is wrong all the same.
pub async fn undisturbed(world: &World) -> Undisturbed {
    let mut lane = Lane::new(world, 0);
    let script = Script::new(vec![], Duration::ZERO);
    let (results, why) = story(&mut lane, &script, &Left::default(), true).await;
    let results = results.unwrap_or_else(|| panic!("{why:?}"));
    why.unwrap_or_else(|why| panic!("nothing was wrong, and yet: {why}"));
    assert_eq!(results.lines().count(), super::stage::LINES);
    Undisturbed { results, calls: script.calls() }
}

/// Whether the fault struck; else what is wrong in the end.
async fn visit(lane: &mut Lane, undisturbed: &Undisturbed, point: &Point, alone: bool) -> Result<bool, String> {
    let script = Script::new(vec![point.clone()], Duration::from_millis(400));
    let (results, outcome) = story(lane, &script, &Left::by(point), alone).await;
    let differs = results.is_some_and(|results| results != undisturbed.results);
    outcome?;
    if differs {
        Err("results.jsonl is not what it is without the fault".into())
    } else {
        Ok(script.struck().len() == 1)
    }
}

/// What nobody can keep a fault from leaving behind.
#[derive(Default)]
struct Left<'a> {
    uploads: bool,
    staged: Option<&'a Call>,
}

impl<'a> Left<'a> {
    fn by(Point { call, fault, .. }: &'a Point) -> Left<'a> {
        // A crash forgets uploads that no intent names yet.
        let uploads =
            matches!(fault, Fault::CrashBefore | Fault::CrashAfter) || call.is(Way::Provider, "POST", "files");
        // It may arrive when all is over and tidied up.
        let late = *fault == Fault::Late && call.way == Way::Storage && call.method == "PUT";
        Left { uploads, staged: late.then_some(call) }
    }
}

/// From an empty namespace to a job that is done; its results, and what is wrong.
async fn story(
    lane: &mut Lane,
    script: &std::sync::Arc<Script>,
    left: &Left<'_>,
    tell: bool,
) -> (Option<String>, Result<(), String>) {
    let stage = lane.stage().await;
    let keeper = stage.keep(script, &SkewedClock::default());
    stage.provider_judged(|| !script.struck().is_empty()).await;
    let webhook = json!({"urlSecretKeyRef": {"name": "hooks", "key": "url"}});
    let told = json!({"name": "ops", "events": ["Started", "Complete", "Failed"], "webhook": webhook});
    stage.create_job(&json!({"notifications": [told]})).await;
    let done = match stage.job_done(60).await {
        Ok(job) => stage.told(60).await.map(|()| job),
        Err(why) => Err(why),
    };
    while script.late() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(keeper);
    let account = lane.settle().await;
    let mut wrong = Complaints::default();
    checks::log_is_quiet(&stage, &mut wrong);
    checks::paid_once(&account, &mut wrong);
    let mut results = None;
    match done {
        Err(why) => wrong.unless(false, || why),
        Ok(job) => {
            checks::status_is_true(&job, &mut wrong);
            let (manifest, lines) = checks::folder_is_whole(&stage, left.staged, &mut wrong).await;
            checks::nothing_runs_on(&account, &manifest, &mut wrong);
            checks::no_files_left(&account, left.uploads, &mut wrong);
            checks::events_are_true(&stage, &mut wrong).await;
            checks::told_at_least_once(&stage, &mut wrong);
            results = Some(lines);
        }
    }
    if tell && std::env::var("POINT").is_ok() {
        say(&stage.log.text());
    }
    let wrong = wrong.into_result().map_err(|why| with_last_words(&stage.log.text(), &why));
    (results, wrong)
}

/// Every fault that makes sense at every call.
pub fn all(calls: &[Met]) -> Vec<Point> {
    let of = |met: &Met| {
        let Met { call, nth, had_another_answer } = met.clone();
        let faults = call.faults().into_iter().filter(move |f| *f != Fault::Stale || had_another_answer);
        faults.map(move |fault| Point { call: call.clone(), nth, fault }).collect::<Vec<_>>()
    };
    let mut all: Vec<Point> = calls.iter().flat_map(of).collect();
    all.sort();
    all
}

/// Crashes between which a message to a webhook could be lost or change its id: around the write of the first intent, from which the
/// message about the beginning follows, around the write of status that queues it, and around the next one after its delivery.
fn around_a_message(calls: &[Met]) -> Vec<Point> {
    let (journal, status) = ("_batchjob/journal.json", "batchjobs/j/status");
    let first = |from: usize, way: Way, method: &str, shape: &str| {
        let place = calls[from..].iter().position(|met| met.call.is(way, method, shape));
        from + place.unwrap_or_else(|| panic!("no call {way} {method} {shape}"))
    };
    // Trials of the account come before the job.
    let posted = first(first(0, Way::Storage, "PUT", journal), Way::Provider, "POST", "batches");
    let intent = calls[..posted].iter().rposition(|met| met.call.is(Way::Storage, "PUT", journal)).unwrap();
    let queued = first(intent, Way::Kubernetes, "PATCH", status);
    let delivered = first(first(queued, Way::Webhook, "POST", "hook"), Way::Kubernetes, "PATCH", status);
    let crashes = |place: usize| {
        let Met { call, nth, .. } = &calls[place];
        [Fault::CrashBefore, Fault::CrashAfter].map(|fault| Point { call: call.clone(), nth: *nth, fault })
    };
    [intent, queued, delivered].into_iter().flat_map(crashes).collect()
}

/// Every fault at every kind of call, each at a call that has had as few as any; those that were red once; and those around a message.
fn sample(all: &[Point], calls: &[Met], seed: u64) -> Vec<Point> {
    let mut dice = Dice(seed);
    let (mut kinds, mut had) = (BTreeMap::<(&Call, Fault), Vec<&Point>>::new(), BTreeMap::<(&Call, usize), u32>::new());
    for point in all {
        kinds.entry((&point.call, point.fault)).or_default().push(point);
    }
    let mut chosen: Vec<Point> = RED_ONCE.iter().map(|point| point.parse().unwrap()).collect();
    chosen.extend(around_a_message(calls));
    for points in kinds.into_values() {
        let often = |p: &&Point| had.get(&(&p.call, p.nth)).copied().unwrap_or(0);
        let Some(point) = points.into_iter().min_by_key(|p| (often(p), dice.roll(0, u64::MAX - 1))) else { continue };
        *had.entry((&point.call, point.nth)).or_default() += 1;
        if !chosen.contains(point) {
            chosen.push(point.clone());
        }
    }
    chosen
}
