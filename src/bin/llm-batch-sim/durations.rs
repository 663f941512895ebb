//! How long batches run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

use crate::shuffle::SplitMix;

/// How long batches run: all of them as long as each other, or each a time between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durations {
    shortest: Duration,
    longest: Duration,
}

impl Durations {
    /// Every batch runs this long.
    pub fn always(duration: Duration) -> Self {
        Self { shortest: duration, longest: duration }
    }

    /// How long the batch of this number runs. Between the shortest and the longest time, each factor is as likely as another: as many
    /// batches take 1 to 10 seconds as take 10 to 100.
    pub fn of(&self, seed: u64, number: u64) -> Duration {
        let spread = self.longest.as_secs_f64() / self.shortest.as_secs_f64();
        if !spread.is_finite() || spread <= 1.0 {
            return self.shortest;
        }
        let chance = SplitMix::new(seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03)).share();
        self.shortest.mul_f64(spread.powf(chance)).min(self.longest)
    }
}

impl FromStr for Durations {
    type Err = String;

    /// Reads `200ms`, `2h`, or `1s..100s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((shortest, longest)) = text.split_once("..") else { return Ok(Self::always(parse_duration(text)?)) };
        let (shortest, longest) = (parse_duration(shortest)?, parse_duration(longest)?);
        if shortest.is_zero() || longest < shortest {
            return Err("a range begins with its shortest time, which is more than zero, such as 1s..100s".to_owned());
        }
        Ok(Self { shortest, longest })
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |duration: Duration| {
            SignedDuration::try_from(duration)
                .map_or_else(|_| format!("{}s", duration.as_secs()), |duration| format!("{duration:#}"))
        };
        match self.shortest == self.longest {
            true => f.write_str(&shown(self.shortest)),
            false => write!(f, "{}..{}", shown(self.shortest), shown(self.longest)),
        }
    }
}

/// Reads `200ms`, `5s`, `1h 30m` and the like; never negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: SignedDuration = text.trim().parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("soon").is_err());
        for text in ["0s", "200ms", "1h 30m", "1s..1m 40s"] {
            assert_eq!(text.parse::<Durations>().unwrap().to_string(), text);
        }
        for text in ["0s..1s", "2s..1s", "1s..", "..1s", "1s..2s..3s"] {
            assert!(text.parse::<Durations>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_has_each_factor_as_often_as_another_and_a_seed_has_the_same_batches() {
        let range: Durations = "1s..100s".parse().unwrap();
        let all: Vec<Duration> = (0..1_000).map(|number| range.of(7, number)).collect();
        assert!(all.iter().all(|duration| (1.0..=100.0).contains(&duration.as_secs_f64())));
        let short = all.iter().filter(|duration| duration.as_secs_f64() <= 10.0).count();
        assert!((400..600).contains(&short), "{short} of 1,000 take at most 10 s");
        assert_eq!(all[3], range.of(7, 3));
        assert_ne!(all, (0..1_000).map(|number| range.of(8, number)).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_range_every_batch_takes_as_long() {
        assert_eq!("5s".parse::<Durations>().unwrap().of(1, 2), Duration::from_secs(5));
        assert_eq!(Durations::always(Duration::ZERO).of(1, 2), Duration::ZERO);
    }
}
