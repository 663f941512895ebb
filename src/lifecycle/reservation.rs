//! The part of a job in the ledger of its provider's budgets. The most that a batch can cost is reserved before its intent, and settled
//! before the journal says what became of the batch. Where the provider has no budgets, nothing of this happens.
//!
//! Every write of the ledger is judged on a revision of the journal (`money::Ledger`). A process writes an intent only over the revision
//! on which it reserved, or over a later revision that the same process wrote. A release is judged on a journal that allows no further
//! intent. So it never ends the reservation of a batch that is sent later.

use super::attempt::{Attempt, AttemptKey};
use super::decide::wait;
use super::findings::{BudgetWait, CollectResult, LaterRevision, ReserveResult};
use super::forecast::{Models, unbounded};
use super::journal::Journal;
use super::memory::Memory;
use super::observed::Observed;
use super::step::{Blocked, Step};
use super::submission::Round;
use super::task::Task;
use crate::api::conditions::reasons;
use crate::api::text::clock_time;
use crate::api::{BudgetPeriod, FileContent};
use crate::money::{Billed, BudgetUse, Terms, Unbilled, Unreserved, Usd, period_end};

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

/// Returns whether a file may be sent, as far as budgets go: its requests have to be counted by this process.
pub(super) fn is_counted(o: &Observed, file: &str) -> bool {
    !has_budgets(o) || o.memory.contents.contains_key(file)
}

/// Returns whether the intent of the attempt, which sends `file`, may be written.
pub(super) fn turn(o: &Observed, journal: &Journal, attempt_key: AttemptKey, file: &str, round: &mut Round) -> Turn {
    if !has_budgets(o) {
        return Turn::Now;
    }
    let (amount, terms) = match most_of(o, file) {
        Ok(most) => most,
        Err(why) => {
            let message = format!("a batch is sent only if its cost is bounded, for its provider has budgets: {why}");
            round.blocked.get_or_insert(Blocked { reason: reasons::COST_UNKNOWN, message });
            round.due(o.now + MENDED_CHECK);
            return Turn::Later;
        }
    };
    let known = o.memory.reserved.as_ref();
    match known.filter(|known| known.attempt_key == attempt_key && o.now < known.until) {
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
        _ => Turn::After(Box::new(catch_up(o, journal).unwrap_or_else(|| {
            let is_own = |known: &&ReserveResult| {
                known.outcome.is_ok() && known.attempt_key.shard == attempt_key.shard && known.rev == journal.rev
            };
            let replaces = known.filter(is_own).map(|known| known.judged);
            Step::Reserve { attempt_key, amount, terms: Box::new(terms), replaces }
        }))),
    }
}

/// Returns the most that a batch of this file can cost, and what its cost will be computed from. Nothing of it is from the journal.
///
/// # Errors
/// If no amount bounds it: the reason, and its remedy.
fn most_of(o: &Observed, file: &str) -> Result<(Usd, Terms), String> {
    let Some(FileContent { requests, model, hints }) = o.memory.contents.get(file) else {
        return Err("its requests are in no file that could be counted".into());
    };
    let model = model.as_deref().ok_or(
        "its requests, as they lie in storage, ask for several models or cannot be read; delete the job and its staged files, and \
         apply it again",
    )?;
    let models = Models::of(o.job);
    let prices = models.prices(model)?;
    let most = models.estimate(model, hints, *requests).ceiling_cost(prices).ok_or_else(|| unbounded(hints))?;
    Ok((most, Terms::of(*requests, prices)))
}

/// Returns the step that has to come first if an earlier journal was put back. The ledger then counts the batches that this journal does
/// not know, and the journal gets a revision that the ledger has not seen.
fn catch_up(o: &Observed, journal: &Journal) -> Option<Step> {
    let later = o.memory.later.filter(|later| later.past >= journal.rev)?;
    Some(match later.counted_after == Some(journal.rev) {
        true => Step::Swap(journal.past(later.past)),
        false => Step::SettleLater,
    })
}

/// Returns the step that has to come before the journal says that the batch of an attempt ended, or was given up on: what was `billed`
/// goes to the ledger; for None, all that was reserved. `Err` if that is under way.
pub(super) fn settle(
    o: &Observed,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    billed: Option<Billed>,
) -> Result<Option<Step>, ()> {
    if !has_budgets(o) || o.memory.accounted.contains(&attempt.intent_id) {
        return Ok(None);
    }
    match o.memory.running.contains(&Task::SettleCost(attempt_key)) {
        true => Err(()),
        false => Ok(Some(Step::SettleCost { attempt_key, billed: billed.map(Box::new) })),
    }
}

/// Returns the answers of a batch for the ledger. None if one of them has no usage, or if there are lines that answer no request of the
/// shard as its index in storage has them: then the whole reservation counts.
pub(super) fn billed(collected: &CollectResult, billed_again: i64) -> Option<Billed> {
    let CollectResult { counts, usage, long_context_above, foreign, .. } = collected;
    let told = counts.total.saturating_sub(counts.missing);
    let is_known = usage.tokens.answers_without_usage == 0 && *foreign == 0;
    is_known.then_some(Billed { told, usage: *usage, long_context_above: *long_context_above, billed_again })
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
        false => Some(Step::Release { unbilled: unbilled(journal) }),
    }
}

/// Returns the shards whose reservations end without cost. A batch that was settled while the provider had no budgets still has its
/// reservation, which counts in full.
fn unbilled(journal: &Journal) -> Unbilled {
    if !journal.has_intents() {
        return Unbilled::default();
    }
    let from = journal.shards.next_planned();
    let sent = journal.shards.entries().filter(|(at, _)| *at < from);
    Unbilled { shards: sent.filter(|(_, shard)| shard.made_no_batch()).map(|(at, _)| at).collect(), from }
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

/// A request to reserve the most that a batch can cost, as far as its answer is told.
#[derive(Clone, Copy, Debug)]
pub struct ReserveRequest {
    /// The attempt that is to be made.
    pub attempt_key: AttemptKey,
    /// Revision of the journal on which the request was judged.
    pub rev: u64,
    /// The amount.
    pub amount: Usd,
    /// Whether the work has sent a batch before, so that its division into batches is fixed.
    pub has_sent: bool,
}

impl ReserveResult {
    /// Returns what a job is told of `outcome`, the ledger's answer at `now` (Unix milliseconds). `state` is the state of the ledger that
    /// it was judged on.
    ///
    /// # Errors
    /// If the journal has to be read again first: the revision that it has to exceed.
    pub fn of(
        request: ReserveRequest,
        outcome: Result<(), Unreserved>,
        provider: &str,
        now: i64,
        state: u64,
    ) -> Result<ReserveResult, LaterRevision> {
        let midnight = period_end(BudgetPeriod::Day, now);
        let again = now.saturating_add(JUDGED_AGAIN);
        let (until, outcome) = match outcome {
            Ok(()) => (midnight, Ok(())),
            Err(Unreserved::Stale { past }) => return Err(LaterRevision { past, counted_after: None }),
            Err(Unreserved::Full) => {
                let message = format!(
                    "the ledger of budgets of {provider} is full; the next batch is sent when batches in flight there end"
                );
                (again, Err(BudgetWait { message, blocked: None, state }))
            }
            Err(Unreserved::Exceeded { used, amount }) => {
                let wait = exceeded(&request, (&used, amount), provider, now);
                (again.min(midnight), Err(BudgetWait { state, ..wait }))
            }
        };
        let ReserveRequest { attempt_key, rev, amount, .. } = request;
        Ok(ReserveResult { attempt_key, rev, judged: rev, amount, until, outcome })
    }
}

/// Returns the wait for a budget. Its words stay the same for as long as it lasts, whatever others spend.
fn exceeded(request: &ReserveRequest, (used, judged): (&BudgetUse, Usd), provider: &str, now: i64) -> BudgetWait {
    let BudgetUse { budget, namespace, .. } = used;
    let period = match budget.period {
        BudgetPeriod::Day => "a day",
        BudgetPeriod::Month => "a month",
    };
    let of = namespace.as_ref().map_or(String::new(), |namespace| format!(" for namespace '{namespace}'"));
    let name = format!("the budget of {} {period}{of} of {provider}", budget.max_cost);
    let next = match judged > request.amount {
        true => format!("an earlier attempt of the next batch reserved {judged}"),
        false => format!("the next batch can cost {judged}"),
    };
    if judged > budget.max_cost {
        let smaller = match request.has_sent {
            true => "",
            false => {
                "; or, for smaller batches, delete the job, lower `limits.maxRequestsPerBatch` of the provider, and apply the job again"
            }
        };
        let message =
            format!("{next}, more than {name} allows for all batches; raise `spec.budgets` of the provider{smaller}");
        let blocked = Blocked { reason: reasons::BUDGET_TOO_SMALL, message: message.clone() };
        return BudgetWait { message, blocked: Some(blocked), state: 0 };
    }
    let end = clock_time(period_end(budget.period, now));
    let message = format!(
        "{next}, and less than that is left of {name}; it is judged again when batches in flight there end, when `spec.budgets` is \
         changed, and at {end}, when the next period begins"
    );
    BudgetWait { message, blocked: None, state: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BatchUsage, RequestCounts, TokenUsage};
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
        let request = |amount: &str, has_sent| ReserveRequest {
            attempt_key: AttemptKey { shard: 0, attempt: 1 },
            rev: 1,
            amount: usd(amount),
            has_sent,
        };
        let said_of = |request: ReserveRequest, used: BudgetUse, judged: &str| {
            exceeded(&request, (&used, usd(judged)), "ClusterBatchProvider 'llm'", now)
        };
        let said = |used: BudgetUse, amount: &str| said_of(request(amount, false), used, amount);
        let shop = said(budget(BudgetPeriod::Day, Some("shop")), "4");
        assert_eq!(
            shop.message,
            "the next batch can cost $4.00, and less than that is left of the budget of $10.00 a day for namespace 'shop' of \
             ClusterBatchProvider 'llm'; it is judged again when batches in flight there end, when `spec.budgets` is changed, and at \
             Dec 01 00:00:00 UTC, when the next period begins"
        );
        let all = said(budget(BudgetPeriod::Month, None), "12");
        assert_eq!(all.blocked.map(|blocked| blocked.reason), Some(reasons::BUDGET_TOO_SMALL));
        let too_small = "the next batch can cost $12.00, more than the budget of $10.00 a month of ClusterBatchProvider 'llm' allows for \
                         all batches; raise `spec.budgets` of the provider";
        let smaller = "; or, for smaller batches, delete the job, lower `limits.maxRequestsPerBatch` of the provider, and apply the job \
                       again";
        assert_eq!(all.message, [too_small, smaller].concat());
        let sent = said_of(request("12", true), budget(BudgetPeriod::Month, None), "12");
        assert_eq!(sent.message, too_small, "its batches stay as they are");
        let earlier = said_of(request("1", true), budget(BudgetPeriod::Day, None), "8").message;
        assert!(
            earlier.starts_with("an earlier attempt of the next batch reserved $8.00, and less than that"),
            "{earlier}"
        );
    }

    #[test]
    fn answers_without_usage_and_lines_that_answer_no_request_leave_the_whole_reservation_counted() {
        let part = super::super::attempt::PartRef { name: "p".into(), sha256: "s".into() };
        let counts = RequestCounts { total: 10, succeeded: 7, missing: 3, ..RequestCounts::default() };
        let told = CollectResult {
            part,
            counts,
            retryable: 0,
            usage: BatchUsage::default(),
            long_context_above: Some(5),
            foreign: 0,
            totals: None,
            errors: vec![],
            files: vec![],
            short: None,
        };
        let of = |collected: &CollectResult| {
            billed(collected, 4).map(|billed| (billed.told, billed.long_context_above, billed.billed_again))
        };
        assert_eq!(of(&told), Some((7, Some(5), 4)));
        assert_eq!(of(&CollectResult { foreign: 1, ..told.clone() }), None, "its index in storage may be another one");
        let tokens = TokenUsage { answers_without_usage: 1, ..TokenUsage::default() };
        assert_eq!(of(&CollectResult { usage: BatchUsage { tokens, ..BatchUsage::default() }, ..told }), None);
    }
}
