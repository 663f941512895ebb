//! The join of all parts: everything that came back, request by request, in the order of the input.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use tokio_util::io::StreamReader;

use super::index::{Content, INDEX_LINE_LIMIT, index_content, next_entry};
use super::line::{self, LineOutcome};
use super::settled::{SettledShard, ShardQueue};
use super::write::WriteError;
use crate::store::{Folder, HEAVY, IndexEntry, KeptLine, LINE_LIMIT, Lines, LoadedLine, Sorted, layout, staged};

/// Most lanes (shards of one model and round) that are joined side by side: sixteen models with eleven rounds each, and one of
/// shards with reused answers.
pub const LANES_LIMIT: usize = 16 * 11 + 1;
/// Most later rounds and models whose files are read directly from the store. Beyond that, each file is unpacked to
/// local disk when it is opened, because a decoder takes ten times the memory of a reader of lines.
pub const LATER_LANES: usize = 4;
/// Most models whose lines are read in chunks of the usual size. With more models, chunks are small.
pub const FEW_MODELS: usize = 8;
/// Readers of a base shard: of its index, its requests and its answers.
pub const BASE_READERS: usize = 3;

/// One request and everything that came back for it.
pub(super) struct Request {
    pub entry: IndexEntry,
    pub model: Arc<str>,
    /// The request as it was sent; None unless asked for.
    pub sent: Option<KeptLine>,
    /// Rounds in which it was sent; only the first unless asked for.
    pub asked: Vec<u32>,
    /// The end of each of its answers, with its round.
    pub ends: Vec<(u32, LineOutcome)>,
    /// The answer that counts, a line of a part: the first that succeeded, or else the last.
    pub answer: Option<KeptLine>,
    /// Whether a person gave up its answer.
    pub given_up: bool,
    /// Code and message for the case that nothing came back.
    pub absent: (Cow<'static, str>, String),
}

impl Request {
    /// Whether the answer that counts succeeded.
    pub fn succeeded(&self) -> bool {
        self.ends.iter().any(|(_, ended)| *ended == LineOutcome::Succeeded)
    }
}

/// The beginning of a part's next line.
#[derive(Clone, Copy)]
struct Head {
    index: i64,
    round: u32,
    ended: LineOutcome,
}

/// The requests in the shards of one later round, in the order of the index.
struct RoundRequests {
    round: u32,
    waiting: ShardQueue,
    open: Option<Lines<Content>>,
    next: Option<i64>,
}

/// The data that a join reads beside the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinInputs {
    /// Nothing else.
    Answers,
    /// The requests as they were sent.
    Requests,
    /// The requests as they were sent, and the rounds in which they were.
    Rounds,
}

/// A join of the input's own shards with the parts of later rounds, side by side. Shards of one round and model follow
/// each other, so only one of them is open at a time, and each is opened when its first request is reached.
pub(super) struct Join<'a> {
    staged: Staged<'a>,
    /// Number of models of shards that were sent.
    models: usize,
    base: Vec<Lane>,
    later: Vec<Answers>,
    asked: Vec<RoundRequests>,
}

/// The place of staged files, and the data that is read of them.
#[derive(Clone, Copy)]
struct Staged<'a> {
    folder: &'a Folder,
    work_id: &'a str,
    /// Directory in which long lines wait.
    spool: &'a Path,
    with: JoinInputs,
    /// Whether files of later rounds are unpacked to local disk first.
    unpacks: bool,
    /// Whether there are more than [`FEW_MODELS`] models. Files of shards with reused answers are then unpacked to local disk
    /// first.
    in_small_chunks: bool,
}

impl Staged<'_> {
    /// Returns a reader of the lines of a base shard.
    async fn lines(self, content: Content, limit: usize, reused: bool) -> std::io::Result<Lines<Content>> {
        let content: Content = match reused && self.in_small_chunks {
            true => Box::new(staged::unpacked_to(self.spool, content).await?),
            false => content,
        };
        let lines = Lines::new(content, limit).spooling(self.spool).holding(HEAVY);
        Ok(if self.in_small_chunks { lines.in_small_chunks() } else { lines })
    }

    /// Returns the content of a later round's file, unpacked to local disk if need be.
    async fn later(self, content: Content) -> std::io::Result<Content> {
        Ok(if self.unpacks { Box::new(staged::unpacked_to(self.spool, content).await?) } else { content })
    }
}

/// The input's own shards of one model, or those with reused answers.
struct Lane {
    model: Arc<str>,
    waiting: ShardQueue,
    open: Option<Open>,
}

struct Open {
    /// The next request.
    entry: IndexEntry,
    index: Lines<Content>,
    sent: Option<Lines<Content>>,
    answers: Answers,
    given_up: bool,
    absent: (Cow<'static, str>, String),
}

/// The answers to some shards of one round, in the order of the index.
struct Answers {
    /// Shards that may have answers.
    waiting: ShardQueue,
    open: Option<(u32, Lines<Content>)>,
    /// Beginning of the next line. The line itself, which may hold an answer of 32 MiB, is read when its request is
    /// reached.
    head: Option<Head>,
}

impl<'a> Join<'a> {
    /// Joins all shards, without opening any yet.
    ///
    /// # Errors
    /// Fails if the local disk does, or if there are more rounds and models than any work has.
    pub fn new(
        folder: &'a Folder,
        work_id: &'a str,
        shards: Sorted<SettledShard>,
        with: JoinInputs,
        spool: &'a Path,
    ) -> Result<Join<'a>, WriteError> {
        Join::of(folder, work_id, shards, |_| true, with, spool)
    }

    /// Joins the shards of `models` alone.
    ///
    /// # Errors
    /// As in [`Join::new`].
    pub fn of(
        folder: &'a Folder,
        work_id: &'a str,
        mut shards: Sorted<SettledShard>,
        models: impl Fn(&str) -> bool,
        with: JoinInputs,
        spool: &'a Path,
    ) -> Result<Join<'a>, WriteError> {
        let staged = Staged { folder, work_id, spool, with, unpacks: false, in_small_chunks: false };
        let mut joined = Join { staged, models: 0, base: vec![], later: vec![], asked: vec![] };
        let mut last: Option<SettledShard> = None;
        while let Some(shard) = shards.next().transpose()? {
            if models(&shard.model) && last.as_ref().is_none_or(|last| last.lane() != shard.lane()) {
                joined.add_lane(&shard, &shards)?;
            }
            last = Some(shard);
        }
        Ok(joined)
    }

    /// Adds the round and model whose first shard is `first`.
    fn add_lane(&mut self, first: &SettledShard, others: &Sorted<SettledShard>) -> Result<(), WriteError> {
        if self.base.len() + self.later.len() == LANES_LIMIT {
            return Err(WriteError::Corrupt(format!("shards of more than {LANES_LIMIT} rounds and models")));
        }
        let waiting = |of_parts| ShardQueue::new(first.clone(), others.clone(), of_parts);
        if first.round == 0 {
            self.base.push(Lane { model: first.model.as_str().into(), waiting: waiting(false)?, open: None });
            self.models += usize::from(!first.reused);
            self.staged.in_small_chunks = self.models > FEW_MODELS;
            return Ok(());
        }
        if self.staged.with == JoinInputs::Rounds {
            self.asked.push(RoundRequests { round: first.round, waiting: waiting(false)?, open: None, next: None });
        }
        self.later.push(Answers::of(waiting(true)?));
        self.staged.unpacks = self.later.len() > LATER_LANES;
        Ok(())
    }

    /// Returns the next request; None after the last.
    pub async fn next(&mut self) -> Result<Option<Request>, WriteError> {
        loop {
            let first = self.base.iter().enumerate().filter_map(|(i, lane)| Some((lane.next()?, i))).min();
            let Some((_, first)) = first else { return self.end() };
            let mut lane = self.base.swap_remove(first);
            let request = match &lane.open {
                Some(_) => Some(self.take(&mut lane).await?),
                None => lane.open(self.staged).await.map(|()| None)?,
            };
            self.base.push(lane);
            if request.is_some() {
                return Ok(request);
            }
        }
    }

    async fn take(&mut self, lane: &mut Lane) -> Result<Request, WriteError> {
        let open = lane.open.as_mut().ok_or_else(|| WriteError::Corrupt("no shard is open".into()))?;
        let sent = match &mut open.sent {
            Some(lines) => lines.next_kept().await?,
            None => None,
        };
        let (mut ends, mut answer) = (vec![], None);
        for parts in std::iter::once(&mut open.answers).chain(&mut self.later) {
            let Some(Head { round, ended, .. }) = parts.head_of(self.staged, open.entry.index).await? else {
                continue;
            };
            let succeeded = ends.iter().any(|(_, ended)| *ended == LineOutcome::Succeeded);
            ends.push((round, ended));
            match succeeded {
                true => parts.skip().await?,
                false => answer = Some(parts.line().await?),
            }
        }
        let mut asked = vec![0];
        for round in &mut self.asked {
            asked.extend(round.take(self.staged, open.entry.index).await?);
        }
        let (model, absent) = (lane.model.clone(), open.absent.clone());
        let entry = match next_entry(&mut open.index).await? {
            Some(next) => std::mem::replace(&mut open.entry, next),
            None => {
                let entry = open.entry.clone();
                open.answers.end()?;
                let given_up = open.given_up;
                lane.open = None;
                return Ok(Request { entry, model, sent, asked, ends, answer, given_up, absent });
            }
        };
        Ok(Request { entry, model, sent, asked, ends, answer, given_up: open.given_up, absent })
    }

    fn end(&self) -> Result<Option<Request>, WriteError> {
        self.later.iter().try_for_each(Answers::end)?;
        Ok(None)
    }
}

impl Lane {
    /// Returns the index of the next request.
    fn next(&self) -> Option<i64> {
        let open = self.open.as_ref().map(|open| open.entry.index);
        open.or_else(|| self.waiting.next.as_ref().map(|shard| shard.first))
    }

    async fn open(&mut self, of: Staged<'_>) -> Result<(), WriteError> {
        let Some(shard) = self.waiting.take(i64::MAX)? else { return Ok(()) };
        self.open = Open::new(of, shard).await?;
        Ok(())
    }
}

impl Open {
    async fn new(of: Staged<'_>, shard: SettledShard) -> Result<Option<Open>, WriteError> {
        let Staged { folder, work_id, with, .. } = of;
        let sent: Option<Content> = match with {
            JoinInputs::Answers => None,
            JoinInputs::Requests | JoinInputs::Rounds => {
                Some(reader(staged::verified(folder, &layout::shard(work_id, &shard.sha256), &shard.sha256).await?))
            }
        };
        let sent = match sent {
            Some(sent) => Some(of.lines(sent, LINE_LIMIT, shard.reused).await?),
            None => None,
        };
        let index = index_content(folder, work_id, &shard.index).await?;
        let mut index = match shard.reused {
            true => of.lines(index, INDEX_LINE_LIMIT, true).await?,
            false => Lines::new(index, INDEX_LINE_LIMIT),
        };
        let Some(entry) = next_entry(&mut index).await? else { return Ok(None) };
        let (given_up, absent) = (shard.given_up, shard.absent.clone());
        let answers = Answers::of(ShardQueue::one(shard));
        Ok(Some(Open { entry, index, sent, answers, given_up, absent }))
    }
}

impl RoundRequests {
    async fn advance(&mut self) -> Result<(), WriteError> {
        self.next = match &mut self.open {
            Some(lines) => next_entry(lines).await?.map(|entry| entry.index),
            None => None,
        };
        Ok(())
    }

    /// Returns the round if the request was sent in it.
    async fn take(&mut self, of: Staged<'_>, index: i64) -> Result<Option<u32>, WriteError> {
        while self.next.is_none()
            && let Some(shard) = self.waiting.take(index)?
        {
            let content = index_content(of.folder, of.work_id, &shard.index).await?;
            let lines = Lines::new(of.later(content).await?, INDEX_LINE_LIMIT);
            self.open = Some(if of.unpacks { lines.in_small_chunks() } else { lines });
            self.advance().await?;
        }
        if self.next != Some(index) {
            return Ok(None);
        }
        self.advance().await?;
        Ok(Some(self.round))
    }
}

impl Answers {
    fn of(waiting: ShardQueue) -> Answers {
        Answers { waiting, open: None, head: None }
    }

    async fn advance(&mut self) -> Result<(), WriteError> {
        self.head = None;
        if let Some((round, lines)) = &mut self.open
            && let Some(start) = lines.peek(line::HEAD).await?
        {
            let (index, ended) = line::head(start).ok_or_else(|| WriteError::Corrupt("no line of a part".into()))?;
            self.head = Some(Head { index, round: *round, ended });
        }
        Ok(())
    }

    /// Returns the beginning of the next line if that is the request's.
    async fn head_of(&mut self, of: Staged<'_>, index: i64) -> Result<Option<Head>, WriteError> {
        while self.head.is_none()
            && let Some(SettledShard { round, part: Some(part), reused, .. }) = self.waiting.take(index)?
        {
            let content: Content = reader(staged::verified(of.folder, &part.name, &part.sha256).await?);
            let lines = match round > 0 {
                true if of.unpacks => {
                    Lines::new(of.later(content).await?, LINE_LIMIT + 1024).spooling(of.spool).in_small_chunks()
                }
                _ => of.lines(content, LINE_LIMIT + 1024, reused).await?,
            };
            self.open = Some((round, lines));
            self.advance().await?;
        }
        Ok(self.head.filter(|head| head.index == index))
    }

    /// Returns the next line.
    async fn line(&mut self) -> Result<KeptLine, WriteError> {
        let line = match &mut self.open {
            Some((_, lines)) => lines.next_kept().await?,
            None => None,
        };
        self.advance().await?;
        line.ok_or_else(|| WriteError::Corrupt("a part ends before its last line".into()))
    }

    async fn skip(&mut self) -> Result<(), WriteError> {
        if let Some((_, lines)) = &mut self.open {
            lines.skip().await?;
        }
        self.advance().await
    }

    fn end(&self) -> Result<(), WriteError> {
        match self.head.is_some() || self.waiting.next.is_some() {
            true => Err(WriteError::Corrupt("a part holds answers that no request asked for".into())),
            false => Ok(()),
        }
    }
}

fn reader(content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Content {
    Box::new(StreamReader::new(Box::pin(content)))
}

/// Loads a line into memory, after waiting for its turn if it is a long one. The line has to be dropped before the next
/// is loaded, and before a wait for the store.
pub(super) async fn loaded(line: Option<KeptLine>) -> Result<LoadedLine, WriteError> {
    match line {
        Some(KeptLine::TooLong(size)) => Err(WriteError::Corrupt(format!("a staged line has {size} bytes"))),
        Some(line) => line.load().await?.ok_or_else(|| WriteError::Corrupt("a staged line is missing".into())),
        None => Err(WriteError::Corrupt("a staged request is missing".into())),
    }
}
