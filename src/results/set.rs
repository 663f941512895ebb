//! A complete result set, read back. Its files are checked against its manifest while they are read.

use std::path::Path;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use super::manifest::{Manifest, ManifestFile};
use crate::api::text::hex;
use crate::api::weight;
use crate::store::{Folder, LINE_LIMIT, Lines, READER_BYTES, Reservation, StoreError, layout, reserve, unpacked};

/// Most bytes of a manifest.
const MANIFEST_LIMIT: u64 = 8 << 20;
/// The version of manifests that this version of the operator writes and reads.
const MANIFEST_VERSION: u32 = 1;
/// Longest line of a result file, in bytes: an answer or a request, and the user's custom id, escaped, and a hash.
pub const RESULT_LINE_LIMIT: usize = LINE_LIMIT + (8 << 10);
/// Largest window of a zstd file, as a power of two: that of the encoder that writes result files.
const WINDOW_LOG_LIMIT: u32 = 19;
/// Stored bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Uncompressed bytes that are returned at a time.
const CHUNK: usize = 64 << 10;

/// A result set whose manifest was read. The presence of a manifest means that the set is complete.
#[derive(Clone, Debug)]
pub struct ResultSet {
    folder: Folder,
    manifest: Manifest,
}

/// The uncompressed content of a result file. Its errors hold a [`StoreError`]; see [`read_error`].
pub type ResultContent = Box<dyn AsyncRead + Send + Unpin>;

impl ResultSet {
    /// Reads the manifest in `folder`; None if there is none, so that the set is not complete.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the manifest cannot be used; other errors if the store does not answer.
    pub async fn open(folder: Folder) -> Result<Option<ResultSet>, StoreError> {
        let Some(bytes) = folder.read(layout::MANIFEST, MANIFEST_LIMIT).await? else { return Ok(None) };
        let faulty = |why: String| StoreError::Corrupt(format!("{} {why}", folder.uri_of(layout::MANIFEST)));
        let manifest: Manifest =
            weight::read(&bytes).map_err(|e| faulty(format!("is not the manifest of a result set: {e}")))?;
        if manifest.manifest_version != MANIFEST_VERSION {
            let version = manifest.manifest_version;
            return Err(faulty(format!("has version {version}; this operator reads version {MANIFEST_VERSION}")));
        }
        let set = ResultSet { folder, manifest };
        let (listed, succeeded) = (set.lines_of(layout::RESULTS), set.manifest.requests.succeeded);
        match listed == succeeded {
            true => Ok(Some(set)),
            false => Err(StoreError::Corrupt(format!(
                "{} counts {succeeded} answers and lists {listed} lines of them",
                set.folder.uri_of(layout::MANIFEST)
            ))),
        }
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the URI of the set's folder.
    pub fn uri(&self) -> String {
        self.folder.uri_of("")
    }

    /// Returns a text that differs for sets of other works or with other content.
    pub fn version(&self) -> String {
        let files = self.manifest.files.iter().map(|file| format!("\n{} {}", file.name, file.sha256));
        self.manifest.work_hash.clone() + &files.collect::<String>()
    }

    /// Returns the manifest's entries of a result file, such as `results.jsonl`: none, one, or one for each piece. Names
    /// of compressed files have another extension.
    pub fn files_of(&self, name: &str) -> impl Iterator<Item = &ManifestFile> {
        self.manifest.files.iter().filter(move |file| is_of(&file.name, name))
    }

    /// Returns the number of lines of a result file, according to the manifest.
    pub fn lines_of(&self, name: &str) -> i64 {
        self.files_of(name).map(|file| file.lines).sum()
    }

    /// Returns the content of a result file, uncompressed, all of its pieces in order. Reading ends in an error if the
    /// content is not what the manifest says. Until the end, nothing that was read may be acted upon.
    pub fn content(&self, name: &str) -> ResultContent {
        let (folder, files) = (self.folder.clone(), self.files_of(name).cloned().collect::<Vec<_>>());
        let pieces = futures::stream::iter(files).map(Ok).and_then(move |file| checked(folder.clone(), file));
        Box::new(StreamReader::new(pieces.try_flatten().map_err(std::io::Error::other).boxed()))
    }

    /// Returns the lines of [`ResultSet::content`]. Long lines wait in `spool`.
    pub fn lines(&self, name: &str, spool: &Path) -> Lines<ResultContent> {
        Lines::new(self.content(name), RESULT_LINE_LIMIT).spooling(spool)
    }
}

/// Returns the error of the store, of the local disk or of the content that ended the reading of a result file.
pub fn read_error(error: std::io::Error) -> StoreError {
    error.downcast().unwrap_or_else(|error| StoreError::Corrupt(format!("a result file cannot be read: {error}")))
}

/// Whether `file` is the result file `name`, or a piece of it, compressed or not.
fn is_of(file: &str, name: &str) -> bool {
    let plain = [".gz", ".zst"].iter().find_map(|extension| file.strip_suffix(extension)).unwrap_or(file);
    let stem = name.trim_end_matches(".jsonl");
    let number = plain.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".jsonl"));
    plain == name || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A file that is being read, and what was read of it so far.
struct CheckedFile {
    uri: String,
    wanted: ManifestFile,
    content: Box<dyn AsyncRead + Send + Unpin>,
    digest: Context,
    bytes: u64,
    lines: i64,
    _held: Reservation,
}

/// Opens a file as a stream of its uncompressed bytes, which ends in an error unless they are those of the manifest.
async fn checked(
    folder: Folder,
    wanted: ManifestFile,
) -> Result<impl Stream<Item = Result<Bytes, StoreError>> + Send, StoreError> {
    let uri = folder.uri_of(&wanted.name);
    let held = reserve(READER_BYTES).await;
    let stored = folder.get(&wanted.name).await?.ok_or_else(|| changed(&uri, "is gone"))?;
    let stored = StreamReader::new(stored.stream.map_err(std::io::Error::other));
    let content = decoded(&wanted.name, BufReader::with_capacity(READ_BYTES, stored));
    let digest = Context::new(&SHA256);
    let file = CheckedFile { uri, wanted, content, digest, bytes: 0, lines: 0, _held: held };
    Ok(futures::stream::try_unfold(file, CheckedFile::next))
}

fn decoded(name: &str, stored: impl AsyncBufRead + Send + Unpin + 'static) -> Box<dyn AsyncRead + Send + Unpin> {
    if name.ends_with(".gz") {
        let mut decoder = GzipDecoder::new(stored);
        decoder.multiple_members(true);
        return Box::new(decoder);
    }
    if name.ends_with(".zst") {
        return Box::new(ZstdDecoder::with_params(stored, &[DParameter::window_log_max(WINDOW_LOG_LIMIT)]));
    }
    Box::new(stored)
}

fn changed(uri: &str, how: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{uri} {how}; the result set was changed after it was written, so it is not used; put the file back as it was"
    ))
}

impl CheckedFile {
    async fn next(mut self) -> Result<Option<(Bytes, CheckedFile)>, StoreError> {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        if let Err(error) = self.content.read_buf(&mut chunk).await {
            let undecodable = |_| changed(&self.uri, "cannot be decompressed");
            return Err(error.downcast::<StoreError>().unwrap_or_else(undecodable));
        }
        unpacked(chunk.len() as u64);
        self.bytes += chunk.len() as u64;
        self.lines += memchr::memchr_iter(b'\n', &chunk).count() as i64;
        if self.bytes > self.wanted.bytes {
            return Err(changed(&self.uri, &format!("has more than the {} bytes of its manifest", self.wanted.bytes)));
        }
        if !chunk.is_empty() {
            self.digest.update(&chunk);
            return Ok(Some((chunk.freeze(), self)));
        }
        let (sha256, wanted) = (hex(self.digest.finish().as_ref()), self.wanted);
        if (self.bytes, self.lines) != (wanted.bytes, wanted.lines) {
            let how = format!(
                "has {} bytes in {} lines; its manifest says {} in {}",
                self.bytes, self.lines, wanted.bytes, wanted.lines
            );
            return Err(changed(&self.uri, &how));
        }
        match sha256 == wanted.sha256 {
            true => Ok(None),
            false => Err(changed(&self.uri, "has another SHA-256 than its manifest says")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
