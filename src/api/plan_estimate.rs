//! `status.estimate`: what a plan is expected to take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests that are to be sent, with their tokens as they are expected. Requests that are sent again are not foreseen.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct PlanEstimate {
    /// Number of batches.
    #[schemars(range(min = 0))]
    pub batches: i64,
    /// Number of requests in them.
    #[schemars(range(min = 0))]
    pub requests: i64,
    /// Input tokens to be expected, by the bytes of text of an input token that earlier batches of the model showed, and 4 until
    /// then. Tokens of images and files are not among them.
    #[schemars(range(min = 0))]
    pub input_tokens: i64,
    /// Output tokens to be expected, by the mean of earlier batches of the model, and 300 an answer until then; no more than the
    /// requests allow.
    #[schemars(range(min = 0))]
    pub output_tokens: i64,
    /// Input tokens at most: one for each byte of text, and `maxInputTokens` of the model for each request with images or files.
    /// Unset if nothing bounds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_input_tokens: Option<i64>,
    /// Output tokens at most, by the limits of the requests, and `maxOutputTokens` of the model for each answer without one.
    /// Unset if nothing bounds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_output_tokens: Option<i64>,
    /// Requests with images or files, or with content that is elsewhere.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub opaque_requests: i64,
    /// Cost to be expected of single calls in real time, in USD, as a decimal number such as `3.12`. Unset without prices.
    #[serde(rename = "realTimeUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub real_time_usd: Option<String>,
    /// Seconds in which single calls in real time would be answered, with 8 calls at a time that take a second each and one more
    /// for every 50 output tokens.
    #[schemars(range(min = 0))]
    pub real_time_seconds: i64,
}

fn is_zero(count: &i64) -> bool {
    *count == 0
}
