//! What status says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;
use crate::ends::{ENDS, FREE_FAILURES};
use batchjob_operator::lifecycle::Subscription;

#[test]
fn status_stays_small_however_many_batches_there_are() {
    let mut journal = journal(owner("j", "u"), None);
    let long = |what: &str, n: usize| format!("{what}{}", "x".repeat(n));
    journal.shards = (0..5_000)
        .map(|i| {
            let state = match i % 2 {
                0 => AttemptState::Submitted { batch_id: long("b", 255), at: 0 },
                _ => AttemptState::Settled {
                    batch_id: long("b", 255),
                    ended: long("e", 40),
                    part: None,
                    counts: Default::default(),
                    usage: Default::default(),
                    cost: None,
                    retryable: 0,
                    errors: (0..10)
                        .map(|e| ErrorSummary {
                            code: long(&e.to_string(), 60),
                            count: 1,
                            sample_custom_id: long("i", 500),
                            ..Default::default()
                        })
                        .collect(),
                    files: vec![],
                },
            };
            Shard { model: long("m", 250), ..shard(Some(state)) }
        })
        .collect();
    let blocked =
        JobView { blocked: Some(Blocked { reason: "ProviderUnavailable", message: long("m", 5_000) }), ..job() };
    let memory = memory();
    let observed =
        Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &blocked, journal: Some(&journal), memory: &memory };
    let status = project(&observed, &Default::default(), Some(1), &decide(&observed)).unwrap();
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(status.batches.len() > 20 && size < 48 << 10, "{} batches, {size} bytes", status.batches.len());
    let names = (0..8).map(|n| format!("{n}{}", "x".repeat(62)));
    let subscriptions = names.map(|name| Subscription { name, events: notices::ALL.to_vec() }).collect();
    let told = JobView { subscriptions, ..blocked.clone() };
    let observed = Observed { job: &told, ..observed };
    let mut status = project(&observed, &Default::default(), Some(1), &decide(&observed)).unwrap();
    let one = status.notifications[0].clone();
    status.notifications.resize(40, one);
    for message in &mut status.notifications {
        (message.message, message.last_error) = ("m".repeat(120), "e".repeat(200));
        message.last_attempt_time = Some(message.event_time.clone());
    }
    spending::at_its_bound(&mut status);
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 64 << 10, "{size} bytes with messages to as many webhooks as can be, none of them delivered");
}

#[test]
fn progress_counts_what_was_executed_and_never_runs_backwards() {
    let counts = RequestCounts { total: 10, succeeded: 5, failed: 1, expired: 4, ..Default::default() };
    let expired = AttemptState::Settled {
        batch_id: "batch-1".into(),
        ended: "expired".into(),
        part: None,
        counts,
        usage: Default::default(),
        cost: None,
        retryable: 0,
        errors: vec![],
        files: vec![],
    };
    let mut journal = journal(owner("j", "u"), submitted());
    journal.shards[0].requests = 10;
    let progress = |journal: &Journal, seen: Option<PolledState>| {
        let looks = seen.map(|seen| ("batch-1".to_string(), PollResult { at: NOW, seen })).into_iter().collect();
        let (job, memory) = (job(), Memory { looks, ..memory() });
        let observed =
            Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal: Some(journal), memory: &memory };
        let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
        project(&observed, &Default::default(), Some(1), &wait).unwrap().display.unwrap().progress
    };
    assert_eq!(progress(&journal, Some(PolledState::Running { state: "in_progress".into(), done: 5 })), "5/10 (50%)");
    let ended = |state, done| Some(PolledState::Ended { state, done, rejected: None });
    assert_eq!(progress(&journal, ended(BatchEnd::Expired, 6)), "6/10 (60%)");
    journal.shards[0].attempt.as_mut().unwrap().state = expired;
    assert_eq!(progress(&journal, None), "6/10 (60%)");
    let prior_counts = RequestCounts { total: 4, expired: 4, ..Default::default() };
    journal.shards.push(Shard { requests: 4, round: 1, prior_counts, ..shard(submitted()) });
    assert_eq!(progress(&journal, None), "6/10 (60%)");
    assert_eq!(progress(&journal, ended(BatchEnd::Completed, 0)), "10/10 (100%)", "a server that does not count");
}

#[test]
fn what_was_submitted_is_not_forgotten_with_the_journal() {
    let (job, memory) = (job(), memory());
    let observed =
        |journal| Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal, memory: &memory };
    let journal = journal(owner("j", "u"), submitted());
    let there = observed(Some(&journal));
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
    let before = project(&there, &Default::default(), Some(1), &wait).unwrap();
    let gone = observed(None);
    let step = decide(&gone);
    assert!(matches!(&step, Step::Wait { why, .. } if why.blocked.is_some()), "{step:?}");
    let after = project(&gone, &before, Some(1), &step).unwrap();
    assert!(
        after.submission_time.is_some() && after.batches == before.batches && after.work == before.work,
        "{after:?}"
    );
}

/// When status says that the job started, if it said that it did so long ago.
fn started(job: &JobView, journal: Option<&Journal>, old: BatchJobStatus) -> Option<i64> {
    let memory = memory();
    let observed = Observed { now: NOW, nonce: "nonce", timing: &TIMING, job, journal, memory: &memory };
    let wait = Step::Wait { until: None, why: Waiting { stage: "Pending", ..Default::default() } };
    let status = project(&observed, &old, Some(1), &wait).unwrap();
    status.start_time.map(|t| t.0.as_millisecond())
}

#[test]
fn the_time_that_a_job_has_begins_with_what_it_was_mended_to_and_with_its_resumption() {
    let start = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
    let long_ago = start.as_ref().map(|t| t.0.as_millisecond());
    let old = || BatchJobStatus { start_time: start.clone(), ..Default::default() };
    let fresh = JobView { submitted: false, ..job() };
    assert_eq!(started(&fresh, None, old()), long_ago);
    let reevaluated = JobView { reevaluated: true, ..fresh.clone() };
    assert_eq!(started(&reevaluated, None, old()), Some(NOW), "a failure that cost nothing was mended");
    let suspended = JobView { suspend: true, ..fresh.clone() };
    assert_eq!(started(&suspended, None, old()), None);
    let sent = journal(owner("j", "u"), submitted());
    assert_eq!(started(&JobView { suspend: true, ..job() }, Some(&sent), old()), long_ago, "its batches run");
    let blocked = Some(Blocked { reason: "StorageUnavailable", message: "m".into() });
    assert_eq!(started(&JobView { blocked, ..suspended }, None, old()), long_ago, "nobody knows whether they do");
}

#[test]
fn a_submission_of_unknown_outcome_is_not_forgotten_with_the_journal() {
    let status = |state: AttemptState| {
        let (job, memory, journal) = (job(), memory(), journal(owner("j", "u"), Some(state)));
        let (timing, journal) = (&TIMING, Some(&journal));
        let observed = Observed { now: NOW, nonce: "nonce", timing, job: &job, journal, memory: &memory };
        let wait = Step::Wait { until: None, why: Waiting { stage: "Submitting", ..Default::default() } };
        project(&observed, &Default::default(), Some(1), &wait).unwrap()
    };
    assert!(may_be_submitted(&status(AttemptState::Intended)));
    assert!(may_be_submitted(&status(AttemptState::Revoking)));
    assert!(may_be_submitted(&status(submitted().unwrap())));
    assert!(!may_be_submitted(&status(AttemptState::Revoked { message: "m".into() })));
}

/// What kstatus makes of a job's conditions, and with it Flux, Argo CD and `kubectl apply --wait`: the first of the two that is
/// True, in the order of the list (sigs.k8s.io/cli-utils, pkg/kstatus/status/status.go, checkGenericProperties).
fn kstatus(status: &BatchJobStatus) -> &'static str {
    let is_true = |c: &&Condition| c.status == "True" && ["Reconciling", "Stalled"].contains(&c.type_.as_str());
    match status.conditions.iter().find(is_true).map(|c| c.type_.as_str()) {
        Some("Reconciling") => "InProgress",
        Some(_) => "Failed",
        None => "Current",
    }
}

/// Status after each of these steps, one after the other, of a job whose submission was seen.
fn after(steps: &[Step]) -> BatchJobStatus {
    let (mut view, memory, journal) = (job(), memory(), journal(owner("j", "u"), submitted()));
    let mut status = BatchJobStatus::default();
    for step in steps {
        let (timing, journal) = (&TIMING, Some(&journal));
        let observed = Observed { now: NOW, nonce: "nonce", timing, job: &view, journal, memory: &memory };
        status = project(&observed, &status, Some(1), step).unwrap();
        view.finished = status.outcome.is_some();
    }
    status
}

fn ended(outcome: Outcome, reason: &str, reused: bool) -> Step {
    let manifest = ManifestView {
        outcome,
        reason: reason.into(),
        requests: RequestCounts { total: 1, ..Default::default() },
        ..manifest("w", "h")
    };
    Step::Conclude { manifest, reused }
}

/// Case 42-kstatus-of-a-failed-job: the table of all ends.
#[test]
fn kstatus_takes_every_job_that_failed_for_failed_and_no_other() {
    let working = Step::Wait { until: None, why: Waiting { stage: "Submitting", ..Default::default() } };
    for (outcome, reason) in ENDS {
        let failed = !matches!(outcome, Outcome::Succeeded | Outcome::PartiallySucceeded);
        for reused in [false, true] {
            let at_the_end = after(&[working.clone(), ended(outcome, reason, reused)]);
            let of = |type_: &str| at_the_end.conditions.iter().find(|c| c.type_ == type_).unwrap();
            assert_eq!(of("Failed").status == "True", failed, "{reason}");
            assert_eq!(of("Complete").status == "True", !failed, "{reason}");
            let (stalled, expected) = if failed { ("True", reason) } else { ("False", "Finished") };
            assert_eq!((of("Stalled").status.as_str(), of("Stalled").reason.as_str()), (stalled, expected));
            let tidying = !reused;
            let while_tidying = if failed { "Failed" } else { "InProgress" };
            let settled = if failed { "Failed" } else { "Current" };
            assert_eq!(kstatus(&at_the_end), if tidying { while_tidying } else { settled }, "{reason}, {reused}");
            if tidying {
                let tidied = after(&[working.clone(), ended(outcome, reason, reused), Step::CleanUp]);
                assert_eq!(kstatus(&tidied), settled, "{reason}, tidied up");
            }
        }
    }
    // Those that cost nothing.
    for reason in FREE_FAILURES {
        let failure = Step::Fail(Failure::new(reason, "m"));
        assert_eq!(kstatus(&after(&[working.clone(), failure])), "Failed", "{reason}");
    }
}

#[test]
fn kstatus_takes_a_job_that_is_on_its_way_for_failed_only_where_a_person_must_mend_something() {
    let stages = [
        ("Pending", "Current"),
        ("Planning", "InProgress"),
        ("Suspended", "Current"),
        ("Submitting", "InProgress"),
        ("WaitingForQuota", "Current"),
        ("InProgress", "Current"),
        ("Draining", "Current"),
        ("Cancelling", "Current"),
        ("Collecting", "InProgress"),
        ("WritingResults", "InProgress"),
        ("Cancelled", "InProgress"),
    ];
    for (stage, expected) in stages {
        let wait = |blocked| Step::Wait { until: None, why: Waiting { stage, blocked, ..Default::default() } };
        let blocked = wait(Some(Blocked { reason: "SecretNotFound", message: "m".into() }));
        assert_eq!(kstatus(&after(&[wait(None)])), expected, "{stage}");
        assert_eq!(kstatus(&after(std::slice::from_ref(&blocked))), "Failed", "{stage}");
        assert_eq!(kstatus(&after(&[blocked, wait(None)])), expected, "{stage}, mended");
        // A failure that cost nothing was mended, and the job is judged anew.
        let failure = Step::Fail(Failure::new("InvalidInput", "m"));
        assert_eq!(kstatus(&after(&[failure, wait(None)])), expected, "{stage}, mended after a failure");
    }
}

/// What people see of a job that waits for an answer: STATUS is the reason of `Complete`.
#[test]
fn a_held_job_says_so_and_not_that_there_is_nothing_to_do() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::NotFound });
    let job = job();
    let held = Observed { now: NOW, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
    let step = decide(&held);
    let conditions = project(&held, &Default::default(), Some(1), &step).unwrap().conditions;
    let says =
        |type_: &str| conditions.iter().find(|c| c.type_ == type_).map(|c| (&*c.status, &*c.reason, &*c.message));
    let (status, reason, message) = says("Complete").unwrap();
    assert_eq!((status, reason), ("Unknown", "Held"));
    assert!(message.contains("batch batch-1"), "{message}");
    assert_eq!(says("Reconciling"), Some(("False", "AwaitingAnswer", "the condition Held has a question")));
    assert_eq!(says("Held").unwrap().0, "True");
    let blocked = Some(Blocked { reason: "SecretNotFound", message: "create it".into() });
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", blocked, ..Default::default() } };
    let conditions = project(&held, &Default::default(), Some(1), &wait).unwrap().conditions;
    let reconciling = conditions.iter().find(|c| c.type_ == "Reconciling").unwrap();
    assert_eq!(
        (&*reconciling.reason, &*reconciling.message),
        ("SecretNotFound", "the condition Stalled says what is in the way")
    );
}

/// A provider that nobody reaches is tried at growing distances, however long it is away.
#[test]
fn what_is_refused_again_and_again_is_sent_later_and_later_and_says_when() {
    let pause = |refusal: Refusal, number: u32| {
        let refused = AttemptState::Refused { refusal, message: "no connection".into(), at: NOW, retry_at: None };
        let mut journal = journal(owner("j", "u"), Some(refused));
        journal.shards[0].attempt.as_mut().unwrap().number = number;
        match step(&job(), Some(&journal), &memory()) {
            Step::Wait { until, why } => (until.unwrap() - NOW, why.blocked.map(|s| s.message).unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    };
    for refusal in [Refusal::NotSent, Refusal::Capacity] {
        let pauses: Vec<i64> = (1..100).map(|number| pause(refusal, number).0).collect();
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&1_800_000));
    }
    let said = pause(Refusal::NotSent, 5).1;
    assert_eq!(said, "no connection; tried 5 times, the next try is at Jan 01 00:17:40 UTC");
}
