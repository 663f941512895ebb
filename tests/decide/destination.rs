//! What lies at the destination already, and whose it is.

use super::*;

#[test]
fn what_an_earlier_namesake_left_running_is_told() {
    let journal = journal(owner("j", "earlier"), submitted());
    let Step::Fail(failure) = step(&job(), Some(&journal), &other_work(memory())) else { panic!("no failure") };
    assert!(failure.message.contains("batch-1") && failure.message.contains("earlier BatchJob"), "{}", failure.message);
}

#[test]
fn what_was_found_out_of_one_owner_says_nothing_of_the_next() {
    let journal = journal(owner("other", "second"), None);
    let mut memory = memory();
    memory.owner_alive = Some((owner("other", "first"), false));
    assert_eq!(step(&job(), Some(&journal), &memory), Step::FindOwner(owner("other", "second")));
    memory.owner_alive = Some((owner("other", "second"), true));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Fail(_)));
}

#[test]
fn a_foreign_result_file_fails_the_job_before_an_upload_and_never_after() {
    let taken = Memory { taken: Some("s3://b/o/results.jsonl".into()), ..memory() };
    let fresh = JobView { submitted: false, ..job() };
    let Step::Fail(failure) = step(&fresh, None, &taken) else { panic!("no failure") };
    assert!(failure.message.contains("s3://b/o/results.jsonl"));
    let planned = journal(owner("j", "u"), None);
    let Step::Swap(next) = step(&fresh, Some(&planned), &taken) else { panic!("the plan stays") };
    assert_eq!(next.plan, None);
    let sent = journal(owner("j", "u"), submitted());
    assert!(matches!(step(&job(), Some(&sent), &taken), Step::Poll(_)), "a batch that runs is followed");
}

/// The journal as it is when the job fails, after steps that change it and nothing else.
fn fails(job: &JobView, mut journal: Journal, memory: &Memory) -> Failure {
    for _ in 0..5 {
        match step(job, Some(&journal), memory) {
            Step::Swap(next) => journal = next,
            Step::Fail(failure) => {
                assert_eq!(journal.plan, None, "nobody acts on a plan whose spec is unlocked");
                return failure;
            }
            step => panic!("{step:?}"),
        }
    }
    panic!("no end of writing the journal")
}

#[test]
fn out_of_time_before_anything_was_sent_it_fails_and_is_not_planned_again() {
    let late = JobView { deadline: Some(NOW - 1), submitted: false, ..job() };
    let planned = PlanResult { staged: Some("w".into()), plan: plan("h"), shards: vec![shard(None)].into() };
    let read = Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory() };
    for memory in [memory(), read] {
        assert_eq!(fails(&late, journal(owner("j", "u"), None), &memory).reason, "DeadlineExceeded");
    }
}

#[test]
fn results_of_other_work_that_came_after_the_journal_fail_the_job_once() {
    let fresh = JobView { submitted: false, ..job() };
    let planned = PlanResult { staged: Some("w".into()), plan: plan("h"), shards: vec![shard(None)].into() };
    let pass = Some(Pass { spec_hash: "spec".into(), result: Ok(planned) });
    let manifest = manifest("other", "other");
    let memory = Memory { pass, manifest: Some(Some(manifest)), ..memory() };
    assert_eq!(fails(&fresh, journal(owner("j", "u"), None), &memory).reason, "OutputConflict");
}

#[test]
fn a_foreign_manifest_is_looked_at_again_for_somebody_may_move_it_away() {
    let foreign = manifest("other", "h2");
    let looked = |at| Memory { manifest: Some(Some(foreign.clone())), manifest_at: Some(at), ..searched(memory()) };
    let running = journal(owner("j", "u"), submitted());
    let mut done = running.clone();
    let end = Commit {
        outcome: Outcome::Succeeded,
        reason: "AllSucceeded".into(),
        message: String::new(),
        at: NOW,
        requests: Default::default(),
        spending: Default::default(),
    };
    done.commit = Some(end);
    for journal in [running, done] {
        let at = |at| {
            let mut memory = looked(at);
            let seen = PolledState::Running { state: "in_progress".into(), done: 0 };
            memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
            step(&job(), Some(&journal), &memory)
        };
        let Step::Wait { until, why } = at(NOW) else { panic!("not told of") };
        assert_eq!((until, why.blocked.unwrap().reason), (Some(NOW + 15_000), "OutputConflict"));
        assert_eq!(at(NOW - 15_000), Step::LookForManifest);
    }
}

#[test]
fn a_store_that_is_unfit_fails_the_job_before_an_upload_and_never_after() {
    let unfit = Memory { unfit_store: Some("set `region`".into()), ..memory() };
    let fresh = JobView { submitted: false, ..job() };
    let fails = |job: &JobView, journal: Option<&Journal>| match step(job, journal, &unfit) {
        Step::Fail(failure) => (failure.reason, failure.message) == ("StorageRejected", "set `region`".into()),
        _ => false,
    };
    let planned = journal(owner("j", "u"), None);
    let sent = journal(owner("j", "u"), submitted());
    let (mut empty, blocked) = (planned.clone(), Some(Blocked { reason: "StorageRejected", message: "m".into() }));
    empty.commit = Some(Commit {
        outcome: Outcome::Succeeded,
        reason: "AllSucceeded".into(),
        message: String::new(),
        at: NOW,
        requests: RequestCounts::default(),
        spending: Default::default(),
    });
    assert!(fails(&fresh, None) && fails(&fresh, Some(&planned)));
    let unread = JobView { blocked, ..fresh.clone() };
    assert!(!fails(&unread, None), "a journal that nobody can read may hold an intent");
    assert!(fails(&JobView { lock: None, ..unread }, None), "this object never opened one");
    assert!(!fails(&fresh, Some(&sent)) && !fails(&job(), None) && !fails(&fresh, Some(&empty)));
}

#[test]
fn a_job_whose_store_cannot_close_its_journal_is_let_go_at_once() {
    let unfit = Memory { unfit_store: Some("no If-Match".into()), ..memory() };
    let failed = JobView { deleting_since: Some(NOW), submitted: false, finished: true, lock: None, ..job() };
    let planned = journal(owner("j", "u"), None);
    let untidy = Some("no If-Match".to_string());
    assert_eq!(step(&failed, Some(&planned), &unfit), Step::RemoveFinalizer { abandoned: None, untidy });
}

/// After an upgrade, a job is the same work as the results that an earlier version wrote, and as a journal that it planned:
/// its input is read for a hash of their version, and nothing is paid again.
#[test]
fn work_of_an_earlier_version_is_known_by_a_hash_of_that_version() {
    use batchjob_operator::api::WorkHashVersion::{V1, V2};
    let fresh = JobView { submitted: false, ..job() };
    let results = manifest("other", "v1-same");
    let known_as = |hash: &str| {
        let planned = PlanResult { staged: None, plan: plan(hash), shards: Shards::default() };
        let pass = Some(Pass { spec_hash: "spec".into(), result: Ok(planned) });
        Memory { pass, manifest: Some(Some(results.clone())), ..memory() }
    };
    let unread = Memory { pass: None, ..known_as("") };
    let unsent = Journal { plan: Some(plan("v2-now")), ..journal(owner("j", "u"), None) };
    let unplanned = Journal { plan: None, shards: Shards::default(), ..unsent.clone() };
    let of_another = journal(owner("another", "v"), None);
    for (what, journal) in [
        ("no journal", None),
        ("planned", Some(&unsent)),
        ("unplanned", Some(&unplanned)),
        ("foreign", Some(&of_another)),
    ] {
        let to_compare = Step::Plan { stage: None, version: V1 };
        assert_eq!(step(&fresh, journal, &unread), to_compare, "{what}");
        assert_eq!(step(&fresh, journal, &known_as("v2-now")), to_compare, "{what}");
        let adopted = step(&fresh, journal, &known_as("v1-same"));
        assert!(matches!(adopted, Step::Conclude { reused: true, .. }), "{what}: {adopted:?}");
    }
    assert!(matches!(step(&fresh, None, &known_as("v1-other")), Step::Fail(f) if f.reason == "OutputConflict"));
    assert_eq!(fails(&fresh, unsent, &known_as("v1-other")).reason, "OutputConflict");
    let planned_before =
        Journal { plan: Some(plan("v1-same")), ..journal(owner("j", "an earlier object"), submitted()) };
    let no_results = |hash: &str| Memory { manifest: Some(None), ..known_as(hash) };
    assert_eq!(step(&fresh, Some(&planned_before), &no_results("v2-now")), Step::Plan { stage: None, version: V1 });
    assert!(matches!(step(&fresh, Some(&planned_before), &no_results("v1-same")), Step::Swap(_)), "it is taken over");
    let first = Memory { pass: None, ..no_results("") };
    let to_stage = Step::Plan { stage: Some("w".into()), version: V2 };
    assert_eq!(step(&fresh, Some(&Journal { work_id: "w".into(), ..unplanned }), &first), to_stage);
}
