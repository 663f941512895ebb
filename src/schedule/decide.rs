//! One look at a CronBatchJob, as the CronJob controller looks at a CronJob: the start that is due, the children that are in its
//! way or too old to keep, and what people are told. It differs where the controller of CronJobs would lose a start or count a
//! running child as none; `tests/schedule/` compares the two.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Event, Schedule, child, child_name};
use crate::api::{
    ActiveBatchJob, BatchJobObject, ConcurrencyPolicy, CronBatchJobObject, CronBatchJobSpec, CronBatchJobStatus,
    conditions,
};

/// Most children in `status.active`.
const ACTIVE_LIMIT: usize = 100;

/// A CronBatchJob, its children and the time.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The object as it is on the server.
    pub cron: &'a CronBatchJobObject,
    /// All BatchJobs that the object owns. One of `status.active` that is not among them has to be gone from the API server, and
    /// not only from a cache.
    pub children: &'a [Child],
    /// The time of the look.
    pub now: Timestamp,
}

/// A BatchJob that the CronBatchJob owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `status.startTime`
    pub started: Option<Timestamp>,
    /// None while it runs, or is being cancelled.
    pub end: Option<End>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its results, at its `status.completionTime`.
    Complete(Option<Timestamp>),
    /// Without them, or without most of them.
    Failed,
}

/// What to do and to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Events that are true whatever becomes of the effects, in order. Those about effects are for the caller to tell.
    pub events: Vec<Event>,
    /// Children to delete because newer ones that ended are kept, the oldest first.
    pub history: Vec<String>,
    /// The child to create, if a start is due.
    pub start: Option<Start>,
    /// The due start that is not made, if there is one. It is the same at each look until another one is due, so its event is
    /// told when it changes.
    pub skipped: Option<SkippedStart>,
    /// The reason for which nothing starts until the object changes, if there is one. It is told when it changes.
    pub fault: Option<Event>,
    /// Children that run, the one of `start` not included.
    pub active: Vec<ActiveBatchJob>,
    /// `status.lastScheduleTime`, the one of `start` not included.
    pub last_schedule_time: Option<Timestamp>,
    /// `status.lastSuccessfulTime`
    pub last_successful_time: Option<Timestamp>,
    /// `status.nextScheduleTime`, and the time of the next look. None: nothing starts until the object changes.
    pub next_schedule_time: Option<Timestamp>,
}

/// A child to create. Once it is there, made now or found under its name, [`Decision::write`] takes note of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The child, under a name that no other start has.
    pub child: BatchJobObject,
    /// The time that the schedule names, in the past or now.
    pub scheduled_time: Timestamp,
    /// Running children that are deleted first, as `concurrencyPolicy: Replace` has it. If one cannot be, nothing is created.
    pub replaces: Vec<String>,
}

/// A start that is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkippedStart {
    /// `startingDeadlineSeconds` were over.
    TooLate(Timestamp),
    /// An earlier child still runs, and `concurrencyPolicy` is `Forbid`. The start is made once that has ended, unless another
    /// one is due by then.
    StillActive(Timestamp),
}

impl SkippedStart {
    /// Returns the event that tells of it.
    pub fn event(self) -> Event {
        match self {
            SkippedStart::TooLate(at) => Event::MissSchedule(at),
            SkippedStart::StillActive(_) => Event::JobAlreadyActive,
        }
    }
}

impl Child {
    /// Returns what a look needs to know of a BatchJob.
    pub fn of(job: &BatchJobObject) -> Child {
        let status = job.status.clone().unwrap_or_default();
        let end = if conditions::is_true(&status.conditions, conditions::COMPLETE) {
            Some(End::Complete(status.completion_time.map(|time| time.0)))
        } else if conditions::is_false(&status.conditions, conditions::COMPLETE) {
            Some(End::Failed)
        } else {
            None
        };
        Child {
            name: job.metadata.name.clone().unwrap_or_default(),
            uid: job.metadata.uid.clone().unwrap_or_default(),
            started: status.start_time.map(|time| time.0),
            end,
            deleting: job.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Decision {
    /// Writes what was seen into a status. `created` is the child of `start`, once it is there; until then the start is due
    /// again at the next look.
    pub fn write(&self, created: Option<ActiveBatchJob>, status: &mut CronBatchJobStatus) {
        let (mut active, mut last) = (self.active.clone(), self.last_schedule_time);
        if let (Some(start), Some(created)) = (&self.start, created) {
            active.push(created);
            last = Some(start.scheduled_time);
        }
        status.active_count = i32::try_from(active.len()).unwrap_or(i32::MAX);
        active.truncate(ACTIVE_LIMIT);
        status.active = active;
        status.last_schedule_time = last.map(Time);
        status.last_successful_time = self.last_successful_time.map(Time);
        status.next_schedule_time = self.next_schedule_time.map(Time);
    }
}

/// Looks at a CronBatchJob.
pub fn decide(observed: &Observed) -> Decision {
    let (metadata, spec) = (&observed.cron.metadata, &observed.cron.spec);
    let mut decision = children(observed);
    if metadata.deletion_timestamp.is_some() {
        return decision;
    }
    decision.history = history(spec, observed.children);
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(error) => {
            decision.fault = Some(Event::from(error));
            return decision;
        }
    };
    // A template that makes no child now makes none at the next start, and is told of when it is written.
    if let Err(error) = child(observed.cron, schedule.zone(), observed.now) {
        decision.fault = Some(Event::FailedCreate(error.to_string()));
    } else if !spec.suspend {
        starts(observed, &schedule, &mut decision);
    }
    decision
}

/// Takes note of children that began or ended.
fn children(observed: &Observed) -> Decision {
    let status = observed.cron.status.clone().unwrap_or_default();
    let cron = observed.cron.metadata.name.as_deref().unwrap_or_default();
    let mut decision = Decision {
        last_schedule_time: status.last_schedule_time.map(|time| time.0),
        last_successful_time: status.last_successful_time.map(|time| time.0),
        ..Decision::default()
    };
    let was_active = |child: &Child| status.active.iter().any(|active| active.uid == child.uid);
    for child in observed.children {
        match child.end {
            None if was_active(child) => {}
            // A crash between its creation and the status leaves a child that is not in the status.
            None if is_of_a_start(cron, &child.name) => {}
            None => decision.events.push(Event::UnexpectedJob(child.name.clone())),
            Some(end) => {
                if was_active(child) {
                    decision.events.push(Event::SawCompletedJob(child.name.clone(), end));
                }
                if let End::Complete(at) = end {
                    decision.last_successful_time = decision.last_successful_time.max(at);
                }
            }
        }
    }
    let gone = |active: &&ActiveBatchJob| observed.children.iter().all(|child| child.uid != active.uid);
    let missing = status.active.iter().filter(gone);
    decision.events.extend(missing.map(|active| Event::MissingJob(active.name.clone())));
    let running = observed.children.iter().filter(|child| child.end.is_none());
    decision.active =
        running.map(|child| ActiveBatchJob { name: child.name.clone(), uid: child.uid.clone() }).collect();
    decision
}

/// Whether a child has the name that a start gives.
fn is_of_a_start(cron: &str, child: &str) -> bool {
    let minute = child.strip_prefix(cron).and_then(|rest| rest.strip_prefix('-'));
    minute.is_some_and(|minute| minute.parse::<i64>().is_ok())
}

fn starts(observed: &Observed, schedule: &Schedule, decision: &mut Decision) {
    let (cron, spec, now) = (observed.cron, &observed.cron.spec, observed.now);
    let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let last = decision.last_schedule_time.or(created).unwrap_or(now);
    let due = schedule.due(last, spec.starting_deadline_seconds, now);
    let (due, all) = match due.and_then(|due| Ok((due, schedule.due(last, None, now)?))) {
        Ok(both) => both,
        Err(never) => {
            decision.fault = Some(Event::InvalidSchedule(format!("`spec.schedule` is `{}`: {never}", spec.schedule)));
            return;
        }
    };
    decision.next_schedule_time = schedule.next(all.latest.unwrap_or(last));
    let Some(at) = due.latest else {
        decision.skipped = all.latest.map(SkippedStart::TooLate);
        return;
    };
    let name = child_name(cron.metadata.name.as_deref().unwrap_or_default(), at);
    if observed.children.iter().any(|child| child.name == name) {
        decision.last_schedule_time = Some(at);
        return;
    }
    if spec.concurrency_policy == ConcurrencyPolicy::Forbid && !decision.active.is_empty() {
        decision.skipped = Some(SkippedStart::StillActive(at));
        return;
    }
    let running = observed.children.iter().filter(|child| child.end.is_none() && !child.deleting);
    let replaces = match spec.concurrency_policy {
        ConcurrencyPolicy::Replace => running.map(|child| child.name.clone()).collect(),
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => vec![],
    };
    match child(cron, schedule.zone(), at) {
        Ok(child) => decision.start = Some(Start { child, scheduled_time: at, replaces }),
        Err(error) => decision.fault = Some(Event::FailedCreate(error.to_string())),
    }
    if due.too_many_missed() {
        decision.events.push(Event::TooManyMissedTimes(due.missed));
    }
}

/// Returns the children that ended and are not kept, the oldest first: those that never began are the newest.
pub fn history(spec: &CronBatchJobSpec, children: &[Child]) -> Vec<String> {
    let of = |complete: bool, limit: i32| {
        let is_of_kind = |end| matches!(end, End::Complete(_)) == complete;
        let ended = |child: &&Child| !child.deleting && child.end.is_some_and(is_of_kind);
        let mut ended: Vec<&Child> = children.iter().filter(ended).collect();
        ended.sort_by_key(|child| (child.started.is_none(), child.started, &child.name));
        ended.truncate(ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        ended.into_iter().map(|child| child.name.clone())
    };
    of(true, spec.successful_jobs_history_limit).chain(of(false, spec.failed_jobs_history_limit)).collect()
}

#[cfg(test)]
mod tests;
