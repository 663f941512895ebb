//! A shard: a set of requests that is sent as one batch, as the journal has it.

use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, AttemptState, PartRef, Refusal};
use crate::api::{ErrorSummary, RequestCounts, TokenHints};
use crate::money::Usd;

/// A set of requests that is sent as one batch.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// SHA-256 of the bytes that are sent. Also the name of the staged object.
    pub sha256: String,
    /// SHA-256 of the shard's index, which has the users' names for its requests. Also the name of the staged index.
    #[serde(default)]
    pub index_sha256: String,
    /// Size of the bytes that are sent.
    pub bytes: u64,
    /// Index of the first request.
    pub first: i64,
    /// Number of requests.
    pub requests: i64,
    /// Attempts that ended without a batch and count against the limit. Waiting for capacity does not count.
    pub failures: u32,
    /// Attempts whose batch may have run and been billed, and which a person wrote off: with `resend` if it was lost, with `none`
    /// if the outcome of its submission was unknown. The latest attempt is among them while it is revoked for that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub written_off: u32,
    /// The latest attempt to send the shard.
    pub attempt: Option<Attempt>,
    /// Round of the shard: 0 for the plan's own shards. A later round sends again the requests that earlier ones left without
    /// an answer.
    #[serde(default)]
    pub round: u32,
    /// Outcomes of the requests of a later round, before that round.
    #[serde(rename = "took", default)]
    pub prior_counts: RequestCounts,
    /// Reasons why those requests had no answer.
    #[serde(rename = "tookErrors", default, skip_serializing_if = "Vec::is_empty")]
    pub prior_errors: Vec<ErrorSummary>,
    /// The model that all requests of the shard ask for.
    #[serde(default)]
    pub model: String,
    /// Facts from which the tokens of the shard are estimated.
    #[serde(default, skip_serializing_if = "TokenHints::is_zero")]
    pub hints: TokenHints,
    /// Refusals that mean something only if they recur.
    #[serde(default, skip_serializing_if = "Streaks::is_none")]
    pub streaks: Streaks,
    /// Answers of earlier jobs to all requests of the shard, which may ask for several models. The shard is settled from the
    /// beginning, and no attempt is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<PartRef>,
    /// Cost of attempts that no file of answers reports.
    #[serde(default, skip_serializing_if = "UnreportedCost::is_none")]
    pub unreported_cost: UnreportedCost,
}

/// Cost that attempts may have had and that no file of answers reports.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct UnreportedCost {
    /// The most that it can be, in USD, without the attempts in `unbounded`.
    #[serde(rename = "mostUSD", skip_serializing_if = "Usd::is_zero")]
    pub most: Usd,
    /// Attempts of which nobody knows what they can cost, because there were no prices.
    #[serde(skip_serializing_if = "are_none")]
    pub unbounded: i64,
}

fn are_none(attempts: &i64) -> bool {
    *attempts == 0
}

impl UnreportedCost {
    pub(super) fn is_none(&self) -> bool {
        *self == UnreportedCost::default()
    }
}

impl std::ops::AddAssign for UnreportedCost {
    fn add_assign(&mut self, UnreportedCost { most, unbounded }: UnreportedCost) {
        self.most += most;
        self.unbounded = self.unbounded.saturating_add(unbounded);
    }
}

fn is_zero(attempts: &u32) -> bool {
    *attempts == 0
}

impl Shard {
    /// Returns the name of the index. Earlier versions named it like the shard.
    pub fn index(&self) -> &str {
        if self.index_sha256.is_empty() { &self.sha256 } else { &self.index_sha256 }
    }

    /// Returns the outcome of the shard's requests once it is settled. A request that the account can never run has failed.
    /// Requests of a batch that was given up on are missing, because it may have executed them. In a later round, both keep
    /// their earlier outcome.
    pub fn settled(&self) -> Option<RequestCounts> {
        let all = RequestCounts { total: self.requests, ..Default::default() };
        if self.reused.is_some() {
            return Some(RequestCounts { succeeded: self.requests, reused: self.requests, ..all });
        }
        match (&self.attempt.as_ref()?.state, self.round) {
            (AttemptState::Settled { counts, .. }, _) => Some(*counts),
            (AttemptState::Refused { refusal: Refusal::TooLarge, .. }, 0) => {
                Some(RequestCounts { failed: self.requests, ..all })
            }
            (AttemptState::Abandoned { .. }, 0) => Some(RequestCounts { missing: self.requests, ..all }),
            (AttemptState::Refused { refusal: Refusal::TooLarge, .. } | AttemptState::Abandoned { .. }, _) => {
                Some(self.prior_counts)
            }
            _ => None,
        }
    }

    /// Returns whether the shard is to be sent and no attempt was made of it.
    pub fn is_unsent(&self) -> bool {
        self.attempt.is_none() && self.reused.is_none()
    }

    /// Returns why the latest attempt made no batch, if it was refused.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.attempt.as_ref()?.state {
            AttemptState::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Returns whether the shard is a single request that the account can never run.
    pub fn is_too_large(&self) -> bool {
        self.refusal() == Some(Refusal::TooLarge)
    }

    /// Returns whether the shard's answers were given up. Its requests keep their outcome, because the batch may run on
    /// elsewhere.
    pub fn is_given_up(&self) -> bool {
        matches!(
            self.attempt.as_ref().map(|a| &a.state),
            Some(AttemptState::Settled { part: None, .. } | AttemptState::Abandoned { .. })
        )
    }

    /// Returns whether no attempt made a batch, and none can make one any more.
    pub fn made_no_batch(&self) -> bool {
        match self.attempt.as_ref().map(|attempt| &attempt.state) {
            None | Some(AttemptState::Refused { .. } | AttemptState::Revoked { .. }) => self.written_off == 0,
            Some(_) => false,
        }
    }

    /// Returns whether the provider will never take the shard, however often it is sent.
    pub fn is_refused_for_good(&self) -> bool {
        matches!(self.refusal(), Some(Refusal::Invalid | Refusal::TooOften))
    }

    /// Returns the shard's recorded batch, unless that was seen to end.
    pub fn batch_in_flight(&self) -> Option<&str> {
        match &self.attempt.as_ref()?.state {
            AttemptState::Submitted { batch_id, .. } => Some(batch_id),
            _ => None,
        }
    }

    /// Returns whether a batch of the shard may exist and not have ended.
    pub fn is_live(&self) -> bool {
        matches!(
            self.attempt.as_ref().map(|a| &a.state),
            Some(AttemptState::Intended | AttemptState::Revoking | AttemptState::Submitted { .. })
        )
    }
}

/// Numbers of a shard's refusals that mean something only if they recur.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct Streaks {
    /// Attempts in a row that were refused for their tokens while no other batch of the job was live. Includes the latest
    /// attempt from its intent on.
    pub alone: u32,
    /// Whether `alone`, above 0, does not include the latest attempt, because another batch of the job was live at its intent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// Submissions that were refused because the provider does not know their input file, which had just been uploaded.
    pub file_not_found: u32,
}

impl Streaks {
    fn is_none(&self) -> bool {
        *self == Streaks::default()
    }
}
