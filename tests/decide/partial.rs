//! Answers that are readable while the job runs: published beside everything else, and never instead of it.

use batchjob_operator::lifecycle::Published;

use super::*;

fn publishes() -> JobView {
    JobView { partial_results: true, ..job() }
}

/// The first of two batches is settled, the second runs.
fn half_done() -> (Journal, Memory) {
    let counts = RequestCounts { total: 1, succeeded: 1, ..Default::default() };
    let mut journal = journal(owner("j", "u"), Some(completed("batch-0", counts, 0)));
    let attempt =
        Attempt { state: submitted().unwrap(), ..Attempt::intended(1, "intent-1", Payload::file("f"), 0, "f") };
    journal.shards.push(Shard { attempt: Some(attempt), ..shard(None) });
    let mut memory = searched(memory());
    let seen = PolledState::Running { state: "in_progress".into(), done: 0 };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    (journal, memory)
}

fn published(settled: usize) -> Option<Published> {
    Some(Published { settled, ..Default::default() })
}

#[test]
fn answers_of_a_settled_batch_are_published_once_while_others_run() {
    let (journal, mut memory) = half_done();
    let waits = step(&job(), Some(&journal), &memory);
    assert!(matches!(waits, Step::Wait { .. }), "nobody asked for it: {waits:?}");
    assert_eq!(step(&publishes(), Some(&journal), &memory), Step::Publish, "also by a process that knows of none");
    memory.running.insert(Task::Publish);
    assert_eq!(step(&publishes(), Some(&journal), &memory), waits, "nobody waits for it");
    memory.running.clear();
    memory.published = published(1);
    assert_eq!(step(&publishes(), Some(&journal), &memory), waits, "all is published");
    memory.published = published(0);
    assert_eq!(step(&publishes(), Some(&journal), &memory), Step::Publish, "a batch was settled since");
    memory.failed_calls.insert(Task::Publish, NOW + 1_000);
    memory.hold_back(NOW);
    assert_eq!(step(&publishes(), Some(&journal), &memory), waits, "it failed, and is tried again later");
}

#[test]
fn a_job_that_waits_for_a_person_or_is_past_its_time_publishes_and_one_that_ends_or_goes_does_not() {
    let (journal, memory) = half_done();
    let is_published = |job: JobView, journal: &Journal, memory: &Memory| {
        step(&JobView { partial_results: true, ..job }, Some(journal), memory) == Step::Publish
    };
    assert!(is_published(JobView { suspend: true, ..job() }, &journal, &memory), "suspended");
    let mut late = journal.clone();
    late.out_of_time_since = Some(NOW - 1);
    let mut cancelled = memory.clone();
    cancelled.cancelled.insert("batch-1".into());
    assert!(is_published(JobView { deadline: Some(NOW - 1), ..job() }, &late, &cancelled), "past its deadline");
    let blocked = Some(Blocked { reason: "SecretNotFound", message: "m".into() });
    assert!(!is_published(JobView { blocked, ..job() }, &journal, &memory), "its store cannot be opened");
    let mut closing = journal.clone();
    closing.closing = Some(DeletionPolicy::Cancel);
    let going = JobView { deleting_since: Some(NOW), ..job() };
    assert!(!is_published(going, &closing, &cancelled), "its object goes");
    let mut ends = memory.clone();
    ends.running.insert(Task::DeleteFiles);
    assert!(!is_published(job(), &journal, &ends), "its results are next");
    let mut unsent = journal.clone();
    unsent.shards = Shards::from(vec![shard(None)]);
    assert!(!is_published(JobView { suspend: true, ..job() }, &unsent, &memory), "its plan may be dropped");
}

#[test]
fn status_says_where_answers_are_while_the_job_runs() {
    let (mut journal, memory) = half_done();
    let shown = |job: &JobView, journal: &Journal| {
        let observed = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory: &memory };
        let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
        project(&observed, &Default::default(), None, &wait).unwrap().partial_results_uri
    };
    assert_eq!(shown(&publishes(), &journal), Some("s3://b/o/results.partial/".into()));
    assert_eq!(shown(&job(), &journal), None, "nobody asked for it");
    let nothing_yet = self::journal(owner("j", "u"), submitted());
    assert_eq!(shown(&publishes(), &nothing_yet), None);
    let requests = RequestCounts::default();
    journal.commit = Some(Commit {
        outcome: Outcome::Succeeded,
        reason: "r".into(),
        message: "m".into(),
        at: NOW,
        requests,
        spending: Default::default(),
    });
    assert_eq!(shown(&publishes(), &journal), None, "the results are being written");
}
