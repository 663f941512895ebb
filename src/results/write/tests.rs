use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::results::Part;
use crate::store::staged::Spool;

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// A store with room for so many bytes, as ConfigMaps have.
#[derive(Debug)]
struct Small {
    objects: InMemory,
    room: u64,
}

impl std::fmt::Display for Small {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("small")
    }
}

#[async_trait]
impl ObjectStore for Small {
    async fn put_opts(
        &self,
        path: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let objects: Vec<ObjectMeta> = self.objects.list(None).try_collect().await?;
        let held: u64 = objects.iter().map(|object| object.size).sum();
        match held + payload.content_length() as u64 > self.room {
            true => Err(crate::store::no_room()),
            false => self.objects.put_opts(path, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.objects.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// Text of so many bytes that takes three quarters of them compressed.
fn text(seed: &str, bytes: usize) -> String {
    let mut random = vec![0; bytes];
    blake3::Hasher::new_derive_key(seed).finalize_xof().fill(&mut random);
    random.iter().map(|byte| char::from(b'0' + byte % 64)).map(|c| if c == '\\' { 'z' } else { c }).collect()
}

async fn stage(folder: &Folder, lines: impl Iterator<Item = String>, name: impl Fn(&str) -> String) -> Part {
    let mut spool = Spool::new(&std::env::temp_dir()).await.unwrap();
    for line in lines {
        spool.write(format!("{line}\n").as_bytes()).await.unwrap();
    }
    let file = spool.finish().await.unwrap();
    let (sha256, name) = (file.sha256.clone(), name(&file.sha256));
    file.put(folder, &name, WORK).await.unwrap();
    Part { name, sha256 }
}

/// Writes the results of a work of 8 requests of 400 kB, whose answers have 100 kB, to a store with room for so many
/// bytes.
async fn written(room: u64) -> Result<(Folder, Manifest), WriteError> {
    let (store, spool) = (Small { objects: InMemory::new(), room }, std::env::temp_dir());
    let folder = Folder::of(Arc::new(store), "memory://out/", "out/");
    let request = |n: usize| json!({"custom_id": format!("{n}-0"), "method": "POST", "url": "/v1/x", "body": {"x": text(&format!("r{n}"), 400_000)}});
    let entry = |n: usize| json!({"index": n, "custom_id": format!("mine {n}"), "request_blake3": "h"});
    let response = |n: usize| json!({"status_code": 200, "body": {"x": text(&format!("a{n}"), 100_000)}});
    // The head of a part's line has its keys in this order.
    let answer = |n: usize| format!(r#"{{"index":{n},"ended":"succeeded","line":{{"response":{}}}}}"#, response(n));
    let all = || 0..8;
    let sent = stage(&folder, all().map(|n| request(n).to_string()), |sha256| layout::shard(WORK, sha256)).await;
    let index = stage(&folder, all().map(|n| entry(n).to_string()), |sha256| layout::index(WORK, sha256)).await;
    let part = stage(&folder, all().map(answer), |sha256| layout::part(WORK, "00000-1", sha256)).await;
    let mut shards = SettledShard::sorter(&spool);
    shards.push(SettledShard {
        sha256: sent.sha256,
        index: index.sha256,
        first: 0,
        model: "m".into(),
        round: 0,
        part: Some(part),
        reused: false,
        given_up: false,
        absent: ("missing".into(), String::new()),
    })?;
    let manifest = json!({
        "manifestVersion": 1, "workID": WORK, "workHash": "h", "outcome": "Succeeded", "reason": "AllSucceeded",
        "message": "", "requests": {"total": 8, "succeeded": 8}, "files": [], "batches": [], "completedAt": 0,
    });
    let form = ResultForm { requests: true, ..Default::default() };
    let manifest = write(&spool, &folder, shards.finish()?, serde_json::from_value(manifest).unwrap(), form).await?;
    Ok((folder, manifest))
}

/// Returns the result files of a kind that are there, and those that the manifest names.
async fn files(folder: &Folder, manifest: &Manifest, kind: &str) -> (Vec<String>, Vec<String>) {
    let listed: Vec<_> = folder.list().try_collect().await.unwrap();
    let mut there: Vec<String> = listed.iter().map(|object| object.name().into()).collect();
    there.retain(|name| name.starts_with(kind));
    there.sort();
    let named = manifest.files.iter().map(|file| file.name.clone()).filter(|name| name.starts_with(kind));
    (there, named.collect())
}

#[tokio::test]
async fn requests_without_room_are_left_out_of_the_results_and_leave_no_piece_behind() {
    // 3 MB are staged. Uncompressed, the results have 800 kB and the requests 3,200 kB.
    let (folder, manifest) = written(8 << 20).await.unwrap();
    assert_eq!(files(&folder, &manifest, "requests").await.0, ["requests.jsonl"], "there is room");
    let (folder, manifest) = written(4_700_000).await.unwrap();
    let (there, named) = files(&folder, &manifest, "results").await;
    assert_eq!(there, ["results-00000.jsonl.gz", "results-00001.jsonl.gz"]);
    assert_eq!(named, there);
    assert_eq!(files(&folder, &manifest, "requests").await, (vec![], vec![]));
    assert!(matches!(written(3_300_000).await, Err(WriteError::Store(StoreError::TooLarge(_)))), "answers count");
}
