//! What came back of one batch becomes an immutable part, in index order.

use std::borrow::Cow;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::value::RawValue;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader, BufWriter};

use super::errors::{Tally, code};
use super::line::{Ended, PartLine, ProviderLine};
use crate::api::{ErrorSummary, RequestCounts};
use crate::store::staged::{self, Spool};
use crate::store::{Folder, IndexEntry, LINE_LIMIT, Line, Lines, StoreError, layout};

/// Bytes of answers that are read back from the spool in one go; a longer one is read alone.
const GO_BYTES: usize = 1 << 20;

/// A batch whose answers are to be collected.
pub struct Collection<'a> {
    /// The output's folder.
    pub folder: &'a Folder,
    /// The work.
    pub work_id: &'a str,
    /// Such as `00000-1`.
    pub slot: String,
    /// Names the shard's index.
    pub index: &'a str,
    /// Number of its requests.
    pub requests: i64,
    /// The provider's files; what fails in them breaks the collection off.
    pub files: Vec<BoxStream<'static, Result<Bytes, String>>>,
}

/// The part that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Object name.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// Of the failed ones, those that failed in a way that may pass.
    pub may_pass: i64,
    /// Why requests have no answer, by code.
    pub errors: Vec<ErrorSummary>,
    /// Lines that are nobody's: of another work, out of range, or repeated.
    pub foreign: u64,
    /// Lines that are no answers at all: cut off, or a web page where answers were due.
    pub unreadable: u64,
    /// Answers that are longer than what is read: they count as failed, and are at the provider.
    pub too_long: u64,
}

/// Why there is no part; it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The provider's file broke off.
    #[error("fetching the answers: {0}")]
    Download(String),
    /// Storage or the local spool.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where in the spool the line of one request is.
struct Place {
    index: i64,
    ended: Ended,
    offset: u64,
    len: u32,
}

/// Downloads to the spool, sorts, puts the part, and reads it back.
///
/// # Errors
/// Nothing is lost: the provider still has its files.
pub async fn collect(collection: Collection<'_>, spool: &Path) -> Result<Collected, CollectError> {
    let Collection { folder, work_id, slot, index, requests, files } = collection;
    let index = layout::index(work_id, index);
    let asked = indexes(folder, &index).await?;
    let mut raw = staged::scratch(spool)?;
    download(&mut raw, files).await?;
    let Scanned { places, foreign, unreadable, too_long } = scan(&mut raw, work_id, &asked).await?;
    drop(asked);
    let (part, tally) = write_part(raw, &places, spool).await?;
    let errors = with_names(folder, &index, tally).await?;
    let (sha256, name) = (part.sha256.clone(), layout::part(work_id, &slot, &part.sha256));
    part.put(folder, &name, work_id).await?;
    read_back(folder, &name, &sha256).await?;
    let may_pass = places.iter().filter(|p| p.ended == Ended::Errored).count() as i64;
    Ok(Collected { name, sha256, counts: count(&places, requests), may_pass, errors, foreign, unreadable, too_long })
}

/// Which requests the shard holds, in order.
async fn indexes(folder: &Folder, name: &str) -> Result<Vec<i64>, CollectError> {
    let mut indexes = vec![];
    each_entry(folder, name, |entry| indexes.push(entry.index)).await?;
    Ok(indexes)
}

async fn each_entry(folder: &Folder, name: &str, mut see: impl FnMut(IndexEntry)) -> Result<(), CollectError> {
    let mut lines = Lines::new(staged::open(folder, name).await?, LINE_LIMIT);
    let broken = |e: String| StoreError::Corrupt(format!("{name}: {e}"));
    while let Some(line) = lines.next().await.map_err(|e| broken(e.to_string()))? {
        let Line::Whole(line) = line else { return Err(broken("a line is too long".into()).into()) };
        see(serde_json::from_slice(line).map_err(|e| broken(e.to_string()))?);
    }
    Ok(())
}

/// The summaries with the user's name for one request of each.
async fn with_names(folder: &Folder, index: &str, tally: Tally) -> Result<Vec<ErrorSummary>, CollectError> {
    let mut most = tally.most();
    if !most.is_empty() {
        each_entry(folder, index, |entry| {
            for (summary, _) in most.iter_mut().filter(|(_, index)| *index == entry.index) {
                summary.sample_custom_id.clone_from(&entry.custom_id);
            }
        })
        .await?;
    }
    Ok(most.into_iter().map(|(summary, _)| summary).collect())
}

fn local(error: std::io::Error) -> CollectError {
    StoreError::Unavailable(format!("the local spool: {error}")).into()
}

async fn download(raw: &mut File, files: Vec<BoxStream<'static, Result<Bytes, String>>>) -> Result<(), CollectError> {
    let mut out = BufWriter::with_capacity(256 << 10, raw);
    for mut file in files {
        while let Some(chunk) = file.next().await {
            out.write_all(&chunk.map_err(CollectError::Download)?).await.map_err(local)?;
        }
        // The next file must not run on in this one's last line.
        out.write_all(b"\n").await.map_err(local)?;
    }
    out.flush().await.map_err(local)
}

struct Scanned {
    /// In order, one a request at most.
    places: Vec<Place>,
    foreign: u64,
    unreadable: u64,
    too_long: u64,
}

async fn scan(raw: &mut File, work_id: &str, asked: &[i64]) -> Result<Scanned, CollectError> {
    raw.rewind().await.map_err(local)?;
    let mut places: Vec<Option<Place>> = std::iter::repeat_with(|| None).take(asked.len()).collect();
    let (mut foreign, mut unreadable, mut offset) = (0, 0, 0);
    let mut long = vec![];
    let mut lines = Lines::new(BufReader::with_capacity(256 << 10, &mut *raw), LINE_LIMIT);
    while let Some(line) = lines.next().await.map_err(local)? {
        match &line {
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
            // What is replaced in it makes it longer.
            Line::Whole(bytes) if text(bytes).len() > LINE_LIMIT => unreadable += 1,
            Line::Whole(bytes) => match serde_json::from_str::<ProviderLine>(&text(bytes)) {
                Ok(parsed) => {
                    let index = parsed.custom_id.as_deref().and_then(|id| index_of(id, work_id));
                    let at = index.and_then(|index| asked.binary_search(&index).ok());
                    match (at, u32::try_from(bytes.len())) {
                        // The first line of an index wins: providers have been seen to repeat rows.
                        (Some(at), Ok(len)) if places[at].is_none() => {
                            places[at] = Some(Place { index: asked[at], ended: parsed.ended(), offset, len });
                        }
                        _ => foreign += 1,
                    }
                }
                Err(_) => unreadable += 1,
            },
            Line::TooLong(size) => long.push((offset, *size)),
        }
        offset = lines.offset();
    }
    let mut too_long = 0;
    for (offset, size) in long {
        let id = id_at(raw, offset).await.map_err(local)?;
        let index = id.as_deref().and_then(|id| index_of(id, work_id));
        match index.and_then(|index| asked.binary_search(&index).ok()) {
            Some(at) if places[at].is_none() => {
                let (offset, len) = stand_in(raw, size).await.map_err(local)?;
                places[at] = Some(Place { index: asked[at], ended: Ended::Failed, offset, len });
                too_long += 1;
            }
            _ => unreadable += 1,
        }
    }
    Ok(Scanned { places: places.into_iter().flatten().collect(), foreign, unreadable, too_long })
}

/// The custom id of a line that is too long to be read whole: it stands near the beginning.
async fn id_at(raw: &mut File, offset: u64) -> std::io::Result<Option<String>> {
    const KEY: &[u8] = b"\"custom_id\"";
    let mut head = Vec::with_capacity(4 << 10);
    raw.seek(SeekFrom::Start(offset)).await?;
    raw.take(4 << 10).read_to_end(&mut head).await?;
    // Within a text the quote would be escaped.
    let at = memchr::memmem::find_iter(&head, KEY).find(|at| at.checked_sub(1).is_none_or(|i| head[i] != b'\\'));
    let value = at.map(|at| head[at + KEY.len()..].trim_ascii_start()).and_then(|rest| rest.strip_prefix(b":"));
    let mut values = serde_json::Deserializer::from_slice(value.unwrap_or_default()).into_iter::<String>();
    Ok(values.next().and_then(Result::ok))
}

/// Puts a line in place of one that is too long, at the end; where, and how long it is.
async fn stand_in(raw: &mut File, size: u64) -> std::io::Result<(u64, u32)> {
    let message = format!(
        "the answer has {size} bytes, of which {LINE_LIMIT} are read; the provider keeps it in the batch's output file"
    );
    let line = serde_json::json!({"error": {"code": "answer_too_long", "message": message}}).to_string();
    let offset = raw.seek(SeekFrom::End(0)).await?;
    raw.write_all(line.as_bytes()).await?;
    raw.flush().await?;
    Ok((offset, u32::try_from(line.len()).unwrap_or(u32::MAX)))
}

/// A line as text: what is not UTF-8 in it is replaced, for an answer with a blot is better than one that is paid again; a
/// byte-order mark goes.
fn text(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    // The lossy reading takes several times as long where there is nothing to lose.
    std::str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed)
}

/// The index in one of our ids; None where the id is not of this work.
fn index_of(id: &str, work_id: &str) -> Option<i64> {
    let (index, mark) = id.strip_prefix('r')?.split_once('-')?;
    let number: i64 = index.parse().ok()?;
    // As we write it: `+1` and `01` are nobody's.
    (mark == work_id.get(..8)? && number.to_string() == index).then_some(number)
}

async fn write_part(raw: File, places: &[Place], spool: &Path) -> Result<(staged::Spooled, Tally), CollectError> {
    let (mut part, mut tally) = (Spool::new(spool)?, Tally::default());
    let (raw, mut lines) = (Arc::new(raw.into_std().await), vec![]);
    let mut rest = places;
    while !rest.is_empty() {
        let (some, others) = rest.split_at(at_a_time(rest));
        lines = read_lines(&raw, some, lines).await?;
        let mut left = &lines[..];
        for place in some {
            let (line, others) = left.split_at(place.len as usize);
            left = others;
            let entry = part_line(place, line, &mut tally).map_err(|e| local(e.into()))?;
            part.write(&entry).await?;
        }
        rest = others;
    }
    Ok((part.finish().await?, tally))
}

/// How many lines to read in one go: in the order of the index they are all over the file, and each go takes a turn on
/// another thread.
fn at_a_time(places: &[Place]) -> usize {
    let mut bytes = 0;
    let fits = |place: &&Place| {
        bytes += place.len as usize;
        bytes <= GO_BYTES
    };
    places.iter().take_while(fits).count().max(1)
}

/// One after the other, into what `lines` has room for.
async fn read_lines(raw: &Arc<std::fs::File>, places: &[Place], mut lines: Vec<u8>) -> Result<Vec<u8>, CollectError> {
    let (raw, places) = (raw.clone(), places.iter().map(|p| (p.offset, p.len as usize)).collect::<Vec<_>>());
    let read = tokio::task::spawn_blocking(move || {
        lines.resize(places.iter().map(|(_, len)| len).sum(), 0);
        let mut left = &mut lines[..];
        for (offset, len) in places {
            let (line, others) = left.split_at_mut(len);
            raw.read_exact_at(line, offset)?;
            left = others;
        }
        Ok(lines)
    });
    read.await.map_err(std::io::Error::other).and_then(|read| read).map_err(local)
}

/// With its newline.
fn part_line(place: &Place, line: &[u8], tally: &mut Tally) -> serde_json::Result<Vec<u8>> {
    let line = text(line);
    let raw = serde_json::from_str::<&RawValue>(&line)?;
    if place.ended != Ended::Succeeded {
        tally.add(code(&serde_json::from_str::<ProviderLine>(raw.get())?), place.index);
    }
    let mut entry = serde_json::to_vec(&PartLine { index: place.index, ended: place.ended, line: raw })?;
    entry.push(b'\n');
    Ok(entry)
}

async fn read_back(folder: &Folder, name: &str, sha256: &str) -> Result<(), CollectError> {
    let mut content = std::pin::pin!(staged::verified(folder, name, sha256).await?);
    while let Some(chunk) = content.next().await {
        chunk.map_err(|e| StoreError::Corrupt(format!("{name} was written and reads differently: {e}")))?;
    }
    Ok(())
}

fn count(places: &[Place], total: i64) -> RequestCounts {
    let mut counts = RequestCounts { total, missing: total - places.len() as i64, ..Default::default() };
    for place in places {
        match place.ended {
            Ended::Succeeded => counts.succeeded += 1,
            Ended::Failed | Ended::Errored => counts.failed += 1,
            Ended::Expired => counts.expired += 1,
            Ended::Cancelled => counts.cancelled += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_too_long_to_be_read_has_failed_and_is_not_missing() {
        let long = |head: &str| format!("{{{head}\"x\":\"{}\"}}\n", "x".repeat(LINE_LIMIT));
        let text = [
            "{\"custom_id\":\"r0-01234567\",\"response\":{\"status_code\":200}}\n".into(),
            long(r#""id":"\"custom_id\":\"r0-01234567\"","custom_id" : "r2-01234567","#),
            long(""),
        ];
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        download(&mut raw, vec![futures::stream::iter(text.map(|t| Ok(Bytes::from(t)))).boxed()]).await.unwrap();
        let scanned = scan(&mut raw, "0123456789abcdef", &[0, 1, 2]).await.unwrap();
        assert_eq!((scanned.unreadable, scanned.too_long), (1, 1));
        let ends: Vec<_> = scanned.places.iter().map(|p| (p.index, p.ended)).collect();
        assert_eq!(ends, [(0, Ended::Succeeded), (2, Ended::Failed)]);
        let (_, tally) = write_part(raw, &scanned.places, &std::env::temp_dir()).await.unwrap();
        assert_eq!(tally.most()[0].0.code, "answer_too_long");
    }

    #[tokio::test]
    async fn lines_are_found_where_they_are_whoever_they_are_of() {
        let work = "0123456789abcdef";
        let text = concat!(
            "{\"custom_id\":\"r2-01234567\",\"response\":{\"status_code\":200}}\r\n",
            "\n",
            "<html>\n",
            "{\"custom_id\":\"r0-01234567\",\"error\":{\"code\":\"batch_expired\"}}\n",
            "{\"custom_id\":\"r0-01234567\",\"response\":{\"status_code\":200}}\n",
            "{\"custom_id\":\"r1-ffffffff\",\"response\":{\"status_code\":200}}\n",
            "{\"custom_id\":\"r9-01234567\",\"response\":{\"status_code\":200}}\n",
            "{\"custom_id\":\"r1-01234567\",\"resp",
        );
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        let chunks = vec![Ok(Bytes::from(text))];
        download(&mut raw, vec![futures::stream::iter(chunks).boxed()]).await.unwrap();
        let Scanned { places, foreign, unreadable, .. } = scan(&mut raw, work, &[0, 1, 2]).await.unwrap();
        assert_eq!(
            places.iter().map(|p| (p.index, p.ended)).collect::<Vec<_>>(),
            [(0, Ended::Expired), (2, Ended::Succeeded)]
        );
        assert_eq!((foreign, unreadable), (3, 2));
        let counts = count(&places, 3);
        assert_eq!((counts.succeeded, counts.expired, counts.missing, counts.total), (1, 1, 1, 3));
        for place in &places {
            raw.seek(SeekFrom::Start(place.offset)).await.unwrap();
            let mut line = vec![0; place.len as usize];
            raw.read_exact(&mut line).await.unwrap();
            assert!(line.starts_with(b"{\"custom_id\"") && line.ends_with(b"}"));
        }
    }

    #[tokio::test]
    async fn answers_are_put_in_order_in_as_many_goes_as_it_takes() {
        let (work, size) = ("0123456789abcdef", |i: usize| if i == 7 { GO_BYTES + 99 } else { GO_BYTES / 5 + i });
        let line = |i: usize| format!("{{\"custom_id\":\"r{i}-01234567\",\"x\":\"{}\"}}", "x".repeat(size(i)));
        let text: String = (0..20).rev().map(|i| line(i) + "\n").collect();
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        download(&mut raw, vec![futures::stream::iter([Ok(Bytes::from(text))]).boxed()]).await.unwrap();
        let asked: Vec<i64> = (0..20).collect();
        let places = scan(&mut raw, work, &asked).await.unwrap().places;
        let (part, tally) = write_part(raw, &places, &std::env::temp_dir()).await.unwrap();
        assert_eq!(tally.most()[0].0.count, 20);
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
        part.put(&folder, "part", work).await.unwrap();
        let mut put = String::new();
        staged::open(&folder, "part").await.unwrap().read_to_string(&mut put).await.unwrap();
        for (i, put) in put.lines().enumerate() {
            assert!(put == format!("{{\"index\":{i},\"ended\":\"errored\",\"line\":{}}}", line(i)), "{i}");
        }
        assert_eq!(put.lines().count(), 20);
    }

    #[tokio::test]
    async fn a_download_that_breaks_off_is_no_result() {
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        let chunks = vec![Ok(Bytes::from("{}\n")), Err("connection reset".to_string())];
        let broken = download(&mut raw, vec![futures::stream::iter(chunks).boxed()]).await;
        assert!(matches!(broken, Err(CollectError::Download(why)) if why.contains("reset")));
    }
}
