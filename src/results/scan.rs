//! Whose the lines of a file of answers are, and how their requests ended.

use std::io::SeekFrom;
use std::path::Path;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, BufReader};

use super::frames::{Bracket, Brackets, named, objects};
use super::line::{Ended, ProviderLine};
use super::repair::{repaired, text};
use crate::store::{LINE_LIMIT, Line, Lines, Turn};

/// Bytes of a line that cannot be read which `errors.jsonl` quotes at most.
pub(super) const QUOTED: usize = 1 << 20;
/// Bytes of a line that is too long to be read in which the id of its request is looked for.
const HEAD: u64 = 4 << 10;
/// Stretches of lines that are no objects by themselves in which objects over many lines are looked for.
const STRETCHES: usize = 100_000;

/// Where in the spool the line of one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub index: i64,
    pub ended: Ended,
    pub offset: u64,
    /// Bytes that are read of it.
    pub len: u32,
    pub how: How,
}

/// How the line of a request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    Plain,
    /// Once it is [`repaired`].
    Repaired,
    /// Not at all, but for the id of its request; its size in bytes.
    Unreadable(u64),
    /// Not at all, and it names other requests as well.
    Shared,
    /// Not at all, for its size in bytes.
    TooLong(u64),
    /// There is none, but a line that names nobody may be its.
    Nameless,
}

/// What files of answers hold.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// In order, one a request at most.
    pub places: Vec<Place>,
    /// Requests that no line tells of, in order.
    pub unanswered: Vec<i64>,
    /// Lines that are nobody's: of another work, out of range, or repeated.
    pub foreign: u64,
    /// Lines that cannot be read and name no request of the batch, and where the first of them are, and how long.
    pub unreadable: u64,
    pub nameless: Vec<(u64, u64)>,
    /// Lines that break off.
    pub cut_off: u64,
}

struct Scan<'a> {
    work_id: &'a str,
    /// Indexes of the batch's requests, in order.
    asked: &'a [i64],
    /// By position in `asked`.
    places: Vec<Option<Place>>,
    scanned: Scanned,
    /// Where long lines wait.
    spool: &'a Path,
}

/// Lines in a row none of which is an object by itself.
struct Loose {
    from: u64,
    to: u64,
}

/// Reads the spooled files, which end at `ends`.
pub(super) async fn scan(
    raw: &mut File,
    ends: &[u64],
    work_id: &str,
    asked: &[i64],
    spool: &Path,
) -> std::io::Result<Scanned> {
    raw.rewind().await?;
    let places = std::iter::repeat_with(|| None).take(asked.len()).collect();
    let mut scan = Scan { work_id, asked, places, scanned: Scanned::default(), spool };
    let (mut offset, mut long, mut loose) = (0, vec![], Vec::<Loose>::new());
    let mut lines = Lines::new(BufReader::with_capacity(256 << 10, &mut *raw), LINE_LIMIT).spooling(spool);
    // Whether a line that says nothing may go on with the one before.
    let mut open = false;
    while let Some(line) = lines.next().await? {
        match &line {
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
            Line::Whole(bytes) if scan.line(offset, bytes, open) => open = false,
            Line::Whole(bytes) => {
                let to = offset + bytes.len() as u64;
                let in_one_file = |last: &&mut Loose| !ends.iter().any(|end| (last.to..offset).contains(end));
                let room = loose.len() < STRETCHES;
                match loose.last_mut().filter(|_| open).filter(in_one_file) {
                    Some(last) => last.to = to,
                    None if room => loose.push(Loose { from: offset, to }),
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
    for Loose { from, to } in loose {
        scan.loose(raw, from, to).await?;
    }
    Ok(scan.done())
}

impl Scan<'_> {
    fn done(self) -> Scanned {
        let asked = self.asked.iter().zip(&self.places);
        let unanswered = asked.filter(|(_, place)| place.is_none()).map(|(index, _)| *index).collect();
        Scanned { places: self.places.into_iter().flatten().collect(), unanswered, ..self.scanned }
    }

    fn position(&self, index: Option<i64>) -> Option<usize> {
        self.asked.binary_search(&index?).ok()
    }

    /// Takes a line in; false where no object of it is whole. One without an id may be part of an object over many lines, where
    /// such a one is `open`.
    fn line(&mut self, offset: u64, line: &[u8], open: bool) -> bool {
        let whole = text(line);
        if let Ok(parsed) = serde_json::from_str::<ProviderLine>(&whole)
            && whole.len() <= LINE_LIMIT
        {
            if parsed.custom_id.is_none() && open {
                return false;
            }
            self.sound(offset, line, &parsed, How::Plain);
            return true;
        }
        let Some(objects) = objects(line) else { return false };
        for object in objects {
            self.object(offset + object.start as u64, &line[object]);
        }
        true
    }

    /// Takes in what is an object by its brackets.
    fn object(&mut self, offset: u64, object: &[u8]) {
        let whole = text(object);
        if whole.len() > LINE_LIMIT {
            // What is replaced in it makes it longer.
            self.unreadable_of(offset, object, whole.len() as u64);
            return;
        }
        if let Ok(parsed) = serde_json::from_str::<ProviderLine>(&whole) {
            // Its line ends go.
            let how = if whole.contains(['\n', '\r']) { How::Repaired } else { How::Plain };
            return self.sound(offset, object, &parsed, how);
        }
        let repaired = repaired(&whole);
        match serde_json::from_str::<ProviderLine>(&repaired) {
            Ok(parsed) if repaired.len() <= LINE_LIMIT => self.sound(offset, object, &parsed, How::Repaired),
            _ => _ = self.unreadable(offset, object),
        }
    }

    /// The first line of an index wins: providers have been seen to repeat rows. One that can be read wins over one that cannot.
    fn sound(&mut self, offset: u64, line: &[u8], parsed: &ProviderLine<'_>, how: How) {
        let at = self.position(parsed.custom_id.as_deref().and_then(|id| index_of(id, self.work_id)));
        let Some(at) = at else {
            // It may have its id elsewhere than where it belongs.
            if parsed.custom_id.is_some() || !self.unreadable_of(offset, line, line.len() as u64) {
                self.scanned.foreign += 1;
            }
            return;
        };
        let free = self.places[at].is_none_or(|place| !matches!(place.how, How::Plain | How::Repaired));
        match u32::try_from(line.len()) {
            Ok(len) if free => {
                self.places[at] = Some(Place { index: self.asked[at], ended: parsed.ended(), offset, len, how });
            }
            _ => self.scanned.foreign += 1,
        }
    }

    /// Takes in what cannot be read; whether it names a request.
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

    /// Each request that `text` names has ended with it: it may have been answered, and paid. `size` is that of all of it.
    fn unreadable_of(&mut self, offset: u64, text: &[u8], size: u64) -> bool {
        let at: Vec<usize> = named(text, self.work_id).into_iter().filter_map(|i| self.position(Some(i))).collect();
        let (len, how) = match (at.len(), size > LINE_LIMIT as u64) {
            (_, true) => (0, How::TooLong(size)),
            (1, false) => (text.len().min(QUOTED), How::Unreadable(size)),
            _ => (0, How::Shared),
        };
        for at in &at {
            let len = u32::try_from(len).unwrap_or(0);
            let place = Place { index: self.asked[*at], ended: Ended::Failed, offset, len, how };
            self.places[*at].get_or_insert(place);
        }
        !at.is_empty()
    }

    /// The id of a line that is too long to be read stands near its beginning.
    async fn too_long(&mut self, raw: &mut File, offset: u64, size: u64) -> std::io::Result<()> {
        let head = read(raw, offset, HEAD.min(size)).await?;
        if !self.unreadable_of(offset, &head, size) {
            self.scanned.unreadable += 1;
        }
        Ok(())
    }

    /// Looks for objects over many lines; what is in none is taken line by line.
    async fn loose(&mut self, raw: &mut File, from: u64, to: u64) -> std::io::Result<()> {
        // Whoever sends more objects than were asked for gets them taken line by line.
        let objects = objects_within(raw, from, to, 4 * self.asked.len() + 1_000).await?;
        let mut rest = from;
        for (begin, end) in objects {
            self.lines_of(raw, rest, begin).await?;
            rest = end;
            match end - begin <= LINE_LIMIT as u64 {
                true => {
                    let mut turn = Turn::default();
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
    /// Takes in a line that is part of no whole object.
    fn broken(&mut self, offset: u64, line: &[u8]) {
        // Brackets and commas around objects say nothing.
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

/// Where the whole objects of a stretch of the spool begin and end.
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
                Bracket::Stray | Bracket::No => {}
            }
            at += 1;
        }
    }
}

/// The index in one of our ids; None where the id is not of this work.
fn index_of(id: &str, work_id: &str) -> Option<i64> {
    let (index, mark) = id.strip_prefix('r')?.split_once('-')?;
    let number: i64 = index.parse().ok()?;
    // As we write it: `+1` and `01` are nobody's.
    (mark == work_id.get(..8)? && number.to_string() == index).then_some(number)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;

    use super::super::collect::download;
    use super::*;
    use crate::store::staged;

    const WORK: &str = "0123456789abcdef";

    async fn scanned(text: &str, asked: &[i64]) -> (File, Scanned) {
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        let file = futures::stream::iter([Ok(Bytes::from(text.to_string()))]).boxed();
        let ends = download(&mut raw, vec![file]).await.unwrap();
        let scanned = scan(&mut raw, &ends, WORK, asked, &std::env::temp_dir()).await.unwrap();
        (raw, scanned)
    }

    fn answer(index: i64) -> String {
        format!(r#"{{"custom_id":"r{index}-01234567","response":{{"status_code":200,"body":{{"n":1}}}}}}"#)
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_to_be_read_has_failed_and_is_not_missing() {
        let long = |head: &str| format!("{{{head}\"x\":\"{}\"}}\n", "x".repeat(LINE_LIMIT));
        let text = [answer(0) + "\n", long(r#""custom_id" : "r2-01234567","#), long("")].concat();
        let (_, scanned) = scanned(&text, &[0, 1, 2]).await;
        assert_eq!((scanned.unreadable, scanned.unanswered), (1, vec![1]));
        let ends: Vec<_> = scanned.places.iter().map(|p| (p.index, p.ended)).collect();
        assert_eq!(ends, [(0, Ended::Succeeded), (2, Ended::Failed)]);
        assert!(matches!(scanned.places[1].how, How::TooLong(size) if size > LINE_LIMIT as u64));
    }

    #[tokio::test]
    async fn lines_are_found_where_they_are_whoever_they_are_of() {
        let text = [
            answer(2) + "\r\n",
            "\n<html>\n".into(),
            "{\"custom_id\":\"r0-01234567\",\"error\":{\"code\":\"batch_expired\"}}\n".into(),
            answer(0) + "\n" + &answer(1).replace("01234567", "ffffffff") + "\n" + &answer(9) + "\n",
            "{\"custom_id\":\"r1-01234567\",\"resp".into(),
        ];
        let (mut raw, scanned) = scanned(&text.concat(), &[0, 1, 2]).await;
        let ends: Vec<_> = scanned.places.iter().map(|p| (p.index, p.ended)).collect();
        assert_eq!(ends, [(0, Ended::Expired), (1, Ended::Failed), (2, Ended::Succeeded)]);
        assert_eq!((scanned.foreign, scanned.unreadable, scanned.cut_off), (3, 1, 1));
        for place in &scanned.places {
            let line = read(&mut raw, place.offset, place.len.into()).await.unwrap();
            assert!(line.starts_with(b"{\"custom_id\"") && line.len() == place.len as usize);
        }
    }

    #[tokio::test]
    async fn an_answer_that_can_be_read_wins_over_one_that_cannot() {
        let broken = "{'custom_id': 'r0-01234567'}\n";
        for text in [format!("{broken}{}\n", answer(0)), format!("{}\n{broken}", answer(0))] {
            let (_, scanned) = scanned(&text, &[0]).await;
            assert_eq!((scanned.places[0].ended, scanned.places[0].how), (Ended::Succeeded, How::Plain), "{text}");
        }
    }
}
