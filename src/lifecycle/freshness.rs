//! The freshness that a step demands of the look that it was decided on.

use super::step::Step;

/// The greatest age of the look at the object and the journal that a step was decided on. Deciding on an older look equals
/// deciding at once and acting late. So a step that may be executed late may be decided on an old look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// What this process last read or wrote. The step only reads, or can be done again for nothing, or writes to the object, where
    /// the API server refuses it unless the object is still the one that was judged.
    Any,
    /// At most a second old, a write of this process's own included. The step replaces the journal that was judged, which the store
    /// refuses where it is another one; or it follows from what never changes again, such as a decided end; or it writes files that
    /// nobody would delete once the job has ended.
    Recent,
    /// Made for this step: it pays, stops or deletes, or releases an object that no later visit would look after.
    Now,
}

impl Step {
    /// Returns the freshness that the step demands.
    pub fn freshness(&self) -> Freshness {
        match self {
            Step::Wait { .. }
            | Step::AddFinalizer
            | Step::Lock(_)
            | Step::Pin
            | Step::KeepProvider
            | Step::LookForManifest
            | Step::FindOwner(_)
            | Step::LookForInput
            | Step::Plan { .. }
            | Step::ProveStore
            | Step::WaitForPlace(_)
            | Step::Reserve { .. }
            | Step::SettleCost { .. }
            | Step::Release { .. }
            | Step::Upload(_)
            | Step::Search(_)
            | Step::CheckFile(_)
            | Step::Probe(_)
            | Step::Poll(_)
            | Step::PollTwin { .. }
            | Step::Collect { .. }
            | Step::FollowUp { .. }
            | Step::Halve(_)
            | Step::Write
            | Step::WriteSuccess
            | Step::EndTasks => Freshness::Any,
            Step::Open(_)
            | Step::Swap(_)
            | Step::Conclude { .. }
            | Step::Publish
            | Step::CleanUp
            | Step::DeleteFiles { must: false, .. } => Freshness::Recent,
            Step::WriteIntent { .. }
            | Step::SettleLater
            | Step::Post(_)
            | Step::Revoke(_)
            | Step::Cancel { .. }
            | Step::CancelUnjournaled { .. }
            | Step::DeleteFiles { must: true, .. }
            | Step::Fail(_)
            | Step::DeleteObject
            | Step::RemoveFinalizer { .. } => Freshness::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AttemptKey, Journal, Owner};
    use super::*;

    #[test]
    fn what_pays_stops_deletes_or_lets_go_is_decided_on_a_look_that_was_made_for_it() {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let journal = Journal::open("w".into(), owner, "s".into());
        let attempt_key = AttemptKey { shard: 0, attempt: 1 };
        let delete = |must| Step::DeleteFiles { files: vec!["f".into()], attempt_key: Some(attempt_key), must };
        let pays = [Step::WriteIntent { journal: journal.clone(), intent_id: "i".into() }, Step::Post(attempt_key)];
        let destroys = [
            Step::Cancel { attempt_key, twin: false, batch_id: "b".into() },
            Step::Cancel { attempt_key, twin: true, batch_id: "b".into() },
            Step::CancelUnjournaled { batch_id: "b".into() },
            Step::Revoke(attempt_key),
            delete(true),
            Step::RemoveFinalizer { abandoned: None, untidy: None },
            Step::DeleteObject,
        ];
        for step in pays.into_iter().chain(destroys) {
            assert_eq!(step.freshness(), Freshness::Now, "{step:?}");
        }
        for step in [Step::Open(journal.clone()), Step::Swap(journal), Step::CleanUp, delete(false)] {
            assert_eq!(step.freshness(), Freshness::Recent, "{step:?}");
        }
        for step in [Step::Poll(attempt_key), Step::Search(attempt_key), Step::Upload(attempt_key), Step::Write] {
            assert_eq!(step.freshness(), Freshness::Any, "{step:?}");
        }
    }
}
