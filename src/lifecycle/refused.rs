//! Attempts that made no batch: their counts, and the time and contents of the next attempt.

use super::attempt::{Attempt, AttemptKey, AttemptState, Refusal, Rejection};
use super::findings::HalveResult;
use super::journal::Journal;
use super::observed::Observed;
use super::provider_files::without_file;
use super::shard::{Shard, Streaks};
use super::step::{Blocked, Step};
use super::submission::Round;
use super::task::Task;
use crate::api::ProviderFilePolicy;
use crate::api::conditions::reasons;
use crate::api::text::clock_time;

/// Number of attempts refused for their tokens, with nothing else of the job in flight, after which a shard is halved. Other
/// users of the account may have caused the first refusals.
const ALONE_LIMIT: u32 = 3;
/// Number of submissions refused because the provider does not know their file, after which the file is uploaded again.
const FILE_TRIES: u32 = 5;
/// Maximum number of uploads of one shard, if the provider knows none of the files.
const FILE_UPLOADS: u32 = 3;

/// Records in the journal that an attempt made no batch, and counts the failure if it counts.
pub(super) fn refuse(o: &Observed, j: &mut Journal, attempt_key: AttemptKey, rejection: Rejection, file_is_gone: bool) {
    let Rejection { mut refusal, message, retry_at } = rejection;
    let others_are_live = j.is_live_beside(attempt_key.shard);
    let Some(shard) = j.shards.get_mut(attempt_key.shard) else { return };
    let mut file_is_gone = file_is_gone;
    match refusal {
        Refusal::Failed => {
            shard.failures += 1;
            if shard.failures > o.job.backoff_limit_per_batch {
                refusal = Refusal::TooOften;
            }
        }
        // Batches that were sent after this attempt may have taken its room, so that the refusal does not count.
        Refusal::TokenLimit if others_are_live && !shard.streaks.beside => {
            shard.streaks.alone = shard.streaks.alone.saturating_sub(1);
        }
        Refusal::FileNotFound => {
            let tries = &mut shard.streaks.file_not_found;
            *tries = if file_is_gone { (*tries / FILE_TRIES + 1) * FILE_TRIES } else { *tries + 1 };
            file_is_gone |= tries.is_multiple_of(FILE_TRIES);
            if *tries >= FILE_TRIES * FILE_UPLOADS {
                refusal = Refusal::Invalid;
            }
        }
        _ => {}
    }
    if let Some(attempt) = &mut shard.attempt {
        if file_is_gone {
            attempt.payload.forget();
        }
        attempt.state = AttemptState::Refused { refusal, message, at: o.now, retry_at };
    }
}

/// Returns why no batch may be requested for this input file; None if one may. `is_ours` is the provider's word, which counts
/// more than the journal's: false if the file belongs to somebody else, None if the provider has no such file.
pub fn refused_for_its_file(file_id: &str, is_ours: Option<bool>) -> Option<Rejection> {
    match is_ours {
        Some(true) => None,
        Some(false) => {
            let message = format!("file {file_id}, which the journal names, is not this job's; it is not sent");
            Some(Rejection::new(Refusal::Invalid, message))
        }
        None => {
            let message = format!("the provider no longer has file {file_id}; its requests are uploaded again");
            Some(Rejection::new(Refusal::NotSent, message))
        }
    }
}

/// Returns the streaks of a shard's next attempt. The attempt counts as alone if no other batch of the job is live now. A
/// refusal for any reason but tokens ends that streak.
pub(super) fn streaks_of_next(journal: &Journal, attempt_key: AttemptKey) -> Streaks {
    let Some(shard) = journal.shards.get(attempt_key.shard) else { return Streaks::default() };
    let alone = match shard.refusal() {
        None | Some(Refusal::TokenLimit) => shard.streaks.alone,
        Some(_) => 0,
    };
    match journal.is_live_beside(attempt_key.shard) {
        true => Streaks { alone, beside: alone > 0, ..shard.streaks },
        false => Streaks { alone: alone + 1, beside: false, ..shard.streaks },
    }
}

/// Number of tries after which each pause is a tenth longer than the one before. A provider that cannot be reached is tried so
/// often in about ten minutes.
const STEADY_TRIES: u32 = 14;
/// The longest pause between two tries, in milliseconds, unless the provider asks for a longer one.
const LONGEST_PAUSE: i64 = 1_800_000;

/// Returns when a refused shard may be sent again (Unix milliseconds); None if the shard was not refused.
///
/// The first pause is 4 s. Each further pause is twice as long, up to 5 minutes, or up to 1 minute if nothing was sent, because
/// such tries cost the provider nothing. After many tries the pauses grow up to half an hour. They start over whenever a file
/// that was not found is uploaded again. The shard is never sent before the time that the provider asked for.
pub(super) fn not_before(shard: &Shard) -> Option<i64> {
    let attempt = shard.attempt.as_ref()?;
    let AttemptState::Refused { at, refusal, retry_at, .. } = attempt.state else { return None };
    let (times, longest) = match refusal {
        Refusal::NotSent => (attempt.number, 60_000),
        Refusal::FileNotFound if attempt.payload.name().is_empty() => (1, 300_000),
        Refusal::FileNotFound => (1 + shard.streaks.file_not_found.saturating_sub(1) % FILE_TRIES, 300_000),
        _ => (attempt.number, 300_000),
    };
    let steady = (2_000i64 << times.min(8)).min(longest);
    let pause = (STEADY_TRIES..times.min(STEADY_TRIES + 64)).fold(steady, |pause, _| pause + pause / 10);
    Some((at + pause.min(LONGEST_PAUSE)).max(retry_at.unwrap_or(0)))
}

/// Adds the reason why a refused shard is not sent yet to `round`.
pub(super) fn explain(shard: &Shard, round: &mut Round) {
    let Some(attempt) = &shard.attempt else { return };
    let AttemptState::Refused { refusal, message, .. } = &attempt.state else { return };
    let again = not_before(shard).map(clock_time).unwrap_or_default();
    let reason = match refusal {
        Refusal::Capacity => {
            let number = attempt.number;
            let note = format!(
                "the provider has no room for another batch now (attempt {number}); the next try is at {again}: {message}"
            );
            return round.say(reasons::WAITING_FOR_QUOTA, note);
        }
        Refusal::TokenLimit => return round.say(reasons::WAITING_FOR_QUOTA, over_the_limit(shard, &again, message)),
        Refusal::FileNotFound => {
            let uploads = shard.streaks.file_not_found.div_ceil(FILE_TRIES);
            let note = format!(
                "the provider does not know the input file that was just uploaded (upload {uploads} of {FILE_UPLOADS}); the \
                 next try is at {again}: {message}"
            );
            return round.say(reasons::SUBMITTING, note);
        }
        Refusal::Credentials => reasons::CREDENTIALS_REJECTED,
        _ => reasons::PROVIDER_UNAVAILABLE,
    };
    if *refusal == Refusal::Failed {
        let note = format!(
            "the provider made no batch of {} requests; the next try is at {again}, {} failures count against \
             `spec.backoffLimitPerBatch`: {message}",
            shard.requests, shard.failures
        );
        // The first two failures are no reason to call a person.
        match shard.failures {
            ..3 => return round.say(reasons::SUBMITTING, note),
            _ => round.blocked = Some(Blocked { reason, message: note }),
        }
        return;
    }
    let message = format!("{message}; tried {} times, the next try is at {again}", attempt.number);
    round.blocked = Some(Blocked { reason, message });
}

fn over_the_limit(shard: &Shard, again: &str, message: &str) -> String {
    let next = match (shard.streaks.alone, shard.requests) {
        (0, _) => "it is tried again".into(),
        (n, 2..) => format!(
            "with nothing else of this job in flight that was so {n} times, and after {ALONE_LIMIT} times its {} requests are \
             halved",
            shard.requests
        ),
        (n, _) => format!(
            "that was so {n} times with nothing else of this job in flight, and after {ALONE_LIMIT} times the request fails"
        ),
    };
    format!(
        "the account has no room for a batch of {} requests; {next}; the next try is at {again}. `limits.maxRequestsPerBatch` of \
         the provider makes smaller batches from the beginning. The provider says: {message}",
        shard.requests
    )
}

/// Returns whether a shard exceeds the account's limit, as far as this job can know: it was refused for its tokens
/// [`ALONE_LIMIT`] times while nothing else of the job was in flight.
pub(super) fn is_over_the_limit(shard: &Shard) -> bool {
    shard.refusal() == Some(Refusal::TokenLimit) && shard.streaks.alone >= ALONE_LIMIT
}

/// Returns the next step for a shard that exceeds the account's limit: two halves replace it. A shard of one request fails
/// instead, and a shard is refused if the job has no room for one more. None while its file is deleted or its halves are
/// staged.
pub(super) fn send_less(o: &Observed, journal: &Journal, shard: usize, round: &mut Round) -> Option<Step> {
    let whole = journal.shards.get(shard)?;
    let attempt = whole.attempt.as_ref()?;
    let attempt_key = AttemptKey { shard, attempt: attempt.number };
    round.say(
        reasons::WAITING_FOR_QUOTA,
        format!("a batch of {} requests is halved: {}", whole.requests, attempt.message()),
    );
    // The halves get files of their own, and the journal then forgets the name of this one.
    if o.job.provider_file_policy == ProviderFilePolicy::Delete
        && let Some(step) = without_file(o, attempt_key, attempt, false)
    {
        return (!o.memory.running.contains(&Task::Call(attempt_key))).then_some(step);
    }
    let ended = |refusal, message: String| {
        let state = AttemptState::Refused { refusal, message, at: o.now, retry_at: None };
        Some(super::submission::with_state(journal, attempt_key, state))
    };
    if whole.requests < 2 {
        return ended(Refusal::TooLarge, attempt.message());
    }
    if journal.shards.len() >= o.job.shard_limit {
        let message = format!(
            "{}; its {} requests cannot be halved, for a job has at most {} batches: set `limits.maxRequestsPerBatch` of the \
             provider",
            attempt.message(),
            whole.requests,
            o.job.shard_limit
        );
        return ended(Refusal::Invalid, message);
    }
    match &o.memory.halved {
        Some(halved) if halved.attempt_key == attempt_key && halved.sha256 == whole.sha256 => {
            Some(replaced(journal, halved))
        }
        _ if o.memory.running.contains(&Task::Halve(attempt_key)) => None,
        _ => Some(Step::Halve(attempt_key)),
    }
}

/// Replaces a shard by its halves. The first half takes the shard's place and may be sent at once; the second half comes last.
/// The first half keeps the attempt's number, so that names of attempts never recur, and forgets its file, which holds both
/// halves. A half is halved in turn after one more refusal while alone. A single request gets the full [`ALONE_LIMIT`] tries
/// before it fails.
fn replaced(journal: &Journal, halved: &HalveResult) -> Step {
    let [first, second] = halved.halves.clone();
    Step::Swap(journal.next(|j| {
        let Some(whole) = j.shards.get_mut(halved.attempt_key.shard) else { return };
        let alone = whole.streaks.alone - 1;
        let streaks = |half: &Shard| Streaks { alone: if half.requests > 1 { alone } else { 0 }, ..Streaks::default() };
        let mut attempt = whole.attempt.take();
        if let Some(Attempt { payload, state: AttemptState::Refused { at, .. }, .. }) = &mut attempt {
            payload.forget();
            *at = 0;
        }
        let (failures, written_off, unreported_cost) = (whole.failures, whole.written_off, whole.unreported_cost);
        // The cost of the whole counts once, so that one half has all of it.
        *whole = Shard { attempt, failures, written_off, unreported_cost, streaks: streaks(&first), ..first };
        j.shards.push(Shard { written_off, streaks: streaks(&second), ..second });
    }))
}
