//! Inputs that are waited for.

use batchjob_operator::lifecycle::{InputLook, InputWait};
use proptest::prelude::*;

use super::*;

const OBJECT: &str = "s3://shop/in/_SUCCESS";

fn wait(until: Option<i64>) -> InputWait {
    InputWait { of: OBJECT.into(), since: Some(0), until, field: "spec.input.waitFor.timeoutSeconds" }
}

fn waits(until: Option<i64>) -> JobView {
    JobView { input_wait: Some(wait(until)), submitted: false, batches: vec![], ..job() }
}

fn look(at: i64, is_there: bool) -> InputLook {
    let missing = (!is_there).then(|| format!("{OBJECT} is not there yet"));
    InputLook { of: OBJECT.into(), missing, at, first: 0, jitter: 0, is_due: false }
}

fn looked(look: InputLook) -> Memory {
    Memory { input_look: Some(look), ..memory() }
}

fn unplanned() -> Journal {
    Journal::open("w".into(), owner("j", "u"), "spec".into())
}

fn at(now: i64, job: &JobView, journal: Option<&Journal>, memory: &Memory) -> Step {
    decide(&Observed { now, nonce: "nonce", timing: &TIMING, job, journal, memory })
}

fn note(step: &Step) -> &str {
    let Step::Wait { why: Waiting { stage: "WaitingForInput", note: Some(note), .. }, .. } = step else {
        panic!("{step:?}")
    };
    note
}

/// An object that appears at some time, or never.
#[derive(Clone, Copy, Debug)]
struct Story {
    appears: Option<i64>,
    until: Option<i64>,
    deadline: Option<i64>,
    jitter: u8,
}

/// Lives through a story from look to look. Returns the times of the looks, and the end: its time, and the reason of a failure.
fn lived(story: Story) -> (Vec<i64>, i64, Option<&'static str>) {
    let (job, journal) = (JobView { deadline: story.deadline, ..waits(story.until) }, unplanned());
    let (mut now, mut memory, mut looks) = (0, memory(), vec![]);
    while now < 40 * 86_400_000 {
        match at(now, &job, Some(&journal), &memory) {
            Step::LookForInput => {
                looks.push(now);
                let is_there = story.appears.is_some_and(|appears| appears <= now);
                memory.input_look = Some(InputLook { jitter: story.jitter, ..look(now, is_there) });
            }
            Step::Wait { until: Some(until), .. } => {
                assert!(until > now, "a visit at {now} is followed by one at {until}");
                now = until;
            }
            Step::Plan { stage: Some(_), .. } => return (looks, now, None),
            Step::Fail(failure) => return (looks, now, Some(failure.reason)),
            step => panic!("{step:?}"),
        }
    }
    (looks, now, Some("still waits"))
}

fn stories() -> impl Strategy<Value = Story> {
    let times = || prop::option::of(0..3 * 86_400_000i64);
    (times(), times(), times(), any::<u8>()).prop_map(|(appears, until, deadline, jitter)| Story {
        appears,
        until,
        deadline,
        jitter,
    })
}

proptest! {
    #[test]
    fn an_input_is_read_once_it_is_there_and_a_wait_ends_at_its_time_after_a_last_look(story in stories()) {
        let (looks, end, failed) = lived(story);
        let limit = [story.until, story.deadline].into_iter().flatten().min();
        match (story.appears, limit) {
            (Some(appears), _) if failed.is_none() => {
                prop_assert!(end >= appears);
                let late = (appears / 10).clamp(15_000, 300_000) * 5 / 4 + 1;
                prop_assert!(end - appears <= late, "it appeared at {appears} and was seen at {end}");
            }
            (_, None) => prop_assert_eq!((failed, story.appears), (Some("still waits"), None)),
            (appears, Some(limit)) => {
                prop_assert_eq!(end, limit);
                let by_deadline = story.deadline == Some(limit);
                prop_assert_eq!(failed, Some(if by_deadline { "DeadlineExceeded" } else { "InputDeadlineExceeded" }));
                prop_assert!(by_deadline || looks.last() == Some(&limit), "no look at the end");
                prop_assert!(by_deadline || appears.is_none_or(|appears| appears > limit), "it was there");
            }
        }
        let few = 60 + end / 300_000;
        prop_assert!((looks.len() as i64) < few, "{} looks in {end} ms", looks.len());
        prop_assert!(looks.windows(2).all(|two| two[1] - two[0] >= 15_000 || limit == Some(two[1])), "{looks:?}");
    }
}

#[test]
fn the_wait_says_what_is_missing_since_when_and_until_when() {
    let journal = unplanned();
    let note = |job: &JobView| note(&at(20_000, job, Some(&journal), &looked(look(19_000, false)))).to_string();
    let told = [
        note(&waits(Some(3_600_000))),
        note(&JobView { deadline: Some(60_000), ..waits(Some(3_600_000)) }),
        note(&waits(None)),
        note(&JobView { suspend: true, input_wait: Some(InputWait { since: None, ..wait(None) }), ..waits(None) }),
    ];
    insta::assert_snapshot!(told.join("\n"), @r"
    s3://shop/in/_SUCCESS is not there yet; the job waits for it since Jan 01 00:00:00 UTC, until Jan 01 01:00:00 UTC (`spec.input.waitFor.timeoutSeconds`)
    s3://shop/in/_SUCCESS is not there yet; the job waits for it since Jan 01 00:00:00 UTC, until Jan 01 00:01:00 UTC (`spec.activeDeadlineSeconds`)
    s3://shop/in/_SUCCESS is not there yet; the job waits for it since Jan 01 00:00:00 UTC, for as long as it takes; `spec.input.waitFor.timeoutSeconds` sets a limit
    s3://shop/in/_SUCCESS is not there yet; the job waits for it, and its time begins when it is resumed
    ");
    let Step::Fail(failure) = at(NOW, &waits(Some(NOW)), Some(&journal), &looked(look(NOW, false))) else { panic!() };
    insta::assert_snapshot!(failure.message, @"s3://shop/in/_SUCCESS is not there yet, and the time of `spec.input.waitFor.timeoutSeconds` ended at Jan 01 00:16:40 UTC; nothing was sent. Once it is there, set the annotation `llmbatch.dev/reconcile-requested-at` of the job to another value, or allow it more time");
    let late = JobView { deadline: Some(NOW), ..waits(None) };
    let Step::Fail(failure) = at(NOW, &late, Some(&journal), &looked(look(1, false))) else { panic!() };
    assert_eq!(
        failure.message,
        format!("`spec.activeDeadlineSeconds` are over, and {OBJECT} is not there yet; nothing was sent")
    );
}

#[test]
fn a_look_that_fails_is_the_end_of_a_wait_whose_time_is_over_and_never_of_another() {
    let job = waits(Some(NOW));
    let failing = Memory {
        running: [Task::LookForInput].into(),
        failed_calls: [(Task::LookForInput, NOW + 60_000)].into(),
        error: Some("access was denied".into()),
        ..memory()
    };
    let before = at(NOW - 1, &job, Some(&unplanned()), &failing);
    assert!(matches!(before, Step::Wait { until: Some(NOW), .. }), "{before:?}");
    let Step::Fail(failure) = at(NOW, &job, Some(&unplanned()), &failing) else { panic!("it waits on") };
    assert!(failure.message.contains(OBJECT) && failure.message.contains("access was denied"), "{}", failure.message);
    // A store that was away for a moment has not answered yet.
    let once = Memory { error: None, ..failing };
    assert!(matches!(at(NOW, &job, Some(&unplanned()), &once), Step::Wait { .. }));
}

#[test]
fn a_look_at_another_object_or_before_a_persons_word_does_not_count() {
    let (journal, found) = (unplanned(), looked(look(NOW, true)));
    assert!(matches!(at(NOW, &waits(None), Some(&journal), &found), Step::Plan { .. }));
    let mut corrected = waits(None);
    corrected.input_wait.as_mut().unwrap().of = "s3://shop/in/2/_SUCCESS".into();
    assert_eq!(at(NOW, &corrected, Some(&journal), &found), Step::LookForInput);
    let mut missing = looked(look(NOW, false));
    assert!(matches!(at(NOW, &waits(None), Some(&journal), &missing), Step::Wait { .. }));
    missing.look_for_input_again();
    assert_eq!(at(NOW, &waits(None), Some(&journal), &missing), Step::LookForInput);
}

#[test]
fn what_was_paid_for_is_adopted_without_a_wait_and_only_an_input_of_other_work_is_waited_for() {
    let results = || Memory { manifest: Some(Some(manifest("w", "h"))), ..looked(look(NOW, false)) };
    let fresh = || Memory { manifest: Some(Some(manifest("w", "h"))), ..memory() };
    let left_running = journal(owner("j", "earlier"), submitted());
    let missing = || looked(look(NOW, false));
    for (journal, memory) in [(None, fresh()), (None, results()), (Some(&left_running), missing())] {
        let of_a_hash = |memory: &Memory| at(NOW, &waits(Some(NOW + 1)), journal, memory);
        assert!(matches!(of_a_hash(&memory), Step::Plan { stage: None, .. }), "the input is read to compare it");
        let adopted = of_a_hash(&the_same_work(memory.clone()));
        assert!(matches!(adopted, Step::Conclude { reused: true, .. } | Step::Swap(_)), "{adopted:?}");
        let other = of_a_hash(&other_work(memory));
        assert!(matches!(other, Step::LookForInput | Step::Wait { .. }), "half an input is of other work: {other:?}");
    }
    let whole = Memory { input_look: Some(look(NOW, true)), ..other_work(results()) };
    let Step::Fail(failure) = at(NOW, &waits(None), None, &whole) else { panic!("it waits for nothing") };
    assert_eq!(failure.reason, "OutputConflict");
}

#[test]
fn a_job_that_waits_for_its_input_names_the_batches_that_an_earlier_one_of_its_name_left_running() {
    let left = journal(owner("j", "earlier"), submitted());
    let waiting = at(NOW, &waits(None), Some(&left), &other_work(looked(look(NOW, false))));
    assert!(note(&waiting).starts_with(&format!("{OBJECT} is not there yet; the job waits for it")), "{waiting:?}");
    assert!(note(&waiting).contains("an earlier BatchJob of this name left behind may still run and cost (batch-1)"));
    let settled = journal(owner("j", "earlier"), Some(completed("batch-1", RequestCounts::default(), 0)));
    let waiting = at(NOW, &waits(None), Some(&settled), &other_work(looked(look(NOW, false))));
    assert!(!note(&waiting).contains("left behind"), "{waiting:?}");
}

#[test]
fn a_job_that_waits_for_its_input_and_is_told_to_stop_ends_whatever_an_earlier_one_of_its_name_sent() {
    let left = journal(owner("j", "earlier"), submitted());
    let late = JobView { deadline: Some(NOW), ..waits(None) };
    let told = |stop| JobView { stop: Some(stop), ..waits(None) };
    for job in [told(StopPolicy::Drain), told(StopPolicy::Cancel), late] {
        let end = at(NOW, &job, Some(&left), &other_work(looked(look(NOW, false))));
        let Step::Fail(failure) = end else { panic!("{:?}: {end:?}", job.stop) };
        assert!(failure.message.contains("nothing was sent") && failure.message.contains("batch-1"), "{failure:?}");
    }
}

#[test]
fn a_suspended_job_waits_outside_its_time_and_a_job_that_was_planned_waits_no_more() {
    let suspended = JobView { suspend: true, deadline: Some(NOW), input_wait: Some(wait(None)), ..waits(None) };
    let step = at(NOW + 1, &suspended, Some(&unplanned()), &looked(look(NOW, false)));
    assert!(note(&step).contains("when it is resumed"), "{step:?}");
    let planned = journal(owner("j", "u"), None);
    let step = at(NOW, &waits(Some(1)), Some(&planned), &memory());
    assert!(matches!(step, Step::Upload(_)), "{step:?}");
}
