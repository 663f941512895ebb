//! The contents of an ended batch's files, and the fate of requests that they do not answer: missing requests are sent, and
//! paid, again. The provider's own totals of the tokens are compared with those of the answers.

use super::findings::{CollectResult, PollResult};
use super::observed::Observed;
use super::step::Blocked;
use crate::api::conditions::reasons;
use crate::api::{BatchEnd, TokenUsage};

/// The patience for files of which nothing can be read, such as a sign-in page, in multiples of the listing lag.
const NOTHING_READABLE: i64 = 12;
/// Bounds of the pause before files are fetched again, in milliseconds; between them it doubles with the time already waited.
const PAUSES: (i64, i64) = (1_000, 1_800_000);
/// Number of short readings from which on a person is informed.
const REPORTED_FROM: u32 = 3;

/// The contents of an ended batch's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadCounts {
    /// Requests of the batch.
    pub requests: i64,
    /// Requests that a line names, readable as an answer or not.
    pub found: i64,
    /// Requests that the files should name; see [`ReadCounts::expected`].
    pub expected: i64,
    /// Lines that cannot be read and name no request, so that any request may be theirs.
    pub unreadable: i64,
    /// Lines that break off before their end, as a file does that is still being written.
    pub cut_off: i64,
}

/// The outcome of a request that no line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The provider lost it, or never executed it: it may be sent again, within `spec.backoffLimitPerRequest`.
    Missing,
    /// It may have been answered, and paid, in a line that cannot be read: it counts as failed and is not sent again.
    Unreadable,
}

impl ReadCounts {
    /// Returns the number of requests that the files of a batch should name: those `done` by the provider's count, or all if it
    /// does not count. Some servers count nothing when they completed all.
    pub fn expected(done: Option<i64>, ended: BatchEnd, requests: i64) -> i64 {
        match done {
            Some(done) if done > 0 || ended != BatchEnd::Completed => done.min(requests),
            _ => requests,
        }
    }

    /// Returns the outcome of requests that no line names. Unreadable lines explain requests that the provider counts as done,
    /// but not which ones. If no request that is done is missing, unreadable lines belong to none.
    pub fn unanswered(&self) -> Unanswered {
        match self.unreadable > 0 && self.found < self.expected {
            true => Unanswered::Unreadable,
            false => Unanswered::Missing,
        }
    }

    /// Returns whether a later look at the same files may show more.
    pub fn is_short(&self) -> bool {
        self.found < self.expected || self.cut_off > 0
    }

    /// Returns how long the files are fetched again after the batch was seen to have ended, in milliseconds.
    fn patience(&self, listing_lag: i64) -> i64 {
        let nothing = self.found == 0 && self.unreadable > 0;
        listing_lag.saturating_mul(if nothing { NOTHING_READABLE } else { 1 })
    }
}

/// A reading that is not final yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShortRead {
    /// The reading.
    pub reading: ReadCounts,
    /// Time at which the files were fetched (Unix milliseconds).
    pub at: i64,
    /// Number of short readings so far.
    pub tries: u32,
}

impl ShortRead {
    /// Returns a value if `reading` is short. `before` is the batch's previous collection.
    pub fn after(before: Option<&CollectResult>, reading: ReadCounts, at: i64) -> Option<ShortRead> {
        let tries = before.and_then(|c| c.short).map_or(0, |short| short.tries).saturating_add(1);
        reading.is_short().then_some(ShortRead { reading, at, tries })
    }
}

/// Returns when the files of a batch are to be fetched again. None if the collection is final: it is whole, or was read after
/// the patience ran out.
pub(super) fn again(o: &Observed, look: &PollResult, collected: &CollectResult) -> Option<i64> {
    let short = collected.short?;
    let until = look.at.saturating_add(short.reading.patience(o.timing.listing_lag));
    let pause = short.at.saturating_sub(look.at).clamp(PAUSES.0, PAUSES.1);
    (short.at < until).then(|| until.min(short.at.saturating_add(pause)))
}

/// Returns the message about a batch whose files were short several times.
pub(super) fn short_files(batch_id: &str, collected: &CollectResult) -> Option<Blocked> {
    let ShortRead { reading, tries, .. } = collected.short.filter(|short| short.tries >= REPORTED_FROM)?;
    let ReadCounts { found, expected, unreadable, .. } = reading;
    let held = match (found, unreadable) {
        (0, 1..) => "hold no line that can be read as an answer, and the provider counts ",
        _ => "tell of ",
    };
    let counts = if found == 0 && unreadable > 0 { expected.to_string() } else { format!("{found} of {expected}") };
    let then = match reading.unanswered() {
        Unanswered::Unreadable => "in the end such requests count as failed, and are not sent again",
        Unanswered::Missing => "in the end such requests count as missing, and are sent again within the job's limits",
    };
    let message = format!(
        "the files of batch {batch_id} {held}{counts} requests; they were fetched {tries} times and are fetched again; {then}"
    );
    Some(Blocked { reason: reasons::PROVIDER_UNAVAILABLE, message })
}

/// The totals of a batch's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UsageTotals {
    /// By the provider's record of the batch.
    pub provider: TokenUsage,
    /// The sums over the answers of requests that succeeded, which the provider's are of.
    pub answers: TokenUsage,
}

impl UsageTotals {
    /// Returns the message about totals that differ; None if they are the same.
    pub fn difference(&self) -> Option<String> {
        let totals =
            |usage: &TokenUsage| (usage.input_tokens.saturating_add(usage.embedding_tokens), usage.output_tokens);
        let ((input, output), (summed_input, summed_output)) = (totals(&self.provider), totals(&self.answers));
        if (input, output) == (summed_input, summed_output) {
            return None;
        }
        let without = match self.answers.answers_without_usage {
            0 => String::new(),
            1 => "; 1 answer states no tokens".into(),
            n => format!("; {n} answers state no tokens"),
        };
        Some(format!(
            "the provider counts {input} input and {output} output tokens for the whole batch, and the answers in its files add up to \
             {summed_input} and {summed_output}{without}. The job counts those of the answers, because the results show them line \
             by line; compare both with the provider's invoice"
        ))
    }
}

/// The history of one request over the rounds that it was sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHistory {
    /// Whether a line settled it for good: answered, refused, or paid and unreadable.
    pub ended: bool,
    /// Rounds in which it failed in a way that may pass.
    pub failed: usize,
    /// Rounds in which no line named it.
    pub lost: usize,
    /// Whether a person gave up its answers.
    pub given_up: bool,
}

impl RequestHistory {
    /// Returns whether the request may be sent, and paid, again. `limit` is `spec.backoffLimitPerRequest`. Rounds that never
    /// executed it do not count.
    pub fn may_be_sent_again(&self, limit: u32) -> bool {
        !self.ended && !self.given_up && self.failed + self.lost <= usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(found: i64, expected: i64, unreadable: i64) -> ReadCounts {
        ReadCounts { requests: 10, found, expected, unreadable, cut_off: 0 }
    }

    #[test]
    fn only_what_no_unreadable_line_explains_is_missing() {
        use Unanswered::{Missing, Unreadable};
        for (found, expected, unreadable, wanted) in [
            (10, 10, 0, Missing),
            (8, 10, 0, Missing),
            // The provider executed no more: an orphan line belongs to no request.
            (5, 5, 1, Missing),
            (9, 10, 1, Unreadable),
            (0, 10, 2, Unreadable),
            (3, 10, 1, Unreadable),
        ] {
            assert_eq!(reading(found, expected, unreadable).unanswered(), wanted, "{found} {expected} {unreadable}");
        }
    }

    #[test]
    fn a_server_that_counts_nothing_where_it_completed_all_is_not_believed() {
        for (done, ended, expected) in [
            (Some(3), BatchEnd::Completed, 3),
            (Some(0), BatchEnd::Completed, 10),
            (None, BatchEnd::Completed, 10),
            (None, BatchEnd::Cancelled, 10),
            (Some(0), BatchEnd::Cancelled, 0),
            (Some(99), BatchEnd::Expired, 10),
        ] {
            assert_eq!(ReadCounts::expected(done, ended, 10), expected, "{done:?} {ended:?}");
        }
    }

    #[test]
    fn totals_that_differ_are_told_with_both_figures() {
        let tokens = |input_tokens, output_tokens| TokenUsage { input_tokens, output_tokens, ..Default::default() };
        let told = |provider, answers| UsageTotals { provider, answers }.difference();
        assert_eq!(
            told(tokens(7, 3), TokenUsage { cached_input_tokens: 2, reasoning_tokens: 1, ..tokens(7, 3) }),
            None
        );
        assert_eq!(told(tokens(7, 0), TokenUsage { embedding_tokens: 7, ..Default::default() }), None);
        let message = told(tokens(1_200, 340), TokenUsage { answers_without_usage: 2, ..tokens(1_000, 300) }).unwrap();
        assert_eq!(
            message,
            "the provider counts 1200 input and 340 output tokens for the whole batch, and the answers in its files add up to \
             1000 and 300; 2 answers state no tokens. The job counts those of the answers, because the results show them line by \
             line; compare both with the provider's invoice"
        );
        assert!(told(tokens(7, 3), tokens(7, 4)).is_some() && told(tokens(7, 3), tokens(8, 3)).is_some());
    }

    #[test]
    fn who_was_ended_given_up_or_tried_often_enough_is_not_sent_again() {
        let fresh = RequestHistory::default();
        assert!(fresh.may_be_sent_again(0), "never executed");
        assert!(!RequestHistory { ended: true, ..fresh }.may_be_sent_again(9));
        assert!(!RequestHistory { given_up: true, ..fresh }.may_be_sent_again(9));
        assert!(RequestHistory { failed: 1, lost: 1, ..fresh }.may_be_sent_again(2));
        assert!(!RequestHistory { failed: 1, lost: 2, ..fresh }.may_be_sent_again(2));
    }
}
