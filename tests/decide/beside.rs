//! Calls at the provider run beside decisions: what is decided while one is under way.

use super::*;

const FIRST: AttemptKey = AttemptKey { shard: 0, attempt: 1 };

/// Two shards; the first has this state, and both have an uploaded file.
fn two(state: Option<AttemptState>) -> (Journal, Memory) {
    let mut journal = journal(owner("j", "u"), state);
    journal.shards.push(Shard { sha256: "s2".into(), ..shard(None) });
    let mut memory = memory();
    memory.uploads.insert((FIRST, "s".into()), "file-1".into());
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 1 }, "s2".into()), "file-2".into());
    (journal, memory)
}

#[test]
fn while_a_post_is_under_way_its_intent_is_not_resolved_and_no_other_is_written() {
    let (journal, mut memory) = two(Some(AttemptState::Intended));
    memory.permit = Some("intent-1".into());
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Post(FIRST));
    memory.permit = None;
    memory.running.insert(Task::Post(FIRST));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }), "the reply is waited for");
    memory.running.clear();
    let search = step(&job(), Some(&journal), &memory);
    assert_eq!(search, Step::Search(FIRST), "who has neither permit nor reply finds out");
}

#[test]
fn a_post_that_failed_before_it_was_sent_keeps_its_permit_and_holds_up_nobody_who_is_not_its_own() {
    let (journal, mut memory) = two(Some(AttemptState::Intended));
    memory.permit = Some("intent-1".into());
    memory.running.insert(Task::Post(FIRST));
    memory.failed_calls.insert(Task::Post(FIRST), NOW + 1_000);
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }));
    let deleted = JobView { deleting_since: Some(NOW), ..job() };
    let mut closing = journal.clone();
    closing.closing = Some(DeletionPolicy::Cancel);
    let Step::Swap(next) = step(&deleted, Some(&closing), &memory) else { panic!("the permit is not given up") };
    let state = &next.shards[0].attempt.as_ref().unwrap().state;
    assert!(matches!(state, AttemptState::Refused { refusal: Refusal::NotSent, .. }), "{state:?}");
}

#[test]
fn a_permit_whose_intent_is_over_keeps_no_other_from_being_written() {
    let refused = AttemptState::Refused {
        refusal: Refusal::NotSent,
        message: String::new(),
        at: NOW - 1_000_000,
        retry_at: None,
    };
    let (journal, mut memory) = two(Some(refused));
    memory.permit = Some("intent-1".into());
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }));
}

#[test]
fn a_job_waits_for_a_place_in_words_of_its_own_and_is_sent_once_there_is_one() {
    let (journal, mut memory) = two(None);
    memory.place = Place::Full("20 batches are in flight".into());
    assert_eq!(step(&job(), Some(&journal), &memory), Step::WaitForPlace(AttemptKey { shard: 0, attempt: 1 }));
    memory.running.insert(Task::Place);
    let Step::Wait { why, until } = step(&job(), Some(&journal), &memory) else { panic!("it does not wait") };
    assert_eq!((why.stage, why.note.as_deref()), ("WaitingForQuota", Some("20 batches are in flight")));
    assert!(
        until.is_some_and(|at| (NOW + 60_000..NOW + 3_600_000).contains(&at)),
        "its place is told again, and seldom"
    );
    memory.place = Place::Soon;
    let Step::Wait { why, .. } = step(&job(), Some(&journal), &memory) else { panic!("it does not wait") };
    assert_eq!((why.stage, why.note), ("Submitting", None), "a moment is not worth a word");
    memory.place = Place::Free;
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }));
}

#[test]
fn a_batch_is_not_settled_while_its_twin_is_being_told_to_stop() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    let found = Some(vec!["batch-1".into(), "batch-2".into()]);
    memory.searches.insert("intent-1".into(), Search { began: NOW, found });
    let ended = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: ended });
    memory.collected.insert("batch-1".into(), collected(all_succeeded(1)));
    memory.running.insert(Task::CancelTwin(FIRST));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }), "the job's end would end the call");
    memory.failed_calls.insert(Task::CancelTwin(FIRST), NOW + 1_000);
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "a call that fails holds nobody up");
}
