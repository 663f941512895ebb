//! A document that changes by conditional writes only.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{PutMode, PutOptions, UpdateVersion};

use super::folder::Whole;
use super::{Folder, StoreError};

/// Largest document that is read, in bytes.
pub const DOCUMENT_LIMIT: u64 = 16 << 20;

/// The version of a document that was read: what a swap is conditional on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

/// Proof that a conditional write of ours succeeded: not `Clone`, and nothing outside this module can make one.
#[derive(Debug)]
pub struct Swapped(Option<Version>);

impl Swapped {
    /// The version that was written, where the store says it.
    pub fn version(&self) -> Option<Version> {
        self.0.clone()
    }
}

/// What a read found of a document of which a version is known.
#[derive(Debug)]
pub enum Fresh {
    /// There is none.
    Absent,
    /// It is still at the known version.
    Unchanged,
    /// It is at another version.
    Changed(Bytes, Version),
}

/// Why a conditional write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Somebody else was first, or the store retried our own write: read again.
    #[error("the document changed in the meantime")]
    Lost,
    /// It may or may not have happened: read again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A small document with compare-and-swap.
#[async_trait]
pub trait Document: Send + Sync {
    /// The document and its version; None where there is none.
    ///
    /// # Errors
    /// When the store cannot say.
    async fn read(&self) -> Result<Option<(Bytes, Version)>, StoreError>;

    /// The document, unless it still is at `known`.
    ///
    /// # Errors
    /// When the store cannot say.
    async fn read_changed(&self, known: Option<&Version>) -> Result<Fresh, StoreError>;

    /// Creates the document if there is none.
    ///
    /// # Errors
    /// [`SwapError::Lost`] when there is one.
    async fn create(&self, bytes: Bytes) -> Result<Swapped, SwapError>;

    /// Replaces the document if it still is at `judged`.
    ///
    /// # Errors
    /// [`SwapError::Lost`] when it is not.
    async fn swap(&self, judged: &Version, bytes: Bytes) -> Result<Swapped, SwapError>;
}

/// A document that is one object; its version is the ETag.
#[derive(Clone, Debug)]
pub struct ObjectDocument {
    /// Where it lies.
    pub folder: Folder,
    /// Its name there.
    pub name: String,
}

impl ObjectDocument {
    async fn put(&self, bytes: Bytes, mode: PutMode) -> Result<Swapped, SwapError> {
        use object_store::Error as E;
        let (options, size) = (PutOptions { mode, ..Default::default() }, bytes.len());
        let path = self.folder.path(&self.name);
        let put = self.folder.store().put_opts(&path, bytes.into(), options);
        match self.folder.timely(&self.name, size, put).await? {
            Ok(put) => Ok(Swapped(put.e_tag.map(Version))),
            Err(E::AlreadyExists { .. } | E::Precondition { .. }) => Err(SwapError::Lost),
            // Nothing else can be missing where something is put.
            Err(E::NotFound { .. }) => {
                let place = self.folder.uri_of(&self.name);
                Err(StoreError::NotFound(format!("the bucket of {place} does not exist")).into())
            }
            Err(e) => Err(self.folder.error(&self.name, e).into()),
        }
    }
}

#[async_trait]
impl Document for ObjectDocument {
    async fn read(&self) -> Result<Option<(Bytes, Version)>, StoreError> {
        match self.read_changed(None).await? {
            Fresh::Changed(bytes, version) => Ok(Some((bytes, version))),
            Fresh::Absent | Fresh::Unchanged => Ok(None),
        }
    }

    async fn read_changed(&self, known: Option<&Version>) -> Result<Fresh, StoreError> {
        let known = known.map(|version| version.0.as_str());
        let (bytes, etag) = match self.folder.read_changed(&self.name, DOCUMENT_LIMIT, known).await? {
            Whole::Absent => return Ok(Fresh::Absent),
            Whole::Unchanged => return Ok(Fresh::Unchanged),
            Whole::Read(bytes, etag) => (bytes, etag),
        };
        let etag = etag.ok_or_else(|| {
            StoreError::Unfit(format!(
                "{}: the store gives objects no ETag, without which nothing keeps two writers apart; use another store",
                self.folder.uri_of(&self.name)
            ))
        })?;
        Ok(Fresh::Changed(bytes, Version(etag)))
    }

    async fn create(&self, bytes: Bytes) -> Result<Swapped, SwapError> {
        self.put(bytes, PutMode::Create).await
    }

    async fn swap(&self, judged: &Version, bytes: Bytes) -> Result<Swapped, SwapError> {
        self.put(bytes, PutMode::Update(UpdateVersion { e_tag: Some(judged.0.clone()), version: None })).await
    }
}

/// Sees whether the store keeps its conditions, on a scratch object: a second create and a stale swap must be refused.
/// `Ok(Err(what))` says what it let through.
///
/// # Errors
/// When the store cannot be asked.
pub async fn prove_conditional_writes(folder: &Folder, name: &str) -> Result<Result<(), String>, StoreError> {
    let scratch = ObjectDocument { folder: folder.clone(), name: name.into() };
    let outcome = prove(&scratch).await;
    // What stays behind goes with the work's other staged files.
    let _ = folder.delete(name).await;
    outcome
}

async fn prove(scratch: &ObjectDocument) -> Result<Result<(), String>, StoreError> {
    let refused = |what: &str| {
        Ok(Err(format!(
            "the store ignores conditions ({what}), so nothing would keep two writers apart; use a store with \
             If-Match and If-None-Match on PUT"
        )))
    };
    let created = match scratch.create(Bytes::from_static(b"1")).await {
        Ok(_) => true,
        Err(SwapError::Lost) => false,
        Err(SwapError::Store(e)) => return Err(e),
    };
    let stale = match scratch.read().await? {
        Some((_, stale)) => stale,
        None if created => return refused("what was written cannot be read"),
        None => return Err(StoreError::busy(&scratch.folder.uri_of(&scratch.name))),
    };
    match scratch.create(Bytes::from_static(b"2")).await {
        Err(SwapError::Lost) => {}
        Ok(_) => return refused("it created an object that exists"),
        Err(SwapError::Store(e)) => return Err(e),
    }
    if !swapped(scratch, &stale, Bytes::from_static(b"3")).await? {
        return refused("it refused a write of the current version");
    }
    match scratch.swap(&stale, Bytes::from_static(b"4")).await {
        Err(SwapError::Lost) => Ok(Ok(())),
        Ok(_) => refused("it replaced a version that was no longer there"),
        Err(SwapError::Store(e)) => Err(e),
    }
}

/// Whether the document, which nobody else writes, is `bytes` in the end. A refusal may be the answer to a write of our own
/// whose first reply was lost, or a store's word for being busy: it counts when it is said twice.
async fn swapped(scratch: &ObjectDocument, judged: &Version, bytes: Bytes) -> Result<bool, StoreError> {
    let mut judged = judged.clone();
    for _ in 0..2 {
        match scratch.swap(&judged, bytes.clone()).await {
            Ok(_) => return Ok(true),
            Err(SwapError::Lost) => {}
            Err(SwapError::Store(e)) => return Err(e),
        }
        match scratch.read().await? {
            Some((there, _)) if there == bytes => return Ok(true),
            Some((_, version)) => judged = version,
            None => return Ok(false),
        }
    }
    Ok(false)
}
