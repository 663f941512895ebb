//! Hints of providers that a batch may have changed.

use super::*;

/// A batch that ran at the last look, at `seen`, and about which a hint came at `hinted`.
fn running(seen: i64, hinted: Option<i64>) -> Memory {
    let mut memory = memory();
    let look = PollResult { at: seen, seen: PolledState::Running { state: "in_progress".into(), done: 0 } };
    memory.looks.insert("batch-1".into(), look);
    if let Some(at) = hinted {
        memory.hint("batch-1", at);
    }
    memory
}

fn next(memory: &Memory) -> Step {
    let job = JobView { poll_period: 3_600_000, ..job() };
    step(&job, Some(&journal(owner("j", "u"), submitted())), &searched(memory.clone()))
}

fn waits_until(memory: &Memory) -> Option<i64> {
    match next(memory) {
        Step::Wait { until, .. } => until,
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_hint_has_its_batch_polled_at_once_and_twice_more_while_it_still_runs() {
    assert_eq!(waits_until(&running(NOW - 500, None)), Some(NOW + 3_599_500), "an hour between polls");
    assert!(matches!(next(&running(NOW - 500, Some(NOW))), Step::Poll(_)));
    assert_eq!(waits_until(&running(NOW, Some(NOW))), Some(NOW + 1_000), "the provider's record may lag");
    assert_eq!(waits_until(&running(NOW, Some(NOW - 1_000))), Some(NOW + 4_000));
    assert_eq!(waits_until(&running(NOW, Some(NOW - 5_000))), Some(NOW + 3_600_000), "the hint is used up");
}

#[test]
fn a_hint_is_no_news_by_itself() {
    for (hinted, ended) in [(Some(NOW), false), (Some(NOW), true)] {
        let mut memory = running(NOW, hinted);
        if ended {
            let seen = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
            memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
        }
        let step = next(&memory);
        assert_eq!(matches!(step, Step::Collect { .. }), ended, "{step:?}");
    }
}

#[test]
fn a_hint_for_another_batch_changes_nothing() {
    let mut memory = running(NOW - 500, None);
    memory.hint("batch-of-somebody-else", NOW);
    assert_eq!(waits_until(&memory), Some(NOW + 3_599_500));
}
