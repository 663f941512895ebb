//! `BatchJob.status.cost`: what a job costs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cost of a job in USD, as decimal numbers such as `3.12`, rounded half up to six decimal places. Amounts of requests that ran
/// are unset unless the prices of all their models are known.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct CostStatus {
    /// Cost of the plan's batches as it was expected before the first one was submitted. Requests that are sent again are not
    /// foreseen.
    #[serde(rename = "estimatedUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub estimated_usd: Option<String>,
    /// Cost of the plan's batches at most, as of then. Unset if neither the requests nor the limits of the models in the provider
    /// object bound it.
    #[serde(rename = "ceilingUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub ceiling_usd: Option<String>,
    /// Cost of the tokens that the provider reported, at the prices of each batch's submission.
    #[serde(rename = "actualUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub actual_usd: Option<String>,
    /// Cost of the same tokens by single calls, in real time.
    #[serde(rename = "realTimeUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub real_time_usd: Option<String>,
    /// Difference between `realTimeUSD` and `actualUSD`.
    #[serde(rename = "savedUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub saved_usd: Option<String>,
    /// Cost that may come in addition to `actualUSD` and that nobody reported, estimated: of requests that came back in no
    /// file, of batches that were given up or written off, of batches that a gateway made twice, and of answers without a
    /// count of tokens. Unset if there are none.
    #[serde(rename = "unconfirmedUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub unconfirmed_usd: Option<String>,
    /// Origin of the prices, such as `ConfigMap prices (resourceVersion 812), version 2026-11-30`. If prices changed while the job
    /// ran, the first and the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1200))]
    pub prices_from: Option<String>,
}
