//! What is sent, searched for and believed.

use super::*;

#[test]
fn a_batch_that_our_own_post_made_beside_the_recorded_one_is_cancelled() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    memory.posted.insert("intent-1".into(), Posted::Created("batch-2".into()));
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Cancel { batch_id: "batch-2".into() });
    memory.cancelled.insert("batch-2".into());
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Poll(_)));
}

#[test]
fn a_recorded_batch_is_searched_for_duplicates_once() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    let seen = |seen| Look { at: NOW, seen };
    let running = || Seen::Running { state: "in_progress".into(), done: 0 };
    memory.looks.insert("batch-1".into(), seen(running()));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "the list must show all by now");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }));
    memory
        .searches
        .insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into(), "batch-2".into()]) });
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Cancel { batch_id: "batch-2".into() });

    let mut fresh = journal;
    fresh.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    memory.searches.clear();
    let Step::Wait { until, .. } = step(&job(), Some(&fresh), &memory) else { panic!("the list may lag") };
    assert_eq!(until, Some(NOW + 20));
    memory.looks.insert("batch-1".into(), seen(Seen::Ended { state: "completed".into(), done: 1, rejected: None }));
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
    assert_eq!(attempt.file_id, "", "nor is it used again");
}

#[test]
fn a_batch_without_files_is_asked_again_for_as_long_as_a_list_may_lag() {
    let journal = journal(owner("j", "u"), submitted());
    let patient = |ended: i64| {
        let seen = Seen::Ended { state: "completed".into(), done: 1, rejected: None };
        let looks = [("batch-1".to_string(), Look { at: ended, seen })].into();
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
            Step::Upload(slot) => drop(memory.uploads.insert((slot, "s".into()), "file-1".into())),
            Step::WriteIntent { journal: next, intent_id } => {
                journal = next;
                memory.permit = Some(intent_id);
            }
            Step::Post(_) if now >= back => break now,
            Step::Post(_) => {
                tries.push(now);
                let refused = Posted::Refused(Refusal::NotSent, "no connection".into());
                memory.posted.insert(memory.permit.take().unwrap(), refused);
            }
            Step::Swap(next) => journal = next,
            Step::Wait { until, why } => {
                assert_eq!(why.stuck.as_ref().unwrap().reason, "ProviderUnavailable");
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
fn what_would_make_more_batches_than_the_journal_has_room_for_stays_as_it_is() {
    let counts = RequestCounts { total: 1, expired: 1, ..Default::default() };
    let part = Some(PartRef { name: "p".into(), sha256: "s".into() });
    let settled = AttemptState::Settled {
        batch_id: "batch-1".into(),
        ended: "expired".into(),
        part,
        counts,
        may_pass: 0,
        errors: vec![],
        files: vec![],
    };
    let journal = journal(owner("j", "u"), Some(settled));
    let again = |n: usize| Memory { follow_up: Some((1, vec![shard(None); n])), ..searched(memory()) };
    let next = |limit: usize, n: usize| match step(&JobView { shard_limit: limit, ..job() }, Some(&journal), &again(n))
    {
        Step::Swap(next) => next,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(3, 2).shards.len(), 3);
    let end = next(3, 3).commit.unwrap();
    assert_eq!((end.outcome, end.requests.expired), (Outcome::Failed, 1));
}
