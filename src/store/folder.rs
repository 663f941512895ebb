//! Folders in buckets.

mod deletion;
mod listing;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

pub use listing::ListedObject;
pub(super) use whole::WholeObject;

use super::checks::CheckedBucket;
use super::{ConfigMaps, Credentials, NamespaceCopies, Place, StoreCause, StoreChecks, StoreError, Upload, Version};
use crate::api::ObjectStoreLocation;
use crate::transport::{Meter, Patience, Transport};

/// Bytes of a part of an upload. S3 requires at least 5 MiB a part and allows 10,000 parts, which makes 68 GiB.
pub(super) const PART_BYTES: usize = 7 << 20;
/// Most parts in flight, all of them in memory. The next part is filled while there are fewer.
pub(super) const PARTS_AT_A_TIME: usize = 2;
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
    checked: Option<Arc<CheckedBucket>>,
    checks: Option<StoreChecks>,
    /// Bytes of memory that it takes for what its users chose.
    weight: usize,
}

/// An object that is being read.
pub struct ObjectStream {
    /// Size in bytes.
    pub size: u64,
    /// Its ETag, if the store has one.
    pub etag: Option<String>,
    pub(super) version: Option<Version>,
    /// Its content.
    pub stream: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// Default for [`Folder::with_call_timeout`].
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

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
        let stores = 2 + usize::from(bucket.checked.is_some());
        let weight = stores * (credentials.bytes() + uri.len());
        Ok(Folder { one_by_one: bucket.one_by_one, checked: bucket.checked.map(Arc::new), weight, ..folder })
    }

    /// Creates a folder in any store of `object_store`.
    pub fn of(store: Arc<dyn ObjectStore>, uri: &str, prefix: &str) -> Folder {
        let (one_by_one, call_timeout) = (store.clone(), CALL_TIMEOUT);
        let (uri, prefix) = (uri.into(), prefix.into());
        let (maps, copies, checked, checks) = (None, None, None, None);
        Folder { one_by_one, store, uri, prefix, maps, call_timeout, copies, checked, checks, weight: 0 }
    }

    /// Returns the bytes of memory that the folder takes for credentials and names.
    pub fn weight(&self) -> usize {
        self.weight
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

    pub(super) fn checked(&self) -> Option<(&CheckedBucket, &StoreChecks)> {
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
    pub async fn get(&self, name: &str) -> Result<Option<ObjectStream>, StoreError> {
        self.open_at(&self.path(name), name, None).await
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
        let (uri, limit) = (self.uri_of(name), limit.as_secs());
        let message = format!("{uri}: the store was not done within {limit} s");
        StoreError::Unavailable(message, Some(StoreCause::TimedOut(limit)))
    }

    async fn open_at(
        &self,
        path: &Path,
        name: &str,
        if_match: Option<String>,
    ) -> Result<Option<ObjectStream>, StoreError> {
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
    ) -> Result<object_store::Result<ObjectStream>, StoreError> {
        let got = match self.timely(name, 0, self.store.get_opts(path, options)).await? {
            Ok(got) => got,
            Err(e) => return Ok(Err(e)),
        };
        let (size, etag) = (got.meta.size, got.meta.e_tag.clone());
        let version = Version::new(etag.clone(), got.meta.version.clone());
        let (folder, name) = (self.clone(), name.to_string());
        let stream = got.into_stream().map_err(move |e| folder.read_error(&name, e)).boxed();
        Ok(Ok(ObjectStream { size, etag, version, stream }))
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
        self.work_at(&self.path(name), name).await
    }

    async fn work_at(&self, path: &Path, name: &str) -> Result<Option<Option<String>>, StoreError> {
        let head = GetOptions { head: true, ..Default::default() };
        match self.timely(name, 0, self.store.get_opts(path, head)).await? {
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
