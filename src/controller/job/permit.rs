//! The permit to create a batch: a value that exists only in the memory of the call whose swap succeeded.

use std::time::{Duration, Instant};

use super::journal::PackedJournal;
use crate::api::Endpoint;
use crate::lifecycle::{Attempt, AttemptState, Payload, PostResult, Refusal, Rejection};
use crate::provider::{ApiError, BatchApi, CreateBatch, Created, ErrorKind};
use crate::store::{Document, StoreError, SwapError, SwapProof, Version};

/// The permit to send one POST. Only a successful swap creates it, it cannot be cloned, and [`PostPermit::post`] consumes it.
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
    /// The latest start of the POST as well: a clock that is set back does not prolong the permit.
    expires: Instant,
    won: SwapProof,
}

impl PostPermit {
    /// Writes the intent over the version that was judged. The permit expires with the intent, and at the latest after `window`. Returns
    /// None, and no permit, if another write replaced that version.
    ///
    /// # Errors
    /// If it is unknown whether the intent was written. There is no permit then; if the journal holds the intent, its next reader
    /// resolves it.
    pub(crate) async fn win(
        document: &dyn Document,
        judged: &Version,
        PackedJournal { journal, bytes }: &PackedJournal,
        intent_id: &str,
        window: Duration,
    ) -> Result<Option<PostPermit>, StoreError> {
        let expires = Instant::now() + window;
        let won = match document.swap(judged, bytes.clone()).await {
            Ok(won) => Some(won),
            Err(SwapError::Changed) => own_retried_write(document, intent_id, bytes.clone()).await?,
            Err(SwapError::Store(e)) => return Err(e),
        };
        let post_by = journal.shards.iter().find_map(intent(intent_id)).map(|a| a.post_by).unwrap_or(0);
        Ok(won.map(|won| PostPermit { intent_id: intent_id.into(), post_by, expires, won }))
    }

    /// Returns the version of the journal that holds the intent, if the store returned it.
    pub(crate) fn version(&self) -> Option<Version> {
        self.won.version()
    }

    /// Returns the id of the intent.
    pub fn intent_id(&self) -> &str {
        &self.intent_id
    }

    /// Sends the POST once. If `now` (Unix milliseconds) is not before the intent's last moment, nothing is sent.
    pub async fn post(self, api: &dyn BatchApi, ask: SubmitRequest, now: i64) -> PostResult {
        if now >= self.post_by || Instant::now() >= self.expires {
            let why = "the permit to submit ran out before it was used";
            return PostResult::Refused(Rejection::new(Refusal::NotSent, why));
        }
        let Payload::File { id: input_file_id } = ask.payload else {
            let why = "no dialect sends requests inline or from objects; nothing was sent";
            return PostResult::Refused(Rejection::new(Refusal::Invalid, why));
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
            Created::Accepted(id) => PostResult::Created(id),
            Created::Rejected(e) => PostResult::Refused(rejection(refusal(e.kind), e, now)),
            Created::Unknown(e) if e.status.is_some() => {
                PostResult::Declined(rejection(refusal_for_now(e.kind), e, now))
            }
            Created::Unknown(e) => PostResult::Unknown(e.message),
        }
    }
}

/// The batch to create.
pub struct SubmitRequest {
    /// The requests of the batch.
    pub payload: Payload,
    /// The endpoint of the requests.
    pub endpoint: Endpoint,
    /// Time in which the provider must complete the batch, in hours.
    pub window_hours: u32,
    /// Metadata that names the batch's owner and intent.
    pub metadata: Vec<(&'static str, String)>,
    /// Time-out of the call, from the first byte sent to the last byte received.
    pub timeout: Duration,
}

/// Returns the refusal of an attempt that made no batch, for the kind of the provider's error.
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

/// Returns the refusal for an error that does not prove that no batch was made, such as a gateway's. A lack of room or of the file is
/// kept. Every other error counts as [`Refusal::Failed`]: a single answer of a gateway must not end the job, and a credential that still
/// serves to find out the outcome of the POST is not at fault.
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

/// Returns the proof if a lost swap was in fact our own write: a store client that retries can have its second try refused because
/// the first one succeeded. Only this call knows the intent's id, so a journal that holds it is ours. The same bytes are written over
/// it once more, because only a successful swap is a proof.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::lifecycle::{Journal, Owner, Shard};
    use crate::provider::fake::Provider;
    use crate::store::{Folder, ObjectDocument};

    #[tokio::test]
    async fn a_permit_expires_once_its_time_has_passed_although_the_clock_was_set_back() {
        for (window, expected) in [(Duration::ZERO, Refusal::NotSent), (Duration::from_secs(3_600), Refusal::Invalid)] {
            let folder = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
            let document = ObjectDocument { folder, name: "journal.json".into() };
            let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
            let mut journal = Journal::open("w".into(), owner, "spec".into());
            let attempt = Attempt::intended(1, "intent", Payload::file("f"), 10_000, "k");
            journal.shards.push(Shard { attempt: Some(attempt), ..Shard::default() });
            let judged = document.create("before".into()).await.unwrap().version().unwrap();
            let packed = PackedJournal { journal, bytes: "after".into() };
            let permit = PostPermit::win(&document, &judged, &packed, "intent", window).await.unwrap().unwrap();
            let ask = SubmitRequest {
                payload: Payload::file("f"),
                endpoint: Endpoint::default(),
                window_hours: 24,
                metadata: vec![],
                timeout: Duration::from_secs(1),
            };
            // This provider rejects every batch that it is asked for.
            match permit.post(&Provider::default(), ask, 0).await {
                PostResult::Refused(rejection) => assert_eq!(rejection.refusal, expected, "{window:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
