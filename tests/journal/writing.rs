//! What is written, in which order, and what is not.

use super::*;

/// A crash leaves segments that no head names, and whoever goes on finds them there.
#[tokio::test]
async fn a_crash_between_a_segment_and_its_head_loses_nothing() {
    let (counts, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    counts.loses(Some("journal.json"));
    let next = judged.0.next(|j| settle(j, 0..20));
    assert!(matches!(store.swap(&judged.1, &next).await, Err(SwapError::Store(_))));
    counts.loses(None);
    let after = store.read(None, 4).await.unwrap().unwrap();
    assert_eq!(after.0, judged.0, "nothing was written");
    let after = write(&store, &after, |j| settle(j, 0..20)).await;
    assert_eq!(after.0.shards.sealed_segments().len(), 1);
    let there = all(&store, &after.0).await.unwrap();
    assert_eq!((there.len(), there.values().filter(|s| s.settled().is_some()).count()), (600, 20));
}

#[tokio::test]
async fn a_head_never_names_a_segment_that_is_not_stored() {
    let (counts, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    counts.loses(Some("/journal/"));
    let next = judged.0.next(|j| settle(j, 0..20));
    assert!(matches!(store.swap(&judged.1, &next).await, Err(SwapError::Store(_))));
    counts.loses(None);
    let after = store.read(None, 4).await.unwrap().unwrap();
    assert_eq!(after.0, judged.0, "the head is as it was");
    assert_eq!(all(&store, &after.0).await.unwrap().len(), 600);
}

#[tokio::test]
async fn of_two_that_seal_at_the_same_time_one_wins_and_the_journal_is_whole() {
    let (_, folder) = stores();
    let (one, judged) = opened(&folder, 600).await;
    let other = JournalStore::new(&folder, SEAL_AT);
    let first = judged.0.next(|j| settle(j, 0..16));
    let second = judged.0.next(|j| settle(j, 0..40));
    assert!(one.swap(&judged.1, &first).await.is_ok());
    assert!(matches!(other.swap(&judged.1, &second).await, Err(SwapError::Changed)));
    // The same content has the same name, whoever stored it first.
    let after = other.read(None, 4).await.unwrap().unwrap();
    assert_eq!(after.0.shards.totals().settled, 16);
    let after = write(&other, &after, |j| settle(j, 16..40)).await;
    let there = all(&one, &after.0).await.unwrap();
    assert_eq!((there.len(), after.0.shards.totals()), (600, sum(&there.values().cloned().collect::<Vec<_>>())));
}

#[tokio::test]
async fn a_head_that_nobody_could_read_again_is_not_written() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 30).await;
    let next = judged.0.next(|j| {
        let attempt = attempt(0, 1, AttemptState::Revoked { message: "m".repeat(17 << 20) });
        j.shards.get_mut(0).unwrap().attempt = Some(attempt);
    });
    let refused = store.swap(&judged.1, &next).await;
    assert!(matches!(&refused, Err(SwapError::Store(StoreError::TooLarge(_)))), "{refused:?}");
    assert_eq!(store.read(None, 4).await.unwrap().unwrap().0, judged.0);
}

/// A batch is asked for only where what may come of it, with the longest names that are taken, finds room.
#[tokio::test]
async fn an_intent_is_written_only_where_there_is_room_for_what_comes_of_it() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 30).await;
    let with = |bytes: usize| {
        judged.0.next(|j| {
            let told = attempt(0, 1, AttemptState::Revoked { message: "m".repeat(bytes) });
            j.shards.get_mut(0).unwrap().attempt = Some(told);
            j.shards.get_mut(1).unwrap().attempt = Some(attempt(1, 1, AttemptState::Intended));
        })
    };
    assert!(store.pack_intent(&with(1 << 20)).await.is_ok());
    let full = with((16 << 20) - (60 << 10));
    assert!(store.pack(&full).await.is_ok());
    assert!(matches!(store.pack_intent(&full).await, Err(StoreError::TooLarge(_))));
}
