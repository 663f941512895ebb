//! The messages that an endpoint has taken, for as long as their signatures count.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::fair::{Budget, Grant};

/// Number of messages for which memory is taken at a time.
const CHUNK: usize = 256;
/// The largest number that one endpoint remembers, some 0.5 MiB: 50 a second, each for the 301 seconds that it counts.
const MOST: usize = 64 * CHUNK;
/// Bytes that a remembered message takes: twice its entry, since a table is half empty after it grew.
const ENTRY: u64 = 2 * 17;

/// Messages that were taken. The sender chooses their ids, so each id is kept as a keyed hash.
#[derive(Debug, Default)]
pub(super) struct SeenMessages {
    /// Times at which messages no longer count (Unix milliseconds), by hash of their ids.
    until: HashMap<u64, i64>,
    hasher: RandomState,
    memory: Vec<Grant>,
}

impl SeenMessages {
    /// Returns whether a message was taken.
    pub fn contains(&self, id: &str) -> bool {
        self.until.contains_key(&self.hasher.hash_one(id))
    }

    /// Makes room for one more message at `now` (Unix milliseconds). Returns false if there is none: too many were taken
    /// whose signatures still count.
    pub fn make_room(&mut self, now: i64, budget: &Arc<Budget>, namespace: &str) -> bool {
        if self.until.len() < self.memory.len() * CHUNK {
            return true;
        }
        self.until.retain(|_, until| *until > now);
        let needed = self.until.len() / CHUNK + 1;
        if needed < self.memory.len() {
            self.until.shrink_to_fit();
            self.memory.truncate(needed);
        }
        if needed * CHUNK > MOST {
            return false;
        }
        if self.memory.len() < needed {
            self.memory.extend(budget.take(namespace, CHUNK as u64 * ENTRY));
        }
        self.until.len() < self.memory.len() * CHUNK
    }

    /// Remembers a message until a time (Unix milliseconds). Call [`SeenMessages::make_room`] before.
    pub fn insert(&mut self, id: &str, until: i64) {
        self.until.insert(self.hasher.hash_one(id), until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_remembered_while_they_count_and_take_no_more_memory_than_their_share() {
        let budget = Budget::new(MOST as u64 * ENTRY);
        let (mut hostile, mut quiet) = (SeenMessages::default(), SeenMessages::default());
        let take = |seen: &mut SeenMessages, namespace: &str, id: &str, now: i64| {
            assert!(!seen.contains(id));
            let is_room = seen.make_room(now, &budget, namespace);
            if is_room {
                seen.insert(id, now + 300_000);
                assert!(seen.contains(id));
            }
            is_room
        };
        let taken = (0..2 * MOST).filter(|n| take(&mut hostile, "hostile", &n.to_string(), 0)).count();
        assert_eq!(taken, MOST / 2, "half of the memory");
        assert!(take(&mut quiet, "quiet", "1", 0), "another namespace has its share");
        assert!(!take(&mut hostile, "hostile", "late", 299_999));
        assert!(take(&mut hostile, "hostile", "later", 300_000), "the first no longer count");
        assert_eq!((hostile.until.len(), hostile.memory.len()), (1, 1));
    }

    #[test]
    fn one_endpoint_remembers_a_bounded_number_of_messages() {
        let (budget, mut seen) = (Budget::new(1 << 40), SeenMessages::default());
        let taken = (0..2 * MOST).filter(|n| {
            let is_room = seen.make_room(0, &budget, "n");
            if is_room {
                seen.insert(&n.to_string(), 1);
            }
            is_room
        });
        assert_eq!(taken.count(), MOST);
    }
}
