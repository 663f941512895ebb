//! `journal`: what a transition of a job of many batches costs late in it, next to the same early in it.

#[path = "../../tests/support/counting_store.rs"]
mod counting_store;
#[path = "../../tests/support/work.rs"]
mod work;

use std::time::Instant;

use batchjob_operator::store::Folder;
use counting_store::CountingStore;
use work::Work;

use crate::{Bar, Figure, scaled};

/// Shards that are settled while it is measured: as many as a full segment holds.
const SHARDS: usize = 256;
/// Runs; the middle one counts.
const RUNS: usize = 3;

/// Bytes that storage sent and was sent, and microseconds of decisions and encoding, for each write of the journal.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    micros: f64,
}

pub async fn measure() -> Vec<Figure> {
    let (late, mut runs) = (scaled(10_000).max(10 + SHARDS), vec![]);
    for _ in 0..RUNS {
        let store = CountingStore::new();
        let folder = Folder::of(store.clone(), "memory:///out/", "out/");
        let mut work = Work::planned(&folder, late + 2 * SHARDS).await;
        work.run_until_settled(10).await;
        let early = cost(&mut work, &store, 10 + SHARDS).await;
        work.run_until_settled(late).await;
        runs.push((cost(&mut work, &store, late + SHARDS).await, early));
    }
    let name = |of: &str| format!("{of} of a write of the journal at batch {late}; at batch 10 of the same job");
    let pairs = |of: fn(Cost) -> f64| runs.iter().map(|(late, early)| (of(*late), of(*early))).collect::<Vec<_>>();
    vec![
        Figure::of_pairs("journal", name("bytes read and written"), "bytes", &pairs(|c| c.bytes), Bar::AtMost(2.0)),
        Figure::of_pairs(
            "journal-time",
            name("time, storage in memory,"),
            "µs",
            &pairs(|c| c.micros),
            Bar::AtMost(2.0),
        ),
    ]
}

async fn cost(work: &mut Work, store: &CountingStore, settled: usize) -> Cost {
    let (bytes, transitions, began) = (store.bytes(), work.transitions, Instant::now());
    work.run_until_settled(settled).await;
    let (took, writes) = (began.elapsed(), (work.transitions - transitions) as f64);
    Cost { bytes: (store.bytes() - bytes) as f64 / writes, micros: took.as_secs_f64() * 1e6 / writes }
}
