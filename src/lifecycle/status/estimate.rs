//! The estimate of a plan in status: its requests, tokens and cost.

use super::spending::{self, CostOf};
use crate::api::BatchJobStatus;
use crate::lifecycle::journal::Journal;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::plan_forecast::{PlanForecast, forecast, real_time_tip};

/// Puts the estimate of a job that runs into status. Returns the advice to call in real time, if that would do.
pub(super) fn show(
    status: &mut BatchJobStatus,
    o: &Observed,
    journal: &Journal,
    old: &BatchJobStatus,
) -> Option<String> {
    let forecast = forecast(o.job, journal.plan.as_ref()?);
    // Once money is at stake, the estimate stays as it was approved, and status does not change with what other jobs teach.
    let is_same_work = old.work.as_ref().is_some_and(|work| work.id == journal.work_id);
    let approved = old.estimate.as_ref().filter(|_| is_same_work && journal.has_intents());
    let (estimated, ceiling) = match (approved, &forecast) {
        (Some(_), _) => spending::expected(old),
        (None, Some(forecast)) => (forecast.batch_cost(), forecast.ceiling_cost.clone().ok()),
        (None, None) => (None, None),
    };
    status.estimate = approved.cloned().or_else(|| forecast.as_ref().map(PlanForecast::status));
    spending::expect(status, (estimated, ceiling), CostOf::Running);
    real_time_tip(status.estimate.as_ref()?, estimated)
}
