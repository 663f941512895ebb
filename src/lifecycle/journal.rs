//! The journal: the one mutable document of a work, and its truth.
//!
//! It lies where the results lie, so that it survives whatever the cluster forgets. Every change is one conditional
//! write of the version that was judged; see `docs/architecture.md`.

use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, AttemptState, Refusal, Slot};
use super::shard_list::Shards;
use crate::api::{DeletionPolicy, ErrorSummary, InputStatus, LeftOut, Outcome, PROTOCOL_VERSION, RequestCounts};

/// Shards of one work, those of all rounds together.
pub const SHARD_LIMIT: usize = 20_000;
/// Settled shards that leave the journal's head together.
pub const SEAL_AT: usize = 16;
/// The same where the journal lies in a ConfigMap, which has room for 1 MiB.
pub const SHARD_LIMIT_IN_CONFIG_MAPS: usize = 30;

/// The document, as it lies in storage (JSON).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Grows by one with every write, so that bytes never recur (an ETag of recurring bytes would match again).
    pub rev: u64,
    /// See [`PROTOCOL_VERSION`].
    pub protocol_version: i32,
    /// 128 random bits in hex; names staging and requests, and outlives the object that opened the journal.
    #[serde(rename = "workID")]
    pub work_id: String,
    /// The object whose work this is.
    pub owner: Owner,
    /// [`super::spec_hash`] of the owner's spec.
    pub spec_hash: String,
    /// What one pass over the input found; null until then, and again when a failure that cost nothing is re-judged.
    pub plan: Option<Plan>,
    /// What is sent as one batch each, in the order of the requests.
    pub shards: Shards,
    /// Set when the owner is being deleted: no intent may follow.
    pub closing: Option<DeletionPolicy>,
    /// Set once the end is decided: from then on the results are a pure function of the immutable parts.
    pub commit: Option<Commit>,
    /// Since when the batches are to stop because the job's time is over (Unix milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_time_since: Option<i64>,
    /// Set when the work was taken over from another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<TakenOver>,
    /// What a person answered to all open questions of a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
}

/// An answer to all questions of a kind, written down for each that was open: it counts for those, and for none that is asked
/// later.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The answers as they were given, so that they are heard once.
    pub said: String,
    /// By the question's id.
    pub to: std::collections::BTreeMap<String, String>,
}

/// The past of a work that another cluster began.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct TakenOver {
    /// The cluster that began it; the provider knows its batches and files under that name.
    pub from: String,
    /// How often it changed hands, so that an answer holds for one time.
    pub times: u32,
}

/// The object whose work a journal is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// uid of the cluster's `kube-system` namespace.
    pub cluster: String,
    /// Namespace of the BatchJob.
    pub namespace: String,
    /// Name of the BatchJob.
    pub name: String,
    /// uid of the BatchJob.
    pub uid: String,
}

impl Owner {
    /// Whether it is an object of the same name in the same cluster: this one, or an earlier one.
    pub fn is_namesake(&self, other: &Owner) -> bool {
        (&self.cluster, &self.namespace, &self.name) == (&other.cluster, &other.namespace, &other.name)
    }

    /// Whether it is an object of the same name in another cluster: one of the two is a copy.
    pub fn is_copy(&self, other: &Owner) -> bool {
        self.cluster != other.cluster && (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

/// What one pass over the input found.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Versioned hash of the requests in order, the request-shaping spec and the runID.
    pub work_hash: String,
    /// What was read.
    pub input: InputStatus,
    /// Requests in all.
    pub requests: i64,
    /// What was done about objects that are too large.
    #[serde(default, skip_serializing_if = "TooLarge::is_none")]
    pub too_large: TooLarge,
    /// What else of the input makes no request.
    #[serde(default, skip_serializing_if = "LeftOut::is_none")]
    pub left_out: LeftOut,
}

/// What was done about objects that are too large.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TooLarge {
    /// Objects that were left out.
    pub skipped: i64,
    /// Objects whose text was cut.
    pub truncated: i64,
}

impl TooLarge {
    fn is_none(&self) -> bool {
        *self == TooLarge::default()
    }
}

/// A set of requests that is sent as one batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// SHA-256 of the bytes that are sent; also the staged object's name.
    pub sha256: String,
    /// SHA-256 of its index, which has the users' names for its requests; also the name of that.
    #[serde(default)]
    pub index_sha256: String,
    /// Size of what is sent, in bytes.
    pub bytes: u64,
    /// Index of the first request.
    pub first: i64,
    /// Number of requests.
    pub requests: i64,
    /// Attempts that ended without a batch and count against the limit; waiting for capacity does not.
    pub failures: u32,
    /// The latest attempt to send it.
    pub attempt: Option<Attempt>,
    /// 0 for the plan's own shards; a later round sends again what earlier ones left without an answer.
    #[serde(default)]
    pub round: u32,
    /// How the requests of a later round stood before it.
    #[serde(default)]
    pub took: RequestCounts,
    /// Why those had no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took_errors: Vec<ErrorSummary>,
    /// The model that all of its requests ask for.
    #[serde(default)]
    pub model: String,
    /// Refusals that mean something only once they come again.
    #[serde(default, skip_serializing_if = "Streaks::is_none")]
    pub streaks: Streaks,
}

/// Refusals of one shard that mean something only once they come again.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct Streaks {
    /// Attempts that were sent, and turned away for their tokens, while no other batch of the job was live.
    pub alone: u32,
    /// Creates that were told that their input file, which had just been uploaded, does not exist.
    pub file_not_found: u32,
}

impl Streaks {
    fn is_none(&self) -> bool {
        *self == Streaks::default()
    }
}

/// The end, decided.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// How it ended.
    pub outcome: Outcome,
    /// Reason of the `Complete` condition.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// When (Unix milliseconds).
    pub at: i64,
    /// Requests by outcome.
    pub requests: RequestCounts,
}

impl Journal {
    /// A new journal of a work that nothing was done for yet.
    pub fn open(work_id: String, owner: Owner, spec_hash: String) -> Self {
        Journal {
            rev: 1,
            protocol_version: PROTOCOL_VERSION,
            work_id,
            owner,
            spec_hash,
            plan: None,
            shards: Shards::default(),
            closing: None,
            commit: None,
            out_of_time_since: None,
            taken_over: None,
            heard: None,
        }
    }

    /// What is known of a journal of another protocol version than this one's: the version.
    pub fn of_version(protocol_version: i32) -> Self {
        let owner = Owner { cluster: String::new(), namespace: String::new(), name: String::new(), uid: String::new() };
        Journal { protocol_version, ..Journal::open(String::new(), owner, String::new()) }
    }

    /// The cluster that batches and files of this work are named after at the provider.
    pub fn named_after(&self) -> &str {
        self.taken_over.as_ref().map_or(&self.owner.cluster, |t| &t.from)
    }

    /// The journal of a work whose own one was lost and that a person gave up: its end, and nothing of how it came to it.
    pub fn abandoned(work_id: String, owner: Owner, spec_hash: String, plan: Plan, commit: Commit) -> Self {
        Journal { plan: Some(plan), commit: Some(commit), ..Journal::open(work_id, owner, spec_hash) }
    }

    /// Whether it is [`Journal::abandoned`].
    pub fn is_abandoned(&self) -> bool {
        self.commit.is_some() && self.shards.is_empty() && self.plan.as_ref().is_some_and(|p| p.requests > 0)
    }

    /// Whether a batch may ever have been asked for.
    pub fn has_intents(&self) -> bool {
        self.shards.have_attempts()
    }

    /// This version changed by `edit`, with the next revision.
    pub fn next(&self, edit: impl FnOnce(&mut Journal)) -> Journal {
        let mut next = self.clone();
        edit(&mut next);
        (next.rev, next.protocol_version) = (self.rev + 1, PROTOCOL_VERSION);
        next
    }

    /// Requests by outcome: those that were never executed count as cancelled, and what a later round did not settle
    /// stands as it stood before it.
    pub fn counts(&self) -> RequestCounts {
        self.shards.totals().counts
    }

    /// Requests that were billed twice at most, because a gateway made other batches of our POSTs.
    pub fn billed_again(&self) -> i64 {
        self.shards.totals().billed_again
    }

    /// The attempt of a resident shard, to be changed.
    pub(super) fn attempt_mut(&mut self, slot: Slot) -> Option<&mut Attempt> {
        self.shards.get_mut(slot.shard)?.attempt.as_mut()
    }

    /// Requests of a resident shard.
    pub(super) fn requests_of(&self, slot: Slot) -> i64 {
        self.shards.get(slot.shard).map_or(0, |s| s.requests)
    }

    /// Whether a batch of another shard than this one may exist that has not ended.
    pub fn is_live_beside(&self, shard: usize) -> bool {
        self.shards.entries().any(|(i, s)| i != shard && s.is_live())
    }

    /// Batches that were given up on because they did not end in time: the slot, the provider's name, and the requests that
    /// each may still bill.
    pub fn abandoned_batches(&self) -> impl Iterator<Item = (Slot, Option<&str>, i64)> {
        self.shards.entries().filter_map(|(shard, s)| match s.attempt.as_ref()? {
            Attempt { number, state: AttemptState::Abandoned { batch_id }, .. } => {
                Some((Slot { shard, attempt: *number }, batch_id.as_deref(), s.requests))
            }
            _ => None,
        })
    }

    /// The last round that was planned.
    pub fn round(&self) -> u32 {
        self.shards.totals().round
    }
}

impl Shard {
    /// Names the index; earlier versions named it like the shard.
    pub fn index(&self) -> &str {
        if self.index_sha256.is_empty() { &self.sha256 } else { &self.index_sha256 }
    }

    /// Outcome of its requests once settled. A request that the account can never run has failed; those of a batch that was
    /// given up on are missing, for it may have executed them; both stay as they were in a later round.
    pub fn settled(&self) -> Option<RequestCounts> {
        let all = RequestCounts { total: self.requests, ..Default::default() };
        match (&self.attempt.as_ref()?.state, self.round) {
            (AttemptState::Settled { counts, .. }, _) => Some(*counts),
            (AttemptState::Refused { refusal: Refusal::TooLarge, .. }, 0) => {
                Some(RequestCounts { failed: self.requests, ..all })
            }
            (AttemptState::Abandoned { .. }, 0) => Some(RequestCounts { missing: self.requests, ..all }),
            (AttemptState::Refused { refusal: Refusal::TooLarge, .. } | AttemptState::Abandoned { .. }, _) => {
                Some(self.took)
            }
            _ => None,
        }
    }

    /// Why no batch came of its latest attempt, where that is so.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.attempt.as_ref()?.state {
            AttemptState::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Whether it is a single request that the account can never run.
    pub fn is_too_large(&self) -> bool {
        self.refusal() == Some(Refusal::TooLarge)
    }

    /// Whether its answers were given up: its requests stay as they are, for the batch may run on elsewhere.
    pub fn is_given_up(&self) -> bool {
        matches!(
            self.attempt.as_ref().map(|a| &a.state),
            Some(AttemptState::Settled { part: None, .. } | AttemptState::Abandoned { .. })
        )
    }

    /// Whether the provider will not take it, however often it is sent.
    pub fn is_refused_for_good(&self) -> bool {
        matches!(self.refusal(), Some(Refusal::Invalid | Refusal::TooOften))
    }

    /// Its recorded batch, as long as that was not seen to end.
    pub fn batch_in_flight(&self) -> Option<&str> {
        match &self.attempt.as_ref()?.state {
            AttemptState::Submitted { batch_id, .. } => Some(batch_id),
            _ => None,
        }
    }

    /// Whether a batch of it may exist that has not ended.
    pub fn is_live(&self) -> bool {
        matches!(
            self.attempt.as_ref().map(|a| &a.state),
            Some(AttemptState::Intended | AttemptState::Revoking | AttemptState::Submitted { .. })
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Rejection, Totals};

    /// A journal of an earlier version is read, and what was never said is not written: its bytes stay as they were.
    #[test]
    fn a_journal_of_an_earlier_version_is_read_and_written_as_it_was() {
        let written = r#"{"sha256":"s","indexSha256":"i","bytes":1,"first":0,"requests":1,"failures":0,"attempt":{"number":1,"intentID":"n","fileID":"f","postBy":5,"fingerprint":"k","state":"Refused","refusal":"Capacity","message":"m","at":7},"round":0,"took":{"total":0,"succeeded":0,"failed":0,"expired":0,"cancelled":0,"missing":0},"model":"x"}"#;
        let shard: Shard = serde_json::from_str(written).unwrap();
        assert_eq!(serde_json::to_string(&shard).unwrap(), written);
        let mut attempt = shard.attempt.clone().unwrap();
        attempt.declined = Some(Rejection { retry_at: Some(9), ..Rejection::new(Refusal::TokenLimit, "w") });
        let streaks = Streaks { alone: 2, file_not_found: 1 };
        let shard = Shard { attempt: Some(attempt), streaks, ..shard };
        let text = serde_json::to_string(&shard).unwrap();
        assert_eq!(serde_json::from_str::<Shard>(&text).unwrap(), shard, "{text}");
    }

    /// Names that lie in buckets: a field may be renamed, its name there may not.
    #[test]
    fn a_settled_batch_and_the_sums_of_a_journal_are_written_under_the_names_that_earlier_versions_read() {
        let settled = r#"{"number":1,"intentID":"n","fileID":"f","postBy":5,"fingerprint":"k","state":"Settled","batchID":"b","ended":"completed","counts":{"total":3,"succeeded":1,"failed":2,"expired":0,"cancelled":0,"missing":0},"mayPass":1,"part":{"name":"p","sha256":"s"},"files":[]}"#;
        let attempt: Attempt = serde_json::from_str(settled).unwrap();
        let written = serde_json::to_string(&attempt).unwrap();
        assert!(written.contains(r#""mayPass":1"#), "{written}");
        let totals = serde_json::to_value(Totals::default()).unwrap();
        let names: Vec<&String> = totals.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "billedAgain",
                "counts",
                "done",
                "failedBefore",
                "failedForGood",
                "givenUp",
                "lastRounds",
                "mayPass",
                "open",
                "refused",
                "round",
                "settled",
                "submitted",
                "tooLarge",
            ]
        );
    }
}
