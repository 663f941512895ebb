//! Where results go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use super::storage::ObjectStoreLocation;

/// Destination of the results: exactly one of `objectStore` and `configMap`, fixed when the job is created.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.objectStore) != has(self.configMap)")
        .message("set exactly one of `objectStore` and `configMap`"),
    validation = Rule::new("!self.partialResults || has(self.objectStore)")
        .message("set `partialResults` with `objectStore` only"),
    validation = rules::fixed_output()
)]
pub struct Output {
    /// Folder in object storage. A folder belongs to one work; nothing foreign in it is overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreLocation>,
    /// ConfigMap of this namespace, for small jobs. It is created for the job, holds the results under their file names, and
    /// stays when the job goes. Files that do not fit are compressed, and put into further ConfigMaps `NAME-1`, `NAME-2`, …
    /// beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapOutput>,
    /// Compression of the result files, whose names then end in `.gz` (Gzip) or `.zst` (Zstd). The default is None.
    #[serde(default)]
    pub compression: OutputCompression,
    /// Publication of answers while the job runs, in object storage only. The answers of each batch that has ended are written
    /// to `results.partial/00000.jsonl` and so on, as lines of `results.jsonl`, and `results.partial/index.json` names the files
    /// that are whole. Requests without an answer are left out, since they may be sent again. The folder is deleted once
    /// `manifest.json` is written. The default is false.
    #[serde(default)]
    pub partial_results: bool,
    /// Copy of all requests beside the results, written if true: `requests.jsonl` has each as it was sent, in the order of the
    /// input, under its own custom id. A job that takes the answers of this one (`spec.input.batchJobRef`,
    /// `spec.input.results`) then has `$(row.request)` for each of them. It is left out where ConfigMaps have room for the answers
    /// only. The default is false.
    #[serde(default)]
    pub include_requests: bool,
}

/// A ConfigMap of the same namespace that holds results.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapOutput {
    /// Name of the ConfigMap. One that exists and is not of this job is left alone, and the job fails with the reason
    /// `OutputConflict`.
    #[schemars(length(min = 1, max = 240), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// How result files are compressed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputCompression {
    /// Not at all.
    #[default]
    None,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

impl OutputCompression {
    /// The name of a file that is compressed so.
    pub fn named(self, name: &str) -> String {
        let extension = match self {
            OutputCompression::None => "",
            OutputCompression::Gzip => ".gz",
            OutputCompression::Zstd => ".zst",
        };
        format!("{name}{extension}")
    }
}
