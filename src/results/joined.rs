//! All that came back, request by request, in the order of the input.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use serde_json::value::RawValue;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::line::{Ended, PartLine};
use super::write::WriteError;
use crate::store::{Folder, IndexEntry, LINE_LIMIT, Line, Lines, layout, staged};

/// One shard at its end.
#[derive(Clone)]
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
    pub absent: (&'static str, String),
}

/// What came back of a shard.
#[derive(Clone)]
pub struct Part {
    /// Object name.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

/// One request and everything that came back for it.
pub(super) struct Request {
    pub entry: IndexEntry,
    pub model: Arc<str>,
    /// As it was sent, where that was asked for.
    pub sent: Option<Vec<u8>>,
    /// Rounds that it was sent in, where that was asked for.
    pub asked: Vec<u32>,
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

/// What some shards of one later round hold, in the order of the index.
struct Asked {
    round: u32,
    /// Names of their indexes.
    waiting: VecDeque<String>,
    open: Option<Lines<Content>>,
    next: Option<i64>,
}

type Content = Box<dyn AsyncRead + Unpin + Send>;

/// What is read of requests beside their answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    /// Nothing.
    Answers,
    /// Themselves, as they were sent.
    Requests,
    /// Themselves, and the rounds that they were sent in.
    Rounds,
}

/// Reads the input's own shards and the parts of later rounds side by side. Shards of one round and model follow each other,
/// so that one of them is open at a time.
pub(super) struct Joined<'a> {
    folder: &'a Folder,
    work_id: &'a str,
    with: With,
    base: Vec<Lane>,
    later: Vec<Answers>,
    asked: Vec<Asked>,
}

/// The input's own shards of one model.
struct Lane {
    model: Arc<str>,
    waiting: VecDeque<Settled>,
    open: Option<Open>,
}

struct Open {
    /// The next request.
    entry: IndexEntry,
    index: Lines<Content>,
    sent: Option<Lines<Content>>,
    answers: Answers,
    given_up: bool,
    absent: (&'static str, String),
}

/// What came back of some shards of one round, in the order of the index.
struct Answers {
    waiting: VecDeque<(u32, Part)>,
    open: Option<(u32, Lines<Content>)>,
    head: Option<(i64, Answer)>,
}

impl<'a> Joined<'a> {
    pub async fn open(
        folder: &'a Folder,
        work_id: &'a str,
        mut shards: Vec<Settled>,
        with: With,
    ) -> Result<Joined<'a>, WriteError> {
        shards.sort_by_key(|s| s.first);
        let mut lanes: BTreeMap<(u32, String), VecDeque<Settled>> = BTreeMap::new();
        for shard in shards {
            lanes.entry((shard.round, shard.model.clone())).or_default().push_back(shard);
        }
        let mut joined = Joined { folder, work_id, with, base: vec![], later: vec![], asked: vec![] };
        for ((round, model), waiting) in lanes {
            if round == 0 {
                let mut lane = Lane { model: model.into(), waiting, open: None };
                lane.open_next(folder, work_id, with).await?;
                joined.base.push(lane);
            } else {
                if with == With::Rounds {
                    let waiting = waiting.iter().map(|s| s.index.clone()).collect();
                    joined.asked.push(Asked::open(folder, work_id, round, waiting).await?);
                }
                let parts = waiting.into_iter().filter_map(|s| Some((s.round, s.part?)));
                joined.later.push(Answers::open(folder, parts.collect()).await?);
            }
        }
        Ok(joined)
    }

    /// The next request; None after the last.
    pub async fn next(&mut self) -> Result<Option<Request>, WriteError> {
        let index = |lane: &Lane| lane.open.as_ref().map(|open| open.entry.index);
        let first = (0..self.base.len()).filter(|i| self.base[*i].open.is_some()).min_by_key(|i| index(&self.base[*i]));
        let Some(first) = first else { return self.end() };
        let mut lane = self.base.swap_remove(first);
        let request = self.take(&mut lane).await?;
        self.base.push(lane);
        Ok(Some(request))
    }

    async fn take(&mut self, lane: &mut Lane) -> Result<Request, WriteError> {
        let open = lane.open.as_mut().ok_or_else(|| WriteError::Corrupt("no shard is open".into()))?;
        let sent = match &mut open.sent {
            Some(lines) => next_line(lines).await?,
            None => None,
        };
        let mut answers = vec![];
        for parts in std::iter::once(&mut open.answers).chain(&mut self.later) {
            answers.extend(parts.take(self.folder, open.entry.index).await?);
        }
        let mut asked = vec![0];
        for round in &mut self.asked {
            asked.extend(round.take(self.folder, self.work_id, open.entry.index).await?);
        }
        let (model, absent) = (lane.model.clone(), open.absent.clone());
        let entry = match next_entry(&mut open.index).await? {
            Some(next) => std::mem::replace(&mut open.entry, next),
            None => {
                let entry = open.entry.clone();
                open.answers.end()?;
                let request = Request { entry, model, sent, asked, answers, given_up: open.given_up, absent };
                lane.open_next(self.folder, self.work_id, self.with).await?;
                return Ok(request);
            }
        };
        Ok(Request { entry, model, sent, asked, answers, given_up: open.given_up, absent })
    }

    fn end(&self) -> Result<Option<Request>, WriteError> {
        self.later.iter().try_for_each(Answers::end)?;
        Ok(None)
    }
}

impl Lane {
    async fn open_next(&mut self, folder: &Folder, work_id: &str, with: With) -> Result<(), WriteError> {
        self.open = None;
        while self.open.is_none() {
            let Some(shard) = self.waiting.pop_front() else { break };
            self.open = Open::new(folder, work_id, shard, with).await?;
        }
        Ok(())
    }
}

impl Open {
    async fn new(folder: &Folder, work_id: &str, shard: Settled, with: With) -> Result<Option<Open>, WriteError> {
        let sent: Option<Content> = match with {
            With::Answers => None,
            With::Requests | With::Rounds => {
                Some(reader(staged::verified(folder, &layout::shard(work_id, &shard.sha256), &shard.sha256).await?))
            }
        };
        let mut index = index_lines(folder, work_id, &shard.index).await?;
        let Some(entry) = next_entry(&mut index).await? else { return Ok(None) };
        let answers = Answers::open(folder, shard.part.into_iter().map(|p| (shard.round, p)).collect()).await?;
        let (sent, given_up, absent) = (sent.map(|sent| Lines::new(sent, LINE_LIMIT)), shard.given_up, shard.absent);
        Ok(Some(Open { entry, index, sent, answers, given_up, absent }))
    }
}

impl Asked {
    async fn open(folder: &Folder, work_id: &str, round: u32, waiting: VecDeque<String>) -> Result<Asked, WriteError> {
        let mut asked = Asked { round, waiting, open: None, next: None };
        asked.advance(folder, work_id).await?;
        Ok(asked)
    }

    async fn advance(&mut self, folder: &Folder, work_id: &str) -> Result<(), WriteError> {
        self.next = None;
        loop {
            if let Some(lines) = &mut self.open
                && let Some(entry) = next_entry(lines).await?
            {
                self.next = Some(entry.index);
                return Ok(());
            }
            let Some(index) = self.waiting.pop_front() else { return Ok(()) };
            self.open = Some(index_lines(folder, work_id, &index).await?);
        }
    }

    /// The round, if it holds the request.
    async fn take(&mut self, folder: &Folder, work_id: &str, index: i64) -> Result<Option<u32>, WriteError> {
        if self.next != Some(index) {
            return Ok(None);
        }
        self.advance(folder, work_id).await?;
        Ok(Some(self.round))
    }
}

impl Answers {
    async fn open(folder: &Folder, waiting: VecDeque<(u32, Part)>) -> Result<Answers, WriteError> {
        let mut answers = Answers { waiting, open: None, head: None };
        answers.advance(folder).await?;
        Ok(answers)
    }

    async fn advance(&mut self, folder: &Folder) -> Result<(), WriteError> {
        self.head = None;
        loop {
            if let Some((round, lines)) = &mut self.open
                && let Some(line) = next_line(lines).await?
            {
                let line: PartLine = serde_json::from_slice(&line).map_err(corrupt)?;
                self.head = Some((line.index, Answer { round: *round, ended: line.ended, line: line.line.to_owned() }));
                return Ok(());
            }
            let Some((round, part)) = self.waiting.pop_front() else { return Ok(()) };
            let content: Content = reader(staged::verified(folder, &part.name, &part.sha256).await?);
            self.open = Some((round, Lines::new(content, LINE_LIMIT + 1024)));
        }
    }

    async fn take(&mut self, folder: &Folder, index: i64) -> Result<Option<Answer>, WriteError> {
        match self.head.take_if(|(at, _)| *at == index) {
            Some((_, answer)) => {
                self.advance(folder).await?;
                Ok(Some(answer))
            }
            None => Ok(None),
        }
    }

    fn end(&self) -> Result<(), WriteError> {
        match self.head {
            Some(_) => Err(WriteError::Corrupt("a part holds answers that no request asked for".into())),
            None => Ok(()),
        }
    }
}

async fn index_lines(folder: &Folder, work_id: &str, index: &str) -> Result<Lines<Content>, WriteError> {
    let content: Content = Box::new(staged::open(folder, &layout::index(work_id, index)).await?);
    Ok(Lines::new(content, LINE_LIMIT))
}

async fn next_entry(index: &mut Lines<Content>) -> Result<Option<IndexEntry>, WriteError> {
    next_line(index).await?.map(|line| serde_json::from_slice(&line).map_err(corrupt)).transpose()
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
