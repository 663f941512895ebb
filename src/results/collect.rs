//! Collection of a batch: its answers become an immutable part, in index order.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::errors::Tally;
use super::index::INDEX_LINE_LIMIT;
use super::line::LineOutcome;
use super::part::{GO_BYTES, write_part};
use super::scan::{LineKind, LinePlace, QUOTED, ScanResult, scan};
use crate::api::{BatchUsage, ErrorSummary, RequestCounts, TokenUsage};
use crate::store::staged::{self, SpooledFile};
use crate::store::{DiskUse, Folder, IndexEntry, Line, Lines, StoreError, layout, reserve};

/// Bytes that the collection of a batch holds for each request: the place of its line, and the place of a line that
/// names no request.
pub const ANSWER_BYTES: usize = 160;
/// Bytes that it holds in addition: buffers to read and write, and the places of possible objects of many lines.
pub const COLLECT_BYTES: usize = 2 * GO_BYTES + (2 << 20);
/// Most requests of a batch, whatever its index says.
const REQUESTS_LIMIT: usize = 1_000_000;

/// A batch whose answers are to be collected.
pub struct Collection<'a> {
    /// The output's folder.
    pub folder: &'a Folder,
    /// The work.
    pub work_id: &'a str,
    /// Name of the attempt, such as `00000-1`.
    pub attempt_key: String,
    /// Name of the shard's index.
    pub index: &'a str,
    /// Number of requests in the shard.
    pub requests: i64,
    /// The provider's files. An error in one of them ends the collection.
    pub files: Vec<BoxStream<'static, Result<Bytes, String>>>,
    /// Whether requests that no line names count as failed, because their answers may be in lines that cannot be read.
    pub may_be_unreadable: &'a (dyn Fn(&FileContents) -> bool + Sync),
    /// Input tokens above which the usage of a request counts as that of a long context.
    pub long_context_above: Option<i64>,
    /// Describes the files that could not be fetched, for the messages of those requests. Empty if all were fetched.
    pub unusable: &'a str,
}

/// The content of a batch's files, by request and by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileContents {
    /// Requests that are named by a line.
    pub requests: i64,
    /// Lines that cannot be read and name no request of the batch.
    pub unreadable: i64,
    /// Lines that break off.
    pub cut_off: i64,
}

/// The part that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedPart {
    /// Name of its object.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// Failed requests whose failure may pass.
    pub retryable: i64,
    /// Tokens and kinds of answers, of each request once, and the number of rows that repeat a request.
    pub usage: BatchUsage,
    /// Tokens of the requests that succeeded, of which providers report the total.
    pub succeeded: TokenUsage,
    /// Requests without an answer, by error code.
    pub errors: Vec<ErrorSummary>,
    /// Lines that are not an answer of the batch: of another work, or out of range.
    pub foreign: u64,
    /// The content of the files.
    pub found: FileContents,
    /// Requests for which the part does not hold everything that came back. The provider has to keep its files for
    /// them.
    pub incomplete: i64,
}

/// The reason why there is no part. The collection can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The provider's file broke off.
    #[error("fetching the answers: {0}")]
    Download(String),
    /// The object store or the local spool failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Downloads the files to the spool, sorts their lines, puts the part, and makes sure that it is intact.
///
/// # Errors
/// An error loses nothing: the provider still has its files.
pub async fn collect(collection: Collection<'_>, spool: &Path) -> Result<CollectedPart, CollectError> {
    let Collection { folder, work_id, attempt_key, index, requests, files, .. } = collection;
    let Collection { may_be_unreadable, long_context_above, unusable, .. } = collection;
    let index = layout::index(work_id, index);
    let asked = indexes(folder, &index).await?;
    let _held = reserve(COLLECT_BYTES + ANSWER_BYTES * asked.len()).await;
    let (mut raw, mut disk) = (staged::scratch(spool)?, DiskUse::default());
    let ends = download(&mut raw, &mut disk, files).await?;
    let scanned = scan(&mut raw, &ends, work_id, &asked, long_context_above, spool).await.map_err(local)?;
    drop(asked);
    let ScanResult { foreign, mut usage, succeeded, .. } = scanned;
    let found = FileContents {
        requests: scanned.places.len() as i64,
        unreadable: i64::try_from(scanned.unreadable).unwrap_or(i64::MAX),
        cut_off: i64::try_from(scanned.cut_off).unwrap_or(i64::MAX),
    };
    let places = match may_be_unreadable(&found) {
        true => {
            // Each of these requests may be the one whose answer cannot be read.
            usage.tokens.answers_without_usage += scanned.unanswered.len() as i64;
            with_nameless(scanned)
        }
        false => scanned.places,
    };
    let (part, tally) = write_part(raw, &places, unusable, spool).await?;
    drop(disk);
    let errors = with_names(folder, &index, tally).await?;
    let (sha256, name) = (part.sha256.clone(), layout::part(work_id, &attempt_key, &part.sha256));
    put_surely(folder, part, &name, work_id).await?;
    let retryable = places.iter().filter(|p| p.ended == LineOutcome::Errored).count() as i64;
    let incomplete = places.iter().filter(|p| is_incomplete(p)).count() as i64;
    let counts = count(&places, requests);
    Ok(CollectedPart { name, sha256, counts, retryable, usage, succeeded, errors, foreign, found, incomplete })
}

/// Reads the indexes of the shard's requests, in order.
async fn indexes(folder: &Folder, name: &str) -> Result<Vec<i64>, CollectError> {
    let mut indexes = vec![];
    let add = |entry: IndexOnly| {
        indexes.push(entry.index);
        indexes.len() <= REQUESTS_LIMIT
    };
    each_entry(folder, name, add).await?;
    Ok(indexes)
}

/// An [`IndexEntry`] of which only the index is read.
#[derive(serde::Deserialize)]
struct IndexOnly {
    index: i64,
}

async fn each_entry<E: serde::de::DeserializeOwned>(
    folder: &Folder,
    name: &str,
    mut see: impl FnMut(E) -> bool,
) -> Result<(), CollectError> {
    let mut lines = Lines::new(staged::open(folder, name).await?, INDEX_LINE_LIMIT);
    let broken = |e: String| StoreError::Corrupt(format!("{name}: {e}"));
    while let Some(line) = lines.next().await.map_err(|e| broken(e.to_string()))? {
        let Line::Whole(line) = line else { return Err(broken("a line is too long".into()).into()) };
        if !see(serde_json::from_slice(line).map_err(|e| broken(e.to_string()))?) {
            return Err(broken(format!("it has more than {REQUESTS_LIMIT} entries")).into());
        }
    }
    Ok(())
}

/// Returns the summaries, each with the user's custom id of one request.
async fn with_names(folder: &Folder, index: &str, tally: Tally) -> Result<Vec<ErrorSummary>, CollectError> {
    let mut most = tally.most();
    if !most.is_empty() {
        each_entry(folder, index, |entry: IndexEntry| {
            for (summary, _) in most.iter_mut().filter(|(_, index)| *index == entry.index) {
                summary.sample_custom_id.clone_from(&entry.custom_id);
            }
            true
        })
        .await?;
    }
    Ok(most.into_iter().map(|(summary, _)| summary).collect())
}

/// Gives each request that no line names one of the lines that name no request, as far as there are any.
fn with_nameless(scanned: ScanResult) -> Vec<LinePlace> {
    let mut nameless = scanned.nameless.into_iter();
    let places = scanned.unanswered.iter().map(|index| {
        let (offset, len) = nameless.next().unwrap_or_default();
        let len = u32::try_from(len.min(QUOTED as u64)).unwrap_or(0);
        LinePlace { index: *index, ended: LineOutcome::Failed, offset, len, kind: LineKind::Nameless }
    });
    let mut all: Vec<LinePlace> = places.chain(scanned.places).collect();
    all.sort_unstable_by_key(|place| place.index);
    all
}

fn is_incomplete(place: &LinePlace) -> bool {
    match place.kind {
        LineKind::Plain | LineKind::Repaired => false,
        LineKind::Unreadable(size) => size > QUOTED as u64,
        LineKind::Shared | LineKind::TooLong(_) | LineKind::Nameless => true,
    }
}

pub(super) fn local(error: std::io::Error) -> CollectError {
    staged::local(error).into()
}

/// Spools the files. Returns the offset at which each of them ends.
pub(super) async fn download(
    raw: &mut File,
    disk: &mut DiskUse,
    files: Vec<BoxStream<'static, Result<Bytes, String>>>,
) -> Result<Vec<u64>, CollectError> {
    let mut out = BufWriter::with_capacity(256 << 10, raw);
    let (mut ends, mut at) = (vec![], 0);
    for mut file in files {
        while let Some(chunk) = file.next().await {
            let chunk = chunk.map_err(CollectError::Download)?;
            at += chunk.len() as u64;
            disk.set(at).await;
            out.write_all(&chunk).await.map_err(local)?;
        }
        // Without a line end, the next file would continue this one's last line.
        out.write_all(b"\n").await.map_err(local)?;
        ends.push(at);
        at += 1;
    }
    out.flush().await.map_err(local)?;
    Ok(ends)
}

/// Puts a part and makes sure that it is stored intact, since the provider may soon delete the only other copy. A store
/// that has been seen to check each put is trusted; otherwise the part is read back.
pub(super) async fn put_surely(
    folder: &Folder,
    part: SpooledFile,
    name: &str,
    work_id: &str,
) -> Result<(), CollectError> {
    let (sha256, checking) = (part.sha256.clone(), folder.checking(&layout::scratch(work_id)).await);
    let put_now = part.put(checking.as_ref().unwrap_or(folder), name, work_id).await?;
    match checking.is_some() && put_now {
        true => Ok(()),
        // An object that already existed may come from a put whose end nobody saw.
        false => read_back(folder, name, &sha256).await,
    }
}

async fn read_back(folder: &Folder, name: &str, sha256: &str) -> Result<(), CollectError> {
    let mut content = std::pin::pin!(staged::verified_in_store(folder, name, sha256).await?);
    while let Some(chunk) = content.next().await {
        chunk.map_err(|e| StoreError::Corrupt(format!("{name} was written and reads differently: {e}")))?;
    }
    Ok(())
}

fn count(places: &[LinePlace], total: i64) -> RequestCounts {
    let mut counts = RequestCounts { total, missing: total - places.len() as i64, ..Default::default() };
    for place in places {
        match place.ended {
            LineOutcome::Succeeded => counts.succeeded += 1,
            LineOutcome::Failed | LineOutcome::Errored => counts.failed += 1,
            LineOutcome::Expired => counts.expired += 1,
            LineOutcome::Cancelled => counts.cancelled += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_download_that_breaks_off_is_no_result() {
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        let chunks = vec![Ok(Bytes::from("{}\n")), Err("connection reset".to_string())];
        let broken = download(&mut raw, &mut Default::default(), vec![futures::stream::iter(chunks).boxed()]).await;
        assert!(matches!(broken, Err(CollectError::Download(why)) if why.contains("reset")));
    }

    #[tokio::test]
    async fn answers_count_as_local_disk_before_they_are_written() {
        let meter = crate::store::DiskMeter::default();
        let of = meter.clone();
        let chunks = (0..4).map(move |n| {
            // What came before is on the disk when the next is asked for.
            assert_eq!(of.disk(), n << 20);
            Ok(Bytes::from(vec![b'x'; 1 << 20]))
        });
        let download = async {
            let (mut raw, mut disk) = (staged::scratch(&std::env::temp_dir()).unwrap(), DiskUse::default());
            let ends = download(&mut raw, &mut disk, vec![futures::stream::iter(chunks).boxed()]).await.unwrap();
            assert_eq!((ends, disk.bytes()), (vec![4 << 20], 4 << 20));
        };
        meter.clone().measure(download).await;
        assert_eq!(meter.disk(), 0);
    }
}
