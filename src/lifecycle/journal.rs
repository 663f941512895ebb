//! The journal: the one mutable document of a work, and its source of truth.
//!
//! It lies beside the results, so that it survives the loss of the cluster. Every change is one conditional write over the
//! version that was judged; see `docs/architecture.md`.

use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, AttemptKey, AttemptState};
use super::plan_forecast::PlannedModel;
use super::pricing::Pricing;
use super::shard::Shard;
use super::shard_list::Shards;
use crate::api::{
    CanaryApproval, DeletionPolicy, InputStatus, LeftOut, Outcome, PROTOCOL_VERSION, PROTOCOL_VERSION_OF_CANARY,
    PROTOCOL_VERSION_OF_REUSE, RequestCounts, Spending,
};

/// The largest number of shards of one work, over all rounds.
pub const SHARD_LIMIT: usize = 20_000;
/// Number of settled shards that leave the journal's head together.
pub const SEAL_AT: usize = 16;
/// The largest number of shards of a work whose journal lies in a ConfigMap, which has room for 1 MiB.
pub const SHARD_LIMIT_IN_CONFIG_MAPS: usize = 30;

/// The journal of a work, as stored (JSON).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Revision. Grows by one with every write, so that bytes never recur (an ETag of recurring bytes would match again).
    pub rev: u64,
    /// See [`PROTOCOL_VERSION`]; with answers of earlier jobs, [`PROTOCOL_VERSION_OF_REUSE`]; while a canary is not approved,
    /// [`PROTOCOL_VERSION_OF_CANARY`].
    pub protocol_version: i32,
    /// Id of the work: 128 random bits in hex. Names staged files and requests, and outlives the object that opened the
    /// journal.
    #[serde(rename = "workID")]
    pub work_id: String,
    /// The object whose work this is.
    pub owner: Owner,
    /// [`super::spec_hash`] of the owner's spec.
    pub spec_hash: String,
    /// The result of one pass over the input. Null until then, and again when a failure that cost nothing is judged anew.
    pub plan: Option<Plan>,
    /// The shards, each sent as one batch, in the order of the requests.
    pub shards: Shards,
    /// Policy of the owner's deletion. Once set, no intent may follow.
    pub closing: Option<DeletionPolicy>,
    /// The decided end. Once set, the results are a pure function of the immutable parts.
    pub commit: Option<Commit>,
    /// Time from which the batches are to stop because the job's time is over or `stopPolicy` is Cancel (Unix milliseconds). None
    /// again once they are no longer to stop, because the deadline was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_time_since: Option<i64>,
    /// The work's past, if it was taken over from another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<Takeover>,
    /// A person's last answers to all open questions of a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<RecordedAnswers>,
    /// The prices that the batches are accounted at.
    #[serde(default, skip_serializing_if = "Pricing::is_none")]
    pub pricing: Pricing,
    /// The approval of the requests behind the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// The approval of the requests behind a canary. It is never withdrawn, and holds for this work only.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Approval {
    /// Manual if a person gave it, Automatic if the figures of the canary did.
    pub by: CanaryApproval,
    /// Time of the approval (Unix milliseconds).
    pub at: i64,
}

/// A person's answers to all questions of a kind, recorded for each question that was open when they were read. They do not
/// count for questions that are asked later.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordedAnswers {
    /// The answers as given, so that each is applied once.
    pub said: String,
    /// Answers by the question's id.
    #[serde(deserialize_with = "few")]
    pub to: std::collections::BTreeMap<String, String>,
}

/// Maximum number of questions that answers are recorded for: two for each shard that a head may hold.
const HEARD_LIMIT: usize = 4_000;

/// Reads recorded answers.
///
/// # Errors
/// If there are more than [`HEARD_LIMIT`].
fn few<'de, D: serde::Deserializer<'de>>(from: D) -> Result<std::collections::BTreeMap<String, String>, D::Error> {
    let to = std::collections::BTreeMap::deserialize(from)?;
    match to.len() > HEARD_LIMIT {
        true => Err(serde::de::Error::custom(format!("answers to more than {HEARD_LIMIT} questions"))),
        false => Ok(to),
    }
}

/// The past of a work that another cluster began.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    /// The cluster that began the work. The provider knows the work's batches and files under its name.
    pub from: String,
    /// Number of times that the work changed hands, so that an answer holds for one of them.
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
    /// Returns whether `other` has the same name in the same cluster: this object, or an earlier one.
    pub fn is_namesake(&self, other: &Owner) -> bool {
        (&self.cluster, &self.namespace, &self.name) == (&other.cluster, &other.namespace, &other.name)
    }

    /// Returns whether `other` has the same name in another cluster: one of the two is a copy.
    pub fn is_copy(&self, other: &Owner) -> bool {
        self.cluster != other.cluster && (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

/// The result of one pass over the input.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Versioned hash of the requests in order, the request-shaping spec and the runID.
    pub work_hash: String,
    /// Statistics of the input that was read.
    pub input: InputStatus,
    /// Number of requests.
    pub requests: i64,
    /// What was done about objects that are too large.
    #[serde(default, skip_serializing_if = "TooLarge::is_none")]
    pub too_large: TooLarge,
    /// Other parts of the input that make no request.
    #[serde(default, skip_serializing_if = "LeftOut::is_none")]
    pub left_out: LeftOut,
    /// The result sets of `spec.reuseFrom`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reuse: Vec<ReuseSet>,
    /// The requests of the first round that are sent, by model. Empty in plans of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<PlannedModel>,
    /// The first requests, which are sent alone. None without `spec.canary`, or if it has room for all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<PlannedCanary>,
}

/// The requests of a plan that are sent before all others. Their shards hold no other requests.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlannedCanary {
    /// Number of requests.
    pub requests: i64,
    /// Index of the first request behind them. Requests with reused answers have lower ones as well.
    pub before: i64,
}

/// A result set whose answers a plan may reuse.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ReuseSet {
    /// URI of its folder.
    pub uri: String,
    /// Its answers that can be compared with requests of the plan; None if there was no complete result set.
    pub answers: Option<i64>,
    /// Its answers that cannot be, because their requests were hashed by an earlier version.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub incomparable: i64,
}

fn is_zero(count: &i64) -> bool {
    *count == 0
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

/// The decided end of a work.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// How it ended.
    pub outcome: Outcome,
    /// Reason of the `Complete` condition.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Time of the decision (Unix milliseconds).
    pub at: i64,
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// What the work used and cost.
    #[serde(flatten)]
    pub spending: Spending,
}

impl Journal {
    /// Returns the shards whose batch was settled since `old`, an earlier revision. The first of each pair is the shard as it was; None
    /// if it is new.
    pub fn settled_since<'a>(&'a self, old: &'a Journal) -> impl Iterator<Item = (Option<&'a Shard>, &'a Shard)> {
        let is_settled = |shard: &Shard| {
            shard.attempt.as_ref().is_some_and(|attempt| matches!(attempt.state, AttemptState::Settled { .. }))
        };
        let settled = self.shards.entries().filter(move |(_, shard)| is_settled(shard));
        let pairs = settled.map(|(index, shard)| (old.shards.get(index), shard));
        pairs.filter(move |(before, _)| !before.is_some_and(is_settled))
    }

    /// Returns the first journal of a new work.
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
            pricing: Pricing::default(),
            approval: None,
        }
    }

    /// Returns a stand-in for a journal of another protocol version, of which only the version is known.
    pub fn of_version(protocol_version: i32) -> Self {
        let owner = Owner { cluster: String::new(), namespace: String::new(), name: String::new(), uid: String::new() };
        Journal { protocol_version, ..Journal::open(String::new(), owner, String::new()) }
    }

    /// Returns the id of the cluster that batches and files of this work name at the provider.
    pub fn named_after(&self) -> &str {
        self.taken_over.as_ref().map_or(&self.owner.cluster, |t| &t.from)
    }

    /// Returns the journal of a work whose own journal was lost and that a person gave up. It has the end and no history.
    pub fn abandoned(work_id: String, owner: Owner, spec_hash: String, plan: Plan, commit: Commit) -> Self {
        Journal { plan: Some(plan), commit: Some(commit), ..Journal::open(work_id, owner, spec_hash) }
    }

    /// Returns whether the journal was made by [`Journal::abandoned`].
    pub fn is_abandoned(&self) -> bool {
        self.commit.is_some() && self.shards.is_empty() && self.plan.as_ref().is_some_and(|p| p.requests > 0)
    }

    /// Returns whether a batch may ever have been requested.
    pub fn has_intents(&self) -> bool {
        self.shards.have_attempts()
    }

    /// Returns this journal changed by `edit`, with the next revision.
    pub fn next(&self, edit: impl FnOnce(&mut Journal)) -> Journal {
        let mut next = self.clone();
        edit(&mut next);
        next.rev = self.rev.saturating_add(1);
        next.protocol_version = match next.shards.have_reused() {
            _ if next.unapproved_canary().is_some() => PROTOCOL_VERSION_OF_CANARY,
            true => PROTOCOL_VERSION_OF_REUSE,
            false => PROTOCOL_VERSION,
        };
        next
    }

    /// Returns this journal with a revision after `rev`, which is not before its own.
    pub fn past(&self, rev: u64) -> Journal {
        let mut next = self.next(|_| {});
        next.rev = next.rev.max(rev.saturating_add(1));
        next
    }

    /// Returns the canary while the requests behind it may not be sent.
    pub fn unapproved_canary(&self) -> Option<PlannedCanary> {
        self.plan.as_ref()?.canary.filter(|_| self.approval.is_none())
    }

    /// Returns requests by outcome. Requests that were never executed count as cancelled. Requests that a later round did not
    /// settle keep their outcome from before it.
    pub fn counts(&self) -> RequestCounts {
        self.shards.totals().counts
    }

    /// Returns the largest number of requests that may have been billed twice, because a gateway made other batches of our
    /// POSTs.
    pub fn billed_again(&self) -> i64 {
        self.shards.totals().billed_again
    }

    /// Returns the attempt of a resident shard, mutably.
    pub(super) fn attempt_mut(&mut self, attempt_key: AttemptKey) -> Option<&mut Attempt> {
        self.shards.get_mut(attempt_key.shard)?.attempt.as_mut()
    }

    /// Returns the number of requests of a resident shard.
    pub(super) fn requests_of(&self, attempt_key: AttemptKey) -> i64 {
        self.shards.get(attempt_key.shard).map_or(0, |s| s.requests)
    }

    /// Returns whether a batch of another shard than this one may exist and not have ended.
    pub fn is_live_beside(&self, shard: usize) -> bool {
        self.shards.entries().any(|(i, s)| i != shard && s.is_live())
    }

    /// Returns the batches that were given up on because they did not end in time: the attempt, the provider's id if it is
    /// known, and the number of requests that may still be billed.
    pub fn abandoned_batches(&self) -> impl Iterator<Item = (AttemptKey, Option<&str>, i64)> {
        self.shards.entries().filter_map(|(shard, s)| match s.attempt.as_ref()? {
            Attempt { number, state: AttemptState::Abandoned { batch_id }, .. } => {
                Some((AttemptKey { shard, attempt: *number }, batch_id.as_deref(), s.requests))
            }
            _ => None,
        })
    }

    /// Returns the last planned round.
    pub fn round(&self) -> u32 {
        self.shards.totals().round
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Refusal, Rejection, Shard, Streaks, Totals};

    /// A journal of an earlier version is read, and what was never said is not written: its bytes stay as they were.
    #[test]
    fn a_journal_of_an_earlier_version_is_read_and_written_as_it_was() {
        let written = r#"{"sha256":"s","indexSha256":"i","bytes":1,"first":0,"requests":1,"failures":0,"attempt":{"number":1,"intentID":"n","fileID":"f","postBy":5,"fingerprint":"k","state":"Refused","refusal":"Capacity","message":"m","at":7},"round":0,"took":{"total":0,"succeeded":0,"failed":0,"expired":0,"cancelled":0,"missing":0},"model":"x"}"#;
        let shard: Shard = serde_json::from_str(written).unwrap();
        assert_eq!(serde_json::to_string(&shard).unwrap(), written);
        let mut attempt = shard.attempt.clone().unwrap();
        attempt.declined = Some(Rejection { retry_at: Some(9), ..Rejection::new(Refusal::TokenLimit, "w") });
        for beside in [false, true] {
            let streaks = Streaks { alone: 2, beside, file_not_found: 1 };
            let shard = Shard { attempt: Some(attempt.clone()), streaks, ..shard.clone() };
            let text = serde_json::to_string(&shard).unwrap();
            assert_eq!(serde_json::from_str::<Shard>(&text).unwrap(), shard, "{text}");
            assert_eq!(
                text.contains(r#""streaks":{"alone":2,"fileNotFound":1}"#),
                !beside,
                "as earlier versions: {text}"
            );
        }
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
