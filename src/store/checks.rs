//! Knowledge of stores that refuse a put whose bytes changed on their way. An object need not be read back from such a
//! store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use tracing::info;

use super::Folder;
use super::s3::Refusal;
use crate::transport::cause;

/// The results of this process's trials of stores. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StoreChecks(Arc<Mutex<HashMap<String, bool>>>);

/// A bucket whose store gets the SHA-256 of each put, to check it.
#[derive(Debug)]
pub(super) struct CheckedBucket {
    /// Name of the server and the bucket.
    pub name: String,
    /// The bucket for real use.
    pub intact: Arc<dyn ObjectStore>,
    /// The same bucket for a trial: the last byte of each put differs from the one that was hashed.
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
    /// Returns the folder with puts that its store checks; None if the store has not been seen to check them, so that
    /// each put has to be read back. The first call tries the store out with an object called `scratch`.
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

/// Returns whether the store refuses damaged puts and takes intact ones, of whole objects and of parts. None if the store did
/// not answer.
async fn prove(store: &CheckedBucket, scratch: &Path) -> Option<bool> {
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
    // An object that is left behind is deleted with the work's other staged files.
    let _ = store.intact.delete(scratch).await;
    proved
}

/// Returns whether the put was taken. None for an error that may pass.
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
