//! The canary of a job: the requests that are sent alone, and the approval of the others.

use super::completion;
use super::job_budget;
use super::journal::{Approval, Journal, PlannedCanary};
use super::observed::{MaxFailed, Observed};
use super::shard::Shard;
use super::step::Step;
use super::submission::Round;
use super::totals::Totals;
use crate::api::{AnswerCounts, CanaryApproval, Hold, annotations};
use crate::money::Usd;

/// Returns whether a shard may be sent, as far as the canary is concerned.
pub(super) fn may_send(journal: &Journal, shard: &Shard) -> bool {
    journal.unapproved_canary().is_none_or(|canary| shard.round == 0 && shard.first < canary.before)
}

/// Returns the id of the question about a canary.
fn question(journal: &Journal) -> String {
    format!("canary-{}", journal.work_id.get(..8).unwrap_or(&journal.work_id))
}

/// Records the approval of the requests behind the canary, or asks for it once the canary is done.
pub(super) fn approve(o: &Observed, journal: &Journal, round: &mut Round) -> Option<Step> {
    let canary = journal.unapproved_canary()?;
    let approve = |by| Some(Step::Swap(journal.next(|j| j.approval = Some(Approval { by, at: o.now }))));
    let Some(policy) = o.job.canary else { return approve(CanaryApproval::Manual) };
    let figures = Figures::of_done(journal, canary)?;
    let id = question(journal);
    if o.job.approves.as_deref() == Some(id.as_str()) {
        return approve(CanaryApproval::Manual);
    }
    let why = match policy {
        CanaryApproval::Manual => String::new(),
        CanaryApproval::Automatic => match figures.objection(o) {
            None => return approve(CanaryApproval::Automatic),
            Some(why) => format!(". They are not sent without a person: {why}"),
        },
    };
    let other = match &o.job.approves {
        Some(other) => {
            format!(". The annotation `{}` has '{other}', which is another question's", annotations::APPROVE)
        }
        None => String::new(),
    };
    let message = format!(
        "{figures}{why}. Approve the others, or set `spec.stopPolicy` to Drain to end the job with what it has{other}"
    );
    round.holds.push(Hold { answers: vec![id.clone()], id, message, annotation: Some(annotations::APPROVE.into()) });
    None
}

/// Describes the canary of a journal; None if it is not done, or is approved.
pub fn canary_report(journal: &Journal) -> Option<String> {
    Some(Figures::of_done(journal, journal.unapproved_canary()?)?.to_string())
}

/// Figures of a canary that is done.
struct Figures {
    /// Requests of the canary.
    requests: i64,
    /// Those that have no answer.
    unanswered: i64,
    /// Answers that may not be what was asked for.
    answers: AnswerCounts,
    /// Cost of the canary, unreported cost included; or the reason why it is unknown, as a clause about its batches.
    cost: Result<Usd, String>,
    /// Requests behind the canary.
    others: i64,
    totals: Totals,
}

impl Figures {
    /// Returns None if the canary is not done. Until it is approved, all settled shards are the canary's, or have reused answers.
    fn of_done(journal: &Journal, PlannedCanary { requests, .. }: PlannedCanary) -> Option<Figures> {
        let totals = journal.shards.totals();
        let counts = totals.counts;
        (counts.total - totals.open - counts.reused == requests).then_some(Figures {
            requests,
            unanswered: requests - (counts.succeeded - counts.reused),
            answers: totals.answers,
            cost: job_budget::cost_so_far(journal),
            others: totals.open,
            totals,
        })
    }

    /// Returns the cost of the whole job, if each other request costs as much as one of the canary; None if it is unknown.
    fn whole_cost(&self) -> Option<Usd> {
        let cost = *self.cost.as_ref().ok()?;
        Some(cost + self.projected(cost))
    }

    fn projected(&self, cost: Usd) -> Usd {
        cost.share(self.others, self.requests)
    }

    /// Returns why the others may not be sent without a person; None if they may.
    fn objection(&self, o: &Observed) -> Option<String> {
        let failed = self.unanswered.saturating_add(completion::failing_answers(o, &self.totals));
        if failed >= self.requests {
            return Some("no request of the canary has an answer that counts".into());
        }
        if let Some(max) = o.job.max_failed.filter(|max| max.is_exceeded(failed, self.requests)) {
            let limit = match max {
                MaxFailed::Count(count) => count.to_string(),
                MaxFailed::Percent(percent) => format!("{percent}%"),
            };
            return Some(format!("more than the {limit} of `spec.maxFailedRequests` failed"));
        }
        let most = o.job.budget?.most;
        match self.whole_cost() {
            Some(cost) if cost <= most => None,
            Some(cost) => Some(format!("{cost} for the whole job is more than the {most} of `spec.budget.maxCostUSD`")),
            None => Some("`spec.budget` is set, and what they will cost is unknown".into()),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { requests, unanswered, others, .. } = self;
        let answered = requests - unanswered;
        write!(f, "the canary is done: {answered} of {requests} requests were answered")?;
        let AnswerCounts { empty, refused, truncated, filtered } = self.answers;
        let kinds = [(empty, "empty"), (refused, "refused"), (truncated, "truncated"), (filtered, "filtered")];
        let kinds: Vec<String> =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}")).collect();
        if !kinds.is_empty() {
            write!(f, " ({})", kinds.join(", "))?;
        }
        match &self.cost {
            Ok(cost) => write!(
                f,
                ", for {cost}. The other {others} requests wait for approval, and are projected to cost {}, at the cost per request of \
                 the canary",
                self.projected(*cost)
            ),
            Err(why) => write!(
                f,
                ". The other {others} requests wait for approval. What they will cost is unknown, and so is the cost of the canary's \
                 batches, for {why}"
            ),
        }
    }
}
