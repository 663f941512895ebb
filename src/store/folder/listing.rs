//! Objects as a listing shows them, and listings that end.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::{Folder, ObjectStream};
use crate::store::StoreError;

/// Most objects of a listing.
const LIST_LIMIT: u32 = 2_000_000;
/// Most time until the next object of a listing: one page, or several pages of an overlaid store.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// An object as a listing showed it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
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

impl ListedObject {
    /// Compares by name.
    pub fn order(&self, other: &ListedObject) -> std::cmp::Ordering {
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

    fn of(meta: ObjectMeta, name_at: usize) -> ListedObject {
        let modified = meta.last_modified.timestamp();
        ListedObject { path: meta.location, name_at, size: meta.size, etag: meta.e_tag, modified }
    }
}

impl Folder {
    /// Returns an object as a listing would show it; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<ListedObject>, StoreError> {
        self.stat_at(&self.path(name), name).await
    }

    /// Fails if the bucket does not exist, which a look at one object cannot tell: to a HEAD, a store answers in both cases with
    /// 404 and no words. Credentials that may not list prove nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such bucket.
    pub async fn see_bucket(&self) -> Result<(), StoreError> {
        match self.list().try_next().await {
            Err(missing @ StoreError::NotFound(_)) => Err(missing),
            _ => Ok(()),
        }
    }

    async fn stat_at(&self, path: &Path, name: &str) -> Result<Option<ListedObject>, StoreError> {
        match self.timely(name, 0, self.store.head(path)).await? {
            Ok(meta) => Ok(Some(ListedObject::of(meta, self.name_at()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Opens an object that was listed, in the listed version; None if it was deleted since.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if the object was replaced since; other errors if the store does not answer.
    pub async fn get_listed(&self, object: &ListedObject) -> Result<Option<ObjectStream>, StoreError> {
        match self.open_at(&object.path, object.name(), object.etag.clone()).await {
            // Some stores list an ETag other than the one that they accept in If-Match.
            Err(StoreError::Changed(_)) if self.is_as_listed(object).await? => {
                self.open_at(&object.path, object.name(), None).await
            }
            opened => opened,
        }
    }

    async fn is_as_listed(&self, object: &ListedObject) -> Result<bool, StoreError> {
        let now = self.stat_at(&object.path, object.name()).await?;
        Ok(now.is_some_and(|now| (now.size, now.modified) == (object.size, object.modified)))
    }

    /// Lists every object below the folder, page by page, in the store's order.
    pub fn list(&self) -> BoxStream<'_, Result<ListedObject, StoreError>> {
        let (prefix, name_at) = (self.path(""), self.name_at());
        let prefix_of_names = prefix.clone();
        let listed = move |m: ObjectMeta| {
            // A server may list objects outside the prefix.
            let below = m.location.prefix_matches(&prefix_of_names) && m.location.as_ref().len() > name_at;
            below.then(|| ListedObject::of(m, name_at))
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
}

type Metas<'a> = BoxStream<'a, object_store::Result<ObjectMeta>>;

/// Ends any listing. One that repeats itself, has no end, or stops for too long fails with an error.
pub(super) fn bounded(listing: Metas<'_>) -> Metas<'_> {
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
