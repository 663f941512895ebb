//! What stands before the API: keys, and faults that were ordered.

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;

use super::error::ApiError;
use crate::app::Shared;
use crate::faults::{Action, Moment, Point};
use crate::ids;
use crate::serve::cut;

/// Lets in who has a key and notes whose it is.
pub async fn account(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(account) = app.settings.accounts.of(authorization) else {
        drain(request.into_body()).await;
        return ApiError::unauthorized().into_response();
    };
    request.extensions_mut().insert(account);
    next.run(request).await
}

/// Names each answer, as the vendor does.
pub async fn request_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&ids::fresh("req_")) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Carries out the faults of one point of the API.
pub async fn faults(State((app, point)): State<(Shared, Point)>, request: Request, next: Next) -> Response {
    let faults = &app.settings.faults;
    match faults.take(point, Moment::Arrival) {
        Some(Action::DropRequest) => return cut(),
        Some(Action::Status { status, retry_after, body }) => {
            drain(request.into_body()).await;
            return ordered(status, retry_after, body);
        }
        Some(Action::DropReply) | None => {}
    }
    let response = next.run(request).await;
    if response.status().is_success() && faults.take(point, Moment::Reply).is_some() {
        return cut();
    }
    response
}

/// An answer that somebody ordered.
fn ordered(status: u16, retry_after: Option<u64>, body: Option<String>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match body {
        Some(body) => (status, [(CONTENT_TYPE, content_type(&body))], body).into_response(),
        None => ApiError::ordered(status).into_response(),
    };
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn content_type(body: &str) -> &'static str {
    match body.trim_start().chars().next() {
        Some('{' | '[') => "application/json",
        Some('<') => "text/html",
        _ => "text/plain",
    }
}

/// Reads an upload to its end, so that its sender comes to read the answer.
async fn drain(mut body: Body) {
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
