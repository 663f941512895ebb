//! The steps that [`super::decide`] returns, and their messages.

use super::attempt::AttemptKey;
use super::findings::ManifestView;
use super::journal::{Journal, Owner};
use super::task::Task;
use crate::api::{Hold, Lock, Outcome, WorkHashVersion};
use crate::money::{Billed, Terms, Unbilled, Usd};

/// One step of a job, with at most one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until `until` (Unix milliseconds), or until something changes.
    Wait {
        /// Time of the next look.
        until: Option<i64>,
        /// The reason for the wait.
        why: Waiting,
    },
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Remove our finalizer from the object.
    RemoveFinalizer {
        /// Batches that may still run and cost, for an event.
        abandoned: Option<String>,
        /// The reason why staged files are left behind, if any are, for the log.
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
    /// Find out whether the owner that the journal names still exists.
    FindOwner(Owner),
    /// Look whether what the job waits for before its input is read is there.
    LookForInput,
    /// Read and check the input; stage its shards under this work id, or only compute the hash.
    Plan {
        /// The work to stage for. None to compute only the hash.
        stage: Option<String>,
        /// The version of the hash: the hash to compare with may be of an earlier one.
        version: WorkHashVersion,
    },
    /// Create the journal if there is none.
    Open(Journal),
    /// Replace the journal that was judged.
    Swap(Journal),
    /// Replace the journal that was judged. Success is the permit to POST.
    WriteIntent {
        /// The journal with the intent.
        journal: Journal,
        /// The intent's id.
        intent_id: String,
    },
    /// Prove that the store enforces the conditions of conditional writes.
    ProveStore,
    /// Upload the shard of this index for this attempt.
    Upload(AttemptKey),
    /// Wait for the account to have a place for the batch of this attempt.
    WaitForPlace(AttemptKey),
    /// Reserve the most that the batch of this attempt can cost in the ledger of the provider's budgets.
    Reserve {
        /// The attempt.
        attempt_key: AttemptKey,
        /// The amount.
        amount: Usd,
        /// The terms from which the cost of the batch is computed once it ended.
        terms: Box<Terms>,
        /// The revision of this process's own reservation for the shard, which this one replaces.
        replaces: Option<u64>,
    },
    /// Write the cost of the attempt's batch to that ledger, in the place of what was reserved.
    SettleCost {
        /// The attempt.
        attempt_key: AttemptKey,
        /// The provider's answers; None for all that was reserved.
        billed: Option<Box<Billed>>,
    },
    /// End the work's reservations in that ledger.
    Release {
        /// Shards whose reservations end without cost.
        unbilled: Unbilled,
    },
    /// Count in full what that ledger reserved on later revisions than the journal's: an earlier journal was put back.
    SettleLater,
    /// Send the POST whose permit this process holds.
    Post(AttemptKey),
    /// Search the provider's list for the intent's batches.
    Search(AttemptKey),
    /// Find out whether the intent's input file can be read with the current credential.
    CheckFile(AttemptKey),
    /// Find out for this attempt whether the provider lists batches and refuses a create on a deleted file.
    Probe(AttemptKey),
    /// Delete the intent's input file and verify that it is gone.
    Revoke(AttemptKey),
    /// Look at the batch.
    Poll(AttemptKey),
    /// Look at another batch of the same submission.
    PollTwin {
        /// The attempt whose submission made it.
        attempt_key: AttemptKey,
        /// The batch's id at the provider.
        batch_id: String,
    },
    /// Cancel a batch.
    Cancel {
        /// The attempt whose submission made it.
        attempt_key: AttemptKey,
        /// Whether the journal records another batch of that submission.
        twin: bool,
        /// The batch's id at the provider.
        batch_id: String,
    },
    /// Cancel a batch that only status names, if its metadata says that it is this job's.
    CancelUnjournaled {
        /// The batch's id at the provider.
        batch_id: String,
    },
    /// Fetch the answers of a batch. While `patient`, a file that the provider does not have yet is waited for.
    Collect {
        /// The attempt whose batch it is.
        attempt_key: AttemptKey,
        /// Whether the provider's files may still appear.
        patient: bool,
    },
    /// Delete files at the provider that nobody needs any more.
    DeleteFiles {
        /// The files' ids at the provider.
        files: Vec<String>,
        /// The attempt that the file belongs to, if others may be under way.
        attempt_key: Option<AttemptKey>,
        /// Whether a file that stays could still become a batch. If so, its deletion is tried until it is gone.
        must: bool,
    },
    /// Stage the halves of the shard whose attempt was refused.
    Halve(AttemptKey),
    /// Stage requests without an answer for another round.
    FollowUp {
        /// The round's number.
        round: u32,
    },
    /// Write the answers of settled shards to where they are readable while the job runs.
    Publish,
    /// Join the parts and write results and manifest.
    Write,
    /// Mark the results as whole. The writer of the manifest may have died before it did so.
    WriteSuccess,
    /// Write the job's end to status.
    Conclude {
        /// The end.
        manifest: ManifestView,
        /// Whether the manifest is that of an earlier run.
        reused: bool,
    },
    /// Write to status that the job failed before anything was paid, and unlock the spec.
    Fail(Failure),
    /// End the tasks that run beside the loop, and forget the findings.
    EndTasks,
    /// Delete the staged files.
    CleanUp,
    /// Delete the object of a job that is over, if it is still the one that was judged.
    DeleteObject,
}

/// A failure that cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Failed, or Cancelled for a job that was told to stop.
    pub outcome: Outcome,
    /// CamelCase reason.
    pub reason: &'static str,
    /// The problem and its remedy.
    pub message: String,
}

impl Failure {
    /// Returns the failure of a job that nobody told to stop.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { outcome: Outcome::Failed, reason, message: message.into() }
    }
}

/// A problem that a person must fix. The job goes on by itself afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blocked {
    /// CamelCase reason.
    pub reason: &'static str,
    /// The problem and its remedy.
    pub message: String,
}

/// The reason for the wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Reason of the `Complete` condition.
    pub stage: &'static str,
    /// Questions to a person.
    pub holds: Vec<Hold>,
    /// The problem that a person must fix.
    pub blocked: Option<Blocked>,
    /// A message about the wait, such as the provider's, if no person has to act.
    pub note: Option<String>,
}

impl Step {
    /// Returns the step's name in metrics and logs.
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
            Step::LookForInput => "LookForInput",
            Step::Plan { .. } => "Plan",
            Step::Open(_) => "Open",
            Step::Swap(_) => "Swap",
            Step::WriteIntent { .. } => "WriteIntent",
            Step::ProveStore => "ProveStore",
            Step::Upload(_) => "Upload",
            Step::WaitForPlace(_) => "WaitForPlace",
            Step::Reserve { .. } => "Reserve",
            Step::SettleCost { .. } => "SettleCost",
            Step::Release { .. } => "Release",
            Step::SettleLater => "SettleLater",
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
            Step::Publish => "Publish",
            Step::Write => "Write",
            Step::WriteSuccess => "WriteSuccess",
            Step::EndTasks => "EndTasks",
            Step::Conclude { .. } => "Conclude",
            Step::Fail(_) => "Fail",
            Step::CleanUp => "CleanUp",
            Step::DeleteObject => "DeleteObject",
        }
    }

    /// Returns the task of a step that calls the provider, or writes to the ledger of its budgets, which runs beside further steps.
    /// Its failures delay steps about the same batch only.
    pub fn call(&self) -> Option<Task> {
        match self {
            Step::Search(attempt_key)
            | Step::CheckFile(attempt_key)
            | Step::Probe(attempt_key)
            | Step::Revoke(attempt_key)
            | Step::Poll(attempt_key) => Some(Task::Call(*attempt_key)),
            Step::WaitForPlace(_) => Some(Task::Place),
            Step::Reserve { .. } | Step::SettleLater => Some(Task::Reserve),
            Step::SettleCost { attempt_key, .. } => Some(Task::SettleCost(*attempt_key)),
            Step::Release { .. } => Some(Task::Release),
            Step::Post(attempt_key) => Some(Task::Post(*attempt_key)),
            Step::DeleteFiles { attempt_key, .. } => Some(attempt_key.map_or(Task::DeleteFiles, Task::Call)),
            Step::CancelUnjournaled { .. } => Some(Task::CancelUnjournaled),
            Step::Cancel { attempt_key, twin: false, .. } => Some(Task::Cancel(*attempt_key)),
            Step::Cancel { attempt_key, twin: true, .. } | Step::PollTwin { attempt_key, .. } => {
                Some(Task::CancelTwin(*attempt_key))
            }
            _ => None,
        }
    }
}
