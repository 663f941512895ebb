//! The one pass over the input.

use std::collections::HashSet;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::{InspectReader, StreamReader};

use super::check::{Problems, Request, Shape};
use super::provider_side_id;
use crate::api::text::hex;
use crate::api::{Endpoint, InlineRequest};
use crate::store::{Folder, IndexEntry, Line, Lines, ShardWriter, StagedShard, StoreError};

/// Longest line that is read, in bytes.
const LINE_LIMIT: usize = 8 << 20;
/// Requests of one job; their ids are held in memory, 16 bytes each, to find duplicates.
const REQUEST_LIMIT: i64 = 1_000_000;

/// Where the requests come from.
pub enum Source {
    /// Written in the manifest.
    Inline(Vec<InlineRequest>),
    /// One object of OpenAI's batch lines.
    Object {
        /// Its folder.
        folder: Folder,
        /// Its name there.
        name: String,
        /// What people call it.
        uri: String,
    },
}

/// How to make batches of requests.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name of the provider.
    pub provider: String,
    /// API that is called.
    pub endpoint: Endpoint,
    /// Model for requests that name none.
    pub model: Option<String>,
    /// Merged under each body.
    pub defaults: Map<String, Value>,
    /// Part of the work's identity.
    pub run_id: Option<String>,
    /// Requests in one batch.
    pub max_requests: i64,
    /// Bytes in one batch.
    pub max_bytes: u64,
    /// Models that the provider may be asked for; empty: any.
    pub allowed_models: Vec<String>,
    /// Prefix of the work hash.
    pub hash_version: &'static str,
}

/// What the pass gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// SHA-256 of the input's bytes.
    pub input_sha256: String,
    /// The input's size in bytes.
    pub input_bytes: u64,
    /// Requests in all.
    pub requests: i64,
    /// Identity of the work.
    pub work_hash: String,
    /// What was staged, in order; empty where nothing was to be staged.
    pub shards: Vec<StagedShard>,
}

/// Why a pass gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The input is not sound; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// Storage or the local spool.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, checks and hashes every request; with `stage`, cuts them into shards and puts those into the work's folder.
///
/// # Errors
/// [`PassError::Invalid`] names the source, the lines and the remedy.
pub async fn pass(
    source: Source,
    recipe: &Recipe,
    stage: Option<(&Folder, &str)>,
    spool: &Path,
) -> Result<Passed, PassError> {
    let mut pass = Pass::new(&source, recipe, stage, spool);
    let (input_sha256, input_bytes) = match source {
        Source::Inline(requests) => pass.inline(requests).await?,
        Source::Object { folder, name, uri } => pass.object(&folder, &name, &uri).await?,
    };
    pass.finish(input_sha256, input_bytes).await
}

struct Pass<'a> {
    recipe: &'a Recipe,
    shape: Shape,
    writer: Option<ShardWriter<'a>>,
    problems: Problems,
    seen: HashSet<[u8; 16]>,
    model: Option<String>,
    chain: Context,
    requests: i64,
}

impl<'a> Pass<'a> {
    fn new(source: &Source, recipe: &'a Recipe, stage: Option<(&'a Folder, &'a str)>, spool: &'a Path) -> Self {
        let (name, entry) = match source {
            Source::Inline(_) => ("`spec.input.inline.requests`".to_string(), "request"),
            Source::Object { uri, .. } => (uri.clone(), "line"),
        };
        let (model, defaults) = (recipe.model.clone(), recipe.defaults.clone());
        Pass {
            recipe,
            shape: Shape {
                path: recipe.endpoint.path(),
                model,
                defaults,
                allowed_models: recipe.allowed_models.clone(),
            },
            writer: stage.map(|(folder, work_id)| {
                ShardWriter::new(folder, work_id, spool, recipe.max_requests, recipe.max_bytes)
            }),
            problems: Problems { source: name, entry, ..Default::default() },
            seen: HashSet::new(),
            model: None,
            chain: Context::new(&SHA256),
            requests: 0,
        }
    }

    async fn inline(&mut self, requests: Vec<InlineRequest>) -> Result<(String, u64), PassError> {
        let (mut hash, mut bytes) = (Context::new(&SHA256), 0);
        for (i, request) in requests.into_iter().enumerate() {
            let text = json!([request.custom_id, request.body]).to_string();
            hash.update(text.as_bytes());
            bytes += text.len() as u64;
            self.take(i as u64 + 1, self.shape.request(request.custom_id, request.body)).await?;
        }
        Ok((hex(hash.finish().as_ref()), bytes))
    }

    async fn object(&mut self, folder: &Folder, name: &str, uri: &str) -> Result<(String, u64), PassError> {
        let missing =
            || PassError::Invalid(format!("{uri} does not exist; put the requests there, or correct `spec.input`"));
        let entry = folder.get(name).await?.ok_or_else(missing)?;
        let mut bytes = 0;
        let mut hash = Context::new(&SHA256);
        let counted = entry.stream.map(|chunk: Result<Bytes, _>| chunk.map_err(std::io::Error::other));
        let reader = InspectReader::new(StreamReader::new(counted), |read: &[u8]| {
            bytes += read.len() as u64;
            hash.update(read);
        });
        let mut lines = Lines::new(skip_bom(reader).await.map_err(|e| broken(uri, e))?, LINE_LIMIT);
        let mut number = 0;
        while let Some(line) = lines.next().await.map_err(|e| broken(uri, e))? {
            number += 1;
            let checked = match line {
                Line::Whole(line) if line.trim_ascii().is_empty() => continue,
                Line::Whole(line) => self.shape.batch_line(line),
                Line::TooLong(size) => Err(format!("has {size} bytes; {LINE_LIMIT} are allowed")),
            };
            self.take(number, checked).await?;
        }
        drop(lines);
        Ok((hex(hash.finish().as_ref()), bytes))
    }

    async fn take(&mut self, line: u64, checked: Result<Request, String>) -> Result<(), PassError> {
        let checked = checked.and_then(|r| self.fits_the_others(r));
        let request = match checked {
            Ok(request) => request,
            Err(what) => {
                self.problems.add(line, what);
                return Ok(());
            }
        };
        let body = Value::Object(request.body).to_string();
        let mut hash = Context::new(&SHA256);
        for part in [self.shape.path, "\n", &request.model, "\n", &body] {
            hash.update(part.as_bytes());
        }
        let hash = hash.finish();
        self.chain.update(&(request.custom_id.len() as u64).to_le_bytes());
        self.chain.update(request.custom_id.as_bytes());
        self.chain.update(hash.as_ref());
        let index = self.requests;
        self.requests += 1;
        if self.requests > REQUEST_LIMIT {
            return Err(PassError::Invalid(format!(
                "{} has more than {REQUEST_LIMIT} requests; split it over several BatchJobs",
                self.problems.source
            )));
        }
        // Once something is wrong nothing is sent: go on reading for the report only.
        if self.problems.count > 0 {
            return Ok(());
        }
        let entry = IndexEntry { index, custom_id: request.custom_id, request_sha256: hex(hash.as_ref()) };
        self.stage(line, &entry, &body).await
    }

    fn fits_the_others(&mut self, request: Request) -> Result<Request, String> {
        let id = digest(&SHA256, request.custom_id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&id.as_ref()[..16]);
        if !self.seen.insert(key) {
            return Err("has a custom id that an earlier request has; give each its own".into());
        }
        match self.model.get_or_insert_with(|| request.model.clone()) == &request.model {
            true => Ok(request),
            false => Err("names another model than the requests before it; use a BatchJob for each model".into()),
        }
    }

    async fn stage(&mut self, line: u64, entry: &IndexEntry, body: &str) -> Result<(), PassError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let id = provider_side_id(entry.index, writer.work_id());
        let encoded = format!(r#"{{"custom_id":"{id}","method":"POST","url":"{}","body":{body}}}"#, self.shape.path);
        let (size, limit) = (encoded.len() as u64 + 1, self.recipe.max_bytes);
        if size > limit {
            self.problems.add(line, format!("takes {size} bytes; the provider takes {limit} in a whole batch"));
            return Ok(());
        }
        writer.push(encoded.as_bytes(), entry).await?;
        Ok(())
    }

    async fn finish(mut self, input_sha256: String, input_bytes: u64) -> Result<Passed, PassError> {
        if self.problems.count > 0 {
            return Err(PassError::Invalid(self.problems.to_string()));
        }
        if self.requests == 0 {
            return Err(PassError::Invalid(format!("{} holds no requests", self.problems.source)));
        }
        let shards = match self.writer.take() {
            Some(writer) => writer.finish().await?,
            None => vec![],
        };
        let chain = hex(self.chain.finish().as_ref());
        let identity = json!([self.recipe.provider, self.recipe.run_id, self.requests, chain]).to_string();
        let hash = hex(digest(&SHA256, identity.as_bytes()).as_ref());
        Ok(Passed {
            input_sha256,
            input_bytes,
            requests: self.requests,
            work_hash: format!("{}-{hash}", self.recipe.hash_version),
            shards,
        })
    }
}

fn broken(uri: &str, error: std::io::Error) -> PassError {
    match error.downcast::<StoreError>() {
        Ok(error) => error.into(),
        Err(error) => StoreError::Unavailable(format!("{uri}: {error}")).into(),
    }
}

/// Editors on Windows put a byte order mark first; it is no part of the first line.
async fn skip_bom<R: AsyncRead + Unpin>(mut reader: R) -> std::io::Result<impl AsyncRead + Unpin> {
    let mut head = Vec::with_capacity(3);
    while head.len() < 3 && (&mut reader).take(3 - head.len() as u64).read_to_end(&mut head).await? > 0 {}
    if head == b"\xef\xbb\xbf" {
        head.clear();
    }
    Ok(std::io::Cursor::new(head).chain(reader))
}
