//! Objects in every state, and what the neighbours have to make of each. Status of a BatchJob is what the production code writes.

use batchjob_operator::api::{BatchJobStatus, Outcome, RequestCounts};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, Blocked, Failure, JobView, Journal, ManifestView, Memory, Observed, Payload, PollResult,
    PolledState, Shard, Step, Timing, Waiting, decide, project,
};
use serde_json::{Value, json};

use crate::beginnings;
use crate::ends::{ENDS, FREE_FAILURES};

const TIMING: Timing =
    Timing { post_window: 10, send_timeout: 10, listing_lag: 10, deletion_deadline: 1_000, abandon_after: 100_000 };
const NOW: i64 = 1_000_000;

/// An object, and the words of kstatus, Argo CD and Flux for it.
pub struct State {
    pub name: String,
    pub object: Value,
    pub kstatus: &'static str,
    pub argo: &'static str,
    pub flux: &'static str,
}

fn state(name: &str, object: Value, [kstatus, argo, flux]: [&'static str; 3]) -> State {
    State { name: name.into(), object, kstatus, argo, flux }
}

const RUNNING: [&str; 3] = ["InProgress", "Progressing", "InProgress"];
/// kstatus takes what only the provider works on for done, or a Kustomization would time out.
const AT_THE_PROVIDER: [&str; 3] = ["Current", "Progressing", "InProgress"];
const SUSPENDED: [&str; 3] = ["Current", "Suspended", "InProgress"];
const DONE: [&str; 3] = ["Current", "Healthy", "Current"];
const BAD: [&str; 3] = ["Failed", "Degraded", "Failed"];

/// A job whose one batch is at the provider, and `done` of its ten requests are.
struct Job {
    view: JobView,
    journal: Journal,
    memory: Memory,
    status: BatchJobStatus,
}

impl Job {
    fn new(suspend: bool, done: i64) -> Job {
        let mut journal = Journal::open("w".into(), beginnings::owner(), "spec".into());
        journal.plan = Some(beginnings::plan(10));
        let intended = Attempt::intended(1, "intent-1", Payload::file("file-1"), NOW - 1_000, "f");
        let state = AttemptState::Submitted { batch_id: "batch-1".into(), at: NOW - 100_000 };
        let attempt = Some(Attempt { state, ..intended });
        journal.shards.push(Shard { attempt, requests: 10, ..beginnings::shard() });
        let view = JobView { submitted: true, suspend, batches: vec!["batch-1".into()], ..beginnings::job() };
        let mut memory = Memory { manifest: Some(None), store_proved: Some(Ok(())), ..Default::default() };
        let seen = PolledState::Running { state: "in_progress".into(), done };
        memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
        Job { view, journal, memory, status: BatchJobStatus::default() }
    }

    fn observed(&self) -> Observed<'_> {
        let Job { view, journal, memory, .. } = self;
        Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: view, journal: Some(journal), memory }
    }

    fn after(mut self, steps: &[Step]) -> Job {
        for step in steps {
            self.status = project(&self.observed(), &self.status, Some(1), step).unwrap();
            self.view.finished = self.status.outcome.is_some();
        }
        self
    }

    fn object(&self) -> Value {
        let spec = json!({"suspend": self.view.suspend, "model": "m", "parallelism": 4});
        json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
            "metadata": {"name": "j", "namespace": "n", "generation": 1}, "spec": spec, "status": self.status})
    }
}

/// A job that runs at the provider, `done` of ten requests through.
pub fn at_the_provider(done: i64) -> Value {
    Job::new(false, done).after(&[wait("InProgress", None)]).object()
}

fn wait(stage: &'static str, blocked: Option<&'static str>) -> Step {
    let blocked = blocked.map(|reason| Blocked { reason, message: "create it".into() });
    Step::Wait { until: None, why: Waiting { stage, blocked, ..Default::default() } }
}

fn ended(outcome: Outcome, reason: &str, reused: bool) -> Step {
    let requests = RequestCounts { total: 1, ..Default::default() };
    let manifest = ManifestView {
        work_id: "w".into(),
        work_hash: "h".into(),
        outcome,
        reason: reason.into(),
        message: "m".into(),
        requests,
        at: NOW,
        files: vec![],
        errors: vec![],
    };
    Step::Conclude { manifest, reused }
}

/// Every stage of a BatchJob, with and without something in its way, and every end.
pub fn batch_jobs() -> Vec<State> {
    let mut states = vec![];
    let unseen = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
        "metadata": {"name": "j", "namespace": "n", "generation": 1}, "spec": {"model": "m"}});
    // The operator writes status at once; until then kstatus knows no better, and Flux' expressions have nothing to read.
    states.push(state("unseen", unseen, ["Current", "Progressing", "Unknown"]));
    for (stage, said) in [
        ("Pending", AT_THE_PROVIDER),
        ("WaitingForInput", AT_THE_PROVIDER),
        ("Planning", RUNNING),
        ("Suspended", SUSPENDED),
        ("Submitting", RUNNING),
        ("WaitingForQuota", AT_THE_PROVIDER),
        ("InProgress", AT_THE_PROVIDER),
        ("Collecting", RUNNING),
        ("WritingResults", RUNNING),
        ("Cancelled", RUNNING),
        ("Draining", AT_THE_PROVIDER),
        ("Cancelling", AT_THE_PROVIDER),
    ] {
        let job = |steps: &[Step]| Job::new(stage == "Suspended", 5).after(steps).object();
        let blocked = wait(stage, Some("SecretNotFound"));
        states.push(state(stage, job(&[wait(stage, None)]), said));
        states.push(state(&format!("{stage}, blocked"), job(std::slice::from_ref(&blocked)), BAD));
        states.push(state(&format!("{stage}, mended"), job(&[blocked, wait(stage, None)]), said));
    }
    let mut held = Job::new(false, 0);
    held.memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::NotFound });
    held.memory.searches.insert(
        "intent-1".into(),
        batchjob_operator::lifecycle::Search { began: NOW, found: Some(vec!["batch-1".into()]) },
    );
    let question = decide(&held.observed());
    assert!(matches!(&question, Step::Wait { why, .. } if !why.holds.is_empty()), "{question:?}");
    states.push(state("held", held.after(&[question]).object(), BAD));
    states.extend(ends());
    let mut edited = at_the_provider(5);
    edited["metadata"]["generation"] = 2.into();
    states.push(state("edited", edited, RUNNING));
    let mut deleted = states.iter().find(|state| state.name == "AllSucceeded, tidied up").unwrap().object.clone();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    states.push(state("deleted", deleted, ["Terminating", "Progressing", "Current"]));
    states
}

fn ends() -> Vec<State> {
    let mut states = vec![];
    let job = |steps: &[Step]| Job::new(false, 10).after(steps).object();
    for (outcome, reason) in ENDS {
        let said = if matches!(outcome, Outcome::Succeeded | Outcome::PartiallySucceeded) { DONE } else { BAD };
        let end = |reused| ended(outcome, reason, reused);
        states.push(state(&format!("{reason}, reused"), job(&[wait("Planning", None), end(true)]), said));
        // Staged files are removed; results are in place already.
        let tidying = if said == DONE { ["InProgress", "Healthy", "Current"] } else { BAD };
        states.push(state(reason, job(&[wait("Submitting", None), end(false)]), tidying));
        let tidied = job(&[wait("Submitting", None), end(false), Step::CleanUp]);
        states.push(state(&format!("{reason}, tidied up"), tidied, said));
    }
    for reason in FREE_FAILURES {
        let failure = Step::Fail(Failure { reason, message: "m".into(), outcome: Outcome::Failed });
        states.push(state(&format!("{reason}, nothing paid"), job(&[wait("Planning", None), failure]), BAD));
    }
    states
}

fn with_ready(kind: &str, ready: Option<(&str, &str)>, status: Value) -> Value {
    let condition = |(status, reason): (&str, &str)| {
        json!({"type": "Ready", "status": status, "reason": reason, "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let conditions: Vec<Value> = ready.into_iter().map(condition).collect();
    let mut object = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": kind, "metadata": {"name": "o", "generation": 1},
        "spec": {"suspend": false}, "status": {"conditions": conditions, "observedGeneration": 1}});
    object["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    object
}

pub fn providers() -> Vec<State> {
    let mut states = vec![];
    for kind in ["BatchProvider", "ClusterBatchProvider"] {
        let provider = |ready| with_ready(kind, ready, json!({}));
        states.push(state("probed", provider(Some(("True", "Probed"))), DONE));
        // kstatus has no word for an account that does not answer.
        let away = provider(Some(("False", "CredentialsRejected")));
        states.push(state("refused", away, ["InProgress", "Degraded", "Failed"]));
        states.push(state("new", provider(None), AT_THE_PROVIDER));
        let mut edited = provider(Some(("True", "Probed")));
        edited["metadata"]["generation"] = 2.into();
        states.push(state("edited", edited, RUNNING));
    }
    states
}

pub fn cron_batch_jobs() -> Vec<State> {
    let cron = |ready, status| with_ready("CronBatchJob", Some(ready), status);
    let scheduled = ("True", "Scheduled");
    let (night, morning, next) = ("2026-01-01T02:30:00Z", "2026-01-01T06:00:00Z", "2026-01-02T02:30:00Z");
    let active = json!([{"name": "nightly-29463030", "uid": "u"}]);
    let mut edited = cron(scheduled, json!({}));
    edited["metadata"]["generation"] = 2.into();
    vec![
        state("new", cron(scheduled, json!({"nextScheduleTime": next})), DONE),
        state("suspended", cron(("True", "Suspended"), json!({})), DONE),
        state("a bad schedule", cron(("False", "InvalidSchedule"), json!({})), ["InProgress", "Degraded", "Failed"]),
        state("running", cron(scheduled, json!({"lastScheduleTime": night, "active": active})), DONE),
        state(
            "running, after a success",
            cron(scheduled, json!({"lastScheduleTime": next, "lastSuccessfulTime": morning, "active": active})),
            DONE,
        ),
        state("succeeded", cron(scheduled, json!({"lastScheduleTime": night, "lastSuccessfulTime": morning})), DONE),
        // Flux and kstatus speak of the schedule, Argo CD of its jobs as well: it shows them below it, without their health.
        state("failed", cron(scheduled, json!({"lastScheduleTime": night})), ["Current", "Degraded", "Current"]),
        state(
            "failed, after a success",
            cron(scheduled, json!({"lastScheduleTime": next, "lastSuccessfulTime": morning})),
            ["Current", "Degraded", "Current"],
        ),
        state("edited", edited, RUNNING),
    ]
}
