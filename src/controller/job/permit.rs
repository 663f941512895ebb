//! The right to ask for a batch: a value that exists only in the memory of the call whose swap succeeded.

use std::time::Duration;

use super::journal::Packed;
use crate::api::Endpoint;
use crate::lifecycle::{Attempt, AttemptState, Payload, Posted, Refusal, Rejection};
use crate::provider::{ApiError, BatchApi, CreateBatch, Created, ErrorKind};
use crate::store::{Document, StoreError, SwapError, SwapProof, Version};

/// The right to send one POST. Nothing but a won swap makes one, it cannot be copied, and sending uses it up.
///
/// ```
/// use batchjob_operator::{controller::{PostPermit, SubmitRequest}, provider::BatchApi};
/// async fn once(permit: PostPermit, api: &dyn BatchApi, ask: SubmitRequest) {
///     permit.post(api, ask, 0).await;
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn copied(permit: batchjob_operator::controller::PostPermit) {
///     let copy = permit.clone();
/// }
/// ```
///
/// ```compile_fail,E0382
/// use batchjob_operator::{controller::{PostPermit, SubmitRequest}, provider::BatchApi};
/// async fn twice(permit: PostPermit, api: &dyn BatchApi, ask: SubmitRequest, again: SubmitRequest) {
///     permit.post(api, ask, 0).await;
///     permit.post(api, again, 0).await;
/// }
/// ```
#[derive(Debug)]
pub struct PostPermit {
    intent_id: String,
    post_by: i64,
    won: SwapProof,
}

impl PostPermit {
    /// Writes the intent over the version that was judged. None: somebody else was first, and there is no right.
    ///
    /// # Errors
    /// When nobody can tell whether it was written: whoever reads it later resolves it.
    pub(crate) async fn win(
        document: &dyn Document,
        judged: &Version,
        Packed { journal, bytes }: &Packed,
        intent_id: &str,
    ) -> Result<Option<PostPermit>, StoreError> {
        let won = match document.swap(judged, bytes.clone()).await {
            Ok(won) => Some(won),
            Err(SwapError::Lost) => own_retried_write(document, intent_id, bytes.clone()).await?,
            Err(SwapError::Store(e)) => return Err(e),
        };
        let post_by = journal.shards.iter().find_map(intent(intent_id)).map(|a| a.post_by).unwrap_or(0);
        Ok(won.map(|won| PostPermit { intent_id: intent_id.into(), post_by, won }))
    }

    /// The version of the journal that has the intent, where the store says it.
    pub(crate) fn version(&self) -> Option<Version> {
        self.won.version()
    }

    /// The intent that it is for.
    pub fn intent_id(&self) -> &str {
        &self.intent_id
    }

    /// Sends the POST, once, if `now` (Unix milliseconds) is still before the intent's last moment.
    pub async fn post(self, api: &dyn BatchApi, ask: SubmitRequest, now: i64) -> Posted {
        if now >= self.post_by {
            let why = "the permit to submit ran out before it was used";
            return Posted::Refused(Rejection::new(Refusal::NotSent, why));
        }
        let Payload::File { id: input_file_id } = ask.payload else {
            let why = "no dialect sends requests inline or from objects; nothing was sent";
            return Posted::Refused(Rejection::new(Refusal::Invalid, why));
        };
        let request = CreateBatch {
            input_file_id,
            endpoint: ask.endpoint,
            window_hours: ask.window_hours,
            metadata: ask.metadata,
            intent_id: self.intent_id,
            timeout: ask.timeout,
        };
        match api.create(&request).await {
            Created::Accepted(id) => Posted::Created(id),
            Created::Rejected(e) => Posted::Refused(rejection(refusal(e.kind), e, now)),
            Created::Unknown(e) if e.status.is_some() => Posted::Declined(rejection(refusal_for_now(e.kind), e, now)),
            Created::Unknown(e) => Posted::Unknown(e.message),
        }
    }
}

/// What to ask the provider for.
pub struct SubmitRequest {
    /// What carries the requests.
    pub payload: Payload,
    /// The API that they are for.
    pub endpoint: Endpoint,
    /// How long the provider may take, in hours.
    pub window_hours: u32,
    /// Who asks.
    pub metadata: Vec<(&'static str, String)>,
    /// From the first byte sent to the last received.
    pub timeout: Duration,
}

/// What a provider's class of error means for an attempt that no batch came of.
pub(crate) fn refusal(kind: ErrorKind) -> Refusal {
    match kind {
        ErrorKind::NotSent | ErrorKind::NotAllowed | ErrorKind::Redirected | ErrorKind::Transient => Refusal::NotSent,
        ErrorKind::Capacity => Refusal::Capacity,
        ErrorKind::TokenLimit => Refusal::TokenLimit,
        ErrorKind::FileNotFound => Refusal::FileNotFound,
        ErrorKind::Auth => Refusal::Credentials,
        ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Unsupported => Refusal::Invalid,
    }
}

/// The same of a server that is not the vendor: one gateway's word ends no job, and a credential that is good for finding out
/// what became of the POST is not to blame.
fn refusal_for_now(kind: ErrorKind) -> Refusal {
    match refusal(kind) {
        lack @ (Refusal::Capacity | Refusal::TokenLimit | Refusal::FileNotFound) => lack,
        _ => Refusal::Failed,
    }
}

fn rejection(refusal: Refusal, error: ApiError, now: i64) -> Rejection {
    let pause = error.retry_after.map(|pause| i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
    Rejection { refusal, message: error.message, retry_at: pause.map(|pause| now.saturating_add(pause)) }
}

fn intent(id: &str) -> impl Fn(&crate::lifecycle::Shard) -> Option<&Attempt> {
    move |shard| shard.attempt.as_ref().filter(|a| a.intent_id == id && a.state == AttemptState::Intended)
}

/// A store that retries for us can refuse its own second try. Only this call knows the intent's id, so finding it means
/// that the first try was written; writing the same bytes again over it is what makes the proof.
async fn own_retried_write(
    document: &dyn Document,
    intent_id: &str,
    bytes: bytes::Bytes,
) -> Result<Option<SwapProof>, StoreError> {
    let Some((there, version)) = document.read().await? else { return Ok(None) };
    if there != bytes
        || !crate::controller::job::journal::decode(&there)?.shards.iter().any(|s| intent(intent_id)(s).is_some())
    {
        return Ok(None);
    }
    match document.swap(&version, bytes).await {
        Ok(won) => Ok(Some(won)),
        Err(_) => Ok(None),
    }
}
