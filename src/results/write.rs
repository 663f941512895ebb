//! The join: immutable parts become results in the order of the requests. Two writers write the same bytes.

use std::borrow::Cow;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::joined::{Joined, Settled, With, corrupt};
use super::line::{Ended, ProviderLine, RequestLine, ResultLine};
use super::manifest::{Manifest, ManifestFile};
use crate::api::text::hex;
use crate::api::{OutputCompression, RequestCounts};
use crate::store::{Folder, IndexEntry, StoreError, Upload, layout, staged};

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
        match error.kind() == staged::BROKE_OFF {
            true => StoreError::Unavailable(format!("what was staged could not be read to its end: {error}")).into(),
            false => WriteError::Corrupt(error.to_string()),
        }
    }
}

/// Writes `results.jsonl`; where requests have no answer, `errors.jsonl` with the reasons and `unsuccessful.jsonl` with the
/// requests, to be run again; the manifest, and `_SUCCESS`. `manifest` is complete but for its files; what lies at the
/// destination in the end is returned. ConfigMaps that have no room for a file are given it compressed and in pieces,
/// `results-00000.jsonl.gz` and so on.
///
/// # Errors
/// [`StoreError::Conflict`] when something foreign is in the way; it is left alone.
pub async fn write(
    folder: &Folder,
    shards: Vec<Settled>,
    mut manifest: Manifest,
    compression: OutputCompression,
) -> Result<Manifest, WriteError> {
    if shards.is_empty() && manifest.requests.total > 0 {
        // Nothing is known of its answers, and no file says that these are they.
        return put_manifest(folder, manifest).await;
    }
    let joining = Joining { folder, shards: &shards, manifest: &manifest };
    manifest.files = match joining.write(Form { compression, piece: None }).await {
        Err(WriteError::Store(StoreError::TooLarge(_))) => {
            for name in layout::RESULT_FILES {
                folder.delete(&compression.named(name)).await?;
            }
            let compression =
                if compression == OutputCompression::None { OutputCompression::Gzip } else { compression };
            joining.write(Form { compression, piece: Some(PIECE) }).await?
        }
        files => files?,
    };
    put_manifest(folder, manifest).await
}

/// Uncompressed bytes of a piece: it fits into a ConfigMap however little it compresses.
const PIECE: u64 = 640 << 10;

/// How result files are written.
#[derive(Clone, Copy)]
struct Form {
    compression: OutputCompression,
    /// Uncompressed bytes of a piece; None: in one.
    piece: Option<u64>,
}

struct Joining<'a> {
    folder: &'a Folder,
    shards: &'a [Settled],
    manifest: &'a Manifest,
}

impl Joining<'_> {
    async fn write(&self, form: Form) -> Result<Vec<ManifestFile>, WriteError> {
        let (folder, said) = (self.folder, self.manifest.requests);
        let output = async |name| Output::new(folder, name, &self.manifest.work_id, form).await;
        let mut results = output(layout::RESULTS).await?;
        let complete = said.succeeded == said.total;
        let mut without = match complete {
            true => None,
            false => Some((output(layout::ERRORS).await?, output(layout::UNSUCCESSFUL).await?)),
        };
        let with = if complete { With::Answers } else { With::Requests };
        let joined = Joined::new(folder, &self.manifest.work_id, self.shards.to_vec(), with);
        let counts = join(joined, &mut results, without.as_mut()).await?;
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
        Ok(files)
    }
}

async fn put_manifest(folder: &Folder, manifest: Manifest) -> Result<Manifest, WriteError> {
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| WriteError::Corrupt(e.to_string()))?;
    let lies_there = match folder.put_new(layout::MANIFEST, bytes.into()).await? {
        true => manifest,
        false => {
            let there = folder.read(layout::MANIFEST, 8 << 20).await?.unwrap_or_default();
            let there: Manifest = serde_json::from_slice(&there).map_err(|e| WriteError::Corrupt(e.to_string()))?;
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

/// A result file that is being written, in one or in pieces.
struct Output<'a> {
    folder: &'a Folder,
    name: &'static str,
    work_id: &'a str,
    form: Form,
    open: Piece,
    done: Vec<ManifestFile>,
}

struct Piece {
    upload: Upload,
    digest: Context,
    file: ManifestFile,
}

impl<'a> Output<'a> {
    async fn new(
        folder: &'a Folder,
        name: &'static str,
        work_id: &'a str,
        form: Form,
    ) -> Result<Output<'a>, StoreError> {
        let open = Piece::new(folder, name, work_id, form, 0).await?;
        Ok(Output { folder, name, work_id, form, open, done: vec![] })
    }

    async fn line(&mut self, line: &impl Serialize) -> Result<(), WriteError> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| WriteError::Corrupt(e.to_string()))?;
        bytes.push(b'\n');
        let written = self.open.file.bytes;
        if self.form.piece.is_some_and(|most| written > 0 && written + bytes.len() as u64 > most) {
            let next = self.done.len() + 1;
            let next = Piece::new(self.folder, self.name, self.work_id, self.form, next).await?;
            self.done.push(std::mem::replace(&mut self.open, next).finish(self.folder).await?);
        }
        Ok(self.open.write(&bytes).await?)
    }

    async fn finish(mut self) -> Result<Vec<ManifestFile>, StoreError> {
        self.done.push(self.open.finish(self.folder).await?);
        Ok(self.done)
    }
}

impl Piece {
    async fn new(folder: &Folder, name: &str, work_id: &str, form: Form, number: usize) -> Result<Piece, StoreError> {
        let name = match form.piece {
            Some(_) => name.replace(".jsonl", &format!("-{number:05}.jsonl")),
            None => name.to_string(),
        };
        let name = form.compression.named(&name);
        let upload = folder.create(&name, work_id).await?.compressed(form.compression);
        let file = ManifestFile { name, lines: 0, bytes: 0, sha256: String::new(), config_map: None };
        Ok(Piece { upload, digest: Context::new(&SHA256), file })
    }

    async fn write(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.digest.update(line);
        self.file.lines += 1;
        self.file.bytes += line.len() as u64;
        self.upload.write(line).await
    }

    async fn finish(mut self, folder: &Folder) -> Result<ManifestFile, StoreError> {
        self.upload.finish().await?;
        self.file.sha256 = hex(self.digest.finish().as_ref());
        self.file.config_map = folder.config_map_of(&self.file.name).await?;
        Ok(self.file)
    }
}

async fn join(
    mut joined: Joined<'_>,
    results: &mut Output<'_>,
    mut without: Option<&mut (Output<'_>, Output<'_>)>,
) -> Result<RequestCounts, WriteError> {
    let mut counts = RequestCounts::default();
    while let Some(request) = joined.next().await? {
        counts.total += 1;
        let entry = &request.entry;
        let answered = request.answers.iter().find(|a| a.ended == Ended::Succeeded);
        if let Some(answer) = answered {
            counts.succeeded += 1;
            results.line(&handed_on(entry, &answer.line)?).await?;
            continue;
        }
        let Some((errors, unsuccessful)) = &mut without else {
            return Err(WriteError::Corrupt("a request has no answer although all have one".into()));
        };
        match request.answers.last() {
            Some(last) => errors.line(&handed_on(entry, &last.line)?).await?,
            None => {
                let (code, message) = &request.absent;
                let absent = to_raw_value(&json!({"code": code, "message": message})).map_err(corrupt)?;
                errors.line(&ResultLine::new(entry, None, None, Some(&absent))).await?;
            }
        }
        let sent = request.sent.ok_or_else(|| WriteError::Corrupt("a staged request is missing".into()))?;
        unsuccessful.line(&to_run_again(entry, &sent)?).await?;
    }
    Ok(counts)
}

/// The provider's line under the user's own id.
fn handed_on<'a>(entry: &'a IndexEntry, line: &'a RawValue) -> Result<ResultLine<'a>, WriteError> {
    let line: ProviderLine = serde_json::from_str(line.get()).map_err(corrupt)?;
    Ok(ResultLine::new(entry, line.id, line.response, line.error))
}

/// The request as it was sent, under the user's own id: an input in OpenAI's format.
fn to_run_again<'a>(entry: &'a IndexEntry, sent: &'a [u8]) -> Result<RequestLine<'a>, WriteError> {
    let sent: RequestLine = serde_json::from_slice(sent).map_err(corrupt)?;
    Ok(RequestLine { custom_id: Cow::Borrowed(&entry.custom_id), ..sent })
}
