//! The choice of the next shard to send, and its prerequisites.

use super::attempt::{Attempt, AttemptKey, AttemptState, Payload, Refusal};
use super::findings::Place;
use super::follow::prices_now;
use super::journal::Journal;
use super::observed::Observed;
use super::refused::{explain, is_over_the_limit, not_before, send_less, streaks_of_next};
use super::reservation;
use super::shard::Shard;
use super::step::Step;
use super::submission::{Round, attempts};
use super::task::Task;
use super::trial::{self, Turn};
use super::{canary, job_budget};
use crate::api::conditions::reasons;
use crate::api::{PayloadKind, ProviderFilePolicy};

/// Least milliseconds between two looks at the place of a waiting job in the queue.
const TOLD_AGAIN: i64 = 60_000;

/// Returns the step for the next shard that may be sent, if there is room for one.
pub(super) fn start(o: &Observed, journal: &Journal, round: &mut Round) -> Option<Step> {
    if journal.shards.iter().any(Shard::is_refused_for_good) {
        return None;
    }
    let uploading = o.memory.running.iter().filter(|t| matches!(t, Task::Upload(_))).count();
    let ready = |attempt_key: AttemptKey| payload_for(o, journal, attempt_key).is_some();
    let room = o.job.parallelism.saturating_sub(journal.shards.iter().filter(|s| s.is_live()).count());
    let unsent = journal.shards.entries().filter(|(_, s)| !s.is_live() && s.settled().is_none());
    let unsent = unsent.filter(|(_, s)| canary::may_send(journal, s));
    let next: Vec<(usize, &Shard)> = unsent.take(room).collect();
    for &(shard, s) in &next {
        let attempt = s.attempt.as_ref().map_or(1, |a| a.number + 1);
        let attempt_key = AttemptKey { shard, attempt };
        if is_over_the_limit(s) {
            match send_less(o, journal, shard, round) {
                Some(step) => return Some(step),
                None => continue,
            }
        }
        if let Some(message) = o.memory.unfit.get(&(attempt_key, s.sha256.clone())) {
            return Some(refused_at_upload(o, journal, attempt_key, message));
        }
        if let Some(at) = not_before(s).filter(|at| o.now < *at) {
            explain(s, round);
            round.due(at);
            continue;
        }
        if let Some(obstacle) = job_budget::obstacle(o, journal, s) {
            job_budget::explain(o, obstacle, round);
            return None;
        }
        match trial::turn(o, journal, &next, shard, round) {
            Turn::Now => {}
            Turn::Look(other) if !o.memory.running.contains(&Task::Call(other)) => return Some(Step::Poll(other)),
            Turn::Look(_) | Turn::Later => continue,
        }
        if o.memory.store_proved.is_none() {
            return Some(Step::ProveStore);
        } else if ready(attempt_key) {
            // One permit to POST at a time: it expires, and its result is recorded first.
            if is_posting(o, journal) {
                continue;
            }
            if o.memory.place == Place::Free {
                let file = file_for(o, journal, attempt_key).unwrap_or_default();
                match reservation::turn(o, journal, attempt_key, file, round) {
                    reservation::Turn::Now => return Some(intent(o, journal, attempt_key)),
                    reservation::Turn::After(step) => return Some(*step),
                    // Later shards do not overtake it.
                    reservation::Turn::Later => return None,
                }
            }
            if let Place::Full(why) = &o.memory.place {
                round.say(reasons::WAITING_FOR_QUOTA, why.clone());
                // The place in the queue moves on without news of this job.
                round.due(o.now + o.job.poll_period.max(TOLD_AGAIN));
            }
            if !o.memory.running.contains(&Task::Place) {
                return Some(Step::WaitForPlace(attempt_key));
            }
        } else if !o.memory.running.contains(&Task::Upload(attempt_key)) && uploading < o.job.parallelism {
            match without_uncounted_file(o, journal, attempt_key) {
                // Another call about the batch is under way.
                Some(step) if step.call().is_some_and(|call| o.memory.running.contains(&call)) => continue,
                Some(step) => return Some(step),
                None => return Some(Step::Upload(attempt_key)),
            }
        }
    }
    None
}

/// Returns whether this process is about to request a batch, or waits for the reply.
pub(super) fn is_posting(o: &Observed, journal: &Journal) -> bool {
    let permitted = |a: &Attempt| o.memory.permit.as_ref() == Some(&a.intent_id) && a.state == AttemptState::Intended;
    o.memory.running.iter().any(|t| matches!(t, Task::Post(_))) || attempts(journal).any(|(_, a)| permitted(a))
}

/// Returns the payload that the attempt may send.
fn payload_for(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Option<Payload> {
    let kind = o.capabilities().payload;
    if kind == PayloadKind::Inline {
        return Some(Payload::Inline {});
    }
    let file = file_for(o, journal, attempt_key).filter(|file| reservation::is_counted(o, file))?;
    Some(Payload::named(kind, file.into()))
}

/// Returns the file of the attempt at the provider. That of an attempt that was refused before a batch existed is used again.
fn file_for<'a>(o: &'a Observed, journal: &'a Journal, attempt_key: AttemptKey) -> Option<&'a str> {
    let shard = journal.shards.get(attempt_key.shard)?;
    // Another account does not have the file.
    let reusable = |a: &&Attempt| matches!(a.state, AttemptState::Refused { .. }) && a.fingerprint == o.job.fingerprint;
    let refused = shard.attempt.as_ref().filter(reusable).map(|a| a.payload.name());
    let there = refused.filter(|name| !name.is_empty() && !o.memory.deleted.contains(*name));
    let uploaded = || o.memory.uploads.get(&(attempt_key, shard.sha256.clone())).map(String::as_str);
    there.or_else(uploaded)
}

/// Returns the step that deletes a file that this process did not count, before it is uploaded anew.
fn without_uncounted_file(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Option<Step> {
    let file = file_for(o, journal, attempt_key)?;
    let is_to_go = o.job.provider_file_policy == ProviderFilePolicy::Delete && !o.memory.deleted.contains(file);
    // Another process may be about to send it, so this is decided on the journal as it is.
    is_to_go.then(|| Step::DeleteFiles { files: vec![file.into()], attempt_key: Some(attempt_key), must: true })
}

fn intent(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Step {
    // The provider is pinned first: whoever deletes it from now on sees the pin, or we see the deletion.
    if !o.job.pinned {
        return Step::Pin;
    }
    if o.job.provider.as_ref().is_some_and(|p| !p.kept && !p.terminating) {
        return Step::KeepProvider;
    }
    let payload = payload_for(o, journal, attempt_key).unwrap_or_default();
    let prices = prices_now(o, journal, attempt_key).copied().map(Box::new);
    let post_by = o.now + o.timing.post_window;
    let attempt = Attempt { post_by, payload, prices, ..attempt(o, attempt_key) };
    let streaks = streaks_of_next(journal, attempt_key);
    let journal = journal.next(|j| {
        if let Some(shard) = j.shards.get_mut(attempt_key.shard) {
            (shard.attempt, shard.streaks) = (Some(attempt), streaks);
            if let Some(provider) = &o.job.provider {
                j.pricing.note(&shard.model, &provider.prices);
            }
        }
    });
    Step::WriteIntent { journal, intent_id: o.nonce.into() }
}

fn attempt(o: &Observed, attempt_key: AttemptKey) -> Attempt {
    Attempt::intended(attempt_key.attempt, o.nonce, Payload::default(), o.now, &o.job.fingerprint)
}

/// Records that the requests themselves were refused before a batch could be requested; they are not uploaded again.
fn refused_at_upload(o: &Observed, journal: &Journal, attempt_key: AttemptKey, message: &str) -> Step {
    let state = AttemptState::Refused { refusal: Refusal::Invalid, message: message.into(), at: o.now, retry_at: None };
    let attempt = Attempt { state, ..attempt(o, attempt_key) };
    Step::Swap(journal.next(|j| {
        if let Some(shard) = j.shards.get_mut(attempt_key.shard) {
            shard.attempt = Some(attempt);
        }
    }))
}
