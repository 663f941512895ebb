//! What becomes of a lost reply, by what the provider can do.

use batchjob_operator::api::{Capabilities, PayloadKind, Recovery, Revocation};

use super::*;

fn at(recovery: Recovery, revocation: Revocation) -> JobView {
    let capabilities = Capabilities { payload: PayloadKind::Inline, recovery, revocation };
    JobView { provider: Some(ProviderView { capabilities, ..provider() }), ..job() }
}

fn unsearched() -> Memory {
    Memory { searches: Default::default(), ..memory() }
}

fn lost(repeats: i64) -> Journal {
    let mut journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let attempt = journal.shards[0].attempt.as_mut().unwrap();
    (attempt.payload, attempt.repeats, attempt.post_by) = (Payload::Inline {}, repeats, NOW - 1_000_000);
    journal
}

/// Given a token that makes no second batch, when the reply was lost, then the same intent is written anew, with a later last
/// moment, and its POST is sent again under the permit for that.
#[test]
fn a_lost_reply_is_asked_for_again_with_the_same_token() {
    let job = at(Recovery::RepeatedPost, Revocation::NotNeeded);
    let before = lost(0);
    let intent = before.shards[0].attempt.clone().unwrap();
    let Step::WriteIntent { journal, intent_id } = step(&job, Some(&before), &unsearched()) else {
        panic!("no intent")
    };
    let again = journal.shards[0].attempt.clone().unwrap();
    assert_eq!((&intent_id, &again.intent_id, again.repeats), (&intent.intent_id, &intent.intent_id, 1));
    assert!(again.post_by > NOW && again.number == intent.number);
    let told = PostResult::Unknown("reset".into());
    let mut memory = Memory { permit: Some(intent_id.clone()), ..unsearched() };
    memory.posted.insert(intent_id, told);
    assert_eq!(step(&job, Some(&journal), &memory), Step::Post(AttemptKey { shard: 0, attempt: 1 }));
}

#[test]
fn a_refusal_of_a_repeated_post_is_no_proof_and_a_person_is_asked_after_three() {
    let job = at(Recovery::RepeatedPost, Revocation::NotNeeded);
    for (repeats, asked) in [(1, false), (3, true)] {
        let journal = lost(repeats);
        let mut memory = unsearched();
        let refused = PostResult::Refused(Rejection::new(Refusal::Capacity, "no room"));
        memory.posted.insert(journal.shards[0].attempt.as_ref().unwrap().intent_id.clone(), refused);
        let Step::WriteIntent { journal: next, .. } = step(&job, Some(&journal), &memory) else { panic!("{repeats}") };
        assert_eq!(next.shards[0].attempt.as_ref().unwrap().state, AttemptState::Intended);
        // Right after the POST nothing is due but to wait.
        let mut soon = journal.clone();
        soon.shards[0].attempt.as_mut().unwrap().post_by = NOW;
        let Step::Wait { why, .. } = step(&job, Some(&soon), &memory) else { panic!("{repeats}") };
        assert_eq!(why.holds.len(), usize::from(asked), "{repeats}");
    }
}

/// Given a provider that shows nothing, or whose names are not unique, when a reply was lost, then a person is asked.
#[test]
fn where_nothing_is_shown_and_nothing_revoked_a_person_is_asked() {
    for (recovery, revocation, words) in [
        (Recovery::Nothing, Revocation::Nothing, "shows nothing"),
        (Recovery::Nothing, Revocation::DeletedPayload, "shows nothing"),
        (Recovery::ChosenName, Revocation::Nothing, "nothing takes the right"),
        (Recovery::Metadata, Revocation::NotNeeded, "nothing takes the right"),
    ] {
        let journal = lost(0);
        let intent = journal.shards[0].attempt.as_ref().unwrap().intent_id.clone();
        let mut memory = memory();
        memory.searches.insert(intent, Search { began: NOW, found: Some(vec![]) });
        let Step::Wait { why, .. } = step(&at(recovery, revocation), Some(&journal), &memory) else {
            panic!("{recovery:?}, {revocation:?}")
        };
        assert!(why.holds[0].message.contains(words), "{recovery:?}, {revocation:?}: {}", why.holds[0].message);
    }
}

#[test]
fn requests_that_go_inline_are_not_uploaded() {
    let job = at(Recovery::Nothing, Revocation::Nothing);
    let journal = journal(owner("j", "u"), None);
    let Step::WriteIntent { journal, .. } = step(&job, Some(&journal), &memory()) else { panic!("no intent") };
    assert_eq!(journal.shards[0].attempt.as_ref().unwrap().payload, Payload::Inline {});
}
