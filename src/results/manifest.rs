//! The manifest: written last, by conditional put; whoever sees it sees a whole result set.

use serde::{Deserialize, Serialize};

use crate::api::{ErrorSummary, Outcome, RequestCounts};

/// `manifest.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this document.
    pub manifest_version: u32,
    /// The work.
    #[serde(rename = "workID")]
    pub work_id: String,
    /// Identity of the work: a job with the same one adopts this outcome.
    pub work_hash: String,
    /// How it ended.
    pub outcome: Outcome,
    /// CamelCase reason.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// Why requests have no answer, most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorSummary>,
    /// The result set.
    pub files: Vec<ManifestFile>,
    /// The provider's names of the batches that were paid, as far as 2 MiB hold them.
    pub batches: Vec<String>,
    /// Requests that were billed twice at most, where a gateway made more than one batch of a submission.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_twice: i64,
    /// Batches that did not end when the job's time was over: they may still run and cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned_batches: Vec<AbandonedBatch>,
    /// When the end was decided, Unix milliseconds.
    pub completed_at: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A batch that a job ended without.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedBatch {
    /// As in `status.batches`.
    pub name: String,
    /// The provider's name for it; absent where nobody knows whether there is one.
    #[serde(rename = "batchID", default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Requests in it: so many may still be billed.
    pub requests: i64,
}

/// One file of the result set.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Name beside the manifest.
    pub name: String,
    /// Lines in it.
    pub lines: i64,
    /// Size in bytes, uncompressed.
    pub bytes: u64,
    /// SHA-256 of the uncompressed bytes.
    pub sha256: String,
    /// The ConfigMap that holds it, where the destination is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<String>,
}
