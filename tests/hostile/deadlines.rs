//! Calls about one object, at a store that never answers and at one that drips: each comes to an end.

use std::sync::Arc;
use std::time::Duration;

use batchjob_operator::store::{Document, Folder, ObjectDocument, StoreError, SwapError};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tokio::time::Instant;

/// A store that never answers, or that begins to give an object and then drips.
#[derive(Debug)]
struct Slow {
    drips: bool,
}

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        std::future::pending().await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        std::future::pending().await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if !self.drips || options.head {
            return std::future::pending().await;
        }
        let drip = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        let (location, size) = (location.clone(), 1 << 20);
        let meta = ObjectMeta { location, last_modified: Default::default(), size, e_tag: None, version: None };
        let payload = GetResultPayload::Stream(drip.boxed());
        Ok(GetResult { payload, meta, range: 0..size, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        paths.then(async |_| std::future::pending().await).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        futures::stream::pending().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        std::future::pending().await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn no_call_of_a_visit_waits_for_a_store_for_longer_than_its_time() {
    let time = Duration::from_millis(200);
    for drips in [false, true] {
        let folder = Folder::of(Arc::new(Slow { drips }), "memory://b/", "").with_call_timeout(time);
        let document = ObjectDocument { folder: folder.clone(), name: "journal.json".into() };
        let bytes = Bytes::from_static(b"{}");
        let told = |e: SwapError| StoreError::Unavailable(e.to_string(), None);
        let calls = [
            ("read", document.read().map(|r| r.map(drop)).boxed()),
            ("create", document.create(bytes.clone()).map(|r| r.map(drop).map_err(told)).boxed()),
            ("stat", folder.stat("a").map(|r| r.map(drop)).boxed()),
            ("put", folder.put_new("a", bytes).map(|r| r.map(drop)).boxed()),
            ("exists", folder.exists("a").map(|r| r.map(drop)).boxed()),
            ("work_of", folder.work_of("a").map(|r| r.map(drop)).boxed()),
            ("delete", folder.delete("a").boxed()),
            ("delete_below", folder.delete_below("a/").boxed()),
        ];
        for (call, waits) in calls {
            let began = Instant::now();
            let error = waits.await.expect_err(call).to_string();
            assert!(began.elapsed() <= time * 4, "{call} took {:?}", began.elapsed());
            assert!(error.starts_with("memory://b/") && error.contains("was not done within"), "{call}: {error}");
        }
    }
}
