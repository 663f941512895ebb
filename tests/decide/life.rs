//! A job's whole life: what its states do under each field that ends, pauses or removes it. `docs/architecture.md` has the table.

use super::*;
use batchjob_operator::api::BatchJob;
use batchjob_operator::lifecycle::{InputLook, InputWait, expiry};

struct State {
    name: &'static str,
    job: JobView,
    journal: Option<Journal>,
    memory: Memory,
}

fn running(at: i64) -> Memory {
    let mut memory = searched(memory());
    let seen = PolledState::Running { state: "in_progress".into(), done: 0 };
    memory.looks.insert("batch-1".into(), PollResult { at, seen });
    memory
}

/// The states of a job, in the order of its life.
fn states() -> Vec<State> {
    let me = || owner("j", "u");
    let unsent = || JobView { submitted: false, batches: vec![], ..job() };
    let expired = RequestCounts { total: 1, expired: 1, ..Default::default() };
    let commit = |outcome| Commit {
        outcome,
        reason: "r".into(),
        message: "m".into(),
        at: NOW,
        requests: expired,
        spending: Default::default(),
    };
    let committed =
        || Journal { commit: Some(commit(Outcome::Failed)), ..journal(me(), Some(completed("batch-1", expired, 0))) };
    let written = || Memory { manifest: Some(Some(manifest("w", "h"))), marked: Some("w".into()), ..memory() };
    let over = || JobView { finished: true, ..job() };
    let row = |name, job, journal, memory| State { name, job, journal, memory };
    let missing = Blocked { reason: "SecretNotFound", message: "m".into() };
    let permitted = || Memory { permit: Some("intent-1".into()), ..memory() };
    let no_room = Rejection::new(Refusal::Capacity, "no room");
    let (refusal, message) = (no_room.refusal, no_room.message);
    let turned_away = AttemptState::Refused { refusal, message, at: NOW, retry_at: None };
    let without_file = || Memory { deleted: ["file-1".to_string()].into(), ..memory() };
    let answered = || Journal { shards: vec![reuse::reused()].into(), ..journal(me(), None) };
    let waits = || {
        let wait = InputWait { of: "s3://b/_SUCCESS".into(), since: Some(0), until: None, field: "f" };
        let missing = Some("m".into());
        let look = InputLook { of: wait.of.clone(), missing, at: NOW, first: NOW, jitter: 0, is_due: false };
        let unplanned = Journal { plan: None, shards: Shards::default(), ..journal(me(), None) };
        let (job, memory) =
            (JobView { input_wait: Some(wait), ..unsent() }, Memory { input_look: Some(look), ..memory() });
        row("waits for its input", job, Some(unplanned), memory)
    };
    vec![
        row("new, its Secret missing", JobView { blocked: Some(missing), lock: None, ..unsent() }, None, memory()),
        row("new", unsent(), None, memory()),
        waits(),
        row("checked, nothing sent", unsent(), Some(journal(me(), None)), memory()),
        row("all answers reused, nothing to send", unsent(), Some(answered()), memory()),
        row("about to submit", job(), Some(journal(me(), Some(AttemptState::Intended))), permitted()),
        row("a reply was lost", job(), Some(journal(me(), Some(AttemptState::Intended))), memory()),
        row("the provider has no room", job(), Some(journal(me(), Some(turned_away))), without_file()),
        row("a batch runs", job(), Some(journal(me(), submitted())), running(NOW)),
        row(
            "requests expired, to be sent again",
            job(),
            Some(journal(me(), Some(completed("batch-1", expired, 0)))),
            memory(),
        ),
        row("ended, no manifest yet", job(), Some(committed()), memory()),
        row("results written, files to delete", over(), Some(committed()), written()),
        row("over", JobView { tidy: true, ..over() }, Some(committed()), written()),
        row(
            "failed before anything was sent",
            JobView { finished: true, tidy: true, lock: None, ..unsent() },
            None,
            memory(),
        ),
    ]
}

/// What a step comes to, for the table.
fn words(step: &Step, before: Option<&Journal>) -> String {
    match step {
        Step::Wait { why, .. } => format!("waits (`{}`)", why.stage),
        Step::WriteIntent { .. } | Step::Upload(_) => "sends".into(),
        Step::Open(_) => "begins".into(),
        Step::Post(_) => "submits".into(),
        Step::Search(_) => "looks for a batch".into(),
        Step::FollowUp { .. } => "sends again".into(),
        Step::Cancel { .. } => "cancels".into(),
        Step::Write => "writes results".into(),
        Step::CleanUp => "deletes staged files".into(),
        Step::DeleteObject => "is deleted".into(),
        Step::RemoveFinalizer { .. } => "goes".into(),
        Step::Fail(failure) => format!("fails (`{}`), free", failure.reason),
        Step::Swap(next) => match (&next.commit, before) {
            (Some(commit), Some(Journal { commit: None, .. })) => format!("ends (`{}`)", commit.reason),
            _ if next.closing.is_some() => format!("closes the journal (`{:?}`)", next.closing.unwrap()),
            _ if next.out_of_time_since.is_some() => "sends no more, then cancels".into(),
            _ if next.plan.is_none() => "drops the plan, then fails, free".into(),
            _ if next.shards[0].refusal() == Some(Refusal::NotSent) => "submits nothing".into(),
            _ => panic!("{step:?}"),
        },
        step => step.name().to_string(),
    }
}

fn under(state: &State, change: fn(&mut JobView)) -> String {
    let mut job = state.job.clone();
    change(&mut job);
    words(&step(&job, state.journal.as_ref(), &state.memory), state.journal.as_ref())
}

type Change = (&'static str, fn(&mut JobView));

const CHANGES: [Change; 8] = [
    ("as it is", |_| {}),
    ("`suspend: true`", |job| job.suspend = true),
    ("`stopPolicy: Drain`", |job| job.stop = Some(StopPolicy::Drain)),
    ("`stopPolicy: Cancel`", |job| job.stop = Some(StopPolicy::Cancel)),
    ("`activeDeadlineSeconds` over", |job| job.deadline = Some(NOW)),
    ("deleted, `deletionPolicy: Cancel`", |job| job.deleting_since = Some(NOW)),
    ("deleted, `deletionPolicy: Orphan`", |job| {
        (job.deleting_since, job.deletion_policy) = (Some(NOW), DeletionPolicy::Orphan);
    }),
    // Of the jobs that are over, those that failed for free do not expire, see `expiry`.
    ("`ttlSecondsAfterFinished` over", |job| job.expires_at = (job.tidy && job.lock.is_some()).then_some(NOW)),
];

#[test]
fn each_state_does_what_the_table_of_transitions_says() {
    let mut table = String::from("| the job |");
    CHANGES.iter().for_each(|(name, _)| table += &format!(" {name} |"));
    table += "\n|---|";
    CHANGES.iter().for_each(|_| table += "---|");
    table += "\n";
    for state in states() {
        table += &format!("| {} |", state.name);
        CHANGES.iter().for_each(|(_, change)| table += &format!(" {} |", under(&state, *change)));
        table += "\n";
    }
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md")).unwrap();
    assert!(docs.contains(&table), "docs/architecture.md has to hold\n\n{table}");
}

/// A job that ended ten seconds ago.
fn ended(ttl: Option<i32>) -> BatchJob {
    let condition = |type_: &str, status: &str| {
        serde_json::json!({"type": type_, "status": status, "reason": "Any", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let job = serde_json::json!({
        "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "j", "generation": 2},
        "spec": {"providerRef": {"name": "llm"}, "input": {}, "output": {}, "ttlSecondsAfterFinished": ttl},
        "status": {
            "outcome": "Succeeded", "observedGeneration": 1, "completionTime": "2026-01-01T00:00:00Z",
            "lock": {"specHash": "h", "outputURI": "s3://b/"},
            "conditions": [condition("ResultsWritten", "True"), condition("Reconciling", "False")],
        },
    });
    serde_json::from_value(job).unwrap()
}

#[test]
fn a_job_expires_its_ttl_after_its_end_and_not_without_a_manifest_or_with_results_of_an_earlier_one() {
    let end = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(expiry(&ended(None), 0), None, "unset");
    assert_eq!(expiry(&ended(Some(0)), 0), Some(end));
    assert_eq!(expiry(&ended(Some(i32::MAX)), 0), Some(end + 1_000 * i64::from(i32::MAX)));
    let with = |type_: &str, status: &str| {
        let mut job = ended(Some(60));
        let conditions = &mut job.status.as_mut().unwrap().conditions;
        let mut changed = conditions[0].clone();
        (changed.type_, changed.status) = (type_.into(), status.into());
        conditions.retain(|condition| condition.type_ != type_);
        conditions.push(changed);
        expiry(&job, 0)
    };
    assert_eq!(with("ResultsReused", "True"), None, "what applied it again would do so for ever");
    assert_eq!(with("ResultsReused", "False"), Some(end + 60_000));
    assert_eq!(with("ResultsWritten", "False"), None, "no manifest");
    assert_eq!(with("Reconciling", "True"), None, "its staged files are left");
    let mut running = ended(Some(0));
    running.status.as_mut().unwrap().outcome = None;
    assert_eq!(expiry(&running, 0), None);
}

#[test]
fn a_job_is_deleted_once_it_has_expired_and_is_looked_at_again_when_it_does() {
    let over = states().into_iter().find(|state| state.name == "over").unwrap();
    let at = |expires_at| step(&JobView { expires_at, ..over.job.clone() }, over.journal.as_ref(), &over.memory);
    assert_eq!(at(Some(NOW)), Step::DeleteObject);
    let waits = |step: Step| match step {
        Step::Wait { until, .. } => until,
        step => panic!("{step:?}"),
    };
    assert_eq!((waits(at(Some(NOW + 1))), waits(at(None))), (Some(NOW + 1), None));
    let going = JobView { expires_at: Some(NOW), deleting_since: Some(NOW), ..over.job.clone() };
    let gone = step(&going, over.journal.as_ref(), &over.memory);
    assert!(matches!(gone, Step::RemoveFinalizer { .. }), "it is not deleted twice: {gone:?}");
}

/// Its CronBatchJob would report it as missing, and not count its success.
#[test]
fn a_job_of_a_schedule_stays_for_a_minute_so_that_its_end_is_seen() {
    let mut child = ended(Some(0));
    let owner = serde_json::json!([{"apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "name": "nightly",
        "uid": "c", "controller": true}]);
    child.metadata.owner_references = serde_json::from_value(owner).unwrap();
    let told = "2026-01-01T00:05:00Z".parse::<jiff::Timestamp>().unwrap();
    let status = child.status.as_mut().unwrap();
    let complete = serde_json::json!({"type": "Complete", "status": "True", "reason": "AllSucceeded", "message": "",
        "lastTransitionTime": told.to_string()});
    status.conditions.push(serde_json::from_value(complete).unwrap());
    let told = told.as_millisecond();
    assert_eq!(
        expiry(&child, 0),
        Some(told + 60_000),
        "results may take longer to be written than the job takes to end"
    );
    assert_eq!(expiry(&child, told + 9_000), Some(told + 69_000), "the operator was away");
    child.spec.ttl_seconds_after_finished = Some(3_600);
    assert_eq!(expiry(&child, 0), Some(told - 300_000 + 3_600_000), "a longer TTL is as it is");
}
