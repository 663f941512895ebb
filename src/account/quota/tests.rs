use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;

use super::job::{GUESSED, HEARD, KEPT, STALLED};
use super::*;

fn quota(limit: usize) -> (Arc<Quota>, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = now.clone();
    let quota = Quota::new(Arc::new(move || clock.load(Ordering::Relaxed)));
    quota.set_limits(AccountLimits { batches: Some(limit), ..AccountLimits::default() });
    (quota, now)
}

/// The next batch of a job of this namespace.
fn of(namespace: &str) -> Applicant {
    let load = BatchLoad { requests: 1, model: "m".into(), tokens: 1 };
    Applicant { namespace: namespace.into(), load, ..Applicant::default() }
}

/// So many batches in flight.
fn live(batches: usize) -> Load {
    std::iter::repeat_n(of("").load, batches).collect()
}

fn takes(batches: usize, submission: Submission) -> JobUse {
    JobUse { live: live(batches), next_end: None, submission }
}

fn full_by(batches: u64, before: usize) -> Option<QuotaFull> {
    Some(QuotaFull::NoRoom { limit: Some((Lack::Batches, batches)), before })
}

/// Takes a place of the job whose intent is then written. Returns false if there is none.
fn submits(quota: &Arc<Quota>, job: &str, namespace: &str) -> bool {
    quota.take(job, &of(namespace)).map(UsedPlace::keep).is_some()
}

#[tokio::test]
async fn a_place_is_used_shown_in_the_journal_and_free_again_when_its_batch_ended() {
    let (quota, _) = quota(1);
    assert_eq!(quota.full("a", &of("ns")), None);
    assert!(submits(&quota, "a", "ns"));
    assert_eq!(quota.full("b", &of("ns")), full_by(1, 0));
    assert!(!submits(&quota, "b", "ns"), "the place is used");
    quota.report("a", "ns", takes(1, Submission::Posting));
    quota.report("a", "ns", takes(1, Submission::None));
    assert_eq!(quota.full("b", &of("ns")), full_by(1, 0));
    let mut waits = std::pin::pin!(quota.place("b", of("ns")));
    assert!((&mut waits).now_or_never().is_none());
    quota.report("a", "ns", takes(0, Submission::None));
    waits.await;
    assert_eq!(quota.full("c", &of("ns")), full_by(1, 0), "it is kept for who waited");
    assert!(submits(&quota, "b", "ns"));
}

#[tokio::test]
async fn what_status_says_counts_until_the_journal_is_read() {
    let (quota, now) = quota(3);
    quota.guess("forged", "ns", live(100));
    now.fetch_add(GUESSED, Ordering::Relaxed);
    assert_eq!(quota.full("b", &of("ns")), None, "nobody's word counts for ever");
    quota.forget("forged");
    quota.guess("a", "ns", live(3));
    assert_eq!(quota.full("b", &of("ns")), full_by(3, 0), "the process that submitted them is gone");
    quota.report("a", "ns", takes(2, Submission::None));
    quota.guess("a", "ns", live(3));
    assert_eq!(quota.full("b", &of("ns")), None, "an older status says nothing new");
    quota.forget("a");
    assert!(quota.lock().jobs.is_empty());
}

#[tokio::test]
async fn a_place_that_nobody_uses_is_not_kept_for_ever() {
    let (quota, now) = quota(1);
    quota.place("a", of("broken")).await;
    assert_eq!(quota.full("b", &of("ns")), full_by(1, 0));
    now.fetch_add(KEPT, Ordering::Relaxed);
    assert_eq!(quota.full("b", &of("ns")), None);
    quota.place("b", of("ns")).await;
    quota.release("b");
    assert_eq!(quota.full("c", &of("ns")), None, "what is given back is free at once");
}

#[tokio::test]
async fn jobs_of_one_namespace_that_hang_leave_places_to_the_jobs_of_others() {
    let (quota, now) = quota(1_000);
    let jobs: Vec<String> = (0..SUBMITTING).map(|i| format!("noisy-{i}")).collect();
    let taken = jobs.iter().filter(|job| submits(&quota, job, "noisy")).count();
    assert_eq!(taken, SUBMITTING / 2);
    let mut waits = std::pin::pin!(quota.place("more", of("noisy")));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(
        (quota.full("more", &of("noisy")), quota.full("one", &of("quiet"))),
        (Some(QuotaFull::Submitting), None)
    );
    assert!(submits(&quota, "one", "quiet"));
    quota.report("one", "quiet", takes(1, Submission::None));
    jobs.iter().take(4).for_each(|job| quota.report(job, "noisy", takes(1, Submission::None)));
    waits.await;
    now.fetch_add(HEARD, Ordering::Relaxed);
    assert_eq!(quota.full("another", &of("noisy")), None, "nothing was heard of them for long");
}

#[tokio::test]
async fn jobs_of_many_namespaces_that_hang_before_their_post_hold_up_a_namespace_that_has_no_place_for_seconds_alone() {
    let (quota, now) = quota(1_000);
    let hang = |n: usize| format!("hostile-{n}");
    let given = (0..SUBMITTING).filter(|n| quota.place(&hang(*n), of(&hang(*n))).now_or_never().is_some()).count();
    assert_eq!(given, SUBMITTING);
    for n in 0..SUBMITTING / 2 {
        assert!(submits(&quota, &hang(n), &hang(n)));
    }
    assert_eq!(quota.full("one", &of("quiet")), Some(QuotaFull::Submitting));
    quota.report(&hang(0), &hang(0), takes(1, Submission::Posting));
    now.fetch_add(STALLED, Ordering::Relaxed);
    assert_eq!(quota.full("one", &of("quiet")), None);
    assert_eq!(quota.full("more", &of(&hang(0))), Some(QuotaFull::Submitting), "it has a place");
    (0..SUBMITTING).for_each(|n| quota.report(&hang(n), &hang(n), takes(1, Submission::Posting)));
    assert_eq!(quota.full("one", &of("quiet")), Some(QuotaFull::Submitting), "a POST under way is waited for");
}

#[tokio::test]
async fn a_place_whose_intent_was_not_written_is_free_at_once() {
    let (quota, _) = quota(1);
    let used = quota.take("a", &of("ns"));
    assert!(used.is_some() && quota.full("b", &of("ns")).is_some());
    drop(used);
    assert_eq!(quota.full("b", &of("ns")), None);
}

/// The next batch of a job, of so many requests to a model.
fn batch(namespace: &str, model: &str, requests: u64) -> Applicant {
    Applicant { load: BatchLoad { requests, model: model.into(), tokens: requests }, ..of(namespace) }
}

#[tokio::test]
async fn a_batch_that_does_not_fit_says_so_and_is_not_overtaken_and_a_place_is_for_its_own_batch_alone() {
    let (quota, _) = quota(10);
    quota.set_limits(AccountLimits { requests: Some(10), ..AccountLimits::default() });
    let running = |requests: u64| [batch("a", "m", requests).load].into_iter().collect();
    quota.report("a", "a", JobUse { live: running(4), next_end: None, submission: Submission::None });
    let (large, tiny) = (batch("b", "m", 7), batch("c", "m", 1));
    assert_eq!(quota.full("b", &large), Some(QuotaFull::NoRoom { limit: Some((Lack::Requests, 10)), before: 0 }));
    assert_eq!(quota.full("c", &tiny), None);
    let mut waits = std::pin::pin!(quota.place("b", large.clone()));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(quota.full("c", &tiny), Some(QuotaFull::NoRoom { limit: None, before: 0 }), "it would take its room");
    quota.report("a", "a", JobUse { live: running(3), next_end: None, submission: Submission::None });
    waits.await;
    assert_eq!(quota.full("b", &large), None);
    assert!(quota.full("b", &batch("b", "m", 8)).is_some(), "the place is for another batch");
}

#[tokio::test]
async fn a_job_whose_priority_is_raised_while_it_waits_goes_first_and_each_knows_its_place() {
    let (quota, _) = quota(1);
    assert!(submits(&quota, "a", "ns"));
    quota.report("a", "ns", takes(1, Submission::None));
    let of = |priority, created| Applicant { priority, created, ..of("ns") };
    let (mut first, mut second) =
        (std::pin::pin!(quota.place("first", of(0, 100))), std::pin::pin!(quota.place("second", of(0, 200))));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    assert_eq!((quota.full("first", &of(0, 100)), quota.full("second", &of(0, 200))), (full_by(1, 0), full_by(1, 1)));
    assert_eq!(quota.full("second", &of(1, 200)), full_by(1, 0), "its spec changed");
    assert_eq!(quota.full("first", &of(0, 100)), full_by(1, 1));
    quota.report("a", "ns", takes(0, Submission::None));
    second.await;
    assert!((&mut first).now_or_never().is_none());
}

#[tokio::test]
async fn an_account_that_refuses_is_tried_with_what_it_has_and_its_use_is_reported_when_it_changes() {
    let (quota, now) = quota(100);
    quota.report("a", "ns", JobUse { live: live(3), next_end: Some(500_000), submission: Submission::None });
    assert!(submits(&quota, "b", "ns"));
    quota.learn("b", Load::default(), &[CapacityNews::Refused]);
    assert_eq!(quota.full("b", &of("ns")), full_by(3, 0));
    let usage = quota.usage();
    assert_eq!((usage.batches, usage.requests, usage.tokens, usage.tried), (3, 3, 3, Some(3)));
    now.store(60_000, Ordering::Relaxed);
    assert!(quota.is_to_be_reported());
    let usage = quota.usage();
    assert_eq!(usage.tried, Some(4), "one more is tried");
    assert!(!quota.reports(&usage) && quota.reports(&usage));
    now.store(120_000, Ordering::Relaxed);
    assert!(!quota.is_to_be_reported(), "nothing changed");
    assert_eq!(quota.full("b", &of("ns")), None);
    quota.report("a", "ns", takes(2, Submission::None));
    now.store(130_000, Ordering::Relaxed);
    assert!(quota.is_to_be_reported());
    quota.report("a", "ns", takes(1, Submission::None));
    now.store(150_000, Ordering::Relaxed);
    assert!(!quota.is_to_be_reported(), "a minute is not over");
    now.store(190_000, Ordering::Relaxed);
    assert!(quota.is_to_be_reported());
}
