//! Whether a store refuses a put whose bytes changed on their way: where it does, what was put need not be read back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use tracing::info;

use super::Folder;
use super::s3::Refusal;
use crate::transport::cause;

/// What this process saw of stores. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StoreChecks(Arc<Mutex<HashMap<String, bool>>>);

/// A bucket whose store is given the SHA-256 of what is put, to check.
#[derive(Debug)]
pub(super) struct Checked {
    /// Which bucket, at which server.
    pub name: String,
    /// As it is to be used.
    pub intact: Arc<dyn ObjectStore>,
    /// The same with another last byte than the one of which the store is given the hash.
    pub damaged: Arc<dyn ObjectStore>,
}

impl StoreChecks {
    fn of(&self, store: &str) -> Option<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(store).copied()
    }

    fn saw(&self, store: &str, checks: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(store.into(), checks);
    }
}

impl Folder {
    /// The same folder with puts that its store checks; None where the store is not seen to check them, so that what is put has
    /// to be read back. The first time, the store is tried with an object called `scratch`.
    pub(crate) async fn checking(&self, scratch: &str) -> Option<Folder> {
        let (checked, seen) = self.checked()?;
        let checks = match seen.of(&checked.name) {
            Some(checks) => checks,
            None => {
                let checks = prove(checked, &self.path(scratch)).await?;
                info!(
                    store = checked.name,
                    checks, "saw whether the store refuses a put whose bytes changed on their way"
                );
                seen.saw(&checked.name, checks);
                checks
            }
        };
        checks.then(|| self.over(checked.intact.clone()))
    }
}

/// Whether the store refuses what is damaged and takes what is intact, be it an object or a part of one. None: it could not be
/// asked.
async fn prove(store: &Checked, scratch: &Path) -> Option<bool> {
    let tried = async {
        for (bucket, wanted) in [(&store.damaged, false), (&store.intact, true)] {
            let whole = bucket.put(scratch, "put".into()).await.map(|_| ());
            if taken(whole)? != wanted || taken(in_parts(bucket.as_ref(), scratch).await)? != wanted {
                return Some(false);
            }
        }
        Some(true)
    };
    let proved = tried.await;
    // What stays behind goes with the work's other staged files.
    let _ = store.intact.delete(scratch).await;
    proved
}

/// None where the store may say something else the next time.
fn taken(put: object_store::Result<()>) -> Option<bool> {
    match put {
        Ok(()) => Some(true),
        Err(error) => cause::<Refusal>(&error).map(|_| false),
    }
}

async fn in_parts(bucket: &dyn ObjectStore, scratch: &Path) -> object_store::Result<()> {
    let mut upload = bucket.put_multipart(scratch).await?;
    match upload.put_part("part".into()).await {
        Ok(()) => upload.complete().await.map(|_| ()),
        Err(error) => {
            let _ = upload.abort().await;
            Err(error)
        }
    }
}
