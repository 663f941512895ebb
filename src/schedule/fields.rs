//! The five fields of a schedule, read and stepped through as Kubernetes' CronJob does it. Its controller uses the Go library
//! github.com/robfig/cron, version 3: what is accepted here, and what a change of clocks does to a start, is that library's,
//! step by step. `tests/schedule/` compares the two.

use std::fmt;

use super::zone::{Clock, Zone};

/// Set in a field that names all of its values: a day then has to match both `day of the month` and `day of the week`,
/// where it otherwise has to match one of them.
const STAR: u64 = 1 << 63;
/// Years after which a schedule without a matching time is given up.
const YEARS: i16 = 5;

/// Sets of values, one bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

/// What a field may hold.
struct Bounds {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names of values, from the smallest on.
    names: &'static [&'static str],
    /// The values, for an error.
    described: &'static str,
}

const MINUTE: Bounds = Bounds { name: "minute", min: 0, max: 59, names: &[], described: "0 to 59" };
const HOUR: Bounds = Bounds { name: "hour", min: 0, max: 23, names: &[], described: "0 to 23" };
const DAY: Bounds = Bounds { name: "day of the month", min: 1, max: 31, names: &[], described: "1 to 31" };
const MONTH: Bounds = Bounds {
    name: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    described: "1 to 12, or JAN to DEC",
};
const WEEKDAY: Bounds = Bounds {
    name: "day of the week",
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    described: "0 (Sunday) to 6, or SUN to SAT",
};

impl Fields {
    /// Reads five fields, such as `30 2 * * MON-FRI`.
    ///
    /// # Errors
    /// Names the field, its value and the remedy.
    pub fn parse(schedule: &str) -> Result<Fields, String> {
        let fields: Vec<&str> = schedule.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!(
                "has {} fields instead of five; write `MINUTE HOUR DAY MONTH WEEKDAY`, such as `30 2 * * *` for 02:30 every day",
                fields.len()
            ));
        };
        Ok(Fields {
            minute: MINUTE.set(minute)?,
            hour: HOUR.set(hour)?,
            day: DAY.set(day)?,
            month: MONTH.set(month)?,
            weekday: WEEKDAY.set(weekday)?,
        })
    }

    /// Returns the first second after `after` that matches; None if none does in the next five years.
    pub fn next(&self, zone: &Zone, after: i64) -> Option<i64> {
        if self.minute == 0 || self.hour == 0 || self.month == 0 {
            return None;
        }
        let mut at = zone.at(after + 1)?;
        // Whether smaller units were set to their beginning.
        let mut aligned = false;
        let last_year = at.civil.year() + YEARS;
        'wrapped: loop {
            if at.civil.year() > last_year {
                return None;
            }
            while !has(self.month, at.civil.month()) {
                if !aligned {
                    aligned = true;
                    at = zone.on(at.civil.date().first_of_month(), 0, [0, 0, 0])?;
                }
                at = a_month_later(zone, at)?;
                if at.civil.month() == 1 {
                    continue 'wrapped;
                }
            }
            while !self.has_day(at) {
                if !aligned {
                    aligned = true;
                    at = zone.on(at.civil.date(), 0, [0, 0, 0])?;
                }
                // Where clocks skip a whole day, as in Apia in 2011, the next day's midnight is this one's.
                let next = zone.on(at.civil.date(), 1, time_of_day(at))?;
                at = if next.unix > at.unix { next } else { zone.at(at.unix + 86_400)? };
                // Clocks may have skipped midnight.
                let hour = i64::from(at.civil.hour());
                if hour != 0 {
                    let hours = if hour > 12 { 24 - hour } else { -hour };
                    at = zone.at(at.unix + hours * 3600)?;
                }
                if at.civil.day() == 1 {
                    continue 'wrapped;
                }
            }
            while !has(self.hour, at.civil.hour()) {
                if !aligned {
                    aligned = true;
                    at = zone.on(at.civil.date(), 0, [at.civil.hour(), 0, 0])?;
                }
                at = zone.at(at.unix + 3600)?;
                if at.civil.hour() == 0 {
                    continue 'wrapped;
                }
            }
            while !has(self.minute, at.civil.minute()) {
                if !aligned {
                    aligned = true;
                    at = zone.at(at.unix - at.unix.rem_euclid(60))?;
                }
                at = zone.at(at.unix + 60)?;
                if at.civil.minute() == 0 {
                    continue 'wrapped;
                }
            }
            while at.civil.second() != 0 {
                aligned = true;
                at = zone.at(at.unix + 1)?;
                if at.civil.second() == 0 {
                    continue 'wrapped;
                }
            }
            return Some(at.unix);
        }
    }

    fn has_day(&self, at: Clock) -> bool {
        let day = has(self.day, at.civil.day());
        let weekday = has(self.weekday, at.civil.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR != 0 { day && weekday } else { day || weekday }
    }
}

fn has(set: u64, value: i8) -> bool {
    set & (1 << value) != 0
}

fn time_of_day(at: Clock) -> [i8; 3] {
    [at.civil.hour(), at.civil.minute(), at.civil.second()]
}

/// Returns the beginning of the next month.
fn a_month_later(zone: &Zone, at: Clock) -> Option<Clock> {
    let next = at.civil.date().first_of_month().checked_add(jiff::Span::new().try_months(1).ok()?).ok()?;
    let first = zone.on(next, 0, [0, 0, 0])?;
    // Where clocks skip that midnight, as in Asunción in 1975, it would be the last evening of this month.
    if first.civil.month() == next.month() { Some(first) } else { zone.at(zone.midnight(next)?.as_second()) }
}

impl Bounds {
    /// Reads a field: ranges with commas between them.
    fn set(&self, field: &str) -> Result<u64, String> {
        field.split(',').filter(|range| !range.is_empty()).try_fold(0, |set, range| Ok(set | self.range(range)?))
    }

    /// Reads `*`, `?`, `N`, `N-M`, each with `/STEP` or without.
    fn range(&self, range: &str) -> Result<u64, String> {
        let (span, step) = range.split_once('/').map_or((range, None), |(span, step)| (span, Some(step)));
        let (first, last) = span.split_once('-').map_or((span, None), |(first, last)| (first, Some(last)));
        let all = ["*", "?"].contains(&first);
        let (low, high) = match (all, last) {
            (true, _) => (self.min, self.max),
            (false, Some(last)) => (self.value(range, first)?, self.value(range, last)?),
            (false, None) => {
                let value = self.value(range, first)?;
                // `5/10` is `5-59/10`.
                (value, if step.is_some() { self.max } else { value })
            }
        };
        let step_by = match step.map(number) {
            None => 1,
            Some(Some(0)) => return Err(self.fault(range, "has the step 0", "write a step of 1 or more")),
            Some(Some(step)) => step,
            Some(None) => return Err(self.fault(range, "has a step that is no number", "write a step such as `*/15`")),
        };
        let written = |what: &str| format!("write {} as {}", self.plural(), what);
        if low < self.min {
            return Err(self.fault(range, format!("is below {}", self.min), &written(self.described)));
        }
        if high > self.max {
            return Err(self.fault(range, format!("is above {}", self.max), &written(self.described)));
        }
        if low > high {
            return Err(self.fault(
                range,
                "ends before it begins",
                &format!("write two ranges, such as `{first}-{},{}-{}`", self.max, self.min, last.unwrap_or_default()),
            ));
        }
        let star = if all && step_by == 1 { STAR } else { 0 };
        Ok((low..=high).step_by(step_by as usize).fold(star, |set, value| set | 1 << value))
    }

    /// Reads a number or a name.
    fn value(&self, range: &str, text: &str) -> Result<u32, String> {
        if let Some(at) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.min + at as u32);
        }
        number(text).ok_or_else(|| {
            self.fault(
                range,
                "is neither a number nor a name",
                &format!("write {} as {}", self.plural(), self.described),
            )
        })
    }

    fn plural(&self) -> String {
        match self.name.split_once(' ') {
            Some((noun, rest)) => format!("{noun}s {rest}"),
            None => format!("{}s", self.name),
        }
    }

    fn fault(&self, range: &str, fault: impl fmt::Display, remedy: &str) -> String {
        format!("has the {} {}, which {fault}; {remedy}", self.name, super::shown(range))
    }
}

/// Reads a number as Go's `strconv.Atoi` does, plus sign included; None if it is none, or negative. One that is larger than any
/// field's is as good as any other such one.
fn number(text: &str) -> Option<u32> {
    let number: i64 = text.parse().ok()?;
    (number >= 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}
