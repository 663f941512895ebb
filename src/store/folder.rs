//! Folders in buckets.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::checks::Checked;
use super::{ConfigMaps, Credentials, NamespaceCopies, Place, Reservation, StoreChecks, StoreError, Upload, Version};
use crate::api::ObjectStoreLocation;
use crate::transport::{Meter, Patience, Transport};

/// Bytes of a part of an upload. S3 requires at least 5 MiB a part and allows 10,000 parts, which makes 68 GiB.
pub(super) const PART_BYTES: usize = 7 << 20;
/// Most parts in flight, all of them in memory. The next part is filled while there are fewer.
pub(super) const PARTS_AT_A_TIME: usize = 2;
/// Most objects of a listing.
const LIST_LIMIT: u32 = 2_000_000;
/// Most time until the next object of a listing: one page, or several pages of an overlaid store.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Metadata attribute with the work that an object belongs to, in letters that every backend allows: Azure takes no
/// hyphen
/// (<https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>), and
/// proxies drop headers with an underscore.
pub(super) const WORK_ATTRIBUTE: &str = "llmbatchwork";
/// The same attribute in objects of earlier versions.
const EARLIER_WORK_ATTRIBUTE: &str = "llmbatch-work";

/// A folder in a bucket. Names of objects are relative to it.
#[derive(Clone, Debug)]
pub struct Folder {
    store: Arc<dyn ObjectStore>,
    /// The same store, with one request for each deletion.
    one_by_one: Arc<dyn ObjectStore>,
    uri: String,
    prefix: String,
    maps: Option<Box<ConfigMaps>>,
    call_timeout: Duration,
    copies: Option<NamespaceCopies>,
    checked: Option<Arc<Checked>>,
    checks: Option<StoreChecks>,
}

/// An object as a listing showed it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    #[serde(with = "as_written")]
    path: Path,
    name_at: usize,
    /// Size in bytes.
    pub size: u64,
    etag: Option<String>,
    /// Time of the last change in Unix seconds, the resolution of an HTTP date.
    modified: i64,
}

/// Serialization of a path as it is, without percent-encoding.
mod as_written {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Path;

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(path.as_ref())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Path, D::Error> {
        Path::parse(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Listed {
    /// Compares by name.
    pub fn order(&self, other: &Listed) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }

    /// Returns the name in the folder.
    pub fn name(&self) -> &str {
        &self.path.as_ref()[self.name_at..]
    }

    /// Returns the ETag, if the store has one.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Returns a text that changes when the object is replaced.
    pub fn version(&self) -> String {
        format!("{} {} {}", self.etag.as_deref().unwrap_or_default(), self.size, self.modified)
    }

    fn of(meta: ObjectMeta, name_at: usize) -> Listed {
        let modified = meta.last_modified.timestamp();
        Listed { path: meta.location, name_at, size: meta.size, etag: meta.e_tag, modified }
    }
}

/// An object that is being read.
pub struct Entry {
    /// Size in bytes.
    pub size: u64,
    /// Its ETag, if the store has one.
    pub etag: Option<String>,
    pub(super) version: Option<Version>,
    /// Its content.
    pub stream: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// A whole object that was read, unless it is at the known version.
pub(super) enum Whole {
    Absent,
    Unchanged,
    /// Its content, and its version if the store has one.
    Read(Bytes, Option<Version>),
}

/// Bytes from which whole objects are read in turns, over all jobs. No head, segment or manifest of a job is so large
/// unless somebody tampered with it.
const LARGE_DOCUMENT: usize = 3 << 20;
static LARGE_DOCUMENTS: Semaphore = Semaphore::const_new(2);

/// Bytes by which the reservation for an object that is read whole grows, and those that are held without one.
const DOCUMENT_STEP: usize = 256 << 10;

/// An object that is more than a little, whose turn and reservation end when nobody holds it any more.
struct HeldDocument {
    bytes: BytesMut,
    _turn: Option<SemaphorePermit<'static>>,
    _held: Reservation,
}

impl AsRef<[u8]> for HeldDocument {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Default for [`Folder::with_call_timeout`].
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that each object adds to a deletion of many.
const DELETION_PACE: Duration = Duration::from_millis(100);

impl Folder {
    /// Opens the folder of `uri` at the location's server, without any request to it.
    ///
    /// # Errors
    /// Fails if the location is malformed.
    pub fn open(
        location: &ObjectStoreLocation,
        uri: &str,
        credentials: &Credentials,
        transport: &Transport,
    ) -> Result<Folder, StoreError> {
        let place: Place = uri.parse()?;
        Path::parse(&place.key).map_err(|e| StoreError::of(uri, e.into()))?;
        let bucket = place.backend.open(&place, location, credentials, transport)?;
        let folder = Folder::of(bucket.store, uri, &place.key);
        Ok(Folder { one_by_one: bucket.one_by_one, checked: bucket.checked.map(Arc::new), ..folder })
    }

    /// Creates a folder in any store of `object_store`.
    pub fn of(store: Arc<dyn ObjectStore>, uri: &str, prefix: &str) -> Folder {
        let (one_by_one, call_timeout) = (store.clone(), CALL_TIMEOUT);
        let (uri, prefix) = (uri.into(), prefix.into());
        let (maps, copies, checked, checks) = (None, None, None, None);
        Folder { one_by_one, store, uri, prefix, maps, call_timeout, copies, checked, checks }
    }

    /// Sets the time limit of one call about one object, retries included; the default is 30 s. The bytes that a call
    /// moves add time according to [`Patience::rate`].
    #[must_use]
    pub fn with_call_timeout(self, call_timeout: Duration) -> Folder {
        Folder { call_timeout, ..self }
    }

    /// Creates a folder made of ConfigMaps.
    pub fn of_config_maps(maps: ConfigMaps, uri: &str) -> Folder {
        Folder { maps: Some(Box::new(maps.clone())), ..Folder::of(Arc::new(maps), uri, "") }
    }

    /// Whether the folder is made of ConfigMaps.
    pub fn is_config_maps(&self) -> bool {
        self.maps.is_some()
    }

    /// Keeps local copies of the files that are staged in the folder.
    pub fn keeping(self, copies: NamespaceCopies) -> Folder {
        Folder { copies: Some(copies), ..self }
    }

    /// Tries out whether the store checks puts, and remembers the result in `checks`.
    pub fn seeing(self, checks: StoreChecks) -> Folder {
        Folder { checks: Some(checks), ..self }
    }

    pub(super) fn checked(&self) -> Option<(&Checked, &StoreChecks)> {
        self.checked.as_deref().zip(self.checks.as_ref())
    }

    /// Returns the same folder in another store.
    pub(super) fn over(&self, store: Arc<dyn ObjectStore>) -> Folder {
        Folder { store, ..self.clone() }
    }

    pub(super) fn copies(&self) -> Option<&NamespaceCopies> {
        self.copies.as_ref()
    }

    /// Returns the name of the ConfigMap that holds the object; None if the folder is not made of ConfigMaps.
    ///
    /// # Errors
    /// Fails if the API server does not answer.
    pub async fn config_map_of(&self, name: &str) -> Result<Option<String>, StoreError> {
        match &self.maps {
            Some(maps) => maps.holder(&self.path(name)).await.map_err(|e| self.error(name, e)),
            None => Ok(None),
        }
    }

    pub(super) fn path(&self, name: &str) -> Path {
        let key = format!("{}{name}", self.prefix);
        // The key stays as it is written. `Path::from` would percent-encode it, and so name another object.
        Path::parse(&key).unwrap_or_else(|_| Path::from(key))
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    pub(super) fn error(&self, name: &str, error: object_store::Error) -> StoreError {
        StoreError::of(&format!("{}{name}", self.uri), error)
    }

    /// Opens an object; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub async fn get(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        self.open_at(&self.path(name), name, None).await
    }

    /// Returns an object as a listing would show it; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<Listed>, StoreError> {
        self.stat_at(&self.path(name), name).await
    }

    async fn stat_at(&self, path: &Path, name: &str) -> Result<Option<Listed>, StoreError> {
        match self.timely(name, 0, self.store.head(path)).await? {
            Ok(meta) => Ok(Some(Listed::of(meta, self.name_at()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Awaits a call that moves `bytes`, and fails if the store takes too long.
    pub(super) async fn timely<T>(
        &self,
        name: &str,
        bytes: usize,
        call: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let limit = self.call_timeout + Patience::USUAL.at_rate(bytes as u64);
        let _call = Meter::store_call();
        tokio::time::timeout(limit, call).await.map_err(|_| self.too_slow(name, limit))
    }

    fn too_slow(&self, name: &str, limit: Duration) -> StoreError {
        StoreError::Unavailable(format!("{}: the store was not done within {} s", self.uri_of(name), limit.as_secs()))
    }

    /// Opens an object that was listed, in the listed version; None if it was deleted since.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if the object was replaced since; other errors if the store does not answer.
    pub async fn get_listed(&self, object: &Listed) -> Result<Option<Entry>, StoreError> {
        match self.open_at(&object.path, object.name(), object.etag.clone()).await {
            // Some stores list an ETag other than the one that they accept in If-Match.
            Err(StoreError::Changed(_)) if self.is_as_listed(object).await? => {
                self.open_at(&object.path, object.name(), None).await
            }
            opened => opened,
        }
    }

    async fn is_as_listed(&self, object: &Listed) -> Result<bool, StoreError> {
        let now = self.stat_at(&object.path, object.name()).await?;
        Ok(now.is_some_and(|now| (now.size, now.modified) == (object.size, object.modified)))
    }

    async fn open_at(&self, path: &Path, name: &str, if_match: Option<String>) -> Result<Option<Entry>, StoreError> {
        match self.open_with(path, name, GetOptions { if_match, ..Default::default() }).await? {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            opened => opened.map(Some).map_err(|e| self.read_error(name, e)),
        }
    }

    async fn open_with(
        &self,
        path: &Path,
        name: &str,
        options: GetOptions,
    ) -> Result<object_store::Result<Entry>, StoreError> {
        let got = match self.timely(name, 0, self.store.get_opts(path, options)).await? {
            Ok(got) => got,
            Err(e) => return Ok(Err(e)),
        };
        let (size, etag) = (got.meta.size, got.meta.e_tag.clone());
        let version = Version::new(etag.clone(), got.meta.version.clone());
        let (folder, name) = (self.clone(), name.to_string());
        let stream = got.into_stream().map_err(move |e| folder.read_error(&name, e)).boxed();
        Ok(Ok(Entry { size, etag, version, stream }))
    }

    /// Returns the content of an object from `offset` on; None if the object does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub(super) async fn get_from(
        &self,
        name: &str,
        offset: u64,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let options = GetOptions { range, ..Default::default() };
        match self.open_with(&self.path(name), name, options).await? {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            opened => opened.map(|entry| Some(entry.stream)).map_err(|e| self.read_error(name, e)),
        }
    }

    fn read_error(&self, name: &str, error: object_store::Error) -> StoreError {
        match error {
            object_store::Error::Precondition { .. } => StoreError::changed(&self.uri_of(name)),
            error => self.error(name, error),
        }
    }

    /// Lists every object below the folder, page by page, in the store's order.
    pub fn list(&self) -> BoxStream<'_, Result<Listed, StoreError>> {
        let (prefix, name_at) = (self.path(""), self.name_at());
        let prefix_of_names = prefix.clone();
        let listed = move |m: ObjectMeta| {
            // A server may list objects outside the prefix.
            let below = m.location.prefix_matches(&prefix_of_names) && m.location.as_ref().len() > name_at;
            below.then(|| Listed::of(m, name_at))
        };
        let objects = bounded(self.store.list(Some(&prefix))).map_err(|e| self.error("", e));
        objects.try_filter_map(move |m| std::future::ready(Ok(listed(m)))).boxed()
    }

    /// Returns the offset of names in keys. A key is the prefix, a slash and the name; at the bucket's root it is the
    /// name.
    fn name_at(&self) -> usize {
        let prefix = self.path("");
        if prefix.as_ref().is_empty() { 0 } else { prefix.as_ref().len() + 1 }
    }

    /// Splits the folder's URI at its last `/`. Returns the folder up to there, and the name after it, which is empty
    /// if the URI ends in `/`.
    pub fn split_last(mut self) -> (Folder, String) {
        let cut = self.prefix.rfind('/').map_or(0, |i| i + 1);
        let name = self.prefix.split_off(cut);
        self.uri.truncate(self.uri.len() - name.len());
        (self, name)
    }

    /// Returns the URI of an object in the folder.
    pub fn uri_of(&self, name: &str) -> String {
        format!("{}{name}", self.uri)
    }

    /// Reads a whole object of at most `limit` bytes; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the object is larger, or the store does not answer.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(match self.read_changed(name, limit, None).await? {
            Whole::Read(bytes, _) => Some(bytes),
            Whole::Absent | Whole::Unchanged => None,
        })
    }

    /// Reads a whole object and its version, unless that is `known`. A server may announce fewer bytes than it sends,
    /// and may send them slowly.
    pub(super) async fn read_changed(
        &self,
        name: &str,
        limit: u64,
        known: Option<&Version>,
    ) -> Result<Whole, StoreError> {
        let if_none_match = known.and_then(Version::etag).map(String::from);
        let unless = GetOptions { if_none_match, ..Default::default() };
        let mut entry = match self.open_with(&self.path(name), name, unless).await? {
            Ok(entry) => entry,
            Err(object_store::Error::NotFound { .. }) => return Ok(Whole::Absent),
            Err(object_store::Error::NotModified { .. }) if known.is_some() => return Ok(Whole::Unchanged),
            Err(e) => return Err(self.read_error(name, e)),
        };
        if known.is_some() && entry.version.as_ref() == known {
            return Ok(Whole::Unchanged);
        }
        let (began, mut bytes, mut turn) = (Instant::now(), BytesMut::new(), None);
        let (mut held, mut reserved) = (Reservation::default(), DOCUMENT_STEP);
        let announced = usize::try_from(entry.size.min(limit)).unwrap_or_default();
        let _call = Meter::store_call();
        loop {
            let time = self.call_timeout + Patience::USUAL.at_rate(bytes.len() as u64);
            let next = tokio::time::timeout_at(began + time, entry.stream.try_next()).await;
            let Some(chunk) = next.map_err(|_| self.too_slow(name, time))?? else { break };
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(StoreError::Corrupt(format!("{} has more than {limit} bytes", self.uri_of(name))));
            }
            if turn.is_none() && bytes.len() + chunk.len() > LARGE_DOCUMENT {
                let its_turn = tokio::time::timeout_at(began + time, LARGE_DOCUMENTS.acquire()).await;
                turn = its_turn.map_err(|_| self.too_slow(name, time))?.ok();
            }
            if bytes.len() + chunk.len() > reserved {
                reserved = (bytes.len() + chunk.len()).max(announced).next_multiple_of(DOCUMENT_STEP);
                held.set(reserved).await;
            }
            bytes.extend_from_slice(&chunk);
        }
        let bytes = match reserved > DOCUMENT_STEP {
            true => Bytes::from_owner(HeldDocument { bytes, _turn: turn, _held: held }),
            false => bytes.freeze(),
        };
        Ok(Whole::Read(bytes, entry.version))
    }

    /// Puts an object that does not exist yet. Returns false if it exists.
    ///
    /// # Errors
    /// Fails if the store does not tell whether it put the object.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let size = bytes.len();
        match self.timely(name, size, self.store.put_opts(&self.path(name), bytes.into(), options)).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                match self.exists(name).await? {
                    true => Ok(false),
                    false => Err(StoreError::busy(&self.uri_of(name))),
                }
            }
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub async fn exists(&self, name: &str) -> Result<bool, StoreError> {
        match self.timely(name, 0, self.store.head(&self.path(name))).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Returns the work that wrote an object, if that is known; None if the object does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub async fn work_of(&self, name: &str) -> Result<Option<Option<String>>, StoreError> {
        let head = GetOptions { head: true, ..Default::default() };
        match self.timely(name, 0, self.store.get_opts(&self.path(name), head)).await? {
            Ok(found) => {
                let named = |name: &'static str| found.attributes.get(&Attribute::Metadata(name.into()));
                let work = named(WORK_ATTRIBUTE).or_else(|| named(EARLIER_WORK_ATTRIBUTE));
                Ok(Some(work.map(|work| work.to_string())))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Starts to write an object of the work, in bounded memory. The object appears when [`Upload::finish`] returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if an object of that name exists that is not the work's.
    pub async fn create(&self, name: &str, work_id: &str) -> Result<Upload, StoreError> {
        if self.work_of(name).await?.is_some_and(|work| work.as_deref() != Some(work_id)) {
            return Err(StoreError::Conflict(format!(
                "{}{name} exists and was not written by this work; it is not overwritten",
                self.uri
            )));
        }
        Ok(self.overwrite(name, work_id))
    }

    /// Starts to write one of the operator's own objects, which may exist and belong to any work.
    pub fn overwrite(&self, name: &str, work_id: &str) -> Upload {
        let attributes = Attributes::from_iter([(Attribute::Metadata(WORK_ATTRIBUTE.into()), work_id.to_string())]);
        let writer = BufWriter::with_capacity(self.store.clone(), self.path(name), PART_BYTES)
            .with_attributes(attributes)
            .with_max_concurrency(PARTS_AT_A_TIME);
        Upload::new(writer, self.uri_of(name))
    }

    /// Deletes an object. An object that does not exist is no error.
    ///
    /// # Errors
    /// Fails if the store refuses.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        if let Some(copies) = &self.copies {
            copies.forget_below(&self.uri_of(name));
        }
        match self.timely(name, 0, self.one_by_one.delete(&self.path(name))).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Deletes every object below `prefix`, many with one request, or one by one if the store does not support that.
    ///
    /// # Errors
    /// Fails if the store refuses, or takes too long. Objects that were deleted by then stay deleted.
    pub async fn delete_below(&self, prefix: &str) -> Result<(), StoreError> {
        if let Some(copies) = &self.copies {
            copies.forget_below(&self.uri_of(prefix));
        }
        match self.delete_below_by(&*self.store, prefix).await {
            Err(StoreError::Unfit(_) | StoreError::Rejected(_)) => {
                self.delete_below_by(&*self.one_by_one, prefix).await
            }
            deleted => deleted,
        }
    }

    async fn delete_below_by(&self, store: &dyn ObjectStore, prefix: &str) -> Result<(), StoreError> {
        let paths = bounded(self.store.list(Some(&self.path(prefix)))).map_ok(|m| m.location).boxed();
        let mut deletions = store.delete_stream(paths);
        let (began, mut deleted) = (Instant::now(), 0);
        let _call = Meter::store_call();
        loop {
            let time = self.call_timeout + DELETION_PACE * deleted;
            let next = tokio::time::timeout_at(began + time, deletions.next()).await;
            let Some(result) = next.map_err(|_| self.too_slow(prefix, time))? else { break };
            deleted = deleted.saturating_add(1);
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.error(prefix, e)),
            }
        }
        Ok(())
    }
}

type Metas<'a> = BoxStream<'a, object_store::Result<ObjectMeta>>;

/// Ends any listing. One that repeats itself, has no end, or stops for too long fails with an error.
fn bounded(listing: Metas<'_>) -> Metas<'_> {
    let broken = |why: &'static str| object_store::Error::Generic { store: "listing", source: why.into() };
    let state = (listing, None, 0u32);
    futures::stream::try_unfold(state, move |(mut listing, mut first, seen)| async move {
        let next = tokio::time::timeout(LIST_TIMEOUT, listing.try_next()).await;
        let next = next.map_err(|_| broken("the listing shows nothing more, and has no end"))??;
        let Some(meta) = next else { return Ok(None) };
        if first.get_or_insert_with(|| meta.location.clone()) == &meta.location && seen > 0 {
            return Err(broken("the listing begins again before it ends"));
        }
        match seen < LIST_LIMIT {
            true => Ok(Some((meta, (listing, first, seen + 1)))),
            false => Err(broken("the listing has more than 2,000,000 objects")),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn objects_of_earlier_versions_are_known_by_their_work() {
        let store = Arc::new(InMemory::new());
        let attributes = Attributes::from_iter([(Attribute::Metadata(EARLIER_WORK_ATTRIBUTE.into()), "w".to_string())]);
        let earlier = PutOptions { attributes, ..Default::default() };
        store.put_opts(&Path::from("out/results.jsonl"), "{}".into(), earlier).await.unwrap();
        let folder = Folder::of(store, "s3://b/out/", "out/");
        assert_eq!(folder.work_of("results.jsonl").await.unwrap(), Some(Some("w".into())));
        assert!(folder.create("results.jsonl", "w").await.is_ok());
        assert!(matches!(folder.create("results.jsonl", "other").await, Err(StoreError::Conflict(_))));
    }
}
