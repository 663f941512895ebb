//! Running batches of this cluster that may be orphans, which nobody follows.

use super::attempt::AttemptState;
use super::journal::Journal;
use super::observed::Timing;
use super::shard::Shard;
use crate::api::NEWEST_PROTOCOL_VERSION;

/// A running batch, as its metadata at the provider describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running<'a> {
    /// The provider's name for it.
    pub id: &'a str,
    /// The work that its metadata names.
    pub work_id: &'a str,
    /// The intent that its metadata names.
    pub intent_id: &'a str,
}

/// The times at which a batch appeared (Unix milliseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTimes {
    /// Time of creation by the provider's clock; 0 if the provider does not name it.
    pub created: i64,
    /// Time at which this process first saw it, by its own clock.
    pub first: i64,
}

/// The state of the BatchJob that a batch names, read after the batch was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder<'a> {
    /// No BatchJob has that name.
    Gone,
    /// Its journal cannot be read now.
    Unread,
    /// It exists.
    Here {
        /// Its journal; None if there is none.
        journal: Option<&'a Journal>,
        /// Sealed shards of that journal whose intent or batch is the one in question.
        sealed: &'a [Shard],
        /// Whether status names the batch; once the journal is gone, nothing else is known of it.
        named: bool,
        /// Whether the provider says that the batch of [`recorded_beside`] came of the same intent; None if nobody asked, or
        /// the answer cannot be had now.
        twin: Option<bool>,
    },
}

/// The verdict on a running batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// Somebody follows it, or is about to.
    Owned,
    /// Its record may still be on the way into a journal, or the list may be old.
    TooYoung,
    /// It cannot be judged now.
    Unknown,
    /// Nobody follows it, and nothing proves that nobody wants it; a person is shown the reason.
    Report(&'static str),
    /// A gateway made two batches of one submission, and the other one is recorded.
    Cancel {
        /// The recorded batch.
        recorded: String,
    },
}

/// Returns the age at which a batch is judged, in milliseconds. By then, a POST that was decided on when the batch appeared has
/// ended, the list shows what it made, and whoever resolves it has seen that.
fn patience(timing: &Timing) -> i64 {
    timing.post_window + timing.send_timeout + 2 * timing.listing_lag
}

/// Returns whether a batch has existed for long enough, by the provider's clock and by our own: either may be wrong.
pub fn is_old_enough(times: BatchTimes, now: i64, timing: &Timing) -> bool {
    now >= times.created.max(times.first) + patience(timing)
}

/// Returns the batch that the journal has for the intent of `batch`, if that is another one.
pub fn recorded_beside<'a>(journal: &'a Journal, sealed: &'a [Shard], batch: &Running) -> Option<&'a str> {
    if journal.work_id != batch.work_id || recorded(journal, sealed, batch.id).is_some() {
        return None;
    }
    match of_intent(journal, sealed, batch)? {
        AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, part: Some(_), .. } => {
            Some(batch_id)
        }
        _ => None,
    }
}

/// Returns the verdict on a running batch of this cluster.
pub fn orphan(batch: Running, times: BatchTimes, holder: Holder, now: i64, timing: &Timing) -> Orphan {
    if !is_old_enough(times, now, timing) {
        return Orphan::TooYoung;
    }
    let (journal, sealed, named, twin) = match holder {
        Holder::Gone => return Orphan::Report("there is no BatchJob of that name"),
        Holder::Unread => return Orphan::Unknown,
        Holder::Here { journal: Some(journal), .. } if journal.protocol_version > NEWEST_PROTOCOL_VERSION => {
            return Orphan::Unknown;
        }
        Holder::Here { journal, sealed, named, twin } => (journal, sealed, named, twin),
    };
    let Some(journal) = journal else {
        return match named {
            true => Orphan::Owned,
            false => Orphan::Report("that BatchJob has no journal, and its status does not name the batch"),
        };
    };
    if journal.work_id != batch.work_id {
        return Orphan::Report("that BatchJob has other work now");
    }
    if let Some(recorded) = recorded_beside(journal, sealed, &batch) {
        return match twin {
            Some(true) => Orphan::Cancel { recorded: recorded.into() },
            Some(false) => Orphan::Report(
                "another batch is recorded for its submission, and the provider does not confirm that one",
            ),
            None => Orphan::Unknown,
        };
    }
    match recorded(journal, sealed, batch.id).or_else(|| of_intent(journal, sealed, &batch)) {
        Some(AttemptState::Abandoned { .. }) => Orphan::Report(
            "it did not end when the time of its job was over, and the job ended without it; it may still run and cost",
        ),
        Some(AttemptState::Settled { part: None, .. }) => {
            Orphan::Report("the answers of its submission were given up on a person's word")
        }
        Some(AttemptState::Revoked { .. } | AttemptState::Refused { .. }) | None => {
            Orphan::Report("the journal of that BatchJob says that nothing came of its submission, or has it no longer")
        }
        Some(_) => Orphan::Owned,
    }
}

/// Returns whether the shard has the intent or the id of the batch, so that it is needed to judge the batch.
pub fn concerns(shard: &Shard, batch: &Running) -> bool {
    let attempt = shard.attempt.as_ref();
    attempt.is_some_and(|a| a.intent_id == batch.intent_id || is_of(&a.state, batch.id))
}

fn states<'a>(journal: &'a Journal, sealed: &'a [Shard]) -> impl Iterator<Item = (&'a str, &'a AttemptState)> {
    sealed.iter().chain(&journal.shards).filter_map(|s| s.attempt.as_ref()).map(|a| (a.intent_id.as_str(), &a.state))
}

fn of_intent<'a>(journal: &'a Journal, sealed: &'a [Shard], batch: &Running) -> Option<&'a AttemptState> {
    states(journal, sealed).find(|(intent, _)| *intent == batch.intent_id).map(|(_, state)| state)
}

/// Returns the state that records this batch, whatever the batch's metadata says: it may have been adopted by its file, or on a
/// person's word.
fn recorded<'a>(journal: &'a Journal, sealed: &'a [Shard], id: &str) -> Option<&'a AttemptState> {
    states(journal, sealed).map(|(_, state)| state).find(|state| is_of(state, id))
}

fn is_of(state: &AttemptState, id: &str) -> bool {
    match state {
        AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } => batch_id == id,
        AttemptState::Abandoned { batch_id } => batch_id.as_deref() == Some(id),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Attempt, Owner, PartRef, Payload, Refusal};

    const TIMING: Timing =
        Timing { post_window: 10, send_timeout: 45, listing_lag: 300, deletion_deadline: 1, abandon_after: 1 };
    const BATCH: Running = Running { id: "b2", work_id: "w", intent_id: "i" };
    const OLD: BatchTimes = BatchTimes { created: 0, first: 0 };
    const NOW: i64 = 1_000;

    fn shard(intent: &str, state: AttemptState) -> Shard {
        let attempt = Attempt { state, ..Attempt::intended(1, intent, Payload::file("f"), 0, "") };
        Shard { requests: 1, attempt: Some(attempt), ..Shard::default() }
    }

    fn journal(work_id: &str, shards: Vec<Shard>) -> Journal {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        Journal { shards: shards.into(), ..Journal::open(work_id.into(), owner, String::new()) }
    }

    fn submitted(id: &str) -> AttemptState {
        AttemptState::Submitted { batch_id: id.into(), at: 0 }
    }

    fn settled(id: &str, kept: bool) -> AttemptState {
        AttemptState::Settled {
            batch_id: id.into(),
            ended: "completed".into(),
            part: kept.then(|| PartRef { name: "p".into(), sha256: String::new() }),
            counts: Default::default(),
            usage: Default::default(),
            cost: None,
            retryable: 0,
            errors: vec![],
            files: vec![],
        }
    }

    fn states() -> Vec<AttemptState> {
        let mut all = vec![
            AttemptState::Intended,
            AttemptState::Revoking,
            AttemptState::Revoked { message: String::new() },
            AttemptState::Refused { refusal: Refusal::Capacity, message: String::new(), at: 0, retry_at: None },
        ];
        for id in ["b1", "b2"] {
            let abandoned = AttemptState::Abandoned { batch_id: Some(id.into()) };
            all.extend([submitted(id), settled(id, true), settled(id, false), abandoned]);
        }
        all.push(AttemptState::Abandoned { batch_id: None });
        all
    }

    fn id_of(state: &AttemptState) -> Option<(&str, bool)> {
        match state {
            AttemptState::Submitted { batch_id, .. } => Some((batch_id, true)),
            AttemptState::Settled { batch_id, part, .. } => Some((batch_id, part.is_some())),
            AttemptState::Abandoned { batch_id } => Some((batch_id.as_deref()?, false)),
            _ => None,
        }
    }

    /// All journals of two shards over all states, intents and works.
    fn journals() -> Vec<Journal> {
        let shards: Vec<Shard> =
            ["i", "other"].iter().flat_map(|i| states().into_iter().map(|s| shard(i, s))).collect();
        let mut all = vec![];
        for first in &shards {
            for second in &shards {
                // Two shards never share an intent, which is 128 random bits, or a batch.
                let intents = [first, second].map(|s| s.attempt.as_ref().unwrap());
                let ids = intents.map(|a| id_of(&a.state).map(|(id, _)| id));
                if intents[0].intent_id == "i" && intents[1].intent_id == "i" || ids[0].is_some() && ids[0] == ids[1] {
                    continue;
                }
                all.extend(["w", "other"].map(|work| journal(work, vec![first.clone(), second.clone()])));
            }
        }
        all
    }

    #[test]
    fn only_the_twin_of_a_recorded_batch_is_cancelled_and_what_a_journal_follows_is_left_alone() {
        let (mut cancelled, mut owned, mut reported) = (0, 0, 0);
        for journal in journals() {
            for twin in [None, Some(false), Some(true)] {
                let holder = Holder::Here { journal: Some(&journal), sealed: &[], named: false, twin };
                let verdict = orphan(BATCH, OLD, holder, NOW, &TIMING);
                let states: Vec<_> = super::states(&journal, &[]).collect();
                let ours = journal.work_id == "w";
                let kept = states.iter().any(|(_, s)| id_of(s) == Some(("b2", true)));
                let unresolved = |s: &AttemptState| matches!(s, AttemptState::Intended | AttemptState::Revoking);
                let in_flight = states.iter().any(|(i, s)| *i == "i" && unresolved(s));
                let named = states.iter().any(|(_, s)| id_of(s).is_some_and(|(id, _)| id == "b2"));
                let beside = states.iter().any(|(i, s)| *i == "i" && id_of(s) == Some(("b1", true)));
                let seen = format!("{twin:?} {journal:?}");
                let other = recorded_beside(&journal, &[], &BATCH);
                assert_eq!(other, (ours && beside && !named).then_some("b1"), "{seen}");
                // A sealed shard gives the same verdict.
                let head = Journal { shards: vec![journal.shards[1].clone()].into(), ..journal.clone() };
                let sealed: Vec<Shard> =
                    journal.shards.iter().take(1).filter(|s| concerns(s, &BATCH)).cloned().collect();
                let holder = Holder::Here { journal: Some(&head), sealed: &sealed, named: false, twin };
                assert_eq!(orphan(BATCH, OLD, holder, NOW, &TIMING), verdict, "{seen}");
                match verdict {
                    Orphan::Cancel { recorded } => {
                        assert!(ours && beside && !kept && twin == Some(true) && recorded == "b1", "{seen}");
                        cancelled += 1;
                    }
                    Orphan::Owned => {
                        assert!(ours && (kept || in_flight && !named), "{seen}");
                        owned += 1;
                    }
                    Orphan::Report(_) => {
                        assert!(!ours || !kept && (named || !in_flight), "{seen}");
                        reported += 1;
                    }
                    Orphan::Unknown => assert!(ours && beside && !kept && twin.is_none(), "{seen}"),
                    Orphan::TooYoung => panic!("{seen}"),
                }
            }
        }
        assert!(cancelled > 10 && owned > 100 && reported > 100, "{cancelled} {owned} {reported}");
    }

    #[test]
    fn a_batch_that_a_job_ended_without_is_reported_as_that() {
        let abandoned = |batch_id: Option<&str>| AttemptState::Abandoned { batch_id: batch_id.map(String::from) };
        for state in [abandoned(Some("b2")), abandoned(None)] {
            let journal = journal("w", vec![shard("i", state)]);
            let holder = Holder::Here { journal: Some(&journal), sealed: &[], named: false, twin: None };
            let Orphan::Report(why) = orphan(BATCH, OLD, holder, NOW, &TIMING) else { panic!("nobody is told") };
            assert!(why.contains("the job ended without it; it may still run and cost"), "{why}");
        }
    }

    #[test]
    fn a_young_batch_is_never_judged_by_either_clock() {
        let patience = patience(&TIMING);
        assert_eq!(patience, 655);
        let settled = journal("w", vec![shard("i", submitted("b1"))]);
        let twin = Holder::Here { journal: Some(&settled), sealed: &[], named: false, twin: Some(true) };
        for holder in [Holder::Gone, twin] {
            for (created, first) in [(0, 1), (1, 0), (1, 1)] {
                let young = orphan(BATCH, BatchTimes { created, first }, holder, patience, &TIMING);
                assert_eq!(young, Orphan::TooYoung, "{created} {first}");
                let old = orphan(BATCH, BatchTimes { created, first }, holder, patience + 1, &TIMING);
                assert_ne!(old, Orphan::TooYoung, "{created} {first}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        assert_eq!(orphan(BATCH, OLD, Holder::Unread, NOW, &TIMING), Orphan::Unknown);
        let newer = Journal { protocol_version: NEWEST_PROTOCOL_VERSION + 1, ..journal("other", vec![]) };
        let holder = Holder::Here { journal: Some(&newer), sealed: &[], named: false, twin: Some(true) };
        assert_eq!(orphan(BATCH, OLD, holder, NOW, &TIMING), Orphan::Unknown);
    }

    #[test]
    fn without_a_journal_status_has_the_word() {
        let here = |named| Holder::Here { journal: None, sealed: &[], named, twin: None };
        assert_eq!(orphan(BATCH, OLD, here(true), NOW, &TIMING), Orphan::Owned);
        assert!(matches!(orphan(BATCH, OLD, here(false), NOW, &TIMING), Orphan::Report(_)));
        assert!(matches!(orphan(BATCH, OLD, Holder::Gone, NOW, &TIMING), Orphan::Report(_)));
    }
}
