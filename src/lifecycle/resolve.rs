//! The resolution of an intent whose outcome is unknown: its reply was lost, or came from a gateway.

use super::attempt::{Attempt, AttemptKey, AttemptState, Payload, Refusal, Rejection};
use super::completion;
use super::findings::PostResult;
use super::head::ID_LIMIT;
use super::job_budget;
use super::journal::Journal;
use super::observed::Observed;
use super::provider_files::without_file;
use super::questions::{hold_id, said};
use super::refused::refuse;
use super::reservation;
use super::step::Step;
use super::submission::{Round, record, with_state, write_off};
use super::submit::is_posting;
use crate::api::conditions::reasons;
use crate::api::text::clip;
use crate::api::{Revocation, UnknownSubmissionPolicy};

const POLICY_IS_HOLD: &str = "no batch of it is found; the provider's `unknownSubmissionPolicy` is Hold";

/// Placeholder, in an answer to copy, for the batch's id, which only a person can find out.
pub(super) const ID_TO_FILL_IN: &str = "BATCH_ID";

/// Number of repeated POSTs after which a person is asked as well.
const REPEATS: i64 = 3;

const NOTHING_SHOWN: &str =
    "the provider shows nothing of a batch by which it could be found; look at the provider and answer";

const NOTHING_REVOKES: &str = "nothing takes the right to start a batch away from it";

const NOTHING_IS_SENT: &str = "the job submits nothing now, so that it is not sent again to find out";

const UNSEARCHABLE: &str = "the provider's list of batches cannot be searched, so that nothing proves that no batch runs; look \
                            at the provider and answer";

/// Resolves an intent without a recorded batch, for a process that holds no permit for it. Searches for the batch; if there is
/// none, revokes the right to start one. At a provider that makes no second batch of a repeated POST, repeats the POST instead
/// of revoking.
pub(super) fn resolve(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    may_start: bool,
    round: &mut Round,
) -> Option<Step> {
    let can = o.capabilities();
    if let Some(step) = answered(o, journal, attempt_key, attempt) {
        return Some(step);
    }
    say_what_was_declined(attempt, round);
    let quiet = attempt.post_by + o.timing.send_timeout;
    let search = o.memory.searches.get(&attempt.intent_id);
    if let Some(id) = search.and_then(|s| s.batches().first()) {
        return Some(record(o, journal, attempt_key, id));
    }
    ask_what_cannot_be_found_out(o, attempt_key, attempt, round);
    ask_what_is_not_answered(o, attempt_key, attempt, round);
    if can.can_search() && search.is_none_or(|s| s.began < quiet && o.now >= quiet) {
        return Some(Step::Search(attempt_key));
    }
    if o.now < quiet {
        return round.due(quiet);
    }
    if search.is_some_and(|s| s.found.is_none()) {
        return held(o, attempt_key, attempt, round, UNSEARCHABLE);
    }
    if asks_a_person(o) {
        return held(o, attempt_key, attempt, round, POLICY_IS_HOLD);
    }
    if attempt.fingerprint != o.job.fingerprint {
        let why = "the credential has changed since, so that the provider's list may be another account's; put the earlier \
                   credential back, or answer";
        return held(o, attempt_key, attempt, round, why);
    }
    match can {
        can if can.can_repeat() && may_start => return repeat(o, journal, attempt_key, attempt, round),
        can if can.can_repeat() => return held(o, attempt_key, attempt, round, NOTHING_IS_SENT),
        can if !can.can_search() => return held(o, attempt_key, attempt, round, NOTHING_SHOWN),
        _ if !is_revocable(o, attempt) => return held(o, attempt_key, attempt, round, NOTHING_REVOKES),
        _ => {}
    }
    match o.memory.files.get(attempt.payload.name()) {
        None => return Some(Step::CheckFile(attempt_key)),
        Some(false) => {
            let why = "the provider no longer knows the input file, so that nothing proves that no batch runs";
            return held(o, attempt_key, attempt, round, why);
        }
        Some(true) => {}
    }
    match o.memory.resolvable {
        None => Some(Step::Probe(attempt_key)),
        Some(false) => {
            let why = "this provider can still start a batch of a deleted file, or cannot be searched";
            held(o, attempt_key, attempt, round, why)
        }
        Some(true) => Some(with_state(journal, attempt_key, AttemptState::Revoking)),
    }
}

/// Returns whether deleting the attempt's payload revokes the right to start a batch.
fn is_revocable(o: &Observed, attempt: &Attempt) -> bool {
    o.capabilities().revocation == Revocation::DeletedPayload && !attempt.payload.name().is_empty()
}

/// Repeats the POST with the same token, at growing intervals and under a new permit each time. The provider answers with the
/// batch that it made, or makes the missing one. A refusal proves nothing, because an earlier POST may have been accepted.
fn repeat(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    round: &mut Round,
) -> Option<Step> {
    let pause = if attempt.repeats == 0 { 0 } else { (2_000 << attempt.repeats.min(8)).min(300_000) };
    let at = attempt.post_by + o.timing.send_timeout + pause;
    if o.now < at {
        return round.due(at);
    }
    if is_posting(o, journal) {
        return None;
    }
    let journal = journal.next(|j| {
        if let Some(attempt) = j.attempt_mut(attempt_key) {
            (attempt.post_by, attempt.repeats) = (o.now + o.timing.post_window, attempt.repeats + 1);
        }
    });
    Some(Step::WriteIntent { journal, intent_id: attempt.intent_id.clone() })
}

/// Asks a person as well, once the POST was repeated several times without a batch.
fn ask_what_is_not_answered(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, round: &mut Round) {
    if attempt.repeats >= REPEATS {
        let last = match o.memory.posted.get(&attempt.intent_id) {
            Some(PostResult::Unknown(why)) => clip(why.clone(), 200),
            Some(PostResult::Refused(Rejection { message, .. }) | PostResult::Declined(Rejection { message, .. })) => {
                clip(message.clone(), 200)
            }
            _ => "nothing is known of it".into(),
        };
        let times = attempt.repeats;
        let why = format!("{}, and it was sent again {times} times without a batch: {last}", happened(attempt));
        ask(o, attempt_key, attempt, round, &why);
    }
}

/// Asks a person about a recorded batch that was rejected as a whole, because no list shows whether a gateway made another
/// batch of the same POST. Returns the step for the answer, or a further search.
pub(super) fn ask_for_twins(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    (attempt, batch_id): (&Attempt, &str),
    message: &str,
    round: &mut Round,
) -> Option<Step> {
    // An answer that named this very batch was applied when the batch was recorded.
    let step = answered(o, journal, attempt_key, attempt).filter(|_| !is_adopted(o, batch_id));
    step.or_else(|| {
        let why = format!(
            "batch {batch_id} was turned away ({}), and the provider's list of batches cannot be searched, so that \
             nothing proves that no other batch was made of the same submission; look at the provider and answer",
            clip(message.into(), 160)
        );
        ask(o, attempt_key, attempt, round, &why);
        look_again(o, attempt_key, attempt, round)
    })
}

fn is_adopted(o: &Observed, batch_id: &str) -> bool {
    o.job.answers.ids().any(|(_, answer)| answer.strip_prefix("adopt:") == Some(batch_id))
}

/// Shows the error that answered the POST while the outcome is being resolved.
fn say_what_was_declined(attempt: &Attempt, round: &mut Round) {
    let Some(Rejection { refusal, message, .. }) = &attempt.declined else { return };
    let stage = match refusal {
        Refusal::Capacity | Refusal::TokenLimit => reasons::WAITING_FOR_QUOTA,
        _ => reasons::SUBMITTING,
    };
    let note = format!(
        "the server answered a submission with an error: {message}. A gateway may have made a batch of it all the same, so \
         it is looked for, and its input file deleted, before the requests are sent again"
    );
    round.say(stage, note);
}

/// Asks a person as well, if a call that would resolve the intent failed several times in a row. The call is still retried.
fn ask_what_cannot_be_found_out(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, round: &mut Round) {
    if let Some(why) = o.memory.unsettled.get(&attempt.intent_id) {
        ask(
            o,
            attempt_key,
            attempt,
            round,
            &format!("{}, and nobody can find out what became of it: {why}", happened(attempt)),
        );
    }
}

/// Describes what is known of a submission whose outcome is being resolved.
fn happened(attempt: &Attempt) -> String {
    match &attempt.declined {
        Some(Rejection { message, .. }) => format!(
            "the server answered a submission with an error ({}), which does not prove that a gateway made no batch of it",
            clip(message.clone(), 300)
        ),
        None => "the reply to a submission was lost".into(),
    }
}

/// Asks a person, and keeps searching: a batch that the list shows late makes an answer unnecessary.
fn held(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, round: &mut Round, why: &str) -> Option<Step> {
    ask(o, attempt_key, attempt, round, &format!("{}, and {why}", happened(attempt)));
    look_again(o, attempt_key, attempt, round)
}

fn look_again(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, round: &mut Round) -> Option<Step> {
    if !o.capabilities().can_search() {
        return None;
    }
    let read = o.memory.searches.get(&attempt.intent_id).map(|search| search.began);
    let failed = o.memory.failed_searches.get(&attempt.intent_id).copied();
    let again = read.max(failed).map_or(o.now, |last| last + o.timing.listing_lag);
    match o.now >= again {
        true => Some(Step::Search(attempt_key)),
        false => round.due(again),
    }
}

fn ask(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, round: &mut Round, why: &str) {
    let of = match &attempt.payload {
        Payload::File { id } => format!("of input file {id}, "),
        Payload::Object { name } => format!("of object {name}, "),
        Payload::Inline {} => String::new(),
    };
    let is_to_stop = o.job.deleting_since.is_some() || o.job.stop.is_some() || completion::is_to_stop(o);
    let then = match is_to_stop {
        true => "its requests are not sent again, for the job is to stop",
        false => "its requests are sent, and paid, anew",
    };
    let message = format!(
        "{why}. It was to become batch {attempt_key}, {of}with `bj-intent: {}` in its metadata: if the provider has \
         it, answer 'adopt:' and its id in place of {ID_TO_FILL_IN}; if there is none, answer 'none', and {then}",
        attempt.intent_id
    );
    round.hold("unknown", attempt, &message, vec!["none".into(), format!("adopt:{ID_TO_FILL_IN}")]);
}

/// Deletes the input file, and then searches again. After the deletion no batch can start, and a batch that started before
/// must show in the list.
pub(super) fn revoke(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    round: &mut Round,
) -> Option<Step> {
    if let Some(step) = answered(o, journal, attempt_key, attempt) {
        return Some(step);
    }
    say_what_was_declined(attempt, round);
    let search = o.memory.searches.get(&attempt.intent_id);
    if let Some(id) = search.and_then(|s| s.batches().first()) {
        return Some(record(o, journal, attempt_key, id));
    }
    ask_what_cannot_be_found_out(o, attempt_key, attempt, round);
    if attempt.fingerprint != o.job.fingerprint {
        let why = "its right to start a batch was being revoked when the credential changed; put the earlier credential back, \
                   or answer";
        return held(o, attempt_key, attempt, round, why);
    }
    if !is_revocable(o, attempt) {
        return held(o, attempt_key, attempt, round, NOTHING_REVOKES);
    }
    let Some(gone) = o.memory.revoked.get(attempt.payload.name()) else {
        return Some(Step::Revoke(attempt_key));
    };
    let quiet = gone + o.timing.listing_lag;
    match search {
        Some(search) if search.began >= quiet && search.found.is_none() => {
            held(o, attempt_key, attempt, round, UNSEARCHABLE)
        }
        Some(search) if search.began >= quiet && asks_a_person(o) => {
            held(o, attempt_key, attempt, round, POLICY_IS_HOLD)
        }
        Some(search) if search.began >= quiet => Some(revoked(o, journal, attempt_key, attempt)),
        _ if o.now < quiet => round.due(quiet),
        _ => Some(Step::Search(attempt_key)),
    }
}

fn asks_a_person(o: &Observed) -> bool {
    o.job.provider.as_ref().is_some_and(|p| p.unknown_submission_policy == UnknownSubmissionPolicy::Hold)
}

/// Records that the attempt is proved to have made no batch: with the error that answered the POST or, if its reply was lost,
/// as a failure.
fn revoked(o: &Observed, journal: &Journal, attempt_key: AttemptKey, attempt: &Attempt) -> Step {
    if let Some(rejection) = &attempt.declined {
        return Step::Swap(journal.next(|j| refuse(o, j, attempt_key, rejection.clone(), true)));
    }
    let message = match o.memory.posted.get(&attempt.intent_id) {
        Some(PostResult::Unknown(message)) => message.clone(),
        _ => "the outcome of the submission was unknown".into(),
    };
    Step::Swap(journal.next(|j| {
        refuse(o, j, attempt_key, Rejection::new(Refusal::Failed, message.clone()), false);
        if let Some(attempt) = j.attempt_mut(attempt_key)
            && !matches!(attempt.state, AttemptState::Refused { refusal: Refusal::TooOften, .. })
        {
            attempt.state = AttemptState::Revoked { message };
        }
    }))
}

/// Returns the step for a person's answer to the question about an intent's outcome.
fn answered(o: &Observed, journal: &Journal, attempt_key: AttemptKey, attempt: &Attempt) -> Option<Step> {
    let answer = said(o, journal, &hold_id("unknown", attempt))?;
    match answer.strip_prefix("adopt:") {
        // The command was copied, and the id was not filled in.
        Some("" | ID_TO_FILL_IN) => None,
        // No provider's id is so long, and the journal has no room for it.
        Some(batch) if batch.len() > ID_LIMIT => None,
        Some(batch) => Some(record(o, journal, attempt_key, batch)),
        None if answer == "none" => {
            if let Some(delete) = without_file(o, attempt_key, attempt, true) {
                return Some(delete);
            }
            let revoked = || {
                let step = write_off(journal, attempt_key, "a person said that no batch exists".into());
                job_budget::may_have_cost(o, journal, (attempt_key, attempt), step)
            };
            let settled = reservation::settle(o, attempt_key, attempt, None).ok();
            settled.map(|settle| settle.unwrap_or_else(revoked))
        }
        None => None,
    }
}
