//! `BatchJob.status`: what became of a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProviderType, schema};

/// Observed state of the job, derived from its journal. It tells people and tools, and grants nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BatchJobStatus {
    /// The job's state, one condition an aspect; `Complete` is the one to wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The metadata.generation that this status was judged on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// The last value of the annotation `llmbatch.dev/reconcile-requested-at` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_handled_reconcile_at: Option<String>,
    /// After a failure that cost nothing, a hash of the versions of the provider, Secrets, ConfigMaps and the single object
    /// that the job refers to: the job is judged again when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_references: Option<String>,
    /// Outcome of the job, in one word; unset until the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_description)]
    pub outcome: Option<Outcome>,
    /// Version of the protocol that wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub protocol_version: Option<i32>,
    /// While set, the fields that shape requests may not be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// The work that this job does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// The account that batches of this job run in. While it is set and the job is not finished, the provider object stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<PinnedProvider>,
    /// When the operator first saw the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the first batch was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission_time: Option<Time>,
    /// When the job ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Input of the job as it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputStatus>,
    /// Requests by outcome; at the end `total` is the sum of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// Why requests have no answer so far, most frequent first; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub error_summary: Vec<ErrorSummary>,
    /// Batches at the provider: those not settled and the last 32 that are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 132))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub batches: Vec<BatchStatus>,
    /// Questions that only a person can answer, at most 8 of those that are open; each names the annotation to copy. One
    /// annotation `llmbatch.dev/resolve` may hold several answers, apart by commas, and `lost-*=resend` answers all open questions
    /// whose id begins with `lost-`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub holds: Vec<Hold>,
    /// Location of the result files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
    /// For people only.
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
    /// SHA-256 of the fields that shape requests.
    #[schemars(length(max = 64))]
    pub spec_hash: String,
    /// The destination, variables replaced.
    #[serde(rename = "outputURI")]
    #[schemars(length(max = 2048))]
    pub output_uri: String,
}

/// The work that a job does: the same for the same input, request-shaping spec and runID.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// Names the work's files in storage and its requests at the provider.
    #[schemars(length(max = 32))]
    pub id: String,
    /// Identity of the work; known once the input was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub hash: Option<String>,
    /// The document that holds the truth about the work.
    #[serde(rename = "journalURI")]
    #[schemars(length(max = 2100))]
    pub journal_uri: String,
}

/// A provider object as it was when the job came to depend on it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct PinnedProvider {
    /// Its metadata.uid.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Its dialect.
    #[serde(rename = "type")]
    pub type_: ProviderType,
    /// Root of the API.
    #[serde(rename = "baseURL")]
    #[schemars(length(max = 1024))]
    pub base_url: String,
}

/// Input of the job as it was read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct InputStatus {
    /// What changes when the input does: the ETag of its one object, or a BLAKE3 hash of the names and versions of its objects; of
    /// requests in ConfigMaps or inline, a BLAKE3 hash of their bytes.
    #[serde(default, alias = "sha256")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// The input's size in bytes.
    #[schemars(range(min = 0))]
    pub size_bytes: i64,
    /// Objects, or keys of ConfigMaps, that were read.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub sources: i64,
    /// Objects and rows of tables that were left out; the message of `Planned` says which.
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
    /// Whether nothing was left out.
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
    /// Answered.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub succeeded: i64,
    /// Executed and refused or failed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub failed: i64,
    /// Not executed within the completion window.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub expired: i64,
    /// Not executed because the batch was cancelled.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cancelled: i64,
    /// Sent, and in neither of the provider's files.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub missing: i64,
}

/// Requests that failed for one reason.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ErrorSummary {
    /// The provider's code, or `http_STATUS` where it gave none.
    #[schemars(length(max = 64))]
    pub code: String,
    /// Requests.
    #[schemars(range(min = 0))]
    pub count: i64,
    /// One of them; `errors.jsonl` has what the provider said.
    #[serde(rename = "sampleCustomID", default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub sample_custom_id: String,
    /// Meaning of the code and its remedy, where they are known. Never what a model or the provider said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}

/// One batch at the provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BatchStatus {
    /// Shard and attempt, such as `00000-1`.
    #[schemars(length(max = 16))]
    pub name: String,
    /// State of the batch.
    #[schemars(length(max = 32))]
    pub state: String,
    /// The provider's name for the batch.
    #[serde(rename = "providerID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub provider_id: Option<String>,
    /// Requests in it.
    #[schemars(range(min = 0))]
    pub requests: i64,
    /// The model that they ask for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub model: String,
}

/// A question that only a person can answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Names the question.
    #[schemars(length(max = 64))]
    pub id: String,
    /// The question, with what led to it.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Answers that can be given, as values of the annotation `llmbatch.dev/resolve`.
    #[schemars(length(max = 8), inner(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub answers: Vec<String>,
}

/// Location of the result files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Answers, in the order of the requests: `s3://…`, or `configmap://NAMESPACE/NAME/KEY`.
    #[schemars(length(max = 2100))]
    pub uri: String,
    /// Requests that have no answer, with the reason.
    #[serde(rename = "errorsURI", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2100))]
    pub errors_uri: Option<String>,
    /// Counts, hashes and file names; written last.
    #[serde(rename = "manifestURI")]
    #[schemars(length(max = 2100))]
    pub manifest_uri: String,
    /// ConfigMaps that hold the files above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub config_maps: Vec<String>,
}

/// For people only: programs read the fields that these are made of.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Display {
    /// Such as `8157/10000 (81%)`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub progress: String,
}
