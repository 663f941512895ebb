//! Shards that have ended, as a join takes them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::{Sorted, Sorter, StoreError};

/// A shard that has ended.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct SettledShard {
    /// SHA-256 of the requests as they were sent, in hex.
    pub sha256: String,
    /// Name of its index.
    pub index: String,
    /// Index of its first request.
    pub first: i64,
    /// The model of all its requests.
    pub model: String,
    /// 0 for the input's own shards. Later rounds hold requests that earlier ones left without an answer.
    pub round: u32,
    /// Its answers; None if it was never executed or was given up.
    pub part: Option<Part>,
    /// Whether its answers are those of earlier jobs. Its requests may then ask for several models.
    pub reused: bool,
    /// Whether a person gave up its answers. Its requests are not sent again.
    pub given_up: bool,
    /// Code and message of requests that no part names.
    pub absent: (Cow<'static, str>, String),
}

impl SettledShard {
    /// Returns a sorter of settled shards for a join: by lane, and within each in the order of requests.
    pub fn sorter(spool: &Path) -> Sorter<SettledShard> {
        Sorter::new(spool, SettledShard::order)
    }

    fn order(&self, other: &SettledShard) -> Ordering {
        self.lane().cmp(&other.lane()).then(self.first.cmp(&other.first))
    }

    /// Returns what the shards of its lane have in common: the round, whether answers are reused, and the model.
    pub(super) fn lane(&self) -> (u32, bool, &str) {
        (self.round, self.reused, &self.model)
    }
}

/// The answers to a shard.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Part {
    /// Name of its object.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

/// Shards of one lane that are not open yet, in order. Only one of them is in memory.
pub(super) struct ShardQueue {
    /// The next of them.
    pub next: Option<SettledShard>,
    others: Sorted<SettledShard>,
    /// Whether shards without a part are left out.
    of_parts: bool,
}

impl ShardQueue {
    pub fn new(first: SettledShard, others: Sorted<SettledShard>, of_parts: bool) -> Result<ShardQueue, StoreError> {
        let mut waiting = ShardQueue { next: Some(first), others, of_parts };
        waiting.pass_over()?;
        Ok(waiting)
    }

    /// Creates the list of one shard whose answers are to be read.
    pub fn one(shard: SettledShard) -> ShardQueue {
        ShardQueue { next: shard.part.is_some().then_some(shard), others: Sorted::empty(), of_parts: true }
    }

    /// Returns the next shard, if its first request is at most `index`.
    pub fn take(&mut self, index: i64) -> Result<Option<SettledShard>, StoreError> {
        let Some(shard) = self.next.take_if(|shard| shard.first <= index) else { return Ok(None) };
        self.next = self.behind(&shard)?;
        self.pass_over()?;
        Ok(Some(shard))
    }

    /// Skips shards that are left out.
    fn pass_over(&mut self) -> Result<(), StoreError> {
        while let Some(shard) = self.next.take_if(|shard| self.of_parts && shard.part.is_none()) {
            self.next = self.behind(&shard)?;
        }
        Ok(())
    }

    /// Returns the shard after `shard`, if it is of the same lane.
    fn behind(&mut self, shard: &SettledShard) -> Result<Option<SettledShard>, StoreError> {
        let behind = self.others.next().transpose()?;
        Ok(behind.filter(|behind| behind.lane() == shard.lane()))
    }
}
