#![allow(clippy::unwrap_used, clippy::expect_used)]

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Child, Decision, End, Observed, SkippedStart, decide, history};
use crate::api::{ActiveBatchJob, BatchJobObject, CronBatchJobObject, CronBatchJobStatus};
use crate::schedule::Event;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `nightly` with a start at 02:30 UTC each night, the last one in the night of 20 November 2026, and changes of its spec.
fn cron(changes: Value) -> CronBatchJobObject {
    let job = json!({"providerRef": {"name": "p"}, "input": {}, "output": {}});
    let mut cron = json!({
        "apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob",
        "metadata": {"name": "nightly", "uid": "u-1", "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"schedule": "30 2 * * *", "jobTemplate": {"spec": job}},
        "status": {"lastScheduleTime": "2026-11-20T02:30:00Z"},
    });
    cron["spec"].as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_str(&cron.to_string()).unwrap()
}

fn child(name: &str, end: Option<End>) -> Child {
    Child { name: name.into(), uid: name.into(), started: None, end, deleting: false }
}

fn active(names: &[&str]) -> Vec<ActiveBatchJob> {
    names.iter().map(|name| ActiveBatchJob { name: name.to_string(), uid: name.to_string() }).collect()
}

/// A look at a CronBatchJob, of whose children these ran at the last one.
fn look(cron: &CronBatchJobObject, was_active: &[&str], children: &[Child], now: &str) -> Decision {
    let mut cron = cron.clone();
    cron.status.as_mut().unwrap().active = active(was_active);
    decide(&Observed { cron: &cron, children, now: time(now) })
}

/// The name of the child that is started.
fn started(decision: &Decision) -> Option<&str> {
    decision.start.as_ref().map(|start| start.child.metadata.name.as_deref().unwrap())
}

const LAST: &str = "nightly-29919030";
const DUE: &str = "nightly-29920470";

#[test]
fn a_start_is_made_at_its_time_and_not_before() {
    let cron = cron(json!({}));
    let before = look(&cron, &[], &[], "2026-11-21T02:29:59Z");
    assert_eq!((before.start, before.next_schedule_time), (None, Some(time("2026-11-21T02:30:00Z"))));
    let then = look(&cron, &[], &[], "2026-11-21T02:30:00Z");
    assert_eq!(started(&then), Some(DUE));
    assert_eq!(then.start.as_ref().unwrap().scheduled_time, time("2026-11-21T02:30:00Z"));
    assert_eq!(then.next_schedule_time, Some(time("2026-11-22T02:30:00Z")));
}

#[test]
fn a_child_that_a_crash_left_out_of_the_status_is_not_made_again() {
    for end in [None, Some(End::Failed), Some(End::Complete(None))] {
        let decision = look(&cron(json!({})), &[], &[child(DUE, end)], "2026-11-21T02:31:00Z");
        assert_eq!((&decision.start, decision.events.len()), (&None, 0), "{end:?}");
        assert_eq!(decision.last_schedule_time, Some(time("2026-11-21T02:30:00Z")));
        assert_eq!(decision.active, active(if end.is_none() { &[DUE] } else { &[] }));
    }
}

#[test]
fn a_running_child_holds_the_next_start_until_it_has_ended() {
    let cron = cron(json!({}));
    let held = look(&cron, &[LAST], &[child(LAST, None)], "2026-11-21T02:30:00Z");
    assert_eq!((started(&held), held.skipped), (None, Some(SkippedStart::StillActive(time("2026-11-21T02:30:00Z")))));
    // Also one that the status does not know.
    let held = look(&cron, &[], &[child("by-hand", None)], "2026-11-21T02:30:00Z");
    assert_eq!((held.start, held.events), (None, vec![Event::UnexpectedJob("by-hand".into())]));
    let ended = look(&cron, &[LAST], &[child(LAST, Some(End::Failed))], "2026-11-21T09:00:00Z");
    assert_eq!(started(&ended), Some(DUE));
    assert_eq!(ended.events, [Event::SawCompletedJob(LAST.into(), End::Failed)]);
}

#[test]
fn replaced_children_are_those_that_run_and_are_not_being_deleted() {
    let cron = cron(json!({"concurrencyPolicy": "Replace"}));
    let going = Child { deleting: true, ..child("nightly-1", None) };
    let children = [child(LAST, None), going, child("nightly-2", Some(End::Failed))];
    let decision = look(&cron, &[LAST, "nightly-1"], &children, "2026-11-21T02:30:00Z");
    assert_eq!(decision.start.unwrap().replaces, [LAST]);
}

#[test]
fn a_start_after_its_deadline_is_skipped_and_told() {
    let cron = cron(json!({"startingDeadlineSeconds": 3600}));
    let decision = look(&cron, &[], &[], "2026-11-21T03:30:01Z");
    let late = SkippedStart::TooLate(time("2026-11-21T02:30:00Z"));
    assert_eq!((started(&decision), decision.skipped), (None, Some(late)));
    assert_eq!(late.event().reason(), "MissSchedule");
    assert_eq!(started(&look(&cron, &[], &[], "2026-11-21T03:29:59Z")), Some(DUE));
}

#[test]
fn a_hundred_missed_starts_are_told_and_the_last_one_is_made_up_for() {
    let cron = cron(json!({"schedule": "* * * * *"}));
    let decision = look(&cron, &[], &[], "2026-11-20T04:11:30Z");
    assert_eq!(decision.start.unwrap().scheduled_time, time("2026-11-20T04:11:00Z"));
    assert_eq!(decision.events, [Event::TooManyMissedTimes(101)]);
    assert_eq!(look(&cron, &[], &[], "2026-11-20T04:10:30Z").events, []);
}

#[test]
fn a_clock_that_went_back_starts_nothing_again() {
    let decision = look(&cron(json!({})), &[], &[], "2026-11-19T02:30:00Z");
    assert_eq!((decision.start, decision.skipped), (None, None));
    assert_eq!(decision.next_schedule_time, Some(time("2026-11-21T02:30:00Z")));
}

#[test]
fn what_cannot_be_followed_starts_nothing_and_waits_for_a_change() {
    let template = |run_id: &str| {
        let spec = json!({"providerRef": {"name": "p"}, "input": {}, "output": {}, "runID": run_id});
        json!({"jobTemplate": {"spec": spec}})
    };
    for (changes, reason) in [
        (json!({"timeZone": "Europe/Berlyn"}), Some("UnknownTimeZone")),
        (json!({"schedule": "60 * * * *"}), Some("UnparseableSchedule")),
        (json!({"schedule": "60 * * * *", "suspend": true}), Some("UnparseableSchedule")),
        (json!({"schedule": "0 0 31 2 *"}), Some("InvalidSchedule")),
        (template("$(scheduledTime:%Q)"), Some("FailedCreate")),
        (json!({"suspend": true}), None),
    ] {
        // Whether a start is due or not.
        for now in ["2026-11-20T02:30:01Z", "2026-11-25T00:00:00Z"] {
            let decision = look(&cron(changes.clone()), &[], &[], now);
            assert_eq!(decision.fault.as_ref().map(Event::reason), reason, "{changes}");
            assert_eq!((decision.start, decision.next_schedule_time), (None, None), "{changes}");
        }
    }
}

#[test]
fn a_deleted_schedule_starts_nothing_and_deletes_nothing() {
    let mut cron = cron(json!({"failedJobsHistoryLimit": 0}));
    cron.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time("2026-11-21T00:00:00Z")));
    let decision = look(&cron, &[LAST], &[child(LAST, Some(End::Failed))], "2026-11-21T02:30:00Z");
    assert_eq!((decision.start, decision.history, decision.next_schedule_time), (None, vec![], None));
}

#[test]
fn the_status_takes_note_of_a_start_once_its_child_is_there() {
    let cron = cron(json!({"concurrencyPolicy": "Allow"}));
    let decision = look(&cron, &[LAST], &[child(LAST, None)], "2026-11-21T02:30:00Z");
    let mut status = CronBatchJobStatus::default();
    decision.write(None, &mut status);
    assert_eq!((status.active.clone(), status.active_count), (active(&[LAST]), 1));
    assert_eq!(status.last_schedule_time.clone().unwrap().0, time("2026-11-20T02:30:00Z"));
    decision.write(active(&[DUE]).pop(), &mut status);
    assert_eq!((status.active.clone(), status.active_count), (active(&[LAST, DUE]), 2));
    assert_eq!(status.last_schedule_time.unwrap().0, time("2026-11-21T02:30:00Z"));
    assert_eq!(status.next_schedule_time.unwrap().0, time("2026-11-22T02:30:00Z"));
}

#[test]
fn a_batch_job_has_ended_once_its_condition_says_so() {
    for (complete, end) in [
        ("Unknown", None),
        ("True", Some(End::Complete(Some(time("2026-11-20T05:00:00Z"))))),
        ("False", Some(End::Failed)),
    ] {
        let condition = json!({
            "type": "Complete", "status": complete, "reason": "Any", "message": "", "lastTransitionTime": "2026-11-20T05:00:00Z",
        });
        let job = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": LAST, "uid": "u"},
            "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}},
            "status": {"conditions": [condition], "completionTime": "2026-11-20T05:00:00Z"},
        });
        let job: BatchJobObject = serde_json::from_str(&job.to_string()).unwrap();
        assert_eq!(Child::of(&job).end, end, "{complete}");
    }
}

#[test]
fn the_oldest_children_that_ended_go_and_running_ones_stay() {
    let cron = cron(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
    let at = |name: &str, started: Option<&str>, end| Child { started: started.map(time), ..child(name, end) };
    let complete = Some(End::Complete(None));
    let children = [
        at("c", Some("2026-11-03T00:00:00Z"), complete),
        at("a", Some("2026-11-01T00:00:00Z"), complete),
        at("d", None, complete),
        at("b", Some("2026-11-02T00:00:00Z"), complete),
        at("f", Some("2026-11-04T00:00:00Z"), Some(End::Failed)),
        at("r", Some("2026-11-01T00:00:00Z"), None),
    ];
    assert_eq!(history(&cron.spec, &children), ["a", "b", "f"]);
}
