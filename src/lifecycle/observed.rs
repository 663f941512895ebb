//! The observations that a decision is made on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::attempt::{AttemptKey, AttemptState, PartRef, Refusal, Rejection};
use super::journal::{Journal, Owner, Plan, Shard};
use super::shard_list::Shards;
use super::{Answers, Blocked, Short};
use crate::api::{
    BatchEnd, Capabilities, DeletionPolicy, ErrorSummary, Lock, Outcome, PinnedProvider, ProviderFilePolicy,
    RequestCounts, UnknownSubmissionPolicy,
};

/// The input of [`super::decide`]. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The clock, read once.
    pub now: i64,
    /// 128 fresh random bits in hex, for a new name.
    pub nonce: &'a str,
    /// Time limits.
    pub timing: &'a Timing,
    /// The live object, not a cache entry.
    pub job: &'a JobView,
    /// The journal, read after the object. None if there is none.
    pub journal: Option<&'a Journal>,
    /// The findings of this process so far.
    pub memory: &'a Memory,
}

/// Time limits, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Time from the live read of the object to the latest start of a POST.
    pub post_window: i64,
    /// Time from the start of a POST to its end, whatever its reply. Includes clock skew between replicas.
    pub send_timeout: i64,
    /// The longest time by which a provider's list lags behind its batches.
    pub listing_lag: i64,
    /// The longest time that a deletion waits for the provider or the storage. After it, the object is released with a warning.
    pub deletion_deadline: i64,
    /// The longest time that the batches of a job past its deadline may take to end. After it, they are given up on with a
    /// warning.
    pub abandon_after: i64,
}

impl Timing {
    /// Returns the time limit from the first byte of a POST to the last of its answer. The rest of `send_timeout` allows for
    /// clocks that differ between replicas.
    pub fn post_timeout(&self) -> Duration {
        Duration::from_millis((self.send_timeout * 3 / 4).max(1).unsigned_abs())
    }
}

/// The parts of a `BatchJob` that decisions need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobView {
    /// The object as a journal names its owner.
    pub owner: Owner,
    /// Time of the deletion request.
    pub deleting_since: Option<i64>,
    /// Whether the object has our finalizer.
    pub finalizer: bool,
    /// `spec.suspend`
    pub suspend: bool,
    /// [`super::spec_hash`] of the spec.
    pub spec_hash: String,
    /// The destination with its variables replaced.
    pub output_uri: String,
    /// `status.lock`
    pub lock: Option<Lock>,
    /// Number of shards that the journal has room for.
    pub shard_limit: usize,
    /// Number of settled shards that leave the journal's head together.
    pub seal_at: usize,
    /// `spec.parallelism`
    pub parallelism: usize,
    /// `spec.backoffLimitPerBatch`
    pub backoff_limit_per_batch: u32,
    /// `spec.backoffLimitPerRequest`
    pub backoff_limit_per_request: u32,
    /// `spec.maxFailedRequests`
    pub max_failed: Option<MaxFailed>,
    /// End of `spec.activeDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// `spec.pollPeriodSeconds`, in milliseconds.
    pub poll_period: i64,
    /// `spec.deletionPolicy`
    pub deletion_policy: DeletionPolicy,
    /// `spec.providerFilePolicy`
    pub provider_file_policy: ProviderFilePolicy,
    /// Whether `status.provider` is set, so that the job keeps the provider object.
    pub pinned: bool,
    /// The provider object. None if it does not exist.
    pub provider: Option<ProviderView>,
    /// Whether status says that a batch was submitted. Such a job is not new, even without a journal.
    pub submitted: bool,
    /// The batches that status names: the only record of them once the journal is gone.
    pub batches: Vec<String>,
    /// The id and plan of the work that status names: the only record of them once the journal is gone.
    pub remembered: Option<(String, Plan)>,
    /// Whether status says how the job ended and nothing asks for another look.
    pub finished: bool,
    /// Whether the job failed before anything was paid and is judged anew: earlier findings are dropped, and its time starts
    /// again.
    pub reevaluated: bool,
    /// Whether status says that nothing is left to tidy.
    pub tidy: bool,
    /// A person's answers to holds.
    pub answers: Answers,
    /// Keyed fingerprint of the credential at hand.
    pub fingerprint: String,
    /// The obstacle that stops the job although its spec is sound.
    pub blocked: Option<Blocked>,
    /// Whether that obstacle is a store that does not answer now.
    pub store_is_away: bool,
    /// Whether that obstacle is permanent: the missing object was in a namespace that is being deleted, which admits no new
    /// objects.
    pub is_lost: bool,
}

/// The provider object that a job refers to. For a pinned job, it is read after the job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderView {
    /// Name for messages, such as `BatchProvider 'llm'`.
    pub name: String,
    /// The value of `status.provider` for this provider.
    pub pin: PinnedProvider,
    /// Whether the object has our finalizer.
    pub kept: bool,
    /// Whether the provider object is being deleted.
    pub terminating: bool,
    /// Whether its host is the vendor's own, with no gateway in front that could repeat a POST.
    pub is_vendors_own: bool,
    /// `spec.unknownSubmissionPolicy`
    pub unknown_submission_policy: UnknownSubmissionPolicy,
    /// Capabilities of its type's batch API.
    pub capabilities: Capabilities,
}

impl Observed<'_> {
    /// Returns the capabilities of the provider's batch API. Without a provider object, those that demand the most proof.
    pub(super) fn capabilities(&self) -> Capabilities {
        self.job.provider.as_ref().map(|provider| provider.capabilities).unwrap_or_default()
    }
}

/// The limit of requests that end without an answer before the job gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaxFailed {
    /// A number of requests.
    Count(i64),
    /// A percentage of all requests.
    Percent(i64),
}

impl MaxFailed {
    /// Returns whether `failed` of `total` requests exceed the limit.
    pub fn is_exceeded(self, failed: i64, total: i64) -> bool {
        match self {
            MaxFailed::Count(limit) => failed > limit,
            MaxFailed::Percent(limit) => failed * 100 > limit * total,
        }
    }
}

/// The findings of this process about one job. They may be lost at any time; decisions then wait until they are made again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Keyed fingerprint of the credential under which the findings about the provider were made.
    pub fingerprint: String,
    /// The manifest at the destination. The outer None means that nobody has looked yet.
    pub manifest: Option<Option<ManifestView>>,
    /// Time of the last look for the manifest.
    pub manifest_at: Option<i64>,
    /// The work whose results are known to be marked as whole.
    pub marked: Option<String>,
    /// An object at the destination that has the name of a result file and belongs to other work.
    pub taken: Option<String>,
    /// The owner that the journal named, and whether it still exists.
    pub owner_alive: Option<(Owner, bool)>,
    /// The proof that the store refuses what a conditional write must refuse, or what it did instead.
    pub store_proved: Option<Result<(), String>>,
    /// The reason why the output's store, as addressed, can never do what is needed.
    pub unfit_store: Option<String>,
    /// The result of a pass over the input.
    pub pass: Option<Pass>,
    /// Uploaded input files, by attempt and content: a plan that replaces a dropped one numbers its attempts from 1 again.
    pub uploads: BTreeMap<(AttemptKey, String), String>,
    /// Uploads that the provider refused for their content, with its message, by attempt and content.
    pub unfit: BTreeMap<(AttemptKey, String), String>,
    /// The halves of a shard that is too large for the account.
    pub halved: Option<Halved>,
    /// Whether the account has a place for one more batch.
    pub place: Place,
    /// The intent whose permit this process holds.
    pub permit: Option<String>,
    /// Results of POSTs, by intent.
    pub posted: BTreeMap<String, Posted>,
    /// Results of searches for an intent's batches, by intent.
    pub searches: BTreeMap<String, Search>,
    /// Whether an input file is this work's and can be read with the current credential, by file.
    pub files: BTreeMap<String, bool>,
    /// Reasons why the fate of an intent cannot be found out, by intent: a call for it failed several times in a row.
    pub unsettled: BTreeMap<String, String>,
    /// Input files that are known to be gone after their deletion, with the time of that observation.
    pub revoked: BTreeMap<String, i64>,
    /// Whether the provider lists batches, and refuses a create on a deleted file.
    pub resolvable: Option<bool>,
    /// The last look at each batch.
    pub looks: BTreeMap<String, Polled>,
    /// Batches that need no further cancellation: it was requested, or the batch is not this work's, or it had ended.
    pub cancelled: BTreeSet<String>,
    /// The collected answers of each batch.
    pub collected: BTreeMap<String, Collected>,
    /// The number and shards of a possible later round.
    pub follow_up: Option<(u32, Shards)>,
    /// Files at the provider that need no further deletion: they were deleted, or are not this work's, or cannot be deleted.
    pub deleted: BTreeSet<String>,
    /// The result of deleting the staged files of a job that is being deleted.
    pub tidied: Option<Tidied>,
    /// Tasks that run, or that failed and wait for their next try.
    pub running: BTreeSet<Task>,
    /// Tasks whose last call failed, with the time of the next try (Unix milliseconds). Other tasks go first.
    pub failed_calls: BTreeMap<Task, i64>,
    /// Whether the last step that is not a task failed. While it fails, tasks are not put off in its favor.
    pub last_step_failed: bool,
    /// The message of a failure that lasts.
    pub error: Option<String>,
}

impl JobView {
    /// Returns the number of shards that a plan may have. A third of the room is reserved for later rounds.
    pub fn plan_limit(&self) -> usize {
        self.shard_limit / 3 * 2
    }
}

impl Memory {
    /// Returns whether the task runs for the first time. A task that failed before, and waits for or is at its next try, holds
    /// nothing else up.
    pub fn is_under_way(&self, task: Task) -> bool {
        self.running.contains(&task) && !self.failed_calls.contains_key(&task)
    }

    /// Marks the tasks that wait for their next try at `now` as running, so that they are not started early. Returns when the
    /// first of them is due (Unix milliseconds).
    pub fn hold_back(&mut self, now: i64) -> Option<i64> {
        let waiting = self.failed_calls.iter().filter(|(_, due)| now < **due);
        self.running.extend(waiting.clone().map(|(task, _)| *task));
        waiting.map(|(_, due)| *due).min()
    }

    /// Returns whether the provider rejected the batch as a whole, by the last look at it.
    pub fn is_turned_away(&self, batch_id: &str) -> bool {
        matches!(self.looks.get(batch_id).map(|l| &l.seen), Some(PolledState::Ended { rejected: Some(_), .. }))
    }

    /// Forgets the findings about shards that were sealed when `next` was `written` over `old`, so that memory does not grow
    /// with the job.
    pub fn forget_sealed(&mut self, old: &Journal, next: &Journal, written: &Journal) {
        let is_sealed = |index: usize| index < written.shards.next_planned() && written.shards.get(index).is_none();
        for (index, shard) in next.shards.entries().filter(|(index, _)| is_sealed(*index)) {
            // The names of the shard's files may be gone from `next` already.
            [old.shards.get(index), Some(shard)].into_iter().flatten().for_each(|shard| self.forget(index, shard));
        }
    }

    fn forget(&mut self, index: usize, shard: &Shard) {
        self.uploads.retain(|(attempt_key, _), _| attempt_key.shard != index);
        self.unfit.retain(|(attempt_key, _), _| attempt_key.shard != index);
        let Some(attempt) = &shard.attempt else { return };
        self.posted.remove(&attempt.intent_id);
        self.searches.remove(&attempt.intent_id);
        self.unsettled.remove(&attempt.intent_id);
        self.files.remove(attempt.payload.name());
        self.revoked.remove(attempt.payload.name());
        self.deleted.remove(attempt.payload.name());
        shard.files_left().for_each(|file| _ = self.deleted.remove(file));
        if let AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } = &attempt.state {
            self.looks.remove(batch_id);
            self.collected.remove(batch_id);
            self.cancelled.remove(batch_id);
        }
    }

    /// Forgets the findings that were made at the provider under another credential. That may belong to another account, where
    /// an empty search proves nothing.
    pub fn under(&mut self, fingerprint: &str) {
        if self.fingerprint == fingerprint {
            return;
        }
        self.fingerprint = fingerprint.into();
        self.uploads.clear();
        self.unfit.clear();
        self.unsettled.clear();
        self.searches.clear();
        self.files.clear();
        self.revoked.clear();
        self.resolvable = None;
        self.looks.clear();
        self.cancelled.clear();
        self.deleted.clear();
    }
}

/// A task that runs beside the steps and delays nothing else, however long it takes or fails: a long transfer, or a call about
/// one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Reading, checking and staging the input.
    Plan,
    /// Uploading a shard.
    Upload(AttemptKey),
    /// Fetching the answers of a batch.
    Collect(AttemptKey),
    /// Staging requests without an answer for another round.
    FollowUp,
    /// Staging the halves of the shard whose attempt was refused.
    Halve(AttemptKey),
    /// Joining parts into results.
    Write,
    /// Waiting for a place at the account.
    Place,
    /// Creating the batch of an attempt. While it runs, the permit is in use by this process alone.
    Post(AttemptKey),
    /// Finding out the fate of an attempt, and following its batch.
    Call(AttemptKey),
    /// Cancelling the batch of an attempt.
    Cancel(AttemptKey),
    /// Looking at another batch of the same submission, and cancelling it.
    CancelTwin(AttemptKey),
    /// Cancelling a batch that only status names.
    CancelUnjournaled,
    /// Deleting files at the provider that nobody needs any more.
    DeleteFiles,
}

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

/// A pass over the input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Hash of the spec that the pass was made for.
    pub spec_hash: String,
    /// The plan, or the error in the input.
    pub result: Result<Planned, String>,
}

/// The result of a pass over sound input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Planned {
    /// The work id under which shards were staged. None if only the hash was computed.
    pub staged: Option<String>,
    /// The value for the journal.
    pub plan: Plan,
    /// The value for the journal.
    pub shards: Shards,
}

/// The two halves of a shard, staged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Halved {
    /// The attempt that was refused for the whole shard.
    pub attempt_key: AttemptKey,
    /// SHA-256 of the whole shard.
    pub sha256: String,
    /// The halves for the journal, in the order of the requests.
    pub halves: [Shard; 2],
}

/// The result of a POST.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Posted {
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
pub struct Polled {
    /// Time of the look.
    pub at: i64,
    /// State of the batch.
    pub seen: PolledState,
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
pub struct Collected {
    /// The part.
    pub part: PartRef,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// Failed requests whose failure may pass.
    pub retryable: i64,
    /// Reasons why requests have no answer, by code.
    pub errors: Vec<ErrorSummary>,
    /// The provider's files of this batch whose whole content is in the part.
    pub files: Vec<String>,
    /// Set if the files may hold more at a later time.
    pub short: Option<Short>,
}

/// The result of deleting the staged files of a work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tidied {
    /// The work.
    pub work_id: String,
    /// The reason why some files are left.
    pub failed: Option<Untidy>,
}

/// The obstacle to deleting staged files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Untidy {
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
}
