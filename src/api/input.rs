//! Where requests come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::storage::ObjectStoreLocation;
use super::{FreeForm, schema};

/// Source of the requests: exactly one of `inline`, `objectStore`, `configMaps`, `batchJobRef` and `results`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.objectStore), has(self.configMaps), has(self.batchJobRef), has(self.results)].filter(x, x).size() == 1")
        .message("set exactly one of `inline`, `objectStore`, `configMaps`, `batchJobRef` and `results`"),
    validation = Rule::new("!(has(self.batchJobRef) || has(self.results)) || (self.format == 'Auto' && self.compression == 'Auto' && !has(self.csv))")
        .message("results are read as they were written; take out `format`, `compression` and `csv`"),
    validation = Rule::new("!has(self.batchJobRef) || self.batchJobRef.select == 'Unsuccessful' || has(self.template)")
        .message("set `template` to make requests of the results, or `batchJobRef.select: Unsuccessful` to run requests again"),
    validation = Rule::new("!has(self.results) || self.results.select == 'Unsuccessful' || has(self.template)")
        .message("set `template` to make requests of the results, or `results.select: Unsuccessful` to run requests again"),
    validation = Rule::new("self.format == 'Auto' || has(self.template) == (self.format in ['Rows', 'CSV', 'Objects'])")
        .message("set `template` with the formats Rows, CSV and Objects, and with no other"),
    validation = Rule::new("self.format != 'Objects' || has(self.objectStore)")
        .message("the format Objects makes a request of each object, so it needs `objectStore`"),
    validation = Rule::new("self.format == 'Objects' || !(has(self.maxObjectBytes) || has(self.onTooLarge))")
        .message("set `maxObjectBytes` and `onTooLarge` with the format Objects only"),
    validation = Rule::new("!has(self.inline) || (self.format == 'Auto' && self.compression == 'Auto' && !has(self.template) && !has(self.csv))")
        .message("`inline` requests are whole as they are; take out `format`, `compression`, `csv` and `template`"),
    validation = Rule::new("!has(self.csv) || self.format in ['Auto', 'CSV']")
        .message("set `csv` with the formats CSV and Auto only"),
    validation = Rule::new("self.hiddenObjects == 'Skip' || has(self.objectStore)")
        .message("set `hiddenObjects` with `objectStore` only"),
    validation = Rule::new("self.emptyObjects == 'Skip' || self.format == 'Objects'")
        .message("set `emptyObjects` with the format Objects only"),
    validation = Rule::new("!has(self.waitFor) || has(self.objectStore)")
        .message("set `waitFor` with `objectStore` only")
)]
pub struct Input {
    /// Requests written in the manifest itself, for small jobs. `kubectl apply` keeps a copy of the manifest in an
    /// annotation, which holds 256 KiB (`metadata.annotations: Too long`): apply a larger one with `kubectl apply
    /// --server-side`, or create it with `kubectl create`; it may have up to 1.5 MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineInput>,
    /// Objects that hold the requests. A URI that ends in `/` means every object below it, one with `*` in its last segment
    /// every object of that folder whose name matches; both are read in the order of their keys, at most 100,000 objects.
    /// `hiddenObjects` and `emptyObjects` say which objects are left out; `status.input.skipped` counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreLocation>,
    /// ConfigMaps of this namespace that hold the requests, read in this order; at most 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub config_maps: Option<Vec<ConfigMapSource>>,
    /// Another BatchJob of this namespace, whose requests and their answers become rows for the template. The job waits until
    /// that one has ended and its results are written. It need not exist yet; once it is deleted, read its results with
    /// `results`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_job_ref: Option<BatchJobReference>,
    /// Results of a BatchJob in object storage, whether the BatchJob still exists or not, as rows for the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<ResultsInput>,
    /// Object that shows that the input is whole, such as the `_SUCCESS` of the day's folder. The job waits until it is there
    /// before it reads the requests. For `objectStore`. It may be changed while the job waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for: Option<WaitFor>,
    /// Format of the requests. OpenAIBatch: lines of OpenAI's batch files. Requests: lines with `custom_id` and `body`. Rows:
    /// lines with any JSON object. CSV: rows of a table. Objects: one request for each object. Rows, CSV and Objects need a
    /// `template`. Auto, the default: a name that ends in `.csv` or `.tsv` (or in one of them and `.gz` or `.zst`) is CSV;
    /// with a `template` everything else is Rows; without one, lines that have `method` or `url` are OpenAIBatch and others
    /// Requests. A line, or a row, has at most 32 MiB.
    #[serde(default)]
    pub format: InputFormat,
    /// Delimiter and encoding of tables, for the formats CSV and Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvOptions>,
    /// Compression of objects and keys. Auto, the default, tells it from their first bytes.
    #[serde(default)]
    pub compression: InputCompression,
    /// Meaning of an input without any request: a folder without objects, an object that does not exist, a file without lines, a
    /// table without rows. Fail, the default: the job fails, since most likely something is missing. Complete: the job is
    /// complete, with empty results; set `waitFor` as well where the input may be late.
    #[serde(default)]
    pub empty_policy: EmptyPolicy,
    /// Template of a request, filled in with each row or object: `$(row.COLUMN)` for Rows and CSV; `$(row.custom_id)`,
    /// `$(row.answer)`, `$(row.request)`, `$(row.response)` and `$(row.error)` for results; `$(object.key)`,
    /// `$(object.text)` and `$(object.base64)` for Objects. A variable that is a whole string is replaced by the value
    /// itself, such as a number; `$(row.stars:number)`, `:boolean` and `:json` convert the text of a table. `$(row['Any
    /// name'])` names any column, and `$$(` is a literal `$(`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<RequestTemplate>,
    /// Size in bytes, uncompressed, of the largest object that becomes a request; `onTooLarge` says what becomes of larger
    /// ones. Unset: 1048576. For the format Objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 6_291_456))]
    pub max_object_bytes: Option<i32>,
    /// Treatment of an object with more than `maxObjectBytes`. Fail: the job fails before anything is sent. Skip: it is left
    /// out. Truncate: its text is cut at the end of a character. Unset: Fail. For the format Objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_description)]
    pub on_too_large: Option<OnTooLarge>,
    /// Treatment of hidden objects, where the URI means many: those whose name, or whose folder's name, begins with `_` or
    /// `.`, as in `_posts/` and `__init__.py`. Skip, the default, leaves them out; Include reads them. Files of the operator
    /// (`_batchjob/`, `_SUCCESS`) are never read.
    #[serde(default)]
    pub hidden_objects: ObjectPolicy,
    /// Treatment of objects of 0 bytes, where the URI means many and the format is Objects. Skip, the default, leaves them
    /// out; Include makes a request of each.
    #[serde(default)]
    pub empty_objects: ObjectPolicy,
}

/// Another BatchJob of the same namespace, and the part of its results that is read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchJobReference {
    /// Name of the BatchJob.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Requests that are taken.
    pub select: ResultSelection,
}

/// Results in object storage, and the part of them that is read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.objectStore.uri.contains('*')")
        .message("results are read from one folder; name it without `*`")
)]
pub struct ResultsInput {
    /// Folder that a BatchJob wrote its results to, the one with `manifest.json`. Its files are read as the manifest lists
    /// them; a file that is no longer as it was written is an error.
    pub object_store: ObjectStoreLocation,
    /// Requests that are taken.
    pub select: ResultSelection,
}

/// Requests of a result set. Each is a row: `$(row.custom_id)`; `$(row.answer)`, the text of the answer (of embeddings the
/// vector, of moderations the results), null where there is none; `$(row.response)`, the body of the whole response;
/// `$(row.error)`; and `$(row.request)`, the body of the request. Of a request with an answer, the set has the request only if
/// its job had `spec.output.includeRequests: true`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResultSelection {
    /// Requests without an answer. Without a template they are run again as they were.
    #[default]
    Unsuccessful,
    /// Requests with an answer.
    Succeeded,
    /// All requests, in the order of the input; without `spec.output.includeRequests`, those with an answer come first.
    All,
}

/// An object that is waited for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WaitFor {
    /// URI of the object, `s3://BUCKET/KEY`. Its content does not matter. It is looked for at the server of `objectStore`, with
    /// the same Secret and region; the bucket may be another one.
    #[schemars(
        length(min = 8, max = 1024),
        regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([^*\n]*[^*/\n])$")
    )]
    pub uri: String,
    /// Seconds from the start of the job, or from its last resumption, within which the object has to appear; otherwise the job
    /// fails with the reason `InputDeadlineExceeded` and costs nothing. Unset: `activeDeadlineSeconds`, if set, is the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub timeout_seconds: Option<i64>,
}

/// Whether objects of a kind are part of the input.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectPolicy {
    /// They are left out; `status.input.skipped` counts them.
    #[default]
    Skip,
    /// They are read.
    Include,
}

/// Delimiter and encoding of a table.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// Character between two fields, such as `;` or `|`; `\t` is a tab. Auto, the default, takes the comma where it gives the
    /// header the columns that the template uses, else the one of `;`, tab and `|` that does, or the one that a first line
    /// `sep=;` names.
    #[serde(default = "auto")]
    #[schemars(
        length(min = 1, max = 4),
        regex(pattern = r"^(Auto|\\t|[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e])$")
    )]
    pub delimiter: String,
    /// Encoding of a file without a byte order mark, such as `Windows-1252`, `UTF-16` or `Shift_JIS`: a name of
    /// https://encoding.spec.whatwg.org/#names-and-labels. The default is UTF-8.
    #[serde(default = "utf8")]
    #[schemars(length(min = 2, max = 40), regex(pattern = r"^[A-Za-z0-9][-A-Za-z0-9_.:]*$"))]
    pub encoding: String,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions { delimiter: auto(), encoding: utf8() }
    }
}

fn auto() -> String {
    "Auto".into()
}

fn utf8() -> String {
    "UTF-8".into()
}

/// A ConfigMap of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapSource {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in `data` or `binaryData` of the ConfigMap; unset: all keys, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// How requests are written.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputFormat {
    /// As the name and the lines say.
    #[default]
    Auto,
    /// Lines of OpenAI's batch format: `{"custom_id": …, "method": "POST", "url": …, "body": {…}}`.
    OpenAIBatch,
    /// Lines of `{"custom_id": …, "body": {…}}`.
    Requests,
    /// Lines that are JSON objects; the template makes a request of each.
    Rows,
    /// Comma-separated values under a row of column names, or separated as `csv` says; the template makes a request of each
    /// row. Rows of empty fields are skipped, and counted in `status.input.skipped`.
    #[serde(rename = "CSV")]
    Csv,
    /// Objects as they are, such as documents or images; the template makes a request of each.
    Objects,
}

/// What becomes of an object that is too large.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTooLarge {
    /// The job fails before anything is sent, and names the object.
    #[default]
    Fail,
    /// It is left out; the condition `Planned` says how many were.
    Skip,
    /// Its text is cut, at the end of a character; the condition `Planned` says how many were.
    Truncate,
}

/// How an input is compressed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputCompression {
    /// As the first bytes say: gzip, zstd, or not at all.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// zstd, with a window of at most 32 MiB. Frames behind a first one of at most 8 MiB have no larger one than that, either.
    Zstd,
}

/// What an input without any request means.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyPolicy {
    /// The job fails: most likely something is missing.
    #[default]
    Fail,
    /// The job is complete, with empty results.
    Complete,
}

/// Makes a request of a row: `$(row.COLUMN)` stands for the row's value. As a whole string it is the value as it is (a
/// number, an object), within a longer string its text, digits as they are written. `$(row.a.b)` walks into objects,
/// `$(row['Price (EUR)'])` names a column of any name, and `$$(` is a literal `$(`. Values of a CSV are text:
/// `$(row.stars:number)`, `$(row.new:boolean)` and `$(row.tags:json)` convert them.
/// With the format Objects, of an object: `$(object.key)` is its key below the folder that the input's URI names (all of
/// that up to its last `/`), `$(object.text)` its content, which must be UTF-8, and `$(object.base64)` its bytes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.body) != has(self.bodyJSON)")
        .message("set exactly one of `body` and `bodyJSON`")
)]
pub struct RequestTemplate {
    /// Name of the request, such as `$(row.id)` or `$(object.key)`; unique in the job.
    #[serde(rename = "customID")]
    #[schemars(length(min = 1, max = 1024))]
    pub custom_id: String,
    /// Body of the request; variables stand in strings, however deep. The API server sorts its keys: write `bodyJSON` where
    /// their order counts, as in the schema of an answer or of a tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub body: Option<FreeForm>,
    /// Body of the request as JSON text, which is sent as it is written: the order of keys, digits and escapes are kept.
    /// Variables stand in its strings, as in `body`. Use it as soon as a schema or a tool is in it: models write the fields
    /// of an answer in the order of the schema. At most 1,048,576 characters.
    #[serde(rename = "bodyJSON", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1_048_576))]
    pub body_json: Option<String>,
}

/// Requests written in the manifest itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InlineInput {
    /// Requests of the job, at most 500, and 256 KiB with `kubectl apply` (see `inline`); larger inputs belong in object
    /// storage.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub requests: Vec<InlineRequest>,
}

/// A request and its name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.body) != has(self.bodyJSON)")
        .message("set exactly one of `body` and `bodyJSON`")
)]
pub struct InlineRequest {
    /// Name of the request, unique in the job; its result carries it.
    #[serde(rename = "customID")]
    #[schemars(length(min = 1, max = 512))]
    pub custom_id: String,
    /// Body of the request as the endpoint documents it, such as `messages` for chat completions. The API server sorts its
    /// keys: write `bodyJSON` where their order counts, as in the schema of an answer or of a tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub body: Option<FreeForm>,
    /// Body of the request as JSON text, which is sent as it is written: the order of keys, digits and escapes are kept. Use
    /// it as soon as a schema or a tool is in it: models write the fields of an answer in the order of the schema. At most
    /// 1,048,576 characters.
    #[serde(rename = "bodyJSON", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1_048_576))]
    pub body_json: Option<String>,
}
