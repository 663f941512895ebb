//! Whatever a server gives as a file of answers: no panic, each request ends once, and the part can be read.

#![no_main]

#[path = "../../tests/support/sent.rs"]
mod sent;

use std::sync::LazyLock;

use batchjob_operator::api::{AnswerCounts, BatchUsage, MOST_TOKENS, TokenUsage};
use batchjob_operator::results::{CollectedPart, Collection, collect};
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

/// No usage whatever is negative or more than the requests can have used.
fn check_usage(part: &CollectedPart, requests: i64) {
    let BatchUsage { tokens, long_context, answers } = part.usage;
    for usage in [tokens, long_context, part.succeeded] {
        let TokenUsage { input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, .. } = usage;
        assert!((0..=requests * MOST_TOKENS).contains(&input_tokens) && (0..=input_tokens).contains(&cached_input_tokens));
        assert!((0..=2 * requests * MOST_TOKENS).contains(&output_tokens) && (0..=output_tokens).contains(&reasoning_tokens));
        assert!((0..=requests * MOST_TOKENS).contains(&usage.embedding_tokens));
    }
    assert!(long_context.input_tokens <= tokens.input_tokens && part.succeeded.input_tokens <= tokens.input_tokens);
    assert!(tokens.answers_without_usage <= requests);
    let AnswerCounts { empty, refused, truncated, filtered } = answers;
    assert!([empty, refused, truncated, filtered].iter().all(|kind| (0..=part.counts.succeeded).contains(kind)));
}

fuzz_target!(|file: &[u8]| {
    let (runtime, folder, shard) = &*SENT;
    let files = vec![futures::stream::iter([Ok(Bytes::copy_from_slice(file))]).boxed()];
    let collection = Collection {
        folder,
        work_id: sent::WORK,
        attempt_key: "00000-1".into(),
        index: &shard.index_sha256,
        requests: shard.requests,
        files,
        long_context_above: Some(1_000),
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
    check_usage(&part, shard.requests);
    assert!(part.found.unreadable == 0 || c.missing == 0, "what may be unreadable is not missing");
});
