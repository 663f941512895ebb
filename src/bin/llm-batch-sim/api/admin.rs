//! What tests and people ask of the simulator itself. It needs no key.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::fs::File;

use super::batches::unknown;
use super::error::ApiError;
use super::files::stream;
use crate::app::Shared;
use crate::batch::Batch;
use crate::faults::Fault;
use crate::store::Command;

/// Everything below `/admin`.
pub fn router() -> Router<Shared> {
    Router::new()
        .route("/ledger", get(ledger))
        .route("/state", get(state))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/batch-duration", get(batch_duration).post(set_batch_duration))
        .route("/webhooks", get(webhooks).post(add_webhook).delete(clear_webhooks))
        .route("/batches/{id}/finish", post(finish))
}

/// Takes JSON under any content type, as `curl -d` sends it under a wrong one.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))
}

async fn ledger(State(app): State<Shared>) -> Result<Response, ApiError> {
    let (file, bytes) = app.ledger.read().map_err(ApiError::internal)?;
    Ok(stream(File::from_std(file), bytes, "application/x-ndjson"))
}

#[derive(Serialize)]
struct AccountBatch<'a> {
    account: &'a str,
    #[serde(flatten)]
    batch: &'a Batch,
}

async fn state(State(app): State<Shared>) -> Json<Value> {
    let billed = app.ledger.len();
    let store = app.store();
    let files = store.files.iter().map(|file| {
        json!({
            "account": &*file.account,
            "id": file.object.id,
            "filename": file.object.filename,
            "bytes": file.object.bytes,
            "purpose": file.object.purpose,
        })
    });
    let batches =
        store.batches.iter().map(|batch| json!(AccountBatch { account: &batch.account, batch: &batch.object }));
    Json(json!({
        "uploads": store.uploads,
        "files": files.collect::<Vec<_>>(),
        "batches": batches.collect::<Vec<_>>(),
        "creates": store.batches.len(),
        "calls": app.calls(),
        "most_alive": store.overlaps.most(),
        "billed": billed,
        "overlaps": store.overlaps.count(),
    }))
}

#[derive(Serialize)]
struct FaultsLeft {
    faults: Vec<Fault>,
}

async fn faults(State(app): State<Shared>) -> Json<FaultsLeft> {
    let faults = app.settings.faults.left();
    Json(FaultsLeft { faults })
}

async fn add_fault(state: State<Shared>, body: Bytes) -> Result<Json<FaultsLeft>, ApiError> {
    state.settings.faults.add(read(&body)?);
    Ok(faults(state).await)
}

async fn clear_faults(state: State<Shared>) -> Json<FaultsLeft> {
    state.settings.faults.clear();
    faults(state).await
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchDuration {
    duration: String,
}

async fn batch_duration(State(app): State<Shared>) -> Json<BatchDuration> {
    Json(BatchDuration { duration: app.durations().to_string() })
}

async fn set_batch_duration(state: State<Shared>, body: Bytes) -> Result<Json<BatchDuration>, ApiError> {
    let wish: BatchDuration = read(&body)?;
    let durations = wish.duration.parse().map_err(|error: String| ApiError::invalid(error).param("duration"))?;
    state.set_durations(durations);
    Ok(batch_duration(state).await)
}

async fn webhooks(State(app): State<Shared>) -> Json<Value> {
    Json(app.webhooks.shown())
}

async fn add_webhook(state: State<Shared>, body: Bytes) -> Result<Json<Value>, ApiError> {
    state.webhooks.add(read(&body)?);
    Ok(webhooks(state).await)
}

async fn clear_webhooks(state: State<Shared>) -> Json<Value> {
    state.webhooks.clear();
    webhooks(state).await
}

/// Answers when the batch has ended, as the API would then show it.
async fn finish(State(app): State<Shared>, Path(id): Path<String>) -> Result<Json<Batch>, ApiError> {
    let control = {
        let store = app.store();
        store.batches.get(&id).ok_or_else(|| unknown(&id))?.control.clone()
    };
    control.tell(Command::Finish);
    control.ended.cancelled().await;
    let store = app.store();
    let batch = store.batches.get(&id).ok_or_else(|| unknown(&id))?;
    Ok(Json(batch.object.clone()))
}
