//! Shards with answers of earlier jobs: settled from the beginning, never sent, and free.

use batchjob_operator::api::{PROTOCOL_VERSION, PROTOCOL_VERSION_OF_REUSE};
use batchjob_operator::lifecycle::{InputLook, ReuseSet};

use super::*;

pub fn reused() -> Shard {
    let part = PartRef { name: "reused".into(), sha256: "s".into() };
    Shard { reused: Some(part), sha256: "r".into(), ..beginnings::shard() }
}

fn unsent() -> JobView {
    JobView { submitted: false, batches: vec![], ..job() }
}

/// A plan of one request whose answer is reused, and one that is to be sent.
fn planned() -> Journal {
    let set = |uri: &str, answers, incomparable| ReuseSet { uri: uri.into(), answers, incomparable };
    let sets = vec![set("s3://b/mon/", Some(7), 0), set("s3://b/tue/", None, 0), set("s3://b/wed/", Some(0), 3)];
    let plan = Plan { requests: 2, reuse: sets, ..plan("h") };
    let shards = vec![reused(), Shard { first: 1, ..beginnings::shard() }].into();
    Journal { shards, plan: Some(plan), ..journal(owner("j", "u"), None) }
}

#[test]
fn a_shard_with_reused_answers_is_never_uploaded_or_asked_for() {
    let (job, journal, mut memory) = (unsent(), planned(), memory());
    let key = AttemptKey { shard: 1, attempt: 1 };
    assert_eq!(step(&job, Some(&journal), &memory), Step::Upload(key));
    memory.uploads.insert((key, "s".into()), "file".into());
    // Not even with a file that somebody made of it.
    memory.uploads.insert((AttemptKey { shard: 0, attempt: 1 }, "r".into()), "file-0".into());
    let Step::WriteIntent { journal: next, .. } = step(&job, Some(&journal), &memory) else { panic!("no intent") };
    assert!(next.shards[0].attempt.is_none() && next.shards[1].attempt.is_some());
}

/// A job that reuses the answers of one whose batches run would pay for them once more.
#[test]
fn a_job_waits_for_results_that_it_reuses_and_looks_again_ever_more_seldom() {
    let job = unsent();
    let opened = Journal { plan: None, shards: Shards::default(), ..journal(owner("j", "u"), None) };
    let looked = |at, first, of: &str| {
        let missing = Some("the results of s3://b/mon/ are not there yet".into());
        let look = InputLook { of: of.into(), missing, at, first, jitter: 0, is_due: false };
        Memory { reuse_look: Some(look), ..memory() }
    };
    let plans = |job: &JobView, memory: &Memory| match step(job, Some(&opened), memory) {
        Step::Plan { stage: Some(_), .. } => None,
        Step::Wait { until, why } => Some((until, why.stage, why.note.unwrap_or_default())),
        other => panic!("{other:?}"),
    };
    assert_eq!(plans(&job, &memory()), None);
    let (until, stage, note) = plans(&job, &looked(NOW, NOW, "spec")).unwrap();
    assert_eq!((until, stage), (Some(NOW + 15_000), "WaitingForInput"));
    insta::assert_snapshot!(note, @"the results of s3://b/mon/ are not there yet; this job waits for them, so that nothing is paid twice, for as long as it takes; `spec.activeDeadlineSeconds` sets a limit");
    assert_eq!(plans(&job, &looked(NOW, NOW - 1_000_000, "spec")).unwrap().0, Some(NOW + 100_000));
    assert_eq!(plans(&job, &looked(NOW - 15_000, NOW - 15_000, "spec")), None, "the next look");
    assert_eq!(plans(&job, &looked(NOW, NOW, "another spec")), None);
    let mut looking = looked(NOW - 15_000, NOW - 15_000, "spec");
    looking.running.insert(Task::Plan);
    assert_eq!(plans(&job, &looking).unwrap().1, "WaitingForInput", "status is not written for a look");
    let late = JobView { deadline: Some(NOW), ..unsent() };
    let Step::Fail(failure) = step(&late, Some(&opened), &looked(NOW, NOW, "spec")) else { panic!("it waits on") };
    assert!(failure.reason == "DeadlineExceeded" && failure.message.contains("s3://b/mon/"), "{}", failure.message);
}

#[test]
fn a_job_with_reused_answers_that_sent_nothing_fails_for_free_and_is_planned_anew() {
    let (journal, memory) = (planned(), memory());
    let drops = |job: &JobView| match step(job, Some(&journal), &memory) {
        Step::Swap(next) => next.plan.is_none() && next.shards.is_empty(),
        other => panic!("{other:?}"),
    };
    assert!(drops(&JobView { deadline: Some(NOW), ..unsent() }), "its time is over");
    assert!(drops(&JobView { spec_hash: "other".into(), ..unsent() }), "its spec changed");
}

#[test]
fn a_job_whose_answers_are_all_reused_ends_without_a_batch() {
    let journal = Journal { shards: vec![reused()].into(), ..journal(owner("j", "u"), None) };
    let Step::Swap(next) = step(&unsent(), Some(&journal), &memory()) else { panic!("no end") };
    let commit = next.commit.unwrap();
    assert_eq!((commit.outcome, commit.reason.as_str()), (Outcome::Succeeded, "AllSucceeded"));
    assert_eq!(commit.message, "all 1 requests succeeded, 1 of them with answers of earlier jobs");
    assert_eq!(commit.requests, RequestCounts { total: 1, succeeded: 1, reused: 1, ..Default::default() });
}

#[test]
fn status_tells_how_many_answers_are_reused_and_which_sets_have_none() {
    let (job, journal, memory) = (unsent(), planned().next(|_| {}), memory());
    let o = Observed { now: NOW, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
    let status = project(&o, &BatchJobStatus::default(), Some(1), &wait).unwrap();
    assert_eq!(status.display.unwrap().progress, "1/2 (50%), 1 reused");
    assert_eq!(status.requests.unwrap().reused, 1);
    assert_eq!(status.protocol_version, Some(PROTOCOL_VERSION_OF_REUSE), "that of its journal");
    let message =
        |type_: &str| status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.message.as_str()).unwrap();
    insta::assert_snapshot!(message("Planned"), @"2 requests were read and are sound; 1 have an answer in `spec.reuseFrom` and are not sent; nothing is reused of s3://b/tue/, which `spec.reuseFrom` names: there is no result set (manifest.json); 3 answers of s3://b/wed/ are of an earlier version, and cannot be reused");
    assert_eq!(message("Submitted"), "0 of 1 batches were submitted");
}

/// An operator of an earlier version would take the shard for one that is to be sent.
#[test]
fn a_journal_with_reused_answers_is_of_a_version_that_earlier_operators_leave_alone() {
    assert_eq!(planned().next(|_| {}).protocol_version, PROTOCOL_VERSION_OF_REUSE);
    assert_eq!(journal(owner("j", "u"), None).next(|_| {}).protocol_version, PROTOCOL_VERSION);
    let dropped = planned().next(|j| j.shards.clear());
    assert_eq!(dropped.protocol_version, PROTOCOL_VERSION);
}

#[test]
fn a_shard_that_was_sent_although_its_answers_are_reused_is_in_no_journal() {
    let read = |journal: &Journal| serde_json::from_str::<Journal>(&serde_json::to_string(journal).unwrap());
    let journal = planned();
    assert_eq!(read(&journal).unwrap(), journal);
    let mut sent = journal.clone();
    sent.shards[0].attempt = shard(submitted()).attempt;
    let mut later = journal.clone();
    later.shards[0].round = 1;
    let mut long = journal;
    long.shards[0].reused.as_mut().unwrap().name = "n".repeat(5_000);
    for wrong in [sent, later, long] {
        assert!(read(&wrong).unwrap_err().to_string().contains("out of bounds"));
    }
}
