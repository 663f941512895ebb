//! The events that follow from changes.

use super::*;
use crate::api::{BatchUsage, CostStatus, RequestCounts, TokenUsage, UsageStatus};
use crate::lifecycle::{CollectResult, Owner, PartRef, Payload, Refusal, Rejection, Shard, UsageTotals};
use crate::money::Cost;

fn journal(state: AttemptState, declined: Option<Rejection>) -> Journal {
    let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
    let mut journal = Journal::open("w".into(), owner, "s".into());
    let attempt = Attempt { declined, state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") };
    journal.shards.push(Shard { requests: 3, attempt: Some(attempt), ..Shard::default() });
    journal
}

fn told(old: &Journal, new: &Journal) -> Vec<(&'static str, String)> {
    events_of(old, new).into_iter().map(|news| (news.reason, news.note)).collect()
}

/// Case 24-create-refused-at-once: a server's error is an answer, and not reported as a lost reply.
#[test]
fn what_a_server_answered_with_is_told_and_not_called_lost() {
    let said = Some(Rejection::new(Refusal::Failed, "model is required (400)"));
    let intended = journal(AttemptState::Intended, None);
    let declined = journal(AttemptState::Intended, said.clone());
    let revoking = journal(AttemptState::Revoking, said);
    for (old, new, reason) in
        [(&intended, &declined, "SubmissionDeclined"), (&declined, &revoking, "SubmissionUnknown")]
    {
        let told = told(old, new);
        assert!(told.len() == 1 && told[0].0 == reason, "{told:?}");
        assert!(told[0].1.contains("model is required (400)") && !told[0].1.contains("lost"), "{told:?}");
    }
    let unanswered = told(&intended, &journal(AttemptState::Revoking, None));
    assert!(unanswered[0].1.contains("the reply to its submission was lost"), "{unanswered:?}");
}

#[test]
fn rows_that_were_delivered_twice_are_told_with_the_end_of_their_batch() {
    let submitted = journal(AttemptState::Submitted { batch_id: "b".into(), at: 0 }, None);
    let counts = RequestCounts { total: 3, succeeded: 3, ..Default::default() };
    let usage = BatchUsage { repeated_rows: 2, ..Default::default() }.into();
    let (batch_id, ended) = ("b".into(), "completed".into());
    let (part, retryable, cost, errors, files) = Default::default();
    let settled = AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, cost, errors, files };
    let told = told(&submitted, &journal(settled, None));
    let note = "batch 00000-1 (b) ended as 'completed': 3 of 3 requests succeeded; 2 rows were delivered twice, the first of each \
                counts";
    assert_eq!(told, [("BatchEnded", note.to_string())]);
}

#[test]
fn a_suspension_and_its_end_are_told_and_the_end_of_a_suspended_job_is_no_resumption() {
    let of = |type_: &str, status: &str| -> Condition {
        serde_json::from_value(serde_json::json!({"type": type_, "status": status, "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .unwrap()
    };
    let told = |old: &[(&str, &str)], new: &[(&str, &str)]| -> Vec<&str> {
        let [old, new] = [old, new].map(|all| all.iter().map(|(t, s)| of(t, s)).collect::<Vec<_>>());
        events_of_conditions(&old, Some(&new)).into_iter().map(|news| news.reason).collect()
    };
    let (suspended, resumed) = (("Suspended", "True"), ("Suspended", "False"));
    assert_eq!(told(&[resumed], &[suspended]), ["Suspended"]);
    assert_eq!(told(&[suspended], &[resumed, ("Complete", "Unknown")]), ["Resumed"]);
    assert!(told(&[], &[resumed]).is_empty(), "it was never suspended");
    for status in ["True", "False"] {
        assert!(told(&[suspended], &[resumed, ("Complete", status)]).is_empty());
    }
}

#[test]
fn a_stop_is_told_once_when_it_is_seen() {
    let complete = |reason: &str| -> Condition {
        serde_json::from_value(serde_json::json!({"type": "Complete", "status": "Unknown", "reason": reason,
            "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .unwrap()
    };
    let told = |old: &str, new: &str| -> Vec<&str> {
        let news = events_of_conditions(&[complete(old)], Some(&[complete(new)]));
        news.into_iter().map(|news| news.reason).collect()
    };
    assert_eq!(told("InProgress", "Draining"), ["Draining"]);
    assert_eq!(told("Draining", "Cancelling"), ["Cancelling"]);
    assert!(told("Draining", "Draining").is_empty() && told("Draining", "Held").is_empty());
}

#[test]
fn the_beginning_of_a_wait_for_input_is_told_once() {
    let of = |reason: &str| -> Vec<Condition> {
        serde_json::from_value(
            serde_json::json!([{"type": "Complete", "status": "Unknown", "reason": reason, "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]),
        )
        .unwrap()
    };
    let told = |old: &[Condition], new: &str| {
        events_of_conditions(old, Some(&of(new))).into_iter().map(|news| news.reason).collect::<Vec<_>>()
    };
    for old in [&[][..], &of("Pending"), &of("Planning")] {
        assert_eq!(told(old, "WaitingForInput"), ["WaitingForInput"], "{old:?}");
    }
    assert!(
        told(&of("WaitingForInput"), "WaitingForInput").is_empty()
            && told(&of("WaitingForInput"), "InProgress").is_empty()
    );
}

#[test]
fn batches_that_do_not_get_on_are_told_once() {
    let of = |progressing: (&str, &str), stalled: &str| -> Vec<Condition> {
        let condition = |type_: &str, (status, reason): (&str, &str)| {
            serde_json::json!({"type": type_, "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let all = [condition("Progressing", progressing), condition("Stalled", (stalled, progressing.1))];
        serde_json::from_value(serde_json::json!(all)).unwrap()
    };
    let goes = of(("True", "AwaitingProvider"), "False");
    let late = of(("False", "BatchesPastExpiry"), "False");
    let stuck = of(("False", "ProgressDeadlineExceeded"), "True");
    for (old, new, told) in [
        (&[][..], &late, &["BatchesPastExpiry"][..]),
        (&goes, &late, &["BatchesPastExpiry"]),
        (&late, &late, &[]),
        (&late, &stuck, &["ProgressDeadlineExceeded"]),
        (&stuck, &stuck, &[]),
        (&stuck, &goes, &[]),
        (&[], &goes, &[]),
    ] {
        let news = events_of_conditions(old, Some(new)).into_iter();
        assert_eq!(news.map(|news| news.reason).collect::<Vec<_>>(), told, "{old:?} {new:?}");
    }
}

#[test]
fn totals_that_differ_are_told_once_when_the_batch_is_settled() {
    let running = journal(AttemptState::Submitted { batch_id: "b".into(), at: 0 }, None);
    let settled = journal(
        AttemptState::Settled {
            batch_id: "b".into(),
            ended: "completed".into(),
            part: None,
            counts: Default::default(),
            retryable: 0,
            usage: Default::default(),
            cost: None,
            errors: vec![],
            files: vec![],
        },
        None,
    );
    let told = |old: &Journal, new: &Journal, input_tokens: i64| {
        let totals =
            UsageTotals { provider: TokenUsage { input_tokens, ..Default::default() }, answers: Default::default() };
        let collected = CollectResult {
            part: PartRef { name: "p".into(), sha256: "s".into() },
            counts: Default::default(),
            retryable: 0,
            usage: Default::default(),
            totals: Some(totals),
            errors: vec![],
            files: vec![],
            short: None,
            long_context_above: None,
            foreign: 0,
        };
        let memory = Memory { collected: [("b".into(), collected)].into(), ..Default::default() };
        let news = events_of_usage(old, new, &memory).into_iter();
        news.map(|news| (news.warning, news.reason, news.note)).collect::<Vec<_>>()
    };
    let [(warning, reason, note)] = &told(&running, &settled, 7)[..] else { panic!("one event") };
    assert_eq!((*warning, *reason), (true, "UsageDiffers"));
    assert!(note.starts_with("batch 00000-1 (b): the provider counts 7 input and 0 output tokens"), "{note}");
    assert!(told(&running, &settled, 0).is_empty() && told(&settled, &settled, 7).is_empty());
    assert!(told(&running, &running, 7).is_empty(), "it may be collected again");
}

#[test]
fn the_end_of_a_canary_and_its_approval_are_told_once() {
    let counts = RequestCounts { total: 3, succeeded: 3, ..RequestCounts::default() };
    let part = Some(PartRef { name: "p".into(), sha256: "s".into() });
    let (batch_id, ended, cost) = ("b".into(), "completed".into(), Some(Box::default()));
    let (usage, errors, files) = (Box::default(), vec![], vec![]);
    let settled = AttemptState::Settled { batch_id, ended, part, counts, retryable: 0, usage, cost, errors, files };
    let with_canary = |state| {
        let mut journal = journal(state, None);
        let input = serde_json::json!({"version": "v", "sizeBytes": 1, "sources": 1, "skipped": 0});
        let plan =
            serde_json::json!({"workHash": "h", "input": input, "requests": 5, "canary": {"requests": 3, "before": 3}});
        journal.plan = Some(serde_json::from_value(plan).unwrap());
        journal.shards.push(Shard { first: 3, requests: 2, ..Shard::default() });
        journal
    };
    let runs = with_canary(AttemptState::Submitted { batch_id: "b".into(), at: 0 });
    let done = with_canary(settled);
    let news = told(&runs, &done);
    let canary: Vec<_> = news.iter().filter(|(reason, _)| *reason == "CanaryDone").collect();
    assert!(canary.len() == 1 && canary[0].1.contains("3 of 3 requests were answered"), "{news:?}");
    assert!(told(&done, &done).is_empty());
    for (by, whose) in [(CanaryApproval::Manual, "a person"), (CanaryApproval::Automatic, "the figures")] {
        let approved = Journal { approval: Some(Approval { by, at: 7 }), ..done.clone() };
        let news = told(&done, &approved);
        assert!(news.len() == 1 && news[0].0 == "Approved" && news[0].1.starts_with(whose), "{news:?}");
        assert!(told(&approved, &approved).is_empty());
    }
}

#[test]
fn halves_and_what_was_billed_twice_are_told() {
    let refused =
        |at| AttemptState::Refused { refusal: Refusal::TokenLimit, message: "90,000".into(), at, retry_at: None };
    let whole = journal(refused(7), None);
    let mut halves = journal(refused(0), None);
    (halves.shards[0].sha256, halves.shards[0].requests) = ("a".into(), 2);
    halves.shards.push(Shard { attempt: None, requests: 1, ..whole.shards[0].clone() });
    let halved = told(&whole, &halves);
    assert!(halved[0].0 == "BatchHalved" && halved[0].1.contains("of 2 and 1 requests: 90,000"), "{halved:?}");
    let mut billed = whole.clone();
    billed.shards[0].attempt.as_mut().unwrap().billed_again = 3;
    let twice = told(&whole, &billed);
    assert!(twice.len() == 1 && twice[0].0 == "BilledTwice" && twice[0].1.contains("up to 3 requests"), "{twice:?}");
    assert!(!twice[0].1.contains('$'), "{twice:?}");
}

#[test]
fn the_cost_of_requests_that_were_billed_twice_is_that_of_the_others_of_their_batch() {
    let cost = Cost { batch: Usd::parse("0.60").unwrap(), real_time: Usd::parse("1.20").unwrap() };
    let settled = AttemptState::Settled {
        batch_id: "b".into(),
        ended: "completed".into(),
        part: None,
        counts: RequestCounts { total: 3, succeeded: 3, ..Default::default() },
        retryable: 0,
        usage: Default::default(),
        cost: Some(Box::new(cost)),
        errors: vec![],
        files: vec![],
    };
    let mut billed = journal(settled, None);
    billed.shards[0].attempt.as_mut().unwrap().billed_again = 2;
    let twice = told(&journal(AttemptState::Intended, None), &billed);
    let note = &twice.iter().find(|(reason, _)| *reason == "BilledTwice").unwrap().1;
    assert!(note.starts_with("up to 2 requests of batch 00000-1 were billed twice, for about $0.40: "), "{note}");
}

#[test]
fn the_event_at_the_end_has_tokens_and_cost_as_far_as_they_are_known() {
    let tokens = TokenUsage { input_tokens: 1_200_000, output_tokens: 400_000, ..Default::default() };
    let written = |amount: &str| Some(amount.to_string());
    let cost = CostStatus { actual_usd: written("3.12"), saved_usd: written("3.12"), ..Default::default() };
    let manifest = |outcome, spending| ManifestView {
        work_id: "w".into(),
        work_hash: "h".into(),
        outcome,
        reason: "R".into(),
        message: "all 10000 requests succeeded".into(),
        requests: RequestCounts::default(),
        at: 0,
        files: vec![],
        errors: vec![],
        spending,
    };
    let usage = Some(UsageStatus { tokens, models: vec![] });
    let whole = Spending { usage: usage.clone(), cost: Some(cost), ..Default::default() };
    let unpriced = Spending { usage, ..Default::default() };
    let told = |outcome, spending, reused| {
        let EventRecord { reason, note, .. } = at_the_end(&manifest(outcome, spending), reused);
        format!("{reason}: {note}")
    };
    for (outcome, spending, reused, expected) in [
        (
            Outcome::Succeeded,
            &whole,
            false,
            "Completed: all 10000 requests succeeded, 1.2M + 400k tokens, $3.12 (saved $3.12)",
        ),
        (
            Outcome::Succeeded,
            &unpriced,
            false,
            "Completed: all 10000 requests succeeded, 1.2M + 400k tokens; no cost is known: that takes prices of all \
             models (`kubectl explain batchprovider.spec.models`), and usage in answers",
        ),
        (Outcome::Failed, &Spending::default(), false, "Failed: all 10000 requests succeeded"),
        (
            Outcome::Succeeded,
            &whole,
            true,
            "ResultsReused: all 10000 requests succeeded; nothing was sent or paid again: the job that wrote the \
             results took 1.2M + 400k tokens, $3.12 (saved $3.12)",
        ),
    ] {
        assert_eq!(told(outcome, spending.clone(), reused), expected);
    }
}
