//! Searches for other batches of a recorded submission that fail: they prove nothing, and hold up no answers.

use super::*;

const FIRST: AttemptKey = AttemptKey { shard: 0, attempt: 1 };
/// Time at which the list must show every batch of the POST, which was asked for a second ago.
const ALL: i64 = NOW - 1_000 + TIMING.send_timeout + TIMING.listing_lag;

fn looked(seen: PolledState) -> (Journal, Memory) {
    let mut memory = memory();
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    (journal(owner("j", "u"), submitted()), memory)
}

fn running() -> PolledState {
    PolledState::Running { state: "in_progress".into(), done: 0 }
}

fn turned_away() -> PolledState {
    PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected: Some((Refusal::Failed, "no room".into())) }
}

fn fails(memory: &mut Memory, began: i64, is_permanent: bool) {
    memory.search_failed("intent-1".into(), began, is_permanent, true);
}

fn finds(memory: &mut Memory, began: i64, batches: &[&str]) {
    let found = Some(batches.iter().map(ToString::to_string).collect());
    memory.searched("intent-1".into(), Search { began, found });
}

#[test]
fn a_failed_search_keeps_the_earlier_list_whose_twin_is_told_to_stop() {
    for is_permanent in [false, true] {
        let (journal, mut memory) = looked(running());
        finds(&mut memory, ALL - 1, &["batch-1", "twin"]);
        fails(&mut memory, NOW, is_permanent);
        let cancel = Step::Cancel { attempt_key: FIRST, twin: true, batch_id: "twin".into() };
        assert_eq!(step(&job(), Some(&journal), &memory), cancel, "{is_permanent}");
    }
}

/// The earlier list was read before it had to show every batch. If they were sent again because of it, the requests
/// could be paid twice.
#[test]
fn a_failed_search_does_not_prove_that_a_batch_that_was_turned_away_has_no_twin() {
    for is_permanent in [false, true] {
        let (journal, mut memory) = looked(turned_away());
        finds(&mut memory, ALL - 1, &["batch-1"]);
        assert_eq!(step(&job(), Some(&journal), &memory), Step::Search(FIRST));
        fails(&mut memory, NOW, is_permanent);
        let Step::Wait { until, why } = step(&job(), Some(&journal), &memory) else { panic!("it is sent again") };
        assert!(why.holds[0].message.contains("no other batch was made of the same submission"), "{:?}", why.holds);
        assert_eq!(until, Some(NOW + TIMING.listing_lag), "the search goes on meanwhile");
        finds(&mut memory, NOW, &["batch-1"]);
        let next = step(&job(), Some(&journal), &memory);
        assert!(matches!(next, Step::DeleteFiles { .. }), "a list that is read is a proof: {next:?}");
    }
}

#[test]
fn a_search_that_failed_is_repeated_at_growing_intervals_for_as_long_as_a_twin_may_run() {
    let (journal, mut memory) = looked(running());
    let job = JobView { poll_period: 10_000_000, ..job() };
    let (mut now, mut pauses) = (NOW, vec![]);
    for _ in 0..6 {
        let observed =
            Observed { now, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
        assert_eq!(decide(&observed), Step::Search(FIRST), "after {pauses:?}");
        fails(&mut memory, now, false);
        let observed =
            Observed { now, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
        let Step::Wait { until: Some(until), .. } = decide(&observed) else { panic!("it does not wait") };
        pauses.push(until - now);
        now = until;
    }
    // The batch was recorded 100 s before.
    assert_eq!(pauses, [100_000, 200_000, 400_000, 600_000, 600_000, 600_000]);
}

#[test]
fn answers_do_not_wait_for_a_list_that_cannot_be_read() {
    let ended = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
    let (journal, mut memory) = looked(ended);
    fails(&mut memory, NOW - 1, false);
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Search(FIRST), "once after the end");
    fails(&mut memory, NOW, false);
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Collect { attempt_key: FIRST, patient: true });
}
