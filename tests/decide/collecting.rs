//! How long the files of an ended batch are asked for again, and what a person is told meanwhile.

use batchjob_operator::lifecycle::{ReadCounts, ShortRead};

use super::*;

const SLOT: AttemptKey = AttemptKey { shard: 0, attempt: 1 };
const LAG: i64 = 300_000;

fn missing(short: Option<ShortRead>) -> CollectResult {
    CollectResult { short, ..collected(RequestCounts { total: 1, missing: 1, ..Default::default() }) }
}

/// By a clock that jumps to whatever is waited for: when the files are fetched, in milliseconds after the batch was seen to have
/// ended, until what they hold is settled; and what a person is told before.
fn fetched(reading: ReadCounts) -> (Vec<i64>, String) {
    let (job, journal) = (job(), journal(owner("j", "u"), submitted()));
    let timing = Timing { listing_lag: LAG, ..TIMING };
    let mut memory = searched(memory());
    let seen = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    memory.searches.get_mut("intent-1").unwrap().began = NOW + LAG;
    let (mut now, mut at, mut told) = (NOW, vec![], String::new());
    loop {
        match decide(&Observed {
            now,
            nonce: "n",
            timing: &timing,
            job: &job,
            journal: Some(&journal),
            memory: &memory,
        }) {
            Step::Collect { .. } => {
                at.push(now - NOW);
                let short = ShortRead::after(memory.collected.get("batch-1"), reading, now);
                memory.collected.insert("batch-1".into(), missing(short));
            }
            Step::Wait { until, why } => {
                told = why.blocked.map(|blocked| blocked.message).unwrap_or_default();
                now = until.unwrap();
            }
            Step::Swap(next) => {
                assert!(next.shards[0].settled().is_some());
                return (at, told);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_files_hold_at_first_is_not_their_last_word() {
    let short = |found, unreadable| ReadCounts { requests: 10, found, expected: 10, unreadable, cut_off: 0 };
    let (at, told) = fetched(short(9, 0));
    assert_eq!((at[0], *at.last().unwrap()), (0, LAG), "once more when the patience is over: {at:?}");
    assert!((6..=14).contains(&at.len()) && at.is_sorted(), "at growing distances: {at:?}");
    assert!(told.contains("batch-1 tell of 9 of 10 requests") && told.contains("sent again within"), "{told}");
    let (at, told) = fetched(short(0, 2));
    assert_eq!(*at.last().unwrap(), 12 * LAG, "a sign-in page may go by: {at:?}");
    assert!(at.len() <= 16, "{at:?}");
    assert!(told.contains("no line that can be read") && told.contains("are not sent again"), "{told}");
    let (at, _) = fetched(ReadCounts { cut_off: 1, ..short(10, 0) });
    assert_eq!(*at.last().unwrap(), LAG, "a line that breaks off may still be written");
    assert_eq!(fetched(short(10, 3)), (vec![0], String::new()), "orphan lines keep nobody waiting");
    assert_eq!(fetched(ReadCounts { requests: 10, found: 4, expected: 4, ..Default::default() }).0, [0]);
}

/// Case 21-long-file-ids, and its kind.
#[test]
fn answers_that_are_named_in_no_way_that_can_be_used_are_asked_about_and_never_sent_again() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    let why = "its `output_file_id` is a list".to_string();
    memory.looks.insert(
        "batch-1".into(),
        PollResult { at: NOW, seen: PolledState::Unnamed { state: BatchEnd::Completed, why } },
    );
    let Step::Wait { until, why } = step(&job(), Some(&journal), &memory) else { panic!("nobody is asked") };
    assert_eq!(until, Some(NOW + 60_000));
    assert!(why.holds[0].message.contains("cannot be fetched: its `output_file_id` is a list"), "{:?}", why.holds);
    assert_eq!(why.holds[0].answers, ["lost-intent-1=lost", "lost-intent-1=resend"]);
    memory.looks.get_mut("batch-1").unwrap().at = NOW - 60_000;
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Poll(SLOT), "it may be mended at the provider");
    let lost = JobView { answers: Answers::one("lost-intent-1", "lost"), ..job() };
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&lost, Some(&journal), &memory) else { panic!("the answer counts") };
    assert_eq!(next.shards[0].settled().unwrap().missing, 1);
}
