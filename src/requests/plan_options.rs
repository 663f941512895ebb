//! The rules by which batches are made of requests.

use std::sync::Arc;

use super::merge::Defaults;
use super::object_requests::SizeLimit;
use super::objects::Selection;
use super::template::Template;
use super::variable::ValueSource;
use crate::api::{
    CsvOptions, EmptyPolicy, Endpoint, InputCompression, InputFormat, OnTooLarge, RequestTemplate, TextLimits,
    WorkHashVersion,
};
use crate::store::KeyedLines;

/// The rules by which batches are made of requests.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Name of the provider.
    pub provider: String,
    /// API that is called.
    pub endpoint: Endpoint,
    /// Model for requests that name none.
    pub model: Option<String>,
    /// Root of the provider's API. The URLs of requests may begin with it.
    pub base_url: String,
    /// The fixed text of a sent line: before the id of the request, between id and body, and after the body.
    pub line: [String; 3],
    /// Fields that are merged under each body.
    pub defaults: Defaults,
    /// Format of the requests.
    pub format: InputFormat,
    /// Compression of the input.
    pub compression: InputCompression,
    /// Format of tables.
    pub csv: CsvOptions,
    /// Selection of the objects below a URI.
    pub selection: Selection,
    /// Template of a request, for rows and objects.
    pub template: Option<RequestTemplate>,
    /// Size limit of an object that becomes a request.
    pub size_limit: SizeLimit,
    /// Meaning of an input without requests.
    pub empty_policy: EmptyPolicy,
    /// Run id of the spec, part of the work's identity.
    pub run_id: Option<String>,
    /// Most requests in one batch.
    pub max_requests: i64,
    /// Most bytes in one batch.
    pub max_bytes: u64,
    /// Most inputs of embeddings in one batch, over all its requests.
    pub max_inputs: u64,
    /// Most bytes of text in one batch.
    pub max_text: TextLimits,
    /// Most bytes of local disk for batches that are not full yet, compressed.
    pub open_disk: u64,
    /// Most batches in all.
    pub max_batches: usize,
    /// Models that requests may name. Empty: any model.
    pub allowed_models: Vec<String>,
    /// Version of the hashes of requests and work.
    pub hash_version: WorkHashVersion,
    /// Requests that are to be sent alone, before all others: a batch holds either such requests or others.
    pub canary: Option<i64>,
    /// Answers of earlier jobs, by the hash of their request in that version. Requests that have one are not to be sent.
    pub answers: Option<Arc<KeyedLines>>,
}

impl PlanOptions {
    /// Reads and checks the template.
    pub(super) fn template(&self) -> Result<Option<Template>, String> {
        let of = if self.format == InputFormat::Objects { ValueSource::Objects } else { ValueSource::Rows };
        let template = self.template.as_ref().map(|t| Template::parse(t, of)).transpose()?;
        let cuts = of == ValueSource::Objects && self.size_limit.then == OnTooLarge::Truncate;
        match template.as_ref().is_some_and(|t| cuts && t.uses("base64")) {
            true => {
                Err("`spec.input.onTooLarge: Truncate` cuts text, and `$(object.base64)` is none; set Fail or Skip, \
                         or use `$(object.text)`"
                    .into())
            }
            false => Ok(template),
        }
    }

    /// Returns the most inputs of a batch, if the endpoint has inputs.
    pub(super) fn max_inputs_of_embeddings(&self) -> Option<u64> {
        (self.endpoint == Endpoint::Embeddings).then_some(self.max_inputs)
    }
}
