//! Lines on local disk, each found by a key: millions of them in little memory.
//!
//! Lines lie in compressed blocks in one file; long ones lie there as they are. Their keys, with their places, are sorted run by
//! run, and the runs are merged into another file. The first key of each of its blocks stays in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use async_compression::Level;
use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::tokio::write::ZstdEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::long::{HEAVY, LoadedLine};
use super::memory::{Reservation, reserve};
use super::{DiskUse, StoreError, staged};

/// The key of a line: a hash.
pub type LineKey = [u8; KEY_BYTES];
const KEY_BYTES: usize = 32;

/// Most lines, repeated keys included.
const LINES_LIMIT: usize = 4_000_000;
/// Most bytes of local disk for lines.
const DISK_LIMIT: u64 = 1 << 30;
/// Bytes of lines that are compressed together.
const BLOCK_BYTES: usize = 256 << 10;
/// Records in a run, which is sorted in memory.
const RUN: usize = 1 << 16;
/// Records that are read at a time when one is looked for.
const RECORDS: usize = 512;
/// Records of each run that are read at a time while runs are merged.
const MERGED_AT_A_TIME: usize = 64;
/// Bytes that a writer holds: a run and what its sort takes, a block and its encoder.
const WRITER_BYTES: usize = 2 * RUN * RECORD_BYTES + (3 << 20);
/// Most bytes of keys that are held in memory.
pub const KEYED_BYTES: usize = LINES_LIMIT.div_ceil(RECORDS) * KEY_BYTES;

/// Bytes of a key and the place of its line.
const RECORD_BYTES: usize = KEY_BYTES + 20;
type Record = [u8; RECORD_BYTES];

/// The place of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Offset of its block in the file.
    offset: u64,
    /// Bytes of the block in the file.
    stored: u32,
    /// Offset of the line in the block; [`AS_IT_IS`] if the line is the block, and is not compressed.
    within: u32,
    /// Bytes of the line.
    length: u32,
}

const AS_IT_IS: u32 = u32::MAX;

impl Place {
    fn record(self, key: &LineKey) -> Record {
        let mut record = [0; RECORD_BYTES];
        let (before, place) = record.split_at_mut(KEY_BYTES);
        before.copy_from_slice(key);
        place[..8].copy_from_slice(&self.offset.to_le_bytes());
        for (at, number) in [self.stored, self.within, self.length].into_iter().enumerate() {
            place[8 + 4 * at..12 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        record
    }

    fn of(record: &Record) -> Place {
        let number =
            |at: usize| record[at..at + 4].iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let [low, high, stored, within, length] = [0, 4, 8, 12, 16].map(|at| number(KEY_BYTES + at));
        Place { offset: u64::from(high) << 32 | u64::from(low), stored, within, length }
    }
}

fn key_of(record: &Record) -> &[u8] {
    &record[..KEY_BYTES]
}

/// A writer of keyed lines. Of lines with the same key, the first one counts.
pub struct KeyedLinesWriter {
    spool: PathBuf,
    lines: File,
    /// Bytes in `lines`.
    bytes: u64,
    /// Lines that are not compressed yet, with the places that they will have.
    block: Vec<u8>,
    waiting: Vec<(LineKey, Place)>,
    /// Records that are not sorted yet.
    run: Vec<Record>,
    /// Sorted runs, one after the other.
    runs: File,
    /// Records in `runs`, by run.
    sorted: Vec<usize>,
    count: usize,
    disk: DiskUse,
    _held: Reservation,
}

impl KeyedLinesWriter {
    /// Creates a writer whose files are in `spool`.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn new(spool: &Path) -> Result<KeyedLinesWriter, StoreError> {
        let held = reserve(WRITER_BYTES).await;
        let file = || tempfile::tempfile_in(spool).map_err(staged::local);
        Ok(KeyedLinesWriter {
            spool: spool.into(),
            lines: file()?,
            bytes: 0,
            block: vec![],
            waiting: vec![],
            run: vec![],
            runs: file()?,
            sorted: vec![],
            count: 0,
            disk: DiskUse::default(),
            _held: held,
        })
    }

    /// Adds a line. Bytes go to the kernel's cache, which is not worth a thread.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if there are too many lines or bytes of them; others if the local disk fails.
    pub async fn push(&mut self, key: LineKey, line: &[u8]) -> Result<(), StoreError> {
        self.count += 1;
        if self.count > LINES_LIMIT {
            return Err(StoreError::TooLarge(format!("there are more than {LINES_LIMIT} lines")));
        }
        let is_long = line.len() > HEAVY;
        if is_long || self.block.len() + line.len() > BLOCK_BYTES {
            self.pack().await?;
        }
        let length = u32::try_from(line.len()).map_err(|e| StoreError::TooLarge(format!("a line: {e}")))?;
        if is_long {
            let offset = self.append(line).await?;
            return self.add(Place { offset, stored: length, within: AS_IT_IS, length }.record(&key));
        }
        let within = u32::try_from(self.block.len()).unwrap_or(AS_IT_IS);
        self.block.extend_from_slice(line);
        self.waiting.push((key, Place { offset: 0, stored: 0, within, length }));
        Ok(())
    }

    /// Compresses the lines that wait.
    async fn pack(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut encoder = ZstdEncoder::with_quality(vec![], Level::Fastest);
        encoder.write_all(&self.block).await.map_err(staged::local)?;
        encoder.shutdown().await.map_err(staged::local)?;
        let packed = encoder.into_inner();
        let (offset, stored) = (self.append(&packed).await?, u32::try_from(packed.len()).unwrap_or_default());
        self.block.clear();
        for (key, place) in std::mem::take(&mut self.waiting) {
            self.add(Place { offset, stored, ..place }.record(&key))?;
        }
        Ok(())
    }

    /// Appends bytes to the file, and returns their offset.
    async fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        let offset = self.bytes;
        self.bytes += bytes.len() as u64;
        if self.bytes > DISK_LIMIT {
            return Err(StoreError::TooLarge(format!("compressed, they have more than {DISK_LIMIT} bytes")));
        }
        // The records of lines are in another file.
        self.disk.set(self.bytes + (self.count * RECORD_BYTES) as u64).await;
        self.lines.write_all(bytes).map_err(staged::local)?;
        Ok(offset)
    }

    fn add(&mut self, record: Record) -> Result<(), StoreError> {
        self.run.push(record);
        if self.run.len() == RUN { self.sort() } else { Ok(()) }
    }

    /// Sorts the run and writes it.
    fn sort(&mut self) -> Result<(), StoreError> {
        self.run.sort_by(|a, b| key_of(a).cmp(key_of(b)));
        self.runs.write_all(self.run.as_flattened()).map_err(staged::local)?;
        self.sorted.push(self.run.len());
        self.run.clear();
        Ok(())
    }

    /// Returns the lines.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn finish(mut self) -> Result<KeyedLines, StoreError> {
        self.pack().await?;
        if !self.run.is_empty() {
            self.sort()?;
        }
        let held = reserve(self.count.div_ceil(RECORDS) * KEY_BYTES).await;
        let records = (self.count * RECORD_BYTES) as u64;
        // The merged records are written beside those of the runs, which are deleted afterwards.
        self.disk.set(self.bytes + 2 * records).await;
        let (index, firsts, count) = self.merge().map_err(staged::local)?;
        self.disk.note(self.bytes + records);
        Ok(KeyedLines { lines: self.lines, index, firsts, count, _disk: self.disk, _held: held })
    }

    /// Merges the runs. Of equal keys, the one of the earliest run is kept, which was added first.
    fn merge(&self) -> std::io::Result<(File, Vec<LineKey>, usize)> {
        let mut out = BufWriter::new(tempfile::tempfile_in(&self.spool)?);
        let (mut firsts, mut count, mut last) = (vec![], 0, None);
        let mut at = 0;
        let mut runs: Vec<RunReader> = vec![];
        for records in &self.sorted {
            runs.push(RunReader { file: &self.runs, at, left: *records, read: vec![] });
            at += (records * RECORD_BYTES) as u64;
        }
        let mut heads = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next()?.map(|record| Reverse((head_of(&record), number, record))));
        }
        while let Some(Reverse((key, number, record))) = heads.pop() {
            heads.extend(runs[number].next()?.map(|record| Reverse((head_of(&record), number, record))));
            if last == Some(key) {
                continue;
            }
            if count % RECORDS == 0 {
                firsts.push(key);
            }
            out.write_all(&record)?;
            (count, last) = (count + 1, Some(key));
        }
        Ok((out.into_inner().map_err(std::io::IntoInnerError::into_error)?, firsts, count))
    }
}

fn head_of(record: &Record) -> LineKey {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(key_of(record));
    key
}

/// A reader of a sorted run.
struct RunReader<'a> {
    file: &'a File,
    /// Offset of the records that are read next.
    at: u64,
    /// Number of records that are not read yet.
    left: usize,
    /// Records that were read, the next one last.
    read: Vec<Record>,
}

impl RunReader<'_> {
    fn next(&mut self) -> std::io::Result<Option<Record>> {
        if self.read.is_empty() && self.left > 0 {
            self.read.resize(self.left.min(MERGED_AT_A_TIME), [0; RECORD_BYTES]);
            self.file.read_exact_at(self.read.as_flattened_mut(), self.at)?;
            self.at += size_of_val(self.read.as_slice()) as u64;
            self.left -= self.read.len();
            self.read.reverse();
        }
        Ok(self.read.pop())
    }
}

/// Lines on local disk, each found by its key.
#[derive(Debug)]
pub struct KeyedLines {
    lines: File,
    /// Records in the order of their keys, each key once.
    index: File,
    /// Keys of every 512th record.
    firsts: Vec<LineKey>,
    /// Number of records.
    count: usize,
    _disk: DiskUse,
    _held: Reservation,
}

impl KeyedLines {
    /// Returns the number of lines.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether there is a line with this key.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn hold(&self, key: &LineKey) -> Result<bool, StoreError> {
        Ok(self.length(key)?.is_some())
    }

    /// Returns the bytes of the line with this key; None if there is none.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn length(&self, key: &LineKey) -> Result<Option<u64>, StoreError> {
        Ok(self.find(key)?.map(|place| u64::from(place.length)))
    }

    fn find(&self, key: &LineKey) -> Result<Option<Place>, StoreError> {
        let Some(block) = self.firsts.partition_point(|first| first <= key).checked_sub(1) else { return Ok(None) };
        let from = block * RECORDS;
        let mut records = [[0; RECORD_BYTES]; RECORDS];
        let records = &mut records[..RECORDS.min(self.count - from)];
        self.index.read_exact_at(records.as_flattened_mut(), (from * RECORD_BYTES) as u64).map_err(staged::local)?;
        let found = records.binary_search_by(|record| key_of(record).cmp(key));
        Ok(found.ok().map(|at| Place::of(&records[at])))
    }

    /// Returns a reader of the lines, which keeps the block that it read last.
    pub fn reader(&self) -> KeyedLinesReader<'_> {
        KeyedLinesReader { of: self, block: vec![], at: None }
    }
}

/// A reader of keyed lines. Lines that were added one after the other are read fastest in that order.
pub struct KeyedLinesReader<'a> {
    of: &'a KeyedLines,
    block: Vec<u8>,
    /// Offset of the block that is held.
    at: Option<u64>,
}

impl KeyedLinesReader<'_> {
    /// Returns the line with this key, after waiting for its turn if it is a long one; None if there is none.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn line(&mut self, key: &LineKey) -> Result<Option<LoadedLine>, StoreError> {
        let Some(Place { offset, stored, within, length }) = self.of.find(key)? else { return Ok(None) };
        let (within_it, length) = (within as usize, length as usize);
        if within == AS_IT_IS {
            return LoadedLine::of_file(&self.of.lines, offset, length).await.map(Some).map_err(staged::local);
        }
        if self.at != Some(offset) {
            self.at = None;
            let mut packed = vec![0; stored as usize];
            self.of.lines.read_exact_at(&mut packed, offset).map_err(staged::local)?;
            self.block.clear();
            ZstdDecoder::new(packed.as_slice()).read_to_end(&mut self.block).await.map_err(staged::local)?;
            self.at = Some(offset);
        }
        let line = self.block.get(within_it..within_it + length);
        let lost = || staged::local(std::io::ErrorKind::InvalidData.into());
        Ok(Some(LoadedLine::of_few(line.ok_or_else(lost)?.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u64) -> LineKey {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    async fn written(lines: impl Iterator<Item = (u64, Vec<u8>)>) -> KeyedLines {
        let mut writer = KeyedLinesWriter::new(&std::env::temp_dir()).await.unwrap();
        for (n, line) in lines {
            writer.push(key(n), &line).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    #[tokio::test]
    async fn each_of_many_lines_is_found_in_several_runs_and_no_other() {
        let count = 2 * RUN as u64 + 1_000;
        let lines = written((0..count).map(|n| (n, n.to_string().into_bytes()))).await;
        assert_eq!((lines.len() as u64, lines.firsts.len()), (count, lines.len().div_ceil(RECORDS)));
        let mut reader = lines.reader();
        for n in (0..count).step_by(11).chain([0, count - 1]) {
            assert_eq!(&*reader.line(&key(n)).await.unwrap().unwrap(), n.to_string().as_bytes());
        }
        for n in count..count + 10_000 {
            assert!(!lines.hold(&key(n)).unwrap(), "{n} was never added");
        }
    }

    #[tokio::test]
    async fn lines_and_their_records_count_as_local_disk() {
        let meter = crate::transport::Meter::default();
        let lines = meter.clone().measure(written((0..30_000).map(|n| (n, key(n).to_vec()))));
        let lines = lines.await;
        let (all, records) = (30_000 * KEY_BYTES as u64, 30_000 * RECORD_BYTES as u64);
        assert!((all + records..all + records + (1 << 20)).contains(&meter.disk()), "{} bytes", meter.disk());
        drop(lines);
        assert_eq!(meter.disk(), 0);
    }

    #[tokio::test]
    async fn nothing_is_found_where_nothing_was_added() {
        let lines = written(std::iter::empty()).await;
        assert!(lines.is_empty() && !lines.hold(&key(0)).unwrap());
        for edge in [[0; KEY_BYTES], [0xff; KEY_BYTES]] {
            let one = written([(1, b"x".to_vec())].into_iter()).await;
            assert!(!one.hold(&edge).unwrap());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_first_line_of_a_key_is_read_back_whatever_its_length_and_order(
            added in prop::collection::vec((0..200u64, prop_oneof![8 => 0..300usize, 1 => 60_000..70_000usize, 1 => 250_000..300_000usize]), 0..120),
            asked in prop::collection::vec(0..300u64, 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let line = |i: usize, length: usize| format!("{i} {}", "x".repeat(length)).into_bytes();
                let mut wanted: HashMap<u64, Vec<u8>> = HashMap::new();
                for (i, (n, length)) in added.iter().enumerate() {
                    wanted.entry(*n).or_insert_with(|| line(i, *length));
                }
                let all = added.iter().enumerate().map(|(i, (n, length))| (*n, line(i, *length)));
                let lines = written(all).await;
                prop_assert_eq!(lines.len(), wanted.len());
                let mut reader = lines.reader();
                for n in asked {
                    let found = reader.line(&key(n)).await.unwrap();
                    prop_assert_eq!(lines.hold(&key(n)).unwrap(), wanted.contains_key(&n));
                    prop_assert_eq!(found.as_deref(), wanted.get(&n).map(Vec::as_slice));
                }
                Ok(())
            })?;
        }
    }
}
