//! The time until a job's batches will have ended, from the turnaround of earlier ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Turnaround;
use crate::api::ModelStatus;

/// Number of batches from which on their turnaround says something of others.
const ENOUGH: i64 = 5;
/// Batches that are drawn for one estimate, at most: some two milliseconds.
const DRAWS: usize = 20_000;
/// Fewest and most courses of a job that are drawn.
const COURSES: (usize, usize) = (51, 201);
/// Most waiting batches that are drawn one by one. The others take what these took on average.
const WAITING: usize = 200;

/// The batches of a job that have not ended.
#[derive(Clone, Debug, Default)]
pub struct OpenBatches {
    /// Those at the provider: the turnaround of earlier ones, and the seconds since the submission.
    pub running: Vec<(Turnaround, f64)>,
    /// Number of batches that are yet to be sent.
    pub waiting: usize,
    /// The turnaround of earlier batches like those.
    pub like_waiting: Turnaround,
    /// Number of batches that may be at the provider at a time.
    pub parallelism: usize,
}

/// Returns the experience with a model; that with all models of the account if there is little of this one. None without enough of
/// either.
pub fn turnaround_of(models: &[ModelStatus], name: &str) -> Option<Turnaround> {
    let of = |model: &ModelStatus| Turnaround::of(&model.turnaround);
    let own = models.iter().find(|model| model.name == name).map(of);
    let all = || {
        let mut all = Turnaround::default();
        models.iter().for_each(|model| all.merge(&of(model)));
        all
    };
    let is_enough = |turnaround: &Turnaround| turnaround.batches() >= ENOUGH;
    own.filter(is_enough).or_else(|| Some(all()).filter(is_enough))
}

/// Returns the number of seconds within which all batches will have ended with a probability of one half. None if a batch has taken
/// longer than all earlier ones, so that nothing is known of its end.
///
/// Courses of the job are drawn from the turnaround of earlier batches: of those that took longer than a running batch has taken, for
/// that batch. A batch that waits is sent as soon as another one has ended. The same question has the same answer, and more batches
/// never end earlier.
pub fn seconds_left(open: &OpenBatches) -> Option<f64> {
    let drawn = open.waiting.min(WAITING);
    let batches = open.running.len() + drawn;
    let courses = (DRAWS / batches.max(1)).clamp(COURSES.0, COURSES.1);
    let mut ends: Vec<f64> = (0..courses).map(|course| open.course(course, drawn)).collect::<Option<_>>()?;
    ends.sort_by(f64::total_cmp);
    ends.get(courses / 2).copied()
}

impl OpenBatches {
    /// Returns the number of seconds until the last batch has ended in one course of the job, in which so many waiting batches are
    /// drawn.
    fn course(&self, course: usize, drawn: usize) -> Option<f64> {
        let mut at_provider = BinaryHeap::new();
        for (batch, (turnaround, elapsed)) in self.running.iter().enumerate() {
            let left = turnaround.quantile_after(*elapsed, chance(course, batch))? - elapsed;
            at_provider.push(Reverse(Seconds(left)));
        }
        let (parallelism, mut worked) = (self.parallelism.max(1), 0.0);
        let mut last = at_provider.iter().map(|Reverse(Seconds(end))| *end).fold(0.0, f64::max);
        for batch in self.running.len()..self.running.len() + drawn {
            let takes = self.like_waiting.quantile_after(0.0, chance(course, batch))?;
            let mut start = 0.0;
            while at_provider.len() >= parallelism {
                let Some(Reverse(Seconds(end))) = at_provider.pop() else { break };
                start = end;
            }
            at_provider.push(Reverse(Seconds(start + takes)));
            (last, worked) = (last.max(start + takes), worked + takes);
        }
        let more = self.waiting - drawn;
        let average = if drawn > 0 { worked / drawn as f64 } else { 0.0 };
        Some(last + more as f64 * average / parallelism as f64)
    }
}

/// A number of seconds, in order.
struct Seconds(f64);

impl Ord for Seconds {
    fn cmp(&self, other: &Seconds) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Seconds) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Seconds {
    fn eq(&self, other: &Seconds) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Seconds {}

/// Returns a number between 0 and 1 that looks random, and is the same for the same batch in the same course (SplitMix64).
fn chance(course: usize, batch: usize) -> f64 {
    let mut bits = ((course as u64) << 32 | batch as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
