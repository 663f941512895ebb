//! `spec.canary`: its requests go alone, and the others wait for an approval, which the journal keeps.

use batchjob_operator::api::{CanaryApproval, OnExceeded, PROTOCOL_VERSION, PROTOCOL_VERSION_OF_CANARY, annotations};
use batchjob_operator::lifecycle::{Approval, CostLimit, MaxFailed, PlannedCanary};

use super::budget::{cost, of, of_a_dollar, uploaded, usd, with_budget, without_files};
use super::*;

/// A canary of the first ten requests.
const CANARY: PlannedCanary = PlannedCanary { requests: 10, before: 10 };
const QUESTION: &str = "canary-w";

fn job(approval: CanaryApproval) -> JobView {
    JobView { canary: Some(approval), budget: None, ..with_budget("5", OnExceeded::Hold) }
}

fn manual() -> JobView {
    job(CanaryApproval::Manual)
}

/// A canary of one shard in this state, and twenty requests behind it.
fn planned(state: Option<AttemptState>) -> Journal {
    let mut journal = of(vec![of_a_dollar(0, state), of_a_dollar(1, None), of_a_dollar(2, None)]);
    journal.plan.as_mut().unwrap().canary = Some(CANARY);
    journal.next(|_| {})
}

fn done() -> Journal {
    planned(cost("0.25"))
}

#[track_caller]
fn question(step: Step) -> batchjob_operator::api::Hold {
    let Step::Wait { why, .. } = step else { panic!("it does not wait: {step:?}") };
    why.holds.first().cloned().expect("a question")
}

#[track_caller]
fn swapped(step: Step) -> Journal {
    let Step::Swap(next) = step else { panic!("the journal is not written: {step:?}") };
    next
}

fn sent(step: &Step) -> Option<usize> {
    let Step::WriteIntent { journal, intent_id } = step else { return None };
    journal
        .shards
        .entries()
        .find(|(_, s)| s.attempt.as_ref().is_some_and(|a| a.intent_id == *intent_id))
        .map(|(i, _)| i)
}

#[test]
fn the_canary_goes_first_and_nothing_beside_it() {
    let unsent = planned(None);
    assert_eq!(sent(&step(&manual(), Some(&unsent), &uploaded(3))), Some(0));
    let running = planned(Some(AttemptState::Submitted { batch_id: "batch-0".into(), at: NOW }));
    let Step::Wait { why, .. } = step(&manual(), Some(&running), &uploaded(3)) else { panic!("it sends more") };
    assert!(why.holds.is_empty(), "it is not done");
    let not_uploaded = Memory { uploads: BTreeMap::new(), ..uploaded(3) };
    assert!(matches!(step(&manual(), Some(&running), &not_uploaded), Step::Wait { .. }), "nor is more uploaded");
}

#[test]
fn the_question_has_the_figures_and_the_annotation_to_copy() {
    let asked = question(step(&manual(), Some(&done()), &uploaded(3)));
    assert_eq!((asked.id.as_str(), asked.answers.as_slice()), (QUESTION, [QUESTION.to_string()].as_slice()));
    assert_eq!(asked.annotation.as_deref(), Some(annotations::APPROVE));
    insta::assert_snapshot!(asked.message, @"the canary is done: 10 of 10 requests were answered, for $0.25. The other 20 requests wait for approval, and are projected to cost $0.50, at the cost per request of the canary. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has");
    let (job, journal, memory) = (manual(), done(), uploaded(3));
    let o = Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
    let status = project(&o, &BatchJobStatus::default(), Some(1), &decide(&o)).unwrap();
    let held = status.conditions.iter().find(|c| c.type_ == "Held").unwrap();
    assert!(
        held.message.ends_with("Answer with `kubectl -n n annotate --overwrite bjob j llmbatch.dev/approve=canary-w`")
    );
    let other = JobView { approves: Some("canary-x".into()), ..manual() };
    assert!(question(step(&other, Some(&journal), &memory)).message.contains("has 'canary-x'"));
}

#[test]
fn answers_that_may_be_none_are_told() {
    let mut journal = done();
    let Some(AttemptState::Settled { usage, counts, .. }) = journal.shards[0].attempt.as_mut().map(|a| &mut a.state)
    else {
        panic!("not settled")
    };
    (usage.answers.empty, usage.answers.truncated) = (2, 1);
    *counts = RequestCounts { total: 10, succeeded: 7, failed: 3, ..Default::default() };
    let asked = question(step(&manual(), Some(&journal), &uploaded(3)));
    insta::assert_snapshot!(asked.message, @"the canary is done: 7 of 10 requests were answered (2 empty, 1 truncated), for $0.25. The other 20 requests wait for approval, and are projected to cost $0.50, at the cost per request of the canary. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has");
    let free = JobView { provider: Some(beginnings::provider()), ..manual() };
    let Some(AttemptState::Settled { cost, .. }) = journal.shards[0].attempt.as_mut().map(|a| &mut a.state) else {
        panic!("not settled")
    };
    *cost = None;
    let asked = question(step(&free, Some(&journal), &uploaded(3)));
    insta::assert_snapshot!(asked.message, @"the canary is done: 7 of 10 requests were answered (2 empty, 1 truncated). The other 20 requests wait for approval. What they will cost is unknown, and so is the cost of the canary's batches, for one ran without prices of its model. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has");
}

#[test]
fn an_approval_is_kept_in_the_journal_and_asked_for_once() {
    let approved = JobView { approves: Some(QUESTION.into()), ..manual() };
    let next = swapped(step(&approved, Some(&done()), &uploaded(3)));
    assert_eq!(next.approval, Some(Approval { by: CanaryApproval::Manual, at: NOW }));
    // The annotation is gone, and the process is another one.
    assert_eq!(sent(&step(&manual(), Some(&next), &uploaded(3))), Some(1));
    let suspended = JobView { suspend: true, ..approved };
    let Step::Wait { why, .. } = step(&suspended, Some(&done()), &uploaded(3)) else { panic!("it goes on") };
    assert_eq!((why.stage, why.holds.len()), ("Suspended", 0));
}

#[test]
fn an_object_that_is_created_again_needs_no_second_approval_and_gives_none() {
    let again = |job: JobView| JobView { owner: owner("j", "u2"), submitted: false, batches: vec![], ..job };
    let takes = |journal: &Journal| swapped(step(&again(manual()), Some(journal), &the_same_work(uploaded(3))));
    let approved = done().next(|j| j.approval = Some(Approval { by: CanaryApproval::Manual, at: 1 }));
    let adopted = takes(&approved);
    assert_eq!(adopted.approval, approved.approval);
    assert_eq!(sent(&step(&again(manual()), Some(&adopted), &uploaded(3))), Some(1));
    assert_eq!(question(step(&again(manual()), Some(&takes(&done())), &uploaded(3))).id, QUESTION);
}

#[test]
fn a_canary_that_is_removed_from_the_spec_is_approved() {
    for state in [None, cost("0.25")] {
        let next = swapped(step(&JobView { canary: None, ..manual() }, Some(&planned(state)), &uploaded(3)));
        assert_eq!(next.approval, Some(Approval { by: CanaryApproval::Manual, at: NOW }));
    }
    // One that is added after the plan counts for nothing.
    let mut without = done();
    without.plan.as_mut().unwrap().canary = None;
    assert_eq!(sent(&step(&manual(), Some(&without), &uploaded(3))), Some(1));
}

#[test]
fn automatic_goes_on_within_failures_and_budget_and_asks_a_person_otherwise() {
    let failed = |failed: i64| {
        let mut journal = done();
        let Some(AttemptState::Settled { counts, .. }) = journal.shards[0].attempt.as_mut().map(|a| &mut a.state)
        else {
            panic!("not settled")
        };
        (counts.succeeded, counts.failed) = (10 - failed, failed);
        journal
    };
    let automatic = |max_failed, most: Option<&str>| {
        let budget = most.map(|most| CostLimit { most: usd(most), on_exceeded: OnExceeded::Hold });
        JobView { max_failed, budget, ..job(CanaryApproval::Automatic) }
    };
    let goes_on = |job: JobView, journal: Journal| match step(&job, Some(&journal), &uploaded(3)) {
        Step::Swap(next) if next.approval.is_some() => {
            assert_eq!(next.approval.unwrap().by, CanaryApproval::Automatic);
            None
        }
        other => Some(question(other).message),
    };
    // A tenth of the canary, though it is no tenth of all requests.
    assert_eq!(goes_on(automatic(Some(MaxFailed::Percent(10)), None), failed(1)), None);
    let asked = goes_on(automatic(Some(MaxFailed::Percent(10)), None), failed(2)).unwrap();
    insta::assert_snapshot!(asked, @"the canary is done: 8 of 10 requests were answered, for $0.25. The other 20 requests wait for approval, and are projected to cost $0.50, at the cost per request of the canary. They are not sent without a person: more than the 10% of `spec.maxFailedRequests` failed. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has");
    assert_eq!(goes_on(automatic(Some(MaxFailed::Count(2)), None), failed(2)), None);
    assert_eq!(goes_on(automatic(None, None), failed(9)), None);
    for max in [None, Some(MaxFailed::Count(1_000)), Some(MaxFailed::Percent(100))] {
        let asked = goes_on(automatic(max, None), failed(10)).unwrap();
        assert!(asked.contains("no request of the canary has an answer that counts"), "{max:?}: {asked}");
    }
    // Twenty requests at a fortieth of a dollar each, beside the canary.
    assert_eq!(goes_on(automatic(None, Some("0.75")), failed(0)), None);
    let asked = goes_on(automatic(None, Some("0.74")), failed(0)).unwrap();
    insta::assert_snapshot!(asked, @"the canary is done: 10 of 10 requests were answered, for $0.25. The other 20 requests wait for approval, and are projected to cost $0.50, at the cost per request of the canary. They are not sent without a person: $0.75 for the whole job is more than the $0.74 of `spec.budget.maxCostUSD`. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has");
    // A person may approve all the same.
    let approved = JobView { approves: Some(QUESTION.into()), ..automatic(None, Some("0.74")) };
    let next = swapped(step(&approved, Some(&done()), &uploaded(3)));
    assert_eq!(next.approval.unwrap().by, CanaryApproval::Manual);
}

/// An operator of an earlier version would send all of it.
#[test]
fn a_journal_with_a_canary_is_of_a_version_that_earlier_operators_leave_alone_until_it_is_approved() {
    assert_eq!(done().protocol_version, PROTOCOL_VERSION_OF_CANARY);
    let approved = done().next(|j| j.approval = Some(Approval { by: CanaryApproval::Manual, at: 1 }));
    assert_eq!(approved.protocol_version, PROTOCOL_VERSION);
}

#[test]
fn a_job_that_is_told_to_stop_ends_with_the_answers_of_its_canary() {
    for stop in [StopPolicy::Drain, StopPolicy::Cancel] {
        let end =
            swapped(step(&JobView { stop: Some(stop), ..manual() }, Some(&done()), &without_files(3))).commit.unwrap();
        assert_eq!((end.outcome, end.requests.succeeded, end.requests.cancelled), (Outcome::Cancelled, 10, 20));
    }
}

/// Reused answers were settled from the beginning, and are neither the canary's nor among the others.
#[test]
fn reused_answers_are_no_part_of_a_canary() {
    let mut journal = of(vec![
        Shard { requests: 5, ..super::reuse::reused() },
        Shard { first: 5, ..of_a_dollar(1, cost("0.25")) },
        of_a_dollar(2, None),
    ]);
    let plan = journal.plan.as_mut().unwrap();
    (plan.requests, plan.canary) = (25, Some(PlannedCanary { requests: 10, before: 15 }));
    let asked = question(step(&manual(), Some(&journal), &uploaded(3)));
    assert!(asked.message.contains("10 of 10 requests") && asked.message.contains("other 10 requests"), "{asked:?}");
}

/// A half has the index of its first request.
#[test]
fn halves_of_the_canary_are_sent_before_its_approval() {
    let mut journal = planned(cost("0.25"));
    journal.shards[0].requests = 5;
    let Some(AttemptState::Settled { counts, .. }) = journal.shards[0].attempt.as_mut().map(|a| &mut a.state) else {
        panic!("not settled")
    };
    *counts = RequestCounts { total: 5, succeeded: 5, ..Default::default() };
    journal.shards.push(Shard { first: 5, requests: 5, ..of_a_dollar(3, None) });
    assert_eq!(sent(&step(&manual(), Some(&journal), &uploaded(4))), Some(3));
}
