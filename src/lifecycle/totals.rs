//! Sums over shards that decisions and status need, so that no sealed shard has to be read for them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attempt::AttemptState;
use super::shard::{Shard, UnreportedCost};
use crate::api::{AnswerCounts, MixedAnswers, RequestCounts};

/// The largest number of codes in the sum of sealed shards. Beyond it, those with the fewest requests are dropped.
pub(super) const CODE_LIMIT: usize = 200;

/// Sums over shards. The order in which shards are added does not matter.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct Totals {
    /// The highest round.
    pub round: u32,
    /// Shards that a batch was made of.
    pub submitted: usize,
    /// Shards that are settled, see [`Shard::settled`].
    pub settled: usize,
    /// Requests by outcome, see [`super::Journal::counts`].
    pub counts: RequestCounts,
    /// Requests of shards of the first round that are not settled.
    pub open: i64,
    /// Those of `open` whose shard the provider refuses for good.
    pub refused: i64,
    /// Requests that are done because of settled shards: of a later round, those that were never executed before it.
    pub done: i64,
    /// Failures in settled shards that do not pass.
    pub failed_for_good: i64,
    /// Failures in settled shards that may pass.
    #[serde(rename = "mayPass")]
    pub retryable: i64,
    /// Failures that later rounds were planned for.
    pub failed_before: i64,
    /// Requests of shards of the first round that were given up.
    pub given_up: i64,
    /// Shards of the first round that are one request which the account can never run.
    pub too_large: i64,
    /// Shards of later rounds that were given up, or that the account can never run: no further round follows them.
    pub last_rounds: usize,
    /// Requests that were billed twice at most.
    pub billed_again: i64,
    /// Shards whose answers are those of earlier jobs.
    #[serde(skip_serializing_if = "is_zero")]
    pub reused: usize,
    /// Answers that may not be what was asked for, by kind.
    #[serde(skip_serializing_if = "AnswerCounts::is_zero")]
    pub answers: AnswerCounts,
    /// Those of `answers` that are of several kinds.
    #[serde(skip_serializing_if = "MixedAnswers::is_zero")]
    pub mixed_answers: MixedAnswers,
    /// Rows that providers delivered for a request that an earlier row of the same batch answers.
    #[serde(skip_serializing_if = "is_none")]
    pub repeated_rows: i64,
    /// Cost that no part reports.
    #[serde(skip_serializing_if = "UnreportedCost::is_none")]
    pub unreported_cost: UnreportedCost,
}

fn is_zero(shards: &usize) -> bool {
    *shards == 0
}

fn is_none(rows: &i64) -> bool {
    *rows == 0
}

impl Totals {
    /// Adds a shard in any state.
    pub fn add(&mut self, shard: &Shard) {
        self.round = self.round.max(shard.round);
        self.submitted += usize::from(shard.was_submitted());
        self.reused += usize::from(shard.reused.is_some());
        self.failed_before += shard.prior_counts.failed;
        self.counts.resent = self.counts.resent.saturating_add(shard.resent());
        self.billed_again += shard.attempt.as_ref().map_or(0, |a| a.billed_again);
        self.unreported_cost += shard.unreported_cost;
        if shard.round == 0 {
            self.counts.total += shard.requests;
        }
        match shard.settled() {
            Some(counts) => self.add_settled(shard, counts),
            None if shard.round > 0 => {}
            None if shard.is_refused_for_good() => {
                self.open += shard.requests;
                self.refused += shard.requests;
                self.counts.failed += shard.requests;
            }
            None => self.add_unsent(shard.requests),
        }
    }

    /// Adds requests of the first round whose shard was not sent, or is not settled.
    fn add_unsent(&mut self, requests: i64) {
        self.open += requests;
        self.counts.cancelled += requests;
    }

    /// Adds shards that no attempt was made of, all of one round.
    pub(super) fn add_planned(&mut self, round: u32, requests: i64, failed_before: i64) {
        self.round = self.round.max(round);
        self.failed_before += failed_before;
        if round == 0 {
            self.counts.total += requests;
            self.add_unsent(requests);
        }
    }

    fn add_settled(&mut self, shard: &Shard, counts: RequestCounts) {
        let (prior_counts, sum) = (shard.prior_counts, &mut self.counts);
        sum.succeeded += counts.succeeded;
        sum.reused += counts.reused;
        sum.failed += counts.failed - prior_counts.failed;
        sum.expired += counts.expired - prior_counts.expired;
        sum.cancelled += counts.cancelled - prior_counts.cancelled;
        sum.missing += counts.missing - prior_counts.missing;
        self.settled += 1;
        let retryable = match shard.attempt.as_ref().map(|a| &a.state) {
            Some(AttemptState::Settled { retryable, usage, .. }) => {
                self.answers += usage.answers;
                self.mixed_answers += usage.mixed_answers;
                self.repeated_rows = self.repeated_rows.saturating_add(usage.repeated_rows);
                *retryable
            }
            _ => 0,
        };
        self.retryable += retryable;
        self.failed_for_good += counts.failed - retryable;
        self.done += shard.done(never_executed(counts));
        match (shard.round, shard.is_given_up(), shard.is_too_large()) {
            (0, true, _) => self.given_up += shard.requests,
            (0, _, true) => self.too_large += 1,
            (1.., true, _) | (1.., _, true) => self.last_rounds += 1,
            _ => {}
        }
    }
}

/// Returns the number of requests that no provider executed, as far as is known.
fn never_executed(counts: RequestCounts) -> i64 {
    counts.expired + counts.cancelled + counts.missing
}

impl Shard {
    /// Returns the number of requests that are done because of this shard while `left` of its requests are not. In a later
    /// round, only requests that were never executed before it count.
    pub(super) fn done(&self, left: i64) -> i64 {
        let before = if self.round == 0 { self.requests } else { never_executed(self.prior_counts) };
        before - left.min(before)
    }

    fn was_submitted(&self) -> bool {
        matches!(
            self.attempt.as_ref().map(|a| &a.state),
            Some(AttemptState::Submitted { .. } | AttemptState::Settled { .. } | AttemptState::Abandoned { .. })
        )
    }
}

/// Requests without an answer, by code, over shards.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(transparent)]
pub struct ErrorTotals(pub(super) BTreeMap<String, ErrorTotal>);

/// Requests without an answer that have one code.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ErrorTotal {
    /// Number of requests. Requests that a later round was planned for stop counting once that round's shard is settled.
    pub count: i64,
    /// The user's name for one of them: of the last shard in order that has the code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sample: String,
    /// Index of that shard.
    #[serde(default)]
    pub shard: usize,
}

impl ErrorTotals {
    /// Adds the shard of this index, in any state.
    pub fn add(&mut self, index: usize, shard: &Shard) {
        let Some(AttemptState::Settled { errors, .. }) = shard.attempt.as_ref().map(|a| &a.state) else { return };
        for error in errors {
            let sum = self.0.entry(error.code.clone()).or_default();
            sum.count += error.count;
            // The latest round names a request that still has no answer.
            if index >= sum.shard {
                (sum.sample, sum.shard) = (error.sample_custom_id.clone(), index);
            }
        }
        for error in &shard.prior_errors {
            self.0.entry(error.code.clone()).or_default().count -= error.count;
        }
    }

    /// Forgets the codes with the fewest requests beyond [`CODE_LIMIT`].
    pub(super) fn bound(&mut self) {
        while self.0.len() > CODE_LIMIT {
            let rarest = self.0.iter().min_by_key(|(_, sum)| sum.count.unsigned_abs()).map(|(code, _)| code.clone());
            let Some(rarest) = rarest else { return };
            self.0.remove(&rarest);
        }
    }
}
