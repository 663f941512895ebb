//! States of jobs: what they hold, and what ends them.

use super::*;
use crate::controller::StepError;
use crate::lifecycle::{AttemptKey, PollResult, PolledState};

fn fails(job_state: &JobState, what: Option<Task>, reason: &'static str, now: i64) {
    let error =
        StepError { api_server_unavailable: reason == "KubernetesUnavailable", ..StepError::passing(reason, "") };
    job_state.failed(what, FailedCall { call: "Call", error, elapsed: 0 }, now, 0);
}

/// Returns the tasks that may not be tried again yet at `now`, and the time at which the first of them may.
fn held_back(job_state: &JobState, now: i64) -> (BTreeSet<Task>, Option<i64>) {
    let mut memory = Memory { failed_calls: job_state.failed_calls(), ..Default::default() };
    let due = memory.hold_back(now);
    (memory.running, due)
}

#[test]
fn a_hint_reaches_the_job_that_follows_the_batch_also_after_its_findings_were_let_go() {
    let states = JobStates::default();
    let job: BatchJob = serde_json::from_value(serde_json::json!({
        "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "j", "namespace": "n"},
        "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}},
    }))
    .unwrap();
    let state = states.get("u", &job);
    let named = std::cell::Cell::new(false);
    let hint = |uid: &str, batch_id: &str| states.hint(uid, batch_id, 1_000, |_| named.get());
    assert_eq!(hint("u", "b"), None, "it was looked at by nobody, and status does not name it");
    named.set(true);
    assert_eq!(hint("u", "b"), Some(ObjectRef::from_obj(&job)), "a visit looks at all of its batches");
    let look = PollResult { at: 10, seen: PolledState::Running { state: "runs".into(), done: 0 } };
    state.remember(|m| _ = m.looks.insert("b".into(), look));
    assert_eq!(hint("u", "foreign"), None);
    assert_eq!(state.memory().hinted("b", 10), None);
    assert_eq!(hint("u", "b"), Some(ObjectRef::from_obj(&job)));
    assert_eq!(state.memory().hinted("b", 10), Some(1_000));
    assert_eq!(hint("another", "b"), None);
}

#[test]
fn a_job_state_that_is_let_go_keeps_what_is_small_and_what_nothing_else_says() {
    let long = |job_state: &JobState, bytes: usize| job_state.remember(|m| m.error = Some("x".repeat(bytes)));
    let kept = |job_state: &JobState| job_state.memory().error.is_some();
    let job_state = JobState::default();
    long(&job_state, SMALL / 2);
    assert_eq!(job_state.weight(), 0);
    job_state.let_go(&Budget::new(OF_DELETIONS));
    assert!(kept(&job_state));
    long(&job_state, SMALL);
    assert!(job_state.weight() > SMALL);
    job_state.remember(|m| _ = m.running.insert(Task::Plan));
    job_state.let_go(&Budget::new(OF_DELETIONS));
    assert!(kept(&job_state), "a call is under way");
    job_state.remember(|m| m.running.clear());
    job_state.let_go(&Budget::new(OF_DELETIONS));
    assert!(!kept(&job_state) && job_state.weight() == 0);
}

#[test]
fn clients_of_a_deletion_are_kept_and_one_namespace_leaves_memory_for_those_of_another() {
    let budget = Budget::new(OF_DELETIONS);
    let state = |namespace: &str| {
        let state = JobState::default();
        *lock(&state.job) = Some(ObjectRef::new("j").within(namespace));
        state
    };
    let keeps = |state: &JobState, bytes, is_deleting| state.keeps_clients(bytes, is_deleting, &budget);
    assert!(keeps(&state("a"), SMALL, false) && !keeps(&state("a"), SMALL + 1, false));
    let deleted: Vec<JobState> = (0..1_000).map(|_| state("a")).filter(|job| keeps(job, 48 << 10, true)).collect();
    assert_eq!(deleted.len(), 85, "half of 8 MiB");
    assert!(keeps(&deleted[0], 48 << 10, false), "once kept, it is kept");
    assert!(keeps(&state("b"), 48 << 10, true));
    drop(deleted);
    assert!(keeps(&state("a"), 48 << 10, true), "memory of jobs that are gone is free");
}

#[test]
fn texts_of_many_failures_are_shortened_when_a_job_state_is_let_go_and_their_next_tries_stay() {
    let job_state = JobState::default();
    for shard in 0..100 {
        let error = StepError::passing("ProviderUnavailable", "x".repeat(1_000));
        let task = Task::Call(AttemptKey { shard, attempt: 1 });
        job_state.failed(Some(task), FailedCall { call: "Poll", error, elapsed: 0 }, 1, 0);
    }
    let (weight, tries) = (job_state.weight(), job_state.failed_calls());
    job_state.let_go(&Budget::new(OF_DELETIONS));
    assert!(weight > 100_000 && job_state.weight() < 40_000, "{weight} and {} bytes", job_state.weight());
    assert_eq!(job_state.failed_calls(), tries);
}

#[test]
fn what_goes_well_does_not_hide_what_does_not_and_what_does_not_holds_nothing_else_back() {
    let job_state = JobState::default();
    let collect = Task::Collect(AttemptKey { shard: 1, attempt: 1 });
    for now in 0..4 {
        fails(&job_state, Some(collect), "ProviderUnavailable", now);
        fails(&job_state, None, "StorageUnavailable", now);
        job_state.succeeded(None);
        job_state.succeeded(Some(Task::Plan));
    }
    assert_eq!(job_state.backoff(None).failures, 0, "the steps go well");
    let blocked = || job_state.lasting(|_| true).and_then(|b| b.blocked()).map(|blocked| blocked.reason);
    assert_eq!((job_state.backoff(Some(collect)).failures, blocked()), (4, Some("ProviderUnavailable")));
    (0..9).for_each(|now| fails(&job_state, None, "KubernetesUnavailable", now));
    assert_eq!(blocked(), Some("ProviderUnavailable"), "what cannot be told hides nothing");
    assert_eq!(held_back(&job_state, 8_002), ([collect].into(), Some(8_003)));
    assert_eq!(held_back(&job_state, 8_003), (BTreeSet::new(), None));
    job_state.waits_for(&[collect].into());
    assert_eq!(blocked(), Some("ProviderUnavailable"), "it is being tried");
    job_state.waits_for(&BTreeSet::new());
    assert_eq!(blocked(), None, "nobody tries it any more");
}

#[test]
fn the_failures_of_one_batch_are_not_reset_by_anothers_success() {
    let job_state = JobState::default();
    let [bad, good] = [0, 1].map(|shard| Some(Task::Call(AttemptKey { shard, attempt: 1 })));
    for now in 0..5 {
        fails(&job_state, bad, "ProviderUnavailable", now);
        job_state.succeeded(good);
    }
    assert_eq!(job_state.lasting(|_| true).map(|b| b.failures), Some(5));
}

#[test]
fn an_account_that_is_back_is_tried_at_once_and_its_failures_are_not_forgotten() {
    let job_state = JobState::default();
    let poll = Task::Call(AttemptKey { shard: 0, attempt: 1 });
    (0..5).for_each(|now| fails(&job_state, Some(poll), "ProviderUnavailable", now));
    assert!(held_back(&job_state, 5).0.contains(&poll));
    assert!(job_state.try_again());
    assert_eq!((held_back(&job_state, 5), job_state.backoff(Some(poll)).failures), ((BTreeSet::new(), None), 5));
    job_state.succeeded(Some(poll));
    assert!(!job_state.try_again(), "there is nothing to try");
}
