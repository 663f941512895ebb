//! Assignment of the lines in files of answers to requests, with the end of each request.

use std::io::SeekFrom;
use std::path::Path;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, BufReader};

use super::ending::RequestEnd;
use super::frames::{Bracket, Brackets, named, objects};
use super::line::{LineOutcome, ProviderLine};
use super::repair::{repaired, text};
use crate::api::{BatchUsage, TokenUsage};
use crate::store::{LINE_LIMIT, Line, Lines, LongLineTurn};

/// Most bytes of an unreadable line that `errors.jsonl` quotes.
pub(super) const QUOTED: usize = 1 << 20;
/// Bytes of a line that is too long in which the id of its request is searched.
const HEAD: u64 = 4 << 10;
/// Most stretches of lines that are not objects themselves in which objects over many lines are searched.
const STRETCHES: usize = 100_000;

/// The place of a request's line in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinePlace {
    pub index: i64,
    pub ended: LineOutcome,
    pub offset: u64,
    /// Bytes of the line that are read.
    pub len: u32,
    pub kind: LineKind,
}

/// The treatment of a request's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// The line is valid JSON.
    Plain,
    /// The line is valid JSON once it is [`repaired`].
    Repaired,
    /// The line is unreadable except for the id of its request. The size is in bytes.
    Unreadable(u64),
    /// The line is unreadable, and names other requests as well.
    Shared,
    /// The line is longer than allowed. The size is in bytes.
    TooLong(u64),
    /// No line names the request, but an unreadable line without an id may be its.
    Nameless,
}

/// The content of files of answers.
#[derive(Debug, Default)]
pub(super) struct ScanResult {
    /// At most one place for each request, in order.
    pub places: Vec<LinePlace>,
    /// Requests that no line names, in order.
    pub unanswered: Vec<i64>,
    /// Lines that are not an answer of the batch: of another work, or out of range.
    pub foreign: u64,
    /// Tokens and kinds of answers, of each request once, and the number of rows that repeat a request.
    pub usage: BatchUsage,
    /// Tokens of the requests that succeeded.
    pub succeeded: TokenUsage,
    /// Lines that cannot be read and name no request of the batch. `nameless` has offset and length of the first of
    /// them.
    pub unreadable: u64,
    pub nameless: Vec<(u64, u64)>,
    /// Lines that break off.
    pub cut_off: u64,
}

impl LineKind {
    /// Returns whether the line is read as the answer that it is.
    pub fn is_read(self) -> bool {
        matches!(self, LineKind::Plain | LineKind::Repaired)
    }
}

struct Scan<'a> {
    work_id: &'a str,
    /// Indexes of the batch's requests, in order.
    asked: &'a [i64],
    /// Input tokens above which a request is one with a long context.
    long_context_above: Option<i64>,
    /// Places, by position in `asked`.
    places: Vec<Option<LinePlace>>,
    /// Position after that of the last valid line.
    next: usize,
    scanned: ScanResult,
    /// Directory in which long lines wait.
    spool: &'a Path,
}

/// Consecutive lines of which none is an object by itself.
struct LooseLines {
    from: u64,
    to: u64,
}

/// Reads the spooled files, which end at the offsets `ends`.
pub(super) async fn scan(
    raw: &mut File,
    ends: &[u64],
    work_id: &str,
    asked: &[i64],
    long_context_above: Option<i64>,
    spool: &Path,
) -> std::io::Result<ScanResult> {
    raw.rewind().await?;
    let places = std::iter::repeat_with(|| None).take(asked.len()).collect();
    let scanned = ScanResult::default();
    let mut scan = Scan { work_id, asked, long_context_above, places, next: 0, scanned, spool };
    let (mut offset, mut long, mut loose) = (0, vec![], Vec::<LooseLines>::new());
    let mut lines = Lines::new(BufReader::with_capacity(256 << 10, &mut *raw), LINE_LIMIT).spooling(spool);
    // Whether a line without an id may continue the previous one.
    let mut open = false;
    while let Some(line) = lines.next().await? {
        match &line {
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
            Line::Whole(bytes) if scan.line(offset, bytes, open) => open = false,
            Line::Whole(bytes) => {
                let to = offset + bytes.len() as u64;
                let in_one_file = |last: &&mut LooseLines| !ends.iter().any(|end| (last.to..offset).contains(end));
                let room = loose.len() < STRETCHES;
                match loose.last_mut().filter(|_| open).filter(in_one_file) {
                    Some(last) => last.to = to,
                    None if room => loose.push(LooseLines { from: offset, to }),
                    None => scan.broken(offset, bytes),
                }
                open = room;
            }
            Line::TooLong(size) => {
                long.push((offset, *size));
                open = false;
            }
        }
        offset = lines.offset();
    }
    drop(lines);
    for (offset, size) in long {
        scan.too_long(raw, offset, size).await?;
    }
    for LooseLines { from, to } in loose {
        scan.loose(raw, from, to).await?;
    }
    Ok(scan.done())
}

impl Scan<'_> {
    fn done(mut self) -> ScanResult {
        // Their requests may have been billed.
        let unread = self.places.iter().flatten().filter(|place| !place.kind.is_read()).count();
        self.scanned.usage.tokens.answers_without_usage += unread as i64;
        let asked = self.asked.iter().zip(&self.places);
        let unanswered = asked.filter(|(_, place)| place.is_none()).map(|(index, _)| *index).collect();
        ScanResult { places: self.places.into_iter().flatten().collect(), unanswered, ..self.scanned }
    }

    fn position(&self, index: Option<i64>) -> Option<usize> {
        let index = index?;
        // Most servers answer in the order of the requests.
        match self.asked.get(self.next) == Some(&index) {
            true => Some(self.next),
            false => self.asked.binary_search(&index).ok(),
        }
    }

    /// Takes a line. Returns false if no object in it is whole. If `open`, a line without an id may be part of an
    /// object over many lines.
    fn line(&mut self, offset: u64, line: &[u8], open: bool) -> bool {
        let whole = text(line);
        if let Ok(parsed) = serde_json::from_str::<ProviderLine>(&whole)
            && whole.len() <= LINE_LIMIT
        {
            if parsed.custom_id.is_none() && open {
                return false;
            }
            self.sound(offset, line, &parsed, LineKind::Plain);
            return true;
        }
        let Some(objects) = objects(line) else { return false };
        for object in objects {
            self.object(offset + object.start as u64, &line[object]);
        }
        true
    }

    /// Takes an object that was found by its brackets.
    fn object(&mut self, offset: u64, object: &[u8]) {
        let whole = text(object);
        if whole.len() > LINE_LIMIT {
            // Replaced bytes made it longer.
            self.unreadable_of(offset, object, whole.len() as u64);
            return;
        }
        if let Ok(parsed) = serde_json::from_str::<ProviderLine>(&whole) {
            // Its line breaks will be removed.
            let kind = if whole.contains(['\n', '\r']) { LineKind::Repaired } else { LineKind::Plain };
            return self.sound(offset, object, &parsed, kind);
        }
        let repaired = repaired(&whole);
        match serde_json::from_str::<ProviderLine>(&repaired) {
            Ok(parsed) if repaired.len() <= LINE_LIMIT => self.sound(offset, object, &parsed, LineKind::Repaired),
            _ => _ = self.unreadable(offset, object),
        }
    }

    /// Takes a valid line. The first line of an index wins, since providers have been seen to repeat rows. A valid one
    /// wins over an unreadable one.
    fn sound(&mut self, offset: u64, line: &[u8], parsed: &ProviderLine<'_>, kind: LineKind) {
        let at = self.position(parsed.custom_id.as_deref().and_then(|id| index_of(id, self.work_id)));
        let Some(at) = at else {
            // The id may be in another place than its own.
            if parsed.custom_id.is_some() || !self.unreadable_of(offset, line, line.len() as u64) {
                self.scanned.foreign += 1;
            }
            return;
        };
        self.next = at + 1;
        let free = self.places[at].is_none_or(|place| !place.kind.is_read());
        match u32::try_from(line.len()) {
            Ok(len) if free => {
                let end = parsed.end();
                self.places[at] = Some(LinePlace { index: self.asked[at], ended: end.outcome, offset, len, kind });
                self.count(&end);
            }
            _ => self.scanned.usage.repeated_rows += 1,
        }
    }

    fn count(&mut self, end: &RequestEnd) {
        let ScanResult { usage, succeeded, .. } = &mut self.scanned;
        usage.tokens += end.tokens;
        usage.count_answer(end.answers);
        if self.long_context_above.is_some_and(|above| end.tokens.input_tokens > above) {
            usage.long_context += end.tokens;
        }
        if end.outcome == LineOutcome::Succeeded {
            *succeeded += end.tokens;
        }
    }

    /// Takes text that cannot be read. Returns whether it names a request.
    fn unreadable(&mut self, offset: u64, text: &[u8]) -> bool {
        let named = self.unreadable_of(offset, text, text.len() as u64);
        if !named {
            self.scanned.unreadable += 1;
            if self.scanned.nameless.len() < self.asked.len() {
                self.scanned.nameless.push((offset, text.len() as u64));
            }
        }
        named
    }

    /// Ends each request that `text` names: it may have been answered, and paid. `size` is that of the whole text.
    fn unreadable_of(&mut self, offset: u64, text: &[u8], size: u64) -> bool {
        let at: Vec<usize> = named(text, self.work_id).into_iter().filter_map(|i| self.position(Some(i))).collect();
        let (len, kind) = match (at.len(), size > LINE_LIMIT as u64) {
            (_, true) => (0, LineKind::TooLong(size)),
            (1, false) => (text.len().min(QUOTED), LineKind::Unreadable(size)),
            _ => (0, LineKind::Shared),
        };
        for at in &at {
            let len = u32::try_from(len).unwrap_or(0);
            let place = LinePlace { index: self.asked[*at], ended: LineOutcome::Failed, offset, len, kind };
            self.places[*at].get_or_insert(place);
        }
        !at.is_empty()
    }

    /// Takes a line that is too long to be read. Its id is near the beginning.
    async fn too_long(&mut self, raw: &mut File, offset: u64, size: u64) -> std::io::Result<()> {
        let head = read(raw, offset, HEAD.min(size)).await?;
        if !self.unreadable_of(offset, &head, size) {
            self.scanned.unreadable += 1;
        }
        Ok(())
    }

    /// Searches for objects over many lines. The rest is taken line by line.
    async fn loose(&mut self, raw: &mut File, from: u64, to: u64) -> std::io::Result<()> {
        // A file with more objects than requests is taken line by line from there on.
        let objects = objects_within(raw, from, to, 4 * self.asked.len() + 1_000).await?;
        let mut rest = from;
        for (begin, end) in objects {
            self.lines_of(raw, rest, begin).await?;
            rest = end;
            match end - begin <= LINE_LIMIT as u64 {
                true => {
                    let mut turn = LongLineTurn::default();
                    turn.take(usize::try_from(end - begin).unwrap_or(usize::MAX)).await;
                    let object = read(raw, begin, end - begin).await?;
                    self.object(begin, &object);
                }
                false => self.too_long(raw, begin, end - begin).await?,
            }
        }
        self.lines_of(raw, rest, to).await
    }

    async fn lines_of(&mut self, raw: &mut File, from: u64, to: u64) -> std::io::Result<()> {
        raw.seek(SeekFrom::Start(from)).await?;
        let lines = Lines::new(BufReader::new((&mut *raw).take(to.saturating_sub(from))), LINE_LIMIT);
        let mut lines = lines.spooling(self.spool);
        let mut offset = from;
        while let Some(line) = lines.next().await? {
            if let Line::Whole(bytes) = line {
                self.broken(offset, bytes);
            }
            offset = from + lines.offset();
        }
        Ok(())
    }
}

impl Scan<'_> {
    /// Takes a line that is not part of a whole object.
    fn broken(&mut self, offset: u64, line: &[u8]) {
        // Brackets and commas around objects are ignored.
        if line.iter().any(|b| !b.is_ascii_whitespace() && !b"[]{},".contains(b)) {
            let named = self.unreadable(offset, line);
            self.scanned.cut_off += u64::from(named || line.contains(&b'{'));
        }
    }
}

async fn read(raw: &mut File, offset: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    raw.seek(SeekFrom::Start(offset)).await?;
    (&mut *raw).take(len).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Returns the beginning and the end of each whole object in a stretch of the spool.
async fn objects_within(raw: &mut File, from: u64, to: u64, most: usize) -> std::io::Result<Vec<(u64, u64)>> {
    raw.seek(SeekFrom::Start(from)).await?;
    let mut stretch = (&mut *raw).take(to.saturating_sub(from));
    let (mut brackets, mut begun, mut objects) = (Brackets::default(), None, vec![]);
    let (mut at, mut buffer) = (from, vec![0; 64 << 10]);
    loop {
        let n = stretch.read(&mut buffer).await?;
        if n == 0 || objects.len() >= most {
            return Ok(objects);
        }
        for byte in &buffer[..n] {
            match brackets.see(*byte) {
                Bracket::Opens => begun = Some(at),
                Bracket::Closes => objects.extend(begun.take().map(|begin| (begin, at + 1))),
                Bracket::Orphan | Bracket::No => {}
            }
            at += 1;
        }
    }
}

/// Returns the index in one of our ids; None if the id is not of this work.
fn index_of(id: &str, work_id: &str) -> Option<i64> {
    let (index, mark) = id.strip_prefix('r')?.split_once('-')?;
    let number: i64 = index.parse().ok()?;
    // Only our own spelling counts; `+1` and `01` are not.
    (mark == work_id.get(..8)? && number.to_string() == index).then_some(number)
}

#[cfg(test)]
mod tests;
