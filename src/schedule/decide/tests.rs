#![allow(clippy::unwrap_used, clippy::expect_used)]

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Child, Decision, End, Observed, Skipped, decide, history};
use crate::api::{ActiveBatchJob, CronBatchJobSpec};
use crate::schedule::Event;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A spec for 02:30 UTC each night, with changes.
fn spec(changes: Value) -> CronBatchJobSpec {
    let mut spec = json!({
        "schedule": "30 2 * * *",
        "jobTemplate": {"spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}}},
    });
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_str(&spec.to_string()).unwrap()
}

fn child(name: &str, end: Option<End>) -> Child {
    Child { name: name.into(), uid: name.into(), started: None, end, deleting: false }
}

fn active(names: &[&str]) -> Vec<ActiveBatchJob> {
    names.iter().map(|name| ActiveBatchJob { name: name.to_string(), uid: name.to_string() }).collect()
}

/// A look at `nightly`, whose last start was in the night of 20 November 2026.
fn look(spec: &CronBatchJobSpec, was_active: &[&str], children: &[Child], now: &str) -> Decision {
    decide(&Observed {
        name: "nightly",
        spec,
        created: time("2026-11-01T00:00:00Z"),
        deleting: false,
        active: &active(was_active),
        last_schedule_time: Some(time("2026-11-20T02:30:00Z")),
        last_successful_time: None,
        children,
        now: time(now),
    })
}

const LAST: &str = "nightly-29919030";
const DUE: &str = "nightly-29920470";

#[test]
fn a_start_is_made_at_its_time_and_not_before() {
    let spec = spec(json!({}));
    let before = look(&spec, &[], &[], "2026-11-21T02:29:59Z");
    assert_eq!((before.start, before.next_schedule_time), (None, Some(time("2026-11-21T02:30:00Z"))));
    let then = look(&spec, &[], &[], "2026-11-21T02:30:00Z");
    let start = then.start.unwrap();
    assert_eq!((start.name.as_str(), start.scheduled_time), (DUE, time("2026-11-21T02:30:00Z")));
    assert_eq!(then.next_schedule_time, Some(time("2026-11-22T02:30:00Z")));
}

#[test]
fn a_child_that_a_crash_left_out_of_the_status_is_not_made_again() {
    for end in [None, Some(End::Failed), Some(End::Complete(None))] {
        let decision = look(&spec(json!({})), &[], &[child(DUE, end)], "2026-11-21T02:31:00Z");
        assert_eq!((&decision.start, decision.events.len()), (&None, 0), "{end:?}");
        assert_eq!(decision.last_schedule_time, Some(time("2026-11-21T02:30:00Z")));
        assert_eq!(decision.active, active(if end.is_none() { &[DUE] } else { &[] }));
    }
}

#[test]
fn a_running_child_holds_the_next_start_until_it_has_ended() {
    let spec = spec(json!({}));
    let held = look(&spec, &[LAST], &[child(LAST, None)], "2026-11-21T02:30:00Z");
    assert_eq!((held.start, held.skipped), (None, Some(Skipped::StillActive(time("2026-11-21T02:30:00Z")))));
    // Also one that the status does not know.
    let held = look(&spec, &[], &[child("by-hand", None)], "2026-11-21T02:30:00Z");
    assert_eq!((held.start, held.events), (None, vec![Event::UnexpectedJob("by-hand".into())]));
    let ended = look(&spec, &[LAST], &[child(LAST, Some(End::Failed))], "2026-11-21T09:00:00Z");
    assert_eq!(ended.start.unwrap().name, DUE);
    assert_eq!(ended.events, [Event::SawCompletedJob(LAST.into(), End::Failed)]);
}

#[test]
fn replaced_children_are_those_that_run_and_are_not_being_deleted() {
    let spec = spec(json!({"concurrencyPolicy": "Replace"}));
    let going = Child { deleting: true, ..child("nightly-1", None) };
    let children = [child(LAST, None), going, child("nightly-2", Some(End::Failed))];
    let decision = look(&spec, &[LAST, "nightly-1"], &children, "2026-11-21T02:30:00Z");
    assert_eq!(decision.start.unwrap().replaces, [LAST]);
}

#[test]
fn a_start_after_its_deadline_is_skipped_and_told() {
    let spec = spec(json!({"startingDeadlineSeconds": 3600}));
    let decision = look(&spec, &[], &[], "2026-11-21T03:30:01Z");
    let late = Skipped::TooLate(time("2026-11-21T02:30:00Z"));
    assert_eq!((decision.start, decision.skipped), (None, Some(late)));
    assert_eq!(late.event().reason(), "MissSchedule");
    assert_eq!(look(&spec, &[], &[], "2026-11-21T03:29:59Z").start.unwrap().name, DUE);
}

#[test]
fn a_hundred_missed_starts_are_told_and_the_last_one_is_made_up_for() {
    let spec = spec(json!({"schedule": "* * * * *"}));
    let decision = look(&spec, &[], &[], "2026-11-20T04:11:30Z");
    assert_eq!(decision.start.unwrap().scheduled_time, time("2026-11-20T04:11:00Z"));
    assert_eq!(decision.events, [Event::TooManyMissedTimes(101)]);
    assert_eq!(look(&spec, &[], &[], "2026-11-20T04:10:30Z").events, []);
}

#[test]
fn a_clock_that_went_back_starts_nothing_again() {
    let decision = look(&spec(json!({})), &[], &[], "2026-11-19T02:30:00Z");
    assert_eq!((decision.start, decision.skipped), (None, None));
    assert_eq!(decision.next_schedule_time, Some(time("2026-11-21T02:30:00Z")));
}

#[test]
fn what_cannot_be_followed_starts_nothing_and_waits_for_a_change() {
    for (changes, reason) in [
        (json!({"timeZone": "Europe/Berlyn"}), Some("UnknownTimeZone")),
        (json!({"schedule": "60 * * * *"}), Some("UnparseableSchedule")),
        (json!({"schedule": "0 0 31 2 *"}), Some("InvalidSchedule")),
        (json!({"suspend": true}), None),
    ] {
        let decision = look(&spec(changes.clone()), &[], &[], "2026-11-25T00:00:00Z");
        assert_eq!(decision.events.first().map(Event::reason), reason, "{changes}");
        assert_eq!((decision.start, decision.next_schedule_time), (None, None), "{changes}");
    }
}

#[test]
fn the_oldest_children_that_ended_go_and_running_ones_stay() {
    let spec = spec(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
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
    assert_eq!(history(&spec, &children), ["a", "b", "f"]);
}
