//! PROGRESS, as a job goes from round to round.

use proptest::prelude::*;

use super::*;

/// What happens next to a job.
#[derive(Clone, Debug)]
enum Event {
    /// A look at the batch of a shard shows so many requests as done.
    Polled { shard: usize, done: i64, ended: bool },
    /// The operator begins anew and has looked at nothing yet.
    Restart,
    /// The batch of a shard is settled; each request ends by the next of these letters.
    Settle { shard: usize, ends: Vec<u8> },
    /// What has no answer is sent again.
    Resend,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..8usize, -3..15i64, any::<bool>()).prop_map(|(shard, done, ended)| Event::Polled { shard, done, ended }),
        1 => Just(Event::Restart),
        3 => (0..8usize, prop::collection::vec(0..5u8, 10)).prop_map(|(shard, ends)| Event::Settle { shard, ends }),
        2 => Just(Event::Resend),
    ]
}

fn counted(ends: &[u8]) -> RequestCounts {
    let of = |end: u8| ends.iter().filter(|e| **e == end).count() as i64;
    RequestCounts {
        total: ends.len() as i64,
        succeeded: of(0),
        reused: 0,
        failed: of(1),
        expired: of(2),
        cancelled: of(3),
        missing: of(4),
        resent: 0,
    }
}

fn with_batch(shard: usize, requests: i64, round: u32, prior_counts: RequestCounts) -> Shard {
    let state = AttemptState::Submitted { batch_id: format!("batch-{shard}"), at: NOW };
    Shard { requests, round, prior_counts, ..super::shard(Some(state)) }
}

fn happen(journal: &mut Journal, memory: &mut Memory, event: Event) {
    let count = journal.shards.len();
    match event {
        Event::Polled { shard, done, ended } => {
            let seen = match ended {
                true => PolledState::Ended { state: BatchEnd::Completed, done, rejected: None },
                false => PolledState::Running { state: "in_progress".into(), done },
            };
            memory.looks.insert(format!("batch-{}", shard % count), PollResult { at: NOW, seen });
        }
        Event::Restart => memory.looks.clear(),
        Event::Settle { shard, ends } => {
            let shard = &mut journal.shards[shard % count];
            if shard.settled().is_none() {
                let part = Some(PartRef { name: "p".into(), sha256: "s".into() });
                let counts = counted(&ends[..shard.requests as usize]);
                shard.attempt.as_mut().unwrap().state = AttemptState::Settled {
                    batch_id: "b".into(),
                    ended: "completed".into(),
                    part,
                    counts,
                    usage: Default::default(),
                    cost: None,
                    retryable: counts.failed,
                    errors: vec![],
                    files: vec![],
                };
            }
        }
        Event::Resend if count < 8 && journal.shards.iter().all(|s| s.settled().is_some()) => {
            let sum = journal.counts();
            let prior_counts = RequestCounts { total: sum.total - sum.succeeded, succeeded: 0, ..sum };
            if prior_counts.total > 0 {
                journal.shards.push(with_batch(count, prior_counts.total.min(10), journal.round() + 1, prior_counts));
            }
        }
        Event::Resend => {}
    }
}

proptest! {
    #[test]
    fn progress_never_goes_back_whatever_comes_back_and_is_sent_again(
        base in 1..3usize,
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut journal = journal(owner("j", "u"), None);
        journal.shards = (0..base).map(|shard| with_batch(shard, 5, 0, RequestCounts::default())).collect();
        let (job, mut memory) = (job(), memory());
        let (mut status, mut before) = (BatchJobStatus::default(), 0);
        for (now, event) in (NOW..).step_by(1_000).zip(events) {
            let news_before = status.last_progress_time.clone();
            happen(&mut journal, &mut memory, event);
            let o = Observed { now, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
            let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
            status = project(&o, &status, Some(1), &wait).unwrap();
            let progress = status.display.clone().unwrap().progress;
            let (done, total) = progress.split_once(' ').unwrap().0.split_once('/').unwrap();
            let (done, total): (i64, i64) = (done.parse().unwrap(), total.parse().unwrap());
            prop_assert!(before <= done && done <= total && total == 5 * base as i64, "{before} then {progress}");
            let last = status.last_progress_time.as_ref().unwrap().0.as_millisecond();
            let is_kept = news_before.is_some() && status.last_progress_time == news_before;
            prop_assert!(last == now || is_kept, "{last} is now, or what it was");
            prop_assert!(!is_kept || before == done, "{progress} is news at {last}");
            before = done;
        }
    }
}

/// A row that failed at once was done, and stays so while it is sent again.
#[test]
fn progress_of_what_is_sent_again_stays_where_it_was_without_a_memory_of_it() {
    let mut journal = journal(owner("j", "u"), submitted());
    journal.shards[0].requests = 10;
    let counts = RequestCounts { total: 10, succeeded: 9, failed: 1, ..Default::default() };
    journal.shards[0].attempt.as_mut().unwrap().state = completed("batch-1", counts, 1);
    journal.shards.push(with_batch(1, 1, 1, RequestCounts { total: 1, failed: 1, ..Default::default() }));
    let (job, memory) = (job(), memory());
    let o = Observed { now: NOW, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
    let status = project(&o, &BatchJobStatus::default(), Some(1), &wait).unwrap();
    assert_eq!(status.display.unwrap().progress, "10/10 (100%)");
}
