//! Batch APIs: one small trait, one file a dialect, errors by class.

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

use crate::api::{BatchEnd, Endpoint};

pub use dialect::{Credential, Dialect};
pub use limits::Limits;
pub use openai::OpenAi;
pub use pace::Pace;
pub use probe::{Probe, Trial, is_about_content, look, probe};

/// Who reads a list page by page.
pub type See<'a> = dyn for<'p> FnMut(&'p [Batch]) -> ControlFlow<()> + Send + 'a;

/// What a provider's batch API can do for us. Reads and deletions are repeated inside, with jitter and within bounds;
/// uploads are not, for only the caller can start the stream again; [`BatchApi::create`] never is.
#[async_trait]
pub trait BatchApi: Send + Sync {
    /// How the vendor spells what is sent and what comes back.
    fn dialect(&self) -> &'static Dialect;

    /// Uploads an input file; not billed. Returns the provider's name for it.
    async fn upload(&self, file: InputFile) -> Result<String, ApiError>;

    /// Asks for a batch, once. To be called by the holder of a `PostPermit` only.
    async fn create(&self, request: &CreateBatch) -> Created;

    /// Reads the list of batches page by page: `see` gets each page, and breaks the reading off where it has seen enough. Of a
    /// list that has the newest first, the reading ends early where a whole page is more than a day older than `since` (Unix
    /// seconds).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where a batch could be and not be shown, such as when a page is repeated: what was seen of such
    /// a list is so, and what was not seen proves nothing.
    async fn list(&self, since: i64, see: &mut See<'_>) -> Result<(), ApiError>;

    /// The batches of all pages of the list for which `wanted` holds, oldest first; see [`BatchApi::list`].
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
        // A list that grows while it is read shows a batch twice.
        found.dedup_by(|a, b| a.id == b.id);
        Ok(found)
    }

    /// One batch.
    async fn get(&self, batch_id: &str) -> Result<Batch, ApiError>;

    /// Tells a batch to stop. One that is ending or has ended is no error.
    async fn cancel(&self, batch_id: &str) -> Result<(), ApiError>;

    /// Name of a file, as it was uploaded.
    async fn file_name(&self, file_id: &str) -> Result<String, ApiError>;

    /// Names of models that the account has, as far as the server tells.
    async fn models(&self) -> Result<Vec<String>, ApiError>;

    /// Content of a file, at most `limit` bytes. Answers are lines of the format that results have, which is OpenAI's: the client
    /// of a vendor that writes others puts them into it as they come.
    async fn content(&self, file_id: &str, limit: u64)
    -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>;

    /// Deletes a file. One that is gone is no error.
    async fn delete_file(&self, file_id: &str) -> Result<(), ApiError>;
}

/// A file of requests to upload.
pub struct InputFile {
    /// Deterministic: says whose it is.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Content; an error in it breaks the upload off.
    pub content: BoxStream<'static, std::io::Result<Bytes>>,
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct CreateBatch {
    /// The uploaded requests.
    pub input_file_id: String,
    /// The API that its requests are for.
    pub endpoint: Endpoint,
    /// How long the provider may take, in hours.
    pub window_hours: u32,
    /// Who asks: at most 16 pairs, keys up to 64 and values up to 512 characters (OpenAI's limits).
    pub metadata: Vec<(&'static str, String)>,
    /// Unique to the attempt; sent as `Idempotency-Key` too, for servers that know it.
    pub intent_id: String,
    /// From the first byte sent to the last received.
    pub timeout: Duration,
}

/// What came of asking for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It exists; the provider's name for it.
    Accepted(String),
    /// It does not exist: nothing was sent, or the vendor itself refused.
    Rejected(ApiError),
    /// Nobody can tell: what was seen; with a status code where the server answered with an error.
    Unknown(ApiError),
}

/// A batch, as far as any dialect tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The provider's name for it.
    pub id: String,
    /// Whether it runs, and how it ended.
    pub state: State,
    /// The provider's word for that, in lower case.
    pub status: String,
    /// Unix seconds; 0 where the provider does not say.
    pub created_at: i64,
    /// The file it was made from.
    pub input_file_id: Option<String>,
    /// Answers.
    pub output_file_id: Option<String>,
    /// Requests without an answer.
    pub error_file_id: Option<String>,
    /// Fields that name a file of answers in a way that nobody can use, such as a list, each with what is wrong with it.
    pub unusable: Vec<String>,
    /// Requests done, by the provider's count; None where it does not count.
    pub done: Option<i64>,
    /// What we said when we asked for it.
    pub metadata: Vec<(String, String)>,
    /// Why it failed as a whole, if it did.
    pub errors: Vec<BatchError>,
}

/// Whether a batch runs, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for its turn. Words that nobody knows mean this.
    #[default]
    Running,
    /// It was told to stop and has not stopped yet.
    Stopping,
    /// It ended.
    Ended(BatchEnd),
}

/// Why a batch failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// What it means.
    pub kind: ErrorKind,
    /// Such as `token_limit_exceeded`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// Line of the input file, from 1.
    pub line: Option<i64>,
}

impl Batch {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Whether it was told to stop and has not stopped yet.
    pub fn is_stopping(&self) -> bool {
        self.state == State::Stopping
    }

    /// Set when the batch was turned away as a whole before any request ran: there is nothing to collect.
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

    /// Why the answers cannot be fetched although the batch names a file with them: what holds them is never taken for nothing.
    pub fn unnamed_answers(&self) -> Option<String> {
        self.output_file_id.is_none().then(|| self.unusable.join("; ")).filter(|why| !why.is_empty())
    }

    /// What we said under `key` when we asked for it.
    pub fn said(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// What an error means, whatever the status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Sending it again would not help.
    InvalidInput,
    /// No room now.
    Capacity,
    /// No room for so many tokens in the account's queue.
    TokenLimit,
    /// The input file that was just uploaded is not known, or not yet.
    FileNotFound,
    /// The credential was refused.
    Auth,
    /// Not there, or not under this credential.
    NotFound,
    /// Nothing was sent.
    NotSent,
    /// Nothing was sent: the host may not be reached.
    NotAllowed,
    /// The server leads elsewhere, where nobody follows: a person has to name another one.
    Redirected,
    /// It may work later.
    Transient,
    /// The server does not have this.
    Unsupported,
}

/// Why a call failed; the message is the provider's own, cut to 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What it means.
    pub kind: ErrorKind,
    /// For a person.
    pub message: String,
    /// The server's status code, if it answered.
    pub status: Option<u16>,
    /// When the server asked to be called again.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error without an answer of a server.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into(), status: None, retry_after: None }
    }

    /// Whether the provider would say it again, as opposed to an error for now or for this credential.
    pub fn is_permanent(&self) -> bool {
        matches!(self.kind, ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::InvalidInput)
    }
}
