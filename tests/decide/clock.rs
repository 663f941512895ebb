//! A clock that is set while the operator runs: no wait that keeps a request from being paid twice ends early.

use super::*;

const FIRST: AttemptKey = AttemptKey { shard: 0, attempt: 1 };
const HOUR: i64 = 3_600_000;
/// Time from a POST until the list must show its batch.
const SHOWN: i64 = TIMING.send_timeout + TIMING.listing_lag;

fn at(now: i64, job: &JobView, journal: &Journal, memory: &Memory) -> Step {
    decide(&Observed { now, nonce: "nonce", timing: &TIMING, job, journal: Some(journal), memory })
}

/// The file of a submission whose reply was lost was seen to be gone a moment ago.
fn revoked(now: i64) -> (Journal, Memory) {
    let mut memory = Memory { clock_since: NOW - 2 * HOUR, ..memory() };
    memory.input_file_is_gone("intent-1", "file-1".into(), now);
    (journal(owner("j", "u"), Some(AttemptState::Revoking)), memory)
}

#[test]
fn a_clock_that_is_set_forward_does_not_shorten_the_wait_after_a_revocation() {
    let (journal, mut memory) = revoked(NOW);
    let later = NOW + HOUR;
    assert_eq!(at(later, &job(), &journal, &memory), Step::Search(FIRST), "if an hour has passed");
    assert!(memory.clock_runs_since(later), "it has not");
    assert_eq!(at(later, &job(), &journal, &memory), Step::Revoke(FIRST), "the wait begins anew");
    memory.input_file_is_gone("intent-1", "file-1".into(), later);
    let Step::Wait { until, .. } = at(later, &job(), &journal, &memory) else { panic!("it does not wait") };
    assert_eq!(until, Some(later + TIMING.listing_lag));
    assert!(!memory.clock_runs_since(later), "it is noticed once");
}

#[test]
fn a_search_from_before_a_clock_was_set_back_proves_nothing_after_it_and_the_wait_is_no_longer_than_usual() {
    let (journal, mut memory) = revoked(NOW);
    let (earlier, empty) = (NOW - HOUR, Search { began: NOW + 5, found: Some(vec![]) });
    memory.searched("intent-1".into(), empty);
    memory.clock_runs_since(earlier);
    assert_eq!(at(earlier, &job(), &journal, &memory), Step::Revoke(FIRST));
    memory.input_file_is_gone("intent-1", "file-1".into(), earlier);
    let Step::Wait { until, .. } = at(earlier, &job(), &journal, &memory) else { panic!("it does not wait") };
    assert_eq!(until, Some(earlier + TIMING.listing_lag));
}

/// A gateway may have made another batch of the same POST. The time of the POST is one of its sender's clock.
#[test]
fn a_batch_that_was_turned_away_is_sent_again_once_the_list_was_late_by_the_clock_of_this_process() {
    let journal = journal(owner("j", "u"), submitted());
    let rejected = Some((Refusal::Failed, "no room".to_string()));
    let seen = PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected };
    let mut memory = searched(memory());
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    let delete = |step: Step| matches!(step, Step::DeleteFiles { .. });
    memory.clock_since = NOW - HOUR;
    assert!(delete(at(NOW, &job(), &journal, &memory)), "it was sent a while ago");
    memory.clock_since = NOW - 5;
    let Step::Wait { until, .. } = at(NOW, &job(), &journal, &memory) else { panic!("it is sent again at once") };
    assert_eq!(until, Some(NOW - 5 + SHOWN));
    let shown = NOW - 5 + SHOWN;
    assert_eq!(at(shown, &job(), &journal, &memory), Step::Search(FIRST));
    memory.searched("intent-1".into(), Search { began: shown, found: Some(vec!["batch-1".into()]) });
    assert!(delete(at(shown, &job(), &journal, &memory)));
}

#[test]
fn what_a_clock_says_nothing_about_is_kept_when_it_is_set() {
    let whole = collected(RequestCounts::default());
    let reading = ReadCounts { requests: 2, found: 1, expected: 2, ..Default::default() };
    let short = CollectResult { short: ShortRead::after(None, reading, NOW), ..whole.clone() };
    let mut memory = searched(memory());
    memory.permit = Some("intent-2".into());
    memory.posted.insert("intent-1".into(), PostResult::Created("batch-1".into()));
    memory.uploads.insert((FIRST, "s".into()), "file-1".into());
    memory.cancelled.insert("batch-1".into());
    memory.collected.extend([("batch-1".to_string(), whole), ("batch-2".to_string(), short)]);
    let before = memory.clone();
    memory.clock_runs_since(NOW - HOUR);
    assert_eq!((&memory.permit, &memory.posted), (&before.permit, &before.posted));
    assert_eq!((&memory.uploads, &memory.cancelled), (&before.uploads, &before.cancelled));
    assert_eq!(memory.collected.keys().collect::<Vec<_>>(), ["batch-1"], "files that were short are fetched again");
    assert!(memory.searches.is_empty() && memory.looks.is_empty() && memory.revoked.is_empty());
}
