//! What is refused: when it is sent again, as what, and what is shown meanwhile.

use super::*;

/// A shard of so many requests whose latest attempt stands so.
fn shard_of(requests: i64, state: Option<AttemptState>) -> Shard {
    Shard { requests, ..shard(state) }
}

fn refused(refusal: Refusal, at: i64) -> Option<AttemptState> {
    Some(AttemptState::Refused { refusal, message: "the server's words".into(), at, retry_at: None })
}

fn rejection(refusal: Refusal, retry_at: Option<i64>) -> Rejection {
    Rejection { retry_at, ..Rejection::new(refusal, "the server's words") }
}

fn at(job: &JobView, journal: &Journal, now: i64, memory: &Memory) -> Step {
    decide(&Observed { now, nonce: "i", timing: &TIMING, job, journal: Some(journal), memory })
}

/// What a swap of the journal leaves of its first shard.
fn swapped(step: Step) -> Shard {
    match step {
        Step::Swap(next) => next.shards[0].clone(),
        step => panic!("no write: {step:?}"),
    }
}

/// The reason and the message that a waiting job shows as `Complete`.
fn shown(job: &JobView, journal: &Journal, memory: &Memory, step: &Step) -> (String, String) {
    let observed = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory };
    let status = project(&observed, &BatchJobStatus::default(), Some(1), step).unwrap();
    let complete = status.conditions.iter().find(|c| c.type_ == "Complete").unwrap();
    (complete.reason.clone(), complete.message.clone())
}

fn intended() -> Journal {
    let mut journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    journal.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    journal
}

/// Case 24-create-refused-at-once.
#[test]
fn what_a_gateway_says_at_a_create_is_shown_at_once_and_resolved_like_any_unknown_submission() {
    let (mut journal, mut memory) = (intended(), memory());
    let said = rejection(Refusal::Capacity, Some(NOW + 3_600_000));
    memory.posted.insert("intent-1".into(), PostResult::Declined(said.clone()));
    let written = swapped(step(&job(), Some(&journal), &memory)).attempt.unwrap();
    assert_eq!((written.state.clone(), written.declined.as_ref()), (AttemptState::Intended, Some(&said)));
    journal.shards[0].attempt = Some(written);
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Search(attempt_key), "a gateway may have made it");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    let waits = step(&job(), Some(&journal), &memory);
    let (reason, message) = shown(&job(), &journal, &memory, &waits);
    assert!(reason == "WaitingForQuota" && message.contains("the server's words"), "{reason} {message}");
    // Nothing less than for a lost reply.
    let quiet = Timing { post_window: -1, send_timeout: -1_000, listing_lag: -1_000, ..TIMING };
    let at = |journal: &Journal, memory: &Memory| {
        let job = job();
        decide(&Observed { now: NOW, nonce: "n", timing: &quiet, job: &job, journal: Some(journal), memory })
    };
    assert_eq!(at(&journal, &memory), Step::CheckFile(attempt_key));
    memory.files.insert("file-1".into(), true);
    assert_eq!(at(&journal, &memory), Step::Probe(attempt_key));
    memory.resolvable = Some(true);
    journal.shards[0].attempt.as_mut().unwrap().state = swapped(at(&journal, &memory)).attempt.unwrap().state;
    assert_eq!(at(&journal, &memory), Step::Revoke(attempt_key));
    memory.revoked.insert("file-1".into(), NOW);
    let shard = swapped(at(&journal, &memory));
    let attempt = shard.attempt.clone().unwrap();
    assert!(attempt.payload.name().is_empty() && shard.failures == 0, "waiting for room is no failure");
    assert!(
        matches!(&attempt.state, AttemptState::Refused { refusal: Refusal::Capacity, message, .. } if message == "the server's words")
    );
    journal.shards[0] = shard;
    let Step::Wait { until, .. } = step(&job(), Some(&journal), &memory) else { panic!("the server named a time") };
    assert_eq!(until, Some(NOW + 3_600_000));
}

/// Between the search and the deletion of the input file, the provider may have made a batch.
#[test]
fn a_search_before_the_revocation_does_not_prove_that_there_is_no_batch_though_the_clock_was_set_back_since() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Revoking));
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    memory.input_file_is_gone("intent-1", "file-1".into(), NOW - 4_000);
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Search(attempt_key));
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "a later one does");
}

/// A refusal of other kinds by a gateway counts against the limit, once it is proved that no batch came of it.
#[test]
fn what_a_gateway_refuses_again_and_again_ends_with_its_words() {
    let mut journal = intended();
    let attempt = journal.shards[0].attempt.as_mut().unwrap();
    (attempt.state, attempt.declined) = (AttemptState::Revoking, Some(rejection(Refusal::Failed, None)));
    journal.shards[0].failures = 3;
    let mut memory = memory();
    memory.revoked.insert("file-1".into(), NOW - 100);
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    let shard = swapped(step(&job(), Some(&journal), &memory));
    assert!(shard.is_refused_for_good());
    journal.shards[0] = shard;
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&job(), Some(&journal), &memory) else { panic!("no end") };
    let end = next.commit.unwrap();
    assert!(end.reason == "BackoffLimitExceeded" && end.message.contains("the server's words"), "{end:?}");
}

#[test]
fn where_nothing_can_settle_what_a_gateway_refused_a_person_is_asked_at_once_with_its_words() {
    let mut journal = intended();
    let attempt = journal.shards[0].attempt.as_mut().unwrap();
    (attempt.post_by, attempt.declined) = (NOW - 1_000, Some(rejection(Refusal::Capacity, None)));
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    memory.files.insert("file-1".into(), true);
    memory.resolvable = Some(false);
    let deleted = JobView { deleting_since: Some(NOW), ..job() };
    let closing = Journal { closing: Some(DeletionPolicy::Cancel), ..journal.clone() };
    for (job, journal) in [(job(), &journal), (deleted, &closing)] {
        let Step::Wait { why, .. } = step(&job, Some(journal), &memory) else { panic!("nobody is asked") };
        let hold = &why.holds[0];
        assert!(hold.message.contains("the server's words") && !hold.message.contains("lost"), "{}", hold.message);
        assert_eq!(hold.answers, ["unknown-intent-1=none", "unknown-intent-1=adopt:BATCH_ID"]);
        let answered = JobView { answers: Answers::one("unknown-intent-1", "none"), ..job };
        assert!(matches!(step(&answered, Some(journal), &memory), Step::DeleteFiles { must: true, .. }));
    }
}

/// A call that fails for ever is no reason to go round and round without a word.
#[test]
fn what_nobody_can_find_out_is_asked_while_it_is_tried_on() {
    let mut journal = intended();
    journal.shards[0].attempt.as_mut().unwrap().post_by = NOW - 1_000;
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    memory.files.insert("file-1".into(), true);
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Probe(attempt_key));
    memory.unsettled.insert("intent-1".into(), "no room (429)".into());
    memory.running.insert(Task::Call(attempt_key));
    let Step::Wait { why, .. } = step(&job(), Some(&journal), &memory) else { panic!("it is not tried yet") };
    assert!(why.holds.len() == 1 && why.holds[0].message.contains("no room (429)"), "{:?}", why.holds);
    memory.running.clear();
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Probe(attempt_key), "and tried on");
}

/// Case 23-file-not-there-yet.
#[test]
fn a_file_that_is_not_there_yet_is_asked_for_again_then_uploaded_again_and_given_up_in_the_end() {
    let (mut journal, mut now, mut files) = (intended(), NOW, vec![]);
    let job = JobView { submitted: true, ..job() };
    for upload in 1.. {
        let file = format!("file-{upload}");
        let mut tries = 0;
        loop {
            let attempt = journal.shards[0].attempt.as_mut().unwrap();
            (attempt.state, attempt.payload) = (AttemptState::Intended, Payload::file(file.clone()));
            let mut memory = memory();
            let refused = PostResult::Refused(rejection(Refusal::FileNotFound, None));
            memory.posted.insert(attempt.intent_id.clone(), refused);
            journal.shards[0] = swapped(at(&job, &journal, now, &memory));
            tries += 1;
            if journal.shards[0].is_refused_for_good() {
                assert_eq!(files, ["file-1", "file-2"], "three uploads");
                return;
            }
            let memory = Memory { uploads: Default::default(), ..self::memory() };
            let Step::Wait { until: Some(due), why } = at(&job, &journal, now, &memory) else { panic!("no pause") };
            assert!(why.note.as_ref().unwrap().contains("the server's words") && why.blocked.is_none(), "{why:?}");
            assert!((4_000..=64_000).contains(&(due - now)), "growing pauses");
            now = due;
            match at(&job, &journal, now, &memory) {
                Step::WriteIntent { journal: next, .. } => {
                    assert_eq!(next.shards[0].attempt.as_ref().unwrap().payload.name(), file, "the same file");
                    journal = next;
                }
                Step::Upload(_) => break,
                step => panic!("{step:?}"),
            }
        }
        assert_eq!(tries, 5);
        files.push(file);
    }
}

/// A job of one shard of `requests` that was turned away for its tokens so often while it was alone.
fn too_large(requests: i64, alone: u32) -> Journal {
    let mut journal = journal(owner("j", "u"), None);
    journal.plan.as_mut().unwrap().requests = requests;
    journal.shards[0] = shard_of(requests, refused(Refusal::TokenLimit, 0));
    journal.shards[0].streaks.alone = alone;
    journal.shards[0].attempt.as_mut().unwrap().payload.forget();
    journal
}

/// Case 22-token-limit-for-ever.
#[test]
fn a_batch_that_is_alone_more_than_the_account_takes_is_halved_after_three_times() {
    let whole = too_large(5, 2);
    let Step::Upload(_) = step(&job(), Some(&whole), &memory()) else { panic!("others may have had the room") };
    let whole = too_large(5, 3);
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    let mut memory = memory();
    assert_eq!(step(&job(), Some(&whole), &memory), Step::Halve(attempt_key));
    memory.running.insert(Task::Halve(attempt_key));
    let waits = step(&job(), Some(&whole), &memory);
    let (reason, message) = shown(&job(), &whole, &memory, &waits);
    assert!(reason == "WaitingForQuota" && message.contains("the server's words"), "{reason} {message}");
    let half = |first, requests, name: &str| Shard { sha256: name.into(), first, ..shard_of(requests, None) };
    let halves = [half(0, 3, "a"), half(3, 2, "b")];
    memory.running.clear();
    memory.halved = Some(HalveResult { attempt_key, sha256: "another".into(), halves: halves.clone() });
    assert_eq!(step(&job(), Some(&whole), &memory), Step::Halve(attempt_key), "of another shard");
    memory.halved = Some(HalveResult { attempt_key, sha256: "s".into(), halves });
    let Step::Swap(next) = step(&job(), Some(&whole), &memory) else { panic!("not replaced") };
    let seen: Vec<_> = next.shards.iter().map(|s| (s.sha256.as_str(), s.first, s.requests, s.streaks.alone)).collect();
    assert_eq!(seen, [("a", 0, 3, 2), ("b", 3, 2, 2)], "each is halved again where it is alone too large");
    assert_eq!(next.counts().total, 5);
    assert!(
        matches!(step(&job(), Some(&next), &self::memory()), Step::Upload(AttemptKey { shard: 0, attempt: 2 })),
        "at once"
    );
    let pair = too_large(2, 3);
    memory.halved = Some(HalveResult { attempt_key, sha256: "s".into(), halves: [half(0, 1, "a"), half(1, 1, "b")] });
    let Step::Swap(next) = step(&job(), Some(&pair), &memory) else { panic!("not replaced") };
    assert!(
        next.shards.iter().all(|s| s.streaks.alone == 0),
        "a single request fails only once it was alone three times"
    );
    let full = JobView { shard_limit: 1, ..job() };
    let shard = swapped(step(&full, Some(&whole), &memory));
    assert!(shard.is_refused_for_good() && shard.attempt.unwrap().message().contains("maxRequestsPerBatch"));
}

/// Turned away beside others, it may find room later.
#[test]
fn a_batch_that_is_turned_away_beside_others_is_no_larger_for_it() {
    let mut two = journal(owner("j", "u"), submitted());
    two.shards.push(shard_of(9, None));
    let mut memory = searched(memory());
    memory
        .looks
        .insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::Running { state: "x".into(), done: 0 } });
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 1 }, "s".into()), "file-2".into());
    let Step::WriteIntent { journal: beside, .. } = step(&job(), Some(&two), &memory) else { panic!("not sent") };
    assert_eq!(beside.shards[1].streaks.alone, 0);
    // Alone when it was sent, and not when it was refused.
    let mut next = beside;
    next.shards[1].streaks.alone = 3;
    let intent = next.shards[1].attempt.as_ref().unwrap().intent_id.clone();
    memory.posted.insert(intent, PostResult::Refused(rejection(Refusal::TokenLimit, None)));
    let Step::Swap(next) = step(&job(), Some(&next), &memory) else { panic!("not written") };
    assert_eq!(next.shards[1].streaks.alone, 2);
}

/// The refusal of an attempt that was not counted takes no earlier refusal back.
#[test]
fn a_batch_that_is_refused_beside_others_keeps_its_count_of_refusals_while_alone() {
    let mut two = journal(owner("j", "u"), submitted());
    two.shards.push(shard_of(9, refused(Refusal::TokenLimit, 0)));
    two.shards[1].streaks.alone = 1;
    two.shards[1].attempt.as_mut().unwrap().payload.forget();
    let mut memory = searched(memory());
    let seen = PolledState::Running { state: "x".into(), done: 1 };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 2 }, "s".into()), "file-2".into());
    let Step::WriteIntent { journal: beside, .. } = step(&job(), Some(&two), &memory) else { panic!("not sent") };
    memory.posted.insert("nonce".into(), PostResult::Refused(rejection(Refusal::TokenLimit, None)));
    let Step::Swap(next) = step(&job(), Some(&beside), &memory) else { panic!("not written") };
    assert_eq!(next.shards[1].streaks.alone, 1);
}

/// Only an edited journal has a recorded batch whose file has no name.
#[test]
fn a_rejected_batch_without_the_name_of_its_file_has_no_file_deleted() {
    let mut journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    let seen =
        PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected: Some((Refusal::Failed, "no model".into())) };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    let named = step(&job(), Some(&journal), &memory);
    assert!(matches!(&named, Step::DeleteFiles { files, .. } if *files == ["file-1"]), "{named:?}");
    journal.shards[0].attempt.as_mut().unwrap().payload.forget();
    assert_eq!(swapped(step(&job(), Some(&journal), &memory)).refusal(), Some(Refusal::Failed));
}

#[test]
fn one_request_that_the_account_never_takes_fails_and_the_rest_of_the_job_goes_on() {
    let mut two = too_large(1, 3);
    two.plan.as_mut().unwrap().requests = 2;
    two.shards.push(Shard { first: 1, sha256: "t".into(), ..shard_of(1, None) });
    let Step::Swap(next) = step(&job(), Some(&two), &memory()) else { panic!("not given up") };
    assert!(next.shards[0].is_too_large() && !next.shards[0].is_refused_for_good());
    assert!(
        matches!(step(&job(), Some(&next), &memory()), Step::Upload(AttemptKey { shard: 1, .. })),
        "the rest goes on"
    );
    let mut ended = next;
    let counts = RequestCounts { total: 1, succeeded: 1, ..Default::default() };
    ended.shards[1].attempt = shard(Some(completed("batch-2", counts, 0))).attempt;
    let Step::Swap(next) = step(&job(), Some(&ended), &memory()) else { panic!("no end") };
    let end = next.commit.clone().unwrap();
    assert_eq!((end.outcome, end.requests.succeeded, end.requests.failed), (Outcome::PartiallySucceeded, 1, 1));
    assert_eq!(error_summary(&next)[0].code, "token_limit_exceeded");
}

#[test]
fn requests_that_are_refused_at_their_upload_fail_the_job_for_nothing_and_are_not_uploaded_again() {
    let unsent = journal(owner("j", "u"), None);
    let mut memory = memory();
    memory.unfit.insert((AttemptKey { shard: 0, attempt: 1 }, "s".into()), "Line 1: no such model (403)".into());
    let Step::Swap(next) = step(&job(), Some(&unsent), &memory) else { panic!("the plan stays") };
    assert_eq!(next.plan, None);
    let planned = PlanResult { staged: Some("w".into()), plan: plan("h"), shards: unsent.shards.clone() };
    memory.pass = Some(Pass { spec_hash: "spec".into(), result: Ok(planned) });
    let Step::Fail(failure) = step(&job(), Some(&next), &memory) else { panic!("it is planned again") };
    assert!(failure.reason == "InvalidInput" && failure.message.contains("no such model"), "{failure:?}");
    // Once something was sent, what is paid is kept, and nothing more is sent.
    let mut sent = journal(owner("j", "u"), submitted());
    sent.shards.push(Shard { sha256: "t".into(), ..shard(None) });
    memory = searched(self::memory());
    memory
        .looks
        .insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::Running { state: "x".into(), done: 0 } });
    memory.unfit.insert((AttemptKey { shard: 1, attempt: 1 }, "t".into()), "Line 1: no such model (403)".into());
    let Step::Swap(next) = step(&job(), Some(&sent), &memory) else { panic!("not written") };
    assert!(next.shards[1].is_refused_for_good());
    assert!(matches!(step(&job(), Some(&next), &memory), Step::Wait { .. }), "what runs is followed to its end");
}
