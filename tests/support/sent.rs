//! A batch that was sent, and whose answers may be anything.

use std::sync::Arc;

use batchjob_operator::api::InlineRequest;
use batchjob_operator::requests::{Source, pass};
use batchjob_operator::store::{Folder, StagedShard};

#[path = "recipe.rs"]
pub mod options;

/// The work; its requests are known to the provider by names such as `r0-01234567`.
pub const WORK: &str = "0123456789abcdef0123456789abcdef";
/// Requests of the batch.
pub const REQUESTS: usize = 4;

/// A folder in memory, and the batch that is staged in it.
pub async fn sent() -> (Folder, StagedShard) {
    let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let requests = (0..REQUESTS).map(|i| InlineRequest {
        custom_id: i.to_string(),
        body: Some(Default::default()),
        ..Default::default()
    });
    let source = Source::Inline(requests.collect());
    let passed = pass(source, &options::options(), Some((&folder, WORK)), &std::env::temp_dir()).await;
    (folder, passed.expect("a sound input").shards.next().unwrap().unwrap())
}
