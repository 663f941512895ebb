//! The rule by which the answers of settled shards are published while their job runs. No other decision depends on it.

use super::journal::Journal;
use super::observed::Observed;
use super::task::Task;

/// The settled shards of a work that are done with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Published {
    /// Shards whose answers are readable, and those that have none.
    pub shards: ShardSet,
    /// Number of files with answers.
    pub files: usize,
    /// Number of settled shards in the journal at the last publication. Shards are looked for again once it has grown.
    pub settled: usize,
}

/// A set of shards of one work, by index: a bit each, up to the highest one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardSet(Vec<u64>);

impl ShardSet {
    /// Returns whether the shard is in the set.
    pub fn contains(&self, shard: usize) -> bool {
        self.0.get(shard / 64).is_some_and(|word| word & (1 << (shard % 64)) != 0)
    }

    /// Adds a shard, whose index is below the number of the work's shards.
    pub fn insert(&mut self, shard: usize) {
        if shard / 64 >= self.0.len() {
            self.0.resize(shard / 64 + 1, 0);
        }
        self.0[shard / 64] |= 1 << (shard % 64);
    }

    /// Returns the number of shards.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Returns the bytes of memory that the set takes.
    pub(super) fn weight(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Returns whether shards were settled whose answers are to be published. A job that is about to end, or whose object goes,
/// publishes no more: its results come soon, or never.
pub(super) fn is_due(o: &Observed) -> bool {
    let Some(journal) = o.journal.filter(|j| j.owner == o.job.owner) else { return false };
    let ends = o.job.finished || o.job.deleting_since.is_some() || o.memory.running.contains(&Task::DeleteFiles);
    let done = o.memory.published.as_ref().map_or(0, |published| published.settled);
    is_begun(o, journal)
        && !ends
        && o.job.blocked.is_none()
        && !o.memory.running.contains(&Task::Publish)
        && journal.shards.totals().settled > done
}

/// Returns whether answers of this work are published, or soon will be. Without an intent its plan may still be dropped, and
/// other requests take its place.
pub(super) fn is_begun(o: &Observed, journal: &Journal) -> bool {
    let runs = journal.has_intents() && journal.commit.is_none() && journal.closing.is_none();
    o.job.partial_results && runs && journal.shards.totals().settled > 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_set_holds_the_shards_that_were_added(shards in prop::collection::vec(0..400usize, 0..60)) {
            let mut set = ShardSet::default();
            shards.iter().for_each(|shard| set.insert(*shard));
            let wanted: BTreeSet<usize> = shards.into_iter().collect();
            prop_assert_eq!((set.len(), set.is_empty()), (wanted.len(), wanted.is_empty()));
            prop_assert!((0..500).filter(|shard| set.contains(*shard)).eq(wanted));
        }
    }
}
