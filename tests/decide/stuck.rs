//! Batches at the provider that do not get on.

use super::*;
use batchjob_operator::api::conditions::{PROGRESSING, STALLED};
use batchjob_operator::lifecycle::ReportedTimes;

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;

/// A job with some batches of ten requests, all submitted at `NOW`.
pub struct World {
    pub job: JobView,
    pub journal: Journal,
    pub memory: Memory,
    pub status: BatchJobStatus,
}

impl World {
    pub fn new(batches: usize, deadline: Option<i64>) -> World {
        let mut journal = journal(owner("j", "u"), None);
        journal.shards = (0..batches).map(|n| Shard { requests: 10, ..shard(Some(running(n))) }).collect();
        let job = JobView { progress_deadline: deadline, ..job() };
        World { job, journal, memory: memory(), status: BatchJobStatus::default() }
    }

    /// Looks at all batches at `at`, and writes status. Returns whether it changed.
    pub fn look(&mut self, at: i64, state: &str, done: &[i64], expires_at: i64) -> bool {
        for (n, done) in done.iter().enumerate() {
            let seen = PolledState::Running { state: state.into(), done: *done };
            let is_finalizing = state == "finalizing";
            let reported = ReportedTimes { expires_at, is_finalizing, ..ReportedTimes::default() };
            self.memory.looked(format!("batch-{n}"), PollResult { at, seen }, reported);
        }
        self.write(at)
    }

    pub fn write(&mut self, now: i64) -> bool {
        let World { job, journal, memory, status } = self;
        let o = Observed { now, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory };
        let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
        let new = project(&o, status, Some(1), &wait).unwrap();
        let is_new = new != *status;
        *status = new;
        is_new
    }

    fn condition(&self, type_: &str) -> Option<(&str, &str, &str)> {
        let condition = self.status.conditions.iter().find(|c| c.type_ == type_)?;
        Some((&condition.status, &condition.reason, &condition.message))
    }

    fn progressing(&self) -> (&str, &str, &str) {
        self.condition(PROGRESSING).unwrap()
    }

    fn last_progress(&self) -> i64 {
        self.status.last_progress_time.as_ref().unwrap().0.as_millisecond()
    }
}

fn running(n: usize) -> AttemptState {
    AttemptState::Submitted { batch_id: format!("batch-{n}"), at: NOW }
}

#[test]
fn a_job_without_progress_says_so_once_and_no_longer_once_a_request_is_done() {
    let mut world = World::new(5, Some(6 * HOUR));
    world.look(NOW, "in_progress", &[4, 0, 0, 0, 0], 0);
    assert_eq!(world.progressing(), ("True", "AwaitingProvider", ""));
    assert!(!world.look(NOW + 6 * HOUR - 1, "in_progress", &[4, 0, 0, 0, 0], 0), "nothing to write");
    assert!(world.look(NOW + 6 * HOUR, "in_progress", &[4, 0, 0, 0, 0], 0));
    let (status, reason, message) = world.progressing();
    assert_eq!((status, reason), ("False", "ProgressDeadlineExceeded"));
    for words in ["since Jan 01 00:16:40 UTC", "00000-1 (4 of 10 done, submitted Jan 01 00:16:40 UTC)", "and 2 more"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(world.condition(STALLED), Some(("True", reason, message)), "kstatus, and webhooks, are told by Stalled");
    let (looks, told) = (std::mem::take(&mut world.memory.looks), world.status.clone());
    world.write(NOW + 7 * HOUR);
    assert_eq!(world.status.conditions, told.conditions, "a restarted operator does not take it back");
    (world.memory.looks, world.status) = (looks, told);
    assert!(!world.look(NOW + 7 * HOUR, "in_progress", &[4, 0, 0, 0, 0], 0), "an unchanged poll writes nothing");
    assert!(world.look(NOW + 8 * HOUR, "in_progress", &[4, 0, 1, 0, 0], 0));
    assert_eq!(world.progressing().0, "True");
    assert_eq!(world.condition(STALLED).unwrap().0, "False");
    assert_eq!(world.last_progress(), NOW + 8 * HOUR);
}

#[test]
fn requests_that_are_sent_again_and_ends_of_batches_are_progress() {
    let mut world = World::new(2, None);
    let prior_counts = RequestCounts { total: 10, failed: 10, ..Default::default() };
    (world.journal.shards[1].round, world.journal.shards[1].prior_counts) = (1, prior_counts);
    world.look(NOW, "in_progress", &[3, 0], 0);
    let progress = world.status.display.clone();
    assert!(world.look(NOW + HOUR, "in_progress", &[3, 1], 0));
    assert_eq!((world.last_progress(), &world.status.display), (NOW + HOUR, &progress), "they were done once");
    let seen = PolledState::Ended { state: BatchEnd::Expired, done: 3, rejected: None };
    world.memory.looks.insert("batch-0".into(), PollResult { at: NOW + 2 * HOUR, seen });
    world.write(NOW + 2 * HOUR);
    assert_eq!(world.last_progress(), NOW + 2 * HOUR);
    let submitted = Shard { requests: 10, round: 2, prior_counts, ..shard(Some(running(2))) };
    world.journal.shards.push(submitted);
    world.write(NOW + 3 * HOUR);
    assert_eq!(world.last_progress(), NOW + 3 * HOUR);
    assert!(!world.write(NOW + 4 * HOUR));
}

#[test]
fn nothing_is_said_of_batches_that_nobody_could_look_at() {
    let mut world = World::new(1, Some(HOUR));
    world.look(NOW, "in_progress", &[4], 0);
    assert!(!world.write(NOW + 9 * HOUR), "the provider is away, and the condition Stalled says so");
    world.look(NOW + 9 * HOUR, "in_progress", &[4], 0);
    assert_eq!(world.progressing().0, "False");
}

#[test]
fn batches_past_their_expiry_are_named_after_an_hour() {
    let mut world = World::new(2, None);
    let expires_at = NOW + 2 * HOUR;
    world.look(NOW + 3 * HOUR - 1_000, "in_progress", &[1, 2], expires_at / 1_000);
    assert_eq!(world.progressing().0, "True");
    world.look(NOW + 3 * HOUR, "in_progress", &[2, 3], expires_at / 1_000);
    let (status, reason, message) = world.progressing();
    assert_eq!((status, reason), ("False", "BatchesPastExpiry"));
    assert!(message.contains("00000-1 (expired Jan 01 02:16:40 UTC), 00001-1"), "{message}");
    assert_eq!(world.condition(STALLED).unwrap().0, "False", "there is progress");
    assert!(!world.look(NOW + 4 * HOUR, "in_progress", &[2, 3], expires_at / 1_000), "once");
    let counts = RequestCounts { total: 10, succeeded: 10, ..Default::default() };
    for n in 0..2 {
        world.journal.shards[n].attempt.as_mut().unwrap().state = completed(&format!("batch-{n}"), counts, 0);
    }
    world.write(NOW + 5 * HOUR);
    assert_eq!(world.condition(PROGRESSING), None, "no batch runs");
    let mut silent = World::new(1, None);
    silent.job.completion_window = 24 * HOUR;
    silent.look(NOW + 25 * HOUR - 1, "in_progress", &[1], 0);
    assert_eq!(silent.progressing().0, "True");
    silent.look(NOW + 25 * HOUR, "in_progress", &[1], 0);
    assert_eq!(silent.progressing().1, "BatchesPastExpiry", "a provider that reports no expiry");
}

#[test]
fn batches_that_are_done_and_do_not_end_are_named_after_an_hour() {
    for (state, done) in [("finalizing", 3), ("in_progress", 10)] {
        let mut world = World::new(1, None);
        world.look(NOW, "in_progress", &[2], 0);
        world.look(NOW + HOUR, state, &[done], 0);
        world.look(NOW + 2 * HOUR - 1, state, &[done], 0);
        assert_eq!(world.progressing().0, "True");
        world.look(NOW + 2 * HOUR, state, &[done], 0);
        let (status, reason, message) = world.progressing();
        assert_eq!((status, reason), ("False", "BatchesNotFinalized"));
        assert!(message.contains("00000-1 (done since Jan 01 01:16:40 UTC)"), "{message}");
        assert!(!world.look(NOW + 9 * HOUR, state, &[done], 0));
        world.memory.looks.clear();
        world.memory.times.clear();
        assert!(!world.look(NOW + 10 * HOUR, state, &[done], 0), "status has the time of the last progress");
    }
}

#[test]
fn all_that_is_wrong_is_in_the_message() {
    let mut world = World::new(1, Some(HOUR));
    world.look(NOW, "in_progress", &[10], 0);
    world.look(NOW + 30 * HOUR, "in_progress", &[10], 0);
    let (_, reason, message) = world.progressing();
    assert_eq!(reason, "ProgressDeadlineExceeded");
    for words in ["no request was done since", "run on after their expiry", "does not end the batch"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert!(message.len() < 2_048, "{message}");
}

#[test]
fn a_deadline_that_is_longer_or_gone_takes_the_message_back() {
    let mut world = World::new(1, Some(HOUR));
    world.look(NOW, "in_progress", &[1], 0);
    world.look(NOW + 2 * HOUR, "in_progress", &[1], 0);
    assert_eq!(world.progressing().0, "False");
    for deadline in [Some(3 * HOUR), None] {
        world.job.progress_deadline = deadline;
        world.write(NOW + 2 * HOUR);
        assert_eq!((world.progressing().0, world.condition(STALLED).unwrap().0), ("True", "False"));
    }
}
