//! The join of immutable parts into results, in the order of the requests. Two writers write the same bytes.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use tracing::warn;

use super::index::corrupt;
use super::join::{Join, JoinInputs, loaded};
use super::line::{PartLine, ProviderLine, RequestLine, ResultLine};
use super::manifest::{Manifest, ManifestFile};
use super::settled::SettledShard;
use crate::api::text::hex;
use crate::api::{OutputCompression, RequestCounts, weight};
use crate::store::{Folder, IndexEntry, KeptLine, Sorted, SpooledLine, StoreError, Upload, layout, staged};

/// The reason why results were not written. It can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Staged files do not fit together.
    #[error("{0}")]
    Corrupt(String),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        match staged::unread(error) {
            StoreError::Corrupt(message) => WriteError::Corrupt(message),
            error => error.into(),
        }
    }
}

/// The form of a result set.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResultForm {
    /// Compression of its files.
    pub compression: OutputCompression,
    /// Whether it has all requests, in `requests.jsonl`.
    pub requests: bool,
}

/// Writes `results.jsonl`, the manifest and `_SUCCESS`; if requests have no answer, also `errors.jsonl` with the
/// reasons and `unsuccessful.jsonl` with the requests, which can be run again. `manifest` is complete except for its
/// files. Returns the manifest that is at the destination in the end. In ConfigMaps without room for a file, the file
/// is compressed and cut into pieces, `results-00000.jsonl.gz` and so on. Long lines wait in `spool`, on local disk,
/// for their turn in memory and for the store.
///
/// # Errors
/// [`StoreError::Conflict`] if another work's object is in the way; it is not touched.
pub async fn write(
    spool: &Path,
    folder: &Folder,
    shards: Sorted<SettledShard>,
    mut manifest: Manifest,
    ResultForm { compression, requests }: ResultForm,
) -> Result<Manifest, WriteError> {
    if shards.is_empty() && manifest.requests.total > 0 {
        // Without shards nothing is known of the answers, so no file may claim to hold them.
        return put_manifest(folder, manifest).await;
    }
    let joining = ResultWriter { folder, spool, shards: &shards, manifest: &manifest, requests };
    manifest.files = match joining.write(OutputForm { compression, piece: None }).await {
        Err(WriteError::Store(StoreError::TooLarge(_))) => {
            for name in layout::result_files(requests) {
                folder.delete(&compression.named(name)).await?;
            }
            let compression =
                if compression == OutputCompression::None { OutputCompression::Gzip } else { compression };
            joining.write(OutputForm { compression, piece: Some(PIECE) }).await?
        }
        files => files?,
    };
    put_manifest(folder, manifest).await
}

/// Returns the name of a piece of the result file `name`, such as `results-00000.jsonl`.
fn piece_name(name: &str, number: usize) -> String {
    name.replace(".jsonl", &format!("-{number:05}.jsonl"))
}

/// Uncompressed bytes of a piece. It fits into a ConfigMap even if it does not compress.
const PIECE: u64 = 640 << 10;

/// The form of result files.
#[derive(Clone, Copy)]
pub(super) struct OutputForm {
    pub compression: OutputCompression,
    /// Most uncompressed bytes of a piece; None for a single file.
    pub piece: Option<u64>,
}

struct ResultWriter<'a> {
    folder: &'a Folder,
    spool: &'a Path,
    shards: &'a Sorted<SettledShard>,
    manifest: &'a Manifest,
    /// Whether all requests are written as well.
    requests: bool,
}

impl ResultWriter<'_> {
    async fn write(&self, form: OutputForm) -> Result<Vec<ManifestFile>, WriteError> {
        let (folder, said) = (self.folder, self.manifest.requests);
        let output = async |name| Output::new(folder, name, &self.manifest.work_id, form).await;
        let mut results = output(layout::RESULTS).await?;
        let complete = said.succeeded == said.total;
        let mut without = match complete {
            true => None,
            false => Some((output(layout::ERRORS).await?, output(layout::UNSUCCESSFUL).await?)),
        };
        let with = if complete { JoinInputs::Answers } else { JoinInputs::Requests };
        let joined = Join::new(folder, &self.manifest.work_id, self.shards.clone(), with, self.spool)?;
        let counts = join(joined, self.spool, &mut results, without.as_mut()).await?;
        if (counts.succeeded, counts.total) != (said.succeeded, said.total) {
            return Err(WriteError::Corrupt(format!(
                "the parts hold {} answers of {} requests, the journal says {} of {}",
                counts.succeeded, counts.total, said.succeeded, said.total
            )));
        }
        let mut files = results.finish().await?;
        if let Some((errors, unsuccessful)) = without {
            files.extend(errors.finish().await?);
            files.extend(unsuccessful.finish().await?);
        }
        if self.requests {
            // By a join of their own: no more files are written at a time, since each upload takes much memory.
            match self.write_requests(output(layout::REQUESTS).await?).await {
                // Answers that were paid count more than a copy of the requests.
                Err(WriteError::Store(StoreError::TooLarge(why))) if form.piece.is_some() => {
                    warn!(why, "the requests are left out of the results, since only the answers have room");
                    self.delete_requests(form).await?;
                }
                requests => files.extend(requests?),
            }
        }
        Ok(files)
    }

    /// Deletes the pieces of a file of requests that found no room.
    async fn delete_requests(&self, form: OutputForm) -> Result<(), WriteError> {
        for number in 0.. {
            let name = form.compression.named(&piece_name(layout::REQUESTS, number));
            if !self.folder.exists(&name).await? {
                break;
            }
            self.folder.delete(&name).await?;
        }
        Ok(())
    }

    async fn write_requests(&self, mut requests: Output<'_>) -> Result<Vec<ManifestFile>, WriteError> {
        let shards = self.shards.clone();
        let mut joined = Join::new(self.folder, &self.manifest.work_id, shards, JoinInputs::Requests, self.spool)?;
        while let Some(request) = joined.next().await? {
            let sent = loaded(request.sent).await?;
            let line = OutputLine::new(&to_run_again(&request.entry, &sent)?, sent.len(), self.spool)?;
            drop(sent);
            requests.line(line).await?;
        }
        Ok(requests.finish().await?)
    }
}

async fn put_manifest(folder: &Folder, manifest: Manifest) -> Result<Manifest, WriteError> {
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| WriteError::Corrupt(e.to_string()))?;
    let lies_there = match folder.put_new(layout::MANIFEST, bytes.into()).await? {
        true => manifest,
        false => {
            let there = folder.read(layout::MANIFEST, 8 << 20).await?.unwrap_or_default();
            let there: Manifest = weight::read(&there).map_err(WriteError::Corrupt)?;
            if there.work_id != manifest.work_id {
                let message = "manifest.json is another work's; it is not overwritten";
                return Err(StoreError::Conflict(message.into()).into());
            }
            there
        }
    };
    folder.put_new(layout::SUCCESS, Bytes::new()).await?;
    Ok(lies_there)
}

/// Bytes of a long line that are in memory at a time.
const CHUNK: usize = 256 << 10;

/// A line of a result file, with its line end. It holds none of the long lines that it was made of, so those can be
/// dropped before a wait for the store.
pub(super) enum OutputLine {
    Short(Vec<u8>),
    Long(SpooledLine),
}

impl OutputLine {
    /// Serializes a line. `of` is the number of bytes that it was made of.
    fn new(line: &impl Serialize, of: usize, spool: &Path) -> Result<OutputLine, WriteError> {
        if of <= CHUNK {
            let mut bytes = serde_json::to_vec(line).map_err(corrupt)?;
            bytes.push(b'\n');
            return Ok(OutputLine::Short(bytes));
        }
        let mut out = std::io::BufWriter::with_capacity(CHUNK, SpooledLine::new(spool)?);
        serde_json::to_writer(&mut out, line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(OutputLine::Long(out.into_inner().map_err(std::io::IntoInnerError::into_error)?))
    }

    fn bytes(&self) -> u64 {
        match self {
            OutputLine::Short(line) => line.len() as u64,
            OutputLine::Long(line) => line.bytes() as u64,
        }
    }
}

/// A result file that is being written, whole or in pieces.
struct Output<'a> {
    folder: &'a Folder,
    name: &'static str,
    work_id: &'a str,
    form: OutputForm,
    open: OutputPiece,
    done: Vec<ManifestFile>,
}

pub(super) struct OutputPiece {
    upload: Upload,
    digest: Context,
    file: ManifestFile,
}

impl<'a> Output<'a> {
    async fn new(
        folder: &'a Folder,
        name: &'static str,
        work_id: &'a str,
        form: OutputForm,
    ) -> Result<Output<'a>, StoreError> {
        let open = OutputPiece::new(folder, name, work_id, form, 0).await?;
        Ok(Output { folder, name, work_id, form, open, done: vec![] })
    }

    async fn line(&mut self, line: OutputLine) -> Result<(), WriteError> {
        let written = self.open.file.bytes;
        if self.form.piece.is_some_and(|most| written > 0 && written + line.bytes() > most) {
            let next = self.done.len() + 1;
            let next = OutputPiece::new(self.folder, self.name, self.work_id, self.form, next).await?;
            self.done.push(std::mem::replace(&mut self.open, next).finish(self.folder).await?);
        }
        self.open.line(line).await
    }

    async fn finish(mut self) -> Result<Vec<ManifestFile>, StoreError> {
        self.done.push(self.open.finish(self.folder).await?);
        Ok(self.done)
    }
}

impl OutputPiece {
    pub async fn new(
        folder: &Folder,
        name: &str,
        work_id: &str,
        form: OutputForm,
        number: usize,
    ) -> Result<OutputPiece, StoreError> {
        let name = match form.piece {
            Some(_) => piece_name(name, number),
            None => name.to_string(),
        };
        let name = form.compression.named(&name);
        let upload = folder.create(&name, work_id).await?.compressed(form.compression);
        let file = ManifestFile { name, lines: 0, bytes: 0, sha256: String::new(), config_map: None };
        Ok(OutputPiece { upload, digest: Context::new(&SHA256), file })
    }

    pub async fn line(&mut self, line: OutputLine) -> Result<(), WriteError> {
        self.file.lines += 1;
        match line {
            OutputLine::Short(line) => self.write(&line).await?,
            OutputLine::Long(line) => {
                let (mut at, mut chunk) = (0, vec![0; CHUNK]);
                while at < line.bytes() {
                    let n = line.read_at(at, &mut chunk)?;
                    self.write(&chunk[..n]).await?;
                    at += n;
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.digest.update(bytes);
        self.file.bytes += bytes.len() as u64;
        self.upload.write(bytes).await
    }

    pub async fn finish(mut self, folder: &Folder) -> Result<ManifestFile, StoreError> {
        self.upload.finish().await?;
        self.file.sha256 = hex(self.digest.finish().as_ref());
        self.file.config_map = folder.config_map_of(&self.file.name).await?;
        Ok(self.file)
    }
}

async fn join(
    mut joined: Join<'_>,
    spool: &Path,
    results: &mut Output<'_>,
    mut without: Option<&mut (Output<'_>, Output<'_>)>,
) -> Result<RequestCounts, WriteError> {
    let mut counts = RequestCounts::default();
    while let Some(request) = joined.next().await? {
        counts.total += 1;
        let (succeeded, entry) = (request.succeeded(), &request.entry);
        let answer = match request.answer {
            Some(answer) => Some(answer_line(entry, answer, spool).await?),
            None => None,
        };
        if succeeded && let Some(answer) = answer {
            counts.succeeded += 1;
            results.line(answer).await?;
            continue;
        }
        let Some((errors, unsuccessful)) = &mut without else {
            return Err(WriteError::Corrupt("a request has no answer although all have one".into()));
        };
        match answer {
            Some(last) => errors.line(last).await?,
            None => {
                let (code, message) = &request.absent;
                let absent = to_raw_value(&json!({"code": code, "message": message})).map_err(corrupt)?;
                errors.line(OutputLine::new(&ResultLine::new(entry, None, None, Some(&absent)), 0, spool)?).await?;
            }
        }
        let sent = loaded(request.sent).await?;
        let again = OutputLine::new(&to_run_again(entry, &sent)?, sent.len(), spool)?;
        drop(sent);
        unsuccessful.line(again).await?;
    }
    Ok(counts)
}

/// Returns the line of a result file for an answer.
pub(super) async fn answer_line(entry: &IndexEntry, answer: KeptLine, spool: &Path) -> Result<OutputLine, WriteError> {
    let answer = loaded(Some(answer)).await?;
    OutputLine::new(&handed_on(entry, &answer)?, answer.len(), spool)
}

/// Returns the provider's line under the user's own custom id.
fn handed_on<'a>(entry: &'a IndexEntry, line: &'a [u8]) -> Result<ResultLine<'a>, WriteError> {
    let PartLine { line: ProviderLine { id, response, error, .. }, .. } =
        serde_json::from_slice(line).map_err(corrupt)?;
    Ok(ResultLine::new(entry, id, response, error))
}

/// Returns the request as it was sent, under the user's own custom id: an input in OpenAI's format.
fn to_run_again<'a>(entry: &'a IndexEntry, sent: &'a [u8]) -> Result<RequestLine<'a>, WriteError> {
    let sent: RequestLine = serde_json::from_slice(sent).map_err(corrupt)?;
    Ok(RequestLine { custom_id: Cow::Borrowed(&entry.custom_id), ..sent })
}

#[cfg(test)]
mod tests;
