//! Looks at CronBatchJobs: what starts, what is deleted, what people are told.

use batchjob_operator::api::{ActiveBatchJob, CronBatchJobSpec};
use batchjob_operator::schedule::{Child, Decision, End, Event, Observed, Skipped, decide};
use jiff::Timestamp;
use serde_json::json;

use crate::cases::{generated, looked_at};
use crate::kubernetes::{Answer, Case, Job, kubernetes};
use crate::{at, parsed};

/// The state of a CronBatchJob after one look and its effects.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<String>,
    created: Vec<String>,
    deleted: Vec<String>,
    active: Vec<String>,
    last: Option<i64>,
    succeeded: Option<i64>,
    again: Option<i64>,
}

impl Outcome {
    fn of(answer: &Answer) -> Outcome {
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        let mut events = sorted(&answer.events);
        if answer.created.is_none() {
            // The operator tells of missed starts when it makes up for the last one, and not at each look until then.
            events.retain(|reason| reason != "TooManyMissedTimes");
        }
        Outcome {
            events,
            created: sorted(&answer.created),
            deleted: sorted(&answer.deleted),
            active: sorted(&answer.active),
            last: answer.last,
            succeeded: answer.succeeded,
            again: answer.again,
        }
    }

    /// What the operator would make of a case.
    fn ours(case: &Case) -> Outcome {
        let spec = json!({
            "schedule": case.schedule, "timeZone": case.time_zone, "startingDeadlineSeconds": case.deadline,
            "concurrencyPolicy": case.policy, "suspend": case.suspend,
            "successfulJobsHistoryLimit": case.successful, "failedJobsHistoryLimit": case.failed,
            "jobTemplate": {"spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}}},
        });
        let spec: CronBatchJobSpec = serde_json::from_str(&spec.to_string()).unwrap();
        let child = |job: &Job| Child {
            name: job.name.clone(),
            uid: job.name.clone(),
            started: job.started.map(at),
            end: match job.end {
                "" => None,
                "Failed" => Some(End::Failed),
                _ => Some(End::Complete(Some(at(job.ended)))),
            },
            deleting: false,
        };
        let children: Vec<Child> = case.jobs.iter().map(child).collect();
        let active = |name: &String| ActiveBatchJob { name: name.clone(), uid: name.clone() };
        let active: Vec<ActiveBatchJob> = case.active.iter().map(active).collect();
        let now = at(case.now.unwrap());
        let decision = decide(&Observed {
            name: "cron",
            spec: &spec,
            created: at(case.created),
            deleting: false,
            active: &active,
            last_schedule_time: case.last.map(at),
            last_successful_time: None,
            children: &children,
            now,
        });
        Outcome::after(decision, now)
    }

    fn after(decision: Decision, now: Timestamp) -> Outcome {
        // The CronJob controller does not tell of the end of a job that it deletes in the same look.
        let told =
            |event: &&Event| !matches!(event, Event::SawCompletedJob(name, _) if decision.history.contains(name));
        let mut events: Vec<String> = decision.events.iter().filter(told).map(|event| event.reason().into()).collect();
        // Nor does it tell of a start that came too late: it no longer looks for those.
        events.extend(
            decision
                .skipped
                .filter(|skipped| matches!(skipped, Skipped::StillActive(_)))
                .map(|skipped| skipped.event().reason().into()),
        );
        let mut deleted = decision.history;
        let mut active: Vec<String> = decision.active.into_iter().map(|active| active.name).collect();
        let start = decision.start;
        if let Some(start) = &start {
            active.retain(|name| !start.replaces.contains(name));
            active.push(start.name.clone());
            deleted.extend(start.replaces.clone());
            events.push("SuccessfulCreate".into());
        }
        events.extend(deleted.iter().map(|_| "SuccessfulDelete".into()));
        for list in [&mut events, &mut deleted, &mut active] {
            list.sort();
        }
        Outcome {
            events,
            created: start.iter().map(|start| start.name.clone()).collect(),
            deleted,
            active,
            last: start.map(|start| start.scheduled_time).or(decision.last_schedule_time).map(Timestamp::as_second),
            succeeded: decision.last_successful_time.map(Timestamp::as_second),
            // The CronJob controller looks a tenth of a second later.
            again: decision.next_schedule_time.map(|next| next.duration_since(now).as_millis() as i64 + 100),
        }
    }
}

#[test]
fn a_look_at_a_cron_batch_job_decides_as_the_cron_job_controller_does() {
    let cases = generated(looked_at());
    let (mut compared, mut created, mut replaced) = (0, 0, 0);
    for (case, answer) in cases.iter().zip(kubernetes(&cases)) {
        let every = case.schedule.starts_with("@every");
        let lost = answer.latest.is_none() && answer.missed > 0;
        if answer.refused.is_some() || parsed(case).is_err() || (every && case.deadline.is_some()) || lost {
            continue;
        }
        let outcome = Outcome::of(&answer);
        assert_eq!(Outcome::ours(case), outcome, "{case:?}");
        compared += 1;
        created += outcome.created.len();
        replaced += usize::from(case.policy == "Replace" && !outcome.created.is_empty() && !case.active.is_empty());
    }
    println!("{compared} looks, {created} starts, {replaced} of them with others to replace");
    assert!(compared >= 2000 && created >= 200 && replaced >= 50);
}
