//! The time at which a job is expected to have its last batch ended, in status.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::batches::is_in_flight;
use crate::api::conditions::reasons;
use crate::api::{BatchJobStatus, BatchStatus, CanaryApproval};
use crate::lifecycle::Turnaround;
use crate::lifecycle::attempt::AttemptState;
use crate::lifecycle::eta::{OpenBatches, seconds_left, turnaround_of};
use crate::lifecycle::findings::PolledState;
use crate::lifecycle::follow::{look, recorded_at};
use crate::lifecycle::journal::Journal;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::shard::Shard;
use crate::lifecycle::step::Waiting;

/// Percentage of the time that is left by which an estimate may be wrong before another one is written.
const CLOSE: i64 = 20;
const MINUTE: i64 = 60_000;
/// Most names of models of a plan that are looked up: a journal is its user's to write.
const MODELS: usize = 256;
/// Most minutes from now of an estimate: ten years.
const FARTHEST: i64 = 10 * 366 * 24 * 60;

/// Puts the estimate for a job that waits into status. An earlier one stays while it is close, so that a poll that shows nothing
/// new writes nothing.
pub(super) fn show(status: &mut BatchJobStatus, o: &Observed, old: &BatchJobStatus, why: &Waiting) {
    let journal = o.journal.filter(|journal| journal.owner == o.job.owner && !journal.is_abandoned());
    let running = journal.map_or(0, |journal| journal.shards.iter().filter(|shard| runs(o, shard)).count());
    let at = journal.filter(|_| running > 0 && why.holds.is_empty()).and_then(|journal| {
        let is_same = names_in_flight(&old.batches).eq(names_in_flight(&status.batches));
        let earlier = old.estimated_completion_time.as_ref().map(|at| at.0.as_millisecond());
        let earlier = earlier.filter(|at| is_same && *at > o.now);
        let at = open_batches(o, journal, why).and_then(|open| seconds_left(&open)).map(|left| minute(o.now, left));
        let is_close = |(earlier, at): (i64, i64)| (at - earlier).abs().saturating_mul(100) < (at - o.now) * CLOSE;
        earlier.filter(|earlier| at.is_none_or(|at| is_close((*earlier, at)))).or(at)
    });
    status.estimated_completion_time = at.and_then(super::time);
    if let Some(display) = &mut status.display {
        display.eta = match at {
            _ if running == 0 => String::new(),
            Some(at) => Timestamp::from_millisecond(at).unwrap_or_default().strftime("%b %d %H:%M UTC").to_string(),
            None => "unknown".into(),
        };
    }
}

/// Returns the end of the minute that is so many seconds from `now` (Unix milliseconds).
fn minute(now: i64, left: f64) -> i64 {
    let minutes = (left / 60.0).clamp(0.0, FARTHEST as f64);
    let at = now.saturating_add((minutes * MINUTE as f64) as i64);
    (at.div_euclid(MINUTE) + 1).saturating_mul(MINUTE)
}

fn names_in_flight(batches: &[BatchStatus]) -> impl Iterator<Item = &str> {
    batches.iter().filter(|batch| is_in_flight(batch)).map(|batch| batch.name.as_str())
}

/// Returns whether a batch of the shard may exist and was not seen to end.
fn runs(o: &Observed, shard: &Shard) -> bool {
    let seen = shard.attempt.as_ref().and_then(|attempt| look(o, attempt)).map(|look| &look.seen);
    shard.is_live() && matches!(seen, None | Some(PolledState::Running { .. }))
}

/// Returns the batches that have not ended, with the experience of the account. None if there is too little of it, or if batches
/// wait for a person.
fn open_batches(o: &Observed, journal: &Journal, why: &Waiting) -> Option<OpenBatches> {
    let known = &o.job.provider.as_ref()?.models;
    let mut by_model: BTreeMap<&str, Option<Turnaround>> = BTreeMap::new();
    let mut running = vec![];
    for shard in journal.shards.iter().filter(|shard| runs(o, shard)) {
        let of = by_model.entry(&shard.model).or_insert_with(|| turnaround_of(known, &shard.model));
        let attempt = shard.attempt.as_ref()?;
        let elapsed = match attempt.state {
            AttemptState::Submitted { .. } => o.now.saturating_sub(recorded_at(attempt)).max(0) as f64 / 1_000.0,
            _ => 0.0,
        };
        running.push((of.clone()?, elapsed));
    }
    let totals = journal.shards.totals();
    let live = journal.shards.iter().filter(|shard| shard.is_live()).count();
    let unsent = journal.shards.len().saturating_sub(totals.settled).saturating_sub(live);
    let waiting = if o.job.stop.is_some() { 0 } else { unsent };
    let mut like_waiting = Turnaround::default();
    if waiting > 0 {
        let awaits_approval = journal.unapproved_canary().is_some() && o.job.canary == Some(CanaryApproval::Manual);
        if o.job.suspend || why.blocked.is_some() || awaits_approval {
            return None;
        }
        let planned = journal.plan.iter().flat_map(|plan| &plan.models).map(|model| model.name.as_str());
        let resident = journal.shards.iter().filter(|shard| shard.settled().is_none()).map(|s| s.model.as_str());
        for model in planned.chain(resident).take(MODELS) {
            by_model.entry(model).or_insert_with(|| turnaround_of(known, model));
        }
        for of in by_model.into_values() {
            like_waiting.merge(&of?);
        }
    }
    // The account or the budget has room for no more than runs.
    let is_full = [reasons::WAITING_FOR_QUOTA, reasons::WAITING_FOR_BUDGET].contains(&why.stage);
    let parallelism = if is_full { running.len() } else { o.job.parallelism };
    Some(OpenBatches { running, waiting, like_waiting, parallelism })
}
