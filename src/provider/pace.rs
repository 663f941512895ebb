//! When an account may be called again: what its server says with 429 and `Retry-After` is for all of its calls.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ApiError, ErrorKind};

/// The pause after a 429 that names none; twice as long after each further one.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause that a server is granted.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Longest pause after a 429 that names none.
const LONGEST_UNNAMED: Duration = Duration::from_secs(60);
/// A pause that a call that is under way sits out; for a longer one it makes room.
const SHORT: Duration = Duration::from_secs(10);

/// The pause that an account's server asked for, shared by all clients of the account.
#[derive(Debug)]
pub struct Pace(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    until: Option<Instant>,
    /// 429s in a row that named no pause.
    unnamed: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace(watch::Sender::new(State::default()))
    }
}

impl Pace {
    /// How long the server still wants to be left alone; None: it may be called.
    pub fn pause(&self) -> Option<Duration> {
        let left = self.0.borrow().until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Whether it may be called.
    pub fn is_ready(&self) -> bool {
        self.pause().is_none()
    }

    /// Waits until it may be called.
    pub async fn ready(&self) {
        while let Some(left) = self.pause() {
            tokio::time::sleep(left).await;
        }
    }

    /// The same for a call that is under way, which sits out a short pause.
    ///
    /// # Errors
    /// For a longer one: when to come again.
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

    /// Takes in what the server answered to any call.
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
        // What was asked for while another pause ran is answered in one go.
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
            // Who asked for a longer pause before did not take it back.
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

    /// The pause after these answers, each given once the pause before it is over, in seconds.
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
