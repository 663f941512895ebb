//! The budget of a job: whether its next batch may be submitted under `spec.budget`.
//!
//! It is judged on the journal alone, so that a restarted operator judges alike: on the cost of settled batches, the most that those
//! in flight can cost, at the prices of their submission, and the most that the next batch can cost.

use super::attempt::{Attempt, AttemptKey};
use super::completion;
use super::decide::MENDED_CHECK;
use super::findings::CollectResult;
use super::forecast::{at_most, ceiling};
use super::journal::{Commit, Journal};
use super::observed::{CostLimit, Observed};
use super::shard::{Shard, UnreportedCost};
use super::shard_list::Shards;
use super::step::{Blocked, Failure, Step};
use super::submission::{Round, attempts};
use crate::api::conditions::reasons;
use crate::api::{OnExceeded, Outcome, Spending};
use crate::money::Usd;

/// The reason why the next batch of a job may not be submitted under its budget.
#[derive(Clone, Debug)]
pub(super) struct Obstacle {
    reason: &'static str,
    why: String,
    remedy: String,
    /// Whether a change of the provider object may remove it.
    is_of_provider: bool,
}

/// Money that counts against a budget.
struct Spend {
    /// Cost of settled batches.
    spent: Usd,
    /// The most that may have been billed in addition, and that no file of answers reports.
    unreported: Usd,
    /// The most that batches in flight can cost.
    in_flight: Usd,
}

impl Spend {
    /// Returns the money of a job so far.
    ///
    /// # Errors
    /// If no amount bounds it: the reason, and its remedy.
    fn of(o: &Observed, journal: &Journal) -> Result<Spend, String> {
        let spent = spent(journal).map_err(|why| format!("so is the cost of earlier batches, for {why}"))?;
        let live = attempts(journal).filter_map(|(key, attempt)| Some((journal.shards.get(key.shard)?, attempt)));
        let in_flight = live.filter(|(shard, _)| shard.is_live()).map(|(shard, attempt)| of_attempt(o, shard, attempt));
        Ok(Spend { in_flight: in_flight.sum::<Result<_, _>>()?, ..spent })
    }

    fn total(&self) -> Usd {
        self.spent + self.unreported + self.in_flight
    }

    fn told(&self) -> String {
        let Spend { spent, unreported, in_flight } = self;
        let mut told = format!("{spent} was spent");
        if !unreported.is_zero() {
            told += &format!("; requests whose answers are in no file may have cost up to {unreported}");
        }
        if !in_flight.is_zero() {
            told += &format!("; batches in flight may cost up to {in_flight}");
        }
        told
    }
}

/// Returns the money of a job without batches in flight.
///
/// # Errors
/// If nobody knows it: the reason, as a clause.
fn spent(journal: &Journal) -> Result<Spend, String> {
    let (totals, usage) = (journal.shards.totals(), journal.shards.usage().all());
    // Shards that an earlier version sealed are in no sum of usage.
    let is_uncounted = totals.counts.succeeded - totals.counts.reused > usage.answered;
    let unpriced = usage.unpriced + totals.unreported_cost.unbounded;
    match (unpriced, is_uncounted) {
        (0, false) => {
            Ok(Spend { spent: usage.cost.batch, unreported: totals.unreported_cost.most, in_flight: Usd::ZERO })
        }
        (0, true) => Err("an earlier version of the operator ran some of them, and counted no tokens".into()),
        (1, _) => Err("one ran without prices of its model".into()),
        _ => Err(format!("{unpriced} ran without prices of their models")),
    }
}

/// Returns the cost of a job so far, without batches in flight.
///
/// # Errors
/// If nobody knows it: the reason, as a clause about its batches.
pub(super) fn cost_so_far(journal: &Journal) -> Result<Usd, String> {
    Ok(spent(journal)?.total())
}

/// Returns the most that an attempt can cost: at the prices of its submission, or else at those that its model has now.
///
/// # Errors
/// If there is no such amount: the reason, and its remedy.
fn of_attempt(o: &Observed, shard: &Shard, attempt: &Attempt) -> Result<Usd, String> {
    match &attempt.prices {
        Some(prices) => at_most(o, prices, shard),
        None => ceiling(o, shard),
    }
}

/// Returns why a batch of this shard may not be submitted now; None if it may.
pub(super) fn obstacle(o: &Observed, journal: &Journal, shard: &Shard) -> Option<Obstacle> {
    let CostLimit { most, .. } = o.job.budget?;
    let judged = Spend::of(o, journal).and_then(|spend| Ok((spend, ceiling(o, shard)?)));
    match judged {
        Err(why) => Some(Obstacle::unknown(&why)),
        Ok((spend, next)) => {
            (spend.total() + next > most).then(|| Obstacle::exceeded(&spend, next, shard.requests, most))
        }
    }
}

impl Obstacle {
    fn unknown(why: &str) -> Obstacle {
        Obstacle {
            reason: reasons::COST_UNKNOWN,
            why: format!("`spec.budget` is set, and the most that the next batch can cost is unknown: {why}"),
            remedy: "; or remove `spec.budget`, to go on without a limit".into(),
            is_of_provider: true,
        }
    }

    fn exceeded(spend: &Spend, next: Usd, requests: i64, most: Usd) -> Obstacle {
        let batch = format!("the next batch, of {requests} requests, may cost up to {next}");
        let limit = format!("the {most} of `spec.budget.maxCostUSD`");
        let enough = (spend.total() + next).rounded_up();
        let raise = format!("; raise it to at least '{enough}', and the job goes on by itself");
        let (why, remedy) = match spend.in_flight.is_zero() {
            _ if next > most => (
                format!("{batch}: it alone never fits into {limit}"),
                format!(
                    "{raise}. For smaller batches, delete the job, lower `limits.maxRequestsPerBatch` of the provider, and apply the \
                     job again"
                ),
            ),
            true => (format!("{}; {batch}. Together this is more than {limit}", spend.told()), raise),
            false => (
                format!("{}; {batch}. Together this may be more than {limit}", spend.told()),
                "; the batch is submitted if those in flight end for less, or once the budget is raised".into(),
            ),
        };
        Obstacle { reason: reasons::BUDGET_EXCEEDED, why, remedy, is_of_provider: false }
    }

    fn message(&self) -> String {
        format!("{}{}", self.why, self.remedy)
    }
}

/// Shows the obstacle: while batches are in flight, as a wait for their end; else as a problem that a person has to fix.
pub(super) fn explain(o: &Observed, obstacle: Obstacle, round: &mut Round) {
    if obstacle.is_of_provider {
        round.due(o.now + MENDED_CHECK);
    }
    match round.live {
        true => round.say(reasons::WAITING_FOR_BUDGET, obstacle.message()),
        false => {
            round.stage = reasons::WAITING_FOR_BUDGET;
            round.blocked = Some(Blocked { reason: obstacle.reason, message: obstacle.message() });
        }
    }
    round.over_budget = Some(obstacle);
}

/// Returns the end of a job that nothing is in flight of, if its budget says so.
pub(super) fn end(o: &Observed, journal: &Journal, round: &Round) -> Option<Step> {
    let Obstacle { reason, why, .. } = round.over_budget.as_ref().filter(|_| fails(o))?;
    Some(completion::clean_up_then(o, journal, |requests| {
        let message = format!("{why}; {} of {} requests were answered", requests.succeeded, requests.total);
        let spending = Spending::default();
        Commit { outcome: Outcome::Failed, reason: (*reason).into(), message, at: o.now, requests, spending }
    }))
}

fn fails(o: &Observed) -> bool {
    o.job.budget.is_some_and(|budget| budget.on_exceeded == OnExceeded::Fail)
}

/// Returns why a job that sent nothing fails for its budget, which costs nothing: no amount bounds a batch of it; or the budget has no
/// room for the first one, and the job is not to wait for more. None for a job that is not to send now.
pub(super) fn free_failure(o: &Observed, shards: &Shards) -> Option<Failure> {
    let CostLimit { most, .. } = o.job.budget.filter(|_| !o.job.suspend && o.job.stop.is_none())?;
    let unsent = || shards.iter().filter(|shard| shard.is_unsent());
    let nothing = Spend { spent: Usd::ZERO, unreported: Usd::ZERO, in_flight: Usd::ZERO };
    let obstacle = match unsent().map(|shard| ceiling(o, shard)).collect::<Result<Vec<_>, _>>() {
        Err(why) => Obstacle::unknown(&why),
        Ok(costs) => {
            let (first, next) = unsent().zip(costs).next().filter(|(_, next)| fails(o) && *next > most)?;
            Obstacle::exceeded(&nothing, next, first.requests, most)
        }
    };
    Some(Failure::new(obstacle.reason, format!("{}. Nothing was sent", obstacle.message())))
}

/// Returns the cost of a collected batch that its answers do not report: of requests that are in no file and of answers without usage,
/// at the mean of the most that the batch can cost; and of other batches of the same POST.
pub(super) fn unreported(
    o: &Observed,
    journal: &Journal,
    (attempt_key, attempt): (AttemptKey, &Attempt),
    collected: &CollectResult,
    billed_again: i64,
) -> UnreportedCost {
    let Some(shard) = journal.shards.get(attempt_key.shard) else { return UnreportedCost::default() };
    let silent = collected.counts.missing + collected.usage.tokens.answers_without_usage;
    let requests = silent.clamp(0, shard.requests) + billed_again.max(0);
    match of_attempt(o, shard, attempt) {
        _ if requests == 0 => UnreportedCost::default(),
        Ok(most) => UnreportedCost { most: most.share(requests, shard.requests), unbounded: 0 },
        Err(_) => UnreportedCost { most: Usd::ZERO, unbounded: 1 },
    }
}

/// Counts the most that an attempt can cost in a step that gives its batch up: it may be billed, and nobody fetches its answers.
pub(super) fn may_have_cost(
    o: &Observed,
    journal: &Journal,
    (attempt_key, attempt): (AttemptKey, &Attempt),
    mut step: Step,
) -> Step {
    let cost = journal.shards.get(attempt_key.shard).map(|shard| match of_attempt(o, shard, attempt) {
        Ok(most) => UnreportedCost { most, unbounded: 0 },
        Err(_) => UnreportedCost { most: Usd::ZERO, unbounded: 1 },
    });
    if let (Step::Swap(next), Some(cost)) = (&mut step, cost)
        && let Some(shard) = next.shards.get_mut(attempt_key.shard)
    {
        shard.unreported_cost += cost;
    }
    step
}
