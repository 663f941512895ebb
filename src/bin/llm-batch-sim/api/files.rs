//! Files: upload, list, look, fetch and delete.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Multipart, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, body::Body};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::{Value, json};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;

use super::error::ApiError;
use super::{Paging, bad_query};
use crate::accounts::Account;
use crate::app::Shared;
use crate::home::new_content;
use crate::ids;
use crate::store::StoredFile;
use crate::validate::{Unfit, uploaded};
use crate::vendor::Vendor;
use crate::wire::{FileObject, List};

/// How much is written to or read from the disk at once.
const BLOCK: usize = 256 * 1024;

/// The most bytes of one upload.
const LARGEST: u64 = 512 * 1024 * 1024;

/// The longest value of a form's field that is not a file.
const LONGEST_FIELD: usize = 1024;

const PURPOSES: [&str; 6] = ["assistants", "batch", "evals", "fine-tune", "user_data", "vision"];

/// `POST /v1/files`: the content goes to disk as it comes. An upload that is refused or breaks off
/// leaves nothing.
pub async fn upload(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Extension(vendor): Extension<Vendor>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<FileObject>, ApiError> {
    let form = form.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let form = Form::read(&app, form).await?;
    let purpose = form.purpose.ok_or_else(|| ApiError::missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        let message = format!("'{purpose}' is not one of {PURPOSES:?} - 'purpose'");
        return Err(ApiError::invalid(message).param("purpose"));
    }
    let received = form.file.ok_or_else(|| ApiError::missing("file"))?;
    let filename = received
        .filename
        .ok_or_else(|| ApiError::invalid("The file has no name: send it with a 'filename'.").param("file"))?;
    if received.bytes > LARGEST {
        return Err(ApiError::invalid("File is too large.").param("file"));
    }
    if purpose == "batch" && !app.settings.models.is_empty() {
        check(&app, &received.path).await?;
    }
    let object = FileObject::new(received.id, filename, &purpose, received.bytes);
    let (id, ready) = (object.id.clone(), Instant::now() + vendor.processing());
    let file = StoredFile { account, object, content: Arc::new(received.path), ready };
    let shown = file.shown();
    let mut store = app.store();
    store.files.insert(id, file);
    store.uploads += 1;
    Ok(Json(shown))
}

/// As gateways do, which look into a file before they take it.
async fn check(app: &Shared, path: &std::path::Path) -> Result<(), ApiError> {
    let (app, path) = (Arc::clone(app), path.to_owned());
    let checked = tokio::task::spawn_blocking(move || uploaded(&path, &app.settings.models)).await;
    match checked.map_err(ApiError::internal)?.map_err(ApiError::internal)? {
        Ok(()) => Ok(()),
        Err(Unfit::Line(message)) => Err(ApiError::invalid(message)),
        Err(Unfit::Model(message)) => Err(ApiError::forbidden(message)),
    }
}

/// `GET /v1/models`: those that the server was started with.
pub async fn models(State(app): State<Shared>) -> Json<Value> {
    let model = |name: &String| json!({"id": name, "object": "model", "created": 0, "owned_by": "llm-batch-sim"});
    let data: Vec<Value> = app.settings.models.iter().map(model).collect();
    Json(json!({"object": "list", "data": data}))
}

#[derive(Default)]
struct Form {
    purpose: Option<String>,
    file: Option<Received>,
}

struct Received {
    id: String,
    filename: Option<String>,
    path: TempPath,
    bytes: u64,
}

impl Form {
    /// Reads all of it before anything is judged, so that its sender comes to read the answer.
    async fn read(app: &Shared, mut multipart: Multipart) -> Result<Self, ApiError> {
        let mut form = Self::default();
        while let Some(field) = multipart.next_field().await.map_err(|error| broken(&error))? {
            match field.name() {
                Some("purpose") => form.purpose = Some(short(field).await?),
                Some("file") => form.file = Some(Received::save(app, field).await?),
                _ => {
                    short(field).await?;
                }
            }
        }
        Ok(form)
    }
}

impl Received {
    async fn save(app: &Shared, mut field: Field<'_>) -> Result<Self, ApiError> {
        let id = ids::fresh("file-");
        let filename = field.file_name().map(str::to_owned);
        let (file, path) = new_content(&app.settings.contents, &id).map_err(ApiError::internal)?;
        let mut writer = BufWriter::with_capacity(BLOCK, File::from_std(file));
        let mut bytes = 0;
        while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
            bytes += chunk.len() as u64;
            if bytes <= LARGEST {
                writer.write_all(&chunk).await.map_err(ApiError::internal)?;
            }
        }
        writer.flush().await.map_err(ApiError::internal)?;
        Ok(Self { id, filename, path, bytes })
    }
}

async fn short(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        let room = LONGEST_FIELD.saturating_sub(value.len());
        value.extend(chunk.iter().take(room));
    }
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn broken(error: &MultipartError) -> ApiError {
    ApiError::invalid(format!("The form cannot be read: {}", error.body_text()))
}

/// `GET /v1/files`.
pub async fn list(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<List<FileObject>>, ApiError> {
    let Query(paging) = paging.map_err(|rejection| bad_query(&rejection))?;
    let limit = paging.limit(10_000, 10_000)?;
    let store = app.store();
    let page = paging.page(&store.files, limit, |file| {
        let purpose = paging.purpose.as_ref();
        file.account == account && purpose.is_none_or(|purpose| *purpose == file.object.purpose)
    })?;
    let list = super::list(page, StoredFile::shown, |file| &file.object.id);
    Ok(Json(list))
}

/// `GET /v1/files/{id}`.
pub async fn get(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, ApiError> {
    let store = app.store();
    let file = store.file(&account, &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(file.shown()))
}

/// `DELETE /v1/files/{id}`.
pub async fn delete(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mut store = app.store();
    store.file(&account, &id).ok_or_else(|| unknown(&id))?;
    store.files.remove(&id);
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}

/// `GET /v1/files/{id}/content`.
pub async fn content(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let content = {
        let store = app.store();
        let file = store.file(&account, &id).ok_or_else(|| unknown(&id))?;
        Arc::clone(&file.content)
    };
    let mut file = File::open(content.as_ref()).await.map_err(ApiError::internal)?;
    let bytes = file.seek(SeekFrom::End(0)).await.map_err(ApiError::internal)?;
    file.rewind().await.map_err(ApiError::internal)?;
    Ok(stream(file, bytes, "application/octet-stream"))
}

/// A file of which a known number of bytes is sent.
pub fn stream(file: File, bytes: u64, content_type: &'static str) -> Response {
    let body = Body::from_stream(ReaderStream::with_capacity(tokio::io::AsyncReadExt::take(file, bytes), BLOCK));
    let headers = [(CONTENT_LENGTH, bytes.to_string()), (CONTENT_TYPE, content_type.to_owned())];
    (headers, body).into_response()
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("No such File object: {id}")).param("id")
}
