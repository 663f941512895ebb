//! The set of custom ids that an input has had so far: exact, in memory that does not grow with their number.
//!
//! The first ids are held in a set. Further ids are sorted and appended to a file on the spool, run by run. The first
//! id of each block of each run stays in memory, and a Bloom filter (1970) of all ids, so that the file is hardly ever
//! read for an id that is not in it.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::store::{DiskUse, StoreError, staged};

/// The key of an id: the first half of its BLAKE3 hash.
type Key = [u8; KEY_BYTES];
const KEY_BYTES: usize = 16;
/// Most ids in one run, and in the set: some 2 MiB.
const RUN: usize = 1 << 16;
/// Ids in one block of a run: 4 KiB.
const BLOCK: usize = 256;
/// Bits of the filter: 2 MiB, sixteen for each of a million ids.
const FILTER_BITS: u64 = 1 << 24;
/// Most bytes that ids take: the set, which doubles as it grows, the filter, and a run while it is sorted.
pub const IDS_BYTES: usize = 6 << 20;
/// Bits that each id sets. One in two thousand new ids is searched for in the file in vain.
const PROBES: usize = 8;

/// The ids that were seen. Beyond the first 65,536, each takes 16 bytes of the spool.
///
/// A million ids hold at most 6 MiB of memory: the set, the filter, and a run while it is sorted.
pub struct SeenIds {
    spool: PathBuf,
    fresh: HashSet<Key>,
    spilled: Option<SpilledIds>,
    disk: DiskUse,
}

/// The ids on the spool.
struct SpilledIds {
    file: File,
    filter: Vec<u8>,
    /// First key of each block, by run.
    runs: Vec<Vec<Key>>,
}

impl SeenIds {
    /// Creates an empty set whose overflow goes to a file in `spool`.
    pub fn new(spool: &Path) -> SeenIds {
        SeenIds { spool: spool.into(), fresh: HashSet::new(), spilled: None, disk: DiskUse::default() }
    }

    /// Returns the bytes of memory that the set holds.
    pub fn holds(&self) -> usize {
        // The set takes another byte for each id, and is half empty.
        let fresh = self.fresh.capacity() * 2 * (KEY_BYTES + 1);
        if self.spilled.is_some() { IDS_BYTES } else { fresh.min(IDS_BYTES) }
    }

    /// Adds `id`. Returns whether it is new.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn insert(&mut self, id: &str) -> Result<bool, StoreError> {
        let key = key_of(id.as_bytes());
        if let Some(spilled) = &self.spilled
            && spilled.holds(&key).map_err(staged::local)?
        {
            return Ok(false);
        }
        let is_first = self.fresh.insert(key);
        if self.fresh.len() == RUN {
            self.spill().map_err(staged::local)?;
        }
        Ok(is_first)
    }

    /// Writes the set to the file. This is a mebibyte into the kernel's cache, not worth a thread.
    fn spill(&mut self) -> std::io::Result<()> {
        let mut run: Vec<Key> = self.fresh.drain().collect();
        run.sort_unstable();
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            None => self.spilled.insert(SpilledIds {
                file: tempfile::tempfile_in(&self.spool)?,
                filter: vec![0; usize::try_from(FILTER_BITS / 8).unwrap_or_default()],
                runs: vec![],
            }),
        };
        self.disk.note(((spilled.runs.len() + 1) * RUN * KEY_BYTES) as u64);
        spilled.add(&run)
    }
}

fn key_of(id: &[u8]) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&blake3::hash(id).as_bytes()[..KEY_BYTES]);
    key
}

impl SpilledIds {
    fn add(&mut self, run: &[Key]) -> std::io::Result<()> {
        self.file.write_all_at(run.as_flattened(), (self.runs.len() * RUN * KEY_BYTES) as u64)?;
        for key in run {
            for (byte, bit) in bits(key) {
                self.filter[byte] |= bit;
            }
        }
        self.runs.push(run.iter().step_by(BLOCK).copied().collect());
        Ok(())
    }

    fn holds(&self, key: &Key) -> std::io::Result<bool> {
        if bits(key).any(|(byte, bit)| self.filter[byte] & bit == 0) {
            return Ok(false);
        }
        let mut block = [[0; KEY_BYTES]; BLOCK];
        for (run, firsts) in self.runs.iter().enumerate() {
            let Some(at) = firsts.partition_point(|first| first <= key).checked_sub(1) else { continue };
            self.file.read_exact_at(block.as_flattened_mut(), ((run * RUN + at * BLOCK) * KEY_BYTES) as u64)?;
            if block.binary_search(key).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns the bits of a key in the filter. A key is a hash, so any part of it serves as another hash.
fn bits(key: &Key) -> impl Iterator<Item = (usize, u8)> {
    let half = |from: usize| key[from..from + 8].iter().fold(0u64, |half, byte| half << 8 | u64::from(*byte));
    let (first, step) = (half(0), half(8) | 1);
    (0..PROBES as u64).map(move |probe| {
        let bit = first.wrapping_add(step.wrapping_mul(probe)) % FILTER_BITS;
        (usize::try_from(bit / 8).unwrap_or_default(), 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_beyond_what_is_held_are_found_again_and_no_others() {
        let mut seen = SeenIds::new(&std::env::temp_dir());
        let count = 3 * RUN + 1_000;
        for i in 0..count {
            assert!(seen.insert(&i.to_string()).unwrap(), "{i} is new");
        }
        let spilled = seen.spilled.as_ref().unwrap();
        assert_eq!((spilled.runs.len(), seen.fresh.len()), (3, 1_000));
        for i in (0..count).step_by(7) {
            assert!(!seen.insert(&i.to_string()).unwrap(), "{i} was seen");
        }
        assert_eq!(seen.fresh.len(), 1_000, "what was seen is not held again");
    }

    #[test]
    fn the_filter_lets_hardly_an_id_through_that_was_never_seen() {
        let mut spilled =
            SpilledIds { file: tempfile::tempfile().unwrap(), filter: vec![0; FILTER_BITS as usize / 8], runs: vec![] };
        let key = |i: u64| key_of(&i.to_le_bytes());
        for run in 0..15 {
            let mut keys: Vec<Key> = (0..RUN as u64).map(|i| key(run * RUN as u64 + i)).collect();
            keys.sort_unstable();
            spilled.add(&keys).unwrap();
        }
        let through = |i: &u64| bits(&key(*i)).all(|(byte, bit)| spilled.filter[byte] & bit != 0);
        let through = (2_000_000..2_100_000u64).filter(through).count();
        assert!(through < 200, "{through} of 100,000");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..Default::default() })]

        #[test]
        fn an_id_is_the_first_of_its_kind_exactly_once(ids in prop::collection::vec(0..150_000u32, 0..2_000), spill in 0..2_000usize) {
            let (mut seen, mut all) = (SeenIds::new(&std::env::temp_dir()), HashSet::new());
            // A run of other ids precedes some of them.
            for (i, id) in ids.iter().enumerate() {
                if i == spill {
                    for other in 0..RUN as u32 {
                        prop_assert_eq!(seen.insert(&other.to_string()).unwrap(), all.insert(other));
                    }
                }
                prop_assert_eq!(seen.insert(&id.to_string()).unwrap(), all.insert(*id));
            }
        }
    }
}
