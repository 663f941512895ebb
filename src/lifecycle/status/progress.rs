//! Progress in status: the text for people, and the time of the last progress.

use super::batches::{done, earlier, is_in_flight};
use crate::api::{BatchJobStatus, BatchStatus, Display, RequestCounts};
use crate::lifecycle::journal::Journal;
use crate::lifecycle::observed::Observed;

/// Puts the progress of a job that runs into status, which has its counts and batches already.
pub(super) fn show(status: &mut BatchJobStatus, o: &Observed, journal: &Journal, old: &BatchJobStatus) {
    let counts = status.requests.unwrap_or_default();
    let (before, done) = (done_before(old, &journal.work_id, counts.total), requests_done(o, journal));
    let done = done.max(before).clamp(0, counts.total.max(0));
    status.display = Some(Display { progress: text(done, counts), ..Display::default() });
    let is_news = done > before || status.batches.iter().any(|batch| is_progress(old, batch));
    let kept = old.last_progress_time.clone().filter(|_| !is_news);
    let is_submitted = journal.shards.totals().submitted > 0;
    status.last_progress_time = kept.or_else(|| super::time(o.now)).filter(|_| is_submitted);
}

/// Returns whether a batch shows progress over an earlier status: it was submitted, a request of it is done, or it ended.
fn is_progress(old: &BatchJobStatus, batch: &BatchStatus) -> bool {
    let Some(before) = earlier(old, batch) else { return batch.provider_id.is_some() };
    batch.done > before.done || is_in_flight(before) && !is_in_flight(batch)
}

/// Returns the number of requests that ended, or that the provider counts as done.
fn requests_done(o: &Observed, journal: &Journal) -> i64 {
    let open = journal.shards.iter().filter(|shard| shard.settled().is_none());
    let of = open.map(|shard| shard.done(shard.requests - done(o, shard).unwrap_or(0)));
    journal.shards.totals().done + of.sum::<i64>()
}

/// Returns the number of done requests that status shows for the same work; zero if it shows none. Progress never falls below
/// it: requests that are sent again were done once, and a restarted operator may not have asked the provider yet.
fn done_before(old: &BatchJobStatus, work_id: &str, total: i64) -> i64 {
    let said = old.display.as_ref().filter(|_| old.work.as_ref().is_some_and(|w| w.id == work_id));
    let counts = said.and_then(|said| said.progress.split_once(' ')?.0.split_once('/'));
    let done = counts.filter(|(_, of)| *of == total.to_string()).and_then(|(done, _)| done.parse().ok());
    done.unwrap_or(0)
}

/// Returns the text of the column PROGRESS, such as `8157/10000 (81%)`.
pub(super) fn text(done: i64, RequestCounts { total, reused, .. }: RequestCounts) -> String {
    let progress = format!("{done}/{total} ({}%)", if total > 0 { done * 100 / total } else { 100 });
    if reused > 0 { format!("{progress}, {reused} reused") } else { progress }
}
