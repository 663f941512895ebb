//! The share of an account that batches take while they are in flight.

use std::collections::BTreeMap;

use super::attempt::AttemptState;
use super::journal::Journal;
use super::shard::Shard;
use super::status::is_in_flight;
use super::turnaround::Turnaround;
use crate::api::text::clip;
use crate::api::{BatchJobStatus, LearnedTokens, ModelStatus};
use crate::money::{TokenEstimate, TokenLimits};

/// Longest name of a model, in bytes. A journal may hold any text.
const NAME: usize = 253;

/// The share of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchLoad {
    /// Number of requests.
    pub requests: u64,
    /// The model that they ask for.
    pub model: String,
    /// Input tokens to be expected. Those of images and files are not among them: nothing tells their number.
    pub tokens: u64,
}

/// The share of several batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Number of batches.
    pub batches: usize,
    /// Number of requests.
    pub requests: u64,
    /// Batches and tokens by model.
    pub models: BTreeMap<String, ModelLoad>,
}

/// The share of batches of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelLoad {
    /// Number of batches.
    pub batches: usize,
    /// Input tokens to be expected.
    pub tokens: u64,
}

impl BatchLoad {
    /// Returns the share of a shard's batch. `known` is the experience with the models of the account.
    pub fn of(shard: &Shard, known: &[ModelStatus]) -> BatchLoad {
        let learned = known.iter().find(|model| model.name == shard.model).map(|model| model.tokens);
        let learned = learned.unwrap_or_default();
        BatchLoad {
            requests: u64::try_from(shard.requests).unwrap_or(0),
            model: clip(shard.model.clone(), NAME),
            // A token has a byte at least.
            tokens: input_tokens(&learned, shard).min(shard.bytes),
        }
    }
}

/// Returns the time at which the first of a journal's batches in flight is expected to end (Unix milliseconds): half of the batches of
/// its model that took as long as this one has so far ended by then. None if nothing is known of any of them.
pub fn next_end(journal: &Journal, known: &[ModelStatus], now: i64) -> Option<i64> {
    let end = |shard: &Shard| {
        let AttemptState::Submitted { at, .. } = shard.attempt.as_ref()?.state else { return None };
        let turnaround = &known.iter().find(|model| model.name == shard.model)?.turnaround;
        let elapsed = now.saturating_sub(at).max(0) as f64 / 1_000.0;
        let seconds = Turnaround::of(turnaround).quantile_after(elapsed, 0.5)?;
        Some(at.saturating_add((seconds * 1_000.0) as i64))
    };
    journal.shards.iter().filter_map(end).min()
}

fn input_tokens(learned: &LearnedTokens, shard: &Shard) -> u64 {
    let limits = TokenLimits { max_input_tokens: None, max_output_tokens: None };
    let expected = TokenEstimate::learned(learned, &shard.hints, shard.requests, limits).expected;
    u64::try_from(expected.input_tokens.saturating_add(expected.embedding_tokens)).unwrap_or(0)
}

impl Load {
    /// Returns the share of a journal's batches that may exist and have not ended.
    pub fn of_journal(journal: &Journal, known: &[ModelStatus]) -> Load {
        let live = journal.shards.iter().filter(|shard| shard.is_live());
        live.map(|shard| BatchLoad::of(shard, known)).collect()
    }

    /// Returns the share of the batches that may run according to status. It does not say the tokens of each batch: they are
    /// spread evenly over the requests of the job.
    pub fn of_status(status: &BatchJobStatus) -> Load {
        let estimate = status.estimate.as_ref();
        let tokens_of = |requests: u64| {
            let all = estimate.map_or(0, |of| u128::try_from(of.input_tokens).unwrap_or(0));
            let requests_of_all = estimate.map_or(1, |of| u128::try_from(of.requests).unwrap_or(0).max(1));
            u64::try_from(all * u128::from(requests) / requests_of_all).unwrap_or(u64::MAX)
        };
        let in_flight = status.batches.iter().filter(|batch| is_in_flight(batch));
        let loads = in_flight.map(|batch| {
            let requests = u64::try_from(batch.requests).unwrap_or(0);
            BatchLoad { requests, model: clip(batch.model.clone(), NAME), tokens: tokens_of(requests) }
        });
        loads.collect()
    }

    /// Adds a batch.
    pub fn add(&mut self, batch: &BatchLoad) {
        self.batches += 1;
        self.requests = self.requests.saturating_add(batch.requests);
        self.add_to(&batch.model, ModelLoad { batches: 1, tokens: batch.tokens });
    }

    /// Adds all batches of another share.
    pub fn merge(&mut self, other: &Load) {
        self.batches += other.batches;
        self.requests = self.requests.saturating_add(other.requests);
        other.models.iter().for_each(|(model, more)| self.add_to(model, *more));
    }

    fn add_to(&mut self, model: &str, more: ModelLoad) {
        match self.models.get_mut(model) {
            Some(sum) => {
                sum.batches += more.batches;
                sum.tokens = sum.tokens.saturating_add(more.tokens);
            }
            None => _ = self.models.insert(model.into(), more),
        }
    }

    /// Returns the input tokens of all models.
    pub fn tokens(&self) -> u64 {
        self.models.values().fold(0, |sum, model| sum.saturating_add(model.tokens))
    }
}

impl FromIterator<BatchLoad> for Load {
    fn from_iter<I: IntoIterator<Item = BatchLoad>>(batches: I) -> Load {
        let mut load = Load::default();
        batches.into_iter().for_each(|batch| load.add(&batch));
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BatchStatus, LearnedTurnaround, PlanEstimate, TokenHints};
    use crate::lifecycle::{Attempt, Owner, Payload};

    fn shard(requests: i64, text_bytes: u64) -> Shard {
        let hints = TokenHints { text_bytes, ..TokenHints::default() };
        Shard { requests, bytes: text_bytes.saturating_mul(2), model: "m".into(), hints, ..Shard::default() }
    }

    #[test]
    fn tokens_of_a_batch_are_estimated_by_what_its_model_showed() {
        let tokens = |known: &[ModelStatus]| BatchLoad::of(&shard(10, 400_000), known).tokens;
        assert_eq!(tokens(&[]), 100_000);
        let learned = LearnedTokens { text_bytes: 4_000_000, input_tokens: 2_000_000, ..LearnedTokens::default() };
        let model = |name: &str| ModelStatus { name: name.into(), tokens: learned, ..ModelStatus::default() };
        assert!((199_000..=200_000).contains(&tokens(&[model("m")])), "{}", tokens(&[model("m")]));
        assert_eq!(tokens(&[model("other")]), 100_000);
    }

    #[test]
    fn nothing_in_a_forged_journal_or_status_makes_sums_overflow() {
        let forged = Shard { requests: i64::MIN, model: "m".repeat(10_000), ..shard(0, u64::MAX) };
        let one = BatchLoad::of(&forged, &[]);
        assert!(one.requests == 0 && one.model.len() <= NAME);
        let mut sum: Load =
            [one.clone(), BatchLoad { tokens: u64::MAX, requests: u64::MAX, ..one }].into_iter().collect();
        sum.merge(&sum.clone());
        assert_eq!((sum.batches, sum.requests, sum.tokens()), (4, u64::MAX, u64::MAX));
        let batch = |requests| BatchStatus { state: "InProgress".into(), requests, ..BatchStatus::default() };
        let estimate = PlanEstimate { requests: -5, input_tokens: i64::MAX, ..PlanEstimate::default() };
        let batches = vec![batch(i64::MAX), batch(-1)];
        let status = BatchJobStatus { batches, estimate: Some(estimate), ..BatchJobStatus::default() };
        assert_eq!(Load::of_status(&status).tokens(), u64::MAX);
    }

    #[test]
    fn status_spreads_the_tokens_of_a_job_over_its_requests_and_counts_what_may_run() {
        let batch = |state: &str, requests| BatchStatus { state: state.into(), requests, ..BatchStatus::default() };
        let batches = vec![batch("InProgress", 30), batch("Submitting", 10), batch("Completed", 60)];
        let estimate = Some(PlanEstimate { requests: 100, input_tokens: 5_000, ..PlanEstimate::default() });
        let load = Load::of_status(&BatchJobStatus { batches, estimate, ..BatchJobStatus::default() });
        assert_eq!((load.batches, load.requests, load.tokens()), (2, 40, 2_000));
    }

    #[test]
    fn the_first_batch_to_end_is_the_one_whose_model_says_so_and_is_never_in_the_past() {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let mut journal = Journal::open("w".into(), owner, "s".into());
        for at in [0, 60_000] {
            let state = AttemptState::Submitted { batch_id: "b".into(), at };
            let attempt = Some(Attempt { state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") });
            journal.shards.push(Shard { attempt, ..shard(1, 1) });
        }
        // Ten batches within some two minutes, and ten within some half an hour.
        let mut turnaround = Turnaround::default();
        (0..10).for_each(|_| turnaround.add(120.0));
        (0..10).for_each(|_| turnaround.add(1_800.0));
        let turnaround: LearnedTurnaround = turnaround.for_status();
        let known = [ModelStatus { name: "m".into(), turnaround, ..ModelStatus::default() }];
        let next = next_end(&journal, &known, 61_000).unwrap();
        assert!((61_000..=200_000).contains(&next), "{next}");
        let later = next_end(&journal, &known, 600_000).unwrap();
        assert!((600_000..=2_400_000).contains(&later), "{later}");
        assert_eq!((next_end(&journal, &known, 90_000_000), next_end(&journal, &[], 0)), (None, None));
    }
}
