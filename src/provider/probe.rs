//! What a provider can really do, tried out rather than believed.

use std::time::Duration;

use futures::StreamExt;

use super::openai::smallest_body;
use super::{ApiError, BatchApi, CreateBatch, Created, ErrorKind, InputFile};
use crate::api::{Capability, Endpoint, ProviderCapabilities};

/// Refusals that say nothing about the file: too early, too busy, timed out.
const FOR_NOW: [u16; 4] = [408, 409, 425, 429];
/// Models that an upload is tried with: servers that check files know what they serve, and not every model is for batches.
const MODELS_TRIED: usize = 4;
/// Asked for where nobody says what the account has.
const ANY_MODEL: &str = "gpt-5-mini";

/// How an account is tried out.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// Name of the file that is uploaded and deleted: says whose it is.
    pub file_name: &'a str,
    /// What its one request is for.
    pub endpoint: Endpoint,
    /// Models that the account is said to have; without one it is asked which it has.
    pub models: &'a [String],
    /// For the one create, from the first byte sent to the last received.
    pub timeout: Duration,
}

/// What an account was seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What could not be tried out is not among it.
    pub can: ProviderCapabilities,
    /// Why deleting files could not be tried out.
    pub untried: Option<ApiError>,
}

/// Lists batches, uploads, reads and deletes a file of one well-formed request, and asks for a batch of the deleted file, which
/// must be refused. Where a batch is made of it all the same, it is cancelled at once.
///
/// # Errors
/// When the provider cannot be asked now, or has neither batches nor files.
pub async fn probe(api: &dyn BatchApi, trial: &Trial<'_>) -> Result<Probe, ApiError> {
    let list_batches = has(look(api).await)?;
    let (delete_files, untried) = match revokes(api, trial).await {
        Ok(revokes) => (revokes, None),
        Err(error) if matches!(error.kind, ErrorKind::NotSent | ErrorKind::NotAllowed) => return Err(error),
        // Where batches are listed, or files judged, there is a batch API that answers to this credential.
        Err(error) if list_batches || error.kind == ErrorKind::InvalidInput => (false, Some(error)),
        Err(error) => return Err(error),
    };
    let seen = [(Capability::ListBatches, list_batches), (Capability::DeleteFiles, delete_files)];
    let can = seen.into_iter().filter_map(|(capability, seen)| seen.then_some(capability)).collect();
    Ok(Probe { can, untried })
}

/// Reads the first page of the list of batches: the cheapest question that needs host, path and credential to be right.
///
/// # Errors
/// When the provider does not answer it.
pub async fn look(api: &dyn BatchApi) -> Result<(), ApiError> {
    // Paging stops at the first page, since every batch is older than this.
    api.find(i64::MAX, &|_| false).await.map(drop)
}

/// Whether an upload was refused for what is in the file: the server says so, or it refuses a credential that it takes for
/// other calls, as some do where a line asks for a model that they do not serve.
pub async fn is_about_content(api: &dyn BatchApi, error: &ApiError) -> bool {
    match (error.kind, error.status) {
        (ErrorKind::InvalidInput, Some(_)) => true,
        (ErrorKind::Auth, Some(401 | 403)) => look(api).await.is_ok() || api.models().await.is_ok(),
        _ => false,
    }
}

/// An answer that the provider gives for good, as opposed to one for now.
fn has<T>(answer: Result<T, ApiError>) -> Result<bool, ApiError> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.is_permanent() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether deleting a file takes the right away to start a batch of it.
async fn revokes(api: &dyn BatchApi, trial: &Trial<'_>) -> Result<bool, ApiError> {
    let file = upload(api, trial).await?;
    if !has(api.file_name(&file).await)? || !has(api.delete_file(&file).await)? {
        return Ok(false);
    }
    let gone = matches!(api.file_name(&file).await, Err(e) if e.kind == ErrorKind::NotFound);
    let request = CreateBatch {
        input_file_id: file.clone(),
        endpoint: trial.endpoint,
        window_hours: 24,
        metadata: vec![("bj-probe", trial.file_name.into())],
        intent_id: format!("probe-{file}"),
        timeout: trial.timeout,
    };
    match api.create(&request).await {
        Created::Accepted(batch) => {
            api.cancel(&batch).await?;
            Ok(false)
        }
        // Behind a gateway a refusal is no proof for a paid batch, but here whatever was repeated was refused too.
        Created::Unknown(ApiError { status: Some(status), .. })
            if (400..500).contains(&status) && !FOR_NOW.contains(&status) =>
        {
            Ok(gone)
        }
        Created::Unknown(e) => Err(e),
        Created::Rejected(e) => match e.kind {
            ErrorKind::NotSent
            | ErrorKind::NotAllowed
            | ErrorKind::Capacity
            | ErrorKind::TokenLimit
            | ErrorKind::Auth => Err(e),
            _ => Ok(gone),
        },
    }
}

/// Uploads the file, with another model where one is refused. The last error is the one that counts.
async fn upload(api: &dyn BatchApi, trial: &Trial<'_>) -> Result<String, ApiError> {
    let mut models: Vec<String> = trial.models.iter().filter(|model| !model.contains('*')).cloned().collect();
    if models.is_empty() {
        models = api.models().await.unwrap_or_default();
        models.push(ANY_MODEL.into());
    }
    let Some([before, between, behind]) = (api.dialect().line)(trial.endpoint) else {
        let message = format!("the provider has no batches of {:?}", trial.endpoint);
        return Err(ApiError::new(ErrorKind::Unsupported, message));
    };
    let mut refused = ApiError::new(ErrorKind::Unsupported, "no model to try it out with");
    for model in models.iter().take(MODELS_TRIED) {
        let line = format!("{before}probe{between}{}{behind}\n", smallest_body(trial.endpoint, model));
        let (bytes, content) = (line.len() as u64, futures::stream::iter([Ok(line.into())]).boxed());
        match api.upload(InputFile { name: trial.file_name.into(), bytes, content }).await {
            Err(e) if matches!(e.kind, ErrorKind::InvalidInput | ErrorKind::Auth) => refused = e,
            uploaded => return uploaded,
        }
    }
    Err(refused)
}
