//! One look at a CronBatchJob, as the CronJob controller looks at a CronJob: the start that is due, the children that end the
//! wait or make room, and what people are told. It differs where the controller of CronJobs would lose a start or count a
//! running child as none; `tests/schedule.rs` compares the two.

use jiff::Timestamp;

use super::{Event, Schedule, ScheduleError, child_name};
use crate::api::{ActiveBatchJob, ConcurrencyPolicy, CronBatchJobSpec};

/// A CronBatchJob, its children and the time.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// `metadata.name`
    pub name: &'a str,
    /// `spec`
    pub spec: &'a CronBatchJobSpec,
    /// Creation of the object: the first start is after it.
    pub created: Timestamp,
    /// Whether the object is being deleted: nothing starts any more.
    pub deleting: bool,
    /// `status.active`
    pub active: &'a [ActiveBatchJob],
    /// `status.lastScheduleTime`
    pub last_schedule_time: Option<Timestamp>,
    /// `status.lastSuccessfulTime`
    pub last_successful_time: Option<Timestamp>,
    /// All BatchJobs that the object owns. One of `active` that is not among them has to be gone from the API server, and not
    /// only from a cache.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Events that are true whatever becomes of the effects, in order. Those about effects, and that of `skipped`, are for the
    /// caller to tell.
    pub events: Vec<Event>,
    /// Children to delete because newer ones that ended are kept, the oldest first.
    pub history: Vec<String>,
    /// The child to create, if a start is due.
    pub start: Option<Start>,
    /// The due start that is not made, if there is one. It is the same at each look until another one is due, so its event is
    /// told when it changes.
    pub skipped: Option<Skipped>,
    /// `status.active` before the effects, however many they are.
    pub active: Vec<ActiveBatchJob>,
    /// `status.lastScheduleTime`, before the effects.
    pub last_schedule_time: Option<Timestamp>,
    /// `status.lastSuccessfulTime`
    pub last_successful_time: Option<Timestamp>,
    /// `status.nextScheduleTime`, and the time of the next look. None: nothing starts until the object changes.
    pub next_schedule_time: Option<Timestamp>,
}

/// A child to create. Once it is there, made now or found under its name, `lastScheduleTime` is its scheduled time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Name of the child. A child of that name that another start made is this one's.
    pub name: String,
    /// The time that the schedule names, in the past or now.
    pub scheduled_time: Timestamp,
    /// Running children that are deleted first, as `concurrencyPolicy: Replace` has it. If one cannot be, nothing is created.
    pub replaces: Vec<String>,
}

/// A start that is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// `startingDeadlineSeconds` were over.
    TooLate(Timestamp),
    /// An earlier child still runs, and `concurrencyPolicy` is `Forbid`. The start is made once that has ended, unless another
    /// one is due by then.
    StillActive(Timestamp),
}

impl Skipped {
    /// Returns the event that tells of it.
    pub fn event(self) -> Event {
        match self {
            Skipped::TooLate(at) => Event::MissSchedule(at),
            Skipped::StillActive(_) => Event::JobAlreadyActive,
        }
    }
}

/// Looks at a CronBatchJob.
pub fn decide(observed: &Observed) -> Decision {
    let mut decision = children(observed);
    if observed.deleting {
        return decision;
    }
    decision.history = history(observed.spec, observed.children);
    match Schedule::parse(&observed.spec.schedule, observed.spec.time_zone.as_deref()) {
        Err(error @ ScheduleError::UnknownTimeZone(_)) => {
            decision.events.push(Event::UnknownTimeZone(error.to_string()))
        }
        _ if observed.spec.suspend => {}
        Err(error) => decision.events.push(Event::UnparseableSchedule(error.to_string())),
        Ok(schedule) => starts(observed, &schedule, &mut decision),
    }
    decision
}

/// Takes note of children that began or ended.
fn children(observed: &Observed) -> Decision {
    let mut decision = Decision {
        last_schedule_time: observed.last_schedule_time,
        last_successful_time: observed.last_successful_time,
        ..Decision::default()
    };
    let was_active = |child: &Child| observed.active.iter().any(|active| active.uid == child.uid);
    for child in observed.children {
        match child.end {
            None if was_active(child) => {}
            // A crash between its creation and the status leaves a child that is not in the status.
            None if scheduled_minute(observed.name, &child.name).is_some() => {}
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
    let missing = observed.active.iter().filter(gone);
    decision.events.extend(missing.map(|active| Event::MissingJob(active.name.clone())));
    let running = observed.children.iter().filter(|child| child.end.is_none());
    decision.active =
        running.map(|child| ActiveBatchJob { name: child.name.clone(), uid: child.uid.clone() }).collect();
    decision
}

/// Returns the minute since 1970 in the name of a child that a start made.
fn scheduled_minute(cron: &str, child: &str) -> Option<i64> {
    child.strip_prefix(cron)?.strip_prefix('-')?.parse().ok()
}

fn starts(observed: &Observed, schedule: &Schedule, decision: &mut Decision) {
    let (spec, now) = (observed.spec, observed.now);
    let last = observed.last_schedule_time.unwrap_or(observed.created);
    let (due, all) = match (schedule.due(last, spec.starting_deadline_seconds, now), schedule.due(last, None, now)) {
        (Ok(due), Ok(all)) => (due, all),
        (Err(never), _) | (_, Err(never)) => {
            decision.events.push(Event::InvalidSchedule(format!("`spec.schedule` is `{}`: {never}", spec.schedule)));
            return;
        }
    };
    decision.next_schedule_time = schedule.next(all.latest.unwrap_or(last));
    let Some(at) = due.latest else {
        decision.skipped = all.latest.map(Skipped::TooLate);
        return;
    };
    let name = child_name(observed.name, at);
    if observed.children.iter().any(|child| child.name == name) {
        decision.last_schedule_time = Some(at);
        return;
    }
    let running = observed.children.iter().filter(|child| child.end.is_none() && !child.deleting);
    let replaces = match spec.concurrency_policy {
        ConcurrencyPolicy::Forbid if !decision.active.is_empty() => {
            decision.skipped = Some(Skipped::StillActive(at));
            return;
        }
        ConcurrencyPolicy::Replace => running.map(|child| child.name.clone()).collect(),
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => vec![],
    };
    if due.too_many_missed() {
        decision.events.push(Event::TooManyMissedTimes(due.missed));
    }
    decision.start = Some(Start { name, scheduled_time: at, replaces });
}

/// Returns the children that ended and are not kept, the oldest first: those that never began are the newest.
pub fn history(spec: &CronBatchJobSpec, children: &[Child]) -> Vec<String> {
    let of = |complete: bool, limit: i32| {
        let ended = |child: &&Child| {
            !child.deleting && child.end.is_some_and(|end| matches!(end, End::Complete(_)) == complete)
        };
        let mut ended: Vec<&Child> = children.iter().filter(ended).collect();
        ended.sort_by_key(|child| (child.started.is_none(), child.started, &child.name));
        ended.truncate(ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        ended.into_iter().map(|child| child.name.clone())
    };
    of(true, spec.successful_jobs_history_limit).chain(of(false, spec.failed_jobs_history_limit)).collect()
}

#[cfg(test)]
mod tests;
