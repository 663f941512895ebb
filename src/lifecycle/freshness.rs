//! How fresh a look has to be that a step is decided on.

use super::step::Step;

/// How old a look at the object and the journal may be that a step was decided on. An older look is as good as a slower hand: who
/// decided at once and acts late is no better off. So what may be acted on late may be decided on an old look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// What this process last read or wrote. The step only reads, or can be done again for nothing, or writes to the object, where
    /// the API server refuses it unless the object is still the one that was judged.
    Any,
    /// At most a second old, a write of this process's own included. The step replaces the journal that was judged, which the store
    /// refuses where it is another one; or it follows from what never changes again, such as a decided end.
    Recent,
    /// Made for this step: it pays, stops or deletes, or lets go of what nobody would look after.
    Now,
}

impl Step {
    /// How fresh the look has to be.
    pub fn freshness(&self) -> Freshness {
        match self {
            Step::Wait { .. }
            | Step::AddFinalizer
            | Step::Lock(_)
            | Step::Pin
            | Step::KeepProvider
            | Step::LookForManifest
            | Step::FindOwner(_)
            | Step::Pass { .. }
            | Step::ProveStore
            | Step::WaitForPlace
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
            | Step::Mark
            | Step::EndTasks => Freshness::Any,
            Step::Open(_)
            | Step::Swap(_)
            | Step::Conclude { .. }
            | Step::Tidy
            | Step::DeleteFiles { must: false, .. } => Freshness::Recent,
            Step::WriteIntent { .. }
            | Step::Post(_)
            | Step::Revoke(_)
            | Step::Cancel { .. }
            | Step::CancelUnjournaled { .. }
            | Step::DeleteFiles { must: true, .. }
            | Step::Fail(_)
            | Step::RemoveFinalizer { .. } => Freshness::Now,
        }
    }
}
