//! Whatever a server gives as a file of answers: no panic, each request ends once, and the part can be read.

#![no_main]

use std::sync::{Arc, LazyLock};

use batchjob_operator::api::{Endpoint, InlineRequest};
use batchjob_operator::requests::{Recipe, SizeLimit, Source, pass};
use batchjob_operator::results::{Collection, collect};
use batchjob_operator::store::{Folder, StagedShard};
use bytes::Bytes;
use futures::StreamExt;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// A runtime, and four requests that were sent.
static SENT: LazyLock<(Runtime, Folder, StagedShard)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let recipe = Recipe {
        provider: "p".into(),
        endpoint: Endpoint::ChatCompletions,
        model: Some("m".into()),
        defaults: Default::default(),
        format: Default::default(),
        compression: Default::default(),
        template: None,
        size_limit: SizeLimit { bytes: 1 << 20, then: Default::default() },
        empty_policy: Default::default(),
        run_id: None,
        max_requests: 100,
        max_bytes: 1 << 20,
        allowed_models: vec![],
        hash_version: "v1",
    };
    let requests = (0..4).map(|i| InlineRequest { custom_id: i.to_string(), body: Default::default() }).collect();
    let passed = pass(Source::Inline(requests), &recipe, Some((&folder, WORK)), &std::env::temp_dir());
    let shard = runtime.block_on(passed).expect("four requests").shards.remove(0);
    (runtime, folder, shard)
});

fuzz_target!(|file: &[u8]| {
    let (runtime, folder, shard) = &*SENT;
    let files = vec![futures::stream::iter([Ok(Bytes::copy_from_slice(file))]).boxed()];
    let collection =
        Collection { folder, work_id: WORK, slot: "00000-1".into(), shard: &shard.sha256, requests: 4, files };
    let part = runtime.block_on(async {
        let part = collect(collection, &std::env::temp_dir()).await.expect("memory and a spool");
        folder.delete(&part.name).await.expect("memory");
        part
    });
    let c = part.counts;
    assert_eq!(c.succeeded + c.failed + c.expired + c.cancelled + c.missing, 4);
    assert!(part.may_pass <= c.failed);
});
