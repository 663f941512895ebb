//! The probe of a provider: its capabilities are tried out, and not taken from its word.

use std::time::Duration;

use futures::StreamExt;

use super::openai::smallest_body;
use super::{ApiError, BatchApi, CreateBatch, Created, ErrorKind, InputFile};
use crate::api::{Capability, Endpoint, ProviderCapabilities};

/// Status codes of refusals that say nothing about the file: too early, too busy, timed out.
const FOR_NOW: [u16; 4] = [408, 409, 425, 429];
/// Maximum number of models that an upload is tried with. Servers that check files accept only models that they serve in
/// batches.
const MODELS_TRIED: usize = 4;
/// The model that is tried last, when it is not known which models the account has.
const ANY_MODEL: &str = "gpt-5-mini";

/// The parameters of a probe.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// Name of the file that is uploaded and deleted. It tells whose the file is.
    pub file_name: &'a str,
    /// The API that the file's one request is for.
    pub endpoint: Endpoint,
    /// Models that the account is configured with. If there are none, the account is asked for its models.
    pub models: &'a [String],
    /// Time limit of the one create, from the first byte that is sent to the last byte of the reply.
    pub timeout: Duration,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The capabilities that were seen. Those that could not be tried out are not among them.
    pub can: ProviderCapabilities,
    /// The error because of which the deletion of files could not be tried out.
    pub untried: Option<ApiError>,
}

/// Lists batches; uploads, reads and deletes a file of one well-formed request; and requests a batch of the deleted file, which
/// must be refused. If the provider makes a batch all the same, it is cancelled at once.
///
/// # Errors
/// If the provider cannot be asked now, or supports neither batches nor files.
pub async fn probe(api: &dyn BatchApi, trial: &Trial<'_>) -> Result<Probe, ApiError> {
    let list_batches = has(look(api).await)?;
    let (delete_files, untried) = match revokes(api, trial).await {
        Ok(revokes) => (revokes, None),
        Err(error) if matches!(error.kind, ErrorKind::NotSent | ErrorKind::NotAllowed) => return Err(error),
        // A server that lists batches, or judges files, has a batch API that accepts this credential.
        Err(error) if list_batches || error.kind == ErrorKind::InvalidInput => (false, Some(error)),
        Err(error) => return Err(error),
    };
    let seen = [(Capability::ListBatches, list_batches), (Capability::DeleteFiles, delete_files)];
    let can = seen.into_iter().filter_map(|(capability, seen)| seen.then_some(capability)).collect();
    Ok(Probe { can, untried })
}

/// Reads the first page of the list of batches: the cheapest call for which host, path and credential have to be right.
///
/// # Errors
/// If the provider does not answer the call.
pub async fn look(api: &dyn BatchApi) -> Result<(), ApiError> {
    // Paging stops at the first page, since every batch is older than this.
    api.find(i64::MAX, &|_| false).await.map(drop)
}

/// Returns whether an upload was refused for the content of the file: the server says so, or it refuses a credential that it
/// accepts for other calls. Some servers do that if a line asks for a model that they do not serve.
pub async fn is_about_content(api: &dyn BatchApi, error: &ApiError) -> bool {
    match (error.kind, error.status) {
        (ErrorKind::InvalidInput, Some(_)) => true,
        (ErrorKind::Auth, Some(401 | 403)) => look(api).await.is_ok() || api.models().await.is_ok(),
        _ => false,
    }
}

/// Returns whether a call succeeded.
///
/// # Errors
/// The call's error, if it is not permanent and so tells nothing.
fn has<T>(answer: Result<T, ApiError>) -> Result<bool, ApiError> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.is_permanent() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Returns whether the deletion of a file revokes the right to start a batch of it.
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
        // A gateway's refusal does not prove that it made no batch. Here it is enough: the file is deleted, so that repeated
        // requests were refused as well.
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

/// Uploads the file, and tries other models if one is refused. Returns the last error if all are refused.
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
