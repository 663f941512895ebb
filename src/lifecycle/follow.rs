//! The life of a recorded batch: it is polled, cancelled where it is to stop, and collected once it ended.

use super::attempt::{Attempt, AttemptKey, AttemptState, Refusal, Rejection};
use super::findings::{PollResult, PolledState};
use super::journal::Journal;
use super::observed::Observed;
use super::provider_files::without_file;
use super::questions::{hold_id, said, why_lost};
use super::refused::refuse;
use super::step::Step;
use super::submission::{Round, record, with_state, write_off};
use super::task::Task;
use super::{collecting, job_budget, reservation, resolve, twins};
use crate::api::conditions::reasons;
use crate::api::{BatchUsage, DeletionPolicy, ProviderFilePolicy, RequestCounts};
use crate::money::{Cost, Prices};

/// Milliseconds after its creation for which a provider may not find a batch; 5 s were seen at one provider.
const NEW_BATCH_GRACE: i64 = 20_000;

/// Follows a recorded batch: polls it, cancels it if the job is closing, collects its answers once it ended.
pub(super) fn follow(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    batch_id: &str,
    closing: Option<DeletionPolicy>,
    round: &mut Round,
) -> Option<Step> {
    round.stage = reasons::IN_PROGRESS;
    let Some(look) = o.memory.looks.get(batch_id) else {
        return Some(Step::Poll(attempt_key));
    };
    if let PolledState::Ended { rejected: Some((refusal, message)), .. } = &look.seen {
        let again = *refusal != Refusal::Invalid && closing.is_none();
        return turned_away(o, journal, attempt_key, (attempt, batch_id), (*refusal, message, again), round);
    }
    let may_try = |task: Task| !o.memory.running.contains(&task);
    if let Some(extra) = twins::to_stop(o, attempt, batch_id).filter(|_| may_try(Task::CancelTwin(attempt_key))) {
        return Some(Step::Cancel { attempt_key, twin: true, batch_id: extra.into() });
    }
    // Twins are searched for before the batch is settled. While it runs, a failed search does not prevent its cancellation.
    let runs = matches!(look.seen, PolledState::Running { .. });
    if let Some(step) = twins::look_for(o, attempt_key, attempt, look, round)
        && (!runs || may_try(Task::Call(attempt_key)))
    {
        return Some(step);
    }
    let again = o.memory.next_look(batch_id, look, o.job.poll_period);
    match &look.seen {
        PolledState::NotFound | PolledState::NotOurs => {
            if let Some(step) = given_up(o, journal, attempt_key, attempt, batch_id) {
                return Some(step);
            }
            if o.now >= recorded_at(attempt) + NEW_BATCH_GRACE {
                round.hold("lost", attempt, &why_lost(&look.seen, batch_id), vec!["lost".into(), "resend".into()]);
            }
            poll(o, attempt_key, again, round)
        }
        PolledState::Running { .. } => {
            let to_stop = closing == Some(DeletionPolicy::Cancel) && !o.memory.cancelled.contains(batch_id);
            match to_stop && may_try(Task::Cancel(attempt_key)) {
                true => Some(Step::Cancel { attempt_key, twin: false, batch_id: batch_id.into() }),
                false => poll(o, attempt_key, again, round),
            }
        }
        PolledState::Ended { state, .. } | PolledState::Gone { state } if may_settle(o, look, batch_id) => {
            // Nothing waits for the cancellation of a twin once the recorded batch is settled.
            if o.memory.is_under_way(Task::CancelTwin(attempt_key)) {
                return None;
            }
            let c = o.memory.collected.get(batch_id)?;
            if let Some(twin) = twins::unseen(o, attempt, batch_id, look.at)
                && may_try(Task::CancelTwin(attempt_key))
            {
                return Some(Step::PollTwin { attempt_key, batch_id: twin.clone() });
            }
            let cost = cost(o, journal, attempt_key, attempt, &c.usage);
            let requests = journal.requests_of(attempt_key);
            let billed_again = twins::billed_again(o, attempt, batch_id, requests);
            let unreported = job_budget::unreported(o, journal, (attempt_key, attempt), c, billed_again);
            let billed = reservation::billed(c, billed_again);
            if let Some(step) = reservation::settle(o, attempt_key, attempt, billed).transpose() {
                return step.ok();
            }
            let settled = AttemptState::Settled {
                batch_id: batch_id.into(),
                ended: state.word().into(),
                part: Some(c.part.clone()),
                counts: c.counts,
                retryable: c.retryable,
                usage: Box::new(c.usage),
                cost,
                errors: c.errors.clone(),
                files: c.files.clone(),
            };
            let was_priced = attempt.prices.is_some();
            let model = journal.shards.get(attempt_key.shard).map(|shard| &shard.model);
            Some(Step::Swap(journal.next(|j| {
                if let Some(shard) = j.shards.get_mut(attempt_key.shard) {
                    shard.unreported_cost += unreported;
                }
                if let Some(attempt) = j.attempt_mut(attempt_key) {
                    (attempt.state, attempt.billed_again, attempt.prices) = (settled, billed_again, None);
                }
                if let (false, Some(model), Some(provider)) = (was_priced, model, &o.job.provider) {
                    j.pricing.note(model, &provider.prices);
                }
            })))
        }
        PolledState::Unnamed { .. } => {
            round.stage = reasons::COLLECTING;
            if let Some(step) = given_up(o, journal, attempt_key, attempt, batch_id) {
                return Some(step);
            }
            round.hold("lost", attempt, &why_lost(&look.seen, batch_id), vec!["lost".into(), "resend".into()]);
            poll(o, attempt_key, again, round)
        }
        PolledState::Ended { .. } => {
            round.stage = reasons::COLLECTING;
            if let Some(c) = o.memory.collected.get(batch_id) {
                round.blocked = collecting::short_files(batch_id, c).or(round.blocked.take());
                if let Some(due) = collecting::again(o, look, c).filter(|due| o.now < *due) {
                    return round.due(due);
                }
            }
            let patient = o.now < look.at + o.timing.listing_lag;
            (!o.memory.running.contains(&Task::Collect(attempt_key))).then_some(Step::Collect { attempt_key, patient })
        }
        PolledState::Gone { .. } => {
            round.stage = reasons::COLLECTING;
            if let Some(step) = given_up(o, journal, attempt_key, attempt, batch_id) {
                return Some(step);
            }
            round.hold("lost", attempt, &why_lost(&look.seen, batch_id), vec!["lost".into(), "resend".into()]);
            match o.memory.running.contains(&Task::Collect(attempt_key)) {
                true => None,
                false => match look.at + o.job.poll_period {
                    due if o.now >= due => Some(Step::Collect { attempt_key, patient: false }),
                    due => round.due(due),
                },
            }
        }
    }
}

/// Returns the cost of an attempt: at the prices of its submission, or else at those that its model has by now. None without any.
fn cost(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    usage: &BatchUsage,
) -> Option<Box<Cost>> {
    let prices = attempt.prices.as_deref().or_else(|| prices_now(o, journal, attempt_key));
    prices.map(|prices| Box::new(prices.cost(usage)))
}

/// Returns the prices that the account has now for the model of the attempt's shard.
pub(super) fn prices_now<'a>(o: &Observed<'a>, journal: &Journal, attempt_key: AttemptKey) -> Option<&'a Prices> {
    let model = &journal.shards.get(attempt_key.shard)?.model;
    o.job.provider.as_ref()?.prices.of(model)
}

/// Returns whether the answers were collected, and will not be fetched again.
fn may_settle(o: &Observed, look: &PollResult, batch_id: &str) -> bool {
    o.memory.collected.get(batch_id).is_some_and(|c| collecting::again(o, look, c).is_none())
}

fn poll(o: &Observed, attempt_key: AttemptKey, again: i64, round: &mut Round) -> Option<Step> {
    if o.now >= again { Some(Step::Poll(attempt_key)) } else { round.due(again) }
}

/// Returns the next step for a batch that was rejected as a whole. A gateway may have made another batch of the same POST; that
/// one is followed instead. Requests that would be sent again wait until the list must show such a batch.
fn turned_away(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    (attempt, batch_id): (&Attempt, &str),
    (refusal, message, again): (Refusal, &str, bool),
    round: &mut Round,
) -> Option<Step> {
    if let Some(twin) = twins::twins(o, attempt, batch_id).find(|id| !o.memory.is_turned_away(id)) {
        return Some(record(o, journal, attempt_key, twin));
    }
    if matches!(refusal, Refusal::Capacity | Refusal::TokenLimit) {
        let note = format!("the provider turned batch {batch_id} away for lack of room; it is sent again: {message}");
        round.say(reasons::WAITING_FOR_QUOTA, note);
    }
    let (all, can) = (twins::shown_at(o, attempt), o.capabilities());
    // There is no other batch of the POST, or it cannot be searched for and its requests are not sent again anyway.
    if can.can_repeat() || !can.can_search() && !again {
        return Some(rejected(o, journal, attempt_key, refusal, message));
    }
    if !can.can_search() {
        return resolve::ask_for_twins(o, journal, attempt_key, (attempt, batch_id), message, round);
    }
    let failed = o.memory.failed_searches.get(&attempt.intent_id);
    match o.memory.searches.get(&attempt.intent_id) {
        Some(search) if search.began >= all && search.found.is_none() && again => {
            resolve::ask_for_twins(o, journal, attempt_key, (attempt, batch_id), message, round)
        }
        Some(search) if search.began >= all || !again => Some(rejected(o, journal, attempt_key, refusal, message)),
        _ if failed.is_some() && !again => Some(rejected(o, journal, attempt_key, refusal, message)),
        // Searches that failed up to the last try prove as little as a list that cannot be searched.
        _ if failed.is_some_and(|at| *at >= all) => {
            resolve::ask_for_twins(o, journal, attempt_key, (attempt, batch_id), message, round)
        }
        search if o.now < all && (search.is_some() || failed.is_some()) => round.due(all),
        _ => Some(Step::Search(attempt_key)),
    }
}

/// Returns the step for a person's answer to the question about a recorded batch whose answers cannot be fetched. Its input
/// file is deleted first.
fn given_up(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    batch_id: &str,
) -> Option<Step> {
    let step = match said(o, journal, &hold_id("lost", attempt))? {
        "lost" => with_state(journal, attempt_key, lost_batch(journal.requests_of(attempt_key), batch_id)),
        "resend" => write_off(journal, attempt_key, format!("a person said that batch {batch_id} does not exist")),
        _ => return None,
    };
    if let Some(delete) = without_file(o, attempt_key, attempt, true) {
        return Some(delete);
    }
    let counted = || job_budget::may_have_cost(o, journal, (attempt_key, attempt), step);
    // It may have been billed: what a person says of it is no proof.
    reservation::settle(o, attempt_key, attempt, None).ok().map(|settle| settle.unwrap_or_else(counted))
}

/// Records that the batch was rejected as a whole. Its input file is deleted first, unless `spec.providerFilePolicy` retains
/// it; the next attempt gets a new file.
fn rejected(o: &Observed, journal: &Journal, attempt_key: AttemptKey, refusal: Refusal, message: &str) -> Step {
    let attempt = journal.shards.get(attempt_key.shard).and_then(|s| s.attempt.as_ref());
    if o.job.provider_file_policy == ProviderFilePolicy::Delete
        && let Some(step) = attempt.and_then(|attempt| without_file(o, attempt_key, attempt, false))
    {
        return step;
    }
    let rejection = Rejection::new(refusal, message);
    Step::Swap(journal.next(|j| refuse(o, j, attempt_key, rejection, true)))
}

fn lost_batch(requests: i64, batch_id: &str) -> AttemptState {
    AttemptState::Settled {
        batch_id: batch_id.into(),
        ended: "lost".into(),
        part: None,
        counts: RequestCounts { total: requests, missing: requests, ..Default::default() },
        usage: Default::default(),
        cost: None,
        retryable: 0,
        errors: vec![],
        files: vec![],
    }
}

pub(super) fn recorded_at(attempt: &Attempt) -> i64 {
    match attempt.state {
        AttemptState::Submitted { at, .. } => at,
        _ => 0,
    }
}

/// Returns the last look at the recorded batch of an attempt.
pub(super) fn look<'a>(o: &'a Observed, attempt: &Attempt) -> Option<&'a PollResult> {
    match &attempt.state {
        AttemptState::Submitted { batch_id, .. } => o.memory.looks.get(batch_id),
        _ => None,
    }
}
