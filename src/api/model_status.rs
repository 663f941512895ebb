//! `status.models` of provider objects: what finished batches showed of each model.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Experience with one model of an account.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Name of the model, as requests have it.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Sums over requests of batches that were answered in full. Estimates of later jobs use their means: an input token has
    /// `textBytes` / `inputTokens` bytes, and an answer has `outputTokens` / `answers` tokens. Large sums are halved now and then,
    /// so that new batches count more than old ones.
    #[serde(default, skip_serializing_if = "LearnedTokens::is_zero")]
    #[schemars(transform = super::schema::without_defaults)]
    pub tokens: LearnedTokens,
    /// Time that batches took from their submission to their end. Ends of later batches are estimated from it.
    #[serde(default, skip_serializing_if = "LearnedTurnaround::is_empty")]
    #[schemars(transform = super::schema::without_defaults)]
    pub turnaround: LearnedTurnaround,
}

/// Time that batches took from their submission to their end.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct LearnedTurnaround {
    /// Number of batches. Long experience is halved now and then, so that new batches count more than old ones.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub batches: i64,
    /// Half of the batches took at most this long, in seconds.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub p50_seconds: i64,
    /// 90 % of the batches took at most this long, in seconds.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub p90_seconds: i64,
    /// Number of batches by duration: entry n counts those that took at most 2^(n/2) seconds and do not count in an earlier entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 48), inner(range(min = 0, max = 1000)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub counts: Vec<i32>,
}

impl LearnedTurnaround {
    /// Returns whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.batches == 0
    }
}

/// Sums over answered requests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct LearnedTokens {
    /// Bytes of text in requests without images and files.
    #[schemars(range(min = 0))]
    pub text_bytes: i64,
    /// Tokens of inputs of these requests, those of embeddings included.
    #[schemars(range(min = 0))]
    pub input_tokens: i64,
    /// Requests that were answered.
    #[schemars(range(min = 0))]
    pub answers: i64,
    /// Tokens of these answers.
    #[schemars(range(min = 0))]
    pub output_tokens: i64,
}

impl LearnedTokens {
    /// Returns whether nothing was learned.
    pub fn is_zero(&self) -> bool {
        *self == LearnedTokens::default()
    }
}

impl std::ops::AddAssign for LearnedTokens {
    /// Adds each sum; one that is too large stays at the largest number.
    fn add_assign(&mut self, LearnedTokens { text_bytes, input_tokens, answers, output_tokens }: LearnedTokens) {
        for (sum, more) in [
            (&mut self.text_bytes, text_bytes),
            (&mut self.input_tokens, input_tokens),
            (&mut self.answers, answers),
            (&mut self.output_tokens, output_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
