//! Where requests come from and where results go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schema;

/// Where the requests come from: exactly one source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.objectStore)].filter(x, x).size() == 1")
        .message("set exactly one of `inline` and `objectStore`")
)]
pub struct Input {
    /// Requests written in the manifest itself, for small jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineInput>,
    /// One object that holds the requests, a line each, in OpenAI's batch format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreLocation>,
}

/// Requests written in the manifest itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InlineInput {
    /// The requests, at most 500; larger inputs belong in object storage.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub requests: Vec<InlineRequest>,
}

/// One request.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct InlineRequest {
    /// Your name for the request, unique in the job; the result carries it.
    #[serde(rename = "customID")]
    #[schemars(length(min = 1, max = 512))]
    pub custom_id: String,
    /// The request's body as the endpoint documents it, such as `messages` for chat completions.
    #[schemars(schema_with = "schema::free_form")]
    pub body: Map<String, Value>,
}

/// Where the results go: exactly one destination, fixed when the job is created.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// A folder in object storage. One folder belongs to one work; nothing foreign in it is overwritten.
    pub object_store: ObjectStoreLocation,
}

/// A place in object storage and the Secret that opens it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreLocation {
    /// `s3://BUCKET/KEY`. In an output, `$(namespace)`, `$(name)` and `$(runID)` are replaced.
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$"))]
    pub uri: String,
    /// Address of an S3-compatible server, such as `https://minio.example.com`; unset: Amazon's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// The bucket's region; unset: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: Option<String>,
    /// Secret of this namespace with `aws_access_key_id`, `aws_secret_access_key` and, where needed, `aws_session_token`.
    pub secret_ref: SecretReference,
}

/// A Secret of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
