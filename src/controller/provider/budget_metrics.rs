//! Budgets of provider objects in metrics.

use kube::ResourceExt;

use super::{Provider, ProviderKey};
use crate::api::{BudgetPeriod, BudgetStatus};
use crate::money::Usd;
use crate::telemetry::{BudgetGauges, Metrics};

/// Shows the use of a provider's budgets, as its status has it.
pub(super) fn show<P: Provider>(metrics: &Metrics, provider: &P, budgets: &[BudgetStatus]) {
    let namespace = provider.namespace().unwrap_or_default();
    let uses = budgets.iter().map(|budget| shown(budget, &namespace)).collect();
    metrics.budgets(&namespace, &ProviderKey::of(provider).to_string(), uses);
}

fn shown(status: &BudgetStatus, of_provider: &str) -> BudgetGauges {
    let usd = |amount: &str| Usd::parse(amount).unwrap_or_default();
    let (budget, spent, reserved) = (usd(&status.max_cost_usd), usd(&status.spent_usd), usd(&status.reserved_usd));
    BudgetGauges {
        namespace: status.namespace.clone().unwrap_or_else(|| of_provider.into()),
        period: match status.period {
            BudgetPeriod::Day => "Day",
            BudgetPeriod::Month => "Month",
        },
        budget: budget.to_f64(),
        spent: spent.to_f64(),
        left: budget.saturating_sub(spent + reserved).to_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_budget_is_neither_spent_nor_reserved_and_never_negative() {
        let status = |namespace: Option<&str>, reserved: &str| BudgetStatus {
            period: BudgetPeriod::Month,
            start: "2026-11-01".into(),
            namespace: namespace.map(String::from),
            spent_usd: "2.50".into(),
            reserved_usd: reserved.into(),
            max_cost_usd: "10.00".into(),
        };
        let of = |namespace: &str, left: f64| BudgetGauges {
            namespace: namespace.into(),
            period: "Month",
            budget: 10.0,
            spent: 2.5,
            left,
        };
        assert_eq!(shown(&status(Some("shop"), "1.25"), ""), of("shop", 6.25));
        assert_eq!(shown(&status(None, "9.00"), "docs"), of("docs", 0.0));
    }
}
