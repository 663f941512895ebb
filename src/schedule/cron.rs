//! The starts of a CronBatchJob: the first one after an instant, and those that were missed.

use jiff::{SignedDuration, Timestamp};

use super::fields::Fields;
use super::zone::Zone;
use super::{ScheduleError, every, shown};

/// Most starts that may be missed before the controller warns of them.
const MANY_MISSED: i64 = 100;
/// Shortest distance between two starts, in seconds: a child's name counts minutes.
const SHORTEST: i64 = 60;

/// `spec.schedule` in its time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    when: When,
    zone: Zone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    Fields(Fields),
    /// Seconds between two starts. They are counted from the last start, and not on anybody's clock.
    Every(i64),
}

/// The starts up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueStarts {
    /// The instant after which starts were looked for: the last start, or the creation of the object, or the beginning of
    /// `startingDeadlineSeconds`.
    pub since: Timestamp,
    /// The latest start up to now; None if none is due.
    pub latest: Option<Timestamp>,
    /// The number of starts since then if it is more than one, which means that some were missed; else 0. It is an estimate, as
    /// the controller of CronJobs makes it: the time divided by the distance of the first two starts.
    pub missed: i64,
}

impl DueStarts {
    /// Whether so many starts were missed that a clock or the schedule is most likely wrong.
    pub fn too_many_missed(&self) -> bool {
        self.missed > MANY_MISSED
    }
}

/// The fault of a schedule that no date matches, such as `0 0 31 2 *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no date in the next five years matches; correct the day of the month or the month")]
pub struct NoStart;

impl Schedule {
    /// Reads `spec.schedule` and `spec.timeZone`; without a zone, UTC.
    ///
    /// # Errors
    /// Names the field, the part of it, its value and the remedy.
    pub fn parse(schedule: &str, time_zone: Option<&str>) -> Result<Schedule, ScheduleError> {
        let zone = time_zone.map_or_else(|| Ok(Zone::utc()), Zone::named)?;
        let when = When::parse(schedule)
            .map_err(|fault| ScheduleError::Unparseable(format!("is {}: it {fault}", shown(schedule))))?;
        Ok(Schedule { when, zone })
    }

    /// Returns the time zone.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Whether starts are at dates and times of day, and not at distances from the last one, as those of `@every` are.
    pub fn is_on_dates(&self) -> bool {
        matches!(self.when, When::Fields(_))
    }

    /// Returns the first start after an instant, on a whole second; None if no date matches in the next five years.
    ///
    /// Where clocks go forward, starts at times that they skip are left out; where they go back, a start at a time that they
    /// show twice takes place twice.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.as_nanosecond().div_euclid(1_000_000_000) as i64;
        let next = match &self.when {
            When::Fields(fields) => fields.next(&self.zone, after)?,
            When::Every(seconds) => after.checked_add(*seconds)?,
        };
        Timestamp::from_second(next).ok()
    }

    /// Returns the starts up to `now` after `last`, which is the last start or the creation of the object, and after the
    /// beginning of `deadline` seconds.
    ///
    /// # Errors
    /// The schedule has no start.
    pub fn due(&self, last: Timestamp, deadline: Option<i64>, now: Timestamp) -> Result<DueStarts, NoStart> {
        let limit = deadline.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        if let (When::Every(_), Some(limit)) = (&self.when, limit) {
            // The distance is counted from the last start: counted from the limit, as the controller of CronJobs has it, one that
            // is longer than the deadline is never over.
            let due = self.after(last, now)?;
            return Ok(DueStarts { latest: due.latest.filter(|latest| *latest > limit), ..due });
        }
        self.after(limit.map_or(last, |limit| last.max(limit)), now)
    }

    fn after(&self, since: Timestamp, now: Timestamp) -> Result<DueStarts, NoStart> {
        let first = self.next(since).ok_or(NoStart)?;
        if now < first {
            return Ok(DueStarts { since, latest: None, missed: 0 });
        }
        let second = self.next(first).ok_or(NoStart)?;
        if now < second {
            return Ok(DueStarts { since, latest: Some(first), missed: 0 });
        }
        let distance = second.as_second() - first.as_second();
        if distance < 1 {
            return Err(NoStart);
        }
        let missed = now.duration_since(first).as_secs() / distance + 1;
        // Close to now, at a multiple of the distance for the sake of `@every`.
        let close =
            first.checked_add(SignedDuration::from_secs((missed - 2).saturating_mul(distance))).unwrap_or(first);
        let latest = self.latest(close, now).or_else(|| self.latest(self.last_before(since, now), now));
        Ok(DueStarts { since, latest, missed })
    }

    /// Returns the last start after `from` up to `now`, stepping from start to start.
    fn latest(&self, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let starts = std::iter::successors(self.next(from), |start| self.next(*start));
        starts.take_while(|start| *start <= now).last()
    }

    /// Returns an instant just before the last start up to `now`, where one comes after `since`. Starts may be unevenly
    /// spread, as those of `0 6-18/4 * * MON-FRI`: on a Sunday the last one is further back than two of their distances,
    /// where the controller of CronJobs loses it.
    fn last_before(&self, since: Timestamp, now: Timestamp) -> Timestamp {
        let (mut before, mut after) = (since.as_second(), now.as_second());
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            let next = Timestamp::from_second(middle).ok().and_then(|middle| self.next(middle));
            if next.is_some_and(|next| next <= now) {
                before = middle;
            } else {
                after = middle;
            }
        }
        Timestamp::from_second(before).unwrap_or(since)
    }
}

impl When {
    fn parse(schedule: &str) -> Result<When, String> {
        if schedule.contains("TZ") {
            return Err("names a time zone; write that into `spec.timeZone`, and take `TZ=` or `CRON_TZ=` out".into());
        }
        if !schedule.starts_with('@') {
            return Fields::parse(schedule).map(When::Fields);
        }
        if let Some(duration) = schedule.strip_prefix("@every ") {
            return match every::seconds(duration) {
                Some(seconds) if seconds >= SHORTEST => Ok(When::Every(seconds)),
                Some(_) => Err("starts more often than once a minute; write `@every 1m` or more".into()),
                None => Err("has a duration that cannot be read; write hours, minutes and seconds, such as `@every 90m` or `@every 1h30m`".into()),
            };
        }
        let fields = match schedule {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => {
                return Err(
                    "is no name of a schedule; there are `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, \
                     `@annually` and `@every DURATION`"
                        .into(),
                );
            }
        };
        Fields::parse(fields).map(When::Fields)
    }
}

#[cfg(test)]
mod tests;
