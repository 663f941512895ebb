//! What a transition costs, and what a head and a process hold, does not grow with the work.

use super::*;

/// Runs `shards` of a work from their intent to their end, four at a time. Bytes a transition.
async fn run(
    store: &JournalStore,
    judged: &mut VersionedJournal,
    counts: &CountingStore,
    shards: std::ops::Range<usize>,
) -> f64 {
    let (before, mut writes) = (counts.bytes(), 0.0);
    let states = |index: usize| {
        let batch_id = format!("batch_{index:032x}");
        [
            attempt(index, 1, AttemptState::Intended),
            attempt(index, 1, AttemptState::Submitted { batch_id, at: 1_795_990_475_783 }),
            settled(index, 1, [9, 1, 0, 0, 0]),
        ]
    };
    for index in shards {
        for (behind, state) in [(0, 0), (0, 1), (4, 2)] {
            let Some(index) = index.checked_sub(behind) else { continue };
            let next = judged.0.next(|j| {
                if let Some(shard) = j.shards.get_mut(index) {
                    shard.attempt = Some(states(index)[state].clone());
                }
            });
            let (written, swapped) = store.swap(&judged.1, &next).await.unwrap();
            *judged = (Arc::new(written), swapped.version().unwrap());
            *judged = store.read(Some(judged), 4).await.unwrap().unwrap();
            writes += 1.0;
        }
    }
    (counts.bytes() - before) as f64 / writes
}

#[tokio::test]
async fn a_transition_costs_the_same_at_shard_10_and_at_shard_10_000() {
    let (counts, folder) = stores();
    let (store, mut judged) = opened(&folder, 10_400).await;
    run(&store, &mut judged, &counts, 0..10).await;
    let early = run(&store, &mut judged, &counts, 10..266).await;
    // What would take long one by one.
    judged = store.read(None, 10_000).await.unwrap().unwrap();
    judged = write(&store, &judged, |j| settle(j, 266..9_990)).await;
    run(&store, &mut judged, &counts, 9_990..10_000).await;
    let late = run(&store, &mut judged, &counts, 10_000..10_256).await;
    assert!(late / early <= 2.0, "{early:.0} bytes a transition, then {late:.0}");
    let head = folder.read(layout::JOURNAL, 1 << 20).await.unwrap().unwrap();
    assert!(head.len() < 64 << 10, "{} bytes", head.len());
    assert!(judged.0.shards.iter().count() <= 2 * SEGMENT_SHARDS, "{} resident", judged.0.shards.iter().count());
    let there = all(&store, &judged.0).await.unwrap();
    assert_eq!((there.len(), judged.0.shards.totals()), (10_400, sum(&there.values().cloned().collect::<Vec<_>>())));
    println!("{early:.0} bytes a transition at shard 10, {late:.0} at shard 10,000, head {} bytes", head.len());
}

/// Decided by the production rules, visit by visit. What a process remembers and what a head holds do not grow with the work.
#[tokio::test]
async fn a_work_of_many_batches_is_sent_once_each_and_neither_head_nor_memory_grows() {
    let (_, folder) = stores();
    let mut work = work::Work::planned(&folder, 400).await;
    let mut largest = [0, 0];
    for settled in (50..=400).step_by(50) {
        work.run_until_settled(settled).await;
        let m = &work.memory;
        let remembered = [m.uploads.len(), m.posted.len(), m.looks.len(), m.collected.len(), m.deleted.len() / 3];
        let in_head = work.judged.0.shards.in_head().count();
        largest = [largest[0].max(*remembered.iter().max().unwrap()), largest[1].max(in_head)];
    }
    assert!(largest.iter().all(|n| *n <= 2 * SEAL_AT), "{largest:?} remembered, and in the head");
    let there = all(&JournalStore::new(&folder, SEAL_AT), &work.judged.0).await.unwrap();
    let once = |s: &Shard| s.attempt.as_ref().is_some_and(|a| a.number == 1) && s.settled().is_some();
    assert!(there.len() == 400 && there.values().all(once));
}
