//! What a provider can really do, tried out rather than believed.

use std::time::Duration;

use futures::StreamExt;

use super::{ApiError, BatchApi, Class, CreateBatch, Created, InputFile};

/// Whether a lost reply can be resolved here: batches are listed, a small file can be uploaded, read and deleted, and a
/// create on the deleted file is refused. Nothing billable comes of it: the file holds no valid request.
///
/// # Errors
/// When the provider cannot be asked now.
pub async fn probe(api: &dyn BatchApi, name: &str, endpoint: &str, timeout: Duration) -> Result<bool, ApiError> {
    let unable = |e: &ApiError| matches!(e.class, Class::Unsupported | Class::NotFound | Class::InvalidInput);
    match api.find(i64::MAX, &|_| false).await {
        Err(e) if unable(&e) => return Ok(false),
        listed => listed?,
    };
    let content = futures::stream::iter([Ok("{}\n".into())]).boxed();
    let file = api.upload(InputFile { name: name.into(), bytes: 3, content }).await?;
    match api.file_name(&file).await {
        Err(e) if unable(&e) => return Ok(false),
        read => read?,
    };
    match api.delete_file(&file).await {
        Err(e) if unable(&e) => return Ok(false),
        deleted => deleted?,
    }
    let gone = matches!(api.file_name(&file).await, Err(e) if e.class == Class::NotFound);
    let request = CreateBatch {
        input_file_id: file.clone(),
        endpoint: endpoint.into(),
        window_hours: 24,
        metadata: vec![],
        intent_id: format!("probe-{file}"),
        timeout,
    };
    match api.create(&request).await {
        Created::Yes(batch) => {
            api.cancel(&batch).await?;
            Ok(false)
        }
        // Behind a gateway a refusal is no proof for a paid batch, but here whatever was repeated was refused too.
        Created::Unknown(_, Some(status)) if (400..500).contains(&status) && status != 408 => Ok(gone),
        Created::Unknown(message, _) => Err(ApiError::new(Class::Transient, message)),
        Created::No(e) => match e.class {
            Class::NotSent | Class::Capacity | Class::Auth => Err(e),
            _ => Ok(gone),
        },
    }
}
