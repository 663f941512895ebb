//! The join: immutable parts become results in the order of the requests. Two writers write the same bytes.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures::Stream;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::line::{Ended, IndexLine, LINE_LIMIT, PartLine, ProviderLine, ResultLine};
use super::manifest::{Manifest, ManifestFile};
use crate::api::RequestCounts;
use crate::api::text::hex;
use crate::store::{Folder, Line, Lines, StoreError, Upload, layout, staged};

/// One shard at its end.
pub struct Settled {
    /// SHA-256 of what was sent; names its index.
    pub sha256: String,
    /// What came back; None where it was never executed or given up.
    pub part: Option<Part>,
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

/// Why results were not written; it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Storage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Staged files do not fit together.
    #[error("{0}")]
    Corrupt(String),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        WriteError::Corrupt(error.to_string())
    }
}

/// Writes `results.jsonl`, `errors.jsonl` where there is something to say in it, the manifest, and `_SUCCESS`.
/// `manifest` is complete but for its files; what lies at the destination in the end is returned.
///
/// # Errors
/// [`StoreError::Conflict`] when something foreign is in the way; it is left alone.
pub async fn write(folder: &Folder, shards: Vec<Settled>, mut manifest: Manifest) -> Result<Manifest, WriteError> {
    let mut results = Output::new(folder, layout::RESULTS, &manifest.work_id).await?;
    let complete = manifest.requests.succeeded == manifest.requests.total;
    let mut errors = match complete {
        true => None,
        false => Some(Output::new(folder, layout::ERRORS, &manifest.work_id).await?),
    };
    let mut joined = RequestCounts::default();
    for shard in shards {
        join(folder, &manifest.work_id, shard, &mut results, errors.as_mut(), &mut joined).await?;
    }
    if (joined.succeeded, joined.total) != (manifest.requests.succeeded, manifest.requests.total) {
        return Err(WriteError::Corrupt(format!(
            "the parts hold {} answers of {} requests, the journal says {} of {}",
            joined.succeeded, joined.total, manifest.requests.succeeded, manifest.requests.total
        )));
    }
    manifest.files.push(results.finish().await?);
    if let Some(errors) = errors {
        manifest.files.push(errors.finish().await?);
    }
    put_manifest(folder, manifest).await
}

async fn put_manifest(folder: &Folder, manifest: Manifest) -> Result<Manifest, WriteError> {
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| WriteError::Corrupt(e.to_string()))?;
    if !folder.put_new(layout::MANIFEST, bytes.into()).await? {
        let there = folder.read(layout::MANIFEST, 8 << 20).await?.unwrap_or_default();
        let there: Manifest = serde_json::from_slice(&there).map_err(|e| WriteError::Corrupt(e.to_string()))?;
        if there.work_id != manifest.work_id {
            let message = "manifest.json is another work's; it is not overwritten";
            return Err(StoreError::Conflict(message.into()).into());
        }
    }
    folder.put_new(layout::SUCCESS, Bytes::new()).await?;
    Ok(manifest)
}

/// A result file that is being written.
struct Output {
    upload: Upload,
    digest: Context,
    file: ManifestFile,
}

impl Output {
    async fn new(folder: &Folder, name: &str, work_id: &str) -> Result<Output, StoreError> {
        let upload = folder.create(name, work_id).await?;
        let file = ManifestFile { name: name.into(), lines: 0, bytes: 0, sha256: String::new() };
        Ok(Output { upload, digest: Context::new(&SHA256), file })
    }

    async fn line(&mut self, line: &ResultLine<'_>) -> Result<(), WriteError> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| WriteError::Corrupt(e.to_string()))?;
        bytes.push(b'\n');
        self.digest.update(&bytes);
        self.file.lines += 1;
        self.file.bytes += bytes.len() as u64;
        Ok(self.upload.write(&bytes).await?)
    }

    async fn finish(mut self) -> Result<ManifestFile, StoreError> {
        self.upload.finish().await?;
        self.file.sha256 = hex(self.digest.finish().as_ref());
        Ok(self.file)
    }
}

type Content = Box<dyn AsyncRead + Unpin + Send>;

fn reader(content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Content {
    Box::new(StreamReader::new(Box::pin(content)))
}

async fn join(
    folder: &Folder,
    work_id: &str,
    shard: Settled,
    results: &mut Output,
    mut errors: Option<&mut Output>,
    joined: &mut RequestCounts,
) -> Result<(), WriteError> {
    let index: Content = Box::new(staged::open(folder, &layout::index(work_id, &shard.sha256)).await?);
    let part: Content = match &shard.part {
        Some(part) => reader(staged::verified(folder, &part.name, &part.sha256).await?),
        None => Box::new(tokio::io::empty()),
    };
    let (mut index, mut part) = (Lines::new(index, LINE_LIMIT), Lines::new(part, LINE_LIMIT + 1024));
    let mut head = next(&mut part).await?;
    let absent = to_raw_value(&json!({"code": shard.absent.0, "message": shard.absent.1}));
    let absent = absent.map_err(|e| WriteError::Corrupt(e.to_string()))?;
    while let Some(entry) = next(&mut index).await? {
        let entry: IndexLine = serde_json::from_slice(&entry).map_err(|e| WriteError::Corrupt(e.to_string()))?;
        joined.total += 1;
        let answer = match &head {
            Some(bytes) => {
                Some(serde_json::from_slice::<PartLine>(bytes).map_err(|e| WriteError::Corrupt(e.to_string()))?)
            }
            None => None,
        };
        let answer = answer.filter(|a| a.index == entry.index);
        match (&answer, &mut errors) {
            (Some(a), _) if a.ended == Ended::Succeeded => {
                joined.succeeded += 1;
                results.line(&handed_on(&entry, a.line)?).await?;
            }
            (Some(a), Some(errors)) => errors.line(&handed_on(&entry, a.line)?).await?,
            (None, Some(errors)) => errors.line(&without_answer(&entry, &absent)).await?,
            (_, None) => return Err(WriteError::Corrupt("a request has no answer although all have one".into())),
        }
        if answer.is_some() {
            head = next(&mut part).await?;
        }
    }
    match head {
        Some(_) => Err(WriteError::Corrupt("a part holds answers that no request asked for".into())),
        None => Ok(()),
    }
}

async fn next(lines: &mut Lines<Content>) -> Result<Option<Vec<u8>>, WriteError> {
    match lines.next().await? {
        Some(Line::Whole(line)) => Ok(Some(line.to_vec())),
        Some(Line::TooLong(size)) => Err(WriteError::Corrupt(format!("a staged line has {size} bytes"))),
        None => Ok(None),
    }
}

/// The provider's line under the user's own id.
fn handed_on<'a>(entry: &'a IndexLine, line: &'a RawValue) -> Result<ResultLine<'a>, WriteError> {
    let line: ProviderLine = serde_json::from_str(line.get()).map_err(|e| WriteError::Corrupt(e.to_string()))?;
    Ok(ResultLine {
        id: line.id,
        custom_id: &entry.custom_id,
        response: line.response,
        error: line.error,
        request_sha256: &entry.request_sha256,
    })
}

fn without_answer<'a>(entry: &'a IndexLine, error: &'a RawValue) -> ResultLine<'a> {
    ResultLine {
        id: None,
        custom_id: &entry.custom_id,
        response: None,
        error: Some(error),
        request_sha256: &entry.request_sha256,
    }
}
