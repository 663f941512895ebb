//! Places in object storage, and the Secrets and authorities that open them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// A place in object storage and the Secret that opens it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreLocation {
    /// URI of an object or a folder, `s3://BUCKET/KEY`. An input may mean many objects (`s3://BUCKET/FOLDER/`,
    /// `s3://BUCKET/FOLDER/*.csv`). In an output, `$(namespace)`, `$(name)` and `$(runID)` are replaced.
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$"))]
    pub uri: String,
    /// Address of an S3-compatible server, such as `https://minio.example.com` or `https://gateway.example.com/s3`, without
    /// the bucket; unset: Amazon's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^https?://[^/?#@\s]+(/[^?#@\s]*)?$"))]
    pub endpoint: Option<String>,
    /// Place of the bucket in URLs. Path: `https://HOST/BUCKET/KEY`. VirtualHosted: `https://BUCKET.HOST/KEY`. Auto: Path,
    /// but for vendors that take VirtualHosted only. Unset: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_description)]
    pub addressing_style: Option<AddressingStyle>,
    /// Region of the bucket; unset: the one that the store names, else `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: Option<String>,
    /// Certificate authorities of the server; unset: those that the image of the operator trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Secret of this namespace with `aws_access_key_id`, `aws_secret_access_key` and, where needed, `aws_session_token`.
    pub secret_ref: SecretReference,
}

/// Certificate authorities of a server.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// ConfigMap or Secret with the certificates of the authorities, in PEM form. No other authority is trusted for this
    /// server.
    pub ca_bundle_ref: CaBundleReference,
}

/// One key of a ConfigMap or Secret with certificates in PEM form. It is in the namespace of the object that names it; of a
/// ClusterBatchProvider, in the operator's.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct CaBundleReference {
    /// Kind of the object that holds the certificates. The default is ConfigMap.
    #[serde(default)]
    pub kind: CaBundleKind,
    /// Name of the ConfigMap or Secret, in the namespace of the object that names it; of a ClusterBatchProvider, in that of
    /// the operator.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in the data of the ConfigMap or Secret. The default is `ca.crt`.
    #[serde(default = "ca_crt")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn ca_crt() -> String {
    "ca.crt".into()
}

/// Kind of an object that holds certificates.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaBundleKind {
    /// A ConfigMap, in its `data`.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// Part of the URL that names the bucket: `Path` is `https://HOST/BUCKET/KEY`, `VirtualHosted` is `https://BUCKET.HOST/KEY`. Auto:
/// Path, but for vendors that take VirtualHosted only.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressingStyle {
    /// In the path; in the host where the `endpoint` is of a vendor that takes nothing else (Alibaba Cloud, Tencent Cloud,
    /// Volcano Engine).
    #[default]
    Auto,
    /// In the path: `https://HOST/BUCKET/KEY`.
    Path,
    /// In the host: `https://BUCKET.HOST/KEY`. Takes an `endpoint` with a name for its host. Where an admin lets in private
    /// hosts, `--allow-private-hosts` has to name `*.HOST`.
    VirtualHosted,
}

/// A Secret of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in the data of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}
