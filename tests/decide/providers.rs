//! Providers that are kept, and that go.

use super::*;

/// A job that is about to send its only shard.
fn about_to_send() -> (Journal, Memory) {
    let mut memory = memory();
    memory.uploads.insert((AttemptKey { shard: 0, attempt: 1 }, "s".into()), "file-1".into());
    (journal(owner("j", "u"), None), memory)
}

#[test]
fn before_an_intent_the_provider_is_pinned_and_then_kept() {
    let (journal, memory) = about_to_send();
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }));
    let unkept = with_provider(|p| p.kept = false);
    assert_eq!(step(&unkept, Some(&journal), &memory), Step::KeepProvider);
    assert_eq!(step(&JobView { pinned: false, ..unkept }, Some(&journal), &memory), Step::Pin);
}

#[test]
fn a_provider_that_goes_takes_no_new_job_and_lets_those_with_an_intent_go_on() {
    let terminating = with_provider(|p| p.terminating = true);
    let stalled = |job: &JobView, journal: Option<&Journal>, memory: &Memory| match step(job, journal, memory) {
        Step::Wait { why, .. } => why.blocked.map(|s| s.reason),
        _ => None,
    };
    let (unsent, memory) = about_to_send();
    assert_eq!(stalled(&terminating, Some(&unsent), &memory), Some("ProviderTerminating"));
    let new = JobView { lock: None, pinned: false, submitted: false, ..terminating.clone() };
    assert_eq!(stalled(&new, None, &Memory::default()), Some("ProviderTerminating"));
    let mut half_sent = journal(owner("j", "u"), submitted());
    half_sent.shards.push(Shard { sha256: "t".into(), ..shard(None) });
    let mut memory = searched(memory);
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 1 }, "t".into()), "file-2".into());
    memory
        .looks
        .insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::Running { state: "x".into(), done: 0 } });
    assert!(matches!(step(&terminating, Some(&half_sent), &memory), Step::WriteIntent { .. }), "it goes on to its end");
}

#[test]
fn a_job_without_an_intent_lets_go_of_a_provider_that_goes_and_one_with_an_intent_does_not() {
    let terminating = with_provider(|p| p.terminating = true);
    let memory = memory();
    let pinned = |job: &JobView, journal: &Journal| {
        let observed = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory: &memory };
        let old = BatchJobStatus { provider: Some(provider().pin), ..Default::default() };
        let step = Step::Wait { until: None, why: Waiting { stage: "Pending", ..Default::default() } };
        project(&observed, &old, None, &step).unwrap().provider.is_some()
    };
    assert!(!pinned(&terminating, &journal(owner("j", "u"), None)));
    assert!(pinned(&terminating, &journal(owner("j", "u"), submitted())));
    assert!(pinned(&job(), &journal(owner("j", "u"), None)));
}
