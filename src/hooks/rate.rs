//! A number of events a second, with a burst.

/// Longest time that counts, in milliseconds. Every bucket is full before.
const LONGEST: i64 = 3_600_000;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Rate {
    burst: i64,
    per_second: i64,
    /// Tokens left, in thousandths.
    left: i64,
    /// Time at which they were counted (Unix milliseconds).
    at: i64,
}

impl Rate {
    /// Returns a rate that begins with its burst.
    pub fn new(burst: i64, per_second: i64) -> Rate {
        Rate { burst, per_second, left: burst * 1000, at: i64::MIN }
    }

    /// Returns whether one more may pass at `now` (Unix milliseconds), and counts it if so.
    pub fn take(&mut self, now: i64) -> bool {
        // A clock that was set back adds no tokens.
        let passed = now.saturating_sub(self.at).clamp(0, LONGEST);
        self.left = (self.left + passed * self.per_second).min(self.burst * 1000);
        self.at = now;
        let may = self.left >= 1000;
        if may {
            self.left -= 1000;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_so_many_a_second() {
        let mut rate = Rate::new(100, 10);
        let mut passed = |times: std::ops::Range<i64>| times.filter(|at| rate.take(1_000_000 + at)).count();
        assert_eq!(passed(0..1_000), 109);
        assert_eq!(passed(1_000..11_000), 100);
        assert_eq!(passed(3_600_000..3_601_000), 109, "a burst comes back, and no more");
        assert!(passed(0..1_000) <= 10, "a clock that was set back gives no burst");
    }
}
