//! OpenAI's files and batches API, as OpenAI and compatible servers speak it. Nobody else has its words: `tests/architecture/`.
//!
//! Paths, limits and states: https://platform.openai.com/docs/api-reference/batch and OpenAI's published OpenAPI document.

mod calls;
mod line;
mod list;
mod refusal;
mod wire;
mod words;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, Url};
use secrecy::SecretString;
use serde_json::Value;

use super::answers::{AnswerMemory, beginning};
use super::dialect::{Credential, Dialect};
use super::retry::repeat;
use super::{ApiError, Batch, BatchApi, CreateBatch, Created, ErrorKind, InputFile, Limits, OnPage, Pace};
use crate::api::text::clip;
use crate::api::{Capabilities, Endpoint, OPENAI_BASE_URL, PayloadKind, Recovery, Revocation, json};
use crate::transport::{self, Patience, Redirect, SendError, Transport, stream_patiently};

pub(super) use line::{line, smallest_body};

pub(super) use calls::send_error;
use calls::{CALL_LIMIT, call, read_body, unreadable};
use refusal::{about_a_create, lost, refused};

/// Time limit of a call with small bodies, without a wait for memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of reading all pages of a list, without waits for memory, which may take as long.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
/// Lifetime of an input file that is not deleted: 30 days, in seconds.
const FILE_LIFETIME: u32 = 2_592_000;
/// Maximum length of a file's name that is kept, in bytes. Those of our files have some 100.
const FILE_NAME_LIMIT: usize = 1 << 10;
/// Maximum number of an account's models that are read.
const MOST_MODELS: usize = 100;

/// The dialect of OpenAI itself.
pub(super) const OPENAI: Dialect = Dialect {
    credential: Credential::Bearer,
    root: |base| base,
    is_vendors_own: |url| Url::parse(OPENAI_BASE_URL).is_ok_and(|own| *url == own),
    line: |endpoint| Some(line(endpoint.path())),
    endpoint: Endpoint::path,
    codes: &[],
    processes_files: false,
    // https://platform.openai.com/docs/api-reference/batch/create. `24h` is the only window that it accepts.
    limits: Limits { requests: 50_000, bytes: 200_000_000, inputs: 50_000, window_seconds: 86_400 },
    // https://platform.openai.com/docs/guides/batch: "50% cost discount compared to synchronous APIs".
    batch_discount_percent: 50,
    capabilities: Capabilities {
        payload: PayloadKind::File,
        recovery: Recovery::Metadata,
        revocation: Revocation::DeletedPayload,
    },
};

/// The dialect of other servers with OpenAI's API. There may be a gateway in front of them.
pub(super) const COMPATIBLE: Dialect = Dialect { is_vendors_own: |_| false, batch_discount_percent: 0, ..OPENAI };

/// A client for one account at a vendor with OpenAI's API, or with one whose differences a [`Dialect`] describes.
#[derive(Clone, Debug)]
pub struct OpenAi {
    dialect: &'static Dialect,
    transport: Transport,
    base: Url,
    key: Option<SecretString>,
    vendors_own: bool,
    files: Patience,
    pace: Arc<Pace>,
    answers: AnswerMemory,
}

impl OpenAi {
    /// Creates a client for the API at `base_url`. If the host is the vendor's own (`vendors_own`), no gateway is in front of
    /// it, and a refusal proves that no batch was made.
    ///
    /// # Errors
    /// If the URL cannot be parsed.
    pub fn new(
        transport: Transport,
        base_url: &str,
        key: Option<SecretString>,
        vendors_own: bool,
    ) -> Result<Self, ApiError> {
        let base = Url::parse(base_url)
            .map_err(|e| ApiError::new(ErrorKind::InvalidInput, format!("`spec.baseURL` '{base_url}': {e}")))?;
        let (dialect, files, pace, answers) = (&OPENAI, Patience::FILES, Arc::default(), AnswerMemory::default());
        Ok(OpenAi { dialect, transport, base, key, vendors_own, files, pace, answers })
    }

    /// Returns the client with another dialect than OpenAI's.
    pub fn speaking(self, dialect: &'static Dialect) -> Self {
        OpenAi { dialect, ..self }
    }

    /// Returns the client with another patience for the transfer of files.
    pub fn with_patience(self, files: Patience) -> Self {
        OpenAi { files, ..self }
    }

    /// Returns the client with the pace of an account, which all clients of the account share.
    pub fn at_pace(self, pace: Arc<Pace>) -> Self {
        OpenAi { pace, ..self }
    }

    /// Returns the client with the memory for the account's answers.
    pub fn reading_in(self, answers: AnswerMemory) -> Self {
        OpenAi { answers, ..self }
    }
}

#[async_trait]
impl BatchApi for OpenAi {
    fn dialect(&self) -> &'static Dialect {
        self.dialect
    }

    async fn send_file(&self, file: InputFile) -> Result<String, ApiError> {
        let body = reqwest::Body::wrap_stream(file.content);
        let part = reqwest::multipart::Part::stream_with_length(body, file.bytes)
            .file_name(file.name)
            .mime_str("application/jsonl")
            .map_err(|e| ApiError::new(ErrorKind::InvalidInput, e.to_string()))?;
        let form = reqwest::multipart::Form::new()
            .text("purpose", "batch")
            .text("expires_after[anchor]", "created_at")
            .text("expires_after[seconds]", FILE_LIFETIME.to_string())
            .part("file", part);
        let request = self.request(Method::POST, &["files"]).multipart(form);
        let response = self.send_patiently(request, self.files).await?;
        let name = |value: &Value| wire::file(value).ok_or_else(|| wire::unusable(value, "id"));
        let name = read_body(&self.answers, response).await?.json(name).ok_or_else(unreadable)?;
        name.map_err(|why| match why {
            Some(why) => ApiError::new(ErrorKind::Transient, format!("the server names the uploaded file, and {why}")),
            None => unreadable(),
        })
    }

    async fn is_processed(&self, file_id: &str) -> Result<bool, ApiError> {
        if !self.dialect.processes_files {
            return Ok(true);
        }
        let words =
            |file: &Value| ["status", "status_details"].map(|key| wire::text(file, key).map(|said| clip(said, 480)));
        let [status, why] = repeat(|| self.json(self.request(Method::GET, &["files", file_id]), words)).await?;
        match status.unwrap_or_default().to_ascii_lowercase().as_str() {
            "error" | "failed" => {
                let why = why.unwrap_or_else(|| "it gives no reason".into());
                let message = format!("the provider cannot process the uploaded file: {why}");
                Err(ApiError { status: Some(422), ..ApiError::new(ErrorKind::InvalidInput, message) })
            }
            "pending" | "running" | "uploading" | "processing" => Ok(false),
            _ => Ok(true),
        }
    }

    async fn create(&self, batch: &CreateBatch) -> Created {
        let body = serde_json::json!({
            "input_file_id": batch.input_file_id,
            "endpoint": (self.dialect.endpoint)(batch.endpoint),
            "completion_window": format!("{}h", batch.window_hours),
            "metadata": batch.metadata.iter().map(|(k, v)| (k.to_string(), Value::from(v.as_str()))).collect::<serde_json::Map<_, _>>(),
        });
        let request = self
            .request(Method::POST, &["batches"])
            .header("idempotency-key", &batch.intent_id)
            .header("x-client-request-id", &batch.intent_id)
            .json(&body)
            .timeout(batch.timeout)
            .build();
        let request = match request {
            Ok(request) => request,
            Err(e) => return Created::Rejected(ApiError::new(ErrorKind::InvalidInput, e.to_string())),
        };
        let asked = request.url().clone();
        let call = call(&request);
        let response = match self.transport.send(request).await {
            Ok(response) => response,
            Err(e @ (SendError::NotSent(_) | SendError::NotAllowed(_))) => {
                return Created::Rejected(send_error(&call, e));
            }
            Err(e) => return Created::Unknown(send_error(&call, e)),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        self.pace.saw(status, transport::retry_after(&headers));
        if let Some(redirect) = Redirect::of(&asked, status, &headers) {
            let error = self.redirected(&asked, status, &redirect);
            return Created::Unknown(ApiError { status: Some(status.as_u16()), ..error });
        }
        if status.is_success() {
            let batch = |value: &Value| match wire::batch(self.dialect, value) {
                Some(batch) => Ok(batch.id),
                None => Err(wire::unusable(value, "id").map(|why| format!("; {why}")).unwrap_or_default()),
            };
            return match self
                .answers
                .read(response)
                .await
                .map(|answer| answer.json(batch).unwrap_or(Err(String::new())))
            {
                Ok(Ok(id)) => Created::Accepted(id),
                Ok(Err(why)) => Created::Unknown(lost(format!("the server answered {status} without a batch{why}"))),
                Err(e) => Created::Unknown(lost(e.to_string())),
            };
        }
        match beginning(response).await {
            Ok(body) => {
                let body = self.without_key(body);
                let error = wire::api_error(self.dialect, status, &headers, &body, &call);
                let error = about_a_create(error, &body, &batch.input_file_id);
                refused(self.vendors_own, status, &body, error)
            }
            Err(e) => Created::Unknown(lost(e.to_string())),
        }
    }

    async fn list(&self, since: i64, see: &mut OnPage<'_>) -> Result<(), ApiError> {
        // One list serves all who call the account.
        let memory = self.answers.for_all_callers();
        let listed = memory.in_time(LIST_TIMEOUT, self.list_all(&memory, since, see)).await;
        listed.unwrap_or_else(|late| Err(list::too_long(LIST_TIMEOUT, late.waited)))
    }

    async fn get(&self, batch_id: &str) -> Result<Batch, ApiError> {
        let batch = |value: &Value| wire::batch(self.dialect, value);
        let batch = repeat(|| self.json(self.request(Method::GET, &["batches", batch_id]), batch)).await?;
        // A cache between us and the server can mix up replies. Another batch's state must never be taken for this one's.
        batch.filter(|batch| batch.id == batch_id).ok_or_else(unreadable)
    }

    async fn cancel(&self, batch_id: &str) -> Result<(), ApiError> {
        let call = || self.send(self.request(Method::POST, &["batches", batch_id, "cancel"]).timeout(CALL_TIMEOUT));
        match repeat(call).await {
            Ok(_) => Ok(()),
            // The batch is ending or has ended: OpenAI and llm-d reply with 400, AIBrix with 409.
            Err(e) if matches!(e.kind, ErrorKind::InvalidInput | ErrorKind::NotFound) => Ok(()),
            Err(e) if e.status == Some(409) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn file_name(&self, file_id: &str) -> Result<String, ApiError> {
        let name = |value: &Value| clip(wire::text(value, "filename").unwrap_or_default(), FILE_NAME_LIMIT);
        repeat(|| self.json(self.request(Method::GET, &["files", file_id]), name)).await
    }

    async fn models(&self) -> Result<Vec<String>, ApiError> {
        let name = |entry: &Value| wire::id(entry, "id").or_else(|| Some(clip(entry.as_str()?.into(), wire::ID_LIMIT)));
        let names = |value: &Value| {
            let list = value.get("data").unwrap_or(value).as_array()?;
            Some(list.iter().filter_map(name).take(MOST_MODELS).collect())
        };
        repeat(|| self.json(self.request(Method::GET, &["models"]), names)).await?.ok_or_else(unreadable)
    }

    async fn content(
        &self,
        file_id: &str,
        limit: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let ask = || self.request(Method::GET, &["files", file_id, "content"]);
        let response = repeat(|| self.send_patiently(ask(), self.files)).await?;
        let call = clip(format!("GET {}", response.url()), CALL_LIMIT);
        Ok(stream_patiently(response, limit, self.files).map_err(move |e| send_error(&call, e)).boxed())
    }

    async fn delete_file(&self, file_id: &str) -> Result<(), ApiError> {
        let call = || self.send(self.request(Method::DELETE, &["files", file_id]).timeout(CALL_TIMEOUT));
        match repeat(call).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl Batch {
    /// Returns the batch of a reply of OpenAI's API, which may be wrapped in another object; None if it has none, or is an
    /// error.
    pub fn read(body: &[u8]) -> Option<Batch> {
        json::with(body, |value| wire::batch(&OPENAI, value))?
    }
}
