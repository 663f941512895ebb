//! `BatchJob.status`: what became of a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AnswerCounts, CostStatus, NotificationStatus, PlanEstimate, ProviderType, UsageStatus, schema};

/// Observed state of the job, derived from its journal. It is for people and tools, and grants nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BatchJobStatus {
    /// Conditions of the job, one for each aspect of its state. `Complete` is the one to wait for: its reason is the stage of
    /// the job, or the way in which it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Value of `metadata.generation` that this status was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Last value of the annotation `llmbatch.dev/reconcile-requested-at` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_handled_reconcile_at: Option<String>,
    /// Hash of the versions of the provider, Secrets, ConfigMaps and single object that the job refers to, after a failure
    /// that cost nothing: the job is judged again when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_references: Option<String>,
    /// Outcome of the job, in one word; unset until the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_description)]
    pub outcome: Option<Outcome>,
    /// Version of the protocol that wrote this status. An operator of an earlier one leaves the job alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub protocol_version: Option<i32>,
    /// Identity that the job is tied to since it started. While it is set, the fields that shape requests may not be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Work that this job does: a set of requests that is paid for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// Account that batches of this job run in, as it was when the job came to depend on it. While it is set and the job is
    /// not finished, the provider object stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<PinnedProvider>,
    /// Time at which the operator first saw the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// Time at which the first batch was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission_time: Option<Time>,
    /// Time at which the last batch is expected to have ended, with a probability of one half: an estimate from the time that
    /// earlier batches of the account took. Requests that are sent again are not foreseen. Unset while nothing is known, and once
    /// no batch runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// Time at which progress was last seen: a request that is done by the provider's count, a batch that was submitted, or one
    /// that ended. Unset until a batch is submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<Time>,
    /// Time at which the job ended, with whatever outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Input of the job as it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputStatus>,
    /// Estimate of the requests that are sent, with their tokens. It no longer changes once a batch may have been submitted.
    /// Requests that are sent again are not foreseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<PlanEstimate>,
    /// Counts of requests by outcome; at the end `total` is the sum of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// Tokens of all batches that were collected so far, including batches that were billed and gave no answers. A job that reused
    /// results shows the tokens of the job that wrote them. Unset until tokens are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// Counts of answers that are in `requests.succeeded` and may not be what was asked for, by kind. An answer may be of
    /// several kinds. Unset if there are none. `spec.failOn` makes them count as failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<AnswerCounts>,
    /// Cost of the job, so far or in the end. A job that reused results shows the cost of the job that wrote them; nothing was
    /// paid again. Unset without prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostStatus>,
    /// Reasons for which requests have no answer so far, the most frequent one first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub error_summary: Vec<ErrorSummary>,
    /// Batches at the provider: those that are not settled, and the last 32 that are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 132))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub batches: Vec<BatchStatus>,
    /// Questions that only a person can answer, each with the annotation to copy; at most 8 of those that are open. One
    /// annotation `llmbatch.dev/resolve` may hold several answers, separated by commas, and `lost-*=resend` answers all open
    /// questions whose id begins with `lost-`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub holds: Vec<Hold>,
    /// URI of the folder that holds the answers so far: its `index.json` names the files that are whole. Set while the job runs
    /// and `spec.output.partialResults` is true, from the first batch that ended.
    #[serde(rename = "partialResultsURI", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2100))]
    pub partial_results_uri: Option<String>,
    /// Messages to webhooks about the job, one for each notification and event; at most 40.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40), transform = schema::without_defaults)]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub notifications: Vec<NotificationStatus>,
    /// Locations of the result files. Unset until they are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
    /// Texts for people. Programs read the fields that they are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
}

/// How a job ended, in one word.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every request was answered.
    Succeeded,
    /// Some requests were not answered.
    PartiallySucceeded,
    /// The job failed.
    Failed,
    /// The job was deleted, or told to stop, before it was done.
    Cancelled,
}

/// What the job is tied to once it has started.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// SHA-256 of the fields that shape requests, in hexadecimal.
    #[schemars(length(max = 64))]
    pub spec_hash: String,
    /// URI of the destination, with its variables replaced.
    #[serde(rename = "outputURI")]
    #[schemars(length(max = 2048))]
    pub output_uri: String,
}

/// The work that a job does: the same for the same input, request-shaping spec and runID.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// Id of the work: part of the names of its files in storage and of its requests at the provider.
    #[schemars(length(max = 32))]
    pub id: String,
    /// Identity of the work: a hash of its requests, request-shaping spec and runID, with the version of the hash before it.
    /// Unset until the input was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub hash: Option<String>,
    /// URI of the journal, the document that the state of the work is kept in.
    #[serde(rename = "journalURI")]
    #[schemars(length(max = 2100))]
    pub journal_uri: String,
}

/// A provider object as it was when the job came to depend on it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct PinnedProvider {
    /// Value of `metadata.uid` of the provider object.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Type of the provider.
    #[serde(rename = "type")]
    pub type_: ProviderType,
    /// Root URL of the API.
    #[serde(rename = "baseURL")]
    #[schemars(length(max = 1024))]
    pub base_url: String,
}

/// Input of the job as it was read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct InputStatus {
    /// Version of the input, which changes when the input does: the ETag of its one object, or a BLAKE3 hash of the names and
    /// versions of its objects; for requests in ConfigMaps or inline, a BLAKE3 hash of their bytes; for the results of another
    /// job, a value that differs for other results.
    #[serde(default, alias = "sha256")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// Size of the input in bytes.
    #[schemars(range(min = 0))]
    pub size_bytes: i64,
    /// Number of objects, or of keys of ConfigMaps, that were read.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub sources: i64,
    /// Number of objects and rows that were left out; the message of the condition `Planned` says which.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub skipped: i64,
}

/// Objects and rows that make no request, by kind. Part of the journal.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Objects whose name, or a folder of theirs, begins with `_` or `.`.
    #[serde(default)]
    pub hidden_objects: i64,
    /// Objects without content.
    #[serde(default)]
    pub empty_objects: i64,
    /// Rows of a table whose fields are all empty.
    #[serde(default)]
    pub empty_rows: i64,
}

impl LeftOut {
    /// Returns whether nothing was left out.
    pub fn is_none(&self) -> bool {
        *self == LeftOut::default()
    }

    /// All of them.
    pub fn count(&self) -> i64 {
        self.hidden_objects + self.empty_objects + self.empty_rows
    }
}

fn is_zero(count: &i64) -> bool {
    *count == 0
}

/// Requests by outcome.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct RequestCounts {
    /// Requests in the input.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// Requests that were answered.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub succeeded: i64,
    /// Those of them whose answer is of an earlier job, from `spec.reuseFrom`: they were neither sent nor paid.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub reused: i64,
    /// Requests that were executed, and refused or failed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub failed: i64,
    /// Requests that were not executed within the completion window.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub expired: i64,
    /// Requests that were not executed because their batch was cancelled.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cancelled: i64,
    /// Requests that were sent and came back in neither of the provider's files.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub missing: i64,
    /// Number of times that requests were sent again, or run twice, although they may have been billed before: they came back in
    /// no file, a person had a lost batch sent again, or a gateway made two batches of a submission. Most of them may have
    /// succeeded in the end. Requests that were refused, expired or cancelled before they ran do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub resent: i64,
}

/// Requests that failed for one reason.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ErrorSummary {
    /// Code that the provider gave, or `http_STATUS` where it gave none.
    #[schemars(length(max = 64))]
    pub code: String,
    /// Number of requests with this code.
    #[schemars(range(min = 0))]
    pub count: i64,
    /// Custom id of one request with this code; `errors.jsonl` has the words of the provider.
    #[serde(rename = "sampleCustomID", default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub sample_custom_id: String,
    /// Meaning of the code and its remedy, where they are known; never words of a model or of the provider.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}

/// One batch at the provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BatchStatus {
    /// Name of the batch: its shard and attempt, such as `00000-1`.
    #[schemars(length(max = 16))]
    pub name: String,
    /// State of the batch, such as `InProgress`.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Id of the batch at the provider. Unset until the provider is known to have it.
    #[serde(rename = "providerID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub provider_id: Option<String>,
    /// Number of requests in the batch.
    #[schemars(range(min = 0))]
    pub requests: i64,
    /// Number of requests that are done by the provider's count, while the batch runs.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub done: i64,
    /// Model that the requests ask for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub model: String,
}

/// A question that only a person can answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Id of the question, which an answer begins with.
    #[schemars(length(max = 64))]
    pub id: String,
    /// Question, with the events that led to it.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Annotation that takes the answer; unset: `llmbatch.dev/resolve`.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// Answers that can be given, as values of the annotation; at most 8.
    #[schemars(length(max = 8), inner(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub answers: Vec<String>,
}

/// Location of the result files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// URI of the answers, in the order of the requests: `s3://…`, or `configmap://NAMESPACE/NAME/KEY`.
    #[schemars(length(max = 2100))]
    pub uri: String,
    /// URI of the requests that have no answer, each with the reason. Unset where all were answered.
    #[serde(rename = "errorsURI", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2100))]
    pub errors_uri: Option<String>,
    /// URI of the manifest, with counts, hashes and file names. It is written last: where it is, the results are whole.
    #[serde(rename = "manifestURI")]
    #[schemars(length(max = 2100))]
    pub manifest_uri: String,
    /// Names of the ConfigMaps that hold the files above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub config_maps: Vec<String>,
}

/// For people only: programs read the fields that these are made of.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Display {
    /// Progress in requests, such as `8157/10000 (81%)`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub progress: String,
    /// Expected end, such as `Nov 22 16:40 UTC`; `unknown` if too little is known; empty while no batch is at the provider.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub eta: String,
    /// Cost so far and expected, such as `$3.12 of ~$7.40`, or in the end; empty without prices.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub cost: String,
    /// Savings against single calls in real time, such as `$7.38`; empty without prices.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub saved: String,
    /// Answers that may not be what was asked for, such as `12 truncated, 3 empty`; empty if there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub suspect: String,
}
