//! The observations that a decision is made on.

use std::sync::Arc;
use std::time::Duration;

use super::input_wait::InputWait;
use super::journal::{Journal, Owner, Plan};
use super::memory::Memory;
use super::notices::Subscription;
use super::{Answers, Blocked};
use crate::api::{
    AnswerKind, CanaryApproval, Capabilities, DeletionPolicy, Lock, ModelStatus, OnExceeded, PinnedProvider,
    ProviderFilePolicy, StopPolicy, UnknownSubmissionPolicy,
};
use crate::money::{PriceList, Usd};

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
    /// `spec.stopPolicy`
    pub stop: Option<StopPolicy>,
    /// [`super::spec_hash`] of the spec.
    pub spec_hash: String,
    /// The destination with its variables replaced.
    pub output_uri: String,
    /// `spec.output.partialResults`
    pub partial_results: bool,
    /// `status.lock`
    pub lock: Option<Lock>,
    /// What the job waits for before its input is read.
    pub input_wait: Option<InputWait>,
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
    /// `spec.failOn`
    pub fail_on: Vec<AnswerKind>,
    /// `spec.budget`
    pub budget: Option<CostLimit>,
    /// `spec.canary.approval`; None without a canary in the spec.
    pub canary: Option<CanaryApproval>,
    /// The question that the annotation `llmbatch.dev/approve` approves.
    pub approves: Option<String>,
    /// End of `spec.activeDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// `spec.progressDeadlineSeconds`, in milliseconds.
    pub progress_deadline: Option<i64>,
    /// `spec.completionWindowSeconds`, or the one that providers have, in milliseconds.
    pub completion_window: i64,
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
    /// `status.cost.estimatedUSD`
    pub estimated: Option<Usd>,
    /// The id and plan of the work that status names: the only record of them once the journal is gone.
    pub remembered: Option<(String, Plan)>,
    /// Whether status says how the job ended and nothing asks for another look.
    pub finished: bool,
    /// Whether the job failed before anything was paid and is judged anew: earlier findings are dropped, and its time starts
    /// again.
    pub reevaluated: bool,
    /// Whether status says that nothing is left to tidy.
    pub tidy: bool,
    /// Time from which the job is to be deleted, see [`super::expiry`].
    pub expires_at: Option<i64>,
    /// The webhooks that are told of the job.
    pub subscriptions: Vec<Subscription>,
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
    /// Prices of its models.
    pub prices: Arc<PriceList>,
    /// Experience with its models, for estimates.
    pub models: Arc<[ModelStatus]>,
    /// Whether `spec.budgets` has any.
    pub has_budgets: bool,
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

/// The limit of a job's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CostLimit {
    /// The most that the job may cost.
    pub most: Usd,
    /// Fate of a job whose next batch does not fit.
    pub on_exceeded: OnExceeded,
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

impl JobView {
    /// Returns the number of shards that a plan may have. A third of the room is reserved for later rounds.
    pub fn plan_limit(&self) -> usize {
        self.shard_limit / 3 * 2
    }
}
