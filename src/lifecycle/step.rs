//! The steps that a decision can be, and what they say.

use super::attempt::Slot;
use super::journal::{Journal, Owner};
use super::observed::{ManifestView, Task};
use crate::api::{Hold, Lock, WorkHashVersion};

/// One thing to do; at most one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before `until` (Unix milliseconds), or before something changes.
    Wait {
        /// When to look again.
        until: Option<i64>,
        /// What is waited for.
        why: Waiting,
    },
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Let the object go.
    RemoveFinalizer {
        /// What may still run and cost, for an event.
        abandoned: Option<String>,
        /// Why what was staged is left behind, if it is, for the log.
        untidy: Option<String>,
    },
    /// Lock the spec and pin the provider in status, if the object is still the one that was judged.
    Lock(Lock),
    /// Pin the provider in status, if the object is still the one that was judged.
    Pin,
    /// Put our in-use finalizer on the provider object.
    KeepProvider,
    /// Look for a manifest at the destination.
    LookForManifest,
    /// See whether the owner that the journal names still exists.
    FindOwner(Owner),
    /// Read and check the input; stage its shards under this work id, or only compute the hash.
    Pass {
        /// The work to stage for.
        stage: Option<String>,
        /// The version of the hash: what it is compared with may be from before.
        version: WorkHashVersion,
    },
    /// Create the journal if there is none.
    Open(Journal),
    /// Replace the journal that was judged.
    Swap(Journal),
    /// Replace the journal that was judged; success is the permit to POST.
    WriteIntent {
        /// With the intent.
        journal: Journal,
        /// The intent's id.
        intent_id: String,
    },
    /// See whether the store keeps the conditions of conditional writes.
    ProveStore,
    /// Upload the shard of this index for this attempt.
    Upload(Slot),
    /// Wait for the account to have a place for one more batch.
    WaitForPlace,
    /// Send the POST that this process holds the permit for.
    Post(Slot),
    /// Search the provider's list for the intent's batches.
    Search(Slot),
    /// See whether the intent's input file answers to the credential at hand.
    CheckFile(Slot),
    /// See whether the provider lists batches and refuses a create on a deleted file, for this attempt.
    Probe(Slot),
    /// Delete the intent's input file and see that it is gone.
    Revoke(Slot),
    /// Look at the batch.
    Poll(Slot),
    /// Look at another batch of its submission.
    PollTwin {
        /// The attempt whose submission made it.
        slot: Slot,
        /// The provider's name for it.
        batch_id: String,
    },
    /// Tell a batch to stop.
    Cancel {
        /// The attempt whose submission made it.
        slot: Slot,
        /// Whether another one is recorded.
        twin: bool,
        /// The provider's name for it.
        batch_id: String,
    },
    /// Tell a batch that only status names to stop, if it says itself that it is this job's.
    CancelUnjournaled {
        /// The provider's name for it.
        batch_id: String,
    },
    /// Fetch what came back. While `patient`, a batch whose files hold less than it counts is asked again.
    Collect {
        /// Of which batch.
        slot: Slot,
        /// Whether the provider may still make up its mind.
        patient: bool,
    },
    /// Delete files at the provider that nobody needs any more.
    DeleteFiles {
        /// The provider's names for them.
        files: Vec<String>,
        /// The attempt that one is of, where others may be under way.
        slot: Option<Slot>,
        /// Whether a batch could come of one that stays, so that it is tried until it is gone.
        must: bool,
    },
    /// Stage the halves of the shard that this attempt was refused for.
    Halve(Slot),
    /// Stage what has no answer for another round.
    FollowUp {
        /// Its number.
        round: u32,
    },
    /// Join the parts and write results and manifest.
    Write,
    /// Mark the results as whole: whoever wrote the manifest may have died before.
    Mark,
    /// Say in status how it ended.
    Conclude {
        /// The end.
        manifest: ManifestView,
        /// Whether it is the end of an earlier run.
        reused: bool,
    },
    /// Say in status that it failed before anything was paid, and unlock the spec.
    Fail(Failure),
    /// End what runs beside the loop, and forget what was found out.
    EndTasks,
    /// Delete what was staged.
    Tidy,
}

/// A failure that cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// CamelCase reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Something that a person must mend; the job goes on by itself once it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stuck {
    /// CamelCase reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Reason of the `Complete` condition.
    pub stage: &'static str,
    /// Questions to a person.
    pub holds: Vec<Hold>,
    /// What a person must mend.
    pub stuck: Option<Stuck>,
    /// What the other side said about it, where nobody has to do anything.
    pub note: Option<String>,
}

impl Step {
    /// As metrics and logs name it.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Wait { .. } => "Wait",
            Step::AddFinalizer => "AddFinalizer",
            Step::RemoveFinalizer { .. } => "RemoveFinalizer",
            Step::Lock(_) => "Lock",
            Step::Pin => "Pin",
            Step::KeepProvider => "KeepProvider",
            Step::LookForManifest => "LookForManifest",
            Step::FindOwner(_) => "FindOwner",
            Step::Pass { .. } => "Pass",
            Step::Open(_) => "Open",
            Step::Swap(_) => "Swap",
            Step::WriteIntent { .. } => "WriteIntent",
            Step::ProveStore => "ProveStore",
            Step::Upload(_) => "Upload",
            Step::WaitForPlace => "WaitForPlace",
            Step::Post(_) => "Post",
            Step::Search(_) => "Search",
            Step::CheckFile(_) => "CheckFile",
            Step::Probe(_) => "Probe",
            Step::Revoke(_) => "Revoke",
            Step::Poll(_) => "Poll",
            Step::PollTwin { .. } => "PollTwin",
            Step::Cancel { .. } => "Cancel",
            Step::CancelUnjournaled { .. } => "CancelUnjournaled",
            Step::Collect { .. } => "Collect",
            Step::DeleteFiles { .. } => "DeleteFiles",
            Step::FollowUp { .. } => "FollowUp",
            Step::Halve(_) => "Halve",
            Step::Write => "Write",
            Step::Mark => "Mark",
            Step::EndTasks => "EndTasks",
            Step::Conclude { .. } => "Conclude",
            Step::Fail(_) => "Fail",
            Step::Tidy => "Tidy",
        }
    }

    /// The call at the provider that the step is, which runs beside further steps. Its failures hold up what is done about the
    /// same batch, and nothing else.
    pub fn call(&self) -> Option<Task> {
        match self {
            Step::Search(slot) | Step::CheckFile(slot) | Step::Probe(slot) | Step::Revoke(slot) | Step::Poll(slot) => {
                Some(Task::Call(*slot))
            }
            Step::WaitForPlace => Some(Task::Place),
            Step::Post(slot) => Some(Task::Post(*slot)),
            Step::DeleteFiles { slot, .. } => Some(slot.map_or(Task::DeleteFiles, Task::Call)),
            Step::CancelUnjournaled { .. } => Some(Task::CancelUnjournaled),
            Step::Cancel { slot, twin: false, .. } => Some(Task::Cancel(*slot)),
            Step::Cancel { slot, twin: true, .. } | Step::PollTwin { slot, .. } => Some(Task::CancelTwin(*slot)),
            _ => None,
        }
    }
}
