//! Documents that change by conditional writes only.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{PutMode, PutOptions, UpdateVersion};

use super::folder::WholeObject;
use super::{Folder, StoreError};

/// Largest document that is read, in bytes.
pub const DOCUMENT_LIMIT: u64 = 16 << 20;

/// The version of a document that was read, on which a swap is conditional. S3 and Azure compare the ETag, Google Cloud
/// Storage compares the object's generation. At least one of them is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    etag: Option<String>,
    version: Option<String>,
}

impl Version {
    /// Creates a version; None if the store gave neither.
    pub(super) fn new(etag: Option<String>, version: Option<String>) -> Option<Version> {
        (etag.is_some() || version.is_some()).then_some(Version { etag, version })
    }

    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    fn is_still_there(&self) -> PutMode {
        PutMode::Update(UpdateVersion { e_tag: self.etag.clone(), version: self.version.clone() })
    }
}

/// Proof that one of our conditional writes succeeded. It is not `Clone`, and only this module can create it.
#[derive(Debug)]
pub struct SwapProof(Option<Version>);

impl SwapProof {
    /// Returns the version that was written, if the store returned it.
    pub fn version(&self) -> Option<Version> {
        self.0.clone()
    }
}

/// The result of reading a document of which a version is known.
#[derive(Debug)]
pub enum ConditionalRead {
    /// The document does not exist.
    Absent,
    /// The document is at the known version.
    Unchanged,
    /// The document is at another version.
    Changed(Bytes, Version),
}

/// The reason why a conditional write failed.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Another writer was first, or the store retried our own write. Read the document again.
    #[error("the document changed in the meantime")]
    Changed,
    /// The write may or may not have happened. Read the document again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A small document with compare-and-swap.
#[async_trait]
pub trait Document: Send + Sync {
    /// Reads the document and its version; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    async fn read(&self) -> Result<Option<(Bytes, Version)>, StoreError>;

    /// Reads the document, unless it is still at `known`.
    ///
    /// # Errors
    /// Fails if the store does not answer.
    async fn read_changed(&self, known: Option<&Version>) -> Result<ConditionalRead, StoreError>;

    /// Creates the document if it does not exist.
    ///
    /// # Errors
    /// [`SwapError::Changed`] if the document exists.
    async fn create(&self, bytes: Bytes) -> Result<SwapProof, SwapError>;

    /// Replaces the document if it is still at `judged`.
    ///
    /// # Errors
    /// [`SwapError::Changed`] if it is not.
    async fn swap(&self, judged: &Version, bytes: Bytes) -> Result<SwapProof, SwapError>;
}

/// A document that is one object.
#[derive(Clone, Debug)]
pub struct ObjectDocument {
    /// Folder of the object.
    pub folder: Folder,
    /// Name of the object in the folder.
    pub name: String,
}

impl ObjectDocument {
    async fn put(&self, bytes: Bytes, mode: PutMode) -> Result<SwapProof, SwapError> {
        use object_store::Error as E;
        let (options, size) = (PutOptions { mode, ..Default::default() }, bytes.len());
        let path = self.folder.path(&self.name);
        let put = self.folder.store().put_opts(&path, bytes.into(), options);
        match self.folder.timely(&self.name, size, put).await? {
            Ok(put) => Ok(SwapProof(Version::new(put.e_tag, put.version))),
            Err(E::AlreadyExists { .. } | E::Precondition { .. }) => Err(SwapError::Changed),
            // On a put, only the bucket can be missing.
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
            ConditionalRead::Changed(bytes, version) => Ok(Some((bytes, version))),
            ConditionalRead::Absent | ConditionalRead::Unchanged => Ok(None),
        }
    }

    async fn read_changed(&self, known: Option<&Version>) -> Result<ConditionalRead, StoreError> {
        let (bytes, version) = match self.folder.read_changed(&self.name, DOCUMENT_LIMIT, known).await? {
            WholeObject::Absent => return Ok(ConditionalRead::Absent),
            WholeObject::Unchanged => return Ok(ConditionalRead::Unchanged),
            WholeObject::Read(bytes, version) => (bytes, version),
        };
        let version = version.ok_or_else(|| {
            StoreError::Unfit(format!(
                "{}: the store gives objects neither an ETag nor a version, without which nothing keeps two writers apart; use another store",
                self.folder.uri_of(&self.name)
            ))
        })?;
        Ok(ConditionalRead::Changed(bytes, version))
    }

    async fn create(&self, bytes: Bytes) -> Result<SwapProof, SwapError> {
        self.put(bytes, PutMode::Create).await
    }

    async fn swap(&self, judged: &Version, bytes: Bytes) -> Result<SwapProof, SwapError> {
        self.put(bytes, judged.is_still_there()).await
    }
}

/// Checks on a scratch object that the store keeps conditions: a second create and a stale swap have to be refused.
/// `Ok(Err(_))` describes a write that the store should have refused.
///
/// # Errors
/// Fails if the store does not answer.
pub async fn prove_conditional_writes(folder: &Folder, name: &str) -> Result<Result<(), String>, StoreError> {
    let scratch = ObjectDocument { folder: folder.clone(), name: name.into() };
    let outcome = prove(&scratch).await;
    // An object that is left behind is deleted with the work's other staged files.
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
        Err(SwapError::Changed) => false,
        Err(SwapError::Store(e)) => return Err(e),
    };
    let stale = match scratch.read().await? {
        Some((_, stale)) => stale,
        None if created => return refused("what was written cannot be read"),
        None => return Err(StoreError::busy(&scratch.folder.uri_of(&scratch.name))),
    };
    match scratch.create(Bytes::from_static(b"2")).await {
        Err(SwapError::Changed) => {}
        Ok(_) => return refused("it created an object that exists"),
        Err(SwapError::Store(e)) => return Err(e),
    }
    if !swapped(scratch, &stale, Bytes::from_static(b"3")).await? {
        return refused("it refused a write of the current version");
    }
    match scratch.swap(&stale, Bytes::from_static(b"4")).await {
        Err(SwapError::Changed) => Ok(Ok(())),
        Ok(_) => refused("it replaced a version that was no longer there"),
        Err(SwapError::Store(e)) => Err(e),
    }
}

/// Returns whether the document, which has no other writer, is `bytes` in the end. A refusal may be the answer to our own write
/// whose first reply was lost, or mean that the store is busy, so only a second refusal counts.
async fn swapped(scratch: &ObjectDocument, judged: &Version, bytes: Bytes) -> Result<bool, StoreError> {
    let mut judged = judged.clone();
    for _ in 0..2 {
        match scratch.swap(&judged, bytes.clone()).await {
            Ok(_) => return Ok(true),
            Err(SwapError::Changed) => {}
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

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutPayload, PutResult,
    };

    use super::*;

    /// A store with generations, as Google Cloud Storage has: an update names the generation that it replaces, and the
    /// ETag has no effect (<https://cloud.google.com/storage/docs/generations-preconditions>).
    #[derive(Debug, Default)]
    struct Generations(InMemory);

    impl fmt::Display for Generations {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("generations")
        }
    }

    #[async_trait]
    impl ObjectStore for Generations {
        async fn put_opts(
            &self,
            path: &Path,
            payload: PutPayload,
            mut options: PutOptions,
        ) -> object_store::Result<PutResult> {
            if let PutMode::Update(version) = &mut options.mode {
                version.e_tag = Some(version.version.take().ok_or(Error::NotImplemented {
                    operation: "an update without a generation".into(),
                    implementer: "generations".into(),
                })?);
            }
            let put = self.0.put_opts(path, payload, options).await?;
            Ok(PutResult { version: put.e_tag, e_tag: None, ..put })
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            let mut got = self.0.get_opts(path, options).await?;
            got.meta.version = got.meta.e_tag.take();
            Ok(got)
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(path, options).await
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            self.0.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_store_that_goes_by_generations_keeps_two_writers_apart() {
        let folder = Folder::of(Arc::new(Generations::default()), "gs://b/out/", "out/");
        assert_eq!(prove_conditional_writes(&folder, "scratch").await.unwrap(), Ok(()));
        let document = ObjectDocument { folder, name: "journal.json".into() };
        let created = document.create(Bytes::from_static(b"1")).await.unwrap().version().unwrap();
        let swapped = document.swap(&created, Bytes::from_static(b"2")).await.unwrap().version().unwrap();
        let stale = document.swap(&created, Bytes::from_static(b"3")).await;
        assert!(matches!(stale, Err(SwapError::Changed)), "{stale:?}");
        let read = document.read_changed(Some(&swapped)).await.unwrap();
        assert!(matches!(read, ConditionalRead::Unchanged), "{read:?}");
        let read = document.read_changed(Some(&created)).await.unwrap();
        assert!(
            matches!(&read, ConditionalRead::Changed(bytes, version) if bytes == "2" && *version == swapped),
            "{read:?}"
        );
    }
}
