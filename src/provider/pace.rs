//! The pace of an account: a pause that its server asks for, with 429 or `Retry-After`, holds for all calls of the account.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ApiError, ErrorKind};

/// The pause after a 429 without `Retry-After`. It doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause that a server is granted.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The longest pause after a 429 without `Retry-After`.
const LONGEST_UNNAMED: Duration = Duration::from_secs(60);
/// The longest pause that a call waits for in its turn. For a longer one, it gives its turn back.
const SHORT: Duration = Duration::from_secs(10);

/// The pause that an account's server asked for, shared by all clients of the account.
#[derive(Debug)]
pub struct Pace(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    until: Option<Instant>,
    /// Number of 429s in a row without `Retry-After`.
    unnamed: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace(watch::Sender::new(State::default()))
    }
}

impl Pace {
    /// Returns the rest of the pause that the server asked for; None if it may be called.
    pub fn pause(&self) -> Option<Duration> {
        let left = self.0.borrow().until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Returns whether the server may be called.
    pub fn is_ready(&self) -> bool {
        self.pause().is_none()
    }

    /// Waits until the server may be called.
    pub async fn ready(&self) {
        while let Some(left) = self.pause() {
            tokio::time::sleep(left).await;
        }
    }

    /// Waits for the end of a short pause, for a call that has its turn.
    ///
    /// # Errors
    /// If the pause is long: its rest.
    pub(super) async fn ready_soon(&self) -> Result<(), ApiError> {
        while let Some(left) = self.pause() {
            if left > SHORT {
                let message = format!("the provider asked for a pause, which ends in {} s", left.as_secs());
                return Err(ApiError { retry_after: Some(left), ..ApiError::new(ErrorKind::Capacity, message) });
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }

    /// Records the server's reply to any call.
    pub(super) fn saw(&self, status: StatusCode, retry_after: Option<Duration>) {
        if status.is_success() && self.0.borrow().unnamed == 0 {
            return;
        }
        self.0.send_modify(|state| state.saw(status, retry_after, Instant::now()));
    }
}

impl State {
    fn saw(&mut self, status: StatusCode, retry_after: Option<Duration>, now: Instant) {
        let is_unnamed = status == StatusCode::TOO_MANY_REQUESTS && retry_after.is_none();
        let unnamed = FIRST.saturating_mul(1 << self.unnamed.min(6)).min(LONGEST_UNNAMED);
        // Several 429s that arrive during one pause, to calls that were sent before it, count as one.
        let is_over = self.until.is_none_or(|until| until <= now);
        self.unnamed = match is_unnamed {
            true => self.unnamed + u32::from(is_over),
            false => 0,
        };
        let pause = match is_unnamed {
            true => is_over.then_some(unnamed),
            false => retry_after.filter(|_| !status.is_success()),
        };
        if let Some(pause) = pause {
            let until = now + pause.min(LONGEST);
            // A shorter pause does not end a longer one that was asked for before.
            self.until = Some(self.until.map_or(until, |before| before.max(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Returns the pause after these replies, in seconds. Each reply comes when the pause before it is over.
    fn pause(answers: &[(u16, Option<u64>)]) -> u64 {
        let (mut state, mut now, mut pause) = (State::default(), Instant::now(), Duration::ZERO);
        for (status, retry_after) in answers {
            now += pause;
            state.saw(StatusCode::from_u16(*status).unwrap(), retry_after.map(seconds), now);
            pause = state.until.map(|until| until.saturating_duration_since(now)).unwrap_or_default();
        }
        pause.as_secs()
    }

    #[test]
    fn a_pause_is_what_the_server_names_and_grows_where_it_names_none() {
        assert_eq!(pause(&[(200, None)]), 0);
        assert_eq!(pause(&[(500, None)]), 0);
        assert_eq!(pause(&[(429, Some(30))]), 30);
        assert_eq!(pause(&[(503, Some(30))]), 30);
        assert_eq!(pause(&[(429, None)]), 1);
        assert_eq!(pause(&[(429, None); 4]), 8);
        assert_eq!(pause(&[(429, None); 40]), 60);
        assert_eq!(pause(&[(429, None), (200, None), (429, None)]), 1, "it takes calls again");
        assert_eq!(pause(&[(429, Some(1_000_000))]), 3_600);
    }

    #[test]
    fn answers_to_calls_that_were_under_way_neither_shorten_a_pause_nor_lengthen_it() {
        let (mut state, now) = (State::default(), Instant::now());
        state.saw(StatusCode::TOO_MANY_REQUESTS, Some(seconds(30)), now);
        for (status, retry_after) in [(429, Some(2)), (429, None), (200, None), (500, None)] {
            state.saw(StatusCode::from_u16(status).unwrap(), retry_after.map(seconds), now + seconds(1));
            assert_eq!(state.until, Some(now + seconds(30)), "{status}");
        }
        let (mut state, now) = (State::default(), Instant::now());
        (0..8).for_each(|_| state.saw(StatusCode::TOO_MANY_REQUESTS, None, now));
        assert_eq!(state.until, Some(now + seconds(1)), "eight calls at a time were told the same");
    }

    #[tokio::test]
    async fn a_call_sits_out_a_short_pause_and_makes_room_for_a_long_one() {
        let pace = Pace::default();
        let short = Duration::from_millis(20);
        pace.saw(StatusCode::TOO_MANY_REQUESTS, Some(short));
        let began = Instant::now();
        assert!(pace.ready_soon().await.is_ok() && began.elapsed() >= short);
        assert!(pace.is_ready());
        pace.saw(StatusCode::TOO_MANY_REQUESTS, Some(seconds(600)));
        let error = pace.ready_soon().await.unwrap_err();
        assert!(error.retry_after.is_some_and(|after| after > seconds(590)), "{error:?}");
        assert!(!pace.is_ready());
    }
}
