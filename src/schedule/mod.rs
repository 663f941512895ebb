//! Schedules of CronBatchJobs: the times of starts, the start that is due, and the BatchJob that it creates. Pure: no clock, no
//! I/O, no async.

mod child;
mod cron;
mod decide;
mod event;
mod every;
mod fields;
mod render;
mod scheduled_time;
mod zone;

pub use child::{NAME_LIMIT, TemplateError, child, child_name};
pub use cron::{DueStarts, NoStart, Schedule};
pub use decide::{Child, Decision, End, Observed, SkippedStart, Start, decide, history};
pub use event::Event;
pub use render::{Starts, read, render};
pub use scheduled_time::ScheduledTime;
pub use zone::Zone;

/// Most bytes of a value that an error repeats.
const SHOWN: usize = 100;

/// A schedule that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// `spec.schedule` is no schedule.
    #[error("`spec.schedule` {0}")]
    Unparseable(String),
    /// `spec.timeZone` is no time zone.
    #[error("`spec.timeZone` {0}")]
    UnknownTimeZone(String),
}

/// Returns a value as an error repeats it.
fn shown(value: &str) -> String {
    match value.len() <= SHOWN && !value.contains(char::is_control) {
        true => format!("`{value}`"),
        false => format!("(a text of {} bytes)", value.len()),
    }
}
