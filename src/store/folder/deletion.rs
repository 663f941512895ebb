//! Deletion of objects: one by one, or many with one request.

use std::future::ready;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

use super::Folder;
use super::listing::bounded;
use crate::store::StoreError;
use crate::transport::Meter;

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

    /// Deletes every object below `prefix`, many with one request, or one by one if the store does not support that.
    ///
    /// # Errors
    /// Fails if the store refuses, or takes too long. Objects that were deleted by then stay deleted.
    pub async fn delete_below(&self, prefix: &str) -> Result<(), StoreError> {
        self.delete_named(prefix, |_| true).await
    }

    /// Deletes the objects below `prefix` whose names there `is_meant` selects, as [`Folder::delete_below`] does.
    ///
    /// # Errors
    /// As [`Folder::delete_below`].
    pub async fn delete_named(&self, prefix: &str, is_meant: fn(&str) -> bool) -> Result<(), StoreError> {
        if let Some(copies) = &self.copies {
            copies.forget_below(&self.uri_of(prefix));
        }
        match self.delete_by(&*self.store, prefix, is_meant).await {
            Err(StoreError::Unfit(_) | StoreError::Rejected(_)) => {
                self.delete_by(&*self.one_by_one, prefix, is_meant).await
            }
            deleted => deleted,
        }
    }

    async fn delete_by(
        &self,
        store: &dyn ObjectStore,
        prefix: &str,
        is_meant: fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let below = self.path(prefix);
        let name_at = below.as_ref().len() + 1;
        let paths = bounded(self.store.list(Some(&below))).map_ok(|m| m.location);
        let paths = paths.try_filter(move |path| ready(path.as_ref().get(name_at..).is_some_and(is_meant))).boxed();
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
