//! The BatchJobs of a CronBatchJob for given dates, from its manifest and without a cluster.

use jiff::civil::{Date, DateTime};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Schedule, child};
use crate::api::{CronBatchJobObject, GROUP};

/// Most BatchJobs that are written at a time.
const LIMIT: usize = 1000;

/// The starts whose BatchJobs are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// Those of the days from the first to the last date, in the time zone of the schedule.
    Days(Date, Date),
    /// The one at a time of day, in the time zone of the schedule.
    Civil(DateTime),
    /// The one at an instant.
    Exactly(Timestamp),
}

/// Reads a date (`2026-11-21`), a time of day in the time zone of the schedule (`2026-11-21T02:30`), or an instant
/// (`2026-11-21T01:30:00Z`).
impl std::str::FromStr for Starts {
    type Err = String;

    fn from_str(text: &str) -> Result<Starts, String> {
        if let Ok(instant) = text.parse() {
            return Ok(Starts::Exactly(instant));
        }
        if !text.contains('T')
            && let Ok(date) = text.parse()
        {
            return Ok(Starts::Days(date, date));
        }
        let civil = text.parse().map(Starts::Civil);
        civil.map_err(|_| {
            "write a date such as 2026-11-21, or a time such as 2026-11-21T02:30 or 2026-11-21T01:30:00Z".into()
        })
    }
}

/// Returns the CronBatchJob of a manifest, which may hold other objects besides.
///
/// # Errors
/// The manifest is no YAML, or has no CronBatchJob or more than one, or one with a fault, which the error names.
pub fn read(manifest: &str) -> Result<CronBatchJobObject, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(manifest).map_err(|error| format!("it is no YAML: {error}"))?;
    let is_ours = |document: &&Value| {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        document["kind"] == "CronBatchJob" && version.split('/').next() == Some(GROUP)
    };
    let [cron] = documents.iter().filter(is_ours).collect::<Vec<_>>()[..] else {
        let count = documents.iter().filter(is_ours).count();
        return Err(format!(
            "it has {count} objects of `kind: CronBatchJob` and `apiVersion: {GROUP}/…`; it needs one"
        ));
    };
    let read: CronBatchJobObject =
        serde_json::from_str(&cron.to_string()).map_err(|error| format!("its CronBatchJob cannot be read: {error}"))?;
    let known = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    match unknown(&cron["spec"], &known["spec"], "spec") {
        Some(field) => Err(format!("its CronBatchJob has the field `{field}`, which is not known; correct its name")),
        None => Ok(read),
    }
}

/// Returns the first field of a manifest that was not read, as the API server would tell of it.
fn unknown(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(fields), _) => fields.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match read.get(name) {
                Some(read) => unknown(value, read, &path),
                // What is empty is not kept.
                None => (!matches!(value.to_string().as_str(), "null" | "{}" | "[]")).then_some(path),
            }
        }),
        (Value::Array(items), Value::Array(read)) => {
            let mut pairs = items.iter().zip(read).enumerate();
            pairs.find_map(|(i, (item, read))| unknown(item, read, &format!("{path}[{i}]")))
        }
        _ => None,
    }
}

/// Returns the BatchJobs that the operator would create for some starts, as YAML for `kubectl create -f -`.
///
/// They have no owner: they are deleted neither with the CronBatchJob nor for its history limits.
///
/// # Errors
/// Names the fault of the schedule or of the template, or says that there is no such start and which one is next.
pub fn render(mut cron: CronBatchJobObject, starts: Starts) -> Result<String, String> {
    let schedule =
        Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref()).map_err(|error| error.to_string())?;
    cron.metadata.uid = None;
    let mut yaml = String::new();
    for start in times(&schedule, starts)? {
        let child = child(&cron, schedule.zone(), start).map_err(|error| error.to_string())?;
        // Through a tree, since YAML does not know text that is JSON already.
        let tree = serde_json::to_value(&child).map_err(|error| error.to_string())?;
        yaml.push_str("---\n");
        yaml.push_str(&serde_saphyr::to_string(&tree).map_err(|error| error.to_string())?);
    }
    Ok(yaml)
}

fn times(schedule: &Schedule, starts: Starts) -> Result<Vec<Timestamp>, String> {
    let out_of_range = || "it is out of range; take a year from 1 to 9998".to_string();
    let (from, to) = match starts {
        Starts::Days(first, last) if last < first => return Err(format!("there are no days from {first} to {last}")),
        Starts::Days(_, _) if !schedule.is_on_dates() => {
            return Err("`@every` counts from the last start, not from a date; name the time of a start, such as 2026-11-21T02:30".into());
        }
        Starts::Days(first, last) => {
            let end = last.tomorrow().ok().and_then(|day| schedule.zone().midnight(day));
            (schedule.zone().midnight(first).ok_or_else(out_of_range)?, end.ok_or_else(out_of_range)?)
        }
        Starts::Civil(time) => {
            let at = schedule.zone().instant(time)?;
            (at, at + SignedDuration::from_secs(1))
        }
        Starts::Exactly(at) => (at, at + SignedDuration::from_secs(1)),
    };
    if !schedule.is_on_dates() {
        return Ok(vec![from]);
    }
    let first = schedule.next(from - SignedDuration::from_nanos(1));
    let found = std::iter::successors(first, |start| schedule.next(*start)).take_while(|start| *start < to);
    let found: Vec<Timestamp> = found.take(LIMIT + 1).collect();
    match (found.len(), first) {
        (0, None) => Err("the schedule has no start in the five years from then".into()),
        (0, Some(next)) => {
            Err(format!("the schedule has no start then; the next one is at {}", schedule.zone().rfc3339(next)))
        }
        (n, _) if n > LIMIT => Err(format!("there are more than {LIMIT} starts; name fewer days")),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests;
