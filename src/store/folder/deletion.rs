//! Deletion of objects: one by one, or many with one request.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

use super::Folder;
use super::listing::bounded;
use crate::store::StoreError;
use crate::transport::Meter;

/// Looks at objects at a time, where only those of a work are deleted.
const LOOKS_AT_A_TIME: usize = 8;
/// Time that each object adds to a deletion of many.
const DELETION_PACE: Duration = Duration::from_millis(100);

impl Folder {
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

    /// Deletes an object if `work_id` wrote it. Any other object stays.
    ///
    /// # Errors
    /// Fails if the store refuses.
    pub async fn delete_of(&self, work_id: &str, name: &str) -> Result<(), StoreError> {
        match self.is_of(work_id, &self.path(name), name).await? {
            true => self.delete(name).await,
            false => Ok(()),
        }
    }

    /// Deletes every object below `prefix`, many with one request, or one by one if the store does not support that.
    ///
    /// # Errors
    /// Fails if the store refuses, or takes too long. Objects that were deleted by then stay deleted.
    pub async fn delete_below(&self, prefix: &str) -> Result<(), StoreError> {
        self.delete_where(prefix, |_| true, None).await
    }

    /// Deletes the objects below `prefix` whose names there `is_meant` selects and that `work_id` wrote, as [`Folder::delete_below`]
    /// does. Each of them takes a look.
    ///
    /// # Errors
    /// As [`Folder::delete_below`].
    pub async fn delete_named_of(
        &self,
        work_id: &str,
        prefix: &str,
        is_meant: fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        self.delete_where(prefix, is_meant, Some(work_id)).await
    }

    async fn delete_where(
        &self,
        prefix: &str,
        is_meant: fn(&str) -> bool,
        work_id: Option<&str>,
    ) -> Result<(), StoreError> {
        if let Some(copies) = &self.copies {
            copies.forget_below(&self.uri_of(prefix));
        }
        match self.delete_by(&self.store, prefix, is_meant, work_id).await {
            Err(StoreError::Unfit(_) | StoreError::Rejected(_)) => {
                self.delete_by(&self.one_by_one, prefix, is_meant, work_id).await
            }
            deleted => deleted,
        }
    }

    async fn delete_by(
        &self,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        is_meant: fn(&str) -> bool,
        work_id: Option<&str>,
    ) -> Result<(), StoreError> {
        let below = self.path(prefix);
        let name_at = below.as_ref().len() + 1;
        let paths = bounded(self.store.list(Some(&below))).map_ok(|m| m.location);
        let (folder, work_id) = (self.clone(), work_id.map(Arc::<str>::from));
        let chosen = move |path: object_store::Result<Path>| {
            let (folder, work_id) = (folder.clone(), work_id.clone());
            async move {
                let path = path?;
                let is_chosen = path.as_ref().get(name_at..).is_some_and(is_meant)
                    && match &work_id {
                        Some(work_id) => folder.is_of(work_id, &path, path.as_ref()).await.map_err(failed_look)?,
                        None => true,
                    };
                Ok::<_, object_store::Error>(is_chosen.then_some(path))
            }
        };
        let paths = paths.map(chosen).buffered(LOOKS_AT_A_TIME).try_filter_map(|path| ready(Ok(path))).boxed();
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

    async fn is_of(&self, work_id: &str, path: &Path, name: &str) -> Result<bool, StoreError> {
        Ok(self.work_at(path, name).await?.flatten().as_deref() == Some(work_id))
    }
}

/// Passes an error of a look through the listing that it belongs to.
fn failed_look(error: StoreError) -> object_store::Error {
    object_store::Error::Generic { store: "look", source: error.into() }
}
