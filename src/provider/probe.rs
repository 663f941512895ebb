//! What a provider can really do, tried out rather than believed.

use std::time::Duration;

use futures::StreamExt;

use super::{ApiError, BatchApi, Class, CreateBatch, Created, InputFile};
use crate::api::ProviderCapabilities;

/// Refusals that say nothing about the file: too early, too busy, timed out.
const FOR_NOW: [u16; 4] = [408, 409, 425, 429];

/// Lists batches, uploads, reads and deletes a small file of this name, and asks for a batch of the deleted file, which must
/// be refused. Nothing billable comes of it: the file holds no valid request.
///
/// # Errors
/// When the provider cannot be asked now, or takes no files.
pub async fn probe(
    api: &dyn BatchApi,
    name: &str,
    endpoint: &str,
    timeout: Duration,
) -> Result<ProviderCapabilities, ApiError> {
    let list_batches = has(look(api).await)?;
    let delete_files = revokes(api, name, endpoint, timeout).await?;
    Ok(ProviderCapabilities { list_batches, delete_files })
}

/// Reads the first page of the list of batches: the cheapest question that needs host, path and credential to be right.
///
/// # Errors
/// When the provider does not answer it.
pub async fn look(api: &dyn BatchApi) -> Result<(), ApiError> {
    // Paging stops at the first page, since every batch is older than this.
    api.find(i64::MAX, &|_| false).await.map(drop)
}

/// An answer that the provider gives for good, as opposed to one for now.
fn has<T>(answer: Result<T, ApiError>) -> Result<bool, ApiError> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.is_for_good() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether deleting a file takes the right away to start a batch of it.
async fn revokes(api: &dyn BatchApi, name: &str, endpoint: &str, timeout: Duration) -> Result<bool, ApiError> {
    let content = futures::stream::iter([Ok("{}\n".into())]).boxed();
    let file = api.upload(InputFile { name: name.into(), bytes: 3, content }).await?;
    if !has(api.file_name(&file).await)? || !has(api.delete_file(&file).await)? {
        return Ok(false);
    }
    let gone = matches!(api.file_name(&file).await, Err(e) if e.class == Class::NotFound);
    let request = CreateBatch {
        input_file_id: file.clone(),
        endpoint: endpoint.into(),
        window_hours: 24,
        metadata: vec![("bj-probe", name.into())],
        intent_id: format!("probe-{file}"),
        timeout,
    };
    match api.create(&request).await {
        Created::Yes(batch) => {
            api.cancel(&batch).await?;
            Ok(false)
        }
        // Behind a gateway a refusal is no proof for a paid batch, but here whatever was repeated was refused too.
        Created::Unknown(_, Some(status)) if (400..500).contains(&status) && !FOR_NOW.contains(&status) => Ok(gone),
        Created::Unknown(message, _) => Err(ApiError::new(Class::Transient, message)),
        Created::No(e) => match e.class {
            Class::NotSent | Class::NotAllowed | Class::Capacity | Class::Auth => Err(e),
            _ => Ok(gone),
        },
    }
}
