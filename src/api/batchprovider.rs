//! `BatchProvider`: endpoint, credential and limits of one provider account, in one object, so that a key is only ever
//! sent to the host that its owner named.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::storage::{SecretKeyReference, Tls};
use super::{
    ModelStatus, NamespaceGrant, Notification, PriceTableReference, ProviderCapabilities, ProviderModel,
    WithoutManagedFields, rules, schema,
};

/// A namespace's own account, as the API server has it.
pub type BatchProvider = WithoutManagedFields<BatchProviderObject>;
/// An account that an admin grants, as the API server has it.
pub type ClusterBatchProvider = WithoutManagedFields<ClusterBatchProviderObject>;

/// Endpoint, credential and limits of one account at a batch API.
// clippy takes two columns of one type for a repeated attribute.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llmbatch.dev",
    version = "v1alpha1",
    kind = "BatchProvider",
    root = "BatchProviderObject",
    plural = "batchproviders",
    namespaced,
    status = "ProviderStatus",
    shortname = "bprov",
    category = "llmbatch",
    doc = "BatchProvider is one account at a batch API: its endpoint, its credential and its limits.",
    validation = rules::fixed("type", "BatchProvider"),
    validation = rules::fixed("?baseURL", "BatchProvider"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.baseURL"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "In-Flight", type_ = "integer", json_path = ".status.batchesInFlight", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type != 'OpenAICompatible' || has(self.baseURL)")
        .message("`baseURL` is required for type 'OpenAICompatible', such as 'http://gateway.example:8080/v1'"),
    validation = Rule::new("self.type != 'OpenAI' || !has(self.baseURL) || self.baseURL.startsWith('https://')")
        .message("`baseURL` of type 'OpenAI' must begin with `https://`, since the API key goes with each call; a server in the cluster has type 'OpenAICompatible'"),
    validation = Rule::new("self.type != 'AzureOpenAI' || has(self.baseURL)")
        .message("`baseURL` is required for type 'AzureOpenAI', such as 'https://RESOURCE.openai.azure.com/openai/v1'"),
    validation = Rule::new("self.type != 'AzureOpenAI' || !has(self.baseURL) || self.baseURL.startsWith('https://') || !self.baseURL.contains('.azure.com')")
        .message("`baseURL` of an Azure resource must begin with `https://`, since the API key goes with each call"),
    validation = Rule::new("self.type == 'OpenAICompatible' || has(self.auth)")
        .message("`auth` is required for types 'OpenAI' and 'AzureOpenAI': name the Secret and key that hold the API key")
)]
pub struct BatchProviderSpec {
    /// Dialect of the server. OpenAI: the service of OpenAI itself, over `https://`. OpenAICompatible: another server with
    /// the files and batches of OpenAI's API. AzureOpenAI: a resource of Azure OpenAI. Fixed when the object is created.
    #[serde(rename = "type")]
    pub type_: ProviderType,
    /// Root URL of the API, without a slash at its end; unset, for type OpenAI: `https://api.openai.com/v1`. For type AzureOpenAI
    /// the resource, `https://RESOURCE.openai.azure.com`, or its API, with `/openai/v1` behind it. Both take `https://` only; an
    /// `http://` URL is for servers in private networks, since key and requests can be read on their way. Fixed when the object
    /// is created.
    #[serde(rename = "baseURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^https?://[^?#@\s]+[^/?#@\s]$"))]
    pub base_url: Option<String>,
    /// Credential of the account. Types OpenAI and AzureOpenAI need one; unset for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ProviderAuth>,
    /// Certificate authorities of the server; unset: those that the image of the operator trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Webhook by which the provider reports that a batch ended, so that the operator looks at the batch at once; unset: none.
    /// Needs an operator that runs with `--provider-webhook-addr`. Events are hints: jobs end by their polls in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<ProviderWebhook>,
    /// Models that jobs may use, at most 64; unset: any. A request for another one fails its job before anything is sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_models: Vec<String>,
    /// Prices and limits of models, at most 64. An entry here wins over an entry of `pricesRef`. Jobs show no cost for a model
    /// without prices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub models: Vec<ProviderModel>,
    /// ConfigMap with a table of prices, for many models or many accounts; unset: none. The table is YAML or JSON. Its list
    /// `models` has at most 512 entries with the same fields as `spec.models`. Its optional field `version`, such as a date, is
    /// shown beside costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices_ref: Option<PriceTableReference>,
    /// Limits of the account; those that are unset are the ones that the vendor documents. `status.limits` shows what
    /// applies.
    #[serde(default, skip_serializing_if = "ProviderLimits::is_unset")]
    pub limits: ProviderLimits,
    /// Treatment of a submission whose reply was lost and whose batch is not found. Resolve, the default: its input file is
    /// deleted, so that no batch can come of it any more, and its requests are sent again; as Hold where the account cannot
    /// list batches or delete files. Hold: a person is asked, while the search for the batch goes on.
    #[serde(default)]
    pub unknown_submission_policy: UnknownSubmissionPolicy,
    /// Webhooks that are told of events of each job that uses the account, at most 8; a notification of the job with the same
    /// name takes the place of one of these. Their Secrets are in the namespace of this object; of a ClusterBatchProvider, in
    /// that of the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub notifications: Vec<Notification>,
    /// Limits of the cost of batches in a period, at most 8; unset: no limit. A batch is sent only if each budget has room for the
    /// most that the batch can cost. Each batch needs prices for its model and a limit of its output tokens. A job that waits has
    /// the reason `WaitingForBudget`. A lower budget does not stop batches that were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub budgets: Vec<ProviderBudget>,
}

/// Limit of the cost of an account's batches in a period.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderBudget {
    /// Day or Month, in UTC. A batch counts in the period in which it was sent.
    pub period: BudgetPeriod,
    /// Limit of the cost of all batches of one period, in USD, such as "500.00".
    #[serde(rename = "maxCostUSD")]
    #[schemars(length(min = 1, max = 19), regex(pattern = AMOUNT_OF_USD))]
    pub max_cost_usd: String,
    /// Scope of the budget. True: the amount applies to each namespace separately. False, the default: all namespaces share it.
    #[serde(default)]
    pub per_namespace: bool,
}

/// Pattern of an amount of USD.
const AMOUNT_OF_USD: &str = r"^[0-9]{1,12}(\.[0-9]{1,6})?$";

/// The period of a budget, in UTC.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetPeriod {
    /// From midnight to midnight.
    Day,
    /// From the first day of a month to that of the next.
    Month,
}

/// The use of a budget in its current period.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// Day or Month, in UTC.
    pub period: BudgetPeriod,
    /// First day of the period, such as 2026-11-30.
    #[schemars(length(max = 10))]
    pub start: String,
    /// Namespace, if the budget has `perNamespace`; unset: all namespaces share the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Cost of the batches that were sent in the period and ended, in USD.
    #[serde(rename = "spentUSD")]
    #[schemars(length(max = 32))]
    pub spent_usd: String,
    /// The most that batches in flight, or about to be sent, can cost, in USD.
    #[serde(rename = "reservedUSD")]
    #[schemars(length(max = 32))]
    pub reserved_usd: String,
    /// The budget, in USD.
    #[serde(rename = "maxCostUSD")]
    #[schemars(length(max = 32))]
    pub max_cost_usd: String,
}

/// Treatment of a submission whose reply was lost and whose batch is not found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnknownSubmissionPolicy {
    /// Its input file is deleted, so that no batch can come of it any more, and the requests are sent again. Where the
    /// provider cannot be searched, or starts batches of deleted files, as with Hold.
    #[default]
    Resolve,
    /// A person is asked. The search for the batch goes on, and what it finds is adopted.
    Hold,
}

/// Observed state of the account. It is for people and tools: it grants nothing, and jobs do not wait for it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// Conditions of the account. `Ready` is True when the endpoint answers as a batch API to this credential. `WebhookReady` is
    /// there if `spec.webhook` is set, and True when events that are signed with its secret are taken. `PricesReady` is there if
    /// `spec.models` or `spec.pricesRef` is set, and True when all of them are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Value of `metadata.generation` that this status was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Value of `metadata.resourceVersion` of the Secret that the account was tried out with; it is tried out again with
    /// another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_secret_version: Option<String>,
    /// Abilities that the account showed when it was tried out; unset until then. ListBatches: a batch whose reply was lost
    /// is found. DeleteFiles: no batch is made of a file that was deleted. An account with both resolves lost replies without
    /// a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<ProviderCapabilities>,
    /// Limits that apply to the account: those of `spec.limits`, else those that the vendor documents. Unset until the
    /// account was looked at for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<EffectiveLimits>,
    /// Path to register at the provider, behind `https://` and the host of the Ingress or Gateway in front of the Service
    /// `batchjob-operator-provider-webhooks`. Set if `spec.webhook` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub webhook_path: Option<String>,
    /// Experience with the models of the account that gave the most answers, at most 64. Only estimates depend on it. The operator
    /// learns it anew if it is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub models: Vec<ModelStatus>,
    /// Origin of the prices in use, such as `ConfigMap prices (resourceVersion 812), version 2026-11-30`; unset: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub prices_from: Option<String>,
    /// Number of model names that have prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1024))]
    pub priced_models: Option<i32>,
    /// Use of `spec.budgets` in the current periods. It is some minutes old at most. A budget with `perNamespace` has an entry for
    /// each of the namespaces that have the least left of it; all such budgets together have at most 16 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub budgets: Vec<BudgetStatus>,
    /// Batches in flight in the account, over all jobs of the operator, as of the last look at the account, which is at most minutes
    /// ago. If several installs of the operator use the account, this and the following fields are those of the one that had news last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub batches_in_flight: Option<i64>,
    /// Requests in these batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub enqueued_requests: Option<i64>,
    /// Input tokens in these batches, as estimated; those of images and files are not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub enqueued_tokens: Option<i64>,
    /// Batches that are tried at a time for now, in all or of one model, since the provider refused more for want of room; unset: as many
    /// as `limits` allow. It grows while no batch is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tried_batches_in_flight: Option<i64>,
    /// Time at which the next batch in flight is expected to end, by the time that earlier batches of its model took. Set while a batch
    /// waits for room in the account, if that time is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_capacity_time: Option<Time>,
}

/// Endpoint, credential and limits of one account at a batch API, and the namespaces that it is granted to.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llmbatch.dev",
    version = "v1alpha1",
    kind = "ClusterBatchProvider",
    root = "ClusterBatchProviderObject",
    plural = "clusterbatchproviders",
    status = "ProviderStatus",
    shortname = "cbprov",
    category = "llmbatch",
    doc = "ClusterBatchProvider is one account at a batch API that an admin grants to namespaces. Its Secret is in the operator's namespace, so that no team sees the key.",
    validation = rules::fixed("type", "ClusterBatchProvider"),
    validation = rules::fixed("?baseURL", "ClusterBatchProvider"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.baseURL"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "In-Flight", type_ = "integer", json_path = ".status.batchesInFlight", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBatchProviderSpec {
    /// The account, as in a BatchProvider.
    #[serde(flatten)]
    pub provider: BatchProviderSpec,
    /// Namespaces whose jobs may use the account; one entry that matches is enough. At most 64.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub namespaces: Vec<NamespaceGrant>,
}

/// The dialect that a provider speaks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderType {
    /// OpenAI's own service.
    OpenAI,
    /// Another server with OpenAI's files and batches API.
    OpenAICompatible,
    /// Azure OpenAI. Models are the names of deployments of type Global Batch or Data Zone Batch; endpoints are
    /// `ChatCompletions` and `Responses`.
    AzureOpenAI,
}

impl ProviderType {
    /// Every dialect.
    pub const ALL: [ProviderType; 3] =
        [ProviderType::OpenAI, ProviderType::OpenAICompatible, ProviderType::AzureOpenAI];

    /// Returns its name, as manifests have it.
    pub fn name(self) -> &'static str {
        match self {
            ProviderType::OpenAI => "OpenAI",
            ProviderType::OpenAICompatible => "OpenAICompatible",
            ProviderType::AzureOpenAI => "AzureOpenAI",
        }
    }
}

/// How requests to the provider are authenticated.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAuth {
    /// Key of a Secret that holds the API key, which is sent as a bearer token, and to Azure OpenAI in the header `api-key`. The
    /// Secret of a ClusterBatchProvider is in the namespace of the operator.
    pub secret_key_ref: SecretKeyReference,
}

/// The webhook of an account, to be registered at the provider under the path that `status.webhookPath` shows.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderWebhook {
    /// Key of a Secret that holds the signing secret that the provider showed when the webhook was registered: `whsec_` and
    /// base64. While it is rotated, the key holds both, separated by a space. The Secret of a ClusterBatchProvider is in the
    /// namespace of the operator.
    pub signing_secret_key_ref: SecretKeyReference,
}

/// Limits of an account, where they are not those that the vendor documents.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderLimits {
    /// Batches that may be in flight in the account at a time, over all jobs; unset: no limit. Jobs that wait for a place have the
    /// reason `WaitingForQuota`; the next place goes to the namespace with the fewest batches in flight, and within it to the job
    /// with the highest `priority`, the oldest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_batches_in_flight: Option<i32>,
    /// Requests that may be in flight in the account at a time, over all jobs and batches; unset: no limit. Batches have at most
    /// as many requests. A batch that does not fit is not overtaken by smaller ones that come after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_enqueued_requests: Option<i64>,
    /// Requests in one batch; unset: the vendor's limit, 50,000 at OpenAI and 100,000 at Azure OpenAI. An account that takes
    /// fewer at a time has its batches halved until they fit, which takes minutes each time; a lower limit makes smaller
    /// batches from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_batch: Option<i32>,
    /// Bytes in the input file of one batch; unset: the vendor's limit, 200,000,000 at OpenAI and Azure OpenAI. A request
    /// that is larger by itself is refused before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 2_147_483_648i64))]
    pub max_bytes_per_batch: Option<i64>,
    /// Inputs of embeddings in one batch, over all its requests, each of which may hold many; unset: the vendor's limit, 50,000 at
    /// OpenAI. A request with more inputs by itself is refused before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_inputs_per_batch: Option<i32>,
}

impl ProviderLimits {
    fn is_unset(&self) -> bool {
        *self == ProviderLimits::default()
    }
}

/// Limits that apply to an account: those of `spec.limits`, else those that the vendor documents for the provider's type.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveLimits {
    /// Batches that may be in flight in the account at a time, over all jobs; unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_batches_in_flight: Option<i32>,
    /// Requests that may be in flight in the account at a time, over all jobs; unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_enqueued_requests: Option<i64>,
    /// Requests in one batch.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_batch: i32,
    /// Bytes in the input file of one batch.
    #[schemars(range(min = 1024, max = 2_147_483_648i64))]
    pub max_bytes_per_batch: i64,
    /// Inputs of embeddings in one batch, over all its requests.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_inputs_per_batch: i32,
}

/// OpenAI's own endpoint (https://platform.openai.com/docs/api-reference/batch).
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

impl BatchProviderSpec {
    /// The root of the API; empty where the object should name one and does not, which the API server does not let in.
    pub fn base_url(&self) -> &str {
        let default = if self.type_ == ProviderType::OpenAI { OPENAI_BASE_URL } else { "" };
        self.base_url.as_deref().unwrap_or(default)
    }
}
