//! Shards: the requests of one batch, with an index of their custom ids. Each is staged once, under the hash of its own
//! bytes. The same requests under other custom ids have the same shard with another index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::staged::Spool;
use super::{Folder, StoreError, layout};
use crate::api::{TextLimits, TokenHints, WorkHashVersion};

/// A line of a shard's index.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(from = "IndexLine", into = "IndexLine")]
pub struct IndexEntry {
    /// Index of the request in the input, from 0.
    pub index: i64,
    /// The name that the user gave it.
    pub custom_id: String,
    /// Hash of the request.
    pub request_hash: RequestHash,
}

/// A hash over endpoint, model and body of a request, without ids, in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHash {
    /// `request_sha256`, in works of version 1.
    Sha256(String),
    /// `request_blake3`, in works of version 2.
    Blake3(String),
}

impl RequestHash {
    /// Creates the hash of a work of this version from `hex`.
    pub fn of(version: WorkHashVersion, hex: String) -> RequestHash {
        match version {
            WorkHashVersion::V1 => RequestHash::Sha256(hex),
            WorkHashVersion::V2 => RequestHash::Blake3(hex),
        }
    }
}

/// An index entry in its written form.
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
    /// SHA-256 of the requests as they are sent, in hex.
    pub sha256: String,
    /// SHA-256 of the index, in hex.
    pub index_sha256: String,
    /// Bytes of the requests as they are sent.
    pub bytes: u64,
    /// Index of the first request.
    pub first: i64,
    /// Number of requests.
    pub requests: i64,
    /// The model of all requests.
    pub model: String,
    /// Facts from which the tokens of the requests are estimated.
    pub hints: TokenHints,
}

impl StagedShard {
    /// Compares by the order in which shards are sent.
    pub fn order(&self, other: &StagedShard) -> std::cmp::Ordering {
        self.first.cmp(&other.first)
    }
}

/// A writer that cuts requests into shards by a provider's limits, with one model in each shard, and stages them. It
/// holds some megabytes for each model. Shards fill up in an order other than that of their first requests, so callers
/// that need that order have to sort them.
pub struct ShardWriter<'a> {
    folder: &'a Folder,
    work_id: &'a str,
    spool: &'a Path,
    max_requests: i64,
    max_bytes: u64,
    max_inputs: Option<u64>,
    max_text: TextLimits,
    /// Whether little memory is held, at the cost of compression.
    is_small: bool,
    open: BTreeMap<String, Open>,
    /// Full shards that are not put yet, with their models.
    full: Vec<(String, Open)>,
    /// Number of shards that were put.
    put: usize,
    /// Bytes of local disk that open shards take at most.
    disk: u64,
}

/// Most bytes of local disk that the open shards of a writer take, compressed, until the largest of them is put before it is full.
const OPEN_DISK: u64 = 512 << 20;

struct Open {
    lines: Spool,
    index: Spool,
    first: i64,
    requests: i64,
    inputs: u64,
    hints: TokenHints,
}

impl<'a> ShardWriter<'a> {
    /// Creates a writer into the work's folder. A shard holds at most `max_requests` requests and `max_bytes` bytes.
    pub fn new(folder: &'a Folder, work_id: &'a str, spool: &'a Path, max_requests: i64, max_bytes: u64) -> Self {
        ShardWriter {
            folder,
            work_id,
            spool,
            max_requests,
            max_bytes,
            max_inputs: None,
            max_text: TextLimits::default(),
            is_small: false,
            open: BTreeMap::new(),
            full: vec![],
            put: 0,
            disk: OPEN_DISK,
        }
    }

    /// Limits the inputs of embeddings in a shard to `max_inputs`; None for other requests.
    pub fn of_inputs(mut self, max_inputs: Option<u64>) -> Self {
        self.max_inputs = max_inputs;
        self
    }

    /// Limits the bytes of text in a shard. A request with more has a shard of its own.
    pub fn of_text(mut self, max_text: TextLimits) -> Self {
        self.max_text = max_text;
        self
    }

    /// Limits the local disk of open shards to so many `bytes`, if they are fewer than the 512 MiB that are the limit anyway.
    pub fn on_disk(mut self, bytes: u64) -> Self {
        self.disk = OPEN_DISK.min(bytes);
        self
    }

    /// Holds less memory for each model, and compresses less.
    pub fn small(mut self) -> Self {
        self.is_small = true;
        self
    }

    /// Returns whether a shard has a limit of inputs.
    pub fn counts_inputs(&self) -> bool {
        self.max_inputs.is_some()
    }

    /// Returns the work that shards are staged for.
    pub fn work_id(&self) -> &str {
        self.work_id
    }

    /// Returns the number of shards so far, including those that are being filled.
    pub fn shards(&self) -> usize {
        self.put + self.full.len() + self.open.len()
    }

    /// Adds a request in the provider's format. `line` is its parts, which make one line without a newline; it asks for `model`, has
    /// that many `inputs`, and tells `hints` about its tokens. Returns the index of the first request in the same shard. Waits for
    /// nothing but local disk: [`ShardWriter::put`] puts the shards that became full.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn push(
        &mut self,
        model: &str,
        line: &[&[u8]],
        inputs: u64,
        hints: TokenHints,
        entry: &IndexEntry,
    ) -> Result<i64, StoreError> {
        let size = line.iter().map(|part| part.len() as u64).sum::<u64>() + 1;
        let max_text = self.max_text.of_model(model);
        let full = |s: &Open| {
            s.requests >= self.max_requests
                || max_text.is_some_and(|most| s.hints.text_bytes.saturating_add(hints.text_bytes) > most)
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
                lines: if self.is_small { Spool::small(self.spool).await? } else { Spool::new(self.spool).await? },
                index: Spool::small(self.spool).await?,
                first: entry.index,
                requests: 0,
                inputs: 0,
                hints: TokenHints::default(),
            }),
        };
        open.requests += 1;
        open.inputs += inputs;
        open.hints += hints;
        for part in line {
            open.lines.write(part).await?;
        }
        open.lines.write(b"\n").await?;
        let mut entry = serde_json::to_vec(entry).map_err(|e| StoreError::Invalid(e.to_string()))?;
        entry.push(b'\n');
        open.index.write(&entry).await?;
        let first = open.first;
        self.bound();
        Ok(first)
    }

    /// Marks the largest shard as full if all open ones take too much local disk.
    fn bound(&mut self) {
        let taken = |open: &Open| open.lines.disk() + open.index.disk();
        if self.open.values().map(taken).sum::<u64>() <= self.disk {
            return;
        }
        let largest = self.open.iter().max_by_key(|(_, open)| taken(open)).map(|(model, _)| model.clone());
        self.full.extend(largest.and_then(|model| self.open.remove_entry(&model)));
    }

    /// Returns the directory on local disk in which shards grow.
    pub fn spool(&self) -> &'a Path {
        self.spool
    }

    /// Returns whether shards are full.
    pub fn is_to_put(&self) -> bool {
        !self.full.is_empty()
    }

    /// Puts the full shards and returns them.
    ///
    /// # Errors
    /// Fails if the store or the local disk does.
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
            hints: open.hints,
        };
        index.put(self.folder, &layout::index(self.work_id, &shard.index_sha256), self.work_id).await?;
        lines.put(self.folder, &layout::shard(self.work_id, &shard.sha256), self.work_id).await?;
        self.put += 1;
        Ok(shard)
    }

    /// Marks all shards as full. No more requests are added to them.
    pub fn close(&mut self) {
        self.full.extend(std::mem::take(&mut self.open));
    }

    /// Puts the remaining shards, one for each model, and returns them.
    ///
    /// # Errors
    /// Fails if the store or the local disk does.
    pub async fn finish(mut self) -> Result<Vec<StagedShard>, StoreError> {
        self.close();
        self.put().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_largest_of_many_open_shards_is_put_before_they_take_too_much_local_disk() {
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
        let spool = std::env::temp_dir();
        let mut writer = ShardWriter::new(&folder, "w", &spool, i64::MAX, u64::MAX).on_disk(4 << 20);
        let (mut put, mut most) = (vec![], 0u64);
        let mut random = blake3::Hasher::new().finalize_xof();
        for index in 0..120 {
            // Hardly to be compressed, and three of four of one model.
            let mut bytes = vec![0; 100 << 10];
            random.fill(&mut bytes);
            let line: String = bytes.iter().map(|byte| char::from(b'0' + byte % 64)).collect();
            let (custom_id, request_hash) = (index.to_string(), RequestHash::Blake3(String::new()));
            let entry = IndexEntry { index, custom_id, request_hash };
            writer
                .push(
                    if index % 4 == 0 { "rare" } else { "usual" },
                    &[line.as_bytes()],
                    0,
                    TokenHints::default(),
                    &entry,
                )
                .await
                .unwrap();
            put.extend(writer.put().await.unwrap());
            most = most.max(writer.open.values().map(|open| open.lines.disk()).sum::<u64>());
        }
        assert!(put.len() >= 2 && put[0].model == "usual", "{put:?}");
        assert!(most <= 5 << 20, "{most} bytes");
        put.extend(writer.finish().await.unwrap());
        assert_eq!(put.iter().map(|shard| shard.requests).sum::<i64>(), 120);
    }
}
