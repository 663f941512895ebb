//! The journal in storage: its head and its segments.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/counting_store.rs"]
mod counting_store;
#[path = "../support/work.rs"]
mod work;

mod damaged;
mod reading;
mod shards;
mod size;
mod versions;
mod writing;

use std::collections::BTreeMap;
use std::sync::Arc;

use batchjob_operator::api::{
    AnswerCounts, BatchUsage, DeletionPolicy, ErrorSummary, NEWEST_PROTOCOL_VERSION, OTHER_MODELS, PROTOCOL_VERSION,
    RequestCounts, TokenUsage,
};
use batchjob_operator::controller::{JournalStore, VersionedJournal};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, Journal, PartRef, Payload, Refusal, SEAL_AT, SEGMENT_SHARDS, SealedSegment, Segment,
    SegmentKind, Shard, Shards, Totals, UsageByModel, read_sealed,
};
use batchjob_operator::money::{Cost, Usd};
use batchjob_operator::store::{Folder, StoreError, SwapError, layout};
use counting_store::CountingStore;
use work::beginnings::{owner, plan, shard};

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn unsent(index: usize, round: u32, prior_counts: RequestCounts) -> Shard {
    Shard {
        sha256: format!("{index:064x}"),
        index_sha256: format!("{:064x}", index + (1 << 40)),
        bytes: 10,
        first: index as i64 * 10,
        requests: 10,
        round,
        prior_counts,
        ..shard()
    }
}

fn attempt(index: usize, number: u32, state: AttemptState) -> Attempt {
    let (intent_id, file) = (format!("{index:030x}{number:02x}"), format!("file-{index:024x}"));
    let intended = Attempt::intended(number, intent_id, Payload::file(file), 1_795_990_475_783, "6b2ea0e170e4cd3f");
    Attempt { billed_again: i64::from(index.is_multiple_of(7)), state, ..intended }
}

fn settled(index: usize, number: u32, ends: [i64; 5]) -> Attempt {
    let [succeeded, failed, expired, cancelled, missing] = ends;
    let counts = RequestCounts {
        total: ends.iter().sum(),
        succeeded,
        failed,
        expired,
        cancelled,
        missing,
        ..Default::default()
    };
    let error = |code: &str, count| ErrorSummary {
        code: code.into(),
        count,
        sample_custom_id: format!("r-{index}"),
        message: String::new(),
    };
    let sha256 = format!("{:064x}", index + (1 << 41));
    let input_tokens = succeeded * (index as i64 % 7 + 1);
    let tokens = TokenUsage { input_tokens, output_tokens: succeeded, ..Default::default() };
    let mut usage = BatchUsage { tokens, ..Default::default() };
    for (empty, truncated) in (0..succeeded).map(|n| (n % 2, i64::from(n % 3 == 0))) {
        usage.count_answer(AnswerCounts { empty, truncated, ..Default::default() });
    }
    let price = Usd::parse("0.25").unwrap();
    let cost = Cost { batch: price.for_tokens(input_tokens), real_time: price.for_tokens(2 * input_tokens) };
    let state = AttemptState::Settled {
        batch_id: format!("batch_{index:032x}"),
        ended: "completed".into(),
        part: Some(PartRef { name: layout::part(WORK, &format!("{index:05}-{number}"), &sha256), sha256 }),
        counts,
        usage: Box::new(usage),
        cost: (!index.is_multiple_of(11)).then(|| Box::new(cost)),
        retryable: failed / 2,
        errors: vec![error("http_500", failed), error("batch_expired", expired)],
        files: vec![],
    };
    attempt(index, number, state)
}

fn planned(shards: usize) -> Journal {
    let mut journal = Journal::open(WORK.into(), owner(), "spec".into());
    journal.plan = Some(plan(10 * shards as i64));
    journal.shards = (0..shards).map(|index| unsent(index, 0, RequestCounts::default())).collect();
    journal
}

fn sum(shards: &[Shard]) -> Totals {
    let mut totals = Totals::default();
    shards.iter().for_each(|shard| totals.add(shard));
    totals
}

fn stores() -> (Arc<CountingStore>, Folder) {
    let store = CountingStore::new();
    (store.clone(), Folder::of(store, "memory:///out/", "out/"))
}

async fn put(folder: &Folder, name: &str, bytes: impl Into<bytes::Bytes>) {
    folder.delete(name).await.unwrap();
    assert!(folder.put_new(name, bytes.into()).await.unwrap());
}

/// Writes the journal's next version, as `edit` makes it, and reads it as another process does.
async fn write(store: &JournalStore, judged: &VersionedJournal, edit: impl FnOnce(&mut Journal)) -> VersionedJournal {
    store.swap(&judged.1, &judged.0.next(edit)).await.unwrap();
    store.read(None, 4).await.unwrap().unwrap()
}

async fn opened(folder: &Folder, shards: usize) -> (JournalStore, VersionedJournal) {
    let store = JournalStore::new(folder, SEAL_AT);
    store.create(&Journal::open(WORK.into(), owner(), "spec".into())).await.unwrap();
    let judged = store.read(None, 4).await.unwrap().unwrap();
    let judged = write(&store, &judged, |j| (j.plan, j.shards) = (planned(shards).plan, planned(shards).shards)).await;
    (store, judged)
}

async fn all(store: &JournalStore, journal: &Journal) -> Result<BTreeMap<usize, Shard>, StoreError> {
    let mut all = BTreeMap::new();
    let see = |index, shard: &Shard| {
        assert!(all.insert(index, shard.clone()).is_none(), "{index} twice");
        Ok(())
    };
    store.each(journal, see).await?;
    Ok(all)
}

fn settle(journal: &mut Journal, indices: std::ops::Range<usize>) {
    for index in indices {
        journal.shards.get_mut(index).unwrap().attempt = Some(settled(index, 1, [9, 1, 0, 0, 0]));
    }
}
