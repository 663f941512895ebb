//! Calls of a client: the address and the credential of a request, its sending, and its reply.

use bytes::Bytes;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{CALL_TIMEOUT, OpenAi, wire};
use crate::api::text::clip;
use crate::provider::answers::{self, Answer, AnswerMemory};
use crate::provider::dialect::Credential;
use crate::provider::{ApiError, ErrorKind};
use crate::transport::{self, Patience, Redirect, SendError};

/// Maximum length of a call's name in messages, in bytes.
pub(super) const CALL_LIMIT: usize = 256;

impl OpenAi {
    pub(super) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = (self.dialect.root)(self.base.clone());
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.transport.request(method, url);
        match (&self.key, self.dialect.credential) {
            (None, _) => request,
            (Some(key), Credential::Bearer) => request.bearer_auth(key.expose_secret()),
            (Some(key), Credential::Header(name)) => match HeaderValue::from_str(key.expose_secret()) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    request.header(name, value)
                }
                // This request fails when it is built, with a message that does not contain the key.
                Err(_) => request.header(name, "\n"),
            },
        }
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, ApiError> {
        self.send_patiently(request, Patience::USUAL).await
    }

    pub(super) async fn send_patiently(
        &self,
        request: RequestBuilder,
        patience: Patience,
    ) -> Result<reqwest::Response, ApiError> {
        let request = request.build().map_err(|e| ApiError::new(ErrorKind::InvalidInput, e.to_string()))?;
        self.send_built(request, patience).await
    }

    async fn send_built(&self, request: reqwest::Request, patience: Patience) -> Result<reqwest::Response, ApiError> {
        let asked = request.url().clone();
        let call = call(&request);
        self.pace.ready_soon().await?;
        let response = self.transport.send_patiently(request, patience).await.map_err(|e| send_error(&call, e))?;
        self.pace.saw(response.status(), transport::retry_after(response.headers()));
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        if let Some(redirect) = Redirect::of(&asked, status, &headers) {
            return Err(self.redirected(&asked, status, &redirect));
        }
        let body = self.without_key(answers::beginning(response).await.unwrap_or_default());
        Err(wire::api_error(self.dialect, status, &headers, &body, &call))
    }

    /// Returns what `read` takes of the document that answers `request`.
    pub(super) async fn json<T>(&self, request: RequestBuilder, read: impl FnOnce(&Value) -> T) -> Result<T, ApiError> {
        self.json_in(&self.answers.timed(), request, read).await
    }

    /// Returns the same, with other memory for the answer. The call ends after [`CALL_TIMEOUT`], without its wait for memory.
    pub(super) async fn json_in<T>(
        &self,
        memory: &AnswerMemory,
        request: RequestBuilder,
        read: impl FnOnce(&Value) -> T,
    ) -> Result<T, ApiError> {
        let request = request.build().map_err(|e| ApiError::new(ErrorKind::InvalidInput, e.to_string()))?;
        let call = call(&request);
        let answer = async { read_body(memory, self.send_built(request, Patience::USUAL).await?).await };
        let answer = memory.in_time(CALL_TIMEOUT, answer).await.unwrap_or_else(|_| {
            let why = format!("no whole answer within {} s", CALL_TIMEOUT.as_secs());
            Err(send_error(&call, SendError::TimedOut(why)))
        });
        answer?.json(read).ok_or_else(unreadable)
    }

    /// Returns the error for a redirect, which says where it leads and what to set instead. Following it would send the key, or
    /// the requests, to a host that the provider object does not name.
    pub(super) fn redirected(&self, asked: &Url, status: StatusCode, redirect: &Redirect) -> ApiError {
        let origin = &redirect.origin;
        let remedy = match redirect.base(&self.base, asked) {
            Some(base) => format!("create a BatchProvider with `spec.baseURL: {base}`"),
            None => {
                "have the server answer this itself, or set `spec.baseURL` of another BatchProvider to one that does"
                    .into()
            }
        };
        let message =
            format!("the server answered {status} and leads to {origin}; redirects are not followed: {remedy}");
        ApiError {
            kind: ErrorKind::Redirected,
            message,
            status: Some(status.as_u16()),
            retry_after: None,
            source: None,
        }
    }

    /// Removes the key from a reply. Some servers repeat the key that they refuse, and their messages are shown to people.
    pub(super) fn without_key(&self, body: Bytes) -> Bytes {
        let key = self.key.as_ref().map(|k| k.expose_secret()).filter(|key| !key.is_empty());
        match key {
            Some(key) => String::from_utf8_lossy(&body).replace(key, "[key]").into(),
            None => body,
        }
    }
}

/// Returns the name of a call in messages, such as `POST https://api.openai.com/v1/files`: its method, host and path.
pub(super) fn call(request: &reqwest::Request) -> String {
    let mut url = request.url().clone();
    url.set_query(None);
    // Neither of these fails for a URL that has a host.
    let _ = (url.set_username(""), url.set_password(None));
    clip(format!("{} {url}", request.method()), CALL_LIMIT)
}

pub(super) async fn read_body(memory: &AnswerMemory, response: reqwest::Response) -> Result<Answer, ApiError> {
    let from = response.url().host_str().unwrap_or_default().to_string();
    memory.read(response).await.map_err(|e| e.of_call(&format!("the answer of {from}")))
}

/// Returns the error of a request that got no reply. `call` is its name.
pub(in crate::provider) fn send_error(call: &str, error: SendError) -> ApiError {
    let (kind, message) = match &error {
        SendError::NotSent(why) => (ErrorKind::NotSent, format!("cannot reach the provider: {call}: {why}")),
        SendError::NotAllowed(why) => (ErrorKind::NotAllowed, format!("the provider's host: {why}")),
        other => (ErrorKind::Transient, format!("{call}: {other}")),
    };
    ApiError { source: Some(error), ..ApiError::new(kind, message) }
}

pub(super) fn unreadable() -> ApiError {
    ApiError::new(ErrorKind::Transient, "the server answered something that is not the JSON that was asked for")
}
