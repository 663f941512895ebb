//! What batches cost, budgets and canaries. A line costs one USD when it was executed, and two at most.

use std::sync::Arc;

use batchjob_operator::api::{BatchUsage, FileContent, OnExceeded, TokenHints, TokenUsage};
use batchjob_operator::lifecycle::{Approval, CostLimit};
use batchjob_operator::money::{PriceList, Prices, Rates};

use super::mutants::without;
use super::*;

const MILLION: i64 = 1_000_000;

/// A USD for a million tokens of output.
pub(super) fn prices() -> Arc<PriceList> {
    let batch = Rates { output: dollars(1), ..Rates::default() };
    let prices = Prices { batch, real_time: batch, long_context: None };
    Arc::new(PriceList { models: vec![("*".into(), prices)], ..PriceList::default() })
}

/// Two million tokens of output for each line.
pub(super) fn hints(lines: &str) -> TokenHints {
    TokenHints { max_output_tokens: 2 * MILLION * lines.len() as i64, ..TokenHints::default() }
}

/// What is counted of a file.
pub(super) fn content(sha256: &str) -> FileContent {
    let lines = parse(sha256).1;
    let hints = TokenHints { text_bytes: 2, ..hints(lines) };
    FileContent { requests: lines.len() as i64, model: Some("m".into()), hints }
}

/// A million tokens for each line that was executed.
pub(super) fn usage(ended: &str) -> BatchUsage {
    let output_tokens = MILLION * executed(ended);
    BatchUsage { tokens: TokenUsage { output_tokens, ..TokenUsage::default() }, ..BatchUsage::default() }
}

pub(super) fn executed(ended: &str) -> i64 {
    ended.chars().filter(|end| matches!(end, 'Y' | 'F' | 'U')).count() as i64
}

pub(super) fn dollars(amount: i64) -> Usd {
    Usd::parse(&amount.to_string()).unwrap()
}

pub(super) fn limit(usd: u8) -> CostLimit {
    CostLimit { most: dollars(usd.into()), on_exceeded: OnExceeded::Hold }
}

impl World {
    /// Remembers whether an intent that is in the journal now had room in the budget that it was decided on, and was approved. What
    /// may yet be sent, and what runs, costs what it can at most; what ended costs what it did.
    pub(super) fn note_spend(&mut self, write: &Write) {
        let is_made = |a: &Attempt| self.batches.iter().any(|b| b.intent == a.intent_id);
        let unmade = write.next.shards.iter().filter(|s| {
            let intended = |a: &Attempt| a.state == AttemptState::Intended && !is_made(a);
            s.attempt.as_ref().is_some_and(intended)
        });
        let unmade = unmade.map(|s| 2 * s.requests).sum::<i64>();
        let made = self.batches.iter().map(|batch| match &batch.state {
            BatchState::Running { .. } => 2 * parse(&batch.file).1.len() as i64,
            BatchState::Ended(ended) => executed(ended),
            // Who was asked about it may be wrong. One that was never recorded is proved not to run.
            BatchState::Forgotten if self.history.answered => 2 * parse(&batch.file).1.len() as i64,
            BatchState::Forgotten | BatchState::Rejected | BatchState::OverTheLimit => 0,
        });
        let all = made.sum::<i64>() + unmade;
        self.history.over_budget |= write.budgeted.is_some_and(|most| dollars(all) > most);
        let is_new = |a: &Attempt| Some(&a.intent_id) == write.intent.as_ref();
        let new = write.next.shards.iter().find(|s| s.attempt.as_ref().is_some_and(is_new));
        let is_behind = new.is_some_and(|s| s.first > 0) && self.is_with_canary();
        self.history.unapproved |= is_behind && !self.history.approved;
    }

    fn is_with_canary(&self) -> bool {
        self.objects.iter().flatten().any(|o| o.canary.is_some())
    }

    /// Whether a line behind the canary was sent.
    pub(super) fn is_sent_behind_canary(&self) -> bool {
        self.batches.iter().any(|batch| !parse(&batch.file).1.starts_with('0'))
    }
}

pub(super) fn without_canary(journal: &Shared<Journal>) -> Journal {
    let mut journal = Journal::clone(journal);
    journal.plan.iter_mut().for_each(|plan| plan.canary = None);
    journal
}

/// The journal with an approval if the object has the annotation of one.
pub(super) fn approved_by(journal: &Shared<Journal>, job: &JobView) -> Journal {
    let approval = job.approves.as_ref().map(|_| Approval { by: CanaryApproval::Manual, at: 0 });
    Journal { approval, ..Journal::clone(journal) }
}

pub(super) fn free_in_flight(journal: &Shared<Journal>) -> Journal {
    let mut journal = Journal::clone(journal);
    let attempts = journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut());
    attempts.for_each(|attempt| attempt.prices = Some(Box::default()));
    journal
}

pub(super) fn all_reported(journal: &Shared<Journal>) -> Journal {
    let mut journal = Journal::clone(journal);
    journal.shards.iter_mut().for_each(|shard| shard.unreported_cost = Default::default());
    journal
}

const NONE: Budget = Budget::NONE;

/// Every scenario here, by its name.
pub(super) const PAYING: &[(&str, fn())] = &named![
    a_batch_waits_for_one_that_may_end_for_less,
    a_budget_that_is_raised_and_lowered,
    a_batch_that_was_given_up_counts_against_the_budget,
    a_canary_is_approved_before_anything_else_is_sent,
];

#[test]
fn a_batch_waits_for_one_that_may_end_for_less() {
    Protocol::paying(2, 3, Budget { crashes: 1, ..NONE }).holds();
    Protocol { seals: true, ..Protocol::paying(2, 3, Budget { failures: 1, ..NONE }) }.holds();
    if soak() {
        Protocol::paying(2, 3, Budget { recreations: 1, ..NONE }).holds();
        Protocol::paying(3, 4, NONE).holds();
        Protocol { start: Start::Planned, ..Protocol::paying(2, 3, Budget { crashes: 1, ..NONE }) }.holds();
    }
}

#[test]
fn a_budget_that_is_raised_and_lowered() {
    Protocol::paying(2, 2, Budget { budget_changes: 1, ..NONE }).holds();
    Protocol::paying(2, 3, Budget { budget_changes: 2, ..NONE }).keeps(WITHIN_BUDGET);
    if soak() {
        Protocol::paying(2, 2, Budget { budget_changes: 1, crashes: 1, ..NONE }).holds();
    }
}

#[test]
fn a_batch_that_was_given_up_counts_against_the_budget() {
    let model = Protocol::paying(1, 4, Budget { losses: 1, answers: 1, ..NONE });
    Protocol { attempts: 2, ..model }.keeps(WITHIN_BUDGET);
}

#[test]
fn a_canary_is_approved_before_anything_else_is_sent() {
    Protocol::trying(Budget { answers: 1, crashes: 1, ..NONE }).holds();
    Protocol::trying(Budget { answers: 1, recreations: 1, ..NONE }).keeps(ASKS_ONCE);
    Protocol { stop: StopPolicy::Cancel, ..Protocol::trying(Budget { answers: 1, stops: 1, ..NONE }) }.keeps(APPROVED);
    if soak() {
        Protocol::trying(Budget { answers: 1, recreations: 1, ..NONE }).holds();
        Protocol::trying(Budget { answers: 1, deletions: 1, ..NONE }).holds();
        Protocol { start: Start::Planned, ..Protocol::trying(Budget { answers: 1, crashes: 1, ..NONE }) }.holds();
        Protocol { seals: true, ..Protocol::trying(Budget { answers: 1, crashes: 1, ..NONE }) }.holds();
    }
}

#[test]
fn the_rest_waits_for_the_approval_of_the_canary() {
    without(Mutant::SendsUnapproved, Protocol::trying(NONE), APPROVED);
}

#[test]
fn an_approval_is_in_the_journal() {
    // The annotation is gone with the object.
    let model = Protocol::trying(Budget { answers: 1, recreations: 1, ..NONE });
    without(Mutant::ForgetsApproval, Protocol { lines: 3, ..model }, ASKS_ONCE);
}

#[test]
fn batches_in_flight_count_against_the_budget() {
    without(Mutant::IgnoresInFlight, Protocol::paying(2, 3, NONE), WITHIN_BUDGET);
}

#[test]
fn batches_that_were_given_up_count_against_the_budget() {
    let model = Protocol::paying(1, 3, Budget { losses: 1, answers: 1, ..NONE });
    without(Mutant::IgnoresGivenUp, Protocol { attempts: 2, ..model }, WITHIN_BUDGET);
}
