//! Looks at CronBatchJobs: what starts, what is deleted, what people are told.

use batchjob_operator::api::{ActiveBatchJob, CronBatchJobObject, CronBatchJobStatus};
use batchjob_operator::schedule::{Child, Decision, End, Event, Observed, decide};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
        let time = |unix: i64| at(unix).to_string();
        let active: Vec<_> = case.active.iter().map(|name| json!({"name": name, "uid": name})).collect();
        let cron = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob",
            "metadata": {"name": "cron", "creationTimestamp": time(case.created)},
            "spec": {
                "schedule": case.schedule, "timeZone": case.time_zone, "startingDeadlineSeconds": case.deadline,
                "concurrencyPolicy": case.policy, "suspend": case.suspend,
                "successfulJobsHistoryLimit": case.successful, "failedJobsHistoryLimit": case.failed,
                "jobTemplate": {"spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}}},
            },
            "status": {"active": active, "lastScheduleTime": case.last.map(time)},
        });
        let cron: CronBatchJobObject = serde_json::from_str(&cron.to_string()).unwrap();
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
        let now = at(case.now.unwrap());
        Outcome::after(decide(&Observed { cron: &cron, children: &children, now }), now)
    }

    fn after(decision: Decision, now: Timestamp) -> Outcome {
        let start = decision.start.as_ref();
        let created = start.and_then(|start| start.child.metadata.name.clone());
        let mut deleted = decision.history.clone();
        deleted.extend(start.iter().flat_map(|start| start.replaces.clone()));
        let mut status = CronBatchJobStatus::default();
        decision.write(created.clone().map(|name| ActiveBatchJob { uid: name.clone(), name }), &mut status);

        // The CronJob controller does not tell of the end of a job that it deletes in the same look, nor of a start that came
        // too late: it no longer looks for those.
        let told = |event: &Event| match event {
            Event::SawCompletedJob(name, _) => !decision.history.contains(name),
            event => !matches!(event, Event::MissSchedule(_)),
        };
        let decided = decision.events.iter().cloned().chain(decision.fault.clone());
        let decided = decided.chain(decision.skipped.map(|skipped| skipped.event())).filter(told);
        let effects = deleted.iter().cloned().map(Event::SuccessfulDelete);
        let effects = effects.chain(created.clone().map(Event::SuccessfulCreate));
        let mut events: Vec<String> = decided.chain(effects).map(|event| event.reason().into()).collect();
        // A job that is deleted is none to it at once; here it is active until it is gone.
        let names = status.active.into_iter().map(|active| active.name);
        let mut active: Vec<String> = names.filter(|name| !deleted.contains(name)).collect();
        for list in [&mut events, &mut deleted, &mut active] {
            list.sort();
        }
        let second = |time: Option<Time>| time.map(|time| time.0.as_second());
        Outcome {
            events,
            created: created.into_iter().collect(),
            deleted,
            active,
            last: second(status.last_schedule_time),
            succeeded: second(status.last_successful_time),
            // The CronJob controller looks a tenth of a second later.
            again: status.next_schedule_time.map(|next| next.0.duration_since(now).as_millis() as i64 + 100),
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
