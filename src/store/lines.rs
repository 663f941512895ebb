//! Lines of a stream, read in bounded memory. Long ones wait on local disk for their turn.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::long::{HEAVY, LONG, LoadedLine, SpooledLine};
use super::memory::Reservation;

/// Longest request or answer, as a line, in bytes.
pub const LINE_LIMIT: usize = 32 << 20;

/// A reader of lines. A line that is longer than the limit is reported and skipped, not held in memory.
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were already returned.
    start: usize,
    /// Bytes of `buffer` that surely hold no newline.
    scanned: usize,
    limit: usize,
    /// Bytes that are read at a time.
    chunk: usize,
    ended: bool,
    /// Bytes of a line that is being skipped.
    skipped: u64,
    /// Bytes that were removed from `buffer`.
    dropped: u64,
    /// Directory of long lines; None if they are held in memory as they come.
    spool: Option<PathBuf>,
    /// Bytes from which lines wait in `spool`.
    longest_held: usize,
    /// Memory that is reserved for `buffer`, if it is large.
    reserved: Reservation,
    /// The beginning of the current line, if it is a long one.
    long: Option<SpooledLine>,
    /// The long line that was returned last.
    held: Option<LoadedLine>,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes.
    Whole(&'a [u8]),
    /// A line that is longer than the limit, with its size in bytes.
    TooLong(u64),
}

/// A line without its end, which outlives the next call of the reader.
#[derive(Debug)]
pub enum KeptLine {
    /// Its bytes.
    Short(Vec<u8>),
    /// A long line, on local disk.
    Long(SpooledLine),
    /// A line that is longer than the limit, with its size in bytes.
    TooLong(u64),
}

/// The place of a line that was found.
enum NextLine {
    /// A range of `buffer`.
    Here(usize, usize),
    Long(SpooledLine),
    TooLong(u64),
}

const CHUNK: usize = 64 << 10;
/// Bytes that are read at a time if a hundred readers are open.
pub const SMALL_CHUNK: usize = 8 << 10;
/// Bytes of buffer that are kept after a long line.
const KEPT: usize = 1 << 20;
/// Bytes of a buffer for which no memory is reserved.
const FEW: usize = 2 * CHUNK;
/// Most bytes that a reader of lines holds: its buffer, which doubles as it grows.
pub const LINES_BYTES: usize = 2 * (LONG + CHUNK);
/// Most bytes that a reader in a join holds.
pub const JOINED_LINES_BYTES: usize = 2 * (HEAVY + CHUNK);
/// Most bytes that a reader in small chunks holds.
pub const SMALL_LINES_BYTES: usize = 4 * SMALL_CHUNK;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads lines of `reader`, each at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Lines {
            reader,
            buffer: vec![],
            start: 0,
            scanned: 0,
            limit,
            chunk: CHUNK,
            ended: false,
            skipped: 0,
            dropped: 0,
            spool: None,
            longest_held: LONG,
            reserved: Reservation::default(),
            long: None,
            held: None,
        }
    }

    /// Puts long lines into files in `spool` until it is their turn to be held in memory.
    pub fn spooling(mut self, spool: &Path) -> Self {
        self.spool = Some(spool.into());
        self
    }

    /// Puts all lines of more than `bytes` there.
    pub fn holding(mut self, bytes: usize) -> Self {
        self.longest_held = bytes;
        self
    }

    /// Reads in small chunks.
    pub fn in_small_chunks(mut self) -> Self {
        self.chunk = SMALL_CHUNK;
        self.holding(SMALL_CHUNK)
    }

    /// Returns the next line, or None at the end. A last line without a newline counts. A `\r` before the newline is
    /// not part of the line.
    ///
    /// # Errors
    /// Fails if the reader or the local disk does.
    pub async fn next(&mut self) -> std::io::Result<Option<Line<'_>>> {
        self.let_go();
        Ok(match self.find().await? {
            None => None,
            Some(NextLine::Here(from, to)) => Some(Line::Whole(without_cr(&self.buffer[from..to]))),
            Some(NextLine::TooLong(size)) => Some(Line::TooLong(size)),
            Some(NextLine::Long(long)) => {
                let held = self.held.insert(long.load().await?);
                Some(Line::Whole(without_cr(held)))
            }
        })
    }

    /// Returns the next line, without loading it if it is a long one.
    ///
    /// # Errors
    /// Fails if the reader or the local disk does.
    pub async fn next_kept(&mut self) -> std::io::Result<Option<KeptLine>> {
        self.let_go();
        Ok(self.find().await?.map(|found| match found {
            NextLine::Here(from, to) => KeptLine::Short(without_cr(&self.buffer[from..to]).to_vec()),
            NextLine::Long(long) => KeptLine::Long(long),
            NextLine::TooLong(size) => KeptLine::TooLong(size),
        }))
    }

    /// Skips the next line.
    ///
    /// # Errors
    /// Fails if the reader does.
    pub async fn skip(&mut self) -> std::io::Result<()> {
        self.let_go();
        let limit = std::mem::replace(&mut self.limit, 0);
        let found = self.find().await;
        self.limit = limit;
        found.map(drop)
    }

    /// Drops the long line that was returned last, if any, and so ends its turn.
    pub fn let_go(&mut self) {
        self.held = None;
    }

    /// Returns the first `n` bytes of the next line, or all if it is shorter; None at the end.
    ///
    /// # Errors
    /// Fails if the reader does.
    pub async fn peek(&mut self, n: usize) -> std::io::Result<Option<&[u8]>> {
        loop {
            let rest = &self.buffer[self.start..];
            let end = memchr::memchr(b'\n', rest);
            if end.is_some() || rest.len() >= n || self.ended {
                let (there, end) = (end.is_some() || !rest.is_empty(), end.unwrap_or(rest.len()).min(n));
                return Ok(there.then(|| &self.buffer[self.start..self.start + end]));
            }
            self.fill().await?;
        }
    }

    /// Returns the offset of the next line in the stream, in bytes.
    pub fn offset(&self) -> u64 {
        self.dropped + self.start as u64
    }

    async fn find(&mut self) -> std::io::Result<Option<NextLine>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                let (from, to) = (self.start, self.scanned + at);
                self.start = to + 1;
                self.scanned = self.start;
                return self.found(from, to).map(Some);
            }
            self.scanned = self.buffer.len();
            if self.ended {
                let (from, to) = (self.start, self.buffer.len());
                self.start = to;
                let there = from < to || self.skipped > 0 || self.long.is_some();
                return if there { self.found(from, to).map(Some) } else { Ok(None) };
            }
            self.fill().await?;
        }
    }

    fn found(&mut self, from: usize, to: usize) -> std::io::Result<NextLine> {
        let (skipped, long) = (std::mem::take(&mut self.skipped), self.long.take());
        let size = skipped + (long.as_ref().map_or(0, SpooledLine::bytes) + to - from) as u64;
        if skipped > 0 || size > self.limit as u64 {
            return Ok(NextLine::TooLong(size));
        }
        match long {
            None => Ok(NextLine::Here(from, to)),
            Some(mut long) => {
                long.push(&self.buffer[from..to])?;
                Ok(NextLine::Long(long))
            }
        }
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        let (at_hand, before) = (self.buffer.len() - self.start, self.long.as_ref().map_or(0, SpooledLine::bytes));
        if at_hand + before > self.limit || self.skipped > 0 {
            self.skipped += (at_hand + before) as u64;
            self.long = None;
            self.start = self.buffer.len();
        } else if let Some(spool) = self.spool.as_ref().filter(|_| before > 0 || at_hand > self.longest_held) {
            let long = match &mut self.long {
                Some(long) => long,
                None => self.long.insert(SpooledLine::new(spool)?),
            };
            long.push(&self.buffer[self.start..])?;
            self.start = self.buffer.len();
        }
        self.dropped += self.start as u64;
        self.buffer.drain(..self.start);
        // The memory of a long line is returned.
        if self.buffer.capacity() > KEPT && self.buffer.len() < self.chunk {
            self.buffer.shrink_to(self.chunk);
            self.reserved.set(0).await;
        }
        self.start = 0;
        self.scanned = self.buffer.len();
        let wanted = self.buffer.len() + self.chunk;
        if wanted > self.buffer.capacity() {
            // The old and the new buffer exist while one is copied to the other.
            let grown = wanted.max(2 * self.buffer.capacity());
            if grown > FEW {
                self.reserved.set(grown).await;
            }
            self.buffer.reserve(self.chunk);
        }
        // `read_buf` would fill all of the buffer's capacity.
        self.ended = (&mut self.reader).take(self.chunk as u64).read_buf(&mut self.buffer).await? == 0;
        Ok(())
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl KeptLine {
    /// Returns the bytes, after waiting for their turn; None for a line that is longer than the limit.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn load(self) -> std::io::Result<Option<LoadedLine>> {
        match self {
            KeptLine::Short(bytes) => Ok(Some(LoadedLine::of_few(bytes))),
            KeptLine::Long(long) => {
                let mut held = long.load().await?;
                let length = without_cr(&held).len();
                held.truncate(length);
                Ok(Some(held))
            }
            KeptLine::TooLong(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
