//! Jobs that are told to stop by `spec.stopPolicy`: nothing more is sent, and what was paid for is written.

use super::*;

const DRAIN: Option<StopPolicy> = Some(StopPolicy::Drain);
const CANCEL: Option<StopPolicy> = Some(StopPolicy::Cancel);
const SLOT: AttemptKey = AttemptKey { shard: 0, attempt: 1 };

fn told(stop: Option<StopPolicy>) -> JobView {
    JobView { stop, ..job() }
}

/// A journal of one shard for each state; None: it was never sent.
fn of(states: &[Option<AttemptState>]) -> Journal {
    let mut journal = journal(owner("j", "u"), None);
    journal.shards = states.iter().cloned().map(shard).collect::<Vec<_>>().into();
    journal.plan.as_mut().unwrap().requests = states.len() as i64;
    journal
}

fn answered() -> Option<AttemptState> {
    Some(completed("batch-1", RequestCounts { total: 1, succeeded: 1, ..Default::default() }, 0))
}

fn failed(retryable: i64) -> Option<AttemptState> {
    Some(completed("batch-1", RequestCounts { total: 1, failed: 1, ..Default::default() }, retryable))
}

fn refused(refusal: Refusal) -> Option<AttemptState> {
    Some(AttemptState::Refused { refusal, message: "no".into(), at: NOW, retry_at: None })
}

fn running() -> Memory {
    looked(PolledState::Running { state: "in_progress".into(), done: 0 })
}

fn looked(seen: PolledState) -> Memory {
    let mut memory = searched(without_files());
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    memory
}

fn without_files() -> Memory {
    Memory { deleted: ["file-1".to_string()].into(), ..memory() }
}

#[track_caller]
fn swapped(step: Step) -> Journal {
    let Step::Swap(next) = step else { panic!("the journal is not written: {step:?}") };
    next
}

#[track_caller]
fn end(step: Step) -> Commit {
    swapped(step).commit.expect("an end")
}

#[track_caller]
fn waits(step: Step) -> Waiting {
    let Step::Wait { why, .. } = step else { panic!("it does not wait: {step:?}") };
    why
}

#[test]
fn a_permit_that_was_not_used_is_given_up_and_its_requests_count_as_cancelled() {
    for stop in [DRAIN, CANCEL] {
        let intended = of(&[Some(AttemptState::Intended)]);
        let permitted = Memory { permit: Some("intent-1".into()), ..without_files() };
        let mut next = swapped(step(&told(stop), Some(&intended), &permitted));
        if stop == CANCEL && next.out_of_time_since.is_some() {
            next = swapped(step(&told(stop), Some(&next), &permitted));
        }
        assert_eq!(next.shards[0].refusal(), Some(Refusal::NotSent), "{stop:?}");
        let end = end(step(&told(stop), Some(&next), &without_files()));
        assert_eq!((end.outcome, end.reason.as_str()), (Outcome::Cancelled, "Cancelled"), "{stop:?}");
        assert_eq!(end.requests, RequestCounts { total: 1, cancelled: 1, ..Default::default() }, "{stop:?}");
    }
}

#[test]
fn a_post_whose_reply_is_there_is_recorded_whatever_the_policy() {
    let mut memory = memory();
    memory.posted.insert("intent-1".into(), PostResult::Created("batch-1".into()));
    for stop in [DRAIN, CANCEL] {
        let next = swapped(step(&told(stop), Some(&of(&[Some(AttemptState::Intended)])), &memory));
        assert!(matches!(next.shards[0].attempt.as_ref().unwrap().state, AttemptState::Submitted { .. }), "{stop:?}");
    }
}

#[test]
fn a_job_that_drains_awaits_its_batches_and_sends_none_beside_them() {
    let suspended = JobView { suspend: true, ..told(DRAIN) };
    for job in [told(DRAIN), suspended] {
        let journal = of(&[submitted(), None, refused(Refusal::Capacity)]);
        let why = waits(step(&job, Some(&journal), &running()));
        assert_eq!((why.stage, why.note, why.holds.len()), ("Draining", None, 0));
        let end = end(step(&job, Some(&of(&[answered(), None, refused(Refusal::Capacity)])), &without_files()));
        assert_eq!((end.outcome, end.reason.as_str()), (Outcome::Cancelled, "Cancelled"));
        assert_eq!(end.message, "`spec.stopPolicy` is Drain; 1 of 3 requests were answered");
        assert_eq!(end.requests, RequestCounts { total: 3, succeeded: 1, cancelled: 2, ..Default::default() });
    }
}

#[test]
fn a_job_that_is_told_to_cancel_cancels_its_batches_whatever_else_holds_it_up() {
    let suspended = JobView { suspend: true, ..told(CANCEL) };
    let drifted = JobView { spec_hash: "other".into(), ..told(CANCEL) };
    for job in [told(CANCEL), suspended, drifted] {
        let noted = swapped(step(&job, Some(&of(&[submitted(), None])), &running()));
        assert_eq!(noted.out_of_time_since, Some(NOW), "from now on its batches have their time to end");
        let cancel = Step::Cancel { attempt_key: SLOT, twin: false, batch_id: "batch-1".into() };
        assert_eq!(step(&job, Some(&noted), &running()), cancel);
        let mut cancelled = running();
        cancelled.cancelled.insert("batch-1".into());
        let why = waits(step(&job, Some(&noted), &cancelled));
        assert_eq!(why.stage, "Cancelling");
        let note =
            "`spec.stopPolicy` is Cancel: batches in flight are cancelled, and answers that were paid for are written";
        assert_eq!(why.note.as_deref(), Some(note));
    }
}

#[test]
fn drain_becomes_cancel_while_batches_run() {
    let journal = of(&[submitted()]);
    assert_eq!(waits(step(&told(DRAIN), Some(&journal), &running())).stage, "Draining");
    assert_eq!(swapped(step(&told(CANCEL), Some(&journal), &running())).out_of_time_since, Some(NOW));
}

/// The wait for a batch that does not end is counted from the stop, not from a deadline that is far away.
#[test]
fn a_batch_that_does_not_end_after_its_cancellation_is_given_up_on() {
    let mut journal = of(&[submitted()]);
    journal.out_of_time_since = Some(NOW - TIMING.abandon_after);
    let mut cancelled = running();
    cancelled.cancelled.insert("batch-1".into());
    let job = JobView { deadline: Some(NOW + 1_000_000), ..told(CANCEL) };
    let next = swapped(step(&job, Some(&journal), &cancelled));
    assert!(matches!(next.shards[0].attempt.as_ref().unwrap().state, AttemptState::Abandoned { .. }));
    let end = end(step(&job, Some(&next), &without_files()));
    assert_eq!((end.outcome, end.requests.missing), (Outcome::Cancelled, 1));
    assert!(end.message.contains("up to 1 requests may still be billed"), "{}", end.message);
}

#[test]
fn at_its_deadline_a_job_that_drains_cancels_its_batches() {
    let job = JobView { deadline: Some(NOW), ..told(DRAIN) };
    assert_eq!(swapped(step(&job, Some(&of(&[submitted()])), &running())).out_of_time_since, Some(NOW));
    let end = end(step(&job, Some(&of(&[answered(), None])), &without_files()));
    assert_eq!(end.outcome, Outcome::Cancelled);
    insta::assert_snapshot!(end.message, @"`spec.stopPolicy` is Drain, and `spec.activeDeadlineSeconds` are over; 1 of 2 requests were answered");
}

/// A gateway may have made another batch of the same POST: it is looked for before the job ends, as it is before requests are sent
/// again.
#[test]
fn a_batch_that_is_turned_away_under_a_stop_is_not_sent_again() {
    let rejected = Some((Refusal::TokenLimit, "no room".to_string()));
    let seen = PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected };
    let mut early = looked(seen.clone());
    early.searches.insert("intent-1".into(), Search { began: NOW - 2_000, found: Some(vec!["batch-1".into()]) });
    let journal = of(&[submitted()]);
    assert_eq!(step(&told(DRAIN), Some(&journal), &early), Step::Search(SLOT), "the list may lag");
    let next = swapped(step(&told(DRAIN), Some(&journal), &looked(seen)));
    assert_eq!(next.shards[0].refusal(), Some(Refusal::TokenLimit));
    let end = end(step(&told(DRAIN), Some(&next), &without_files()));
    assert_eq!((end.outcome, end.requests.cancelled), (Outcome::Cancelled, 1));
}

#[test]
fn a_job_with_nothing_left_to_send_ends_as_it_would_have_ended() {
    for stop in [DRAIN, CANCEL] {
        let ends = |states: &[Option<AttemptState>]| {
            let end = end(step(&told(stop), Some(&of(states)), &without_files()));
            (end.outcome, end.reason)
        };
        assert_eq!(ends(&[answered()]), (Outcome::Succeeded, "AllSucceeded".into()), "{stop:?}");
        assert_eq!(ends(&[answered(), failed(0)]), (Outcome::PartiallySucceeded, "CompletedWithFailures".into()));
        assert_eq!(ends(&[None, refused(Refusal::Invalid)]), (Outcome::Failed, "ProviderRejected".into()), "{stop:?}");
        assert_eq!(ends(&[answered(), failed(1)]), (Outcome::Cancelled, "Cancelled".into()), "it may pass: {stop:?}");
    }
}

fn free(step: Step) -> (Outcome, &'static str) {
    let Step::Fail(failure) = step else { panic!("it does not end: {step:?}") };
    assert!(failure.message.ends_with("; nothing was sent"), "{}", failure.message);
    (failure.outcome, failure.reason)
}

#[test]
fn a_job_that_was_never_sent_ends_at_once_whatever_it_waits_for() {
    for stop in [DRAIN, CANCEL] {
        let new = JobView { submitted: false, batches: vec![], ..told(stop) };
        let missing = Some(Blocked { reason: "SecretNotFound", message: "m".into() });
        let going = ProviderView { terminating: true, ..provider() };
        let waiting = [
            JobView { blocked: missing, lock: None, ..new.clone() },
            JobView { provider: Some(going), lock: None, ..new.clone() },
            JobView { suspend: true, ..new.clone() },
            new.clone(),
        ];
        for job in waiting {
            assert_eq!(free(step(&job, None, &memory())), (Outcome::Cancelled, "Cancelled"), "{job:?}");
        }
        let suspended = JobView { suspend: true, ..new };
        let next = swapped(step(&suspended, Some(&of(&[None])), &memory()));
        assert_eq!(next.plan, None, "no process sends what was planned");
        assert_eq!(free(step(&suspended, Some(&next), &memory())), (Outcome::Cancelled, "Cancelled"));
    }
}

#[test]
fn input_files_that_were_uploaded_and_not_sent_are_deleted_unless_that_fails() {
    let mut memory = memory();
    memory.uploads.insert((SLOT, "s".into()), "file-9".into());
    let new = JobView { submitted: false, ..told(DRAIN) };
    let delete = Step::DeleteFiles { files: vec!["file-9".into()], attempt_key: None, must: false };
    assert_eq!(step(&new, Some(&of(&[None])), &memory), delete);
    memory.failed_calls.insert(Task::DeleteFiles, NOW + 1);
    assert_eq!(swapped(step(&new, Some(&of(&[None])), &memory)).plan, None, "they expire");
}

#[test]
fn a_job_that_may_have_been_sent_is_not_ended_for_free() {
    let missing = Some(Blocked { reason: "SecretNotFound", message: "m".into() });
    for job in
        [JobView { blocked: missing.clone(), ..told(CANCEL) }, JobView { blocked: missing, lock: None, ..told(CANCEL) }]
    {
        assert!(matches!(step(&job, None, &memory()), Step::Wait { .. }), "{job:?}");
    }
    assert!(waits(step(&told(CANCEL), None, &memory())).blocked.is_some(), "its journal is gone");
}

#[test]
fn the_results_of_the_same_work_are_adopted_before_a_stop_is_looked_at() {
    let new = JobView { submitted: false, batches: vec![], ..told(CANCEL) };
    let memory = the_same_work(Memory { manifest: Some(Some(manifest("w", "h"))), ..memory() });
    assert!(matches!(step(&new, None, &memory), Step::Conclude { reused: true, .. }));
}

/// Its batches are cancelled by whoever adopts them; with them unread, nobody would.
#[test]
fn what_an_earlier_object_of_its_name_left_running_is_adopted_and_cancelled() {
    let left = journal(owner("j", "earlier"), submitted());
    let adopted = swapped(step(&told(CANCEL), Some(&left), &the_same_work(memory())));
    assert_eq!(adopted.owner, owner("j", "u"));
    assert_eq!(swapped(step(&told(CANCEL), Some(&adopted), &running())).out_of_time_since, Some(NOW));
}

#[test]
fn a_stop_outside_of_the_cluster_that_has_the_work_ends_for_free() {
    let elsewhere = Owner { cluster: "c2".into(), ..owner("j", "u2") };
    let job = JobView { submitted: false, ..told(DRAIN) };
    let ended = step(&job, Some(&journal(elsewhere, submitted())), &the_same_work(memory()));
    assert_eq!(free(ended), (Outcome::Cancelled, "Cancelled"));
}

#[test]
fn the_deletion_of_a_job_that_was_told_to_stop_goes_by_its_deletion_policy() {
    for deletion_policy in [DeletionPolicy::Cancel, DeletionPolicy::Orphan] {
        let job = JobView { deleting_since: Some(NOW), deletion_policy, ..told(CANCEL) };
        let closed = swapped(step(&job, Some(&of(&[submitted()])), &running()));
        assert_eq!(closed.closing, Some(deletion_policy));
        let cancels = matches!(step(&job, Some(&closed), &running()), Step::Cancel { .. });
        assert_eq!(cancels, deletion_policy == DeletionPolicy::Cancel);
    }
}

#[test]
fn status_says_that_a_job_is_stopping_and_that_it_was_stopped() {
    let journal = of(&[submitted(), None]);
    let seen = |job: &JobView, journal: Option<&Journal>, memory: &Memory| {
        let o = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal, memory };
        let status = project(&o, &BatchJobStatus::default(), Some(1), &decide(&o)).unwrap();
        let of = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("\n{}={} {}: {}", c.type_, c.status, c.reason, c.message).trim_end_matches(": ").to_string()
        };
        let conditions: String = status.conditions.iter().map(of).collect();
        format!("outcome {:?}, lock {}{conditions}", status.outcome, status.lock.is_some())
    };
    insta::assert_snapshot!(seen(&told(DRAIN), Some(&journal), &running()), @"
    outcome None, lock false
    Planned=True RequestsChecked: 2 requests were read and are sound
    Submitted=False NotAllSubmitted: 1 of 2 batches were submitted
    Progressing=True AwaitingProvider
    Complete=Unknown Draining: `spec.stopPolicy` is Drain: no further batch is submitted, and batches in flight are awaited
    Failed=False NotFailed
    Suspended=False NotSuspended
    Held=False NothingToAnswer
    Stalled=False Progressing
    Reconciling=False AwaitingProvider: nothing for the operator to do now
    ");
    let new = JobView { submitted: false, ..told(DRAIN) };
    insta::assert_snapshot!(seen(&new, None, &memory()), @"
    outcome Some(Cancelled), lock false
    Complete=False Cancelled: `spec.stopPolicy` is Drain; nothing was sent
    Failed=True Cancelled: `spec.stopPolicy` is Drain; nothing was sent
    Stalled=True Cancelled: `spec.stopPolicy` is Drain; nothing was sent
    Reconciling=False Finished
    Held=False NothingToAnswer
    Suspended=False NotSuspended
    ");
}
