//! Whatever a server gives as a file of answers: no panic, each request ends once, and the part can be read.

#![no_main]

#[path = "../../tests/support/sent.rs"]
mod sent;

use std::sync::LazyLock;

use batchjob_operator::results::{Collection, collect};
use batchjob_operator::store::{Folder, StagedShard};
use bytes::Bytes;
use futures::StreamExt;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

/// A runtime, and four requests that were sent.
static SENT: LazyLock<(Runtime, Folder, StagedShard)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (folder, shard) = runtime.block_on(sent::sent());
    (runtime, folder, shard)
});

fuzz_target!(|file: &[u8]| {
    let (runtime, folder, shard) = &*SENT;
    let files = vec![futures::stream::iter([Ok(Bytes::copy_from_slice(file))]).boxed()];
    let collection = Collection {
        folder,
        work_id: sent::WORK,
        slot: "00000-1".into(),
        index: &shard.index_sha256,
        requests: shard.requests,
        files,
        may_be_unreadable: &|found| found.unreadable > 0,
        unusable: "",
    };
    let part = runtime.block_on(async {
        let part = collect(collection, &std::env::temp_dir()).await.expect("memory and a spool");
        folder.delete(&part.name).await.expect("memory");
        part
    });
    let c = part.counts;
    assert_eq!(c.succeeded + c.failed + c.expired + c.cancelled + c.missing, shard.requests);
    assert!(part.retryable <= c.failed);
    assert!(part.found.unreadable == 0 || c.missing == 0, "what may be unreadable is not missing");
});
