//! `$(scheduledTime)` in the template of a CronBatchJob: the time of a start, in a format and with an offset.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use super::{Zone, shown};

const NAME: &str = "scheduledTime";
/// Conversions of a format, of those of `strftime`.
const CONVERSIONS: &str = "YmdHMSjGVs%";
const FORMAT_REMEDY: &str = "write one of `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%j` (day of the year), `%G` and `%V` (ISO year and week), `%s` \
                             (seconds since 1970) and `%%`";
const OFFSET_REMEDY: &str =
    "write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`";
/// Characters of a format besides letters, digits and `%`.
const PLAIN: &str = " -._/:,=+@~";

/// The time that a child was to start at, which is not the time at which it is created.
#[derive(Clone, Copy, Debug)]
pub struct ScheduledTime<'a> {
    /// The instant.
    pub at: Timestamp,
    /// Zone of the schedule, whose date and time of day formats show.
    pub zone: &'a Zone,
}

/// The variables and escapes of a text beside `$(scheduledTime)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Text of no other variables, such as the URI of an input: `$$(` is a literal `$(`.
    Plain,
    /// URI of an output, which has variables of its own.
    OutputUri,
    /// Template of requests: its variables and `$$(` are for the BatchJob.
    Template,
    /// Content for the model, in which `$(` is most likely a shell's: all but `$(scheduledTime` is left as it is written, and
    /// `$$(scheduledTime` is a literal `$(scheduledTime`.
    Content,
}

impl Text {
    /// Whether the BatchJob reads a variable itself.
    fn is_for_the_child(self, variable: &str) -> bool {
        match self {
            Text::Plain => false,
            Text::OutputUri => ["namespace", "name", "runID"].contains(&variable),
            Text::Template | Text::Content => true,
        }
    }

    /// Returns the error of a variable. Content of requests is repeated to nobody.
    fn fault(self, variable: &str, fault: &str) -> String {
        match self {
            Text::Plain | Text::OutputUri => format!("has the variable {} {fault}", shown(&format!("$({variable})"))),
            Text::Template | Text::Content => format!(
                "has a variable `$({NAME}:…)` that cannot be read; write a format such as `$({NAME}:%Y-%m-%d)`, and an offset such as \
                 `$({NAME}:%Y-%m-%d:-1d)`"
            ),
        }
    }

    /// Whether `$$(` loses its first `$`.
    fn unescapes(self, rest: &str) -> bool {
        match self {
            Text::Plain => true,
            Text::OutputUri | Text::Template => false,
            Text::Content => rest.starts_with(NAME),
        }
    }
}

impl ScheduledTime<'_> {
    /// Returns the time as RFC 3339 has it, in the zone of the schedule: `2026-11-21T02:30:00+01:00`. It is what
    /// `$(scheduledTime)` stands for.
    pub fn rfc3339(&self) -> String {
        self.zone.rfc3339(self.at)
    }

    /// Returns the `runID` of a child whose template names none: `20261121T013000Z`, in UTC, so that no two starts share it.
    pub fn run_id(&self) -> String {
        self.at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    /// Returns a text with its `$(scheduledTime…)` replaced.
    ///
    /// # Errors
    /// Names the variable, its fault and the remedy; the field is for the caller to name.
    pub(super) fn expand(&self, text: &str, kind: Text) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(start) = rest.find("$(") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                if kind == Text::OutputUri {
                    return Err("has `$$(`, for which the URI of an output has no escape; leave it out".into());
                }
                out.push_str(before);
                out.push_str(if kind.unescapes(after) { "$(" } else { "$$(" });
                rest = after;
                continue;
            }
            out.push_str(before);
            let inside = after.split_once(')');
            let variable = inside.map_or(after, |(variable, _)| variable);
            match (variable.strip_prefix(NAME), inside) {
                (Some(rest), Some((_, _))) if rest.is_empty() || rest.starts_with(':') => {
                    let value = self.value(rest.strip_prefix(':'));
                    out.push_str(&value.map_err(|fault| kind.fault(variable, &fault))?);
                }
                (Some(_), None) => return Err(format!("has a `$({NAME}` without its `)`; write `$({NAME})`")),
                (_, Some(_)) if kind.is_for_the_child(variable) => {
                    out.push_str("$(");
                    out.push_str(variable);
                    out.push(')');
                }
                (_, None) if kind.is_for_the_child("") => {
                    out.push_str("$(");
                    rest = after;
                    continue;
                }
                _ => return Err(unknown(kind, variable)),
            }
            rest = inside.map_or("", |(_, rest)| rest);
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Returns the value of a variable with this behind its name and colon: `FORMAT`, `FORMAT:OFFSET` or `OFFSET`.
    fn value(&self, written: Option<&str>) -> Result<String, String> {
        let (format, offset) = match written {
            None => (None, None),
            Some(offset) if is_offset(offset) => (None, Some(offset)),
            Some(written) => match written.rsplit_once(':').filter(|(_, offset)| is_offset(offset)) {
                Some((format, offset)) => (Some(format), Some(offset)),
                None => (Some(written), None),
            },
        };
        let time = self.at.to_zoned(self.zone.time_zone().clone());
        let time = offset.map_or_else(|| Ok(time.clone()), |offset| moved(&time, offset))?;
        match format {
            None => Ok(self.zone.rfc3339(time.timestamp())),
            Some(format) => {
                check_format(format)?;
                Ok(time.strftime(format).to_string())
            }
        }
    }
}

/// Whether a part of a variable is meant as an offset: `-1d`, or `1d`, which lacks its sign.
fn is_offset(part: &str) -> bool {
    let unsigned = part.trim_end_matches(['s', 'm', 'h', 'd', 'w']);
    let lacks_sign = unsigned.len() + 1 == part.len() && !unsigned.is_empty();
    part.starts_with(['+', '-']) || (lacks_sign && unsigned.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_format(format: &str) -> Result<(), String> {
    if format.is_empty() {
        return Err(format!("with an empty format; leave the colon out, or {FORMAT_REMEDY}"));
    }
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some(conversion) if CONVERSIONS.contains(conversion) => {}
                Some(other) => {
                    return Err(format!(
                        "with the conversion {}, which is not known; {FORMAT_REMEDY}",
                        shown(&format!("%{other}"))
                    ));
                }
                None => return Err(format!("with a `%` at its end; {FORMAT_REMEDY}")),
            },
            c if c.is_ascii_alphanumeric() || PLAIN.contains(c) => {}
            c => {
                return Err(format!(
                    "with {} in its format; take letters, digits, spaces and `-._/:,=+@~` between the conversions",
                    shown(&c.to_string())
                ));
            }
        }
    }
    Ok(())
}

/// Returns a time moved by an offset. Days and weeks are the calendar's, whose days may have 23 or 25 hours.
fn moved(time: &Zoned, offset: &str) -> Result<Zoned, String> {
    let fault = || format!("with the offset {}, which cannot be read; {OFFSET_REMEDY}", shown(offset));
    let is_signed = offset.starts_with(['+', '-']) && offset.len() > 2;
    let unit = offset.chars().last().filter(|unit| unit.is_ascii() && is_signed).ok_or_else(fault)?;
    let digits = &offset[1..offset.len() - 1];
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fault());
    }
    let number: i64 = offset[..offset.len() - 1].parse().map_err(|_| fault())?;
    let span = Span::new();
    let span = match unit {
        's' => span.try_seconds(number),
        'm' => span.try_minutes(number),
        'h' => span.try_hours(number),
        'd' => span.try_days(number),
        'w' => span.try_weeks(number),
        _ => return Err(fault()),
    };
    span.and_then(|span| time.checked_add(span)).map_err(|_| fault())
}

fn unknown(kind: Text, variable: &str) -> String {
    let known = match kind {
        Text::OutputUri => format!("`$({NAME})`, `$(namespace)`, `$(name)` and `$(runID)` are known"),
        _ => format!("`$({NAME})` is known, and `$$(` is a literal `$(`"),
    };
    format!("has the variable {}; {known}", shown(&format!("$({variable})")))
}

#[cfg(test)]
mod tests;
