//! What one write of the journal may change.

use super::*;
use AttemptState::{Abandoned, Intended, Refused, Revoked, Revoking, Settled, Submitted};

/// Whether a write is one step forward and forgets nothing.
pub(super) fn is_lawful(write: &Write) -> bool {
    let next = &*write.next;
    let Some(judged) = write.judged.as_deref() else { return next.rev == 1 && !next.has_intents() };
    if is_halved(judged, next) {
        return next.rev == judged.rev + 1 && next.plan == judged.plan && next.commit == judged.commit;
    }
    next.rev == judged.rev + 1
        && judged.commit.as_ref().is_none_or(|c| next.commit.as_ref() == Some(c))
        && shards_go_on(judged, next)
        && pairs(judged, next).all(|(a, b)| attempt_goes_on(a, b, next))
        && seals(judged, next)
        && changes(judged, next) <= 1
}

/// The shards that both have in their heads.
fn pairs<'a>(judged: &'a Journal, next: &'a Journal) -> impl Iterator<Item = (&'a Shard, &'a Shard)> {
    judged.shards.entries().filter_map(|(index, shard)| Some((shard, next.shards.get(index)?)))
}

/// Only settled shards leave the head, into as many segments as there are more.
fn seals(judged: &Journal, next: &Journal) -> bool {
    let mut gone = judged.shards.entries().filter(|(index, _)| next.shards.get(*index).is_none()).map(|(_, s)| s);
    let sealed = |journal: &Journal| journal.shards.sealed_segments().iter().map(|s| s.count).sum::<usize>();
    let more = sealed(next) - sealed(judged);
    !judged.has_intents()
        || gone.clone().count() <= more && gone.all(|s| s.settled().is_some() || s.batch_in_flight().is_some())
}

fn changes(judged: &Journal, next: &Journal) -> usize {
    let kept = |(a, b): &(&Shard, &Shard)| a.attempt == b.attempt || forgets_file(a, b, next);
    let committed = judged.commit.is_none() && next.commit.is_some();
    let grown = !judged.shards.is_empty() && next.shards.len() > judged.shards.len();
    let moved = pairs(judged, next).filter(|pair| !kept(pair)).count();
    let forgets_files = committed && moved > 0;
    usize::from(committed) + usize::from(grown) + if forgets_files { 0 } else { moved }
}

/// Shards come and go as a plan before the first intent; after it others are only appended, a round at a time, once
/// every earlier one is settled.
fn shards_go_on(judged: &Journal, next: &Journal) -> bool {
    if !judged.has_intents() {
        return !next.has_intents() || same_contents(judged, next);
    }
    let settled = judged.shards.are_settled();
    let later = next.shards.entries().filter(|(index, _)| *index >= judged.shards.len()).map(|(_, s)| s);
    let appended = later.clone().all(|s| settled && s.attempt.is_none() && s.round == judged.round() + 1);
    same_contents(judged, next) && appended && next.plan == judged.plan
}

/// Whether one shard, which was turned away for its tokens, became two that hold its lines and nothing else of it.
fn is_halved(judged: &Journal, next: &Journal) -> bool {
    let others = |at: usize| {
        let kept = |(i, a): (usize, &Shard)| i == at || next.shards.get(i) == Some(a);
        judged.shards.entries().all(kept)
    };
    let is_other = |(i, a): &(usize, &Shard)| next.shards.get(*i).is_some_and(|b| a.sha256 != b.sha256);
    let Some((at, whole)) = judged.shards.entries().find(is_other) else { return false };
    let Some(first) = next.shards.get(at) else { return false };
    let Some(second) = next.shards.get(judged.shards.len()).filter(|s| s.attempt.is_none()) else { return false };
    let [all, a, b] = [whole, first, second].map(|s| parse(&s.sha256).1);
    let without_file = |s: &Shard| s.attempt.as_ref().is_some_and(|a| a.payload.name().is_empty());
    next.shards.len() == judged.shards.len() + 1
        && others(at)
        && whole.refusal() == Some(Refusal::TokenLimit)
        && first.refusal() == Some(Refusal::TokenLimit)
        && without_file(first)
        && (!a.is_empty() && !b.is_empty() && all == format!("{a}{b}"))
        && [first.round, second.round] == [whole.round; 2]
}

fn same_contents(judged: &Journal, next: &Journal) -> bool {
    next.shards.len() >= judged.shards.len()
        && pairs(judged, next).all(|(a, b)| (&a.sha256, a.round) == (&b.sha256, b.round))
}

/// Who opens a closed journal again sends no file that its closer may delete.
fn forgets_file(a: &Shard, b: &Shard, next: &Journal) -> bool {
    let (Some(a), Some(b)) = (&a.attempt, &b.attempt) else { return false };
    let refused = matches!(a.state, Refused { .. }) && next.closing.is_none();
    refused && *b == Attempt { payload: without_name(&a.payload), ..a.clone() }
}

fn without_name(payload: &Payload) -> Payload {
    let mut payload = payload.clone();
    payload.forget();
    payload
}

fn attempt_goes_on(a: &Shard, b: &Shard, next: &Journal) -> bool {
    let starts = |b: &Attempt, number| b.number == number && b.state == Intended && next.closing.is_none();
    match (&a.attempt, &b.attempt) {
        (None, None) => true,
        (None, Some(b)) => starts(b, 1),
        (Some(_), None) => false,
        (Some(a), Some(b)) if a == b => true,
        _ if forgets_file(a, b, next) => true,
        (Some(a), Some(b)) if a.intent_id == b.intent_id => state_goes_on(a, b),
        (Some(a), Some(b)) => matches!(a.state, Revoked { .. } | Refused { .. }) && starts(b, a.number + 1),
    }
}

fn state_goes_on(a: &Attempt, b: &Attempt) -> bool {
    match (&a.state, &b.state) {
        (Intended, Submitted { .. } | Revoking) => a.payload == b.payload,
        (Intended, Intended) if b.repeats == a.repeats + 1 => {
            *b == Attempt { post_by: b.post_by, repeats: b.repeats, ..a.clone() }
        }
        (Intended, Intended) => a.declined.is_none() && *b == Attempt { declined: b.declined.clone(), ..a.clone() },
        (Intended, Refused { .. } | Revoked { .. }) | (Revoking, Submitted { .. } | Revoked { .. }) => true,
        (Revoking, Refused { refusal, .. }) => *refusal == Refusal::TooOften || a.declined.is_some(),
        (Refused { refusal, .. }, Refused { refusal: end, .. }) => {
            (*refusal, *end) == (Refusal::TokenLimit, Refusal::TooLarge)
        }
        (Submitted { batch_id: a, .. }, Settled { batch_id: b, .. }) => a == b,
        (Submitted { batch_id: a, .. }, Abandoned { batch_id: Some(b) }) => a == b,
        (Intended | Revoking, Abandoned { batch_id: None }) => true,
        // To a twin of a batch that was turned away, among others.
        (Submitted { .. }, Submitted { .. } | Refused { .. } | Revoked { .. }) => true,
        (Settled { batch_id: a, part: p, .. }, Settled { batch_id: b, part: q, .. }) => (a, p) == (b, q),
        _ => false,
    }
}
