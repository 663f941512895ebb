//! What goes with a job, and what stays.

use super::*;

fn committed(of: Owner) -> Journal {
    let requests = RequestCounts { total: 1, cancelled: 1, ..Default::default() };
    let (reason, message) = ("r".into(), "m".into());
    let commit =
        Commit { outcome: Outcome::Cancelled, reason, message, at: NOW, requests, spending: Default::default() };
    Journal { commit: Some(commit), ..journal(of, submitted()) }
}

fn manifest(work: &str) -> Memory {
    let manifest = ManifestView { outcome: Outcome::Cancelled, ..super::manifest(work, "h") };
    Memory { manifest: Some(Some(manifest)), marked: Some(work.into()), ..Default::default() }
}

/// A shard is sealed once its files are gone: those of a job of many batches do not wait for its end.
#[test]
fn files_of_settled_batches_go_while_others_run_where_they_are_many() {
    let many = |settled: usize| {
        let mut journal = journal(owner("j", "u"), submitted());
        for i in 1..=settled {
            let state = AttemptState::Settled {
                batch_id: format!("b{i}"),
                ended: "completed".into(),
                part: Some(PartRef { name: "p".into(), sha256: "s".into() }),
                counts: RequestCounts { total: 1, succeeded: 1, ..Default::default() },
                usage: Default::default(),
                cost: None,
                retryable: 0,
                errors: vec![],
                files: vec![format!("in-{i}"), format!("out-{i}")],
            };
            journal.shards.push(shard(Some(state)));
        }
        journal
    };
    let running = |task: Option<Task>| {
        let mut memory = searched(memory());
        memory.looks.insert(
            "batch-1".into(),
            PollResult { at: NOW, seen: PolledState::Running { state: "r".into(), done: 0 } },
        );
        memory.running.extend(task);
        memory
    };
    let deletes = |shard: usize| Step::DeleteFiles {
        files: vec![format!("in-{shard}"), format!("out-{shard}")],
        attempt_key: Some(AttemptKey { shard, attempt: 1 }),
        must: false,
    };
    assert_eq!(step(&job(), Some(&many(16)), &running(None)), deletes(1));
    let busy = running(Some(Task::Call(AttemptKey { shard: 1, attempt: 1 })));
    assert_eq!(step(&job(), Some(&many(16)), &busy), deletes(2), "what waits for its next try holds up no other");
    assert!(matches!(step(&job(), Some(&many(15)), &running(None)), Step::Wait { .. }), "few wait for the end");
    let keeps = JobView { provider_file_policy: ProviderFilePolicy::Retain, ..job() };
    assert!(matches!(step(&keeps, Some(&many(16)), &running(None)), Step::Wait { .. }));
    // With the next write the names of deleted files go, so that their shards can leave the head.
    let mut deleted = running(None);
    deleted.deleted.extend((1..=16).flat_map(|i| [format!("in-{i}"), format!("out-{i}")]));
    deleted.looks.insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::NotFound });
    let lost = JobView { answers: Answers::one("lost-intent-1", "resend"), ..job() };
    deleted.deleted.insert("file-1".into());
    let Step::Swap(mut next) = step(&lost, Some(&many(16)), &deleted) else { panic!("nothing is written") };
    assert_eq!(next.shards.pack(16).unwrap().len(), 1);
    assert_eq!((next.shards.in_head().count(), next.shards.totals().settled), (1, 16));
}

#[test]
fn what_was_lost_with_its_namespace_is_let_go_at_once_and_told() {
    let blocked =
        Some(Blocked { reason: "NamespaceTerminating", message: "namespace 'n' goes, and Secret 's' went".into() });
    let missing = JobView { blocked, deleting_since: Some(NOW), ..job() };
    assert!(matches!(step(&missing, None, &memory()), Step::Wait { .. }), "it may come back");
    let lost = JobView { is_lost: true, ..missing };
    let told = |job: &JobView| match step(job, None, &memory()) {
        Step::RemoveFinalizer { abandoned, untidy: None } => abandoned,
        step => panic!("{step:?}"),
    };
    let message = told(&lost).unwrap();
    assert!(message.contains("Secret 's' went") && message.contains("batch-1 may run on, and cost"), "{message}");
    let on_its_way = JobView { batches: vec![], ..lost.clone() };
    assert!(told(&on_its_way).unwrap().contains("a batch that was being submitted may run"));
    let unsent = JobView { submitted: false, ..on_its_way };
    assert!(told(&unsent).unwrap().contains("no batch of it is known"));
    assert_eq!(told(&JobView { lock: None, ..unsent }), None, "nothing was ever opened by it");
}

fn deleted() -> JobView {
    JobView { deleting_since: Some(NOW), ..job() }
}

fn let_go(untidy: Option<&str>) -> Step {
    Step::RemoveFinalizer { abandoned: None, untidy: untidy.map(str::to_string) }
}

fn tidied(memory: Memory, failed: Option<(&str, bool)>) -> Memory {
    let failed = failed.map(|(message, retryable)| CleanUpFailure { message: message.into(), retryable });
    Memory { tidied: Some(CleanUpResult { work_id: "w".into(), failed }), ..memory }
}

#[test]
fn a_finished_job_tidies_its_work_whoever_the_journal_names_of_its_name() {
    let finished = JobView { finished: true, ..job() };
    let elsewhere = Owner { cluster: "d".into(), ..owner("j", "v") };
    for of in [owner("j", "earlier"), elsewhere] {
        let journal = committed(of);
        assert_eq!(step(&finished, Some(&journal), &Memory::default()), Step::LookForManifest);
        assert_eq!(step(&finished, Some(&journal), &manifest("w")), Step::CleanUp);
        let waits = |memory: Memory| matches!(step(&finished, Some(&journal), &memory), Step::Wait { .. });
        assert!(waits(manifest("another work")) && waits(memory()), "its parts are needed yet");
    }
    let neighbours = step(&finished, Some(&committed(owner("k", "u"))), &manifest("w"));
    assert!(matches!(neighbours, Step::Wait { .. }), "another work's");
}

#[test]
fn who_goes_on_with_a_journal_that_was_closed_sends_no_file_that_may_be_gone() {
    let refused = || AttemptState::Refused { refusal: Refusal::NotSent, message: "m".into(), at: 0, retry_at: None };
    let elsewhere = Owner { cluster: "d".into(), ..owner("j", "v") };
    for (of, closing) in
        [(owner("j", "u"), true), (owner("j", "earlier"), true), (elsewhere, true), (owner("j", "earlier"), false)]
    {
        let closed = Journal { closing: closing.then_some(DeletionPolicy::Orphan), ..journal(of, Some(refused())) };
        let Step::Swap(next) = step(&job(), Some(&closed), &the_same_work(memory())) else { panic!("not taken") };
        let file = if closing { "" } else { "file-1" };
        assert_eq!(next.shards[0].attempt.as_ref().unwrap().payload.name(), file);
        assert_eq!(next.work_id, "w", "its parts may lie there");
    }
    let open = journal(owner("j", "u"), Some(refused()));
    let sends = |memory: &Memory| matches!(step(&job(), Some(&open), memory), Step::WriteIntent { .. });
    assert!(sends(&memory()), "as good as new");
    assert!(!sends(&Memory { deleted: ["file-1".to_string()].into(), ..memory() }), "until we deleted it");
}

#[test]
fn what_was_staged_for_a_deleted_job_goes_once_its_results_are_written() {
    let journal = committed(owner("j", "u"));
    assert_eq!(step(&deleted(), Some(&journal), &Memory::default()), Step::LookForManifest);
    assert_eq!(step(&deleted(), Some(&journal), &memory()), Step::Write, "the results come first");
    let foreign = step(&deleted(), Some(&journal), &manifest("another work"));
    assert!(matches!(foreign, Step::Wait { .. }), "its parts are needed yet");
    assert_eq!(step(&deleted(), Some(&journal), &manifest("w")), Step::CleanUp);
    assert_eq!(step(&deleted(), Some(&journal), &tidied(manifest("w"), None)), let_go(None));
}

#[test]
fn results_are_marked_as_whole_before_status_says_so() {
    let journal = committed(owner("j", "u"));
    let concludes = |memory: &Memory| matches!(step(&job(), Some(&journal), memory), Step::Conclude { .. });
    assert!(concludes(&manifest("w")));
    for marked in [None, Some("another work".to_string())] {
        let unmarked = Memory { marked, ..manifest("w") };
        assert_eq!(step(&job(), Some(&journal), &unmarked), Step::WriteSuccess);
        assert_eq!(step(&deleted(), Some(&journal), &unmarked), Step::WriteSuccess, "nor is the object let go");
    }
}

#[test]
fn what_runs_is_ended_before_what_was_staged_goes() {
    let runs = |memory| Memory { running: [Task::Plan].into(), ..memory };
    let closed = Journal { closing: Some(DeletionPolicy::Cancel), ..journal(owner("j", "u"), None) };
    assert_eq!(step(&deleted(), Some(&closed), &runs(memory())), Step::EndTasks);
    let again = runs(tidied(memory(), Some(("away", true))));
    assert_eq!(step(&deleted(), Some(&closed), &again), Step::EndTasks);
    let finished = JobView { finished: true, ..job() };
    for of in [owner("j", "u"), owner("j", "earlier")] {
        assert_eq!(step(&finished, Some(&committed(of)), &runs(manifest("w"))), Step::EndTasks);
    }
}

#[test]
fn what_was_staged_for_a_job_that_failed_before_it_was_sent_goes_with_it() {
    let failed = JobView { finished: true, tidy: true, lock: None, submitted: false, ..deleted() };
    let unsent = Journal { plan: None, shards: Shards::default(), ..journal(owner("j", "u"), None) };
    let Step::Swap(closed) = step(&failed, Some(&unsent), &Memory::default()) else { panic!("it is not closed") };
    assert_eq!(closed, unsent.next(|j| j.closing = Some(DeletionPolicy::Cancel)));
    assert_eq!(step(&failed, Some(&closed), &Memory::default()), Step::CleanUp);
    assert_eq!(step(&failed, Some(&closed), &tidied(Memory::default(), None)), let_go(None));
    let untidy = tidied(Memory::default(), Some(("denied", false)));
    assert_eq!(step(&failed, Some(&closed), &untidy), let_go(Some("denied")));
    for kept in [journal(owner("k", "u"), None), journal(owner("j", "u"), submitted()), committed(owner("j", "u"))] {
        assert_eq!(step(&failed, Some(&kept), &Memory::default()), let_go(None), "somebody may need it");
    }
    assert_eq!(step(&failed, None, &Memory::default()), let_go(None));
}

#[test]
fn what_was_staged_for_a_job_that_ended_before_its_deletion_goes_if_it_is_the_jobs() {
    let journal = committed(owner("j", "u"));
    let finished = JobView { finished: true, ..deleted() };
    assert_eq!(step(&finished, Some(&journal), &Memory::default()), Step::CleanUp);
    assert_eq!(step(&finished, Some(&journal), &tidied(Memory::default(), None)), let_go(None));
    assert_eq!(step(&JobView { tidy: true, ..finished.clone() }, Some(&journal), &Memory::default()), let_go(None));
    for other in [owner("j", "later"), owner("k", "u")] {
        assert_eq!(
            step(&finished, Some(&committed(other)), &Memory::default()),
            let_go(None),
            "another goes on with it"
        );
    }
}

#[test]
fn a_deleted_job_that_ended_waits_for_a_store_that_is_away_until_the_deletion_is_overdue() {
    let unread = |store_is_away, since| {
        let blocked = Some(Blocked { reason: "Anything", message: "why".into() });
        let job = JobView { finished: true, blocked, store_is_away, deleting_since: Some(since), ..deleted() };
        step(&job, None, &Memory::default())
    };
    assert_eq!(unread(false, NOW), let_go(Some("why")), "it goes with its namespace");
    let Step::Wait { until, why } = unread(true, NOW) else { panic!("the store may come back") };
    assert_eq!((until, why.stage), (Some(NOW + 15_000), "Finished"), "and status says nothing else of it");
    assert_eq!(unread(true, NOW - 1_000), let_go(Some("why")));
}

#[test]
fn what_was_staged_for_a_job_that_was_never_sent_goes_once_its_journal_is_closed() {
    let open = journal(owner("j", "u"), None);
    let Step::Swap(closed) = step(&deleted(), Some(&open), &memory()) else { panic!("it is not closed") };
    assert_eq!(step(&deleted(), Some(&closed), &memory()), Step::CleanUp);
    assert_eq!(step(&deleted(), Some(&closed), &tidied(memory(), None)), let_go(None));
    let earlier = CleanUpResult { work_id: "an earlier work".into(), failed: None };
    let told = Memory { tidied: Some(earlier), ..memory() };
    assert_eq!(step(&deleted(), Some(&closed), &told), Step::CleanUp, "this one is not tidied yet");
}

#[test]
fn who_goes_on_with_a_journal_that_was_closed_before_an_intent_stages_anew() {
    let closed = |of: Owner, policy| Journal { closing: Some(policy), ..journal(of, None) };
    let elsewhere = Owner { cluster: "d".into(), ..owner("j", "v") };
    for of in [owner("j", "u"), owner("j", "earlier"), elsewhere] {
        let journal = closed(of, DeletionPolicy::Orphan);
        let Step::Swap(next) = step(&job(), Some(&journal), &the_same_work(memory())) else { panic!("not taken") };
        assert_eq!((next.work_id.as_str(), next.plan, next.shards), ("nonce", None, Shards::default()));
    }
    let left = journal(owner("j", "earlier"), None);
    let Step::Swap(next) = step(&job(), Some(&left), &memory()) else { panic!("not taken") };
    assert_eq!(next.work_id, "w", "nobody tidies what is not closed");
    let sent = Journal { closing: Some(DeletionPolicy::Cancel), ..journal(owner("j", "u"), submitted()) };
    let Step::Swap(next) = step(&job(), Some(&sent), &memory()) else { panic!("not opened again") };
    assert_eq!((next.work_id.as_str(), next.shards.len(), next.closing), ("w", 1, None), "what was sent goes on");
}

#[test]
fn what_cannot_be_deleted_holds_no_job_beyond_its_deadline() {
    let journal = committed(owner("j", "u"));
    let away = tidied(manifest("w"), Some(("away", true)));
    let overdue = JobView { deleting_since: Some(NOW - 1_000), ..deleted() };
    assert_eq!(step(&deleted(), Some(&journal), &away), Step::CleanUp, "again");
    assert_eq!(step(&overdue, Some(&journal), &away), let_go(Some("away")));
    assert_eq!(step(&overdue, Some(&journal), &manifest("w")), Step::CleanUp, "it is tried once, however late");
    let denied = tidied(manifest("w"), Some(("denied", false)));
    assert_eq!(step(&deleted(), Some(&journal), &denied), let_go(Some("denied")));
}

#[test]
fn what_an_orphan_left_running_needs_stays() {
    let mut sent = journal(owner("j", "u"), submitted());
    sent.closing = Some(DeletionPolicy::Orphan);
    let orphan = JobView { deletion_policy: DeletionPolicy::Orphan, ..deleted() };
    assert_eq!(step(&orphan, Some(&sent), &memory()), let_go(None));
    let late = JobView { deleting_since: Some(NOW - 1_000), ..deleted() };
    sent.closing = Some(DeletionPolicy::Cancel);
    let look = PollResult { at: NOW, seen: PolledState::Running { state: "in_progress".into(), done: 0 } };
    let mut told = searched(memory());
    told.cancelled.insert("batch-1".into());
    told.looks.insert("batch-1".into(), look);
    let Step::RemoveFinalizer { abandoned: Some(_), .. } = step(&late, Some(&sent), &told) else { panic!("it stays") };
}

#[test]
fn a_job_that_is_deleted_with_its_journal_has_what_status_names_stopped() {
    let mut memory = memory();
    assert_eq!(step(&deleted(), None, &memory), Step::CancelUnjournaled { batch_id: "batch-1".into() });
    memory.cancelled.insert("batch-1".into());
    let Step::RemoveFinalizer { abandoned: Some(why), .. } = step(&deleted(), None, &memory) else {
        panic!("it stays")
    };
    assert!(why.contains("told to stop"), "{why}");
    let orphan = JobView { deletion_policy: DeletionPolicy::Orphan, ..deleted() };
    assert!(matches!(step(&orphan, None, &Memory::default()), Step::RemoveFinalizer { abandoned: Some(_), .. }));
    let overdue = JobView { deleting_since: Some(NOW - 1_000), ..deleted() };
    let Step::RemoveFinalizer { abandoned: Some(why), .. } = step(&overdue, None, &Memory::default()) else {
        panic!("it stays")
    };
    assert!(!why.contains("the journal at the destination names them"), "{why}");
}

#[test]
fn a_deletion_that_is_overdue_does_not_wait_for_what_keeps_failing() {
    let failing = |memory: Memory| Memory { error: Some("no answer".into()), ..memory };
    let overdue = JobView { deleting_since: Some(NOW - TIMING.deletion_deadline), ..job() };
    let earlier = owner("j", "earlier");
    for of in [owner("j", "u"), earlier] {
        for journal in [journal(of.clone(), submitted()), journal(of.clone(), Some(AttemptState::Intended))] {
            assert!(!is_let_go(&step(&deleted(), Some(&journal), &failing(memory()))), "it may pass");
            assert!(!is_let_go(&step(&overdue, Some(&journal), &memory())), "it goes well, and is nearly done");
            let Step::RemoveFinalizer { abandoned: Some(why), .. } = step(&overdue, Some(&journal), &failing(memory()))
            else {
                panic!("held for ever")
            };
            assert!(why.contains("no answer") && why.contains("may still run"), "{why}");
        }
    }
    let never_sent = journal(owner("j", "u"), None);
    assert!(!is_let_go(&step(&overdue, Some(&never_sent), &memory())));
    assert_eq!(step(&overdue, Some(&never_sent), &failing(memory())), let_go(Some("no answer")));
}

fn is_let_go(step: &Step) -> bool {
    matches!(step, Step::RemoveFinalizer { .. })
}
