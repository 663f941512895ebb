//! The estimate of a plan in status: its requests, tokens and cost.

use super::spending::{self, CostOf};
use crate::api::{BatchJobStatus, PlanEstimate};
use crate::lifecycle::journal::Journal;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::plan_forecast::{PlanForecast, forecast, real_time_tip};
use crate::money::Usd;

/// Two estimates are close if they differ by at most a fifth, one part in this many.
const CLOSE: i64 = 5;

/// The cost that is expected, and the most that it can be.
type Costs = (Option<Usd>, Option<Usd>);

/// Puts the estimate of a job that runs into status. Returns the advice to call in real time, if that would do.
pub(super) fn show(
    status: &mut BatchJobStatus,
    o: &Observed,
    journal: &Journal,
    old: &BatchJobStatus,
) -> Option<String> {
    let now = forecast(o.job, journal.plan.as_ref()?).map(|forecast| of(&forecast));
    let is_same_work = old.work.as_ref().is_some_and(|work| work.id == journal.work_id);
    let before = old.estimate.clone().filter(|_| is_same_work).map(|estimate| (estimate, spending::expected(old)));
    // Once money is at stake, the estimate stays as it was approved. Before that, experience with other jobs has to make a difference:
    // the end of each of them would write the status of every job that waits.
    let stays = |before: &(PlanEstimate, Costs)| {
        journal.has_intents() || !o.job.suspend && now.as_ref().is_some_and(|now| is_close(before, now))
    };
    let (estimate, costs) = before.filter(stays).or_else(|| now.clone()).unzip();
    let costs = costs.unwrap_or_default();
    status.estimate = estimate;
    spending::expect(status, costs, CostOf::Running);
    real_time_tip(status.estimate.as_ref()?, costs.0)
}

fn of(forecast: &PlanForecast) -> (PlanEstimate, Costs) {
    (forecast.status(), (forecast.batch_cost(), forecast.ceiling_cost.clone().ok()))
}

/// Returns whether only experience with the model makes the difference, and a small one. Other prices, limits or batches change the
/// most that a plan can take.
fn is_close(
    (before, (cost_before, most_before)): &(PlanEstimate, Costs),
    (now, (cost, most)): &(PlanEstimate, Costs),
) -> bool {
    let is_same_plan = PlanEstimate {
        input_tokens: now.input_tokens,
        output_tokens: now.output_tokens,
        real_time_usd: now.real_time_usd.clone(),
        real_time_seconds: now.real_time_seconds,
        ..before.clone()
    } == *now;
    let are_near = |a: i64, b: i64| a.abs_diff(b).saturating_mul(CLOSE as u64) <= a.max(b).unsigned_abs();
    let is_cost_near = match (cost_before, cost) {
        (Some(a), Some(b)) => {
            let apart = (*a).max(*b).saturating_sub((*a).min(*b));
            std::iter::repeat_n(apart, CLOSE as usize).sum::<Usd>() <= (*a).max(*b)
        }
        (None, None) => true,
        _ => false,
    };
    is_same_plan
        && are_near(before.input_tokens, now.input_tokens)
        && are_near(before.output_tokens, now.output_tokens)
        && most_before.map(Usd::rounded) == most.map(Usd::rounded)
        && is_cost_near
}
