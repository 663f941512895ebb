//! The end of a job: when it is reached, and which outcome it has.

use super::abandoning;
use super::attempt::{AttemptState, Refusal};
use super::decide;
use super::journal::{Commit, Journal};
use super::observed::Observed;
use super::provider_files::{files_to_delete, forget_files};
use super::shard::Shard;
use super::step::{Blocked, Step, Waiting};
use super::submission::{self, Round};
use super::task::Task;
use crate::api::conditions::reasons;
use crate::api::{DeletionPolicy, Outcome, RequestCounts};

/// Maximum number of rounds of one job after the first; each sends again the requests without an answer.
const ROUND_LIMIT: u32 = 10;

/// Returns whether the job's deadline has passed. Suspension stops the clock of a job that was not sent.
pub(super) fn is_out_of_time(o: &Observed) -> bool {
    let stopped = o.job.suspend && o.journal.is_some_and(|j| !j.has_intents());
    !stopped && o.job.deadline.is_some_and(|deadline| o.now >= deadline)
}

/// Returns the next step of a job whose batches may be sent unless something is `blocked`.
pub(super) fn go_on(o: &Observed, journal: &Journal, blocked: Option<Blocked>) -> Step {
    if is_out_of_time(o) {
        return out_of_time(o, journal);
    }
    let too_many = has_failed_too_often(o, journal);
    let round = submission::round(o, journal, None, blocked.is_none() && !o.job.suspend && !too_many);
    if let Some(step) = round.step {
        return step;
    }
    let settled = journal.shards.are_settled();
    let hopeless = !round.live && (too_many || journal.shards.iter().any(Shard::is_refused_for_good));
    if settled && !hopeless && may_be_sent_again(journal) > 0 && journal.round() < ROUND_LIMIT {
        if blocked.is_none() && !o.job.suspend {
            return another_round(o, journal);
        }
    } else if settled || hopeless {
        return clean_up_then(o, journal, |counts| end_of(o, journal, counts));
    }
    wait(o, round, blocked)
}

fn wait(o: &Observed, round: Round, blocked: Option<Blocked>) -> Step {
    let taken = matches!(o.memory.manifest, Some(Some(_)));
    if taken && decide::manifest_may_be_another(o) {
        return Step::LookForManifest;
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
        j.commit = Some(abandoning::with_abandoned(j, end(j.counts())));
        forget_files(j);
    }))
}

pub(super) fn out_of_time(o: &Observed, journal: &Journal) -> Step {
    let message = "`spec.activeDeadlineSeconds` are over";
    if !journal.has_intents() {
        return decide::free_failure(journal, reasons::DEADLINE_EXCEEDED, message.into());
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
        None if round.live => Step::Wait {
            until: [round.due, due.filter(|due| o.now < *due)].into_iter().flatten().min(),
            why: round.waiting(reasons::IN_PROGRESS, None),
        },
        None => clean_up_then(o, journal, |requests| match requests.succeeded == requests.total {
            true => end_of(o, journal, requests),
            false => Commit {
                outcome: Outcome::Failed,
                reason: reasons::DEADLINE_EXCEEDED.into(),
                message: format!("{message}; {} of {} requests were answered", requests.succeeded, requests.total),
                at: o.now,
                requests,
            },
        }),
    }
}

/// Returns whether more requests failed permanently than the job allows. Judged as batches end.
fn has_failed_too_often(o: &Observed, journal: &Journal) -> bool {
    let totals = journal.shards.totals();
    o.job.max_failed.is_some_and(|max| max.is_exceeded(totals.failed_for_good, totals.counts.total))
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
    let (outcome, reason, message) = match refused {
        Some((reason, message)) => (Outcome::Failed, reason, format!("the provider rejected a batch: {message}")),
        None if unanswered == 0 => {
            (Outcome::Succeeded, reasons::ALL_SUCCEEDED, format!("all {total} requests succeeded"))
        }
        None if succeeded == 0 || o.job.max_failed.is_some_and(|max| max.is_exceeded(unanswered, total)) => {
            let message = format!("{unanswered} of {total} requests have no answer; errors.jsonl has the reasons");
            (Outcome::Failed, reasons::MAX_FAILED_REQUESTS_EXCEEDED, message)
        }
        None => {
            let message =
                format!("{succeeded} of {total} requests succeeded; errors.jsonl has the others with their reasons");
            (Outcome::PartiallySucceeded, reasons::COMPLETED_WITH_FAILURES, message)
        }
    };
    Commit { outcome, reason: reason.into(), message, at: o.now, requests }
}
