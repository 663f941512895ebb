//! The distribution of the time that batches take from their submission to their end.

use crate::api::LearnedTurnaround;

/// Number of durations that are told apart: 2^(n/2) seconds for n from 0, the longest is some 138 days.
const DURATIONS: usize = 48;
/// Number of batches from which on all counts are halved.
const FADES_FROM: i64 = 1_000;

/// The time that batches took, as a distribution over durations whose steps grow by the factor √2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turnaround(Vec<i64>);

impl Turnaround {
    /// Reads what status has. Counts that are negative or too many are left out: anybody may have written them.
    pub fn of(learned: &LearnedTurnaround) -> Turnaround {
        Turnaround(learned.counts.iter().take(DURATIONS).map(|count| i64::from(*count).clamp(0, FADES_FROM)).collect())
    }

    /// Returns the number of batches.
    pub fn batches(&self) -> i64 {
        self.0.iter().sum()
    }

    /// Adds a batch that took this many seconds.
    pub fn add(&mut self, seconds: f64) {
        let step = (2.0 * seconds.max(1.0).log2()).ceil();
        self.count(step as usize, 1);
    }

    /// Adds all batches of another distribution.
    pub fn merge(&mut self, other: &Turnaround) {
        other.0.iter().enumerate().for_each(|(step, count)| self.count(step, *count));
    }

    fn count(&mut self, step: usize, more: i64) {
        let step = step.min(DURATIONS - 1);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        self.0[step] += more;
        while self.batches() > FADES_FROM {
            self.0.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Returns the share of batches that took at most this many seconds, from 0 to 1; None without batches.
    pub fn share_within(&self, seconds: f64) -> Option<f64> {
        let all = self.batches();
        (all > 0).then(|| self.within(seconds) / all as f64)
    }

    /// Returns the time in seconds within which this share (0 to 1) ends of the batches that took longer than `elapsed` seconds;
    /// None if no batch took longer.
    pub fn quantile_after(&self, elapsed: f64, share: f64) -> Option<f64> {
        let (all, before) = (self.batches() as f64, self.within(elapsed));
        if all - before < 0.5 {
            return None;
        }
        let (wanted, mut sum) = (before + (all - before) * share.clamp(0.0, 1.0), 0.0);
        for (step, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if sum + count >= wanted {
                let (from, to) = ends(step);
                return Some((from + (to - from) * (wanted - sum).max(0.0) / count).max(elapsed));
            }
            sum += count;
        }
        None
    }

    /// Returns the number of batches that took at most this many seconds; those of one step count as spread evenly over it.
    fn within(&self, seconds: f64) -> f64 {
        let counts = self.0.iter().enumerate().map(|(step, count)| {
            let (from, to) = ends(step);
            *count as f64 * ((seconds - from) / (to - from)).clamp(0.0, 1.0)
        });
        counts.sum()
    }

    /// Returns the distribution for status.
    pub fn for_status(&self) -> LearnedTurnaround {
        let seconds = |share| self.quantile_after(0.0, share).map_or(0, |seconds| seconds.ceil() as i64);
        let used = self.0.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        LearnedTurnaround {
            batches: self.batches(),
            p50_seconds: seconds(0.5),
            p90_seconds: seconds(0.9),
            counts: self.0[..used].iter().map(|count| *count as i32).collect(),
        }
    }
}

/// Returns the shortest and the longest time in seconds of a step.
fn ends(step: usize) -> (f64, f64) {
    let to = |step: usize| f64::exp2(step as f64 / 2.0);
    (if step == 0 { 0.0 } else { to(step - 1) }, to(step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn of(seconds: &[f64]) -> Turnaround {
        let mut turnaround = Turnaround::default();
        seconds.iter().for_each(|seconds| turnaround.add(*seconds));
        turnaround
    }

    proptest! {
        /// √2 for the step.
        #[test]
        fn a_quantile_is_off_by_less_than_one_step(
            mut seconds in prop::collection::vec(1.0..200_000.0f64, 20..200), share in 0.05..0.95f64
        ) {
            let turnaround = of(&seconds);
            seconds.sort_by(f64::total_cmp);
            let exact = seconds[((seconds.len() as f64 * share).ceil() as usize - 1).min(seconds.len() - 1)];
            let said = turnaround.quantile_after(0.0, share).unwrap();
            prop_assert!(said / exact < 1.5 && exact / said < 1.5, "{said} for {exact}");
        }

        #[test]
        fn what_is_left_is_never_in_the_past_and_grows_with_the_share(
            seconds in prop::collection::vec(0.0..200_000.0f64, 1..50), elapsed in 0.0..400_000.0f64, share in 0.0..1.0f64
        ) {
            let turnaround = of(&seconds);
            let longest = seconds.iter().copied().fold(0.0, f64::max);
            match turnaround.quantile_after(elapsed, share) {
                Some(end) => prop_assert!(end >= elapsed && turnaround.quantile_after(elapsed, 1.0).unwrap() >= end),
                None => prop_assert!(elapsed > longest / 1.5, "{elapsed} of {longest}"),
            }
        }

        #[test]
        fn status_has_all_of_it(seconds in prop::collection::vec(0.0..1e12f64, 0..50)) {
            let turnaround = of(&seconds);
            let status = turnaround.for_status();
            prop_assert_eq!(Turnaround::of(&status).for_status(), status);
        }
    }

    #[test]
    fn new_batches_count_more_than_old_ones() {
        let mut turnaround = Turnaround::default();
        (0..10_000).for_each(|_| turnaround.add(86_000.0));
        (0..1_000).for_each(|_| turnaround.add(60.0));
        assert!(turnaround.batches() <= FADES_FROM);
        assert!(turnaround.quantile_after(0.0, 0.5).unwrap() < 100.0, "{turnaround:?}");
    }
}
