//! A store in memory that counts what it is asked for, and dies when it is told to.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug, Default)]
pub struct CountingStore {
    objects: InMemory,
    /// Bytes that were sent, and bytes that were answered.
    pub written: AtomicU64,
    pub read: AtomicU64,
    pub calls: AtomicU64,
    /// Writes of objects whose path has this in it are lost on their way.
    loses: Mutex<Option<&'static str>>,
}

impl CountingStore {
    pub fn new() -> Arc<CountingStore> {
        Arc::default()
    }

    /// From now on writes of objects whose path has `part` in it are lost on their way; None: no write is.
    #[allow(dead_code)]
    pub fn loses(&self, part: Option<&'static str>) {
        *self.loses.lock().unwrap() = part;
    }

    /// Bytes in both directions so far.
    #[allow(dead_code)]
    pub fn bytes(&self) -> u64 {
        self.written.load(SeqCst) + self.read.load(SeqCst)
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that counts")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.calls.fetch_add(1, SeqCst);
        self.written.fetch_add(payload.content_length() as u64, SeqCst);
        if self.loses.lock().unwrap().is_some_and(|part| path.as_ref().contains(part)) {
            return Err(Error::Generic { store: "CountingStore", source: "the connection broke".into() });
        }
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.calls.fetch_add(1, SeqCst);
        let got = self.objects.get_opts(path, options).await?;
        self.read.fetch_add(got.range.end - got.range.start, SeqCst);
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
