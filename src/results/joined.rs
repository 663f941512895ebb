//! All that came back, request by request, in the order of the input.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::Stream;
use serde_json::value::RawValue;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::line::{Ended, LINE_LIMIT, PartLine};
use super::write::WriteError;
use crate::store::{Folder, IndexEntry, Line, Lines, layout, staged};

/// One shard at its end.
pub struct Settled {
    /// SHA-256 of what was sent; names its index.
    pub sha256: String,
    /// 0 for the input's own shards; later rounds hold what earlier ones left without an answer.
    pub round: u32,
    /// What came back; None where it was never executed or given up.
    pub part: Option<Part>,
    /// Whether a person gave its answers up: its requests are not sent again.
    pub given_up: bool,
    /// Code and message of requests that no part speaks of.
    pub absent: (&'static str, String),
}

/// What came back of a shard.
pub struct Part {
    /// Object name.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

/// One request and everything that came back for it.
pub(super) struct Request {
    pub entry: IndexEntry,
    /// As it was sent, where that was asked for.
    pub sent: Option<Vec<u8>>,
    /// By round.
    pub answers: Vec<Answer>,
    /// Whether a person gave its answer up.
    pub given_up: bool,
    /// Code and message in case nothing came back.
    pub absent: (&'static str, String),
}

pub(super) struct Answer {
    pub round: u32,
    pub ended: Ended,
    pub line: Box<RawValue>,
}

type Content = Box<dyn AsyncRead + Unpin + Send>;

/// Reads the input's own shards one after the other, and the parts of later rounds beside them.
pub(super) struct Joined<'a> {
    folder: &'a Folder,
    work_id: &'a str,
    with_requests: bool,
    waiting: VecDeque<Settled>,
    open: Option<Open>,
    later: Vec<Cursor>,
}

struct Open {
    index: Lines<Content>,
    sent: Option<Lines<Content>>,
    part: Cursor,
    given_up: bool,
    absent: (&'static str, String),
}

/// A part that is being read; its lines are in the order of the index.
struct Cursor {
    round: u32,
    lines: Lines<Content>,
    head: Option<(i64, Answer)>,
}

impl<'a> Joined<'a> {
    pub async fn open(
        folder: &'a Folder,
        work_id: &'a str,
        shards: Vec<Settled>,
        with_requests: bool,
    ) -> Result<Joined<'a>, WriteError> {
        let (base, rounds): (Vec<_>, Vec<_>) = shards.into_iter().partition(|s| s.round == 0);
        let mut later = vec![];
        for shard in &rounds {
            later.push(Cursor::open(folder, shard).await?);
        }
        Ok(Joined { folder, work_id, with_requests, waiting: base.into(), open: None, later })
    }

    /// The next request; None after the last.
    pub async fn next(&mut self) -> Result<Option<Request>, WriteError> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(shard) = self.waiting.pop_front() else { return self.end() };
                self.open = Some(Open::new(self.folder, self.work_id, shard, self.with_requests).await?);
                continue;
            };
            let Some(entry) = next_line(&mut open.index).await? else {
                if open.part.head.is_some() {
                    return Err(WriteError::Corrupt("a part holds answers that no request asked for".into()));
                }
                self.open = None;
                continue;
            };
            let entry: IndexEntry = serde_json::from_slice(&entry).map_err(corrupt)?;
            let sent = match &mut open.sent {
                Some(lines) => next_line(lines).await?,
                None => None,
            };
            let mut answers = vec![];
            for cursor in std::iter::once(&mut open.part).chain(&mut self.later) {
                answers.extend(cursor.take(entry.index).await?);
            }
            return Ok(Some(Request { entry, sent, answers, given_up: open.given_up, absent: open.absent.clone() }));
        }
    }

    fn end(&self) -> Result<Option<Request>, WriteError> {
        match self.later.iter().any(|c| c.head.is_some()) {
            true => Err(WriteError::Corrupt("a part holds answers that no request asked for".into())),
            false => Ok(None),
        }
    }
}

impl Open {
    async fn new(folder: &Folder, work_id: &str, shard: Settled, with_requests: bool) -> Result<Open, WriteError> {
        let index: Content = Box::new(staged::open(folder, &layout::index(work_id, &shard.sha256)).await?);
        let sent: Option<Content> = match with_requests {
            true => {
                Some(reader(staged::verified(folder, &layout::shard(work_id, &shard.sha256), &shard.sha256).await?))
            }
            false => None,
        };
        let part = Cursor::open(folder, &shard).await?;
        let lines = |content| Lines::new(content, LINE_LIMIT);
        Ok(Open { index: lines(index), sent: sent.map(lines), part, given_up: shard.given_up, absent: shard.absent })
    }
}

impl Cursor {
    async fn open(folder: &Folder, shard: &Settled) -> Result<Cursor, WriteError> {
        let content: Content = match &shard.part {
            Some(part) => reader(staged::verified(folder, &part.name, &part.sha256).await?),
            None => Box::new(tokio::io::empty()),
        };
        let mut cursor = Cursor { round: shard.round, lines: Lines::new(content, LINE_LIMIT + 1024), head: None };
        cursor.advance().await?;
        Ok(cursor)
    }

    async fn advance(&mut self) -> Result<(), WriteError> {
        self.head = match next_line(&mut self.lines).await? {
            Some(line) => {
                let line: PartLine = serde_json::from_slice(&line).map_err(corrupt)?;
                Some((line.index, Answer { round: self.round, ended: line.ended, line: line.line.to_owned() }))
            }
            None => None,
        };
        Ok(())
    }

    async fn take(&mut self, index: i64) -> Result<Option<Answer>, WriteError> {
        match self.head.take_if(|(at, _)| *at == index) {
            Some((_, answer)) => {
                self.advance().await?;
                Ok(Some(answer))
            }
            None => Ok(None),
        }
    }
}

fn reader(content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Content {
    Box::new(StreamReader::new(Box::pin(content)))
}

async fn next_line(lines: &mut Lines<Content>) -> Result<Option<Vec<u8>>, WriteError> {
    match lines.next().await? {
        Some(Line::Whole(line)) => Ok(Some(line.to_vec())),
        Some(Line::TooLong(size)) => Err(WriteError::Corrupt(format!("a staged line has {size} bytes"))),
        None => Ok(None),
    }
}

pub(super) fn corrupt(error: serde_json::Error) -> WriteError {
    WriteError::Corrupt(error.to_string())
}
