//! Models of an account: their prices and limits, in the provider object or in a table that it names.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prices and limits of a model.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.prices) || has(self.maxInputTokens) || has(self.maxOutputTokens) || has(self.maxEnqueuedTokens)")
        .message("an entry of `models` needs `prices`, `maxInputTokens`, `maxOutputTokens` or `maxEnqueuedTokens`"),
    validation = Rule::new("!has(self.batchDiscountPercent) || has(self.prices)")
        .message("`batchDiscountPercent` is a discount on `prices`; set these too, or remove it"),
    validation = Rule::new("!has(self.batchDiscountPercent) || !has(self.prices) || !has(self.prices.batch)")
        .message("`batchDiscountPercent` and `prices.batch` both say what batches cost; remove one of them")
)]
pub struct ProviderModel {
    /// Name of the model as requests have it, at Azure OpenAI the name of the deployment. A name that ends in `*` matches every
    /// model whose name begins with the part before it. An exact name wins over a pattern, and a longer pattern over a shorter one.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^([^*\s]+[*]?|[*])$"))]
    pub name: String,
    /// Prices of the model. Those outside `batch` are prices of single calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<ModelPrices>,
    /// Discount of batches on all prices, in percent; unset: 50 for types OpenAI and AzureOpenAI, which document it, and 0 for type
    /// OpenAICompatible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub batch_discount_percent: Option<i32>,
    /// Most input tokens that the model takes in one request. This number bounds the cost of requests with images or files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_input_tokens: Option<i64>,
    /// Most output tokens that the model makes in one answer, including reasoning. This number bounds the cost of requests that
    /// set no limit of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_output_tokens: Option<i64>,
    /// Input tokens that may be in flight in the account at a time, over all jobs and batches; unset: no limit. The models of an
    /// entry whose name ends in `*` have them together. Tokens are estimated, as in `status.estimate` of jobs, and batches are cut
    /// so that they fit; one that is larger by itself goes alone. It is a limit of one account, and has no place in a table of
    /// `pricesRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub max_enqueued_tokens: Option<i64>,
}

/// Prices of a model in USD, as decimal numbers in quotes, with at most six digits before and six behind the point.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.longContext) || has(self.batch) == has(self.longContext.batch)")
        .message("`batch` is needed both in `prices` and in `prices.longContext`, or in neither")
)]
pub struct ModelPrices {
    /// Prices of single calls.
    #[serde(flatten)]
    pub real_time: TokenPrices,
    /// Prices of batches; unset: those of single calls, less `batchDiscountPercent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<TokenPrices>,
    /// Prices of requests with long prompts; unset: long prompts cost no more than others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongContextModelPrices>,
}

/// Prices of each kind of token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenPrices {
    /// USD for a million input tokens, such as `'0.25'`. Embeddings have input tokens only.
    #[serde(rename = "inputUSDPerMillion")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[0-9]{1,6}([.][0-9]{1,6})?$"))]
    pub input: String,
    /// USD for a million input tokens that the provider read from its cache; unset: the price of other input tokens.
    #[serde(rename = "cachedInputUSDPerMillion", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[0-9]{1,6}([.][0-9]{1,6})?$"))]
    pub cached_input: Option<String>,
    /// USD for a million output tokens, those of reasoning included, such as `'2.00'`; `'0'` for models that make embeddings only.
    #[serde(rename = "outputUSDPerMillion")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[0-9]{1,6}([.][0-9]{1,6})?$"))]
    pub output: String,
}

/// Prices of requests whose prompt exceeds a number of tokens. They apply to all tokens of such a request.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LongContextModelPrices {
    /// Number of input tokens. A request with more input tokens than this has these prices.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub above_input_tokens: i64,
    /// Prices of single calls.
    #[serde(flatten)]
    pub real_time: TokenPrices,
    /// Prices of batches; unset: those of single calls, less `batchDiscountPercent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<TokenPrices>,
}

/// One key of a ConfigMap with a table of prices, in the namespace of the object that names it; of a ClusterBatchProvider, in
/// the operator's.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTableReference {
    /// Name of the ConfigMap, in the namespace of the object that names it; of a ClusterBatchProvider, in that of the operator.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in the data of the ConfigMap. The default is `prices.yaml`.
    #[serde(default = "prices_yaml")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn prices_yaml() -> String {
    "prices.yaml".into()
}
