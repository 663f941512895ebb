//! Events of a CronBatchJob, under the names of the CronJob controller's.

use std::fmt;

use jiff::Timestamp;

use super::{End, ScheduleError};

/// An event of a CronBatchJob. It displays as the note of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A child was created.
    SuccessfulCreate(String),
    /// A child could not be created, or the template makes none, with the error.
    FailedCreate(String),
    /// A child was deleted.
    SuccessfulDelete(String),
    /// A child could not be deleted, with the error.
    FailedDelete(String),
    /// A child ended.
    SawCompletedJob(String, End),
    /// A child that ran is gone.
    MissingJob(String),
    /// A running BatchJob has the CronBatchJob as its owner and was not made by it.
    UnexpectedJob(String),
    /// A start was skipped because an earlier child runs.
    JobAlreadyActive,
    /// A start was skipped because `startingDeadlineSeconds` were over.
    MissSchedule(Timestamp),
    /// So many starts were missed, of which the last one is made up for.
    TooManyMissedTimes(i64),
    /// `spec.timeZone` is no time zone.
    UnknownTimeZone(String),
    /// `spec.schedule` is no schedule.
    UnparseableSchedule(String),
    /// `spec.schedule` never starts.
    InvalidSchedule(String),
}

impl From<ScheduleError> for Event {
    fn from(error: ScheduleError) -> Event {
        match error {
            ScheduleError::UnknownTimeZone(_) => Event::UnknownTimeZone(error.to_string()),
            ScheduleError::Unparseable(_) => Event::UnparseableSchedule(error.to_string()),
        }
    }
}

impl Event {
    /// Returns the reason, in one CamelCase word.
    pub fn reason(&self) -> &'static str {
        match self {
            Event::SuccessfulCreate(_) => "SuccessfulCreate",
            Event::FailedCreate(_) => "FailedCreate",
            Event::SuccessfulDelete(_) => "SuccessfulDelete",
            Event::FailedDelete(_) => "FailedDelete",
            Event::SawCompletedJob(..) => "SawCompletedJob",
            Event::MissingJob(_) => "MissingJob",
            Event::UnexpectedJob(_) => "UnexpectedJob",
            Event::JobAlreadyActive => "JobAlreadyActive",
            Event::MissSchedule(_) => "MissSchedule",
            Event::TooManyMissedTimes(_) => "TooManyMissedTimes",
            Event::UnknownTimeZone(_) => "UnknownTimeZone",
            Event::UnparseableSchedule(_) => "UnparseableSchedule",
            Event::InvalidSchedule(_) => "InvalidSchedule",
        }
    }

    /// Whether the event is a warning; the others are normal.
    pub fn is_warning(&self) -> bool {
        match self {
            Event::SuccessfulCreate(_)
            | Event::SuccessfulDelete(_)
            | Event::SawCompletedJob(..)
            | Event::MissingJob(_)
            | Event::JobAlreadyActive => false,
            Event::FailedCreate(_)
            | Event::FailedDelete(_)
            | Event::UnexpectedJob(_)
            | Event::MissSchedule(_)
            | Event::TooManyMissedTimes(_)
            | Event::UnknownTimeZone(_)
            | Event::UnparseableSchedule(_)
            | Event::InvalidSchedule(_) => true,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::SuccessfulCreate(name) => write!(f, "Created BatchJob {name}"),
            Event::FailedCreate(error) => write!(f, "BatchJob not created: {error}"),
            Event::SuccessfulDelete(name) => write!(f, "Deleted BatchJob {name}"),
            Event::FailedDelete(error) => write!(f, "BatchJob not deleted: {error}"),
            Event::SawCompletedJob(name, End::Complete(_)) => write!(f, "BatchJob {name} is complete"),
            Event::SawCompletedJob(name, End::Failed) => write!(f, "BatchJob {name} has failed"),
            Event::MissingJob(name) => write!(f, "BatchJob {name}, which ran, is gone, or no longer belongs to this schedule"),
            Event::UnexpectedJob(name) => {
                write!(f, "BatchJob {name} was not created by this schedule, but has it as its owner; it counts as active while it runs")
            }
            Event::JobAlreadyActive => f.write_str(
                "No BatchJob started: an earlier one is running, and `spec.concurrencyPolicy` is Forbid; it starts as soon as that one has ended",
            ),
            Event::MissSchedule(at) => {
                write!(f, "No BatchJob started for {at}: `spec.startingDeadlineSeconds` had passed")
            }
            Event::TooManyMissedTimes(missed) => write!(
                f,
                "{missed} starts were missed, and only the last one is made up for; set or decrease `spec.startingDeadlineSeconds`, or \
                 check the clock"
            ),
            Event::UnknownTimeZone(fault) | Event::UnparseableSchedule(fault) | Event::InvalidSchedule(fault) => f.write_str(fault),
        }
    }
}
