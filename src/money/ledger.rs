//! The ledger of a provider object's budgets: amounts that are reserved for batches, and sums that were spent.
//!
//! The key of a reservation names a work and a shard. A process reserves before the intent of a batch; the process that learns how the
//! batch ended settles or releases the reservation. Each change is judged on a revision of the work's journal, and does not touch
//! reservations that were judged on a later revision. So a slow process neither settles nor releases the reservation of a later batch,
//! nor does it reserve again for a batch that was settled, which would then be settled twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{Billed, Terms, Usd};
use crate::api::BudgetPeriod;
use crate::fair::leaves_as_much;

/// Number of days, and of months, whose sums are kept for a namespace: the current one, and its neighbors, which a clock that is wrong
/// may need.
const KEPT: usize = 3;
/// Bytes of the largest ledger that takes the first reservation of a namespace. A ConfigMap has room for 1 MiB.
const ROOM: usize = 900 << 10;
/// Bytes of the largest ledger that takes a further reservation of a namespace. The rest is for namespaces without one.
const SHARED_ROOM: usize = ROOM / 4 * 3;
/// Most bytes, as JSON, of a reservation without its names, and of the sums of a namespace without its name.
const RESERVATION_BYTES: usize = 464;
const SUMS_BYTES: usize = 400;
/// Most works whose last settlement is remembered, and their bytes as JSON, each, at most.
const SETTLED_WORKS: usize = 1_000;
const SETTLED_BYTES: usize = 96;

/// A budget of a provider object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The period that it is for, in UTC.
    pub period: BudgetPeriod,
    /// The most that batches of a period may cost.
    pub max_cost: Usd,
    /// Whether it is for each namespace by itself.
    pub per_namespace: bool,
}

/// Reservations and sums of one provider object, as stored (JSON).
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Reservations by [`shard_key`].
    #[serde(default)]
    pub open: BTreeMap<String, Reservation>,
    /// Sums by namespace. Under the empty name: sums of namespaces that are not known any more.
    #[serde(default)]
    pub spent: BTreeMap<String, Sums>,
    /// The last settlements of works, for a day, by the work's id, which begins with its namespace and `/`.
    #[serde(default)]
    pub settled: BTreeMap<String, Settlement>,
}

/// The last settlement of a work.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settlement {
    /// The highest revision of the journal that a settlement was judged on. The journal has a later one before its next intent.
    pub rev: u64,
    /// The day of the settlement, in UTC.
    pub day: Date,
}

/// An amount that is reserved for a batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// Namespace of the job.
    pub namespace: String,
    /// uid of the job.
    #[serde(rename = "jobUID")]
    pub job_uid: String,
    /// The most that the batch can cost.
    #[serde(rename = "amountUSD")]
    pub amount: Usd,
    /// The day in UTC on which it was reserved. The batch counts in the periods of that day.
    pub day: Date,
    /// The revision of the journal that it was judged on.
    pub rev: u64,
    /// The terms from which its cost is computed once it ended. None in a ledger of an earlier version: the batch costs the whole amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Box<Terms>>,
}

/// The shards of a work of which no batch was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unbilled {
    /// Their indexes.
    pub shards: BTreeSet<usize>,
    /// Index from which on no shard was sent.
    pub from: usize,
}

/// The cost of a namespace's batches, by the day of their reservation and by the first day of its month.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sums {
    /// USD by day.
    #[serde(default)]
    pub days: BTreeMap<Date, Usd>,
    /// USD by the first day of a month.
    #[serde(default)]
    pub months: BTreeMap<Date, Usd>,
}

/// The reason why an amount was not reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreserved {
    /// A change was judged on a later revision of the journal already.
    Stale {
        /// The revision that the journal has to exceed.
        past: u64,
    },
    /// The ledger has no room for a further batch of the namespace.
    Full,
    /// A budget does not suffice.
    Exceeded {
        /// The budget.
        used: BudgetUse,
        /// The amount that it does not suffice for: what an earlier attempt reserved, if that is more than was asked for.
        amount: Usd,
    },
}

/// The use of a budget in its current period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetUse {
    /// The budget.
    pub budget: Budget,
    /// The namespace, of a budget for each namespace.
    pub namespace: Option<String>,
    /// The cost of batches that ended.
    pub spent: Usd,
    /// The amount that is reserved for batches in flight.
    pub reserved: Usd,
}

impl Budget {
    /// Returns the first day of its period that a day is in.
    pub fn start(&self, day: Date) -> Date {
        start(self.period, day)
    }
}

impl BudgetUse {
    /// Returns what is left.
    pub fn left(&self) -> Usd {
        self.budget.max_cost.saturating_sub(self.spent + self.reserved)
    }
}

/// Returns the key of a work's shard.
pub fn shard_key(work: &str, shard: usize) -> String {
    format!("{work}/{shard}")
}

/// Returns the day in UTC at a time in Unix milliseconds.
pub fn day_of(now: i64) -> Date {
    Timestamp::from_millisecond(now).unwrap_or_default().to_zoned(TimeZone::UTC).date()
}

/// Returns the first day of the period that a day is in.
fn start(period: BudgetPeriod, day: Date) -> Date {
    match period {
        BudgetPeriod::Day => day,
        BudgetPeriod::Month => day.first_of_month(),
    }
}

/// Returns the end of the period that a time is in, both in Unix milliseconds.
pub fn period_end(period: BudgetPeriod, now: i64) -> i64 {
    let day = day_of(now);
    let next = match period {
        BudgetPeriod::Day => day.tomorrow(),
        BudgetPeriod::Month => day.last_of_month().tomorrow(),
    };
    let midnight = next.and_then(|next| next.to_zoned(TimeZone::UTC));
    midnight.map_or(i64::MAX, |midnight| midnight.timestamp().as_millisecond())
}

impl Sums {
    fn of(&self, period: BudgetPeriod, day: Date) -> Usd {
        let sums = match period {
            BudgetPeriod::Day => &self.days,
            BudgetPeriod::Month => &self.months,
        };
        sums.get(&start(period, day)).copied().unwrap_or_default()
    }

    fn add(&mut self, cost: Usd, day: Date, today: Date) {
        *self.days.entry(day).or_default() += cost;
        *self.months.entry(day.first_of_month()).or_default() += cost;
        keep_near(&mut self.days, today);
        keep_near(&mut self.months, today.first_of_month());
    }

    /// Returns whether no sum is of a current period, also by a clock that is behind.
    fn is_past(&self, today: Date) -> bool {
        let yesterday = today.yesterday().unwrap_or(today);
        let month = yesterday.first_of_month();
        self.days.keys().all(|day| *day < yesterday) && self.months.keys().all(|of| *of < month)
    }
}

/// Drops the sums that are farthest from now. So a clock that was wrong for a while pushes out no current sum.
fn keep_near(sums: &mut BTreeMap<Date, Usd>, now: Date) {
    let distance = |day: &Date| day.duration_since(now).abs();
    while sums.len() > KEPT {
        let Some(farthest) = sums.keys().copied().max_by_key(distance) else { return };
        sums.remove(&farthest);
    }
}

impl Ledger {
    /// Reserves an amount under `key`, if every budget suffices for it, or takes over the reservation that an earlier attempt of the
    /// same shard left. Reservations of other periods do not count.
    ///
    /// A reservation that is taken over never becomes smaller, because another process may be about to send a batch on it, unless
    /// the caller says that it `replaces` its own one. It has to name the revision that it reserved on, and to have written each later
    /// revision of the journal up to that of `wanted` itself.
    ///
    /// # Errors
    /// The reason why the ledger is unchanged.
    pub fn reserve(
        &mut self,
        key: &str,
        mut wanted: Reservation,
        replaces: Option<u64>,
        budgets: &[Budget],
    ) -> Result<(), Unreserved> {
        if let Some(past) = self.to_exceed(key, wanted.rev) {
            return Err(Unreserved::Stale { past });
        }
        // On the same revision, another process may have reserved as well.
        let is_own = |open: &Reservation| replaces == Some(open.rev) && open.rev < wanted.rev;
        if let Some(open) = self.open.get(key).filter(|open| !is_own(open)) {
            let both = open.terms.as_deref().zip(wanted.terms.as_deref());
            wanted.terms = both.and_then(|(open, wanted)| open.of_either(*wanted)).map(Box::new);
            wanted.amount = wanted.amount.max(open.amount);
        }
        for budget in budgets {
            let of = budget.per_namespace.then_some(wanted.namespace.as_str());
            let used = self.used(budget, of, wanted.day, Some(key));
            if used.spent + used.reserved + wanted.amount > budget.max_cost {
                return Err(Unreserved::Exceeded { used, amount: wanted.amount });
            }
        }
        if !self.open.contains_key(key) && !self.has_room(key, &wanted) {
            return Err(Unreserved::Full);
        }
        self.open.insert(key.into(), wanted);
        Ok(())
    }

    /// Returns the revision that the journal has to exceed before it may reserve under `key`, unless `rev` exceeds it: that of the
    /// work's last settlement, or the one before that of the key's reservation.
    fn to_exceed(&self, key: &str, rev: u64) -> Option<u64> {
        let settled = self.settled.get(work_of(key)).map(|settled| settled.rev);
        let reserved = self.open.get(key).and_then(|open| open.rev.checked_sub(1));
        settled.max(reserved).filter(|past| *past >= rev)
    }

    /// Ends the reservation of a batch: at the cost that the provider's answers tell, or at its whole amount for None or where its
    /// terms are not known. Without a reservation, the batch was settled before, and nothing changes. `rev` is the revision of the
    /// journal that was judged. Returns whether something changed.
    pub fn settle(&mut self, key: &str, rev: u64, billed: Option<&Billed>, today: Date) -> bool {
        let Some(open) = self.open.get(key).filter(|open| open.rev <= rev).cloned() else { return false };
        self.open.remove(key);
        let told = open.terms.as_ref().zip(billed).map(|(terms, billed)| terms.cost(open.amount, billed));
        self.spent.entry(open.namespace).or_default().add(told.unwrap_or(open.amount), open.day, today);
        self.spent.retain(|_, sums| !sums.is_past(today));
        let settled = self.settled.entry(work_of(key).into()).or_insert(Settlement { rev, day: today });
        *settled = Settlement { rev: settled.rev.max(rev), day: today };
        self.forget_settlements(today);
        true
    }

    /// Forgets settlements before yesterday. If there are too many, the namespace with the most loses its oldest ones.
    fn forget_settlements(&mut self, today: Date) {
        let yesterday = today.yesterday().unwrap_or(today);
        self.settled.retain(|_, settled| settled.day >= yesterday);
        while self.settled.len() > SETTLED_WORKS {
            let mut works: BTreeMap<&str, usize> = BTreeMap::new();
            self.settled.keys().for_each(|work| *works.entry(namespace_of(work)).or_default() += 1);
            let rank =
                |work: &str, of: &Settlement| (works.get(namespace_of(work)).copied(), Reverse((of.day, of.rev)));
            let first = self.settled.iter().max_by_key(|(work, of)| rank(work, of)).map(|(work, _)| work.clone());
            first.map(|work| self.settled.remove(&work));
        }
    }

    /// Ends the reservations of a work, by a journal of revision `rev` that lets no intent follow and has no batch in flight: without
    /// cost for shards that are `unbilled`, and at the whole amount for others, whose batches nobody settled while the provider had no
    /// budgets. Returns whether something changed.
    pub fn release(&mut self, work_id: &str, rev: u64, unbilled: &Unbilled, today: Date) -> bool {
        let before = self.open.len();
        let is_free = |key: &str| shard_of(key).is_some_and(|at| at >= unbilled.from || unbilled.shards.contains(&at));
        self.open.retain(|key, open| !is_of(key, work_id) || open.rev > rev || !is_free(key));
        let freed = self.open.len() < before;
        self.settle_in_full(|key, open| is_of(key, work_id) && open.rev <= rev, today) > 0 || freed
    }

    /// Settles the reservations of a work that were judged on later revisions of its journal than `rev`, at their whole amounts: an
    /// earlier journal was put back, which does not know their batches. Returns whether something changed.
    pub fn settle_later(&mut self, work_id: &str, rev: u64, today: Date) -> bool {
        self.settle_in_full(|key, open| is_of(key, work_id) && open.rev > rev, today) > 0
    }

    /// Settles the reservations of jobs that are known to be gone, and that nobody else settles: at their whole amounts, because their
    /// batches may have been billed. Returns how many there were.
    pub fn sweep(&mut self, is_gone: impl Fn(&Reservation) -> bool, today: Date) -> usize {
        self.settle_in_full(|_, open| is_gone(open), today)
    }

    fn settle_in_full(&mut self, which: impl Fn(&str, &Reservation) -> bool, today: Date) -> usize {
        let chosen = self.open.iter().filter(|(key, open)| which(key, open));
        let chosen: Vec<(String, u64)> = chosen.map(|(key, open)| (key.clone(), open.rev)).collect();
        chosen.iter().filter(|(key, rev)| self.settle(key, *rev, None, today)).count()
    }

    /// Returns the use of a budget by a namespace, or by all for None, in the period of `day`. The reservation under `without` is
    /// left out.
    pub fn used(&self, budget: &Budget, namespace: Option<&str>, day: Date, without: Option<&str>) -> BudgetUse {
        let period = start(budget.period, day);
        let is_ours = |of: &str| namespace.is_none_or(|namespace| namespace == of);
        let spent = self.spent.iter().filter(|(of, _)| is_ours(of)).map(|(_, sums)| sums.of(budget.period, day)).sum();
        let open = self.open.iter().filter(|(key, _)| without != Some(key.as_str())).map(|(_, open)| open);
        let open = open.filter(|open| is_ours(&open.namespace) && start(budget.period, open.day) == period);
        let reserved = open.map(|open| open.amount).sum();
        BudgetUse { budget: *budget, namespace: namespace.map(Into::into), spent, reserved }
    }

    /// Returns the use of budgets in the periods of `day`: of a budget for each namespace, the `most` namespaces that have the
    /// least left.
    pub fn uses(&self, budgets: &[Budget], day: Date, most: usize) -> Vec<BudgetUse> {
        let names =
            || self.spent.keys().chain(self.open.values().map(|open| &open.namespace)).filter(|n| !n.is_empty());
        let namespaces: BTreeSet<&String> = names().collect();
        let of = |budget: &Budget| match budget.per_namespace {
            false => vec![self.used(budget, None, day, None)],
            true => {
                let all = namespaces.iter().map(|namespace| self.used(budget, Some(namespace), day, None));
                let mut uses: Vec<BudgetUse> = all.filter(|used| used.spent + used.reserved > Usd::ZERO).collect();
                uses.sort_by_key(|used| (used.left(), used.namespace.clone()));
                uses.truncate(most);
                uses
            }
        };
        budgets.iter().flat_map(of).collect()
    }

    /// Returns the ledger that replaces a lost one, made from the uses of budgets that status last showed. Batches in flight count as
    /// spent, because their reservations are lost.
    pub fn from_last_shown(shown: &[BudgetUse], day: Date) -> Ledger {
        let mut ledger = Ledger::default();
        for period in [BudgetPeriod::Day, BudgetPeriod::Month] {
            let of = |used: &&BudgetUse| used.budget.period == period;
            let (named, all): (Vec<&BudgetUse>, Vec<&BudgetUse>) =
                shown.iter().filter(of).partition(|used| used.namespace.is_some());
            let mut by_name: BTreeMap<&str, Usd> = BTreeMap::new();
            for used in named {
                let sum = by_name.entry(used.namespace.as_deref().unwrap_or_default()).or_default();
                *sum = (*sum).max(used.spent + used.reserved);
            }
            let known: Usd = by_name.values().copied().sum();
            let total = all.iter().map(|used| used.spent + used.reserved).max().unwrap_or_default();
            by_name.insert("", total.saturating_sub(known));
            for (namespace, sum) in by_name.into_iter().filter(|(_, sum)| *sum > Usd::ZERO) {
                let sums = ledger.spent.entry(namespace.into()).or_default();
                match period {
                    BudgetPeriod::Day => sums.days.insert(day, sum),
                    BudgetPeriod::Month => sums.months.insert(day.first_of_month(), sum),
                };
            }
        }
        ledger
    }

    /// Returns whether the ledger, as JSON, has room for a further reservation: only while as much stays free as its namespace takes
    /// already. So no namespace fills the ledger for others, and one without a reservation has room that others do not take.
    fn has_room(&self, key: &str, wanted: &Reservation) -> bool {
        let weights = self.weights();
        let used: usize = weights.values().sum();
        let namespace = wanted.namespace.as_str();
        let is_first = !self.open.values().any(|open| open.namespace == namespace);
        let (room, held) = match weights.get(namespace) {
            Some(held) if !is_first => (SHARED_ROOM, *held),
            _ => (ROOM, 0),
        };
        let more = reservation_bytes(key, wanted) + sums_bytes(namespace);
        leaves_as_much(room.saturating_sub(used) as u64, more as u64, held as u64)
    }

    /// Returns the bytes that each namespace takes as JSON, at most, with room for its sums if it has a reservation.
    fn weights(&self) -> BTreeMap<&str, usize> {
        let open = self.open.iter().map(|(key, open)| (open.namespace.as_str(), reservation_bytes(key, open)));
        let settled = self.settled.keys().map(|work| (namespace_of(work), work.len() + SETTLED_BYTES));
        let mut weights: BTreeMap<&str, usize> = BTreeMap::new();
        for (namespace, bytes) in open.chain(settled).chain(self.spent.keys().map(|namespace| (namespace.as_str(), 0)))
        {
            *weights.entry(namespace).or_insert_with(|| sums_bytes(namespace)) += bytes;
        }
        weights
    }
}

fn reservation_bytes(key: &str, open: &Reservation) -> usize {
    key.len() + open.namespace.len() + open.job_uid.len() + RESERVATION_BYTES
}

fn sums_bytes(namespace: &str) -> usize {
    namespace.len() + SUMS_BYTES
}

/// Returns the namespace of a work.
fn namespace_of(work: &str) -> &str {
    work.split_once('/').map_or("", |(namespace, _)| namespace)
}

/// Returns the id of the work of a key.
fn work_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(work, _)| work)
}

/// Returns the shard of a key.
fn shard_of(key: &str) -> Option<usize> {
    key.rsplit_once('/')?.1.parse().ok()
}

fn is_of(key: &str, work_id: &str) -> bool {
    key.strip_prefix(work_id).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
