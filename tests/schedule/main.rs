//! Schedules of CronBatchJobs, compared with Kubernetes: with the schedule library, the API server's validation and the CronJob
//! controller of the version that the other tests run on. Both sides read the time zones that are part of the operator.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod kubernetes;
mod looks;

use batchjob_operator::schedule::{Schedule, ScheduleError};
use jiff::{SignedDuration, Timestamp};

use cases::{case, generated};
use kubernetes::{Answer, Case, kubernetes};

fn at(unix: i64) -> Timestamp {
    Timestamp::from_second(unix).unwrap()
}

fn parsed(case: &Case) -> Result<Schedule, ScheduleError> {
    Schedule::parse(&case.schedule, case.time_zone.as_deref())
}

/// Whether the operator refuses a schedule on purpose that Kubernetes accepts: names of children count minutes.
fn is_too_often(error: &ScheduleError) -> bool {
    error.to_string().contains("more often than once a minute")
}

#[test]
fn schedules_start_when_those_of_cron_jobs_do() {
    let mut cases = generated(case());
    // Once, for it takes the library of Kubernetes long to find that no minute of five years matches.
    cases.push(Case { schedule: ", * * * *".into(), now: Some(0), policy: "Allow", ..Case::default() });
    let answers = kubernetes(&cases);
    assert_eq!(answers.len(), cases.len());
    let mut lost = vec![];
    let mut seen = Seen::default();
    for (case, answer) in cases.iter().zip(&answers) {
        let schedule = match (parsed(case), &answer.refused) {
            (Err(error), None) if is_too_often(&error) => continue,
            (Err(_), Some(_)) => {
                seen.refused += 1;
                continue;
            }
            (Ok(schedule), None) => schedule,
            (ours, theirs) => panic!("{case:?}\nours: {ours:?}\nKubernetes: {theirs:?}"),
        };
        seen.accepted += 1;
        let starts = std::iter::successors(schedule.next(at(case.after)), |start| schedule.next(*start));
        let next: Vec<i64> = starts.take(case.count).map(Timestamp::as_second).collect();
        assert_eq!(next, answer.next.clone().unwrap_or_default(), "{case:?}");
        if let Some(found) = missed(&schedule, case, answer, &mut seen) {
            lost.push((case, found));
        }
    }
    println!("{seen:?}, {} starts that the CronJob controller loses", lost.len());
    assert!(seen.accepted >= 2000 && seen.refused >= 200, "{seen:?}");
    assert!(seen.few >= 200 && seen.many >= 200 && seen.none >= 200 && seen.never >= 20, "{seen:?}");
    no_later_start(&lost);
}

/// Numbers of cases of each kind.
#[derive(Debug, Default)]
struct Seen {
    accepted: usize,
    refused: usize,
    none: usize,
    few: usize,
    many: usize,
    never: usize,
}

/// Compares the missed starts. Returns the latest one where the CronJob controller knows that starts were missed and finds
/// none of them.
fn missed(schedule: &Schedule, case: &Case, answer: &Answer, seen: &mut Seen) -> Option<i64> {
    let now = at(case.now.unwrap());
    if case.schedule.starts_with("@every") && case.deadline.is_some() {
        // Counted from the last start, where the CronJob controller counts from the deadline.
        return None;
    }
    let Ok(due) = schedule.due(at(case.last.unwrap_or(case.created)), case.deadline, now) else {
        assert!(answer.never_fires, "{case:?}");
        seen.never += 1;
        return None;
    };
    assert!(!answer.never_fires, "{case:?}");
    let kind = [due.missed > 0, due.too_many_missed()].into_iter().filter(|is| *is).count();
    assert_eq!(kind, answer.missed, "{case:?}: {due:?}");
    *[&mut seen.none, &mut seen.few, &mut seen.many][kind] += 1;
    let latest = due.latest.map(Timestamp::as_second);
    if answer.latest.is_none() && kind > 0 {
        return Some(latest.unwrap());
    }
    assert_eq!(latest, answer.latest, "{case:?}");
    None
}

/// Has Kubernetes say that each of these is a start and that the next one is not due.
fn no_later_start(lost: &[(&Case, i64)]) {
    let cases: Vec<Case> =
        lost.iter().map(|(case, start)| Case { after: start - 1, count: 2, now: None, ..(*case).clone() }).collect();
    for ((case, start), answer) in lost.iter().zip(kubernetes(&cases)) {
        let next = answer.next.unwrap();
        assert_eq!(next[0], *start, "{case:?}");
        assert!(next.get(1).is_none_or(|later| *later > case.now.unwrap()), "{case:?}: {next:?}");
    }
}

#[test]
fn missed_starts_of_even_schedules_are_counted_exactly() {
    for (schedule, minutes) in [("*/5 * * * *", 5), ("@hourly", 60), ("30 2 * * *", 1440), ("@every 90m", 90)] {
        let schedule = Schedule::parse(schedule, None).unwrap();
        for count in [2, 3, 99, 100, 101, 1000] {
            let since = at(1_700_000_000);
            let now = schedule.next(since).unwrap() + SignedDuration::from_mins(minutes * (count - 1));
            let due = schedule.due(since, None, now).unwrap();
            assert_eq!((due.missed, due.latest, due.too_many_missed()), (count, Some(now), count > 100));
        }
    }
}
