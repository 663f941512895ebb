//! `BatchJob`: one set of requests, run once, paid once. Its spec; the status is in `batchjob_status`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::output::Output;
use super::storage::ObjectStoreLocation;
use super::{AnswerKind, BatchJobStatus, FreeForm, Notification, WithoutManagedFields, rules, schema};

/// One set of requests, as the API server has it.
pub type BatchJob = WithoutManagedFields<BatchJobObject>;

/// Requests, the account that runs them, and the destination of their results.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llmbatch.dev",
    version = "v1alpha1",
    kind = "BatchJob",
    root = "BatchJobObject",
    plural = "batchjobs",
    namespaced,
    status = "BatchJobStatus",
    shortname = "bjob",
    category = "llmbatch",
    derive = "PartialEq",
    doc = "BatchJob runs a set of LLM requests through a provider's asynchronous batch API and stores the results.",
    validation = rules::name_of_a_label(),
    validation = rules::no_results_of_its_own(),
    validation = rules::locked("providerRef", "instead"),
    validation = rules::locked("?model", "instead"),
    validation = rules::locked("endpoint", "instead"),
    validation = rules::locked("?requestDefaults", "instead"),
    validation = rules::locked("?requestDefaultsJSON", "instead"),
    validation = rules::locked("?runID", "to run, and pay, again"),
    validation = rules::locked_input(),
    validation = rules::locked_reuse(),
    validation = rules::stop_policy(),
    selectable = ".spec.providerRef.kind",
    selectable = ".spec.providerRef.name",
    selectable = ".status.outcome",
    selectable = ".status.provider.uid",
    printcolumn(name = "Status", type_ = "string", json_path = r#".status.conditions[?(@.type=="Complete")].reason"#),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.display.progress"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.display.eta", priority = 1),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.requests.failed"),
    printcolumn(name = "Cost", type_ = "string", json_path = ".status.display.cost"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.providerRef.name", priority = 1),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model", priority = 1),
    printcolumn(name = "Saved", type_ = "string", json_path = ".status.display.saved", priority = 1),
    printcolumn(name = "Suspect", type_ = "string", json_path = ".status.display.suspect", priority = 1),
    printcolumn(name = "Results", type_ = "string", json_path = ".status.results.uri", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.requestDefaults) && has(self.requestDefaultsJSON))")
        .message("set at most one of `spec.requestDefaults` and `spec.requestDefaultsJSON`")
)]
pub struct BatchJobSpec {
    /// Account at a batch API that runs the requests. Locked once the job has started.
    pub provider_ref: ProviderReference,
    /// Model for requests that name none; unset: each request has to name its own. Locked once the job has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub model: Option<String>,
    /// API that every request of the job calls. The default is ChatCompletions, `/v1/chat/completions`. Locked once the job
    /// has started.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// Fields that are merged under the body of each request; a field that the body has itself wins. The API server sorts the
    /// keys: write `requestDefaultsJSON` where their order counts, as in the schema of an answer or of a tool. Locked once
    /// the job has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub request_defaults: Option<FreeForm>,
    /// Fields that are merged under the body of each request, as JSON text; at most 1,048,576 characters. The text is sent as
    /// it is written: the order of keys, digits and escapes are kept. Use it as soon as a schema or a tool is in it: models
    /// write the fields of an answer in the order of the schema. Locked once the job has started.
    #[serde(rename = "requestDefaultsJSON", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1_048_576))]
    pub request_defaults_json: Option<String>,
    /// Part of the identity of the work: the same input under another runID is run, and paid, again. Locked once the job has
    /// started.
    #[serde(rename = "runID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    pub run_id: Option<String>,
    /// Source of the requests. Locked once the job has started.
    pub input: Input,
    /// Result sets of earlier jobs whose answers are reused, at most 8: a request with the endpoint, model and body of one that
    /// was answered there is neither sent nor paid, and the results have that answer. The first set that has one counts.
    /// A result set is complete once it has its `manifest.json`. The job waits for one whose job has submitted a batch; of any
    /// other that is not complete nothing is reused, as the condition `Planned` says. Locked once the job has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub reuse_from: Option<Vec<ReuseSource>>,
    /// Destination of the results. Fixed when the job is created.
    pub output: Output,
    /// Hold on submissions: while true, requests are checked and counted, nothing is submitted, and batches in flight run on.
    /// Setting it to false approves the spend.
    #[serde(default)]
    pub suspend: bool,
    /// Way to stop the job for good; unset: it runs to its end. Drain: no further batch is submitted, batches in flight are
    /// awaited, and their answers are written. Cancel: batches in flight are cancelled, and answers that were paid for are
    /// written. The job fails, with the reason and the outcome `Cancelled`, unless nothing was left to send. A stop takes precedence
    /// over `suspend`. Once set, it may not be changed, except from Drain to Cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_description)]
    pub stop_policy: Option<StopPolicy>,
    /// Batches of the job that may be in flight at the provider at a time; others wait for their turn. The default is 4.
    #[serde(default = "parallelism")]
    #[schemars(range(min = 1, max = 100))]
    pub parallelism: i32,
    /// Rank among the jobs of its namespace that wait for the same account (`WaitingForQuota`): the job with the highest number
    /// submits next, and of several the oldest. It does not let the namespace overtake another one. A change counts at once. The
    /// default is 0.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Failures of one batch as a whole that the job tolerates: with one more it fails, with the reason
    /// `BackoffLimitExceeded`. Waiting for capacity is no failure. The default is 3.
    #[serde(default = "backoff_limit_per_batch")]
    #[schemars(range(min = 0, max = 100))]
    pub backoff_limit_per_batch: i32,
    /// Number of times that a request is sent again which was executed and failed in a way that may pass (no status, 408,
    /// 409, 429, 5xx), or which came back in no file; then its failure is its outcome. Requests that were never executed
    /// (expired, cancelled) are sent again without being counted. The default is 2.
    #[serde(default = "backoff_limit_per_request")]
    #[schemars(range(min = 0, max = 10))]
    pub backoff_limit_per_request: i32,
    /// Requests that may end without an answer, as a number, or as a percentage of all requests such as `2%`; unset: any
    /// number but all. It is judged as batches end: with more, no further batch is submitted and the job fails, with the
    /// reason `MaxFailedRequestsExceeded`; answers are written all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::count_or_percentage")]
    pub max_failed_requests: Option<IntOrString>,
    /// Kinds of answers that count as failures for `maxFailedRequests`, although the provider counts them as succeeded. Empty:
    /// without any content. Refused: the model refused. Truncated: cut at a limit of tokens. Filtered: cut or withheld by a
    /// content filter. Such answers stay in `results.jsonl` and in `status.requests.succeeded`, and are not sent again;
    /// `status.answers` counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub fail_on: Vec<AnswerKind>,
    /// Limit of the job's cost; unset: none. A batch is submitted only if the limit has room for the sum of three amounts: the
    /// cost of earlier batches, the most that batches in flight can cost, and the most that the batch can cost. Each batch needs
    /// prices for its model, on the provider object, and a limit of its output tokens. A change applies to later batches; batches
    /// in flight run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<JobBudget>,
    /// Trial of the job on its first requests, which are sent alone; unset: none. When they are answered, the job shows their
    /// cost, their failures and the projected cost of the other requests, and waits for an approval to send these. The answers of
    /// the canary are part of the results; with `spec.output.partialResults` people can read them before they approve. A job with
    /// no more requests than the canary has none. A change of `requests` has no effect once the input is planned. Removing the
    /// field approves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Seconds from the start of the job after which it is ended; unset: no limit. While `suspend` is true and nothing was
    /// submitted, the time does not run, and it begins anew on resumption, as with a Job. After the first submission it runs on
    /// while the job is suspended, because its batches do. When it is over, batches in flight are cancelled, answers that were
    /// paid for are written, and the job fails with the reason `DeadlineExceeded`. Batches that have not ended an hour later are
    /// given up: an event names each of them and what it may still cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds without progress after which a job with batches at the provider is reported as stuck; unset: never. Progress is
    /// a request that is done by the provider's count, a batch that is submitted, and one that ends. The condition
    /// `Progressing` is then False with the reason `ProgressDeadlineExceeded` and names the batches, and `Stalled` is True, until
    /// there is progress again. The job waits on, and nothing is cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub progress_deadline_seconds: Option<i64>,
    /// Seconds after its end at which the operator deletes the job; unset: never. Zero deletes it at once. It is never deleted
    /// before its manifest is written, so a job that failed before anything was sent stays, and so does a job that reused the
    /// results of an earlier one: a tool that applies it again would do so for ever. A job of a CronBatchJob stays for at least a
    /// minute, so that the schedule sees its end. Results stay where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Time in which the provider has to run a batch, in seconds, in whole hours; unset: the provider's own, 86400 at OpenAI,
    /// which accepts no other, and at Azure OpenAI, which runs batches beyond it. Requests that are not run in that time
    /// expire, and are sent again in another batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3600, max = 604_800), extend("multipleOf" = 3600))]
    pub completion_window_seconds: Option<i32>,
    /// Seconds between two polls of a batch in progress. The default is 60.
    #[serde(default = "poll_period_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub poll_period_seconds: i32,
    /// Fate of batches in flight when this object is deleted. Cancel, the default: they are cancelled, and answers that were
    /// paid for are written first. Orphan: they run on, and the same job, applied again, adopts them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Fate of files at the provider once the results are in storage. Delete, the default: they are deleted. Retain: they
    /// stay until the provider lets them expire, except a file whose submission was lost, which is deleted lest a batch be
    /// made of it later.
    #[serde(default)]
    pub provider_file_policy: ProviderFilePolicy,
    /// Webhooks that are told of events of the job, at most 8. Each notification of the provider applies as well, unless the job
    /// has one of the same name; at most 8 apply in all, those of the job first. `status.notifications` shows what became of each
    /// message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub notifications: Vec<Notification>,
}

/// Limit of a job's cost.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct JobBudget {
    /// Limit of the job's cost, in USD, such as `25.00`.
    #[serde(rename = "maxCostUSD")]
    #[schemars(length(min = 1, max = 19), regex(pattern = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?$"))]
    pub max_cost_usd: String,
    /// Treatment of a job whose next batch does not fit while no batch is in flight. Hold, the default: the job waits until `maxCostUSD`
    /// is raised. Fail: the job fails with the reason `BudgetExceeded`, and its answers are written.
    #[serde(default)]
    pub on_exceeded: OnExceeded,
}

/// Treatment of a job whose next batch does not fit its budget.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnExceeded {
    /// The job waits until the budget is raised.
    #[default]
    Hold,
    /// The job fails, and its answers are written.
    Fail,
}

/// Trial of a job on its first requests.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Number of requests that are sent alone. Requests with a reused answer do not count.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,
    /// Approver of the other requests. Manual, the default: a person does, with the annotation that `status.holds` shows.
    /// Automatic: the operator does if the projected cost is within `spec.budget`, and if the share of failed requests in the
    /// canary is within `spec.maxFailedRequests`; otherwise a person is asked.
    #[serde(default)]
    pub approval: CanaryApproval,
}

/// Approver of the requests behind a canary.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CanaryApproval {
    /// A person.
    #[default]
    Manual,
    /// The operator, from the figures of the canary; a person if these are not good enough.
    Automatic,
}

/// A result set of an earlier job.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReuseSource {
    /// Folder of the result set, which holds its `manifest.json`.
    pub object_store: ObjectStoreLocation,
}

fn parallelism() -> i32 {
    4
}
fn backoff_limit_per_batch() -> i32 {
    3
}
fn backoff_limit_per_request() -> i32 {
    2
}
fn poll_period_seconds() -> i32 {
    60
}

/// The provider object that names an account.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderReference {
    /// Kind of the provider object: BatchProvider, the default, of this namespace; or ClusterBatchProvider, which an admin
    /// grants to namespaces.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Name of the BatchProvider of this namespace, or of the ClusterBatchProvider.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Kind of a provider object.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// The account of a namespace.
    #[default]
    BatchProvider,
    /// An account that an admin grants to namespaces.
    ClusterBatchProvider,
}

/// The API that a request calls.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    #[default]
    ChatCompletions,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/completions`
    Completions,
    /// `/v1/moderations`
    Moderations,
}

impl Endpoint {
    /// Every endpoint. The name of each is the end of no later one's.
    pub const ALL: [Endpoint; 5] = [
        Endpoint::ChatCompletions,
        Endpoint::Responses,
        Endpoint::Embeddings,
        Endpoint::Completions,
        Endpoint::Moderations,
    ];

    /// Returns the endpoint that a URL means, with or without `/v1`, or with the root of an API in front; None if it means none.
    pub fn of_url(url: &str) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|endpoint| url.ends_with(endpoint.path().trim_start_matches("/v1")))
    }

    /// The path that OpenAI's batch lines and batches name.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "/v1/chat/completions",
            Endpoint::Responses => "/v1/responses",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Moderations => "/v1/moderations",
        }
    }
}

/// Way to stop a job for good.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopPolicy {
    /// No further batch is submitted; those in flight are awaited.
    Drain,
    /// Batches in flight are cancelled; answers that were paid for are written.
    Cancel,
}

/// Fate of batches in flight when the job is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeletionPolicy {
    /// They are cancelled; answers that were paid for are written first.
    #[default]
    Cancel,
    /// They run on; the same job applied again picks them up.
    Orphan,
}

/// Fate of the files at the provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProviderFilePolicy {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay until the provider lets them expire. A file whose submission was lost is deleted all the same: that is
    /// what keeps a late request from starting a second batch.
    Retain,
}
