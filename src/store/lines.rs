//! Lines of a stream, in bounded memory.

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longest request or answer, as a line, in bytes.
pub const LINE_LIMIT: usize = 32 << 20;

/// Larger lines take turns: each takes several times its length in memory until it is dealt with.
const LARGE: usize = 4 << 20;
static LARGE_ONES: Semaphore = Semaphore::const_new(1);

/// The right to hold a large line, of which there is one in the process.
#[derive(Debug, Default)]
pub struct Turn(Option<SemaphorePermit<'static>>);

impl Turn {
    /// Waits for it where `bytes` are many. Whoever has a turn must not wait for another one.
    pub async fn take(&mut self, bytes: usize) {
        if self.0.is_none() && bytes > LARGE {
            self.0 = LARGE_ONES.acquire().await.ok();
        }
    }
}

/// Reads line by line. A line that is longer than the limit is skipped and reported, not held.
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What of `buffer` was given out.
    start: usize,
    /// What of `buffer` holds no newline for sure.
    scanned: usize,
    limit: usize,
    ended: bool,
    /// Bytes of a line that is being skipped.
    skipped: u64,
    /// Bytes that left `buffer`.
    dropped: u64,
    /// While the line at hand is a large one; None where lines take no turns.
    turn: Option<Turn>,
}

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes.
    Whole(&'a [u8]),
    /// It is longer than the limit; its size in bytes.
    TooLong(u64),
}

const CHUNK: usize = 64 << 10;
/// What is kept of the room that a long line took.
const KEPT: usize = 1 << 20;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of `reader`, each at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Lines {
            reader,
            buffer: Vec::with_capacity(CHUNK),
            start: 0,
            scanned: 0,
            limit,
            ended: false,
            skipped: 0,
            dropped: 0,
            turn: None,
        }
    }

    /// The same for what holds one line at a time, of which large ones wait for one another: over all readers like it, one is
    /// read and dealt with.
    pub fn taking_turns(mut self) -> Self {
        self.turn = Some(Turn::default());
        self
    }

    /// The next line; None at the end. A last line without a newline counts; `\r` before the newline does not.
    ///
    /// # Errors
    /// What the reader says.
    pub async fn next(&mut self) -> std::io::Result<Option<Line<'_>>> {
        if let Some(turn) = &mut self.turn {
            // What the last one took goes with its turn.
            if turn.0.is_some() {
                self.dropped += self.start as u64;
                self.buffer.drain(..self.start);
                self.buffer.shrink_to(CHUNK);
                (self.start, self.scanned) = (0, 0);
            }
            *turn = Turn::default();
        }
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                let (from, to) = (self.start, self.scanned + at);
                self.start = to + 1;
                self.scanned = self.start;
                return Ok(Some(self.line(from, to)));
            }
            self.scanned = self.buffer.len();
            if self.ended {
                let (from, to) = (self.start, self.buffer.len());
                self.start = to;
                return Ok((from < to || self.skipped > 0).then(|| self.line(from, to)));
            }
            self.fill().await?;
        }
    }

    /// Where the next line begins, in bytes from the start.
    pub fn offset(&self) -> u64 {
        self.dropped + self.start as u64
    }

    fn line(&mut self, from: usize, to: usize) -> Line<'_> {
        let size = self.skipped + (to - from) as u64;
        if std::mem::take(&mut self.skipped) > 0 || to - from > self.limit {
            return Line::TooLong(size);
        }
        let line = &self.buffer[from..to];
        Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        if self.buffer.len() - self.start > self.limit {
            self.skipped += (self.buffer.len() - self.start) as u64;
            self.dropped += self.buffer.len() as u64;
            self.buffer.clear();
        } else {
            self.dropped += self.start as u64;
            self.buffer.drain(..self.start);
            // What a long line took is given back.
            if self.buffer.capacity() > KEPT && self.buffer.len() < CHUNK {
                self.buffer.shrink_to(CHUNK);
            }
        }
        self.start = 0;
        self.scanned = self.buffer.len();
        if let Some(turn) = &mut self.turn {
            turn.take(self.buffer.len()).await;
        }
        self.buffer.reserve(CHUNK);
        self.ended = self.reader.read_buf(&mut self.buffer).await? == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8], limit: usize) -> Vec<Result<String, u64>> {
        let mut lines = Lines::new(text, limit);
        let mut out = vec![];
        while let Some(line) = lines.next().await.unwrap() {
            out.push(match line {
                Line::Whole(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
                Line::TooLong(size) => Err(size),
            });
        }
        out
    }

    #[tokio::test]
    async fn lines_end_as_people_end_them() {
        assert_eq!(all(b"a\r\n\nb", 10).await, [Ok("a".into()), Ok("".into()), Ok("b".into())]);
        assert_eq!(all(b"", 10).await, []);
        assert_eq!(all(b"a\n", 10).await, [Ok("a".into())]);
    }

    #[tokio::test]
    async fn a_long_line_is_skipped_and_the_next_is_read() {
        let mut text = vec![b'x'; 300_000];
        text.extend_from_slice(b"\nnext\n");
        assert_eq!(all(&text, 1000).await, [Err(300_000), Ok("next".into())]);
        assert_eq!(all(b"12345\nab", 4).await, [Err(5), Ok("ab".into())]);
    }

    #[tokio::test]
    async fn offsets_say_where_lines_begin() {
        let text = format!("{}\r\nbb\n{}\nc", "a".repeat(100_000), "d".repeat(200_000));
        let mut lines = Lines::new(text.as_bytes(), 150_000);
        let mut starts = vec![lines.offset()];
        while lines.next().await.unwrap().is_some() {
            starts.push(lines.offset());
        }
        assert_eq!(starts, [0, 100_002, 100_005, 300_006, 300_007]);
    }
}
