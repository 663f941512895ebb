//! Budgets of the provider: what is reserved for each batch, and counted once.

use std::sync::Arc;

use batchjob_operator::api::BudgetPeriod;
use batchjob_operator::money::{Budget as ProviderBudget, Terms, Unreserved};

use super::money::{dollars, executed};
use super::*;

const NONE: Budget = Budget::NONE;
/// Key of another work's reservation.
const RIVAL: &str = "rival/0";

/// Every scenario here, by its name.
pub(super) const RESERVATIONS: &[(&str, fn())] = &named![
    reserved_before_it_is_sent,
    counted_when_it_ended,
    jobs_that_end_early_within_budgets,
    works_share_a_budget
];

/// Prices by which each shard costs something.
pub(super) fn priced() -> Arc<PriceList> {
    let batch = Rates { input: Usd::parse("1000").unwrap(), ..Rates::default() };
    let models = vec![("*".into(), Prices { batch, ..Prices::default() })];
    Arc::new(PriceList { models, ..PriceList::default() })
}

pub(super) fn without_budgets(job: &JobView) -> JobView {
    let provider = job.provider.clone().map(|provider| ProviderView { has_budgets: false, ..provider });
    JobView { provider, ..job.clone() }
}

impl Protocol {
    /// Reserves for the shards of a journal that are under way.
    pub(super) fn reserve_for(&self, w: &mut World, journal: &Journal) {
        for (at, shard) in journal.shards.entries().filter(|(_, s)| self.budgets && s.is_live()) {
            let Owner { namespace, uid: job_uid, .. } = journal.owner.clone();
            let (day, rev) = (day_of(0), journal.rev);
            let prices = *money::prices().of("m").unwrap();
            let terms = self.limit.map(|_| Box::new(Terms::of(shard.requests, &prices)));
            let reservation = Reservation { namespace, job_uid, amount: dollars(2), day, rev, terms };
            w.ledger.open.insert(shard_key(&journal.work_id, at), reservation);
        }
    }

    fn limits(&self) -> Vec<ProviderBudget> {
        let of = |most: u8| ProviderBudget {
            period: BudgetPeriod::Day,
            max_cost: dollars(most.into()),
            per_namespace: false,
        };
        self.limit.map(of).into_iter().collect()
    }

    /// What batches cost or may yet cost, and what another work reserved, fits into the budget; and so does what the ledger says.
    pub(super) fn is_within_limit(&self, w: &World) -> bool {
        let Some(limit) = self.limits().pop() else { return true };
        let is_made = |a: &Attempt| w.batches.iter().any(|b| b.intent == a.intent_id);
        let unmade = |s: &&Shard| s.attempt.as_ref().is_some_and(|a| a.state == AttemptState::Intended && !is_made(a));
        let unmade = w.journal.iter().flat_map(|j| j.shards.iter()).filter(unmade).map(|s| 2 * s.requests).sum::<i64>();
        let made = w.batches.iter().map(|batch| match &batch.state {
            BatchState::Running { .. } => 2 * parse(&batch.file).1.len() as i64,
            BatchState::Ended(ended) => executed(ended),
            BatchState::Rejected | BatchState::OverTheLimit | BatchState::Forgotten => 0,
        });
        let rival = w.ledger.open.get(RIVAL).map_or(Usd::ZERO, |open| open.amount);
        let used = w.ledger.used(&limit, None, day_of(w.now), None);
        dollars(unmade + made.sum::<i64>()) + rival <= limit.max_cost && used.spent + used.reserved <= limit.max_cost
    }

    /// Another work reserves for a batch, or its batch ends without cost.
    pub(super) fn compete(&self, w: &mut World) -> Option<()> {
        w.left.rivals -= 1;
        let today = day_of(w.now);
        if w.ledger.open.remove(RIVAL).is_none() {
            let (namespace, job_uid, amount) = ("rival".into(), "rival".into(), dollars(2));
            let wanted = Reservation { namespace, job_uid, amount, day: today, rev: 1, terms: None };
            return w.ledger.reserve(RIVAL, wanted, None, &self.limits()).ok();
        }
        (0..2).for_each(|replica| w.learn(replica, judge_again));
        Some(())
    }

    fn reserve(
        &self,
        ledger: &mut Ledger,
        key: &str,
        wanted: Reservation,
        replaces: Option<u64>,
    ) -> Result<(), Unreserved> {
        if self.mutant != Some(Mutant::IgnoresReserved) {
            return ledger.reserve(key, wanted, replaces, &self.limits());
        }
        let mut shown = ledger.clone();
        shown.open.retain(|other, _| other == key);
        shown.reserve(key, wanted, replaces, &self.limits())?;
        ledger.open.extend(shown.open);
        Ok(())
    }

    /// Each batch that may be billed has a reservation, or its cost is in the ledger; and no cost is there twice.
    pub(super) fn is_accounted(&self, w: &World) -> bool {
        let bills = |b: &&Batch| match &b.state {
            BatchState::Running { .. } => true,
            BatchState::Ended(ends) => ends.contains(['Y', 'F', 'U']),
            BatchState::Rejected | BatchState::OverTheLimit | BatchState::Forgotten => false,
        };
        let open = w.ledger.open.keys().filter(|key| *key != RIVAL).count();
        let once = |b: &Batch| match w.counted.get(&b.intent) {
            Some(times) => *times == 1,
            None => open > 0,
        };
        let may_be_billed = || w.batches.iter().filter(|b| !b.doubled).filter(bills);
        !self.budgets
            || w.counted.values().all(|times| *times == 1)
                && may_be_billed().all(once)
                && may_be_billed().filter(|b| !w.counted.contains_key(&b.intent)).count() <= open
    }

    /// A write of the ledger by what a replica judged.
    pub(super) fn write_ledger(
        &self,
        w: &mut World,
        replica: usize,
        memory: &mut Memory,
        job: &JobView,
        step: &Step,
    ) -> Option<()> {
        let journal = w.journal.clone()?;
        let (rev, today) = (journal.rev, day_of(w.now));
        match step {
            Step::Reserve { attempt_key, amount, terms, replaces } => {
                let key = shard_key(&journal.work_id, attempt_key.shard);
                let (namespace, job_uid) = (job.owner.namespace.clone(), job.owner.uid.clone());
                let terms = Some(terms.clone());
                let wanted = Reservation { namespace, job_uid, amount: *amount, day: today, rev, terms };
                let answer = self.reserve(&mut w.ledger, &key, wanted, *replaces);
                let request =
                    ReserveRequest { attempt_key: *attempt_key, rev, amount: *amount, has_sent: journal.has_intents() };
                match ReserveResult::of(request, answer, "p", w.now, 0) {
                    // It is judged again once there may be room.
                    Ok(known) if known.outcome.is_err() => {
                        memory.reserved = Some(ReserveResult { until: i64::MAX, ..known });
                    }
                    Ok(known) => memory.reserved = Some(known),
                    Err(later) => {
                        memory.later = Some(later);
                        w.renew(replica, false);
                    }
                }
            }
            Step::SettleLater => {
                w.ledger.settle_later(&journal.work_id, rev, today);
                memory.later = memory.later.map(|later| LaterRevision { counted_after: Some(rev), ..later });
            }
            Step::SettleCost { attempt_key, billed } => {
                let intent = journal.shards.get(attempt_key.shard)?.attempt.as_ref()?.intent_id.clone();
                let key = shard_key(&journal.work_id, attempt_key.shard);
                if w.ledger.settle(&key, rev, billed.as_deref(), today) || self.mutant == Some(Mutant::CountsAgain) {
                    *w.counted.entry(intent.clone()).or_default() += 1;
                }
                memory.accounted.insert(intent);
            }
            Step::Release { unbilled } => {
                w.ledger.release(&journal.work_id, rev, unbilled, today);
                memory.released = Some(rev);
            }
            _ => return None,
        }
        if self.limit.is_none() {
            // What is reserved and counted is explored here, and slow reservations in `money::ledger`.
            w.ledger.spent.clear();
            w.ledger.settled.clear();
        } else if !matches!(step, Step::Reserve { .. }) {
            (0..2).for_each(|replica| w.learn(replica, judge_again));
            judge_again(memory);
        }
        Some(())
    }

    /// What a mutant does to the ledger beside a step.
    pub(super) fn break_ledger(&self, w: &mut World, step: &Step) {
        let Step::Swap(next) = step else { return };
        let is_recorded = attempts(next).any(|a| matches!(a.state, AttemptState::Submitted { .. }));
        if self.mutant == Some(Mutant::ReleasesLive) && is_recorded {
            w.ledger.release(&next.work_id, u64::MAX, &Unbilled::default(), day_of(w.now));
        }
    }
}

/// Budgets may have more room.
fn judge_again(memory: &mut Memory) {
    memory.reserved.take_if(|known| known.outcome.is_err());
}

/// Two shards from a first recorded batch to results, at a provider whose budget has no room for two batches in flight.
fn sharing(budget: Budget) -> Protocol {
    let (start, lines, parallelism) = (Start::Begun, 2, 2);
    Protocol { start, lines, parallelism, budgets: true, limit: Some(3), attempts: 1, ..Protocol::whole(budget) }
}

/// One shard, from the opening to a recorded batch.
fn submitting(budget: Budget) -> Protocol {
    Protocol { budgets: true, ..Protocol::submitting(budget) }
}

/// One shard, from a recorded batch to results.
fn ending(budget: Budget) -> Protocol {
    Protocol { budgets: true, lines: 1, ..Protocol::ending(budget) }
}

#[test]
fn reserved_before_it_is_sent() {
    submitting(Budget { crashes: 1, ..NONE }).holds();
    submitting(Budget { refusals: 1, ..NONE }).holds();
    submitting(Budget { recreations: 1, ..NONE }).holds();
    submitting(Budget { old_looks: 1, ..NONE }).holds();
    if soak() {
        submitting(Budget { crashes: 1, lost_replies: 1, ..NONE }).holds();
        Protocol { attempts: 1, budgets: true, ..Protocol::whole(NONE) }.holds();
    }
}

#[test]
fn counted_when_it_ended() {
    ending(Budget { crashes: 1, ..NONE }).holds();
    ending(Budget { rejections: 1, ..NONE }).holds();
    ending(Budget { old_looks: 1, ..NONE }).holds();
    if soak() {
        ending(Budget { crashes: 1, expiries: 1, ..NONE }).holds();
    }
}

#[test]
fn jobs_that_end_early_within_budgets() {
    ending(Budget { deletions: 1, ..NONE }).holds();
    Protocol { stop: StopPolicy::Cancel, ..ending(Budget { stops: 1, ..NONE }) }.holds();
}

#[test]
fn works_share_a_budget() {
    sharing(Budget { rivals: 2, ..NONE }).keeps(WITHIN_LIMITS);
    if soak() {
        sharing(Budget { crashes: 1, rivals: 1, ..NONE }).keeps(WITHIN_LIMITS);
    }
}

#[test]
fn batches_in_flight_take_room_in_the_budget() {
    mutants::without(Mutant::IgnoresReserved, sharing(NONE), WITHIN_LIMITS);
}

#[test]
fn a_batch_is_reserved_for_before_its_intent() {
    mutants::without(Mutant::ReservesNothing, submitting(NONE), COUNTED);
}

#[test]
fn a_cost_is_counted_only_in_the_place_of_a_reservation() {
    mutants::without(Mutant::CountsAgain, ending(Budget { crashes: 1, ..NONE }), COUNTED);
}

#[test]
fn a_reservation_stays_while_its_batch_runs() {
    mutants::without(Mutant::ReleasesLive, submitting(NONE), COUNTED);
}

/// What the journal settled is released once the end is decided.
#[test]
fn a_cost_is_counted_before_the_journal_settles_it() {
    mutants::without(Mutant::CountsLate, ending(NONE), COUNTED);
}
