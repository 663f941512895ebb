//! The budgets in the status of a provider object.

use std::sync::Mutex;

use jiff::civil::Date;

use super::lock;
use crate::api::BudgetStatus;
use crate::money::{Budget, BudgetUse, Usd};

/// Returns the use of a budget for status.
pub(super) fn shown(used: &BudgetUse, today: Date) -> BudgetStatus {
    BudgetStatus {
        period: used.budget.period,
        start: used.budget.start(today).to_string(),
        namespace: used.namespace.clone(),
        spent_usd: used.spent.rounded(),
        reserved_usd: used.reserved.rounded(),
        max_cost_usd: used.budget.max_cost.rounded(),
    }
}

/// Returns the use that status shows; None if it is of another period than today's.
pub(super) fn used(status: &BudgetStatus, today: Date) -> Option<BudgetUse> {
    let usd = |amount: &str| Usd::parse(amount).unwrap_or_default();
    let (period, per_namespace) = (status.period, status.namespace.is_some());
    let budget = Budget { period, max_cost: usd(&status.max_cost_usd), per_namespace };
    let (spent, reserved) = (usd(&status.spent_usd), usd(&status.reserved_usd));
    let is_now = status.start == budget.start(today).to_string();
    is_now.then(|| BudgetUse { budget, namespace: status.namespace.clone(), spent, reserved })
}

/// The budgets that this process last had for the status of a ClusterBatchProvider. Each install of the operator that looks after it
/// has a ledger of its own. If each wrote what is in its ledger over the report of the other, they would do so for ever.
#[derive(Default)]
pub(super) struct Report(Mutex<Vec<BudgetStatus>>);

impl Report {
    /// Returns the budgets for status: `now`, or what status has if this process reported the same before.
    pub fn of(&self, now: Vec<BudgetStatus>, status: &[BudgetStatus]) -> Vec<BudgetStatus> {
        let before = std::mem::replace(&mut *lock(&self.0), now.clone());
        if before == now && !status.is_empty() { status.to_vec() } else { now }
    }

    /// Records that the last report did not reach status.
    pub fn was_not_written(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(spent: &str) -> Vec<BudgetStatus> {
        let budget = serde_json::json!({"period": "Day", "start": "2026-11-30", "spentUSD": spent, "reservedUSD": "0",
            "maxCostUSD": "5"});
        vec![serde_json::from_value(budget).unwrap()]
    }

    /// Two installs of the operator look at the same object in turn.
    #[test]
    fn two_installs_do_not_overwrite_each_other_while_nothing_changes() {
        let installs = [(Report::default(), "1"), (Report::default(), "2")];
        let (mut status, mut writes) = (vec![], 0);
        for _ in 0..10 {
            for (report, spent) in &installs {
                let next = report.of(budgets(spent), &status);
                writes += usize::from(next != status);
                status = next;
            }
        }
        assert_eq!((writes, &status), (2, &budgets("2")));
        assert_eq!(installs[0].0.of(budgets("3"), &status), budgets("3"), "its ledger changed");
        installs[0].0.was_not_written();
        assert_eq!(installs[0].0.of(budgets("3"), &status), budgets("3"), "it is tried again");
        assert_eq!(installs[0].0.of(budgets("3"), &[]), budgets("3"), "somebody took it out of status");
    }
}
