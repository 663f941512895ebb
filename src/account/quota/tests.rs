use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;

use super::*;

fn quota(limit: usize) -> (Arc<Quota>, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = now.clone();
    let quota = Quota::new(Arc::new(move || clock.load(Ordering::Relaxed)));
    quota.set_limit(Some(limit));
    (quota, now)
}

/// Takes a place of the job whose intent is then written. Returns false if there is none.
fn submits(quota: &Arc<Quota>, job: &str, namespace: &str) -> bool {
    quota.take(job, namespace).map(UsedPlace::keep).is_some()
}

#[tokio::test]
async fn a_place_is_used_shown_in_the_journal_and_free_again_when_its_batch_ended() {
    let (quota, _) = quota(1);
    assert_eq!(quota.full("a", "ns"), None);
    assert!(submits(&quota, "a", "ns"));
    assert_eq!(quota.full("b", "ns"), Some(QuotaFull::Batches(1)));
    assert!(!submits(&quota, "b", "ns"), "the place is used");
    quota.report("a", "ns", 1, Submission::Posting);
    quota.report("a", "ns", 1, Submission::None);
    assert_eq!(quota.full("b", "ns"), Some(QuotaFull::Batches(1)));
    let mut waits = std::pin::pin!(quota.place("b", "ns"));
    assert!((&mut waits).now_or_never().is_none());
    quota.report("a", "ns", 0, Submission::None);
    waits.await;
    assert_eq!(quota.full("c", "ns"), Some(QuotaFull::Batches(1)), "it is kept for who waited");
    assert!(submits(&quota, "b", "ns"));
}

#[tokio::test]
async fn what_status_says_counts_until_the_journal_is_read() {
    let (quota, now) = quota(3);
    quota.guess("forged", "ns", 100);
    now.fetch_add(GUESSED, Ordering::Relaxed);
    assert_eq!(quota.full("b", "ns"), None, "nobody's word counts for ever");
    quota.forget("forged");
    quota.guess("a", "ns", 3);
    assert_eq!(quota.full("b", "ns"), Some(QuotaFull::Batches(3)), "the process that submitted them is gone");
    quota.report("a", "ns", 2, Submission::None);
    quota.guess("a", "ns", 3);
    assert_eq!(quota.full("b", "ns"), None, "an older status says nothing new");
    quota.forget("a");
    assert!(quota.lock().jobs.is_empty());
}

#[tokio::test]
async fn a_place_that_nobody_uses_is_not_kept_for_ever() {
    let (quota, now) = quota(1);
    quota.place("a", "broken").await;
    assert_eq!(quota.full("b", "ns"), Some(QuotaFull::Batches(1)));
    now.fetch_add(KEPT, Ordering::Relaxed);
    assert_eq!(quota.full("b", "ns"), None);
    quota.place("b", "ns").await;
    quota.release("b");
    assert_eq!(quota.full("c", "ns"), None, "what is given back is free at once");
}

#[tokio::test]
async fn jobs_of_one_namespace_that_hang_leave_places_to_the_jobs_of_others() {
    let (quota, now) = quota(1_000);
    let jobs: Vec<String> = (0..SUBMITTING).map(|i| format!("noisy-{i}")).collect();
    let taken = jobs.iter().filter(|job| submits(&quota, job, "noisy")).count();
    assert_eq!(taken, SUBMITTING / 2);
    let mut waits = std::pin::pin!(quota.place("more", "noisy"));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!((quota.full("more", "noisy"), quota.full("one", "quiet")), (Some(QuotaFull::Submitting), None));
    assert!(submits(&quota, "one", "quiet"));
    quota.report("one", "quiet", 1, Submission::None);
    jobs.iter().take(4).for_each(|job| quota.report(job, "noisy", 1, Submission::None));
    waits.await;
    now.fetch_add(HEARD, Ordering::Relaxed);
    assert_eq!(quota.full("another", "noisy"), None, "nothing was heard of them for long");
}

#[tokio::test]
async fn jobs_of_many_namespaces_that_hang_before_their_post_hold_up_a_namespace_that_has_no_place_for_seconds_alone() {
    let (quota, now) = quota(1_000);
    let hang = |n: usize| format!("hostile-{n}");
    let given = (0..SUBMITTING).filter(|n| quota.place(&hang(*n), &hang(*n)).now_or_never().is_some()).count();
    assert_eq!(given, SUBMITTING);
    for n in 0..SUBMITTING / 2 {
        assert!(submits(&quota, &hang(n), &hang(n)));
    }
    assert_eq!(quota.full("one", "quiet"), Some(QuotaFull::Submitting));
    quota.report(&hang(0), &hang(0), 1, Submission::Posting);
    now.fetch_add(STALLED, Ordering::Relaxed);
    assert_eq!(quota.full("one", "quiet"), None);
    assert_eq!(quota.full("more", &hang(0)), Some(QuotaFull::Submitting), "it has a place");
    (0..SUBMITTING).for_each(|n| quota.report(&hang(n), &hang(n), 1, Submission::Posting));
    assert_eq!(quota.full("one", "quiet"), Some(QuotaFull::Submitting), "a POST under way is waited for");
}

#[tokio::test]
async fn a_place_whose_intent_was_not_written_is_free_at_once() {
    let (quota, _) = quota(1);
    let used = quota.take("a", "ns");
    assert!(used.is_some() && quota.full("b", "ns").is_some());
    drop(used);
    assert_eq!(quota.full("b", "ns"), None);
}
