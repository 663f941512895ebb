//! The findings of this process about a job: results of passes, calls and looks.

use super::attempt::{AttemptKey, PartRef, Refusal, Rejection};
use super::journal::Plan;
use super::shard::Shard;
use super::shard_list::Shards;
use super::step::Blocked;
use super::{ShortRead, UsageTotals};
use crate::api::{BatchEnd, BatchUsage, ErrorSummary, Outcome, RequestCounts, Spending};
use crate::money::Usd;

/// Whether an account has a place for one more batch of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// It has a place, or the job was given one.
    #[default]
    Free,
    /// Other jobs are submitting: a place is expected within moments.
    Soon,
    /// It has no place; the reason, for a person.
    Full(String),
}

/// The ledger's answer to a request to reserve the most that a batch can cost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReserveResult {
    /// The attempt that is to be made.
    pub attempt_key: AttemptKey,
    /// Revision of the journal on which the request was judged, or of the one that this process made of it since.
    pub rev: u64,
    /// Revision on which it was judged.
    pub judged: u64,
    /// The amount that was asked for.
    pub amount: Usd,
    /// Time at which the answer is over (Unix milliseconds): a batch counts in the period of its reservation.
    pub until: i64,
    /// Whether the amount is reserved, or the reason why it has to wait.
    pub outcome: Result<(), BudgetWait>,
}

/// A revision of the work's journal that the ledger knows. If the journal that is read again has no later one, an earlier journal was put
/// back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaterRevision {
    /// The revision that the journal has to exceed.
    pub past: u64,
    /// Revision of the journal that was put back, once the ledger counts all that was reserved on later ones.
    pub counted_after: Option<u64>,
}

/// The wait for a budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetWait {
    /// The budget that does not suffice, and when it is judged again.
    pub message: String,
    /// Set if it never suffices as it is.
    pub blocked: Option<Blocked>,
    /// The state of the ledger; another one may have room.
    pub state: u64,
}

/// A pass over the input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Hash of the spec that the pass was made for.
    pub spec_hash: String,
    /// The plan, or the error in the input.
    pub result: Result<PlanResult, String>,
}

/// The result of a pass over sound input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanResult {
    /// The work id under which shards were staged. None if only the hash was computed.
    pub staged: Option<String>,
    /// The value for the journal.
    pub plan: Plan,
    /// The value for the journal.
    pub shards: Shards,
}

/// The two halves of a shard, staged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HalveResult {
    /// The attempt that was refused for the whole shard.
    pub attempt_key: AttemptKey,
    /// SHA-256 of the whole shard.
    pub sha256: String,
    /// The halves for the journal, in the order of the requests.
    pub halves: [Shard; 2],
}

/// The result of a POST.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PostResult {
    /// The batch exists.
    Created(String),
    /// No batch exists: nothing was sent, or the vendor itself refused.
    Refused(Rejection),
    /// The server answered with an error that proves nothing: the batch may exist.
    Declined(Rejection),
    /// No usable answer came: the batch may exist.
    Unknown(String),
}

/// A search over all pages of the provider's list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Search {
    /// Start of the search.
    pub began: i64,
    /// Batches with the intent's metadata or file, oldest first. None if the list cannot be searched, which proves nothing.
    pub found: Option<Vec<String>>,
}

impl Search {
    /// Returns the batches that were found.
    pub fn batches(&self) -> &[String] {
        self.found.as_deref().unwrap_or_default()
    }
}

/// A look at a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PollResult {
    /// Time of the look.
    pub at: i64,
    /// State of the batch.
    pub seen: PolledState,
}

/// Times of a batch by the provider's record of it, in Unix seconds; 0 for what it does not tell. And whether it is about to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReportedTimes {
    /// Creation.
    pub created_at: i64,
    /// Completion.
    pub completed_at: i64,
    /// Expiry.
    pub expires_at: i64,
    /// Whether all requests are done, and the files with the answers are being written.
    pub is_finalizing: bool,
}

/// Times of a batch that looks at it showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeenTimes {
    /// Those that the provider reports.
    pub reported: ReportedTimes,
    /// Time of the first look that showed the batch as the last one did (Unix milliseconds).
    pub same_since: i64,
}

/// The state of a batch, as a look shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolledState {
    /// The provider does not know it, or not under this credential.
    NotFound,
    /// It exists, but nothing in it says that it belongs to this work.
    NotOurs,
    /// It is under way; unknown states count as under way.
    Running {
        /// The provider's word.
        state: String,
        /// Requests done so far, by the provider's count.
        done: i64,
    },
    /// It ended.
    Ended {
        /// How it ended.
        state: BatchEnd,
        /// Requests done, by the provider's count.
        done: i64,
        /// Set if the provider rejected the batch as a whole before any request ran.
        rejected: Option<(Refusal, String)>,
    },
    /// It ended, and the provider no longer has the answers that it names.
    Gone {
        /// How it ended.
        state: BatchEnd,
    },
    /// It ended, and names the file with its answers in an unusable way.
    Unnamed {
        /// How it ended.
        state: BatchEnd,
        /// The field, and its error.
        why: String,
    },
}

/// The collected answers of an ended batch. Its part is in storage and was read back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CollectResult {
    /// The part.
    pub part: PartRef,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// Failed requests whose failure may pass.
    pub retryable: i64,
    /// Tokens and kinds of answers.
    pub usage: BatchUsage,
    /// Input tokens above which a request is one with a long context in `usage`.
    pub long_context_above: Option<i64>,
    /// Lines that answer no request of the shard. They may have been billed, and are not in `usage`.
    pub foreign: i64,
    /// The totals of the tokens, if the provider reports its own.
    pub totals: Option<UsageTotals>,
    /// Reasons why requests have no answer, by code.
    pub errors: Vec<ErrorSummary>,
    /// The provider's files of this batch whose whole content is in the part.
    pub files: Vec<String>,
    /// Set if the files may hold more at a later time.
    pub short: Option<ShortRead>,
}

/// The result of deleting the staged files of a work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanUpResult {
    /// The work.
    pub work_id: String,
    /// The reason why some files are left.
    pub failed: Option<CleanUpFailure>,
}

/// The obstacle to deleting staged files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanUpFailure {
    /// For a person.
    pub message: String,
    /// Whether the obstacle may pass by itself.
    pub retryable: bool,
}

/// A manifest as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManifestView {
    /// The work whose results it lists.
    pub work_id: String,
    /// Identity of that work.
    pub work_hash: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Reason of the `Complete` condition.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// Time of the decision on the end.
    pub at: i64,
    /// The result set's files beside it: their names, and the ConfigMaps that hold them, if any do.
    pub files: Vec<(String, Option<String>)>,
    /// Reasons why requests have no answer.
    pub errors: Vec<ErrorSummary>,
    /// What the work used and cost.
    pub spending: Spending,
}
