//! Usage of a job, as status and manifest show it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AnswerCounts, CostStatus, TokenUsage};

/// The name under which the usage of further models is summed, once there are too many for a list.
pub const OTHER_MODELS: &str = "(other models)";

/// Tokens that the provider reported, of all batches that were collected.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// Tokens of all models.
    #[serde(flatten)]
    pub tokens: TokenUsage,
    /// Tokens of each model. In status at most 16, in a manifest at most 33; the last one, `(other models)`, has the sum of the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 33))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub models: Vec<ModelUsage>,
}

/// Tokens of one model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ModelUsage {
    /// Name of the model, as the requests have it.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Tokens of the model.
    #[serde(flatten)]
    pub tokens: TokenUsage,
}

impl UsageStatus {
    /// Returns the usage with at most `limit` models: the last one in the list then has the sum of the rest.
    pub fn with_at_most(mut self, limit: usize) -> UsageStatus {
        if self.models.len() > limit {
            // The ones with the most tokens stay.
            self.models.sort_by_key(|model| {
                let TokenUsage { input_tokens, output_tokens, embedding_tokens, .. } = model.tokens;
                let all = input_tokens.saturating_add(output_tokens).saturating_add(embedding_tokens);
                (model.name == OTHER_MODELS, std::cmp::Reverse(all), model.name.clone())
            });
            let rest = self.models.split_off(limit.saturating_sub(1));
            let mut others = ModelUsage { name: OTHER_MODELS.into(), ..ModelUsage::default() };
            rest.into_iter().for_each(|model| others.tokens += model.tokens);
            self.models.sort_by(|a, b| a.name.cmp(&b.name));
            self.models.push(others);
        }
        self
    }
}

/// What a job used and cost, so far or in the end: part of its commit and its manifest. Documents of earlier versions have none of it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct Spending {
    /// Tokens; None if no batch was collected by a version that counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// Answers that may not be what was asked for, by kind.
    #[serde(skip_serializing_if = "AnswerCounts::is_zero")]
    pub answers: AnswerCounts,
    /// Cost; None without prices for every model that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostStatus>,
}
