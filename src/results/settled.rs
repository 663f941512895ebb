//! Shards at their end, as a join takes them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::{Sorted, Sorter, StoreError};

/// One shard at its end.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Settled {
    /// SHA-256 of what was sent.
    pub sha256: String,
    /// Names its index.
    pub index: String,
    /// Index of its first request.
    pub first: i64,
    /// The model that all of its requests ask for.
    pub model: String,
    /// 0 for the input's own shards; later rounds hold what earlier ones left without an answer.
    pub round: u32,
    /// What came back; None where it was never executed or given up.
    pub part: Option<Part>,
    /// Whether a person gave its answers up: its requests are not sent again.
    pub given_up: bool,
    /// Code and message of requests that no part speaks of.
    pub absent: (Cow<'static, str>, String),
}

impl Settled {
    /// Takes settled shards in any order for a join, which has them by round and model, each of these in the order of its requests.
    pub fn sorter(spool: &Path) -> Sorter<Settled> {
        Sorter::new(spool, Settled::order)
    }

    fn order(&self, other: &Settled) -> Ordering {
        self.lane().cmp(&other.lane()).then(self.first.cmp(&other.first))
    }

    /// Round and model.
    pub(super) fn lane(&self) -> (u32, &str) {
        (self.round, &self.model)
    }
}

/// What came back of a shard.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Part {
    /// Object name.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

/// Shards of one round and model that were not opened yet, in order. One of them is held.
pub(super) struct Waiting {
    /// It, and those behind it, maybe of other rounds and models.
    pub next: Option<Settled>,
    others: Sorted<Settled>,
    /// Whether those are left out of which nothing came back.
    of_parts: bool,
}

impl Waiting {
    pub fn new(first: Settled, others: Sorted<Settled>, of_parts: bool) -> Result<Waiting, StoreError> {
        let mut waiting = Waiting { next: Some(first), others, of_parts };
        waiting.pass_over()?;
        Ok(waiting)
    }

    /// One whose answers are to be read.
    pub fn one(shard: Settled) -> Waiting {
        Waiting { next: shard.part.is_some().then_some(shard), others: Sorted::empty(), of_parts: true }
    }

    /// The next shard, if its first request is at most `index`.
    pub fn take(&mut self, index: i64) -> Result<Option<Settled>, StoreError> {
        let Some(shard) = self.next.take_if(|shard| shard.first <= index) else { return Ok(None) };
        self.next = self.behind(&shard)?;
        self.pass_over()?;
        Ok(Some(shard))
    }

    /// Passes over those that are left out.
    fn pass_over(&mut self) -> Result<(), StoreError> {
        while let Some(shard) = self.next.take_if(|shard| self.of_parts && shard.part.is_none()) {
            self.next = self.behind(&shard)?;
        }
        Ok(())
    }

    /// The shard that follows `shard`, if it is of the same round and model.
    fn behind(&mut self, shard: &Settled) -> Result<Option<Settled>, StoreError> {
        let behind = self.others.next().transpose()?;
        Ok(behind.filter(|behind| behind.lane() == shard.lane()))
    }
}
