//! Batches that do not end although the job's time is over.

use super::*;

const SLOT: AttemptKey = AttemptKey { shard: 0, attempt: 1 };
/// `Timing::abandon_after` of these tests, and as long again for what fails.
const AFTER: i64 = TIMING.abandon_after;

fn late() -> JobView {
    JobView { deadline: Some(NOW - AFTER - 10), poll_period: 10 * AFTER, ..job() }
}

fn overdue(state: Option<AttemptState>) -> Journal {
    let mut journal = journal(owner("j", "u"), state);
    journal.out_of_time_since = Some(NOW - AFTER);
    journal
}

fn looked(mut memory: Memory, at: i64, seen: PolledState) -> Memory {
    memory.looks.insert("batch-1".into(), PollResult { at, seen });
    memory
}

fn cancelling() -> PolledState {
    PolledState::Running { state: "cancelling".into(), done: 0 }
}

fn told_to_stop() -> Memory {
    let mut memory = searched(memory());
    memory.cancelled.insert("batch-1".into());
    memory
}

/// The state of the first shard after this step, or the step.
fn becomes(step: Step) -> Result<AttemptState, Box<Step>> {
    match step {
        Step::Swap(next) => Ok(next.shards[0].attempt.clone().unwrap().state),
        step => Err(Box::new(step)),
    }
}

fn abandoned(id: Option<&str>) -> Result<AttemptState, Box<Step>> {
    Ok(AttemptState::Abandoned { batch_id: id.map(String::from) })
}

#[test]
fn since_when_batches_are_to_stop_is_written_down_and_counts_from_there() {
    let journal = journal(owner("j", "u"), submitted());
    let memory = looked(told_to_stop(), NOW, cancelling());
    let Step::Swap(next) = step(&late(), Some(&journal), &memory) else { panic!("nothing is written") };
    assert_eq!(next.out_of_time_since, Some(NOW), "an operator that was away gives them their time all the same");
    let Step::Wait { until, .. } = step(&late(), Some(&next), &memory) else { panic!("it is given up on at once") };
    assert_eq!(until, Some(NOW + AFTER));
    let moved = JobView { deadline: Some(NOW - 10), ..late() };
    let Step::Wait { until, .. } = step(&moved, Some(&overdue(submitted())), &memory) else { panic!("too soon") };
    assert_eq!(until, Some(NOW - 10 + AFTER), "the deadline was moved");
}

#[test]
fn a_batch_that_stays_in_cancelling_is_given_up_on_after_a_last_look() {
    let journal = overdue(submitted());
    let earlier = looked(told_to_stop(), NOW - 1, cancelling());
    assert_eq!(
        becomes(step(&late(), Some(&journal), &earlier)),
        Err(Box::new(Step::Poll(SLOT))),
        "it may have ended since"
    );
    let now = looked(told_to_stop(), NOW, cancelling());
    assert_eq!(becomes(step(&late(), Some(&journal), &now)), abandoned(Some("batch-1")));
    let not_told = looked(searched(memory()), NOW, cancelling());
    let cancel = Step::Cancel { attempt_key: SLOT, twin: false, batch_id: "batch-1".into() };
    assert_eq!(becomes(step(&late(), Some(&journal), &not_told)), Err(Box::new(cancel)), "it is told to stop first");
}

/// Otherwise a later stop would count from the earlier one, and answers that were paid for would be given up on at once.
#[test]
fn a_stop_after_a_deadline_was_moved_gives_batches_their_whole_time_to_end() {
    let cancelled = looked(told_to_stop(), NOW, cancelling());
    for deadline in [None, Some(NOW + 10 * AFTER)] {
        let in_time = JobView { deadline, ..late() };
        let Step::Swap(resumed) = step(&in_time, Some(&overdue(submitted())), &cancelled) else {
            panic!("{deadline:?}")
        };
        assert_eq!(resumed, overdue(submitted()).next(|j| j.out_of_time_since = None), "{deadline:?}");
        let told = JobView { stop: Some(StopPolicy::Cancel), ..in_time };
        let Step::Swap(noted) = step(&told, Some(&resumed), &cancelled) else { panic!("{deadline:?}") };
        assert_eq!(noted.out_of_time_since, Some(NOW), "{deadline:?}");
        let Step::Wait { until, .. } = step(&told, Some(&noted), &cancelled) else {
            panic!("it is given up on at once")
        };
        assert_eq!(until, Some(NOW + AFTER), "{deadline:?}");
    }
}

#[test]
fn the_stop_of_an_earlier_object_of_the_name_does_not_count_for_the_one_that_adopts_its_batches() {
    let mut left = overdue(submitted());
    left.owner = owner("j", "earlier");
    let Step::Swap(adopted) = step(&late(), Some(&left), &the_same_work(memory())) else { panic!("it is not adopted") };
    assert_eq!((adopted.owner.uid.as_str(), adopted.out_of_time_since), ("u", None));
}

#[test]
fn what_ended_is_collected_before_anything_is_given_up_on() {
    let ended = PolledState::Ended { state: BatchEnd::Cancelled, done: 0, rejected: None };
    let memory = looked(told_to_stop(), NOW, ended);
    let step = step(&late(), Some(&overdue(submitted())), &memory);
    assert_eq!(becomes(step), Err(Box::new(Step::Collect { attempt_key: SLOT, patient: true })));
}

#[test]
fn what_nobody_knows_or_can_ask_about_is_given_up_on_too() {
    let unnamed = PolledState::Unnamed { state: BatchEnd::Completed, why: "its `output_file_id` is a list".into() };
    for seen in [PolledState::NotFound, PolledState::NotOurs, PolledState::Gone { state: BatchEnd::Completed }, unnamed]
    {
        let memory = looked(told_to_stop(), NOW, seen.clone());
        assert_eq!(
            becomes(step(&late(), Some(&overdue(submitted())), &memory)),
            abandoned(Some("batch-1")),
            "{seen:?}"
        );
    }
    let mut memory = memory();
    memory.failed_calls.insert(Task::Call(SLOT), NOW + 5);
    memory.running.insert(Task::Call(SLOT));
    let once = becomes(step(&late(), Some(&overdue(submitted())), &memory));
    assert!(
        matches!(once.as_ref().map_err(|step| &**step), Err(Step::Wait { .. })),
        "one bad answer is no reason: {once:?}"
    );
    let mut journal = overdue(submitted());
    journal.out_of_time_since = Some(NOW - 2 * AFTER);
    let later = JobView { deadline: Some(NOW - 2 * AFTER), ..late() };
    assert_eq!(becomes(step(&later, Some(&journal), &memory)), abandoned(Some("batch-1")));
    let mut unknown = overdue(Some(AttemptState::Intended));
    memory.failed_calls.clear();
    memory.running.clear();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
    unknown.shards[0].attempt.as_mut().unwrap().post_by = NOW - 10_000;
    assert_eq!(becomes(step(&late(), Some(&unknown), &memory)), abandoned(None));
}

#[test]
fn the_job_ends_as_deadline_exceeded_and_names_what_may_still_cost() {
    let mut journal = overdue(Some(AttemptState::Abandoned { batch_id: Some("batch-1".into()) }));
    journal.shards[0].requests = 3;
    journal.plan.as_mut().unwrap().requests = 3;
    let mut memory = memory();
    memory.uploads.insert((SLOT, "s".into()), "file-1".into());
    let Step::Swap(next) = step(&late(), Some(&journal), &memory) else { panic!("its file is left to it") };
    let end = next.commit.unwrap();
    assert_eq!((end.outcome, end.reason.as_str()), (Outcome::Failed, "DeadlineExceeded"));
    assert_eq!(end.requests, RequestCounts { total: 3, missing: 3, ..Default::default() });
    insta::assert_snapshot!(end.message, @"`spec.activeDeadlineSeconds` are over; 0 of 3 requests were answered; given up on, for they did not end: batch batch-1 (00000-1); they may still run, and up to 3 requests may still be billed: cancel them at the provider");
    let in_time = JobView { deadline: None, ..late() };
    let Step::Swap(resumed) = step(&in_time, Some(&journal), &memory) else { panic!("it is sent again") };
    let Step::Swap(next) = step(&in_time, Some(&resumed), &memory) else { panic!("it is sent again") };
    assert!(next.commit.is_some(), "nothing of it is sent again, whatever becomes of the deadline");
}

#[test]
fn of_a_round_that_was_given_up_on_requests_stand_as_they_stood() {
    let counts = RequestCounts { total: 2, succeeded: 1, failed: 1, ..Default::default() };
    let mut journal = overdue(Some(completed("batch-0", counts, 1)));
    journal.shards[0].requests = 2;
    let prior_counts = RequestCounts { total: 1, failed: 1, ..Default::default() };
    let again = Shard { round: 1, prior_counts, ..shard(Some(AttemptState::Abandoned { batch_id: None })) };
    journal.shards.push(again);
    assert_eq!(journal.counts(), counts);
}
