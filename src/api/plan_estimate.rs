//! `status.estimate`: what a plan is expected to take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests that are to be sent, and their estimated tokens. Requests that are sent again are not foreseen.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct PlanEstimate {
    /// Number of batches.
    #[schemars(range(min = 0))]
    pub batches: i64,
    /// Number of requests in them.
    #[schemars(range(min = 0))]
    pub requests: i64,
    /// Estimated input tokens: the bytes of text, divided by the mean length of a token in earlier batches of the model, or by 4 if
    /// there are none. Tokens of images and files are not included.
    #[schemars(range(min = 0))]
    pub input_tokens: i64,
    /// Estimated output tokens: for each answer, the mean of earlier batches of the model, or 300 if there are fewer than ten
    /// answers, but no more than the request allows.
    #[schemars(range(min = 0))]
    pub output_tokens: i64,
    /// Most input tokens: one for each byte of text, and `maxInputTokens` of the model for each request with images or files.
    /// Unset if nothing bounds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_input_tokens: Option<i64>,
    /// Most output tokens: the limits of the requests, and `maxOutputTokens` of the model for each request without a limit. Unset
    /// if nothing bounds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_output_tokens: Option<i64>,
    /// Requests with images or files, or with content that is elsewhere.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub opaque_requests: i64,
    /// Estimated cost of the same requests as single calls in real time, in USD, as a decimal number such as `3.12`. Unset without
    /// prices.
    #[serde(rename = "realTimeUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub real_time_usd: Option<String>,
    /// Estimated duration of the same requests as single calls in real time, in seconds. The estimate is for 8 calls at a time. A
    /// call takes a second, and another one for every 50 output tokens.
    #[schemars(range(min = 0))]
    pub real_time_seconds: i64,
}

fn is_zero(count: &i64) -> bool {
    *count == 0
}
