//! What stands before the API: keys, and faults that were ordered.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::error::{ApiError, Said};
use crate::accounts::Account;
use crate::app::Shared;
use crate::faults::{Moment, Point, Wire};
use crate::ids;
use crate::serve::{cut, cut_within};
use crate::vendor::Vendor;

/// What a gateway says when it cannot reach what is behind it.
const PAGE: &str = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>\n\
    <center><h1>502 Bad Gateway</h1></center>\n<hr><center>gateway</center>\n</body>\n</html>\n";

/// How many seconds old a batch must be to be listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lag(pub u32);

/// Two batches are made of one request.
#[derive(Debug, Clone, Copy)]
pub struct Doubled;

/// Lets in who has a key and notes whose it is, and whose API was asked. Azure wants the key in a header of its own.
pub async fn account(State((app, vendor)): State<(Shared, Vendor)>, mut request: Request, next: Next) -> Response {
    let Some(account) = admitted(&app, vendor, request.headers()) else {
        drain(request.into_body()).await;
        return match vendor {
            Vendor::OpenAi => ApiError::unauthorized().into_response(),
            Vendor::Azure => ApiError::access_denied().into_response(),
        };
    };
    request.extensions_mut().insert(account);
    request.extensions_mut().insert(vendor);
    next.run(request).await
}

fn admitted(app: &Shared, vendor: Vendor, headers: &HeaderMap) -> Option<Account> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (accounts, authorization) = (&app.settings.accounts, header(AUTHORIZATION.as_str()));
    match vendor {
        Vendor::OpenAi => accounts.of(authorization),
        Vendor::Azure => accounts.of_header(header("api-key")).filter(|_| authorization.is_none()),
    }
}

/// Errors in the vendor's shape: Azure says a code and a message, and no more.
pub async fn spelled(State(vendor): State<Vendor>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match response.extensions().get::<Said>() {
        Some(Said { code, message }) if vendor == Vendor::Azure => {
            let body = json!({"error": {"code": code, "message": message}});
            (response.status(), Json(body)).into_response()
        }
        _ => response,
    }
}

/// Lets in who names a version of the API in the query, as Azure wants it where the path has none.
pub async fn version(request: Request, next: Next) -> Response {
    let versions =
        request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("api-version="));
    if versions.max().is_some_and(|version| version.starts_with("20")) {
        return next.run(request).await;
    }
    drain(request.into_body()).await;
    let body = json!({"error": {"code": "404", "message": "Resource not found"}});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// Names each answer, as the vendor does.
pub async fn request_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&ids::fresh("req_")) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Counts the requests to one point of the API and carries out its faults.
pub async fn faults(State((app, point)): State<(Shared, Point)>, mut request: Request, next: Next) -> Response {
    app.count(point.name());
    let faults = &app.settings.faults;
    match faults.take(point, Moment::Arrival) {
        Some(Wire::DropRequest {}) => return cut(),
        Some(Wire::Status { status, retry_after, body }) => {
            drain(request.into_body()).await;
            return ordered(status, retry_after, body);
        }
        Some(Wire::Html {}) => {
            drain(request.into_body()).await;
            return ordered(502, None, Some(PAGE.to_owned()));
        }
        Some(Wire::Redirect { location, status }) => {
            drain(request.into_body()).await;
            return redirected(status, &location);
        }
        Some(Wire::Lag { seconds }) => {
            request.extensions_mut().insert(Lag(seconds));
            return next.run(request).await;
        }
        Some(Wire::Double {}) => {
            request.extensions_mut().insert(Doubled);
            return next.run(request).await;
        }
        Some(Wire::UnknownFile {}) => return unknown_file(request.into_body()).await,
        _ => {}
    }
    let response = next.run(request).await;
    if !response.status().is_success() {
        return response;
    }
    match faults.take(point, Moment::Reply) {
        Some(Wire::DropReply {}) => cut(),
        Some(Wire::Deny { status, retry_after, body }) => ordered(status, retry_after, body),
        Some(Wire::Truncate { bytes }) => cut_within(response, bytes),
        Some(Wire::Delay { milliseconds }) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            response
        }
        _ => response,
    }
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

fn redirected(status: u16, location: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    (status, [(LOCATION, location)], "").into_response()
}

/// What is said of a file that a server's other half does not know yet.
async fn unknown_file(body: Body) -> Response {
    let asked = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&asked).unwrap_or_default();
    let id = asked["input_file_id"].as_str().unwrap_or("of this request");
    ApiError::invalid(format!("Cannot find file {id}, or it is not accessible.")).param("input_file_id").into_response()
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
