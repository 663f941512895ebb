//! Batch APIs of providers: one small trait, a file for each dialect, and errors by kind.

mod answers;
mod azure;
mod dialect;
#[cfg(test)]
pub(crate) mod fake;
mod limits;
mod openai;
mod pace;
mod probe;
mod retry;

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::api::{BatchEnd, Endpoint, TokenUsage};
use crate::transport::SendError;

pub use answers::{ANSWERS, AnswerMemory};
pub use dialect::{Credential, Dialect};
pub use limits::Limits;
pub use openai::OpenAi;
pub use pace::Pace;
pub use probe::{Probe, Trial, is_about_content, look, probe};

/// Longest wait for the processing of an uploaded file.
const PROCESSING_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest pause between two looks at a file that is being processed.
const PROCESSING_PAUSE: Duration = Duration::from_secs(15);

/// Waits until an uploaded file was processed, as `look` tells. If that takes too long, the request for a batch will report it.
///
/// # Errors
/// If a look fails.
pub async fn processed<F: Future<Output = Result<bool, ApiError>>>(look: impl Fn() -> F) -> Result<(), ApiError> {
    let (began, mut pause) = (tokio::time::Instant::now(), Duration::from_millis(250));
    while !look().await? && began.elapsed() < PROCESSING_TIMEOUT {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PROCESSING_PAUSE);
    }
    Ok(())
}

/// The reader of a list's pages. It gets each page, and breaks the reading off when it has seen enough.
pub type OnPage<'a> = dyn for<'p> FnMut(&'p [Batch]) -> ControlFlow<()> + Send + 'a;

/// A provider's batch API.
///
/// Implementations repeat reads and deletions that fail temporarily, with jitter and within bounds. They do not repeat uploads,
/// because only the caller can start the stream again, and never repeat [`BatchApi::create`].
#[async_trait]
pub trait BatchApi: Send + Sync {
    /// Returns the vendor's dialect.
    fn dialect(&self) -> &'static Dialect;

    /// Uploads an input file, which costs nothing, and waits until it is processed. Returns the provider's name for it.
    async fn upload(&self, file: InputFile) -> Result<String, ApiError> {
        let id = self.send_file(file).await?;
        processed(|| self.is_processed(&id)).await?;
        Ok(id)
    }

    /// Uploads an input file, which costs nothing. Returns the provider's name for it. Before a batch is requested, the file has to be
    /// processed; see [`processed`].
    async fn send_file(&self, file: InputFile) -> Result<String, ApiError>;

    /// Returns whether an uploaded file was processed, by one look. Most providers process none.
    ///
    /// # Errors
    /// If the provider cannot process the file, or does not tell.
    async fn is_processed(&self, _file_id: &str) -> Result<bool, ApiError> {
        Ok(true)
    }

    /// Requests a batch, once. Only the holder of a `PostPermit` may call this.
    async fn create(&self, request: &CreateBatch) -> Created;

    /// Reads the list of batches page by page, and passes each page to `see`. If the list shows the newest batches first, the
    /// reading ends at a page of batches that are all more than a day older than `since` (Unix seconds).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the list may hide a batch, for example because it repeats a page. The batches that it
    /// showed exist; the absence of others proves nothing.
    async fn list(&self, since: i64, see: &mut OnPage<'_>) -> Result<(), ApiError>;

    /// Returns the batches in the list for which `wanted` is true, oldest first; see [`BatchApi::list`].
    async fn find(
        &self,
        since: i64,
        wanted: &(dyn for<'a> Fn(&'a Batch) -> bool + Sync),
    ) -> Result<Vec<Batch>, ApiError> {
        let mut found: Vec<Batch> = vec![];
        let mut see = |page: &[Batch]| {
            found.extend(page.iter().filter(|batch| wanted(batch)).cloned());
            ControlFlow::Continue(())
        };
        self.list(since, &mut see).await?;
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        // A list that grows while it is read can show a batch twice.
        found.dedup_by(|a, b| a.id == b.id);
        Ok(found)
    }

    /// Returns the batch with this id.
    async fn get(&self, batch_id: &str) -> Result<Batch, ApiError>;

    /// Requests the cancellation of a batch. It is no error if the batch is ending or has ended.
    async fn cancel(&self, batch_id: &str) -> Result<(), ApiError>;

    /// Returns the name under which a file was uploaded.
    async fn file_name(&self, file_id: &str) -> Result<String, ApiError>;

    /// Returns the names of the account's models, as far as the server tells.
    async fn models(&self) -> Result<Vec<String>, ApiError>;

    /// Streams the content of a file, at most `limit` bytes. The lines of answers have OpenAI's format, as results do; a client
    /// of a vendor with another format converts them as they come.
    async fn content(&self, file_id: &str, limit: u64)
    -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>;

    /// Deletes a file. It is no error if the file is gone.
    async fn delete_file(&self, file_id: &str) -> Result<(), ApiError>;
}

/// A file of requests that is uploaded.
pub struct InputFile {
    /// Name of the file, which tells whose it is. It is the same for each upload of an attempt.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Content of the file. An error in the stream ends the upload.
    pub content: BoxStream<'static, std::io::Result<Bytes>>,
}

/// The request for a batch.
#[derive(Clone, Debug)]
pub struct CreateBatch {
    /// The uploaded file of requests.
    pub input_file_id: String,
    /// The API that answers the requests.
    pub endpoint: Endpoint,
    /// Time that the provider may take for the batch, in hours.
    pub window_hours: u32,
    /// Metadata that identify the work: at most 16 pairs, with keys of up to 64 and values of up to 512 characters (OpenAI's
    /// limits).
    pub metadata: Vec<(&'static str, String)>,
    /// Id of the attempt's intent. It is also sent as `Idempotency-Key`, for servers that know that header.
    pub intent_id: String,
    /// Time limit from the first byte that is sent to the last byte of the reply.
    pub timeout: Duration,
}

/// The outcome of the request for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The batch exists; the provider's name for it.
    Accepted(String),
    /// No batch exists: nothing was sent, or the vendor itself refused.
    Rejected(ApiError),
    /// A batch may exist. The error tells what was seen; it has a status code if the server answered with an error.
    Unknown(ApiError),
}

/// A batch, by the provider's record of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The provider's name for the batch.
    pub id: String,
    /// Whether it runs, and how it ended.
    pub state: State,
    /// The provider's word for its state, in lower case.
    pub status: String,
    /// Time of creation (Unix seconds); 0 if the provider does not tell.
    pub created_at: i64,
    /// Time of completion (Unix seconds); 0 if the batch did not complete, or if the provider does not tell.
    pub completed_at: i64,
    /// Time at which the batch expires (Unix seconds); 0 if the provider does not tell.
    pub expires_at: i64,
    /// Whether all requests are done, and the files with the answers are being written.
    pub is_finalizing: bool,
    /// The input file.
    pub input_file_id: Option<String>,
    /// The file with the answers.
    pub output_file_id: Option<String>,
    /// The file with the errors of requests without an answer.
    pub error_file_id: Option<String>,
    /// Problems of fields that name a file with answers in an unusable way, such as a list.
    pub unusable: Vec<String>,
    /// Number of requests that are done, by the provider's count; None if it does not count.
    pub done: Option<i64>,
    /// Tokens of the requests that succeeded, by the provider's count; None if it does not count.
    pub usage: Option<TokenUsage>,
    /// The metadata with which the batch was requested.
    pub metadata: Vec<(String, String)>,
    /// The reasons why it failed as a whole, if it did.
    pub errors: Vec<BatchError>,
}

/// The state of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for its turn. Unknown words count as this state.
    #[default]
    Running,
    /// Its cancellation was requested, and it has not ended yet.
    Stopping,
    /// It ended.
    Ended(BatchEnd),
}

/// A reason why a batch failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// The provider's code, such as `token_limit_exceeded`.
    pub code: String,
    /// The provider's message, for a person.
    pub message: String,
    /// Number of the line in the input file, from 1.
    pub line: Option<i64>,
}

impl Batch {
    /// Returns whether the batch has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Returns whether the batch is being cancelled.
    pub fn is_stopping(&self) -> bool {
        self.state == State::Stopping
    }

    /// Returns the error if the batch was rejected as a whole before any request ran, so that there is nothing to collect.
    pub fn rejection(&self) -> Option<ApiError> {
        let nothing = self.output_file_id.is_none() && self.error_file_id.is_none() && self.done.unwrap_or(0) == 0;
        if self.state != State::Ended(BatchEnd::Failed) || !nothing || !self.unusable.is_empty() {
            return None;
        }
        let Some(BatchError { kind, code, message, line }) = self.errors.first() else {
            return Some(ApiError::new(ErrorKind::Transient, "the provider gave no reason"));
        };
        let at = line.map(|l| format!(" (line {l} of the batch)")).unwrap_or_default();
        let message = match (code.as_str(), message.as_str()) {
            ("", "") => "the provider gave no reason".into(),
            (code, message) => format!("{code}: {message}{at}"),
        };
        Some(ApiError::new(*kind, message))
    }

    /// Returns why the answers cannot be fetched, although the batch names a file with them. Such a batch never counts as one
    /// without answers.
    pub fn unnamed_answers(&self) -> Option<String> {
        self.output_file_id.is_none().then(|| self.unusable.join("; ")).filter(|why| !why.is_empty())
    }

    /// Returns the metadata under `key` with which the batch was requested.
    pub fn said(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// The kind of an error, which its status code alone does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is invalid, and sending it again would not help.
    InvalidInput,
    /// The provider has no room now.
    Capacity,
    /// The account's queue has no room for so many tokens.
    TokenLimit,
    /// The provider does not know the input file that was just uploaded, or does not know it yet.
    FileNotFound,
    /// The provider refused the credential.
    Auth,
    /// The object does not exist, or not under this credential.
    NotFound,
    /// Nothing was sent.
    NotSent,
    /// Nothing was sent, because the operator may not call this host.
    NotAllowed,
    /// The server answered with a redirect. It is not followed; a person has to name another server.
    Redirected,
    /// The call failed, and may succeed later.
    Transient,
    /// The server does not support the call.
    Unsupported,
}

/// The error of a call. Its message is the provider's own, cut to 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// For a person.
    pub message: String,
    /// The server's status code, if it answered.
    pub status: Option<u16>,
    /// The pause that the server asked for.
    pub retry_after: Option<Duration>,
    /// The reason why there was no response.
    pub source: Option<SendError>,
}

impl ApiError {
    /// Returns an error that has no status code.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into(), status: None, retry_after: None, source: None }
    }

    /// Returns whether the provider would answer the same again. Temporary errors, and errors of the credential, are not
    /// permanent.
    pub fn is_permanent(&self) -> bool {
        matches!(self.kind, ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::InvalidInput)
    }
}
