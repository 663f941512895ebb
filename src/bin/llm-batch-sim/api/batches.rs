//! Batches: create, look, list and cancel.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::gate::{Doubled, Lag};
use super::{Paging, bad_query};
use crate::accounts::Account;
use crate::app::Shared;
use crate::batch::{Batch, Order};
use crate::drive::drive;
use crate::execute::Task;
use crate::ids;
use crate::store::{Command, Control, StoredBatch};
use crate::vendor::Vendor;
use crate::wire::List;

const MOST_METADATA: usize = 16;
const LONGEST_KEY: usize = 64;
const LONGEST_VALUE: usize = 512;

/// A body of `POST /v1/batches`, before it is known to make sense. Other fields are ignored.
#[derive(Debug, Deserialize)]
struct Wish {
    input_file_id: Option<Value>,
    endpoint: Option<Value>,
    completion_window: Option<Value>,
    metadata: Option<Value>,
}

impl Wish {
    fn order(self, vendor: Vendor) -> Result<Order, ApiError> {
        let input_file_id = string("input_file_id", self.input_file_id)?;
        let path = string("endpoint", self.endpoint)?;
        let completion_window = string("completion_window", self.completion_window)?;
        let endpoint = vendor.endpoint(&path).ok_or_else(|| {
            let known = vendor.endpoints();
            let message = format!("Invalid value: '{path}'. Supported values are: '{known}'.");
            ApiError::invalid(message).param("endpoint").code("invalid_value")
        })?;
        let window_seconds = seconds(&completion_window).ok_or_else(|| {
            let message = format!("Invalid value: '{completion_window}'. Expected '24h'.");
            ApiError::invalid(message).param("completion_window").code("invalid_value")
        })?;
        let metadata = metadata(self.metadata)?;
        Ok(Order { input_file_id, endpoint, vendor, completion_window, window_seconds, metadata })
    }
}

fn string(name: &'static str, value: Option<Value>) -> Result<String, ApiError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(_) => {
            let message = format!("Invalid type for '{name}': expected a string.");
            Err(ApiError::invalid(message).param(name).code("invalid_type"))
        }
        None => Err(ApiError::missing(name)),
    }
}

/// `24h`, or any other number of hours.
fn seconds(window: &str) -> Option<i64> {
    let hours: u32 = window.strip_suffix('h')?.parse().ok()?;
    (hours > 0).then_some(i64::from(hours) * 3600)
}

fn metadata(value: Option<Value>) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let refuse = |message: &str| ApiError::invalid(message).param("metadata");
    let pairs: BTreeMap<String, String> =
        serde_json::from_value(value).map_err(|_| refuse("Invalid 'metadata': expected an object of strings."))?;
    if pairs.len() > MOST_METADATA {
        return Err(refuse("Invalid 'metadata': expected at most 16 pairs."));
    }
    if pairs.keys().any(|key| key.chars().count() > LONGEST_KEY) {
        return Err(refuse("Invalid 'metadata': expected keys of at most 64 characters."));
    }
    if pairs.values().any(|value| value.chars().count() > LONGEST_VALUE) {
        return Err(refuse("Invalid 'metadata': expected values of at most 512 characters."));
    }
    Ok(Some(pairs))
}

/// `POST /v1/batches`: the batch exists when this answers; its file is read afterwards.
pub async fn create(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Extension(vendor): Extension<Vendor>,
    doubled: Option<Extension<Doubled>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Batch>, ApiError> {
    let body = body.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let wish: Wish = serde_json::from_slice(&body)
        .map_err(|_| ApiError::invalid("We could not parse the JSON body of your request."))?;
    let (order, duration) = (wish.order(vendor)?, app.next_duration());
    if doubled.is_some() {
        let (_, task, control) = accept(&app, account.clone(), order.clone())?;
        tokio::spawn(drive(app.clone(), task, control, duration));
    }
    let (batch, task, control) = accept(&app, account, order)?;
    tokio::spawn(drive(app, task, control, duration));
    Ok(Json(batch))
}

fn accept(app: &Shared, account: Account, order: Order) -> Result<(Batch, Task, Arc<Control>), ApiError> {
    let mut store = app.store();
    let file_id = order.input_file_id.clone();
    let file = store
        .file(&account, &file_id)
        .ok_or_else(|| ApiError::invalid(format!("No such File object: {file_id}")).param("input_file_id"))?;
    if file.object.purpose != "batch" {
        let message =
            format!("Invalid value for 'purpose' of the input file: '{}'. Expected 'batch'.", file.object.purpose);
        return Err(ApiError::invalid(message).param("input_file_id"));
    }
    if !file.is_ready() {
        let message = format!("The input file {file_id} has not been processed yet: its status is 'pending'.");
        return Err(ApiError::invalid(message).param("input_file_id"));
    }
    let flaw = app.settings.faults.flaw();
    let batch_id = ids::fresh("batch_");
    let task = Task {
        account: account.clone(),
        batch_id: batch_id.clone(),
        endpoint: order.endpoint,
        vendor: order.vendor,
        file_id,
        filename: file.object.filename.clone(),
        content: Arc::clone(&file.content),
        flaw: flaw.clone(),
    };
    let control = Arc::new(Control::default());
    let batch = Batch::new(batch_id.clone(), order, flaw);
    let stored = StoredBatch { account, object: batch.clone(), control: Arc::clone(&control) };
    store.overlaps.create(&batch_id);
    store.batches.insert(batch_id, stored);
    Ok((batch, task, control))
}

/// `GET /v1/batches/{id}`.
pub async fn get(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Path(id): Path<String>,
) -> Result<Json<Batch>, ApiError> {
    let mut store = app.store();
    let batch = store.batch(&account, &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(batch.object.clone()))
}

/// `GET /v1/batches`.
pub async fn list(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    lag: Option<Extension<Lag>>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<List<Batch>>, ApiError> {
    let Query(paging) = paging.map_err(|rejection| bad_query(&rejection))?;
    let limit = paging.limit(20, 100)?;
    let store = app.store();
    let Extension(Lag(seconds)) = lag.unwrap_or_default();
    let page =
        paging.page(&store.batches, limit, |batch| batch.account == account && !batch.object.is_younger(seconds))?;
    let list = super::list(page, |batch| batch.object.clone(), |batch| &batch.object.id);
    Ok(Json(list))
}

/// `POST /v1/batches/{id}/cancel`: what runs is stopped and what ran is kept.
pub async fn cancel(
    State(app): State<Shared>,
    Extension(account): Extension<Account>,
    Path(id): Path<String>,
) -> Result<Json<Batch>, ApiError> {
    let mut store = app.store();
    let batch = store.batch(&account, &id).ok_or_else(|| unknown(&id))?;
    if !batch.object.cancel() {
        let status = batch.object.status.name();
        let message = format!("Cannot cancel a batch with status '{status}'.");
        return Err(ApiError::conflict(message));
    }
    if !batch.object.ignores_cancel() {
        batch.control.tell(Command::Cancel);
    }
    Ok(Json(batch.object.clone()))
}

/// A batch that does not exist for whoever asks.
pub fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("No batch found with id '{id}'."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn windows_are_whole_hours() {
        assert_eq!(seconds("24h"), Some(86_400));
        for window in ["24", "1d", "0h", "h", "-1h", "1.5h"] {
            assert_eq!(seconds(window), None, "{window}");
        }
    }

    #[test]
    fn metadata_keeps_to_its_limits() {
        let of = |pairs: Vec<(String, String)>| {
            let pairs: BTreeMap<_, _> = pairs.into_iter().collect();
            metadata(Some(json!(pairs))).is_ok()
        };
        let numbered = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        assert!(of(numbered(16)) && !of(numbered(17)));
        assert!(of(vec![("é".repeat(64), "é".repeat(512))]));
        assert!(!of(vec![("k".repeat(65), String::new())]));
        assert!(!of(vec![(String::new(), "v".repeat(513))]));
        assert!(metadata(Some(json!({"a": 1}))).is_err());
    }
}
