//! Backoff of failed calls: consecutive failures, the time of the next try, and the message about them.

use crate::api::text::{clip, clock_time};
use crate::controller::runtime::error::StepError;
use crate::lifecycle::Blocked;

/// Number of consecutive failures from which on a retryable error is reported.
pub(crate) const LASTING_FROM: u32 = 3;
/// Milliseconds after which a call that fails has waited in vain and is reported at once: a dead or hanging server gives no other
/// sign. A little less than the connect time-out of ten seconds.
const IN_VAIN: i64 = 9_000;
/// Maximum pause between two tries, in milliseconds.
const LONGEST: i64 = 1_800_000;

/// Bytes of an error's text that are kept where many failed.
const SHORT: usize = 128;

/// A call that failed.
pub(crate) struct FailedCall {
    /// Name of the step or the transfer that made the call.
    pub call: &'static str,
    pub error: StepError,
    /// Duration of the call, in milliseconds.
    pub elapsed: i64,
}

/// The backoff of one call. Times are Unix milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    /// Number of consecutive failures.
    pub failures: u32,
    /// Time of the next try.
    pub until: i64,
    /// Name of the step or the transfer that made the call.
    pub call: &'static str,
    since: i64,
    timed_out: bool,
    error: Option<StepError>,
}

impl Backoff {
    /// Counts a failure at `now`, and sets the time of the next try. `jitter` lengthens the pause by up to a quarter. A pause that
    /// the other side asked for is kept, up to an hour.
    pub fn failed(&mut self, failed: FailedCall, now: i64, jitter: u8) {
        let FailedCall { call, error, elapsed } = failed;
        if self.failures == 0 {
            self.since = now.saturating_sub(elapsed);
        }
        self.failures = self.failures.saturating_add(1);
        let pause = pause(self.failures, now.saturating_sub(self.since), &error);
        let pause = (pause + pause * i64::from(jitter) / 1024).min(LONGEST);
        let asked = error.retry_after.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX).min(3_600_000));
        self.until = now + pause.max(asked);
        self.timed_out |= elapsed >= IN_VAIN;
        (self.call, self.error) = (call, Some(error));
    }

    /// Returns the last error if it deserves a person's attention: it does not pass by itself, lasts, or took long. Errors of an
    /// unavailable API server are never reported, because status cannot be written then.
    pub fn error(&self) -> Option<&StepError> {
        let lasts = |t: &&StepError| !t.retryable || self.failures >= LASTING_FROM || self.timed_out;
        self.error.as_ref().filter(|t| !t.api_server_unavailable).filter(lasts)
    }

    /// Returns the bytes of memory that it takes.
    pub fn weight(&self) -> usize {
        // An error's cause has the texts of its message again.
        let weight = |error: &StepError| error.blocked.message.len() * if error.source.is_some() { 2 } else { 1 };
        size_of::<Backoff>() + self.error.as_ref().map_or(0, weight)
    }

    /// Drops most of the error's text, and its cause.
    pub fn shorten(&mut self) {
        if let Some(error) = &mut self.error {
            error.source = None;
            error.blocked.message = clip(std::mem::take(&mut error.blocked.message), SHORT);
            error.blocked.message.shrink_to_fit();
        }
    }

    /// Returns true if the provider's account as a whole may be failing.
    pub fn is_of_account(&self) -> bool {
        self.error.as_ref().is_some_and(|t| t.is_of_account)
    }

    /// Returns true if a person may fix the cause at any time.
    pub fn may_be_fixed(&self) -> bool {
        self.error.as_ref().is_some_and(|t| !t.retryable)
    }

    /// Returns the report: the other side's words, the number of failures, and the time of the next try. Times are clock times, so
    /// that the text does not change while the job waits.
    pub fn blocked(&self) -> Option<Blocked> {
        let Blocked { reason, message } = self.error()?.blocked.clone();
        let [since, until] = [self.since, self.until].map(clock_time);
        let message = match self.failures {
            1 => format!("{message}; failed at {since}, tried again at {until}"),
            n => format!("{message}; failed {n} times since {since}, tried again at {until}"),
        };
        Some(Blocked { reason, message })
    }
}

/// Returns the pause before the next try, in milliseconds: 1 s, then twice as long each time, up to a minute, or up to 15 s if a
/// person may fix the cause. The limit grows to a tenth of the time since the first failure: a long outage causes few calls, and
/// the end of a short one is noticed soon. While the API server is unavailable, the limit is 8 s.
fn pause(failures: u32, failing_for: i64, error: &StepError) -> i64 {
    let longest = match error.retryable {
        _ if error.api_server_unavailable => 8_000,
        true => (failing_for / 10).max(60_000),
        false => (failing_for / 10).max(15_000),
    };
    (1_000i64 << (failures.clamp(1, 12) - 1)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &StepError, elapsed: i64) -> FailedCall {
        FailedCall { call: "Poll", error: error.clone(), elapsed }
    }

    /// Returns the pauses of a call that fails for `away` milliseconds, and the time from then to the next try.
    fn pauses(error: &StepError, away: i64) -> (Vec<i64>, i64) {
        let (mut backoff, mut now, mut pauses) = (Backoff::default(), 0, vec![]);
        while now < away {
            backoff.failed(failed(error, 0), now, 255);
            pauses.push(backoff.until - now);
            now = backoff.until;
        }
        (pauses, now - away)
    }

    #[test]
    fn what_is_away_is_tried_seldom_and_found_again_soon() {
        let provider = StepError::passing("ProviderUnavailable", "");
        let (tries, found) = pauses(&provider, 600_000);
        assert!((8..=16).contains(&tries.len()) && found <= 75_000, "{tries:?}, found again after {found} ms");
        let kubernetes = StepError { api_server_unavailable: true, ..StepError::passing("KubernetesUnavailable", "") };
        for away in 1..120 {
            let (_, found) = pauses(&kubernetes, away * 1_000);
            assert!(found <= 10_000, "away for {away} s, found again after {found} ms");
        }
    }

    #[test]
    fn pauses_grow_to_half_an_hour_and_no_further() {
        for error in [StepError::passing("ProviderUnavailable", ""), StepError::lasting("CredentialsRejected", "")] {
            let (pauses, _) = pauses(&error, 5 * 86_400_000);
            assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
            assert_eq!(pauses.last(), Some(&LONGEST));
            assert!(pauses.len() < 400, "{} tries in five days", pauses.len());
        }
        let hour = pauses(&StepError::passing("ProviderUnavailable", ""), 3_600_000).1;
        assert!(hour <= 450_000, "an hour's outage is noticed {hour} ms after its end");
    }

    #[test]
    fn from_the_third_failure_on_a_person_is_told_how_often_and_when_it_is_tried_again() {
        let error = StepError::passing("ProviderUnavailable", "GET https://h/v1/batches/b: no room at the inn (500)");
        let (mut backoff, mut now) = (Backoff::default(), 1_764_444_600_000);
        for n in 1..=4 {
            backoff.failed(failed(&error, 0), now, 0);
            assert_eq!(backoff.blocked().is_some(), n >= LASTING_FROM, "{n}");
            now = backoff.until;
        }
        insta::assert_snapshot!(backoff.blocked().unwrap().message, @"GET https://h/v1/batches/b: no room at the inn (500); failed 4 times since Nov 29 19:30:00 UTC, tried again at Nov 29 19:30:15 UTC");
    }

    #[test]
    fn what_waited_in_vain_is_told_the_first_time_and_what_the_api_server_did_never() {
        let mut backoff = Backoff::default();
        backoff.failed(failed(&StepError::passing("ProviderUnavailable", "no answer"), 30_000), 1_764_444_630_000, 0);
        insta::assert_snapshot!(backoff.blocked().unwrap().message, @"no answer; failed at Nov 29 19:30:00 UTC, tried again at Nov 29 19:30:31 UTC");
        let mut backoff = Backoff::default();
        let untold = StepError { api_server_unavailable: true, ..StepError::passing("KubernetesUnavailable", "") };
        (0..9).for_each(|now| backoff.failed(failed(&untold, 30_000), now, 0));
        assert_eq!(backoff.blocked(), None);
    }
}
