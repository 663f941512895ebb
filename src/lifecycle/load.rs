//! The share of an account that batches take while they are in flight.

use std::collections::BTreeMap;

use super::journal::Journal;
use super::shard::Shard;
use super::status::is_in_flight;
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
        let model = self.models.entry(batch.model.clone()).or_default();
        model.batches += 1;
        model.tokens = model.tokens.saturating_add(batch.tokens);
    }

    /// Adds all batches of another share.
    pub fn merge(&mut self, other: &Load) {
        self.batches += other.batches;
        self.requests = self.requests.saturating_add(other.requests);
        for (name, more) in &other.models {
            let model = self.models.entry(name.clone()).or_default();
            model.batches += more.batches;
            model.tokens = model.tokens.saturating_add(more.tokens);
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
