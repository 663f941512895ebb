//! The manifest of a result set. It is written last, by a conditional put, so its presence means that the set is
//! complete.

use serde::{Deserialize, Serialize};

use crate::api::{ErrorSummary, Outcome, RequestCounts, Spending};

/// The content of `manifest.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this document's format.
    pub manifest_version: u32,
    /// Id of the work.
    #[serde(rename = "workID")]
    pub work_id: String,
    /// Hash of the work. A job with the same hash adopts this outcome.
    pub work_hash: String,
    /// How the work ended.
    pub outcome: Outcome,
    /// Reason in CamelCase.
    pub reason: String,
    /// Message for a person.
    pub message: String,
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// What the work used and cost: `usage`, `answers` and `cost`, as in the status of a BatchJob.
    #[serde(flatten)]
    pub spending: Spending,
    /// Requests without an answer by error code, the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorSummary>,
    /// The files of the result set.
    pub files: Vec<ManifestFile>,
    /// The provider's ids of the batches that were paid, as many as fit into 2 MiB.
    pub batches: Vec<String>,
    /// Most requests that were billed twice, because a gateway made more than one batch of a submission.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_twice: i64,
    /// Rows that the provider delivered for a request that an earlier row of the same batch answers. The first row of each request
    /// counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated_rows: i64,
    /// Batches that had not ended when the job's time was over. They may still run and cost money.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned_batches: Vec<AbandonedBatch>,
    /// Time at which the end was decided, in Unix milliseconds.
    pub completed_at: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A batch that was still open when its job ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedBatch {
    /// Name of the batch, as in `status.batches`.
    pub name: String,
    /// The provider's id of the batch; absent if it is unknown whether there is one.
    #[serde(rename = "batchID", default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Number of its requests, which is how many may still be billed.
    pub requests: i64,
}

/// One file of the result set.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Name of the file, next to the manifest.
    pub name: String,
    /// Number of lines.
    pub lines: i64,
    /// Size in bytes, uncompressed.
    pub bytes: u64,
    /// SHA-256 of the uncompressed bytes.
    pub sha256: String,
    /// ConfigMap that holds the file, if the destination is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<String>,
}
