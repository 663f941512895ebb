//! Changes of a ledger: those that come together share one conditional write.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jiff::civil::Date;
use tokio::sync::oneshot;

use super::config_map::{LedgerMap, Stored};
use super::lock;
use crate::controller::runtime::error::StepError;
use crate::money::{Billed, Budget, Ledger, Reservation, Unbilled, Unreserved};

/// Most tries of a write that others interrupt.
const TRIES: u32 = 8;
/// Most entries of a ledger that is kept in memory between two writes.
const KEPT_ENTRIES: usize = 500;

/// A change of a ledger; see the methods of [`Ledger`].
#[derive(Clone)]
pub(super) enum Change {
    Reserve { key: String, wanted: Reservation, replaces: Option<u64>, budgets: Vec<Budget> },
    Settle { key: String, rev: u64, billed: Option<Box<Billed>> },
    Release { work_id: String, rev: u64, unbilled: Unbilled },
    SettleLater { work_id: String, rev: u64 },
    Sweep { gone: Arc<HashSet<String>> },
}

fn apply(ledger: &mut Ledger, change: &Change, today: Date) -> Answer {
    match change {
        Change::Reserve { key, wanted, replaces, budgets } => {
            ledger.reserve(key, wanted.clone(), *replaces, budgets).map(|()| true)
        }
        Change::Settle { key, rev, billed } => Ok(ledger.settle(key, *rev, billed.as_deref(), today)),
        Change::Release { work_id, rev, unbilled } => Ok(ledger.release(work_id, *rev, unbilled, today)),
        Change::SettleLater { work_id, rev } => Ok(ledger.settle_later(work_id, *rev, today)),
        Change::Sweep { gone } => Ok(ledger.sweep(|open| gone.contains(&open.job_uid), today) > 0),
    }
}

/// The answer of the ledger to a change: whether something changed.
pub(super) type Answer = Result<bool, Unreserved>;

/// The outcome of a write of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Whether budgets may have more room than before.
    pub freed: bool,
}

/// The changes of one ledger that are to be made.
#[derive(Default)]
pub(super) struct Changes {
    queue: Mutex<Vec<Pending>>,
    /// The ledger as it was last read or written; locked by the one who writes.
    kept: tokio::sync::Mutex<Option<Stored>>,
}

struct Pending {
    change: Change,
    done: oneshot::Sender<Answer>,
}

impl Changes {
    /// Makes one change, and those that others asked for meanwhile. Returns its answer, and what was written if this call wrote.
    ///
    /// # Errors
    /// If it is unknown whether the change was made.
    pub async fn make(&self, map: &LedgerMap<'_>, change: Change) -> Result<(Answer, Option<Written>), StepError> {
        loop {
            let (done, mut answer) = oneshot::channel();
            lock(&self.queue).push(Pending { change: change.clone(), done });
            let mut kept = self.kept.lock().await;
            match answer.try_recv() {
                // Another call wrote it with its own.
                Ok(answer) => return Ok((answer, None)),
                // Another call was about to, and failed or was dropped.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let group = std::mem::take(&mut *lock(&self.queue));
            let (answers, written) = write_group(map, &mut kept, &group).await?;
            for (pending, answer) in group.into_iter().zip(answers) {
                // Nobody waits for it any more if its job ended.
                let _ = pending.done.send(answer);
            }
            if let Ok(answer) = answer.try_recv() {
                return Ok((answer, written));
            }
        }
    }
}

/// Applies the changes to the ledger in one conditional write.
async fn write_group(
    map: &LedgerMap<'_>,
    kept: &mut Option<Stored>,
    group: &[Pending],
) -> Result<(Vec<Answer>, Option<Written>), StepError> {
    for _ in 0..TRIES {
        let (read, is_fresh) = match kept.take() {
            Some(read) => (read, false),
            None => (map.read().await?, true),
        };
        let mut ledger = read.ledger.clone();
        let answers: Vec<_> = group.iter().map(|pending| apply(&mut ledger, &pending.change, map.today)).collect();
        // What is reserved is proved by a write, even of what was there.
        let writes = answers.contains(&Ok(true));
        if !writes && (is_fresh || group.iter().all(|pending| matches!(pending.change, Change::Release { .. }))) {
            keep(kept, read);
            return Ok((answers, None));
        }
        // Without a write, only what is there now says that a batch was settled before, or that a budget does not suffice.
        if !writes {
            continue;
        }
        if let Some(version) = map.write(read.version.as_deref(), &ledger).await? {
            keep(kept, Stored { ledger, version: Some(version) });
            let mut made = group.iter().zip(&answers).filter(|(_, answer)| **answer == Ok(true));
            let freed = made.any(|(pending, _)| !matches!(pending.change, Change::Reserve { .. }));
            return Ok((answers, Some(Written { freed })));
        }
    }
    Err(map.is_contended())
}

fn keep(kept: &mut Option<Stored>, now: Stored) {
    let entries = now.ledger.open.len() + now.ledger.spent.len();
    *kept = (entries <= KEPT_ENTRIES).then_some(now);
}

#[cfg(test)]
mod tests;
