//! The end of a job: when it is reached, and which outcome it has.

use super::abandoning;
use super::attempt::{AttemptState, Refusal};
use super::decide;
use super::input_wait;
use super::job_budget;
use super::journal::{Commit, Journal};
use super::observed::Observed;
use super::provider_files::{files_to_delete, forget_files};
use super::shard::Shard;
use super::spending::spending;
use super::step::{Blocked, Failure, Step, Waiting};
use super::submission::{self, Round};
use super::task::Task;
use super::totals::Totals;
use crate::api::conditions::reasons;
use crate::api::{DeletionPolicy, Outcome, RequestCounts, Spending, StopPolicy};
use crate::money::Usd;

/// Maximum number of rounds of one job after the first; each sends again the requests without an answer.
const ROUND_LIMIT: u32 = 10;

/// Returns whether the job's batches are to stop, or none is to be sent at all: its deadline has passed, or `spec.stopPolicy` says
/// so. Suspension stops the clock of a job that was not sent, but stops no stop.
pub(super) fn is_to_stop(o: &Observed) -> bool {
    // The batches of an earlier object of this name are not this job's until they are adopted.
    let sent = o.journal.is_some_and(|journal| journal.owner == o.job.owner && journal.has_intents());
    let is_paused = o.job.suspend && o.journal.is_some() && !sent;
    match o.job.stop {
        Some(StopPolicy::Cancel) => true,
        Some(StopPolicy::Drain) if !sent => true,
        Some(StopPolicy::Drain) | None => !is_paused && is_past_the_deadline(o),
    }
}

fn is_past_the_deadline(o: &Observed) -> bool {
    o.job.deadline.is_some_and(|deadline| o.now >= deadline)
}

/// Returns the next step of a job whose batches may be sent unless something is `blocked`.
pub(super) fn go_on(o: &Observed, journal: &Journal, blocked: Option<Blocked>) -> Step {
    if is_to_stop(o) {
        return stop(o, journal);
    }
    if journal.out_of_time_since.is_some() {
        // The deadline was moved or taken away. The batches get their whole time to end after a later stop.
        return Step::Swap(journal.next(|j| j.out_of_time_since = None));
    }
    let drains = o.job.stop.is_some();
    let may_send = blocked.is_none() && !o.job.suspend && !drains;
    let round = submission::round(o, journal, None, may_send && !has_failed_too_often(o, journal));
    match round.step {
        Some(step) => step,
        None if round.live => wait(o, round, blocked),
        None if is_done(o, journal) => clean_up_then(o, journal, |counts| end_of(o, journal, counts)),
        None if drains => clean_up_then(o, journal, |counts| early_end(o, journal, counts)),
        None if may_send && journal.shards.are_settled() => another_round(o, journal),
        None => job_budget::end(o, journal, &round).unwrap_or_else(|| wait(o, round, blocked)),
    }
}

/// Returns whether nothing is left to send to the provider, or it would be in vain. No batch may be in flight.
fn is_done(o: &Observed, journal: &Journal) -> bool {
    let is_hopeless = has_failed_too_often(o, journal) || journal.shards.iter().any(Shard::is_refused_for_good);
    let may_go_on = may_be_sent_again(journal) > 0 && journal.round() < ROUND_LIMIT;
    is_hopeless || journal.shards.are_settled() && !may_go_on
}

fn wait(o: &Observed, mut round: Round, blocked: Option<Blocked>) -> Step {
    let taken = matches!(o.memory.manifest, Some(Some(_)));
    if taken && decide::manifest_may_be_another(o) {
        return Step::LookForManifest;
    }
    if o.job.stop.is_some() {
        // What the shards have to say is about sending them again.
        round.note = None;
        round.stage = reasons::DRAINING;
    }
    let stage = if o.job.suspend && !round.live { reasons::SUSPENDED } else { round.shown_stage() };
    let until = [round.due, o.job.deadline, decide::next_look(o).filter(|_| taken)].into_iter().flatten().min();
    Step::Wait { until, why: round.waiting(stage, blocked) }
}

/// Deletes the files that are left at the provider, then writes the end into the journal.
pub(super) fn clean_up_then(o: &Observed, journal: &Journal, end: impl Fn(RequestCounts) -> Commit) -> Step {
    if o.memory.running.contains(&Task::DeleteFiles) {
        return decide::wait(None, reasons::WRITING_RESULTS);
    }
    let files = files_to_delete(o, journal);
    if !files.is_empty() {
        return Step::DeleteFiles { files, attempt_key: None, must: false };
    }
    Step::Swap(journal.next(|j| {
        let spending = with_estimate(o, spending(o, j));
        let end = abandoning::with_abandoned(j, end(j.counts()), &spending);
        j.commit = Some(Commit { spending, ..end });
        forget_files(j);
    }))
}

/// Adds the cost that was estimated before the first batch was submitted.
fn with_estimate(o: &Observed, mut spending: Spending) -> Spending {
    if let Some(cost) = &mut spending.cost {
        cost.estimated_usd = o.job.estimated.map(Usd::rounded);
    }
    spending
}

/// Ends a job whose time is over, or that was told to stop: for free if nothing was sent; else its batches are cancelled, and
/// collected when they ended.
pub(super) fn stop(o: &Observed, journal: &Journal) -> Step {
    // Where every answer is reused, there is nothing to stop.
    let is_answered = journal.plan.is_some() && journal.shards.have_reused() && journal.shards.are_settled();
    if !journal.has_intents() && !is_answered {
        return stop_unsent(o, journal);
    }
    let mut round = submission::round(o, journal, Some(DeletionPolicy::Cancel), false);
    let due = abandoning::due(o, journal);
    let step = match (round.step.take(), due) {
        // Known results are recorded first.
        (Some(step @ Step::Swap(_)), _) => Some(step),
        (_, None) if round.live => Some(Step::Swap(journal.next(|j| j.out_of_time_since = Some(o.now)))),
        (step, Some(due)) if o.now >= due => abandoning::abandon(o, journal, due).or(step),
        (step, _) => step,
    };
    match step {
        Some(step) => step,
        None if round.live => {
            let until = [round.due, due.filter(|due| o.now < *due)].into_iter().flatten().min();
            round.note = None;
            round.say(reasons::CANCELLING, format!("{}: batches in flight are cancelled, {KEPT}", cause(o).message));
            Step::Wait { until, why: round.waiting(reasons::CANCELLING, None) }
        }
        None => clean_up_then(o, journal, |counts| early_end(o, journal, counts)),
    }
}

/// Ends a job that sent nothing. Input files that were uploaded for it are deleted first, unless that fails.
fn stop_unsent(o: &Observed, journal: &Journal) -> Step {
    let files = files_to_delete(o, journal);
    let task = Task::DeleteFiles;
    match files.is_empty() || o.memory.failed_calls.contains_key(&task) {
        true => decide::free_failure(journal, free_end(o)),
        false if o.memory.running.contains(&task) => decide::wait(None, reasons::CANCELLING),
        false => Step::DeleteFiles { files, attempt_key: None, must: false },
    }
}

const KEPT: &str = "and answers that were paid for are written";

/// Returns the end of a job that ends early and sent nothing. It costs nothing.
pub(super) fn free_end(o: &Observed) -> Failure {
    let end = cause(o);
    let missing = input_wait::missing(o).map_or(String::new(), |missing| format!(", and {missing}"));
    Failure { message: format!("{}{missing}; nothing was sent", end.message), ..end }
}

/// Returns why a job ends early. The word of a person counts more than the clock, which may come to the same.
fn cause(o: &Observed) -> Failure {
    let is_late = is_past_the_deadline(o);
    let Some(policy) = o.job.stop else {
        return Failure::new(reasons::DEADLINE_EXCEEDED, "`spec.activeDeadlineSeconds` are over");
    };
    let more = if is_late && policy == StopPolicy::Drain { ", and `spec.activeDeadlineSeconds` are over" } else { "" };
    let message = format!("`spec.stopPolicy` is {policy:?}{more}");
    Failure { outcome: Outcome::Cancelled, ..Failure::new(reasons::CANCELLED, message) }
}

/// Returns the end of a job that ends early. A job that was told to stop when nothing was left to send ends as it would have
/// ended anyway.
fn early_end(o: &Observed, journal: &Journal, requests: RequestCounts) -> Commit {
    let given_up = journal.abandoned_batches().next().is_some();
    let was_done = o.job.stop.is_some() && !given_up && is_done(o, journal);
    if requests.succeeded == requests.total || was_done {
        return end_of(o, journal, requests);
    }
    let Failure { outcome, reason, message } = cause(o);
    let message = format!("{message}; {} of {} requests were answered", requests.succeeded, requests.total);
    Commit { outcome, reason: reason.into(), message, at: o.now, requests, spending: Spending::default() }
}

/// Returns whether more requests failed permanently than the job allows, answers included that `spec.failOn` counts as failures.
/// Judged as batches end.
fn has_failed_too_often(o: &Observed, journal: &Journal) -> bool {
    let totals = journal.shards.totals();
    let failed = totals.failed_for_good.saturating_add(failing_answers(o, &totals));
    o.job.max_failed.is_some_and(|max| max.is_exceeded(failed, totals.counts.total))
}

/// Returns the number of answers that `spec.failOn` counts as failures.
pub(super) fn failing_answers(o: &Observed, Totals { answers, mixed_answers, .. }: &Totals) -> i64 {
    mixed_answers.any_of(answers, &o.job.fail_on)
}

/// Returns the number of requests without an answer that another round may answer, once every shard is settled.
fn may_be_sent_again(journal: &Journal) -> i64 {
    let totals = journal.shards.totals();
    // Requests that ran before and now exceed the account's limit would be sent in every round.
    if totals.last_rounds > 0 {
        return 0;
    }
    let counts = totals.counts;
    counts.expired + counts.cancelled + counts.missing - totals.given_up + totals.retryable - totals.failed_before
}

/// Starts another round, pooled over all shards. Requests of a shard that is not settled are never in it.
fn another_round(o: &Observed, journal: &Journal) -> Step {
    let next = journal.round() + 1;
    let room = o.job.shard_limit.saturating_sub(journal.shards.len());
    match &o.memory.follow_up {
        _ if room == 0 => clean_up_then(o, journal, |counts| without_room(o, end_of(o, journal, counts))),
        Some((round, shards)) if *round == next && shards.is_empty() => {
            clean_up_then(o, journal, |counts| end_of(o, journal, counts))
        }
        // Shards that find no room are left for the round after, which has none and reports it. Segments are only taken whole;
        // if they no longer find room, others are made.
        Some((round, shards)) if *round == next && (shards.plan_segments().is_empty() || shards.len() <= room) => {
            Step::Swap(journal.next(|j| j.shards.append(shards, room)))
        }
        _ if o.memory.running.contains(&Task::FollowUp) => {
            Step::Wait { until: None, why: Waiting { stage: reasons::SUBMITTING, ..Default::default() } }
        }
        _ => Step::FollowUp { round: next },
    }
}

fn without_room(o: &Observed, mut end: Commit) -> Commit {
    let limit = o.job.shard_limit;
    end.message += &format!("; what may yet be answered is not sent again, for a job has at most {limit} batches");
    end
}

fn end_of(o: &Observed, journal: &Journal, requests: RequestCounts) -> Commit {
    let refused = journal.shards.iter().filter(|s| s.round == 0).find_map(|s| match &s.attempt.as_ref()?.state {
        AttemptState::Refused { refusal: Refusal::Invalid, message, .. } => Some((reasons::PROVIDER_REJECTED, message)),
        AttemptState::Refused { refusal: Refusal::TooOften, message, .. } => {
            Some((reasons::BACKOFF_LIMIT_EXCEEDED, message))
        }
        _ => None,
    });
    let (succeeded, total) = (requests.succeeded, requests.total);
    let unanswered = total - succeeded;
    let failing = failing_answers(o, &journal.shards.totals());
    let failed = unanswered.saturating_add(failing);
    let is_too_much = failed >= total || o.job.max_failed.is_some_and(|max| max.is_exceeded(failed, total));
    let reused = match requests.reused {
        0 => String::new(),
        reused => format!(", {reused} of them with answers of earlier jobs"),
    };
    let (outcome, reason, message) = match refused {
        Some((reason, message)) => (Outcome::Failed, reason, format!("the provider rejected a batch: {message}")),
        None if total == 0 => {
            (Outcome::Succeeded, reasons::ALL_SUCCEEDED, "the input holds no requests, so nothing was sent".into())
        }
        None if failing > 0 && is_too_much => {
            let kinds: Vec<String> = o.job.fail_on.iter().map(|kind| format!("{kind:?}")).collect();
            let message = format!(
                "{unanswered} of {total} requests have no answer, and {failing} answers count as failures (`spec.failOn`: {}); \
                 results.jsonl has them",
                kinds.join(", ")
            );
            (Outcome::Failed, reasons::MAX_FAILED_REQUESTS_EXCEEDED, message)
        }
        None if unanswered == 0 => {
            (Outcome::Succeeded, reasons::ALL_SUCCEEDED, format!("all {total} requests succeeded{reused}"))
        }
        None if is_too_much => {
            let message = format!("{unanswered} of {total} requests have no answer; errors.jsonl has the reasons");
            (Outcome::Failed, reasons::MAX_FAILED_REQUESTS_EXCEEDED, message)
        }
        None => {
            let message = format!(
                "{succeeded} of {total} requests succeeded{reused}; errors.jsonl has the others with their reasons"
            );
            (Outcome::PartiallySucceeded, reasons::COMPLETED_WITH_FAILURES, message)
        }
    };
    Commit { outcome, reason: reason.into(), message, at: o.now, requests, spending: Spending::default() }
}
