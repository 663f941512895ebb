//! Months of nightly starts with a moved clock, and a fault at every call of a start: one BatchJob a night, none missing, none
//! double.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use batchjob_operator::api::{BatchJobObject as BatchJob, CronBatchJobObject as CronBatchJob, CronBatchJobStatus};
use batchjob_operator::controller::{Clock, SystemClock};
use futures::StreamExt;
use jiff::civil::{Date, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::calls::{Call, Fault, Point, Way};
use super::operator::{Operator, SkewedClock};
use super::points;
use super::stage::{Lane, Stage, World, create};
use super::wires::{Met, Script};
use super::{in_lanes, say, with_last_words};

const ZONE: &str = "Europe/Berlin";
const NAME: &str = "nightly";
/// BatchJobs that are kept.
const SUCCESSFUL_LIMIT: usize = 2;
const FAILED_LIMIT: usize = 1;
/// Nights until the history is full, so that each later one has all calls of a start.
const FIRST_NIGHTS: usize = 4;
/// Clocks skip 02:30 on the 29th of March 2026, and show it twice on the 25th of October.
const MONTHS: [Date; 2] = [date(2026, 3, 1), date(2026, 10, 1)];
const DAYS: i64 = 31;
/// Nights of a month that have a fault.
const FAULTS: usize = 26;
/// How long a night may take.
const DEADLINE: Duration = Duration::from_secs(45);
/// Time between a fault and the next try, in milliseconds: a BatchJob's name counts minutes.
const LATER: i64 = 150_000;

#[tokio::test(flavor = "multi_thread")]
async fn nights_with_a_fault_at_every_call_of_a_start_have_one_batchjob_each() {
    let began = Instant::now();
    let world = World::new().await;
    let calls = Mutex::new(vec![]);
    let quiet = Story { first: MONTHS[0], days: FIRST_NIGHTS as i64 + 1, points: vec![] };
    in_lanes(&world, vec![quiet], async |lane: &mut Lane, story| *calls.lock().unwrap() = story.run(lane).await.calls)
        .await;
    let all: Vec<Point> = points::all(&calls.into_inner().unwrap()).into_iter().filter(is_at_a_start).collect();
    let points = match std::env::var("POINT") {
        Ok(point) => vec![point.parse().unwrap_or_else(|why| panic!("POINT: {why}"))],
        Err(_) => all.clone(),
    };
    // Each month has points of all kinds.
    let count = points.len().div_ceil(FAULTS).max(MONTHS.len());
    let months = (0..count).map(|nth| Story {
        first: MONTHS[nth % MONTHS.len()],
        days: DAYS,
        points: points.iter().skip(nth).step_by(count).cloned().collect(),
    });
    let (struck, nights) = (Mutex::new(0), Mutex::new(0));
    in_lanes(&world, months.collect(), async |lane: &mut Lane, story: Story| {
        let told = story.run(lane).await;
        *struck.lock().unwrap() += told.struck;
        *nights.lock().unwrap() += told.starts;
    })
    .await;
    let (struck, nights) = (struck.into_inner().unwrap(), nights.into_inner().unwrap());
    let seconds = began.elapsed().as_secs();
    say(&format!(
        "nights: {nights} starts in {count} months, {struck} of {} faults struck, {seconds} s\n",
        points.len()
    ));
    // A later look is made or not, as the news of the BatchJob come in.
    assert!(struck * 10 >= points.len() * 8, "{struck} of {} faults struck", points.len());
}

/// With `concurrencyPolicy: Replace`, a start comes after the deletion of the BatchJob that it replaces. A deletion that the API
/// server refuses is told, and tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_deletion_of_what_it_replaces_and_tells_of_a_refusal() {
    let world = World::new().await;
    in_lanes(&world, vec![()], async |lane: &mut Lane, ()| {
        let mut month = Month::new(lane.stage().await, MONTHS[0]).await;
        let replaces = Patch::Merge(json!({"spec": {"concurrencyPolicy": "Replace"}}));
        month.crons().patch(NAME, &PatchParams::default(), &replaces).await.unwrap();
        let [first, second] = [0, 24].map(|hours| starts(MONTHS[0])[0] + SignedDuration::from_hours(hours));
        let delete = Call { way: Way::Kubernetes, method: "DELETE".into(), shape: "batchjobs/*".into() };
        let script = Script::new(vec![Point { call: delete, nth: 1, fault: Fault::Answer(403) }], Duration::ZERO);
        month.set_clock(first + SignedDuration::from_secs(5));
        let mut operator = month.operator(&script);
        let is_alone = |at: Timestamp| {
            move |status: &CronBatchJobStatus, children: &BTreeSet<String>| {
                status.active.len() == 1 && status.active[0].name == name(at) && *children == [name(at)].into()
            }
        };
        month.wait(&mut operator, &script, "the first night's BatchJob is active", is_alone(first)).await;
        month.set_clock(second + SignedDuration::from_secs(5));
        month.touch().await;
        let told = crate::support::eventually("the refusal is told", 20, || async {
            let events = month.stage.events_on("CronBatchJob").await;
            events.into_iter().find(|(_, reason, _)| reason == "FailedDelete")
        });
        let (type_, _, note) = told.await;
        assert!(type_ == "Warning" && note.contains(&format!("not deleted: {}", name(first))), "{type_}: {note}");
        let created = || script.calls().iter().filter(|met| met.call.is(Way::Kubernetes, "POST", "batchjobs")).count();
        assert_eq!(created(), 1, "two would run side by side");
        month.touch().await;
        month.wait(&mut operator, &script, "the second one takes its place", is_alone(second)).await;
        assert_eq!(created(), 2);
    })
    .await;
}

/// Whether a point is at a call that a visit of the schedule makes. The visits of its BatchJobs have tests of their own.
fn is_at_a_start(point: &Point) -> bool {
    let Point { call, fault, .. } = point;
    let object = format!("cronbatchjobs/{NAME}");
    let kinds = [
        ("GET", object.as_str()),
        ("PATCH", &format!("{object}/status")),
        ("POST", "batchjobs"),
        ("DELETE", "batchjobs/*"),
    ];
    let is_event =
        call.is(Way::Kubernetes, "POST", "events") && matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
    is_event || kinds.iter().any(|(method, shape)| call.is(Way::Kubernetes, method, shape))
}

/// A month, and the faults of its nights.
struct Story {
    first: Date,
    days: i64,
    points: Vec<Point>,
}

/// What became of a month.
#[derive(Default)]
struct Told {
    starts: usize,
    struck: usize,
    /// The calls of the last night.
    calls: Vec<Met>,
}

impl Story {
    async fn run(self, lane: &mut Lane) -> Told {
        let mut month = Month::new(lane.stage().await, self.first).await;
        let created = Creations::watch(month.stage.api());
        let mut points = self.points.into_iter();
        let mut told = Told::default();
        for day in (0..self.days).map(|day| self.first.saturating_add(SignedDuration::from_hours(24 * day))) {
            let starts = starts(day);
            if starts.is_empty() {
                month.no_start(day).await;
            }
            for at in starts {
                let point = if month.ended.len() < FIRST_NIGHTS { None } else { points.next() };
                let script = Script::new(point.into_iter().collect(), Duration::ZERO);
                month.night(at, &script).await;
                told.struck += script.struck().len();
                told.calls = script.calls();
            }
        }
        assert_eq!(points.next(), None, "too few nights");
        told.starts = month.ended.len();
        let expected: Vec<String> = month.ended.iter().map(|night| name(night.at)).collect();
        created.are_one_each(&month.stage, &expected).await;
        told
    }
}

/// The instants at which clocks in Berlin show half past two on this day: none, one or two.
fn starts(day: Date) -> Vec<Timestamp> {
    let time = day.at(2, 30, 0, 0);
    let zone = TimeZone::get(ZONE).unwrap().to_ambiguous_zoned(time);
    match zone.offset() {
        AmbiguousOffset::Unambiguous { offset } => vec![offset.to_timestamp(time).unwrap()],
        AmbiguousOffset::Gap { .. } => vec![],
        AmbiguousOffset::Fold { before, after } => {
            [before, after].map(|offset| offset.to_timestamp(time).unwrap()).to_vec()
        }
    }
}

fn name(at: Timestamp) -> String {
    format!("{NAME}-{}", at.as_second() / 60)
}

/// A start that was made, and how its BatchJob ended.
struct Night {
    at: Timestamp,
    complete: bool,
}

/// A schedule, and its nights so far.
struct Month {
    stage: Stage,
    clock: SkewedClock,
    ended: Vec<Night>,
    touched: usize,
}

impl Month {
    async fn new(stage: Stage, first: Date) -> Month {
        let spec = json!({
            "schedule": "30 2 * * *", "timeZone": ZONE,
            "successfulJobsHistoryLimit": SUCCESSFUL_LIMIT, "failedJobsHistoryLimit": FAILED_LIMIT,
            // Nothing is sent: the BatchJobs wait for a provider.
            "jobTemplate": {"spec": job_spec()},
        });
        create::<CronBatchJob>(stage.api(), json!({"metadata": {"name": NAME}, "spec": spec})).await;
        let month = Month { stage, clock: SkewedClock::default(), ended: vec![], touched: 0 };
        let before = TimeZone::get(ZONE).unwrap().to_timestamp(first.at(0, 0, 0, 0)).unwrap();
        let status = json!({"status": {"lastScheduleTime": before.to_string()}});
        let patch = Patch::Merge(&status);
        month.crons().patch_status(NAME, &PatchParams::default(), &patch).await.unwrap();
        month
    }

    fn crons(&self) -> Api<CronBatchJob> {
        self.stage.api()
    }

    fn set_clock(&self, now: Timestamp) {
        self.clock.0.store(now.as_millisecond() - SystemClock.now(), Ordering::Relaxed);
    }

    /// One start, from the moment at which it is due to the moment at which its BatchJob has ended and the history is trimmed.
    async fn night(&mut self, at: Timestamp, script: &Arc<Script>) {
        self.set_clock(at + SignedDuration::from_secs(5));
        let mut operator = self.operator(script);
        let name = name(at);
        self.wait(&mut operator, script, "its BatchJob is active", |status, children| {
            let is_active = status.active.iter().any(|active| active.name == name);
            is_active && children.contains(&name) && last_start(status) == Some(at)
        })
        .await;
        let complete = self.ended.len() % 3 != 2;
        self.end(&name, at, complete).await;
        self.ended.push(Night { at, complete });
        self.touch().await;
        let (kept, successful) = (self.kept(), self.last_success());
        self.wait(&mut operator, script, "its BatchJob is history", |status, children| {
            let times = (last_start(status), status.last_successful_time.as_ref().map(|time| time.0));
            status.active.is_empty() && *children == kept && times == (Some(at), successful)
        })
        .await;
    }

    /// A day on which clocks skip the start.
    async fn no_start(&mut self, day: Date) {
        self.set_clock(TimeZone::get(ZONE).unwrap().to_timestamp(day.at(12, 0, 0, 0)).unwrap());
        let script = Script::new(vec![], Duration::ZERO);
        let mut operator = self.operator(&script);
        self.touch().await;
        let last = self.ended.last().map(|night| night.at);
        self.wait(&mut operator, &script, "a look without a start", |status, _| last_start(status) == last).await;
    }

    fn operator(&self, script: &Arc<Script>) -> Operator {
        Operator::start(&self.stage.namespace, script, self.clock.clone(), &self.stage.log)
    }

    /// Has the BatchJob end.
    async fn end(&self, name: &str, at: Timestamp, complete: bool) {
        let (is_complete, outcome) = if complete { ("True", "Succeeded") } else { ("False", "Failed") };
        let condition = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "Ended", "message": "", "lastTransitionTime": at.to_string()});
        let status = json!({"status": {
            "outcome": outcome, "observedGeneration": 1, "startTime": at.to_string(), "completionTime": at.to_string(),
            "conditions": [condition("Complete", is_complete), condition("Reconciling", "False")],
            // With a lock, a failure is not judged anew.
            "lock": {"specHash": "h", "outputURI": "configmap://answers"},
        }});
        let patch = Patch::Merge(&status);
        self.stage.api::<BatchJob>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Has the operator look at the schedule: its spec is another.
    async fn touch(&mut self) {
        self.touched += 1;
        let metadata = json!({"labels": {"touched": self.touched.to_string()}});
        let spec = json!({"spec": {"jobTemplate": {"metadata": metadata}}});
        let patch = Patch::Merge(&spec);
        self.crons().patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The BatchJobs that the limits keep.
    fn kept(&self) -> BTreeSet<String> {
        let last = |complete: bool, limit: usize| {
            self.ended.iter().rev().filter(move |night| night.complete == complete).take(limit)
        };
        last(true, SUCCESSFUL_LIMIT).chain(last(false, FAILED_LIMIT)).map(|night| name(night.at)).collect()
    }

    fn last_success(&self) -> Option<Timestamp> {
        self.ended.iter().rev().find(|night| night.complete).map(|night| night.at)
    }

    /// Waits for a status of the spec as it is, and the names of the BatchJobs. After a fault it is minutes later, and an operator
    /// that died is replaced.
    async fn wait(
        &mut self,
        operator: &mut Operator,
        script: &Arc<Script>,
        what: &str,
        is_so: impl Fn(&CronBatchJobStatus, &BTreeSet<String>) -> bool,
    ) {
        let deadline = Instant::now() + DEADLINE;
        let mut struck = script.struck().len();
        loop {
            let cron = self.crons().get(NAME).await.unwrap();
            let list = self.stage.api::<BatchJob>().list(&ListParams::default()).await.unwrap();
            let children: BTreeSet<String> = list.iter().filter_map(|job| job.metadata.name.clone()).collect();
            let status = cron.status.unwrap_or_default();
            if status.observed_generation == cron.metadata.generation && is_so(&status, &children) {
                return;
            }
            if Instant::now() > deadline {
                let shown = serde_json::to_string_pretty(&status).unwrap();
                let jobs: Vec<_> = list.iter().map(|job| (&job.metadata.name, &job.status)).collect();
                let wrong = format!("not so: {what}; faults {:?}; {shown}\n{jobs:#?}", script.struck());
                panic!("{}", with_last_words(&self.stage.log.text(), &wrong));
            }
            if script.struck().len() > struck {
                struck = script.struck().len();
                self.clock.0.fetch_add(LATER, Ordering::Relaxed);
                self.touch().await;
            }
            if operator.ended.is_cancelled() {
                *operator = self.operator(script);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

fn last_start(status: &CronBatchJobStatus) -> Option<Timestamp> {
    status.last_schedule_time.as_ref().map(|time| time.0)
}

fn job_spec() -> Value {
    json!({
        "providerRef": {"name": "none-yet"}, "model": "m",
        "input": {"configMaps": [{"name": "requests"}]}, "output": {"configMap": {"name": "answers"}},
    })
}

/// Every BatchJob that was ever created in a namespace: uids by name.
struct Creations {
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Creations {
    fn watch(jobs: Api<BatchJob>) -> Creations {
        let seen = Arc::<Mutex<BTreeMap<String, BTreeSet<String>>>>::default();
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(jobs, watcher::Config::default()));
            while let Some(event) = events.next().await {
                // An error would open the watch anew, which may leave something out.
                if let watcher::Event::Apply(job) | watcher::Event::InitApply(job) = event.unwrap() {
                    let (name, uid) = (job.metadata.name.unwrap(), job.metadata.uid.unwrap());
                    noted.lock().unwrap().entry(name).or_default().insert(uid);
                }
            }
        });
        Creations { seen, task }
    }

    /// Each of these was created once, and nothing else.
    async fn are_one_each(self, stage: &Stage, expected: &[String]) {
        // What the watch shows after everything else.
        const LAST: &str = "last";
        create::<BatchJob>(stage.api(), json!({"metadata": {"name": LAST}, "spec": job_spec()})).await;
        crate::support::eventually("the watch shows all", 10, || async {
            self.seen.lock().unwrap().contains_key(LAST).then_some(())
        })
        .await;
        assert!(!self.task.is_finished(), "the watch ended");
        self.task.abort();
        let mut seen = self.seen.lock().unwrap().clone();
        seen.remove(LAST);
        let double: Vec<_> = seen.iter().filter(|(_, uids)| uids.len() != 1).collect();
        assert!(double.is_empty(), "created more than once: {double:?}");
        let names: BTreeSet<&String> = seen.keys().collect();
        assert_eq!(names, expected.iter().collect(), "one BatchJob a night");
    }
}
