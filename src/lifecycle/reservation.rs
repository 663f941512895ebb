//! The part of a job in the ledger of its provider's budgets. The most that a batch can cost is reserved before its intent, and settled
//! before the journal says what became of the batch. Where the provider has no budgets, nothing of this happens.
//!
//! Every write of the ledger is judged on a revision of the journal (`money::Ledger`). A process writes an intent only over the revision
//! on which it reserved, or over a later revision that the same process wrote. A release is judged on a journal that allows no further
//! intent. So it never ends the reservation of a batch that is sent later.

use super::attempt::{Attempt, AttemptKey};
use super::decide::wait;
use super::findings::{BudgetWait, ReserveResult};
use super::forecast::ceiling;
use super::journal::Journal;
use super::memory::Memory;
use super::observed::Observed;
use super::shard::UnreportedCost;
use super::step::{Blocked, Step};
use super::submission::Round;
use super::task::Task;
use crate::api::conditions::reasons;
use crate::api::text::clock_time;
use crate::api::{BatchUsage, BudgetPeriod};
use crate::money::{BudgetUse, Cost, Unreserved, Usd, period_end};

/// Milliseconds between two looks whether the cost of a batch is bounded by now.
const MENDED_CHECK: i64 = 60_000;
/// Longest time in milliseconds until a budget that did not suffice is judged again.
const JUDGED_AGAIN: i64 = 600_000;

/// Whether the batch of an attempt may be sent, as far as budgets go.
pub(super) enum Turn {
    /// Its reservation stands, or the provider has no budgets.
    Now,
    /// This step comes first.
    After(Box<Step>),
    /// It has to wait.
    Later,
}

/// Returns whether the intent of the attempt may be written.
pub(super) fn turn(o: &Observed, journal: &Journal, attempt_key: AttemptKey, round: &mut Round) -> Turn {
    let Some(shard) = journal.shards.get(attempt_key.shard).filter(|_| has_budgets(o)) else { return Turn::Now };
    let bounded = match shard.hints.is_zero() && shard.requests > 0 {
        true => {
            Err("its requests were checked by an earlier version of the operator; delete the job and apply it again"
                .into())
        }
        false => ceiling(o, shard),
    };
    let amount = match bounded {
        Ok(amount) => amount,
        Err(why) => {
            let message = format!("a batch is sent only if its cost is bounded, for its provider has budgets: {why}");
            round.blocked.get_or_insert(Blocked { reason: reasons::COST_UNKNOWN, message });
            round.due(o.now + MENDED_CHECK);
            return Turn::Later;
        }
    };
    let known = o.memory.reserved.as_ref().filter(|known| known.attempt_key == attempt_key && o.now < known.until);
    match known {
        Some(ReserveResult { outcome: Ok(()), rev, amount: reserved, .. })
            if *rev == journal.rev && *reserved >= amount =>
        {
            Turn::Now
        }
        Some(ReserveResult { outcome: Err(wait), amount: wanted, until, .. }) if *wanted == amount => {
            match &wait.blocked {
                Some(blocked) => _ = round.blocked.get_or_insert(blocked.clone()),
                None => round.say(reasons::WAITING_FOR_BUDGET, wait.message.clone()),
            }
            round.due(*until);
            Turn::Later
        }
        _ if o.memory.running.contains(&Task::Reserve) => Turn::Later,
        _ => Turn::After(Box::new(Step::Reserve { attempt_key, amount })),
    }
}

/// Returns the step that has to come before the journal says that the batch of an attempt ended, or was given up on: its `cost` goes to
/// the ledger; for None, all that was reserved. `Err` if that is under way.
pub(super) fn settle(
    o: &Observed,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    cost: Option<Usd>,
) -> Result<Option<Step>, ()> {
    if !has_budgets(o) || o.memory.accounted.contains(&attempt.intent_id) {
        return Ok(None);
    }
    match o.memory.running.contains(&Task::SettleCost(attempt_key)) {
        true => Err(()),
        false => Ok(Some(Step::SettleCost { attempt_key, cost })),
    }
}

/// Returns the cost of a batch for the ledger: of its answers, and the most that they do not report, such as of requests in no file and
/// of a twin. None if an answer has no usage, or nothing bounds the rest: then the whole reservation counts.
pub(super) fn billed(cost: Option<&Cost>, usage: &BatchUsage, unreported: UnreportedCost) -> Option<Usd> {
    let is_known = usage.tokens.answers_without_usage == 0 && unreported.unbounded == 0;
    Some(cost.filter(|_| is_known)?.batch + unreported.most)
}

/// Returns the step that ends the work's reservations, if it has to come before `step`: the journal allows no further intent, and has no
/// batch in flight.
pub(super) fn release_first(o: &Observed, step: &Step) -> Option<Step> {
    let is_end = matches!(step, Step::Fail(_) | Step::Conclude { .. } | Step::RemoveFinalizer { .. });
    let journal = o.journal.filter(|journal| journal.owner == o.job.owner && !o.job.finished)?;
    if !has_budgets(o) || !(is_end || *step == Step::Write) || !lets_no_intent_follow(journal) {
        return None;
    }
    let is_done = o.memory.released == Some(journal.rev);
    // The end waits for one try. If it fails, the reservations are swept once the job is over.
    if is_done || o.memory.failed_calls.contains_key(&Task::Release) {
        return None;
    }
    match o.memory.running.contains(&Task::Release) {
        true => is_end.then(|| wait(None, reasons::WRITING_RESULTS)),
        false => Some(Step::Release),
    }
}

fn has_budgets(o: &Observed) -> bool {
    o.job.provider.as_ref().is_some_and(|provider| provider.has_budgets)
}

fn lets_no_intent_follow(journal: &Journal) -> bool {
    journal.commit.is_some() || (!journal.has_intents() && (journal.plan.is_none() || journal.closing.is_some()))
}

impl Memory {
    /// Records that this process wrote `next` over the journal `old`. A reservation stays, unless `next` allows no further intent.
    pub fn keep_reservation(&mut self, old: &Journal, next: &Journal) {
        let Some(reserved) = self.reserved.as_mut().filter(|reserved| reserved.outcome.is_ok()) else { return };
        match reserved.rev == old.rev && next.plan.is_some() && next.closing.is_none() && next.commit.is_none() {
            true => reserved.rev = next.rev,
            false => self.reserved = None,
        }
    }
}

impl ReserveResult {
    /// Returns what a job is told of `outcome`, the ledger's answer at `now` (Unix milliseconds) to a request for `amount`. None if the
    /// journal has to be read again first. `state` is the state of the ledger that it was judged on.
    pub fn of(
        (attempt_key, rev, amount): (AttemptKey, u64, Usd),
        outcome: Result<(), Unreserved>,
        provider: &str,
        now: i64,
        state: u64,
    ) -> Option<ReserveResult> {
        let midnight = period_end(BudgetPeriod::Day, now);
        let again = now.saturating_add(JUDGED_AGAIN);
        let (until, outcome) = match outcome {
            Ok(()) => (midnight, Ok(())),
            Err(Unreserved::Stale) => return None,
            Err(Unreserved::Full) => {
                let message = format!(
                    "the ledger of budgets of {provider} is full; the next batch is sent when batches in flight there end"
                );
                (again, Err(BudgetWait { message, blocked: None, state }))
            }
            Err(Unreserved::Exceeded(used)) => {
                let wait = exceeded(&used, amount, provider, now);
                (again.min(midnight), Err(BudgetWait { state, ..wait }))
            }
        };
        Some(ReserveResult { attempt_key, rev, amount, until, outcome })
    }
}

/// Returns the wait for a budget. Its words stay the same for as long as it lasts, whatever others spend.
fn exceeded(used: &BudgetUse, amount: Usd, provider: &str, now: i64) -> BudgetWait {
    let BudgetUse { budget, namespace, .. } = used;
    let period = match budget.period {
        BudgetPeriod::Day => "a day",
        BudgetPeriod::Month => "a month",
    };
    let of = namespace.as_ref().map_or(String::new(), |namespace| format!(" for namespace '{namespace}'"));
    let name = format!("the budget of {} {period}{of} of {provider}", budget.max_cost);
    if amount > budget.max_cost {
        let message = format!(
            "the next batch can cost {amount}, more than {name} allows for all batches; raise `spec.budgets` there, or make \
             smaller batches with `limits.maxRequestsPerBatch`"
        );
        let blocked = Blocked { reason: reasons::BUDGET_TOO_SMALL, message: message.clone() };
        return BudgetWait { message, blocked: Some(blocked), state: 0 };
    }
    let end = clock_time(period_end(budget.period, now));
    let message = format!(
        "the next batch can cost {amount}, and less than that is left of {name}; it is judged again when batches in flight there \
         end, when `spec.budgets` is changed, and at {end}, when the next period begins"
    );
    BudgetWait { message, blocked: None, state: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TokenUsage;
    use crate::money::Budget;

    fn usd(amount: &str) -> Usd {
        Usd::parse(amount).unwrap()
    }

    #[test]
    fn a_wait_for_a_budget_says_what_for_and_until_when() {
        let now = "2026-11-30T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let budget = |period, namespace: Option<&str>| BudgetUse {
            budget: Budget { period, max_cost: usd("10"), per_namespace: namespace.is_some() },
            namespace: namespace.map(Into::into),
            spent: usd("5"),
            reserved: usd("3"),
        };
        let said = |used: BudgetUse, amount: &str| exceeded(&used, usd(amount), "ClusterBatchProvider 'llm'", now);
        let shop = said(budget(BudgetPeriod::Day, Some("shop")), "4");
        assert_eq!(
            shop.message,
            "the next batch can cost $4.00, and less than that is left of the budget of $10.00 a day for namespace 'shop' of \
             ClusterBatchProvider 'llm'; it is judged again when batches in flight there end, when `spec.budgets` is changed, and at \
             Dec 01 00:00:00 UTC, when the next period begins"
        );
        let all = said(budget(BudgetPeriod::Month, None), "12");
        assert_eq!(all.blocked.map(|blocked| blocked.reason), Some(reasons::BUDGET_TOO_SMALL));
        assert_eq!(
            all.message,
            "the next batch can cost $12.00, more than the budget of $10.00 a month of ClusterBatchProvider 'llm' allows for all \
             batches; raise `spec.budgets` there, or make smaller batches with `limits.maxRequestsPerBatch`"
        );
    }

    #[test]
    fn answers_that_do_not_tell_their_usage_cost_what_was_reserved_and_requests_in_no_file_the_most_that_they_can() {
        let cost = Cost { batch: usd("4"), real_time: usd("8") };
        let told = BatchUsage::default();
        let tokens = TokenUsage { answers_without_usage: 1, ..TokenUsage::default() };
        let silent = BatchUsage { tokens, ..BatchUsage::default() };
        let unreported = |most: &str, unbounded| UnreportedCost { most: usd(most), unbounded };
        assert_eq!(billed(Some(&cost), &told, unreported("0", 0)), Some(usd("4")));
        assert_eq!(billed(Some(&cost), &told, unreported("2", 0)), Some(usd("6")), "requests in no file");
        assert_eq!(billed(Some(&cost), &told, unreported("0", 1)), None);
        assert_eq!(billed(Some(&cost), &silent, unreported("0", 0)), None);
        assert_eq!(billed(None, &told, unreported("0", 0)), None);
    }
}
