//! A watch on the system's clock, which may be set: a wait during which that happens does not last as long as it
//! should.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

/// Milliseconds by which the clock may differ from the time that passed. A process that gets no CPU between two
/// readings sees such differences, too. Mistaking one for a change of the clock costs a few calls.
const TOLERANCE: i64 = 1_000;

/// Compares the system's clock with a clock that nobody can set.
#[derive(Debug)]
pub(crate) struct ClockWatch(Mutex<Reading>);

/// The last reading of both clocks after which they agreed.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The system's clock (Unix milliseconds).
    clock: i64,
    steady: Instant,
}

impl ClockWatch {
    /// Returns a watch that begins at this reading of the system's clock (Unix milliseconds).
    pub fn new(clock: i64) -> ClockWatch {
        ClockWatch(Mutex::new(Reading { clock, steady: Instant::now() }))
    }

    /// Returns the time on the system's clock (Unix milliseconds) at which it was last set, as far as readings up to
    /// `now` show, or at which the watch began. Each change gives another time.
    pub fn since(&self, now: i64) -> i64 {
        self.since_at(now, Instant::now())
    }

    fn since_at(&self, now: i64, steady: Instant) -> i64 {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = i64::try_from(steady.saturating_duration_since(began.steady).as_millis()).unwrap_or(i64::MAX);
        let ahead = now.saturating_sub(began.clock).saturating_sub(passed);
        if ahead.abs() > TOLERANCE {
            warn!(by_ms = ahead, "the system's clock was set; what was found out before is found out again");
            let clock = if now == began.clock { now.saturating_add(1) } else { now };
            *began = Reading { clock, steady };
        }
        began.clock
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: i64 = 1_764_444_600_000;

    #[test]
    fn a_clock_that_is_set_forward_or_back_is_noticed_once_and_one_that_goes_is_not() {
        let watch = ClockWatch::new(START);
        let began = watch.0.lock().unwrap().steady;
        let read = |clock: i64, passed: u64| watch.since_at(clock, began + Duration::from_millis(passed));
        assert_eq!(read(START, 0), START);
        assert_eq!(read(START + 86_400_000, 86_400_000), START, "a day later");
        assert_eq!(read(START + 86_400_900, 86_400_000), START, "it may differ a little");
        let forward = START + 2 * 86_400_000;
        assert_eq!(read(forward, 86_400_100), forward);
        assert_eq!(read(forward + 5_000, 86_405_100), forward);
        let back = START - 3_600_000;
        assert_eq!(read(back, 86_410_000), back);
        assert_eq!(read(back + 60_000, 86_470_000), back);
    }

    #[test]
    fn a_clock_that_is_set_back_to_the_very_time_of_its_last_change_was_set_all_the_same() {
        let watch = ClockWatch::new(START);
        let began = watch.0.lock().unwrap().steady;
        assert_ne!(watch.since_at(START, began + Duration::from_secs(10)), START);
    }
}
