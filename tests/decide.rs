//! Rules that the model leaves out: people's answers, doubled POSTs, other owners, what is in the way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use batchjob_operator::api::{
    BatchJobStatus, DeletionPolicy, ErrorSummary, InputStatus, Lock, Outcome, PinnedProvider, ProviderFilePolicy,
    ProviderType, RequestCounts, UnknownSubmissionPolicy,
};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, Commit, Failure, JobView, Journal, Look, ManifestView, Memory, Observed, Owner, Pass, Plan,
    Planned, Posted, ProviderView, Refusal, Search, Seen, Shard, Slot, Step, Stuck, Timing, Waiting, decide, project,
};

const TIMING: Timing = Timing { post_window: 10, send_timeout: 10, listing_lag: 10, deletion_deadline: 1_000 };
const NOW: i64 = 1_000_000;

fn owner(name: &str, uid: &str) -> Owner {
    Owner { cluster: "c".into(), namespace: "n".into(), name: name.into(), uid: uid.into() }
}

fn job() -> JobView {
    JobView {
        owner: owner("j", "u"),
        deleting_since: None,
        finalizer: true,
        suspend: false,
        spec_hash: "spec".into(),
        output_uri: "s3://b/o/".into(),
        lock: Some(Lock { spec_hash: "spec".into(), output_uri: "s3://b/o/".into() }),
        parallelism: 4,
        backoff_limit_per_batch: 3,
        backoff_limit_per_request: 2,
        max_failed: None,
        deadline: None,
        poll_period: 60_000,
        deletion_policy: DeletionPolicy::Cancel,
        provider_file_policy: ProviderFilePolicy::Delete,
        pinned: true,
        provider: Some(provider()),
        submitted: true,
        batches: vec!["batch-1".into()],
        finished: false,
        tidy: false,
        answer: None,
        fingerprint: "f".into(),
        stuck: None,
    }
}

fn provider() -> ProviderView {
    let pin = PinnedProvider { uid: "p".into(), type_: ProviderType::OpenAI, base_url: "https://p/v1".into() };
    ProviderView {
        name: "BatchProvider 'p'".into(),
        pin,
        kept: true,
        going: false,
        unknown_submission_policy: UnknownSubmissionPolicy::Resolve,
    }
}

fn plan(work_hash: &str) -> Plan {
    Plan { work_hash: work_hash.into(), input: InputStatus::default(), requests: 1, too_large: Default::default() }
}

fn shard(state: Option<AttemptState>) -> Shard {
    let attempt = state.map(|state| Attempt {
        number: 1,
        intent_id: "intent-1".into(),
        file_id: "file-1".into(),
        post_by: NOW - 1_000,
        fingerprint: "f".into(),
        state,
    });
    Shard {
        sha256: "s".into(),
        bytes: 1,
        first: 0,
        requests: 1,
        failures: 0,
        attempt,
        round: 0,
        took: Default::default(),
        took_errors: vec![],
        model: "m".into(),
    }
}

fn journal(of: Owner, state: Option<AttemptState>) -> Journal {
    let mut journal = Journal::open("w".into(), of, "spec".into());
    journal.plan = Some(plan("h"));
    journal.shards.push(shard(state));
    journal
}

fn submitted() -> Option<AttemptState> {
    Some(AttemptState::Submitted { batch_id: "batch-1".into(), at: NOW - 100_000 })
}

fn memory() -> Memory {
    Memory { manifest: Some(None), store_proved: Some(Ok(())), ..Default::default() }
}

/// The list showed no other batch of the intent.
fn searched(mut memory: Memory) -> Memory {
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    memory
}

fn step(job: &JobView, journal: Option<&Journal>, memory: &Memory) -> Step {
    decide(&Observed { now: NOW, nonce: "nonce", timing: &TIMING, job, journal, memory })
}

fn other_work(memory: Memory) -> Memory {
    let planned = Planned { staged: None, plan: plan("other"), shards: vec![] };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

fn the_same_work(memory: Memory) -> Memory {
    let planned = Planned { staged: None, plan: plan("h"), shards: vec![] };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

#[test]
fn a_batch_that_our_own_post_made_beside_the_recorded_one_is_cancelled() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    memory.posted.insert("intent-1".into(), Posted::Created("batch-2".into()));
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Cancel { batch_id: "batch-2".into() });
    memory.cancelled.insert("batch-2".into());
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Poll(_)));
}

#[test]
fn a_recorded_batch_is_searched_for_duplicates_once() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    let seen = |seen| Look { at: NOW, seen };
    let running = || Seen::Running { state: "in_progress".into(), done: 0 };
    memory.looks.insert("batch-1".into(), seen(running()));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "the list must show all by now");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Wait { .. }));
    memory
        .searches
        .insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into(), "batch-2".into()]) });
    assert_eq!(step(&job(), Some(&journal), &memory), Step::Cancel { batch_id: "batch-2".into() });

    let mut fresh = journal;
    fresh.shards[0].attempt.as_mut().unwrap().post_by = NOW;
    memory.searches.clear();
    let Step::Wait { until, .. } = step(&job(), Some(&fresh), &memory) else { panic!("the list may lag") };
    assert_eq!(until, Some(NOW + 20));
    memory.looks.insert("batch-1".into(), seen(Seen::Ended { state: "completed".into(), done: 1, rejected: None }));
    assert!(matches!(step(&job(), Some(&fresh), &memory), Step::Search(_)), "before it is settled");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&fresh), &memory), Step::Collect { .. }));
}

#[test]
fn what_another_credential_showed_is_no_evidence() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Revoking));
    let mut memory = memory();
    memory.under("f");
    memory.revoked.insert("file-1".into(), NOW - 100);
    memory.under("other account");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    memory.under("f");
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Revoke(_)), "found out anew, not sent again");
    memory.under("f");
    memory.revoked.insert("file-1".into(), NOW);
    memory.under("f");
    assert!(memory.revoked.contains_key("file-1"), "the same credential forgets nothing");
}

#[test]
fn a_file_of_another_account_is_not_sent() {
    let mut intended = journal(owner("j", "u"), Some(AttemptState::Intended));
    intended.shards[0].attempt.as_mut().unwrap().fingerprint = "other account".into();
    let memory = Memory { permit: Some("intent-1".into()), ..memory() };
    let Step::Swap(next) = step(&job(), Some(&intended), &memory) else { panic!("it is sent") };
    let attempt = next.shards[0].attempt.as_ref().unwrap();
    assert!(matches!(attempt.state, AttemptState::Refused { refusal: Refusal::NotSent, .. }));
    assert_eq!(attempt.file_id, "", "nor is it used again");
}

#[test]
fn a_finished_job_tidies_its_work_whoever_the_journal_names_of_its_name() {
    let mut journal = journal(owner("j", "earlier"), submitted());
    journal.commit = Some(Commit {
        outcome: Outcome::Succeeded,
        reason: String::new(),
        message: String::new(),
        at: 0,
        requests: Default::default(),
    });
    let finished = JobView { finished: true, ..job() };
    let manifest = |work: &str| ManifestView {
        work_id: work.into(),
        work_hash: "h".into(),
        outcome: Outcome::Succeeded,
        reason: String::new(),
        message: String::new(),
        requests: Default::default(),
        at: 0,
        files: vec![],
        errors: vec![],
    };
    let with = |manifest| Memory { manifest, ..Default::default() };
    assert_eq!(step(&finished, Some(&journal), &with(None)), Step::LookForManifest);
    assert_eq!(step(&finished, Some(&journal), &with(Some(Some(manifest("w"))))), Step::Tidy);
    let waits = |memory: Memory| matches!(step(&finished, Some(&journal), &memory), Step::Wait { .. });
    assert!(waits(with(Some(Some(manifest("another work"))))) && waits(with(Some(None))), "its parts are needed yet");
}

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
fn while_a_person_is_asked_the_search_goes_on() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.files.insert("file-1".into(), false);
    memory.searches.insert("intent-1".into(), Search { began: NOW - 400_000, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "once the intent is over");
    memory.searches.insert("intent-1".into(), Search { began: NOW - 4, found: Some(vec![]) });
    let Step::Wait { until, why } = step(&job(), Some(&journal), &memory) else { panic!("no wait") };
    assert_eq!((until, why.holds.len()), (Some(NOW + 6), 1));
    memory.searches.insert("intent-1".into(), Search { began: NOW - 10, found: Some(vec![]) });
    assert!(
        matches!(step(&job(), Some(&journal), &memory), Step::Search(_)),
        "and again, once the list may have caught up"
    );
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    let Step::Swap(next) = step(&job(), Some(&journal), &memory) else { panic!("no record") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-1"));
}

#[test]
fn a_persons_none_deletes_the_input_file_before_it_counts() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let told = JobView { answer: Some(("unknown-intent-1".into(), "none".into())), ..job() };
    let mut memory = memory();
    assert_eq!(step(&told, Some(&journal), &memory), Step::DeleteFiles(vec!["file-1".into()]));
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&told, Some(&journal), &memory) else { panic!("not revoked") };
    assert!(matches!(next.shards[0].attempt.as_ref().unwrap().state, AttemptState::Revoked { .. }));
}

#[test]
fn a_persons_resend_deletes_the_input_file_before_it_counts() {
    let journal = journal(owner("j", "u"), submitted());
    let told = JobView { answer: Some(("lost-intent-1".into(), "resend".into())), ..job() };
    let mut memory = memory();
    memory.looks.insert("batch-1".into(), Look { at: NOW, seen: Seen::NotFound });
    assert_eq!(step(&told, Some(&journal), &memory), Step::DeleteFiles(vec!["file-1".into()]));
    memory.deleted.insert("file-1".into());
    assert!(matches!(step(&told, Some(&journal), &memory), Step::Swap(_)));
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

#[test]
fn status_stays_small_however_many_batches_there_are() {
    let mut journal = journal(owner("j", "u"), None);
    let long = |what: &str, n: usize| format!("{what}{}", "x".repeat(n));
    journal.shards = (0..5_000)
        .map(|i| {
            let state = match i % 2 {
                0 => AttemptState::Submitted { batch_id: long("b", 255), at: 0 },
                _ => AttemptState::Settled {
                    batch_id: long("b", 255),
                    ended: long("e", 40),
                    part: None,
                    counts: Default::default(),
                    may_pass: 0,
                    errors: (0..10)
                        .map(|e| ErrorSummary {
                            code: long(&e.to_string(), 60),
                            count: 1,
                            sample_custom_id: long("i", 500),
                            ..Default::default()
                        })
                        .collect(),
                    files: vec![],
                },
            };
            Shard { model: long("m", 250), ..shard(Some(state)) }
        })
        .collect();
    let stuck = JobView { stuck: Some(Stuck { reason: "ProviderUnavailable", message: long("m", 5_000) }), ..job() };
    let memory = memory();
    let observed =
        Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &stuck, journal: Some(&journal), memory: &memory };
    let status = project(&observed, &Default::default(), Some(1), &decide(&observed)).unwrap();
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(status.batches.len() > 20 && size < 48 << 10, "{} batches, {size} bytes", status.batches.len());
}

#[test]
fn a_job_that_is_deleted_with_its_journal_has_what_status_names_stopped() {
    let deleted = JobView { deleting_since: Some(NOW), ..job() };
    let mut memory = memory();
    assert_eq!(step(&deleted, None, &memory), Step::CancelUnjournaled { batch_id: "batch-1".into() });
    memory.cancelled.insert("batch-1".into());
    let Step::RemoveFinalizer { abandoned: Some(why) } = step(&deleted, None, &memory) else { panic!("it stays") };
    assert!(why.contains("told to stop"), "{why}");
    let orphan = JobView { deletion_policy: DeletionPolicy::Orphan, ..deleted.clone() };
    assert!(matches!(step(&orphan, None, &Memory::default()), Step::RemoveFinalizer { abandoned: Some(_) }));
    let overdue = JobView { deleting_since: Some(NOW - 1_000), ..deleted };
    let Step::RemoveFinalizer { abandoned: Some(why) } = step(&overdue, None, &Memory::default()) else {
        panic!("it stays")
    };
    assert!(!why.contains("the journal at the destination names them"), "{why}");
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
    let planned = Planned { staged: Some("w".into()), plan: plan("h"), shards: vec![shard(None)] };
    let read = Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory() };
    for memory in [memory(), read] {
        assert_eq!(fails(&late, journal(owner("j", "u"), None), &memory).reason, "DeadlineExceeded");
    }
}

#[test]
fn results_of_other_work_that_came_after_the_journal_fail_the_job_once() {
    let fresh = JobView { submitted: false, ..job() };
    let planned = Planned { staged: Some("w".into()), plan: plan("h"), shards: vec![shard(None)] };
    let pass = Some(Pass { spec_hash: "spec".into(), result: Ok(planned) });
    let manifest = ManifestView {
        work_id: "other".into(),
        work_hash: "other".into(),
        outcome: Outcome::Succeeded,
        reason: "AllSucceeded".into(),
        message: "m".into(),
        requests: RequestCounts::default(),
        at: NOW,
        files: vec![],
        errors: vec![],
    };
    let memory = Memory { pass, manifest: Some(Some(manifest)), ..memory() };
    assert_eq!(fails(&fresh, journal(owner("j", "u"), None), &memory).reason, "OutputConflict");
}

#[test]
fn progress_counts_what_was_executed_and_never_runs_backwards() {
    let counts = RequestCounts { total: 10, succeeded: 5, failed: 1, expired: 4, ..Default::default() };
    let expired = AttemptState::Settled {
        batch_id: "batch-1".into(),
        ended: "expired".into(),
        part: None,
        counts,
        may_pass: 0,
        errors: vec![],
        files: vec![],
    };
    let mut journal = journal(owner("j", "u"), submitted());
    journal.shards[0].requests = 10;
    let progress = |journal: &Journal, seen: Option<Seen>| {
        let looks = seen.map(|seen| ("batch-1".to_string(), Look { at: NOW, seen })).into_iter().collect();
        let (job, memory) = (job(), Memory { looks, ..memory() });
        let observed =
            Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal: Some(journal), memory: &memory };
        let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
        project(&observed, &Default::default(), Some(1), &wait).unwrap().display.unwrap().progress
    };
    assert_eq!(progress(&journal, Some(Seen::Running { state: "in_progress".into(), done: 5 })), "5/10 (50%)");
    let ended = |state: &str, done| Some(Seen::Ended { state: state.into(), done, rejected: None });
    assert_eq!(progress(&journal, ended("expired", 6)), "6/10 (60%)");
    journal.shards[0].attempt.as_mut().unwrap().state = expired;
    assert_eq!(progress(&journal, None), "6/10 (60%)");
    let took = RequestCounts { total: 4, expired: 4, ..Default::default() };
    journal.shards.push(Shard { requests: 4, round: 1, took, ..shard(submitted()) });
    assert_eq!(progress(&journal, None), "6/10 (60%)");
    assert_eq!(progress(&journal, ended("completed", 0)), "10/10 (100%)", "a server that does not count");
}

/// A job that is about to send its only shard.
fn about_to_send() -> (Journal, Memory) {
    let mut memory = memory();
    memory.uploads.insert((Slot { shard: 0, attempt: 1 }, "s".into()), "file-1".into());
    (journal(owner("j", "u"), None), memory)
}

fn with_provider(change: impl FnOnce(&mut ProviderView)) -> JobView {
    let mut provider = provider();
    change(&mut provider);
    JobView { provider: Some(provider), ..job() }
}

#[test]
fn before_an_intent_the_provider_is_pinned_and_then_kept() {
    let (journal, memory) = about_to_send();
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }));
    let unkept = with_provider(|p| p.kept = false);
    assert_eq!(step(&unkept, Some(&journal), &memory), Step::KeepProvider);
    assert_eq!(step(&JobView { pinned: false, ..unkept }, Some(&journal), &memory), Step::Pin);
}

#[test]
fn a_provider_that_goes_takes_no_new_job_and_lets_those_with_an_intent_go_on() {
    let going = with_provider(|p| p.going = true);
    let stalled = |job: &JobView, journal: Option<&Journal>, memory: &Memory| match step(job, journal, memory) {
        Step::Wait { why, .. } => why.stuck.map(|s| s.reason),
        _ => None,
    };
    let (unsent, memory) = about_to_send();
    assert_eq!(stalled(&going, Some(&unsent), &memory), Some("ProviderTerminating"));
    let new = JobView { lock: None, pinned: false, submitted: false, ..going.clone() };
    assert_eq!(stalled(&new, None, &Memory::default()), Some("ProviderTerminating"));
    let mut half_sent = journal(owner("j", "u"), submitted());
    half_sent.shards.push(Shard { sha256: "t".into(), ..shard(None) });
    let mut memory = searched(memory);
    memory.uploads.insert((Slot { shard: 1, attempt: 1 }, "t".into()), "file-2".into());
    memory.looks.insert("batch-1".into(), Look { at: NOW, seen: Seen::Running { state: "x".into(), done: 0 } });
    assert!(matches!(step(&going, Some(&half_sent), &memory), Step::WriteIntent { .. }), "it goes on to its end");
}

#[test]
fn a_job_without_an_intent_lets_go_of_a_provider_that_goes_and_one_with_an_intent_does_not() {
    let going = with_provider(|p| p.going = true);
    let memory = memory();
    let pinned = |job: &JobView, journal: &Journal| {
        let observed = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory: &memory };
        let old = BatchJobStatus { provider: Some(provider().pin), ..Default::default() };
        let step = Step::Wait { until: None, why: Waiting { stage: "Pending", ..Default::default() } };
        project(&observed, &old, None, &step).unwrap().provider.is_some()
    };
    assert!(!pinned(&going, &journal(owner("j", "u"), None)));
    assert!(pinned(&going, &journal(owner("j", "u"), submitted())));
    assert!(pinned(&job(), &journal(owner("j", "u"), None)));
}

#[test]
fn with_hold_a_person_is_asked_and_nothing_is_revoked() {
    let hold = with_provider(|p| p.unknown_submission_policy = UnknownSubmissionPolicy::Hold);
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.files.insert("file-1".into(), true);
    memory.resolvable = Some(true);
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "with Resolve it is");
    let Step::Wait { why, .. } = step(&hold, Some(&journal), &memory) else { panic!("no wait") };
    assert!(why.holds[0].message.contains("`unknownSubmissionPolicy` is Hold"), "{:?}", why.holds);
    let revoking = self::journal(owner("j", "u"), Some(AttemptState::Revoking));
    memory.revoked.insert("file-1".into(), NOW - 1_000);
    let Step::Wait { why, .. } = step(&hold, Some(&revoking), &memory) else { panic!("no wait") };
    assert_eq!(why.holds.len(), 1, "nor sent again once the policy changed");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    let Step::Swap(next) = step(&hold, Some(&journal), &memory) else { panic!("no record") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-1"), "what is found is adopted");
}

#[test]
fn what_was_submitted_is_not_forgotten_with_the_journal() {
    let (job, memory) = (job(), memory());
    let observed =
        |journal| Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal, memory: &memory };
    let journal = journal(owner("j", "u"), submitted());
    let there = observed(Some(&journal));
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
    let before = project(&there, &Default::default(), Some(1), &wait).unwrap();
    let gone = observed(None);
    let step = decide(&gone);
    assert!(matches!(&step, Step::Wait { why, .. } if why.stuck.is_some()), "{step:?}");
    let after = project(&gone, &before, Some(1), &step).unwrap();
    assert!(
        after.submission_time.is_some() && after.batches == before.batches && after.work == before.work,
        "{after:?}"
    );
}

#[test]
fn a_batch_without_files_is_asked_again_for_as_long_as_a_list_may_lag() {
    let journal = journal(owner("j", "u"), submitted());
    let patient = |ended: i64| {
        let seen = Seen::Ended { state: "completed".into(), done: 1, rejected: None };
        let looks = [("batch-1".to_string(), Look { at: ended, seen })].into();
        match step(&job(), Some(&journal), &Memory { looks, ..searched(memory()) }) {
            Step::Collect { patient, .. } => patient,
            other => panic!("{other:?}"),
        }
    };
    assert!(patient(NOW - 9) && !patient(NOW - 10));
}

/// The question, and the job as a person who gave its first answer leaves it.
fn asked_and_answered(job: &JobView, journal: &Journal, memory: &Memory) -> (String, JobView) {
    let Step::Wait { why, .. } = step(job, Some(journal), memory) else { panic!("nobody is asked") };
    let (id, answer) = why.holds[0].answers[0].split_once('=').unwrap();
    assert_eq!(id, why.holds[0].id);
    (why.holds[0].message.clone(), JobView { answer: Some((id.into(), answer.into())), ..job.clone() })
}

#[test]
fn a_copy_in_another_cluster_takes_the_work_over_on_a_word_that_holds_for_that_time() {
    let memory = the_same_work(memory());
    let first = JobView { owner: Owner { cluster: "d".into(), ..owner("j", "first-uid") }, ..job() };
    let begun = journal(first.owner.clone(), submitted());
    let (message, told) = asked_and_answered(&job(), &begun, &memory);
    assert!(message.contains("BatchJob n/j of another cluster (its kube-system has the uid d)"), "{message}");
    let Step::Swap(taken) = step(&told, Some(&begun), &memory) else { panic!("not taken") };
    assert_eq!((&taken.owner, taken.named_after()), (&job().owner, "d"), "the provider knows it by its first name");
    assert_eq!(taken.shards, begun.shards);
    let (_, first_told) = asked_and_answered(&first, &taken, &memory);
    let Step::Swap(back) = step(&first_told, Some(&taken), &memory) else { panic!("not taken back") };
    assert_eq!((&back.owner, back.named_after()), (&first.owner, "d"));
    assert!(matches!(step(&told, Some(&back), &memory), Step::Wait { .. }), "an answer holds once");
    assert!(matches!(step(&told, Some(&begun), &other_work(self::memory())), Step::Fail(_)), "other work is not taken");
    let due = Memory { manifest_at: Some(NOW - 15_000), ..memory.clone() };
    assert_eq!(step(&job(), Some(&begun), &due), Step::LookForManifest, "its results may have come");
    let released = begun.next(|j| j.closing = Some(DeletionPolicy::Orphan));
    assert!(matches!(step(&job(), Some(&released), &memory), Step::Swap(_)), "what was let go of is taken");
}

#[test]
fn an_answer_that_was_copied_with_its_blank_is_none() {
    let hold = with_provider(|p| p.unknown_submission_policy = UnknownSubmissionPolicy::Hold);
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    let Step::Wait { why, .. } = step(&hold, Some(&journal), &memory) else { panic!("nobody is asked") };
    let blank = why.holds[0].answers.iter().find(|a| a.contains("adopt:")).unwrap().split_once('=').unwrap();
    let said = |answer: &str| JobView { answer: Some((blank.0.into(), answer.into())), ..hold.clone() };
    assert!(matches!(step(&said(blank.1), Some(&journal), &memory), Step::Wait { .. }));
    let filled_in = blank.1.replace("BATCH_ID", "batch-7");
    let Step::Swap(next) = step(&said(&filled_in), Some(&journal), &memory) else { panic!("not adopted") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-7"));
}

/// By a clock that jumps to whatever is waited for.
#[test]
fn a_provider_that_is_away_for_ten_minutes_is_tried_seldom_and_found_again_soon() {
    let job = JobView { submitted: false, batches: vec![], ..job() };
    let mut journal = journal(owner("j", "u"), None);
    let mut memory = memory();
    let (mut now, mut tries) = (NOW, vec![]);
    let back = NOW + 600_000;
    let found = loop {
        let nonce = format!("nonce-{now}");
        let o = Observed { now, nonce: &nonce, timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
        match decide(&o) {
            Step::Upload(slot) => drop(memory.uploads.insert((slot, "s".into()), "file-1".into())),
            Step::WriteIntent { journal: next, intent_id } => {
                journal = next;
                memory.permit = Some(intent_id);
            }
            Step::Post(_) if now >= back => break now,
            Step::Post(_) => {
                tries.push(now);
                let refused = Posted::Refused(Refusal::NotSent, "no connection".into());
                memory.posted.insert(memory.permit.take().unwrap(), refused);
            }
            Step::Swap(next) => journal = next,
            Step::Wait { until, why } => {
                assert_eq!(why.stuck.as_ref().unwrap().reason, "ProviderUnavailable");
                now = until.unwrap().max(now + 1);
            }
            other => panic!("{other:?}"),
        }
    };
    assert!((5..=15).contains(&tries.len()), "{} tries", tries.len());
    assert!(tries.windows(2).all(|two| two[1] - two[0] <= 60_000));
    assert!(found - back <= 60_000, "found again after {} ms", found - back);
    assert_eq!(memory.uploads.len(), 1, "the file is used again");
}

#[test]
fn a_list_that_cannot_be_searched_proves_nothing() {
    for state in [AttemptState::Intended, AttemptState::Revoking] {
        let journal = journal(owner("j", "u"), Some(state.clone()));
        let mut memory = memory();
        memory.files.insert("file-1".into(), true);
        memory.resolvable = Some(true);
        memory.revoked.insert("file-1".into(), NOW - 1_000);
        memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
        assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "one that can goes on: {state:?}");
        memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
        let Step::Wait { why, .. } = step(&job(), Some(&journal), &memory) else { panic!("goes on: {state:?}") };
        assert!(why.holds[0].message.contains("cannot be searched"), "{:?}", why.holds);
    }
}
