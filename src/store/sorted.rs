//! Sorting of any number of records in bounded memory, with local disk for the rest.
//!
//! Records are held in memory until they fill a run. A full run is sorted and written to a file. Whenever there are
//! [`RUNS`] files, they are merged into one.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DiskUse, StoreError, staged};

/// Records of a run, which are held in memory until they are sorted.
pub const RUN_RECORDS: usize = 256;
/// Files that are merged at a time. One record of each is in memory.
pub const RUNS: usize = 16;
/// Bytes that are read or written at a time during a merge.
const BUFFER: usize = 16 << 10;

/// A sorter that takes records in any order. The sort is stable.
pub struct Sorter<T> {
    spool: PathBuf,
    order: fn(&T, &T) -> Ordering,
    held: Vec<T>,
    /// Runs in order: the first holds the records that came first.
    runs: Vec<Run>,
    count: usize,
}

/// Sorted records in a file without a name.
#[derive(Clone, Debug)]
struct Run {
    file: Arc<File>,
    bytes: u64,
    _disk: Arc<DiskUse>,
}

/// Records in order. A clone goes on from the same place, independently of the original.
#[derive(Clone, Debug)]
pub struct Sorted<T> {
    records: Records<T>,
    left: usize,
}

#[derive(Clone, Debug)]
enum Records<T> {
    /// All records, in memory. The next one is at `at`.
    InMemory { all: Arc<[T]>, at: usize },
    /// Records in a file. The next one begins at byte `at`.
    Spooled { run: Run, at: u64, of: PhantomData<T> },
}

impl<T: Serialize + DeserializeOwned> Sorter<T> {
    /// Creates a sorter by `order` whose records wait in files in `spool`.
    pub fn new(spool: &Path, order: fn(&T, &T) -> Ordering) -> Sorter<T> {
        Sorter { spool: spool.into(), order, held: vec![], runs: vec![], count: 0 }
    }

    /// Returns the number of records so far.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there is no record so far.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn push(&mut self, record: T) -> Result<(), StoreError> {
        self.held.push(record);
        self.count += 1;
        match self.held.len() == RUN_RECORDS {
            true => self.spill().map_err(staged::local),
            false => Ok(()),
        }
    }

    /// Returns all records, in order.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn finish(mut self) -> Result<Sorted<T>, StoreError> {
        let left = self.count;
        if self.runs.is_empty() {
            self.held.sort_by(self.order);
            return Ok(Sorted { records: Records::InMemory { all: self.held.into(), at: 0 }, left });
        }
        let mut runs = || {
            if !self.held.is_empty() {
                self.spill()?;
            }
            match self.runs.len() {
                1 => Ok(self.runs.remove(0)),
                _ => self.merged(),
            }
        };
        let run = runs().map_err(staged::local)?;
        Ok(Sorted { records: Records::Spooled { run, at: 0, of: PhantomData }, left })
    }

    fn spill(&mut self) -> std::io::Result<()> {
        self.held.sort_by(self.order);
        let mut out = RunWriter::new(&self.spool)?;
        for record in self.held.drain(..) {
            out.write(&record)?;
        }
        self.runs.push(out.finish()?);
        if self.runs.len() == RUNS {
            self.runs = vec![self.merged()?];
        }
        Ok(())
    }

    fn merged(&self) -> std::io::Result<Run> {
        let mut out = RunWriter::new(&self.spool)?;
        let mut runs: Vec<RunReader<T>> = self.runs.iter().map(RunReader::new).collect::<std::io::Result<_>>()?;
        loop {
            let heads = runs.iter().enumerate().filter_map(|(at, run)| Some((at, run.next.as_ref()?)));
            // Of equal records, the first is taken.
            let least = heads.reduce(|least, other| if (self.order)(other.1, least.1).is_lt() { other } else { least });
            let Some((at, record)) = least else { return out.finish() };
            out.write(record)?;
            runs[at].advance()?;
        }
    }
}

struct RunWriter {
    out: BufWriter<File>,
    bytes: u64,
    disk: DiskUse,
}

impl RunWriter {
    fn new(spool: &Path) -> std::io::Result<RunWriter> {
        Ok(RunWriter {
            out: BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(spool)?),
            bytes: 0,
            disk: DiskUse::default(),
        })
    }

    fn write(&mut self, record: &impl Serialize) -> std::io::Result<()> {
        let record = serde_json::to_vec(record)?;
        let length = u32::try_from(record.len()).map_err(std::io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&record)?;
        self.bytes += 4 + u64::from(length);
        self.disk.note(self.bytes);
        Ok(())
    }

    fn finish(self) -> std::io::Result<Run> {
        let file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(Run { file: Arc::new(file), bytes: self.bytes, _disk: Arc::new(self.disk) })
    }
}

/// A reader of a run's file from its beginning.
struct RunReader<T> {
    content: BufReader<OffsetReader>,
    next: Option<T>,
}

/// A file from an offset on, independent of other readers of the file.
struct OffsetReader {
    run: Run,
    at: u64,
}

impl Read for OffsetReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.run.file.read_at(into, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl<T: DeserializeOwned> RunReader<T> {
    fn new(run: &Run) -> std::io::Result<RunReader<T>> {
        let content = BufReader::with_capacity(BUFFER, OffsetReader { run: run.clone(), at: 0 });
        let mut reader = RunReader { content, next: None };
        reader.advance()?;
        Ok(reader)
    }

    fn advance(&mut self) -> std::io::Result<()> {
        let content = self.content.get_ref();
        let at_end = content.at == content.run.bytes && self.content.buffer().is_empty();
        self.next = match at_end {
            true => None,
            false => Some(read(&mut self.content)?.0),
        };
        Ok(())
    }
}

/// Reads the next record. Returns it with the number of its bytes.
fn read<T: DeserializeOwned>(from: &mut impl Read) -> std::io::Result<(T, u64)> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut record = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut record)?;
    Ok((serde_json::from_slice(&record)?, 4 + record.len() as u64))
}

impl<T> Sorted<T> {
    /// Returns no records.
    pub fn empty() -> Sorted<T> {
        Sorted { records: Records::InMemory { all: Arc::new([]), at: 0 }, left: 0 }
    }

    /// Returns one record.
    pub fn one(record: T) -> Sorted<T> {
        Sorted { records: Records::InMemory { all: Arc::new([record]), at: 0 }, left: 1 }
    }

    /// Returns the number of remaining records.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Returns whether no records remain.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<T: Clone + DeserializeOwned> Iterator for Sorted<T> {
    type Item = Result<T, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.records {
            Records::InMemory { all, at } => {
                *at += 1;
                all.get(*at - 1).cloned().map(Ok)
            }
            Records::Spooled { run, at, .. } => {
                let record = read(&mut OffsetReader { run: run.clone(), at: *at }).map_err(staged::local);
                Some(record.map(|(record, bytes)| {
                    *at += bytes;
                    record
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    thread_local! {
        /// Records in memory, and the most of them so far.
        static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    /// A record that counts how many of its kind exist.
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(from = "u64", into = "u64")]
    struct Counted(u64);

    impl From<u64> for Counted {
        fn from(key: u64) -> Counted {
            HELD.with(|held| held.set((held.get().0 + 1, held.get().1.max(held.get().0 + 1))));
            Counted(key)
        }
    }

    impl From<Counted> for u64 {
        fn from(counted: Counted) -> u64 {
            counted.0
        }
    }

    impl Clone for Counted {
        fn clone(&self) -> Counted {
            Counted::from(self.0)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            HELD.with(|held| held.set((held.get().0 - 1, held.get().1)));
        }
    }

    /// Sorts and reads `count` records. Returns the most that were in memory.
    fn most_held(count: u64) -> usize {
        HELD.with(|held| held.set((0, 0)));
        let mut sorter = Sorter::<Counted>::new(&std::env::temp_dir(), |a, b| a.0.cmp(&b.0));
        for n in 0..count {
            // With a prime factor, each number below `count` occurs once.
            sorter.push(Counted::from(n * 7_919 % count)).unwrap();
        }
        for (wanted, found) in (0..count).zip(sorter.finish().unwrap()) {
            assert_eq!(found.unwrap().0, wanted);
        }
        HELD.with(Cell::get).1
    }

    #[test]
    fn as_many_records_are_held_of_two_hundred_as_of_twenty_thousand() {
        let bound = RUN_RECORDS + RUNS + 1;
        let held = [200, 1_000, 20_000].map(most_held);
        assert!(held.iter().all(|held| *held <= bound), "{held:?} of at most {bound}");
    }

    #[tokio::test]
    async fn runs_count_as_local_disk() {
        let meter = crate::transport::Meter::default();
        let of = meter.clone();
        let sorted = meter.clone().measure(async move {
            let mut sorter = Sorter::<u64>::new(&std::env::temp_dir(), |a, b| a.cmp(b));
            (0..9_999).for_each(|n| sorter.push(n).unwrap());
            let written = of.disk();
            assert!(written > 9_000 * 7, "{written} bytes");
            sorter.finish().unwrap()
        });
        let sorted = sorted.await;
        assert!((9_000 * 7..9_999 * 9).contains(&meter.disk()), "{} bytes, each once", meter.disk());
        drop(sorted);
        assert_eq!(meter.disk(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

        #[test]
        fn records_come_in_order_and_equals_as_they_came(keys in prop::collection::vec(0..50u8, 0..6_000), seen in 0..6_000usize) {
            let mut sorter = Sorter::<(u8, usize)>::new(&std::env::temp_dir(), |a, b| a.0.cmp(&b.0));
            let mut wanted: Vec<(u8, usize)> = keys.into_iter().zip(0..).collect();
            for record in &wanted {
                sorter.push(*record).unwrap();
            }
            wanted.sort_by_key(|(key, _)| *key);
            let mut sorted = sorter.finish().unwrap();
            prop_assert_eq!(sorted.len(), wanted.len());
            let seen = seen.min(wanted.len());
            let mut found: Vec<_> = sorted.by_ref().take(seen).map(Result::unwrap).collect();
            let rest: Vec<_> = sorted.clone().map(Result::unwrap).collect();
            prop_assert_eq!(sorted.map(Result::unwrap).collect::<Vec<_>>(), rest.clone(), "a clone goes on from there");
            found.extend(rest);
            prop_assert_eq!(found, wanted);
        }
    }
}
