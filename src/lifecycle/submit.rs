//! Which shard is sent next, and what has to be there first.

use super::attempt::{Attempt, AttemptKey, AttemptState, Payload, Refusal};
use super::journal::{Journal, Shard};
use super::observed::{Observed, Place, Task};
use super::refused::{explain, is_over_the_limit, not_before, send_less, streaks_of_next};
use super::step::Step;
use super::submission::{Round, attempts};
use crate::api::PayloadKind;
use crate::api::conditions::reasons;

/// The next shard that may be sent, if there is room for one.
pub(super) fn start(o: &Observed, journal: &Journal, round: &mut Round) -> Option<Step> {
    if journal.shards.iter().any(Shard::is_refused_for_good) {
        return None;
    }
    let uploading = o.memory.running.iter().filter(|t| matches!(t, Task::Upload(_))).count();
    let ready = |attempt_key: AttemptKey| payload_for(o, journal, attempt_key).is_some();
    let mut room = o.job.parallelism.saturating_sub(journal.shards.iter().filter(|s| s.is_live()).count());
    for (shard, s) in journal.shards.entries().filter(|(_, s)| !s.is_live() && s.settled().is_none()) {
        if room == 0 {
            return None;
        }
        room -= 1;
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
        } else if o.memory.store_proved.is_none() {
            return Some(Step::ProveStore);
        } else if ready(attempt_key) {
            // One right to POST at a time: it runs out, and what comes of it is written down first.
            if is_posting(o, journal) {
                continue;
            }
            if o.memory.place == Place::Free {
                return Some(intent(o, journal, attempt_key));
            }
            if let Place::Full(why) = &o.memory.place {
                round.say(reasons::WAITING_FOR_QUOTA, why.clone());
            }
            if !o.memory.running.contains(&Task::Place) {
                return Some(Step::WaitForPlace);
            }
        } else if !o.memory.running.contains(&Task::Upload(attempt_key)) && uploading < o.job.parallelism {
            return Some(Step::Upload(attempt_key));
        }
    }
    None
}

/// Whether this process is about to ask for a batch, or waits for the reply.
pub(super) fn is_posting(o: &Observed, journal: &Journal) -> bool {
    let permitted = |a: &Attempt| o.memory.permit.as_ref() == Some(&a.intent_id) && a.state == AttemptState::Intended;
    o.memory.running.iter().any(|t| matches!(t, Task::Post(_))) || attempts(journal).any(|(_, a)| permitted(a))
}

/// What the attempt may send. The file of an attempt that was refused before a batch existed is as good as new.
fn payload_for(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Option<Payload> {
    let kind = o.capabilities().payload;
    if kind == PayloadKind::Inline {
        return Some(Payload::Inline {});
    }
    let shard = journal.shards.get(attempt_key.shard)?;
    // Another account does not have it.
    let reusable = |a: &&Attempt| matches!(a.state, AttemptState::Refused { .. }) && a.fingerprint == o.job.fingerprint;
    let refused = shard.attempt.as_ref().filter(reusable).map(|a| a.payload.name());
    let there = refused.filter(|name| !name.is_empty() && !o.memory.deleted.contains(*name));
    let uploaded = || o.memory.uploads.get(&(attempt_key, shard.sha256.clone())).map(String::as_str);
    Some(Payload::named(kind, there.or_else(uploaded)?.into()))
}

fn intent(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Step {
    // Pinned first: whoever deletes the provider from now on sees the pin, or we see the deletion.
    if !o.job.pinned {
        return Step::Pin;
    }
    if o.job.provider.as_ref().is_some_and(|p| !p.kept && !p.terminating) {
        return Step::KeepProvider;
    }
    let attempt = Attempt {
        payload: payload_for(o, journal, attempt_key).unwrap_or_default(),
        post_by: o.now + o.timing.post_window,
        ..attempt(o, attempt_key, AttemptState::Intended)
    };
    let streaks = streaks_of_next(journal, attempt_key);
    let journal = journal.next(|j| {
        if let Some(shard) = j.shards.get_mut(attempt_key.shard) {
            (shard.attempt, shard.streaks) = (Some(attempt), streaks);
        }
    });
    Step::WriteIntent { journal, intent_id: o.nonce.into() }
}

fn attempt(o: &Observed, attempt_key: AttemptKey, state: AttemptState) -> Attempt {
    Attempt {
        number: attempt_key.attempt,
        intent_id: o.nonce.into(),
        payload: Payload::default(),
        post_by: o.now,
        fingerprint: o.job.fingerprint.clone(),
        declined: None,
        billed_again: 0,
        repeats: 0,
        state,
    }
}

/// The requests themselves are refused before a batch can be asked for: they are not uploaded again.
fn refused_at_upload(o: &Observed, journal: &Journal, attempt_key: AttemptKey, message: &str) -> Step {
    let state = AttemptState::Refused { refusal: Refusal::Invalid, message: message.into(), at: o.now, retry_at: None };
    let attempt = attempt(o, attempt_key, state);
    Step::Swap(journal.next(|j| {
        if let Some(shard) = j.shards.get_mut(attempt_key.shard) {
            shard.attempt = Some(attempt);
        }
    }))
}
