//! Which shard is sent next, and what has to be there first.

use super::decide::{Step, Stuck};
use super::journal::{Attempt, AttemptState, Journal, Refusal, Shard, Slot};
use super::observed::{Observed, Task};
use super::shards::Round;
use crate::api::conditions::reasons;

/// The next shard that may be sent, if there is room for one.
pub(super) fn start(o: &Observed, journal: &Journal, round: &mut Round) -> Option<Step> {
    if journal.shards.iter().any(Shard::is_refused_for_good) {
        return None;
    }
    let uploading = o.memory.running.iter().filter(|t| matches!(t, Task::Upload(_))).count();
    let ready = |slot: Slot| file_for(o, journal, slot).is_some();
    let mut room = o.job.parallelism.saturating_sub(journal.shards.iter().filter(|s| s.is_live()).count());
    for (shard, s) in journal.shards.iter().enumerate().filter(|(_, s)| !s.is_live() && s.settled().is_none()) {
        if room == 0 {
            return None;
        }
        room -= 1;
        let attempt = s.attempt.as_ref().map_or(1, |a| a.number + 1);
        let slot = Slot { shard, attempt };
        if let Some(at) = not_before(s).filter(|at| o.now < *at) {
            explain(s, round);
            round.due(at);
        } else if o.memory.store_proved.is_none() {
            return Some(Step::ProveStore);
        } else if ready(slot) {
            return Some(intent(o, journal, slot));
        } else if !o.memory.running.contains(&Task::Upload(slot)) && uploading < o.job.parallelism {
            return Some(Step::Upload(slot));
        }
    }
    None
}

/// Says why a shard is not sent yet.
fn explain(shard: &Shard, round: &mut Round) {
    let Some(AttemptState::Refused { refusal, message, .. }) = shard.attempt.as_ref().map(|a| &a.state) else { return };
    let reason = match refusal {
        Refusal::Capacity => return round.stage = reasons::WAITING_FOR_QUOTA,
        Refusal::Credentials => reasons::CREDENTIALS_REJECTED,
        _ => reasons::PROVIDER_UNAVAILABLE,
    };
    round.stuck = Some(Stuck { reason, message: message.clone() });
}

/// Attempts that were refused are repeated after 4 s, then twice as long each time, up to 5 minutes, or to one where the
/// provider was not reached: that costs it nothing, and it may be back any time.
fn not_before(shard: &Shard) -> Option<i64> {
    let attempt = shard.attempt.as_ref()?;
    let AttemptState::Refused { at, refusal, .. } = attempt.state else { return None };
    let longest = if refusal == Refusal::NotSent { 60_000 } else { 300_000 };
    Some(at + (2_000i64 << attempt.number.min(8)).min(longest))
}

/// The uploaded file that the attempt may use. The file of an attempt that was refused before a batch existed is as good
/// as new.
fn file_for(o: &Observed, journal: &Journal, slot: Slot) -> Option<String> {
    let shard = &journal.shards[slot.shard];
    // Another account does not have it.
    let reusable = |a: &&Attempt| matches!(a.state, AttemptState::Refused { .. }) && a.fingerprint == o.job.fingerprint;
    let refused = shard.attempt.as_ref().filter(reusable);
    let there = refused.filter(|a| !a.file_id.is_empty() && !o.memory.deleted.contains(&a.file_id));
    there.map(|a| a.file_id.clone()).or_else(|| o.memory.uploads.get(&(slot, shard.sha256.clone())).cloned())
}

fn intent(o: &Observed, journal: &Journal, slot: Slot) -> Step {
    // Pinned first: whoever deletes the provider from now on sees the pin, or we see the deletion.
    if !o.job.pinned {
        return Step::Pin;
    }
    if o.job.provider.as_ref().is_some_and(|p| !p.kept && !p.going) {
        return Step::KeepProvider;
    }
    let attempt = Attempt {
        number: slot.attempt,
        intent_id: o.nonce.into(),
        file_id: file_for(o, journal, slot).unwrap_or_default(),
        post_by: o.now + o.timing.post_window,
        fingerprint: o.job.fingerprint.clone(),
        state: AttemptState::Intended,
    };
    let journal = journal.next(|j| j.shards[slot.shard].attempt = Some(attempt));
    Step::WriteIntent { journal, intent_id: o.nonce.into() }
}
