//! Shards: what one batch is sent, with an index of whose requests they are. Each is staged once, under the hash of its own
//! bytes: other names for the same requests make another index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::staged::Spool;
use super::{Folder, StoreError, layout};
use crate::api::WorkHashVersion;

/// A line of a shard's index.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(from = "IndexLine", into = "IndexLine")]
pub struct IndexEntry {
    /// Place of the request in the input, from 0.
    pub index: i64,
    /// The user's name for it.
    pub custom_id: String,
    /// What the request is known by.
    pub request_hash: RequestHash,
}

/// A hash over endpoint, model and body of a request, without ids, in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHash {
    /// Of works of the first version: `request_sha256`.
    Sha256(String),
    /// `request_blake3`.
    Blake3(String),
}

impl RequestHash {
    /// `hex` as it is called in works of this version.
    pub fn of(version: WorkHashVersion, hex: String) -> RequestHash {
        match version {
            WorkHashVersion::V1 => RequestHash::Sha256(hex),
            WorkHashVersion::V2 => RequestHash::Blake3(hex),
        }
    }
}

/// The same as it is written.
#[derive(Serialize, Deserialize)]
struct IndexLine {
    index: i64,
    custom_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_blake3: Option<String>,
}

impl From<IndexLine> for IndexEntry {
    fn from(line: IndexLine) -> Self {
        let IndexLine { index, custom_id, request_sha256, request_blake3 } = line;
        let request_hash = match request_blake3 {
            Some(hex) => RequestHash::Blake3(hex),
            None => RequestHash::Sha256(request_sha256.unwrap_or_default()),
        };
        IndexEntry { index, custom_id, request_hash }
    }
}

impl From<IndexEntry> for IndexLine {
    fn from(entry: IndexEntry) -> Self {
        let IndexEntry { index, custom_id, request_hash } = entry;
        let (request_sha256, request_blake3) = match request_hash {
            RequestHash::Sha256(hex) => (Some(hex), None),
            RequestHash::Blake3(hex) => (None, Some(hex)),
        };
        IndexLine { index, custom_id, request_sha256, request_blake3 }
    }
}

/// A staged set of requests for one batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StagedShard {
    /// SHA-256 of what is sent.
    pub sha256: String,
    /// SHA-256 of the index.
    pub index_sha256: String,
    /// Size of what is sent, in bytes.
    pub bytes: u64,
    /// Index of the first request.
    pub first: i64,
    /// Number of requests.
    pub requests: i64,
    /// The model that all of them ask for.
    pub model: String,
}

impl StagedShard {
    /// The order in which shards are sent.
    pub fn order(&self, other: &StagedShard) -> std::cmp::Ordering {
        self.first.cmp(&other.first)
    }
}

/// Cuts requests into shards by a provider's limits, one model a shard, and stages them. Some megabytes are held for each
/// model. Shards become full in another order than that of their first requests: who needs that one sorts them.
pub struct ShardWriter<'a> {
    folder: &'a Folder,
    work_id: &'a str,
    spool: &'a Path,
    max_requests: i64,
    max_bytes: u64,
    max_inputs: Option<u64>,
    open: BTreeMap<String, Open>,
    /// By model: those that are to be put.
    full: Vec<(String, Open)>,
    /// Shards that were put.
    put: usize,
}

struct Open {
    lines: Spool,
    index: Spool,
    first: i64,
    requests: i64,
    inputs: u64,
}

impl<'a> ShardWriter<'a> {
    /// A writer into the work's folder; a shard holds at most `max_requests` and `max_bytes`.
    pub fn new(folder: &'a Folder, work_id: &'a str, spool: &'a Path, max_requests: i64, max_bytes: u64) -> Self {
        ShardWriter {
            folder,
            work_id,
            spool,
            max_requests,
            max_bytes,
            max_inputs: None,
            open: BTreeMap::new(),
            full: vec![],
            put: 0,
        }
    }

    /// The same for embeddings, of which a shard holds at most `max_inputs` inputs; None for other requests.
    pub fn of_inputs(mut self, max_inputs: Option<u64>) -> Self {
        self.max_inputs = max_inputs;
        self
    }

    /// Whether inputs matter.
    pub fn counts_inputs(&self) -> bool {
        self.max_inputs.is_some()
    }

    /// The work that is staged for.
    pub fn work_id(&self) -> &str {
        self.work_id
    }

    /// Shards so far, those that are being filled among them.
    pub fn shards(&self) -> usize {
        self.put + self.full.len() + self.open.len()
    }

    /// Adds a request in the provider's format, in parts that make one line, without a newline, that asks for `model` and has
    /// that many `inputs`. Returns the index of the first request of the shard that it is in. It waits for nothing but local
    /// disk: [`ShardWriter::put`] puts the shards that became full.
    ///
    /// # Errors
    /// When storage or the spool refuses.
    pub async fn push(
        &mut self,
        model: &str,
        line: &[&[u8]],
        inputs: u64,
        entry: &IndexEntry,
    ) -> Result<i64, StoreError> {
        let size = line.iter().map(|part| part.len() as u64).sum::<u64>() + 1;
        let full = |s: &Open| {
            s.requests >= self.max_requests
                || s.lines.bytes() + size > self.max_bytes
                || self.max_inputs.is_some_and(|most| s.inputs + inputs > most)
        };
        if self.open.get(model).is_some_and(full)
            && let Some(full) = self.open.remove_entry(model)
        {
            self.full.push(full);
        }
        let open = match self.open.entry(model.into()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(free) => free.insert(Open {
                lines: Spool::new(self.spool).await?,
                index: Spool::small(self.spool).await?,
                first: entry.index,
                requests: 0,
                inputs: 0,
            }),
        };
        open.requests += 1;
        open.inputs += inputs;
        for part in line {
            open.lines.write(part).await?;
        }
        open.lines.write(b"\n").await?;
        let mut entry = serde_json::to_vec(entry).map_err(|e| StoreError::Invalid(e.to_string()))?;
        entry.push(b'\n');
        open.index.write(&entry).await?;
        Ok(open.first)
    }

    /// The folder on local disk that shards grow in.
    pub fn spool(&self) -> &'a Path {
        self.spool
    }

    /// Whether shards are full.
    pub fn is_to_put(&self) -> bool {
        !self.full.is_empty()
    }

    /// Puts the shards that are full, and names them.
    ///
    /// # Errors
    /// When storage or the spool refuses.
    pub async fn put(&mut self) -> Result<Vec<StagedShard>, StoreError> {
        let mut put = vec![];
        for (model, open) in std::mem::take(&mut self.full) {
            put.push(self.cut(model, open).await?);
        }
        Ok(put)
    }

    async fn cut(&mut self, model: String, open: Open) -> Result<StagedShard, StoreError> {
        let (lines, index) = (open.lines.finish().await?, open.index.finish().await?);
        let shard = StagedShard {
            sha256: lines.sha256.clone(),
            index_sha256: index.sha256.clone(),
            bytes: lines.bytes,
            first: open.first,
            requests: open.requests,
            model,
        };
        index.put(self.folder, &layout::index(self.work_id, &shard.index_sha256), self.work_id).await?;
        lines.put(self.folder, &layout::shard(self.work_id, &shard.sha256), self.work_id).await?;
        self.put += 1;
        Ok(shard)
    }

    /// Has all shards put next that are being filled: nothing more comes for them.
    pub fn close(&mut self) {
        self.full.extend(std::mem::take(&mut self.open));
    }

    /// Puts what is left, one shard for each model, and names it.
    ///
    /// # Errors
    /// When storage or the spool refuses.
    pub async fn finish(mut self) -> Result<Vec<StagedShard>, StoreError> {
        self.close();
        self.put().await
    }
}
