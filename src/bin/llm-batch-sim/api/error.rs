//! Errors in the vendor's shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use tracing::error;

/// What an error says, for those who spell it otherwise.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: String,
    pub message: String,
}

/// An answer that is not 2xx.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// 400: the request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: a field is not there.
    pub fn missing(param: &'static str) -> Self {
        Self::invalid(format!("Missing required parameter: '{param}'.")).param(param).code("missing_required_parameter")
    }

    /// 401: not one of our keys.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Incorrect API key provided.").code("invalid_api_key")
    }

    /// 401: no key of ours, in Azure's words.
    pub fn access_denied() -> Self {
        let message = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for \
                       an active subscription and use a correct regional API endpoint for your resource.";
        Self::new(StatusCode::UNAUTHORIZED, message).code("401")
    }

    /// 403: not for this account.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404: does not exist, or belongs to somebody else.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409: makes sense, but not now.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Any status, for a fault that somebody ordered.
    pub fn ordered(status: StatusCode) -> Self {
        Self::new(status, "This error was ordered as a fault.")
    }

    /// 500: our own fault; the client is not told more.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        error!(%error, "a request failed");
        let message = "The server had an error while processing your request.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Names the field that is wrong.
    pub fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Names the kind of error, for programs.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = match self.status.as_u16() {
            500.. => "server_error",
            429 => "rate_limit_error",
            _ => "invalid_request_error",
        };
        let body = json!({"error": {
            "message": &self.message, "type": kind, "param": self.param, "code": self.code,
        }});
        let code = self.code.map_or_else(|| self.status.as_u16().to_string(), str::to_owned);
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(Said { code, message: self.message });
        response
    }
}
