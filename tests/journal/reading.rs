//! What is read, and what is not read again.

use super::*;

#[tokio::test]
async fn a_head_that_did_not_change_is_not_fetched_again() {
    let (counts, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let before = counts.bytes();
    let again = store.read(Some(&judged), 4).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&again.0, &judged.0));
    assert_eq!(counts.bytes(), before);
    let other = write(&store, &judged, |j| settle(j, 0..1)).await;
    let again = store.read(Some(&judged), 4).await.unwrap().unwrap();
    assert_eq!(again.0, other.0);
}

/// The head did not change, and what is sent next lies in a segment that this process has not read.
#[tokio::test]
async fn what_is_sent_next_is_read_although_the_head_did_not_change() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    assert!(!JournalStore::is_short(&judged.0, 4));
    let next = judged.0.next(|j| settle(j, 0..254));
    let (written, swapped) = store.swap(&judged.1, &next).await.unwrap();
    let known = (Arc::new(written), swapped.version().unwrap());
    assert!(JournalStore::is_short(&known.0, 4), "two are left of the first segment");
    let read = store.read(Some(&known), 4).await.unwrap().unwrap();
    assert_eq!(read.1, known.1, "the same version");
    assert!(!JournalStore::is_short(&read.0, 4) && (254..258).all(|index| read.0.shards.get(index).is_some()));
    let closed = Journal { closing: Some(DeletionPolicy::Cancel), ..Journal::clone(&known.0) };
    assert!(!JournalStore::is_short(&closed, 4), "nothing is sent any more");
}
