//! What is sent, searched for and believed.

use super::*;

#[test]
fn a_batch_that_our_own_post_made_beside_the_recorded_one_is_cancelled() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    memory.posted.insert("intent-1".into(), PostResult::Created("batch-2".into()));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Poll(_)), "it may have been turned away");
    memory.looks.insert("batch-1".into(), seen(running()));
    assert_eq!(step(&job(), Some(&journal), &memory), cancel("batch-2"));
    memory.cancelled.insert("batch-2".into());
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "once for others");
}

#[test]
fn what_keeps_failing_of_one_batch_holds_up_no_other() {
    let mut two = journal(owner("j", "u"), submitted());
    let other = AttemptState::Submitted { batch_id: "batch-2".into(), at: NOW - 100_000 };
    two.shards.push(shard(Some(other)));
    let [first, second] = [0, 1].map(|shard| AttemptKey { shard, attempt: 1 });
    let mut memory = searched(memory());
    assert_eq!(step(&job(), Some(&two), &memory), Step::Poll(first));
    memory.running.insert(Task::Call(first));
    assert_eq!(step(&job(), Some(&two), &memory), Step::Poll(second));
    let late = JobView { deadline: Some(NOW), ..job() };
    two.out_of_time_since = Some(NOW);
    memory.searches.clear();
    memory.looks.insert("batch-1".into(), seen(running()));
    assert_eq!(step(&late, Some(&two), &memory), cancel("batch-1"), "though a search is due, and fails");
    memory = Memory { running: memory.running, ..searched(self::memory()) };
    let earlier = PollResult { at: NOW - 60_000, seen: running() };
    memory.running.clear();
    memory.looks.insert("batch-1".into(), earlier);
    assert_eq!(step(&late, Some(&two), &memory), cancel("batch-1"));
    memory.running.insert(Task::Cancel(first));
    assert_eq!(step(&late, Some(&two), &memory), Step::Poll(first), "it may have ended by itself");
    memory.running.insert(Task::Call(first));
    assert_eq!(step(&late, Some(&two), &memory), Step::Poll(second));
    memory.failed_calls.extend([
        (Task::Call(first), NOW - 2),
        (Task::Call(second), NOW - 3),
        (Task::Cancel(first), NOW - 1),
    ]);
    memory.running.clear();
    assert_eq!(step(&late, Some(&two), &memory), Step::Poll(second), "what waited longest is tried first");
    memory.failed_calls.remove(&Task::Cancel(first));
    assert_eq!(step(&late, Some(&two), &memory), cancel("batch-1"), "what did not fail comes before what did");
    memory.failed_calls.insert(Task::Cancel(first), NOW - 1);
    let (timing, journal) = (&TIMING, Some(&two));
    let waited = Observed { now: NOW + 40_000, nonce: "n", timing, job: &late, journal, memory: &memory };
    assert!(decide(&waited).call().is_some_and(|call| memory.failed_calls.contains_key(&call)), "not put off for ever");
    two.out_of_time_since = None;
    two.shards.push(shard(None));
    memory.uploads.insert((AttemptKey { shard: 2, attempt: 1 }, "s".into()), "file-3".into());
    assert!(matches!(step(&job(), Some(&two), &memory), Step::WriteIntent { .. }), "and so does what may start");
    memory.last_step_failed = true;
    assert_eq!(step(&job(), Some(&two), &memory), Step::Poll(second), "unless that is what fails");
    assert_eq!(cancel("batch-1").call(), Some(Task::Cancel(first)));
    assert_eq!(cancel("batch-2").call(), Some(Task::CancelTwin(first)));
    assert_eq!(Step::Poll(second).call(), Some(Task::Call(second)));
}

/// Of the first shard's submission.
fn cancel(batch_id: &str) -> Step {
    Step::Cancel {
        attempt_key: AttemptKey { shard: 0, attempt: 1 },
        twin: batch_id == "batch-2",
        batch_id: batch_id.into(),
    }
}

fn seen(seen: PolledState) -> PollResult {
    PollResult { at: NOW, seen }
}

fn running() -> PolledState {
    PolledState::Running { state: "in_progress".into(), done: 0 }
}

fn turned_away(refusal: Refusal) -> PolledState {
    PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected: Some((refusal, "no".into())) }
}

fn found(memory: &mut Memory, began: i64, batches: &[&str]) {
    let found = Some(batches.iter().map(|b| b.to_string()).collect());
    memory.searches.insert("intent-1".into(), Search { began, found });
}

#[test]
fn what_was_turned_away_is_sent_again_once_the_list_must_show_what_else_came_of_its_post() {
    let mut journal = journal(owner("j", "u"), submitted());
    let all = NOW + 20;
    journal.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    let keeps = JobView { provider_file_policy: ProviderFilePolicy::Retain, ..job() };
    let state = |memory: &Memory| match step(&keeps, Some(&journal), memory) {
        Step::Swap(next) => Ok(next.shards[0].attempt.clone().unwrap().state),
        step => Err(Box::new(step)),
    };
    let mut memory = memory();
    memory.looks.insert("batch-1".into(), seen(turned_away(Refusal::Capacity)));
    assert_eq!(
        state(&memory),
        Err(Box::new(Step::Search(AttemptKey { shard: 0, attempt: 1 }))),
        "most are shown at once"
    );
    found(&mut memory, NOW, &["batch-1"]);
    let waits = |step: Step| matches!(step, Step::Wait { until, .. } if until == Some(all));
    assert!(state(&memory).is_err_and(|step| waits(*step)), "it does not wait for the list");
    found(&mut memory, all, &["batch-1"]);
    assert!(matches!(state(&memory), Ok(AttemptState::Refused { refusal: Refusal::Capacity, .. })));
    found(&mut memory, NOW, &["batch-1", "batch-2"]);
    memory.cancelled.insert("batch-2".into());
    let follows = |memory: &Memory| matches!(state(memory), Ok(AttemptState::Submitted { batch_id, .. }) if batch_id == "batch-2");
    assert!(follows(&memory), "what a twin answered is paid for, even if it was told to stop");
    memory.looks.insert("batch-2".into(), seen(turned_away(Refusal::Capacity)));
    assert!(!follows(&memory), "it was turned away too");
    memory.looks.insert("batch-1".into(), seen(turned_away(Refusal::Invalid)));
    found(&mut memory, NOW, &["batch-1"]);
    assert!(state(&memory).is_ok(), "nothing is sent again, so that nothing is waited for");
}

#[test]
fn answers_that_are_gone_are_asked_about_and_looked_for() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    memory.looks.insert("batch-1".into(), seen(PolledState::Gone { state: BatchEnd::Completed }));
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    let mut asked = |running: bool, looked_at: i64, due: Option<i64>| {
        memory.running = if running { [Task::Collect(attempt_key)].into() } else { Default::default() };
        memory.looks.get_mut("batch-1").unwrap().at = looked_at;
        let Step::Wait { until, why } = step(&job(), Some(&journal), &memory) else { panic!("nobody is asked") };
        assert_eq!(until, due);
        assert!(why.holds[0].message.contains("no longer has the answers"), "{:?}", why.holds);
        assert_eq!(why.holds[0].answers, ["lost-intent-1=lost", "lost-intent-1=resend"]);
    };
    asked(false, NOW, Some(NOW + 60_000));
    asked(true, NOW, None);
    asked(true, NOW - 60_000, None);
    memory.running.clear();
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Collect { attempt_key, patient: false });
    let lost = JobView { answers: Answers::one("lost-intent-1", "lost"), ..job() };
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&lost, Some(&journal), &memory) else { panic!("the answer counts") };
    assert_eq!(next.shards[0].settled().unwrap().missing, 1);
    let counts = all_succeeded(1);
    memory.collected.insert("batch-1".into(), collected(counts));
    let Step::Swap(next) = step(&job(), Some(&journal), &memory) else { panic!("they came back") };
    assert_eq!(next.shards[0].settled(), Some(counts));
}

#[test]
fn a_file_that_another_account_was_refused_with_is_not_used() {
    let refused = AttemptState::Refused { refusal: Refusal::Capacity, message: "m".into(), at: 0, retry_at: None };
    let mut journal = journal(owner("j", "u"), Some(refused));
    assert!(matches!(step(&job(), Some(&journal), &memory()), Step::WriteIntent { .. }), "as good as new");
    journal.shards[0].attempt.as_mut().unwrap().fingerprint = "another".into();
    assert!(matches!(step(&job(), Some(&journal), &memory()), Step::Upload(_)));
}

#[test]
fn what_was_answered_in_full_is_no_failure_whenever_that_is_seen() {
    let counts = RequestCounts { total: 1, succeeded: 1, ..Default::default() };
    let settled = completed("batch-1", counts, 0);
    let late = JobView { deadline: Some(NOW - 1), ..job() };
    let Step::Swap(next) = step(&late, Some(&journal(owner("j", "u"), Some(settled))), &memory()) else {
        panic!("no end")
    };
    assert_eq!(next.commit.unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_recorded_batch_is_searched_for_duplicates_once() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    let seen = |seen| PollResult { at: NOW, seen };
    let running = || PolledState::Running { state: "in_progress".into(), done: 0 };
    memory.looks.insert("batch-1".into(), seen(running()));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "the list must show all by now");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }));
    memory
        .searches
        .insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into(), "batch-2".into()]) });
    assert_eq!(step(&job(), Some(&journal), &memory), cancel("batch-2"));

    let mut fresh = journal;
    fresh.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    memory.searches.clear();
    let vendors = with_provider(|p| p.is_vendors_own = true);
    let Step::Wait { until, .. } = step(&vendors, Some(&fresh), &memory) else { panic!("the list may lag") };
    assert_eq!(until, Some(NOW + 20));
    memory
        .looks
        .insert("batch-1".into(), seen(PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None }));
    assert!(matches!(step(&job(), Some(&fresh), &memory), Step::Search(_)), "before it is settled");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&fresh), &memory), Step::Collect { .. }));
}

#[test]
fn what_another_credential_showed_is_no_evidence() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Revoking));
    let mut memory = memory();
    memory.under("f");
    memory.revoked.insert("file-1".into(), NOW - 100);
    memory.under("other account");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    memory.under("f");
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Revoke(_)), "found out anew, not sent again");
    memory.under("f");
    memory.revoked.insert("file-1".into(), NOW);
    memory.under("f");
    assert!(memory.revoked.contains_key("file-1"), "the same credential forgets nothing");
}

#[test]
fn a_file_of_another_account_is_not_sent() {
    let mut intended = journal(owner("j", "u"), Some(AttemptState::Intended));
    intended.shards[0].attempt.as_mut().unwrap().fingerprint = "other account".into();
    let memory = Memory { permit: Some("intent-1".into()), ..memory() };
    let Step::Swap(next) = step(&job(), Some(&intended), &memory) else { panic!("it is sent") };
    let attempt = next.shards[0].attempt.as_ref().unwrap();
    assert!(matches!(attempt.state, AttemptState::Refused { refusal: Refusal::NotSent, .. }));
    assert_eq!(attempt.payload.name(), "", "nor is it used again");
}

#[test]
fn a_batch_without_files_is_asked_again_for_as_long_as_a_list_may_lag() {
    let journal = journal(owner("j", "u"), submitted());
    let patient = |ended: i64| {
        let seen = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
        let looks = [("batch-1".to_string(), PollResult { at: ended, seen })].into();
        match step(&job(), Some(&journal), &Memory { looks, ..searched(memory()) }) {
            Step::Collect { patient, .. } => patient,
            other => panic!("{other:?}"),
        }
    };
    assert!(patient(NOW - 9) && !patient(NOW - 10));
}

/// By a clock that jumps to whatever is waited for.
#[test]
fn a_provider_that_is_away_for_ten_minutes_is_tried_seldom_and_found_again_soon() {
    let job = JobView { submitted: false, batches: vec![], ..job() };
    let mut journal = journal(owner("j", "u"), None);
    let mut memory = memory();
    let (mut now, mut tries) = (NOW, vec![]);
    let back = NOW + 600_000;
    let found = loop {
        let nonce = format!("nonce-{now}");
        let o = Observed { now, nonce: &nonce, timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
        match decide(&o) {
            Step::Upload(attempt_key) => drop(memory.uploads.insert((attempt_key, "s".into()), "file-1".into())),
            Step::WriteIntent { journal: next, intent_id } => {
                journal = next;
                memory.permit = Some(intent_id);
            }
            Step::Post(_) if now >= back => break now,
            Step::Post(_) => {
                tries.push(now);
                let refused = PostResult::Refused(Rejection::new(Refusal::NotSent, "no connection"));
                memory.posted.insert(memory.permit.take().unwrap(), refused);
            }
            Step::Swap(next) => journal = next,
            Step::Wait { until, why } => {
                assert_eq!(why.blocked.as_ref().unwrap().reason, "ProviderUnavailable");
                now = until.unwrap().max(now + 1);
            }
            other => panic!("{other:?}"),
        }
    };
    assert!((5..=15).contains(&tries.len()), "{} tries", tries.len());
    assert!(tries.windows(2).all(|two| two[1] - two[0] <= 60_000));
    assert!(found - back <= 60_000, "found again after {} ms", found - back);
    assert_eq!(memory.uploads.len(), 1, "the file is used again");
}

#[test]
fn a_list_that_cannot_be_searched_proves_nothing() {
    for state in [AttemptState::Intended, AttemptState::Revoking] {
        let journal = journal(owner("j", "u"), Some(state.clone()));
        let mut memory = memory();
        memory.files.insert("file-1".into(), true);
        memory.resolvable = Some(true);
        memory.revoked.insert("file-1".into(), NOW - 1_000);
        memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
        assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "one that can goes on: {state:?}");
        memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
        let Step::Wait { why, .. } = step(&job(), Some(&journal), &memory) else { panic!("goes on: {state:?}") };
        assert!(why.holds[0].message.contains("cannot be searched"), "{:?}", why.holds);
    }
}

#[test]
fn of_another_round_as_much_is_sent_as_the_journal_has_room_for() {
    let counts = RequestCounts { total: 1, expired: 1, ..Default::default() };
    let part = Some(PartRef { name: "p".into(), sha256: "s".into() });
    let settled = AttemptState::Settled {
        batch_id: "batch-1".into(),
        ended: "expired".into(),
        part,
        counts,
        usage: Default::default(),
        cost: None,
        retryable: 0,
        errors: vec![],
        files: vec![],
    };
    let journal = journal(owner("j", "u"), Some(settled));
    let again = |n: usize| Memory { follow_up: Some((1, vec![shard(None); n].into())), ..searched(memory()) };
    let next = |limit: usize, n: usize| match step(&JobView { shard_limit: limit, ..job() }, Some(&journal), &again(n))
    {
        Step::Swap(next) => next,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(3, 2).shards.len(), 3);
    assert_eq!(next(3, 3).shards.len(), 3, "what finds no room is left");
    let end = next(1, 3).commit.unwrap();
    assert_eq!((end.outcome, end.requests.expired), (Outcome::Failed, 1));
    assert!(end.message.ends_with("is not sent again, for a job has at most 1 batches"), "{}", end.message);
    assert!(!next(3, 0).commit.unwrap().message.contains("at most"), "nothing would be sent");
    // Many of them lie in a segment, which is taken whole or made anew.
    let mut many: Shards = vec![Shard { round: 1, ..shard(None) }; 40].into();
    assert_eq!(many.pack(16).unwrap().len(), 1);
    let planned = |limit: usize| {
        let memory = Memory { follow_up: Some((1, many.clone())), ..searched(memory()) };
        step(&JobView { shard_limit: limit, ..job() }, Some(&journal), &memory)
    };
    assert!(matches!(planned(41), Step::Swap(next) if next.shards.len() == 41 && next.shards.get(40).is_some()));
    assert_eq!(planned(40), Step::FollowUp { round: 1 });
}

/// A gateway's client that repeats a POST makes a batch that costs money for as long as it runs.
#[test]
fn behind_a_gateway_the_list_is_searched_for_twins_at_once_and_at_growing_distances() {
    let mut journal = journal(owner("j", "u"), Some(AttemptState::Submitted { batch_id: "batch-1".into(), at: NOW }));
    journal.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    let timing = Timing { listing_lag: 300_000, ..TIMING };
    let (mut now, mut memory, mut looks) = (NOW, memory(), vec![]);
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: running() });
    let all = NOW + 300_010;
    let idle = JobView { poll_period: 1_000_000, ..job() };
    while now < all {
        let observed =
            Observed { now, nonce: "n", timing: &timing, job: &idle, journal: Some(&journal), memory: &memory };
        match decide(&observed) {
            Step::Search(_) => {
                looks.push((now - NOW) / 1_000);
                memory.searches.insert("intent-1".into(), Search { began: now, found: Some(vec!["batch-1".into()]) });
            }
            Step::Wait { until: Some(due), .. } => now = due,
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(looks, [0, 5, 20, 65, 200]);
    memory
        .searches
        .insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into(), "batch-2".into()]) });
    assert_eq!(step(&job(), Some(&journal), &memory), cancel("batch-2"));
}

#[test]
fn what_twins_were_billed_for_is_written_down_with_the_end_of_their_batch() {
    let mut journal = journal(owner("j", "u"), submitted());
    journal.shards[0].requests = 9;
    let ended = |done| PolledState::Ended { state: BatchEnd::Cancelled, done, rejected: None };
    let billed = |twin: Option<PollResult>| {
        let mut memory = memory();
        found(&mut memory, NOW, &["batch-1", "batch-2"]);
        memory.cancelled.insert("batch-2".into());
        memory.looks.insert("batch-1".into(), seen(ended(9)));
        memory.looks.extend(twin.map(|look| ("batch-2".into(), look)));
        memory.collected.insert("batch-1".into(), collected(all_succeeded(9)));
        match step(&job(), Some(&journal), &memory) {
            Step::Swap(next) => Ok(next.billed_again()),
            step => Err(Box::new(step)),
        }
    };
    let look =
        Box::new(Step::PollTwin { attempt_key: AttemptKey { shard: 0, attempt: 1 }, batch_id: "batch-2".into() });
    assert_eq!(billed(None), Err(look.clone()));
    assert_eq!(billed(Some(PollResult { at: NOW - 1, seen: running() })), Err(look), "it may have ended since");
    assert_eq!(billed(Some(seen(running()))), Ok(9), "it may yet be billed for all");
    assert_eq!(billed(Some(PollResult { at: NOW - 1, seen: ended(4) })), Ok(4));
    assert_eq!(billed(Some(seen(turned_away(Refusal::Failed)))), Ok(0));
    assert_eq!(billed(Some(seen(PolledState::NotOurs))), Ok(0));
    let completed = PolledState::Ended { state: BatchEnd::Completed, done: 0, rejected: None };
    assert_eq!(billed(Some(seen(completed))), Ok(9), "not every server counts");
}
