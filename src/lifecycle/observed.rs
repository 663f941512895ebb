//! What a decision is made on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::attempt::{AttemptState, PartRef, Refusal, Rejection, Slot};
use super::journal::{Journal, Owner, Plan, Shard};
use super::shard_list::Shards;
use super::{Answers, Short, Stuck};
use crate::api::{
    BatchEnd, Capabilities, DeletionPolicy, ErrorSummary, Lock, Outcome, PinnedProvider, ProviderFilePolicy,
    RequestCounts, UnknownSubmissionPolicy,
};

/// Everything that [`super::decide`] may look at. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The clock, read once.
    pub now: i64,
    /// 128 fresh random bits in hex, for whatever needs a new name.
    pub nonce: &'a str,
    /// How long things may take.
    pub timing: &'a Timing,
    /// The live object, not a cache entry.
    pub job: &'a JobView,
    /// The journal, read after the object; None: there is none.
    pub journal: Option<&'a Journal>,
    /// What this process found out so far.
    pub memory: &'a Memory,
}

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// From the live read of the object to the latest start of a POST.
    pub post_window: i64,
    /// From the start of a POST to its end, whatever comes back; clock skew between replicas included.
    pub send_timeout: i64,
    /// How long a provider's list may lag behind its batches.
    pub listing_lag: i64,
    /// How long a deletion waits for the provider or the storage before it lets go, loudly.
    pub deletion_deadline: i64,
    /// How long the batches of a job whose deadline is over may take to end before they are given up on, loudly.
    pub abandon_after: i64,
}

impl Timing {
    /// From the first byte of a POST to the last of its answer. The rest of `send_timeout` is for clocks that differ between
    /// replicas.
    pub fn post_timeout(&self) -> Duration {
        Duration::from_millis((self.send_timeout * 3 / 4).max(1).unsigned_abs())
    }
}

/// The parts of a `BatchJob` that decisions need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobView {
    /// The object as a journal names its owner.
    pub owner: Owner,
    /// When deletion was asked for.
    pub deleting_since: Option<i64>,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// `spec.suspend`
    pub suspend: bool,
    /// [`super::spec_hash`] of the spec.
    pub spec_hash: String,
    /// The destination, variables replaced.
    pub output_uri: String,
    /// `status.lock`
    pub lock: Option<Lock>,
    /// Shards that the journal has room for.
    pub shard_limit: usize,
    /// Settled shards that leave the journal's head together.
    pub seal_at: usize,
    /// `spec.parallelism`
    pub parallelism: usize,
    /// `spec.backoffLimitPerBatch`
    pub backoff_limit_per_batch: u32,
    /// `spec.backoffLimitPerRequest`
    pub backoff_limit_per_request: u32,
    /// `spec.maxFailedRequests`
    pub max_failed: Option<MaxFailed>,
    /// When `spec.activeDeadlineSeconds` are over.
    pub deadline: Option<i64>,
    /// `spec.pollPeriodSeconds`, in milliseconds.
    pub poll_period: i64,
    /// `spec.deletionPolicy`
    pub deletion_policy: DeletionPolicy,
    /// `spec.providerFilePolicy`
    pub provider_file_policy: ProviderFilePolicy,
    /// Whether `status.provider` is set, so that the provider object is not let go.
    pub pinned: bool,
    /// The provider object; None where it is not there.
    pub provider: Option<ProviderView>,
    /// Status says that a batch was submitted: without a journal that is no new job.
    pub submitted: bool,
    /// Batches that status names: all that is known of them once the journal is gone.
    pub batches: Vec<String>,
    /// The work that status names: its id, and what was planned. All that is known of it once the journal is gone.
    pub remembered: Option<(String, Plan)>,
    /// Status says how it ended, and nothing asks for another look.
    pub finished: bool,
    /// Status says how it failed before anything was paid, and it is judged anew: what was found out before is of no use, and its
    /// time begins anew.
    pub mended: bool,
    /// Status says that nothing is left to tidy.
    pub tidy: bool,
    /// What a person answered to holds.
    pub answers: Answers,
    /// Keyed fingerprint of the credential at hand.
    pub fingerprint: String,
    /// What keeps the job from going on although the spec is sound.
    pub stuck: Option<Stuck>,
    /// Whether that is a store that does not answer now.
    pub store_is_away: bool,
    /// Whether nobody can mend that any more: what is missing was in a namespace that is being deleted, and lets nothing in.
    pub is_lost: bool,
}

/// The provider object that a job refers to, read after a job that was already pinned, if it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderView {
    /// For messages, such as `BatchProvider 'llm'`.
    pub name: String,
    /// What `status.provider` has to say of it.
    pub pin: PinnedProvider,
    /// Whether our finalizer is on it.
    pub kept: bool,
    /// Whether it is being deleted.
    pub going: bool,
    /// Whether its host is the vendor's own, so that no gateway in front repeats a POST.
    pub is_vendors_own: bool,
    /// `spec.unknownSubmissionPolicy`
    pub unknown_submission_policy: UnknownSubmissionPolicy,
    /// What the batch API of its type can do.
    pub capabilities: Capabilities,
}

impl Observed<'_> {
    /// What the provider's batch API can do. Where the provider object is not there, what wants the most proof.
    pub(super) fn capabilities(&self) -> Capabilities {
        self.job.provider.as_ref().map(|provider| provider.capabilities).unwrap_or_default()
    }
}

/// How many requests may end without an answer before the job gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaxFailed {
    /// So many.
    Count(i64),
    /// So many of a hundred.
    Percent(i64),
}

impl MaxFailed {
    /// Whether `failed` of `total` are too many.
    pub fn is_exceeded(self, failed: i64, total: i64) -> bool {
        match self {
            MaxFailed::Count(limit) => failed > limit,
            MaxFailed::Percent(limit) => failed * 100 > limit * total,
        }
    }
}

/// What this process found out about one job. It may vanish at any time: nothing in it is needed to be right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Keyed fingerprint of the credential that what is known of the provider was found out under.
    pub fingerprint: String,
    /// What lies at the destination: None, not looked yet.
    pub manifest: Option<Option<ManifestView>>,
    /// When that was looked for.
    pub manifest_at: Option<i64>,
    /// The work whose results were seen to be marked as whole.
    pub marked: Option<String>,
    /// What lies at the destination under the name of a result file, and is not this work's.
    pub taken: Option<String>,
    /// An owner that the journal named, and whether it still exists.
    pub owner_alive: Option<(Owner, bool)>,
    /// Whether the store was seen to refuse what a conditional write must refuse, or what it did instead.
    pub store_proved: Option<Result<(), String>>,
    /// Why the store of the output, as it is addressed, can never do what it has to, if that was seen.
    pub unfit_store: Option<String>,
    /// What a pass over the input gave.
    pub pass: Option<Pass>,
    /// Uploaded input files, by attempt and content: a plan that was dropped and made anew numbers attempts from 1 again.
    pub uploads: BTreeMap<(Slot, String), String>,
    /// Uploads that the provider refused for what is in them, in its words; by attempt and content.
    pub unfit: BTreeMap<(Slot, String), String>,
    /// The halves of a shard that is too large for the account.
    pub halved: Option<Halved>,
    /// Whether the account has a place for one more batch.
    pub place: Place,
    /// The intent that this process holds the permit for.
    pub permit: Option<String>,
    /// What came of the POST of an intent.
    pub posted: BTreeMap<String, Posted>,
    /// What a search for an intent's batches found.
    pub searches: BTreeMap<String, Search>,
    /// Whether an input file answered to the credential at hand.
    pub files: BTreeMap<String, bool>,
    /// Why nobody can find out what became of an intent, by intent: a call for it failed several times in a row.
    pub unsettled: BTreeMap<String, String>,
    /// Input files seen to be gone after their deletion, and when.
    pub revoked: BTreeMap<String, i64>,
    /// Whether the provider lists batches, and refuses a create on a deleted file.
    pub resolvable: Option<bool>,
    /// The last look at a batch.
    pub looks: BTreeMap<String, Look>,
    /// Batches that were told to stop.
    pub cancelled: BTreeSet<String>,
    /// What was collected of a batch.
    pub collected: BTreeMap<String, Collected>,
    /// What a later round would send: its number and shards.
    pub follow_up: Option<(u32, Shards)>,
    /// Files at the provider that were asked to be deleted.
    pub deleted: BTreeSet<String>,
    /// What came of deleting what was staged, for a job that goes.
    pub tidied: Option<Tidied>,
    /// What is running, or was tried and waits for its next try.
    pub running: BTreeSet<Task>,
    /// What failed the last time, and when its next try is due: what did not goes first.
    pub in_vain: BTreeMap<Task, i64>,
    /// Whether the last step that was no such call failed, so that others are not put off for it.
    pub stumbled: bool,
    /// What keeps failing and does not seem to pass.
    pub trouble: Option<String>,
}

impl JobView {
    /// Shards that a plan may have: a third of the room is for later rounds.
    pub fn plan_limit(&self) -> usize {
        self.shard_limit / 3 * 2
    }
}

impl Memory {
    /// Whether the task runs for the first time: one that failed before waits for its next try, or is at it, and holds nothing
    /// else up.
    pub fn is_under_way(&self, task: Task) -> bool {
        self.running.contains(&task) && !self.in_vain.contains_key(&task)
    }

    /// Counts tasks that wait for their next try at `now` as under way, so that they are not begun before; when the first of them is
    /// due (Unix milliseconds).
    pub fn hold_back(&mut self, now: i64) -> Option<i64> {
        let waiting = self.in_vain.iter().filter(|(_, due)| now < **due);
        self.running.extend(waiting.clone().map(|(task, _)| *task));
        waiting.map(|(_, due)| *due).min()
    }

    /// Whether the batch was last seen to be turned away as a whole.
    pub fn is_turned_away(&self, batch_id: &str) -> bool {
        matches!(self.looks.get(batch_id).map(|l| &l.seen), Some(Seen::Ended { rejected: Some(_), .. }))
    }

    /// Forgets what was found out about shards that were sealed when `next` was `written` over `old`, lest it grow with the job.
    pub fn forget_sealed(&mut self, old: &Journal, next: &Journal, written: &Journal) {
        let is_sealed = |index: usize| index < written.shards.next_planned() && written.shards.get(index).is_none();
        for (index, shard) in next.shards.entries().filter(|(index, _)| is_sealed(*index)) {
            // The names of its files may be gone from it by now.
            [old.shards.get(index), Some(shard)].into_iter().flatten().for_each(|shard| self.forget(index, shard));
        }
    }

    fn forget(&mut self, index: usize, shard: &Shard) {
        self.uploads.retain(|(slot, _), _| slot.shard != index);
        self.unfit.retain(|(slot, _), _| slot.shard != index);
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

    /// Forgets what was found out at the provider under another credential than this one: it may be another account's, where
    /// a search that finds nothing says nothing.
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

/// What holds nothing else up, however long it takes or fails: long transfers, and calls about one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Reading, checking and staging the input.
    Pass,
    /// Uploading a shard.
    Upload(Slot),
    /// Fetching the answers of a batch.
    Collect(Slot),
    /// Staging what has no answer for another round.
    FollowUp,
    /// Staging the halves of the shard that an attempt was refused for.
    Halve(Slot),
    /// Joining parts into results.
    Write,
    /// Waiting for a place at the account.
    Place,
    /// Asking for the batch of an attempt. While it runs, this process has the permit in use, and nobody else has it.
    Post(Slot),
    /// Finding out what became of an attempt, and following its batch.
    Call(Slot),
    /// Telling its batch to stop.
    Cancel(Slot),
    /// Looking at another batch of its submission, and telling it to stop.
    CancelTwin(Slot),
    /// Telling a batch to stop that only status names.
    CancelUnjournaled,
    /// Deleting files at the provider that nobody needs any more.
    DeleteFiles,
}

/// Whether an account has a place for one more batch of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// It has, or the job was given one.
    #[default]
    Free,
    /// Others are submitting; it takes a moment.
    Soon,
    /// It has none; why, for a person.
    Full(String),
}

/// A pass over the input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// The spec that it was made for.
    pub spec_hash: String,
    /// The plan, or what is wrong with the input.
    pub result: Result<Planned, String>,
}

/// What a pass over a sound input gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Planned {
    /// Whether shards were staged, under this work id, or only the hash computed.
    pub staged: Option<String>,
    /// For the journal.
    pub plan: Plan,
    /// For the journal.
    pub shards: Shards,
}

/// The two halves of a shard, staged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Halved {
    /// The attempt that was refused for the whole.
    pub slot: Slot,
    /// SHA-256 of the whole.
    pub sha256: String,
    /// For the journal, in the order of the requests.
    pub halves: [Shard; 2],
}

/// What came of a POST.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Posted {
    /// The batch exists.
    Created(String),
    /// No batch exists: nothing was sent, or the vendor itself refused.
    Refused(Rejection),
    /// The server answered with an error that proves nothing: nobody can tell.
    Declined(Rejection),
    /// Nobody can tell, and nothing was said.
    Unknown(String),
}

/// A search over all pages of the provider's list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Search {
    /// When it began.
    pub began: i64,
    /// Batches with the intent's metadata or file, oldest first. None: the list cannot be searched, and says nothing.
    pub found: Option<Vec<String>>,
}

impl Search {
    /// What was found.
    pub fn batches(&self) -> &[String] {
        self.found.as_deref().unwrap_or_default()
    }
}

/// A look at a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// When.
    pub at: i64,
    /// What was seen.
    pub seen: Seen,
}

/// What a look at a batch shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// The provider does not know it, or not under this credential.
    NotFound,
    /// It exists but carries nothing that says that it is this work's.
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
        /// How.
        state: BatchEnd,
        /// Requests done, by the provider's count.
        done: i64,
        /// Set when the batch was turned away as a whole before any request ran.
        rejected: Option<(Refusal, String)>,
    },
    /// It ended, and the provider no longer has the answers that it names.
    Gone {
        /// How it ended.
        state: BatchEnd,
    },
    /// It ended, and names the file with its answers in a way that nobody can use.
    Unnamed {
        /// How it ended.
        state: BatchEnd,
        /// Which field, and what is wrong with it.
        why: String,
    },
}

/// What was collected of an ended batch; the part is in storage and was read back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collected {
    /// The part.
    pub part: PartRef,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// Of the failed ones, those that failed in a way that may pass.
    pub may_pass: i64,
    /// Why requests have no answer, by code.
    pub errors: Vec<ErrorSummary>,
    /// The provider's files of this batch that hold nothing that is not in the part.
    pub files: Vec<String>,
    /// Set where the files may hold more another time.
    pub short: Option<Short>,
}

/// What came of deleting what was staged for a work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tidied {
    /// The work.
    pub work_id: String,
    /// Why not all of it is gone.
    pub failed: Option<Untidy>,
}

/// What keeps staged files from being deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Untidy {
    /// For a person.
    pub message: String,
    /// Whether it may pass by itself.
    pub may_pass: bool,
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
    /// When the end was decided.
    pub at: i64,
    /// The result set's files beside it: their names, and the ConfigMaps that hold them, if any do.
    pub files: Vec<(String, Option<String>)>,
    /// Why requests have no answer.
    pub errors: Vec<ErrorSummary>,
}
