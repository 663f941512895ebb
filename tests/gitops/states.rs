//! Objects in every state, and what the neighbours have to make of each. Status of a BatchJob and of a provider is what the production
//! code writes.

use batchjob_operator::api::conditions::reasons;
use batchjob_operator::api::{
    BatchJobStatus, Capability, EffectiveLimits, NotificationEvent, NotificationState, Outcome, ProviderCapabilities,
    ProviderStatus, RequestCounts, UnknownSubmissionPolicy,
};
use batchjob_operator::lifecycle::{
    Answer, Attempt, AttemptState, Blocked, Failure, JobView, Journal, ManifestView, Memory, Observed, Payload,
    PollResult, PolledState, PricesCheck, ProviderCheck, Shard, Step, Subscription, Timing, Waiting, WebhookCheck,
    decide, kept_by, looked_at, project,
};
use batchjob_operator::schedule::Event;
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
/// kstatus has no word for a condition `Ready` that is False for good.
const NOT_READY: [&str; 3] = ["InProgress", "Degraded", "Failed"];
/// The operator writes status at once; until then kstatus knows no better, and Flux' expressions have nothing to read.
const UNSEEN: [&str; 3] = ["Current", "Progressing", "Unknown"];

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

    /// A webhook is told of its beginning and its end.
    fn with_webhook(mut self) -> Job {
        let events = vec![NotificationEvent::Started, NotificationEvent::Complete, NotificationEvent::Failed];
        self.view.subscriptions = vec![Subscription { name: "ops".into(), events }];
        self
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

/// A job that runs at the provider, `done` of ten requests through. Its webhook is yet to be told of the beginning.
pub fn at_the_provider(done: i64) -> Value {
    Job::new(false, done).with_webhook().after(&[wait("InProgress", None)]).object()
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
        spending: Default::default(),
    };
    Step::Conclude { manifest, reused }
}

/// Every stage of a BatchJob, with and without something in its way, and every end.
pub fn batch_jobs() -> Vec<State> {
    let mut states = vec![];
    let unseen = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
        "metadata": {"name": "j", "namespace": "n", "generation": 1}, "spec": {"model": "m"}});
    states.push(state("unseen", unseen, UNSEEN));
    for (stage, said) in [
        ("Pending", AT_THE_PROVIDER),
        ("WaitingForInput", AT_THE_PROVIDER),
        ("Planning", RUNNING),
        ("Suspended", SUSPENDED),
        ("Submitting", RUNNING),
        ("WaitingForQuota", AT_THE_PROVIDER),
        ("WaitingForBudget", AT_THE_PROVIDER),
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
    states.extend(stuck());
    states.extend(ends());
    states.extend(notified());
    let mut edited = at_the_provider(5);
    edited["metadata"]["generation"] = 2.into();
    states.push(state("edited", edited, RUNNING));
    let finished = states.iter().find(|state| state.name == "AllSucceeded, tidied up").unwrap().object.clone();
    states.push(state("deleted", deleted(finished), ["Terminating", "Progressing", "Current"]));
    states
}

/// As with a Deployment, a job is Degraded without progress for as long as its spec allows. Batches that are late are no fault of the
/// whole.
fn stuck() -> Vec<State> {
    let of = |(reason, said)| {
        let mut job = Job::new(false, 5).after(&[wait("InProgress", None)]);
        let (mut at, mut seen) = (NOW + 3_600_000, job.memory.looks["batch-1"].seen.clone());
        match reason {
            reasons::PROGRESS_DEADLINE_EXCEEDED => job.view.progress_deadline = Some(3_600_000),
            reasons::BATCHES_PAST_EXPIRY => job.view.completion_window = 60_000,
            _ => (at, seen) = (NOW + 7_200_000, PolledState::Running { state: "finalizing".into(), done: 10 }),
        }
        job.memory.looks.insert("batch-1".into(), PollResult { at, seen });
        let object = job.after(&[wait("InProgress", None)]).object();
        assert!(object["status"].to_string().contains(reason), "{reason}: {object}");
        state(reason, object, said)
    };
    let reasons = [
        (reasons::PROGRESS_DEADLINE_EXCEEDED, BAD),
        (reasons::BATCHES_PAST_EXPIRY, AT_THE_PROVIDER),
        (reasons::BATCHES_NOT_FINALIZED, AT_THE_PROVIDER),
    ];
    reasons.into_iter().map(of).collect()
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

/// A job is what it is, whether its webhook takes messages or not.
fn notified() -> Vec<State> {
    let mut states = vec![];
    for told in [NotificationState::Pending, NotificationState::GaveUp] {
        let end = |outcome, reason| vec![wait("Submitting", None), ended(outcome, reason, false), Step::CleanUp];
        for (name, steps, said) in [
            ("InProgress", vec![wait("InProgress", None)], AT_THE_PROVIDER),
            ("AllSucceeded", end(Outcome::Succeeded, "AllSucceeded"), DONE),
            ("ProviderRejected", end(Outcome::Failed, "ProviderRejected"), BAD),
        ] {
            let mut job = Job::new(false, 10).with_webhook().after(&steps);
            assert!(!job.status.notifications.is_empty(), "{name}");
            job.status.notifications.iter_mut().for_each(|message| message.state = told);
            states.push(state(&format!("{name}, notification {told:?}"), job.object(), said));
        }
    }
    states
}

fn object(kind: &str, status: Value) -> Value {
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": kind, "metadata": {"name": "o", "generation": 1},
        "spec": {"suspend": false}, "status": status})
}

/// An object that the operator has not seen yet.
fn unseen(kind: &str) -> Value {
    let mut object = object(kind, json!({}));
    object.as_object_mut().unwrap().remove("status");
    object
}

/// An object that is being deleted, and kept by a finalizer.
fn deleted(mut object: Value) -> Value {
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    object
}

/// The status of a provider after a check of its account.
fn checked(old: &ProviderStatus, answer: Answer, webhook: Option<WebhookCheck>) -> ProviderStatus {
    checked_with(old, answer, webhook, None)
}

/// The same with the prices of its models.
fn checked_with(
    old: &ProviderStatus,
    answer: Answer,
    webhook: Option<WebhookCheck>,
    prices: Option<PricesCheck>,
) -> ProviderStatus {
    let limits = EffectiveLimits {
        max_batches_in_flight: None,
        max_enqueued_requests: None,
        max_requests_per_batch: 50_000,
        max_bytes_per_batch: 200_000_000,
        max_inputs_per_batch: 50_000,
    };
    let check =
        ProviderCheck { generation: Some(1), secret_version: None, is_known: true, limits, answer, webhook, prices };
    looked_at(old, check, UnknownSubmissionPolicy::Resolve, NOW)
}

/// Every answer of an account, and every state of its webhook.
fn provider_statuses() -> Vec<(String, ProviderStatus, [&'static str; 3])> {
    let blocked = |reason| Blocked { reason, message: "mend it".into() };
    let webhook = |served| Some(WebhookCheck { path: "/hooks/u".into(), is_shared: false, served });
    let fresh = ProviderStatus::default();
    let can = ProviderCapabilities::of(&[Capability::ListBatches, Capability::DeleteFiles]);
    let probed = checked(&fresh, Answer::Probed(can), None);
    let untried = Answer::Untried { can, why: "no model".into(), retryable: true };
    let busy = || Answer::Busy("too many requests".into());
    let served = |served| checked(&probed, Answer::Still, webhook(served));
    let mut statuses = vec![
        ("probed".to_string(), probed.clone(), DONE),
        ("untried".into(), checked(&fresh, untried, None), DONE),
        // It is asked again a minute later.
        ("busy".into(), checked(&fresh, busy(), None), RUNNING),
        ("busy, after a probe".into(), checked(&probed, busy(), None), RUNNING),
        // Jobs run without a webhook: each batch is polled as well.
        ("webhook listens".into(), served(Some(Ok(()))), DONE),
        ("webhook is not served".into(), served(None), DONE),
    ];
    for reason in [reasons::SECRET_NOT_FOUND, reasons::SIGNING_SECRET_INVALID] {
        statuses.push((format!("webhook has {reason}"), served(Some(Err(blocked(reason)))), DONE));
    }
    // Jobs run without prices: they have no cost then.
    for fault in [None, Some(reasons::PRICES_INVALID), Some(reasons::CONFIG_MAP_NOT_FOUND)] {
        let (models, from) = if fault.is_some() { (0, "") } else { (3, "ConfigMap prices (resourceVersion 812)") };
        let check = PricesCheck { from: from.into(), models, fault: fault.map(blocked), is_reported: false };
        let name = fault.map_or_else(|| "prices are used".into(), |reason| format!("prices have {reason}"));
        statuses.push((name, checked_with(&probed, Answer::Still, None, Some(check)), DONE));
    }
    for reason in [
        reasons::CREDENTIALS_REJECTED,
        reasons::PROVIDER_UNREACHABLE,
        reasons::PROVIDER_REDIRECTS,
        reasons::HOST_NOT_ALLOWED,
        reasons::NO_BATCH_API,
        reasons::PROVIDER_REJECTED,
        reasons::PROVIDER_UNAVAILABLE,
    ] {
        let away = checked(&probed, Answer::Failed(blocked(reason)), None);
        statuses.push((reason.into(), away, NOT_READY));
    }
    for reason in [reasons::SECRET_NOT_FOUND, reasons::CA_BUNDLE_NOT_FOUND] {
        // A webhook that listens makes no account answer.
        let missing = checked(&probed, Answer::Missing(blocked(reason)), webhook(Some(Ok(()))));
        let mended = checked(&missing, Answer::Still, webhook(Some(Ok(()))));
        statuses.push((reason.into(), missing, NOT_READY));
        statuses.push((format!("{reason}, mended"), mended, DONE));
    }
    statuses
}

pub fn providers() -> Vec<State> {
    let mut states = vec![];
    for kind in ["BatchProvider", "ClusterBatchProvider"] {
        states.push(state("unseen", unseen(kind), UNSEEN));
        let new = json!({"conditions": [], "observedGeneration": 1});
        states.push(state("new", object(kind, new), AT_THE_PROVIDER));
        let all = provider_statuses();
        states.extend(all.iter().map(|(name, status, said)| state(name, object(kind, json!(status)), *said)));
        let (_, probed, _) = all.iter().find(|(name, ..)| name == "probed").unwrap();
        // An edit and a deletion both raise the generation.
        let mut edited = object(kind, json!(probed));
        edited["metadata"]["generation"] = 2.into();
        states.push(state("edited", edited.clone(), RUNNING));
        states.push(state("deleted", deleted(edited.clone()), ["Terminating", "Progressing", "InProgress"]));
        edited["status"] = json!(kept_by(probed, Some(2), &["j".to_string()], 1, NOW));
        // It takes no new jobs: what Flux applies with it does not run.
        states.push(state("deleted, in use", deleted(edited), ["Terminating", "Progressing", "Failed"]));
    }
    states
}

fn cron((status, reason): (&str, &str), fields: Value) -> Value {
    let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": "m", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut object = object("CronBatchJob", json!({"conditions": [ready], "observedGeneration": 1}));
    object["status"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

pub fn cron_batch_jobs() -> Vec<State> {
    let scheduled = ("True", "Scheduled");
    let (night, morning, next) = ("2026-01-01T02:30:00Z", "2026-01-01T06:00:00Z", "2026-01-02T02:30:00Z");
    let active = json!([{"name": "nightly-29463030", "uid": "u"}]);
    let mut edited = cron(scheduled, json!({}));
    edited["metadata"]["generation"] = 2.into();
    let failed = || cron(scheduled, json!({"lastScheduleTime": night}));
    let mut states = vec![
        state("new", cron(scheduled, json!({"nextScheduleTime": next})), DONE),
        state("suspended", cron(("True", "Suspended"), json!({})), DONE),
        state("running", cron(scheduled, json!({"lastScheduleTime": night, "active": active})), DONE),
        state(
            "running, after a success",
            cron(scheduled, json!({"lastScheduleTime": next, "lastSuccessfulTime": morning, "active": active})),
            DONE,
        ),
        state("succeeded", cron(scheduled, json!({"lastScheduleTime": night, "lastSuccessfulTime": morning})), DONE),
        // Flux and kstatus speak of the schedule, Argo CD of its jobs as well: it shows them below it, without their health.
        state("failed", failed(), ["Current", "Degraded", "Current"]),
        state(
            "failed, after a success",
            cron(scheduled, json!({"lastScheduleTime": next, "lastSuccessfulTime": morning})),
            ["Current", "Degraded", "Current"],
        ),
        state("edited", edited, RUNNING),
        state("unseen", unseen("CronBatchJob"), UNSEEN),
        state("deleted", deleted(cron(scheduled, json!({}))), ["Terminating", "Progressing", "Current"]),
        state("deleted, after a failure", deleted(failed()), ["Terminating", "Progressing", "Current"]),
    ];
    let why = || "why".to_string();
    for fault in [
        Event::FailedCreate(why()),
        Event::FailedDelete(why()),
        Event::UnknownTimeZone(why()),
        Event::UnparseableSchedule(why()),
        Event::InvalidSchedule(why()),
    ] {
        states.push(state(fault.reason(), cron(("False", fault.reason()), json!({})), NOT_READY));
    }
    states
}
