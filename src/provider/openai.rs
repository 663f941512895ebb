//! OpenAI's files and batches API, as OpenAI and compatible servers speak it.
//!
//! Paths, limits and states: https://platform.openai.com/docs/api-reference/batch and OpenAI's published OpenAPI document.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::retry::repeat;
use super::{
    ApiError, Batch, BatchApi, Class, CreateBatch, Created, InputFile, Pace, See, TOKEN_LIMIT, says_not_found, wire,
};
use crate::api::json;
use crate::api::text::clip;
use crate::transport::{Patience, Redirect, SendError, Transport, read_all, stream_patiently};

/// Largest JSON answer that is read, in bytes: a page of 100 batches with all the metadata they can have is 1 MB.
const ANSWER_LIMIT: u64 = 4 << 20;
/// For calls without a body to speak of.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For all pages of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest name of a call that is shown, in bytes.
const CALL_LIMIT: usize = 256;
/// Input files that nobody deletes go by themselves after 30 days, in seconds.
const FILE_LIFETIME: u32 = 2_592_000;
/// Models of an account that are looked at.
const MOST_MODELS: usize = 1_000;
/// Pages of 100 batches that a search reads at most.
const PAGE_LIMIT: usize = 1_000;

/// A client for one account.
#[derive(Clone, Debug)]
pub struct OpenAi {
    transport: Transport,
    base: Url,
    key: Option<SecretString>,
    vendors_own: bool,
    files: Patience,
    pace: Arc<Pace>,
}

impl OpenAi {
    /// A client for the API at `base_url`. `vendors_own` says that no gateway of somebody else stands in front, so that a
    /// refusal is the provider's own.
    ///
    /// # Errors
    /// When the URL cannot be parsed.
    pub fn new(
        transport: Transport,
        base_url: &str,
        key: Option<SecretString>,
        vendors_own: bool,
    ) -> Result<Self, ApiError> {
        let base = Url::parse(base_url)
            .map_err(|e| ApiError::new(Class::InvalidInput, format!("`spec.baseURL` '{base_url}': {e}")))?;
        Ok(OpenAi { transport, base, key, vendors_own, files: Patience::FILES, pace: Arc::default() })
    }

    /// The same with another patience for files that are sent and fetched.
    pub fn with_patience(self, files: Patience) -> Self {
        OpenAi { files, ..self }
    }

    /// The same at the pace of an account, which it shares with the account's other clients.
    pub fn at_pace(self, pace: Arc<Pace>) -> Self {
        OpenAi { pace, ..self }
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.transport.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, ApiError> {
        self.send_patiently(request, Patience::USUAL).await
    }

    async fn send_patiently(&self, request: RequestBuilder, patience: Patience) -> Result<reqwest::Response, ApiError> {
        let request = request.build().map_err(|e| ApiError::new(Class::InvalidInput, e.to_string()))?;
        let asked = request.url().clone();
        let call = call(&request);
        self.pace.ready_soon().await?;
        let response = self.transport.send_patiently(request, patience).await.map_err(|e| send_error(&call, e))?;
        self.pace.saw(response.status(), wire::retry_after(response.headers()));
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        if let Some(redirect) = Redirect::of(&asked, status, &headers) {
            return Err(self.redirected(&asked, status, &redirect));
        }
        let body = self.without_key(read_all(response, ANSWER_LIMIT).await.unwrap_or_default());
        Err(wire::api_error(status, &headers, &body, &call))
    }

    /// Says where a redirect leads and what to set instead. Following it would send the key, or the requests, to a host that
    /// nobody named.
    fn redirected(&self, asked: &Url, status: StatusCode, redirect: &Redirect) -> ApiError {
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
        ApiError { class: Class::Redirected, message, status: Some(status.as_u16()), retry_after: None }
    }

    /// Some servers repeat the key that they refuse, and what they say is shown to people.
    fn without_key(&self, body: Bytes) -> Bytes {
        let key = self.key.as_ref().map(|k| k.expose_secret()).filter(|key| !key.is_empty());
        match key {
            Some(key) => String::from_utf8_lossy(&body).replace(key, "[key]").into(),
            None => body,
        }
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, ApiError> {
        let response = self.send(request.timeout(CALL_TIMEOUT)).await?;
        let body = read_body(response).await?;
        json::parse(&body).ok_or_else(unreadable)
    }

    /// Page by page, to its end, or, where it shows that the newest come first, to where it is too old.
    async fn list_all(&self, since: i64, see: &mut See<'_>) -> Result<(), ApiError> {
        let (mut after, mut read, mut cursors) = (None, 0, HashSet::new());
        let mut order = Order::default();
        for _ in 0..PAGE_LIMIT {
            let page = match self.page(after.as_deref()).await {
                // llm-d's gateway wants an offset where OpenAI wants the last id.
                Err(e) if read > 0 && e.class == Class::InvalidInput => self.page(Some(&read.to_string())).await?,
                page => page?,
            };
            read += page.batches.len();
            let is_old = |b: &Batch| b.created_at > 0 && b.created_at < since.saturating_sub(86_400);
            page.batches.iter().for_each(|b| order.see(b.created_at));
            let old = order.is_newest_first() && page.batches.iter().all(is_old);
            if page.batches.iter().any(|b| !is_old(b) && (b.id.is_empty() || says_nothing(b))) {
                return Err(blind("it shows batches without an id, or with neither a file nor metadata"));
            }
            if see(&page.batches).is_break() {
                return Ok(());
            }
            match page.next {
                Some(next) if !old && cursors.insert(next.clone()) => after = Some(next),
                Some(_) if !old => return Err(blind("it repeats a page")),
                _ => return Ok(()),
            }
        }
        Err(blind(&format!("it has more than {PAGE_LIMIT} pages of younger batches")))
    }

    async fn page(&self, after: Option<&str>) -> Result<Page, ApiError> {
        let query: Vec<(&str, &str)> = [("limit", "100")].into_iter().chain(after.map(|a| ("after", a))).collect();
        let value = repeat(|| self.json(self.request(Method::GET, &["batches"]).query(&query))).await?;
        let list = value.get("data").unwrap_or(&value).as_array().ok_or_else(unreadable)?;
        let batches: Vec<Batch> = list.iter().filter_map(wire::entry).collect();
        // What is cut off, or is no batch, might be the one that is looked for.
        if batches.len() < list.len() || list.len() >= json::MOST_ELEMENTS {
            return Err(blind("it holds what is no batch, or more than a page"));
        }
        let last = wire::id(&value, "last_id").or_else(|| batches.last().map(|b| b.id.clone()));
        let more = match (value.get("has_more").and_then(Value::as_bool), last) {
            (Some(false), _) => None,
            // A server that does not say has no more when it gives an empty page.
            (None, last) => last,
            (Some(true), Some(last)) if !last.is_empty() => Some(last),
            (Some(true), _) => return Err(blind("it says that there is more, and not where")),
        };
        Ok(Page { batches, next: more })
    }
}

struct Page {
    batches: Vec<Batch>,
    next: Option<String>,
}

/// In which order a list is, as far as it was read. Not every server has the newest first: llm-d's gateway orders by id.
#[derive(Default)]
struct Order {
    last: Option<i64>,
    fell: bool,
    rose: bool,
}

impl Order {
    fn see(&mut self, created_at: i64) {
        self.fell |= self.last.is_some_and(|last| created_at < last);
        self.rose |= self.last.is_some_and(|last| created_at > last);
        self.last = Some(created_at);
    }

    fn is_newest_first(&self) -> bool {
        self.fell && !self.rose
    }
}

/// A list in which a batch of ours could be and not be seen is none.
fn blind(why: &str) -> ApiError {
    ApiError::new(Class::Unsupported, format!("the provider's list of batches cannot be searched: {why}"))
}

/// Neither of what a search could go by.
fn says_nothing(batch: &Batch) -> bool {
    batch.input_file_id.is_none() && batch.metadata.is_empty()
}

fn unreadable() -> ApiError {
    ApiError::new(Class::Transient, "the server answered something that is not the JSON that was asked for")
}

/// Such as `POST https://api.openai.com/v1/files`: method, host and path, for a person.
fn call(request: &reqwest::Request) -> String {
    let mut url = request.url().clone();
    url.set_query(None);
    // Neither fails for a URL that has a host.
    let _ = (url.set_username(""), url.set_password(None));
    clip(format!("{} {url}", request.method()), CALL_LIMIT)
}

async fn read_body(response: reqwest::Response) -> Result<Bytes, ApiError> {
    let from = response.url().host_str().unwrap_or_default().to_string();
    read_all(response, ANSWER_LIMIT).await.map_err(|e| send_error(&format!("the answer of {from}"), e))
}

/// `call` says what was tried.
fn send_error(call: &str, error: SendError) -> ApiError {
    match error {
        SendError::NotSent(why) => ApiError::new(Class::NotSent, format!("cannot reach the provider: {call}: {why}")),
        SendError::NotAllowed(why) => ApiError::new(Class::NotAllowed, format!("the provider's host: {why}")),
        other => ApiError::new(Class::Transient, format!("{call}: {other}")),
    }
}

#[async_trait]
impl BatchApi for OpenAi {
    async fn upload(&self, file: InputFile) -> Result<String, ApiError> {
        let body = reqwest::Body::wrap_stream(file.content);
        let part = reqwest::multipart::Part::stream_with_length(body, file.bytes)
            .file_name(file.name)
            .mime_str("application/jsonl")
            .map_err(|e| ApiError::new(Class::InvalidInput, e.to_string()))?;
        let form = reqwest::multipart::Form::new()
            .text("purpose", "batch")
            .text("expires_after[anchor]", "created_at")
            .text("expires_after[seconds]", FILE_LIFETIME.to_string())
            .part("file", part);
        let request = self.request(Method::POST, &["files"]).multipart(form);
        let response = self.send_patiently(request, self.files).await?;
        let body = read_body(response).await?;
        let value = json::parse(&body).ok_or_else(unreadable)?;
        wire::file(&value).ok_or_else(|| match wire::unusable(&value, "id") {
            Some(why) => ApiError::new(Class::Transient, format!("the server names the uploaded file, and {why}")),
            None => unreadable(),
        })
    }

    async fn create(&self, batch: &CreateBatch) -> Created {
        let body = serde_json::json!({
            "input_file_id": batch.input_file_id,
            "endpoint": batch.endpoint,
            "completion_window": format!("{}h", batch.window_hours),
            "metadata": batch.metadata.iter().map(|(k, v)| (k.to_string(), Value::from(v.as_str()))).collect::<serde_json::Map<_, _>>(),
        });
        let request = self
            .request(Method::POST, &["batches"])
            .header("idempotency-key", &batch.intent_id)
            .header("x-client-request-id", &batch.intent_id)
            .json(&body)
            .timeout(batch.timeout)
            .build();
        let request = match request {
            Ok(request) => request,
            Err(e) => return Created::No(ApiError::new(Class::InvalidInput, e.to_string())),
        };
        let asked = request.url().clone();
        let call = call(&request);
        let response = match self.transport.send(request).await {
            Ok(response) => response,
            Err(e @ (SendError::NotSent(_) | SendError::NotAllowed(_))) => return Created::No(send_error(&call, e)),
            Err(e) => return Created::Unknown(send_error(&call, e)),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        self.pace.saw(status, wire::retry_after(&headers));
        if let Some(redirect) = Redirect::of(&asked, status, &headers) {
            let error = self.redirected(&asked, status, &redirect);
            return Created::Unknown(ApiError { status: Some(status.as_u16()), ..error });
        }
        match read_all(response, ANSWER_LIMIT).await {
            Ok(body) if status.is_success() => match Batch::read(&body) {
                Some(batch) => Created::Yes(batch.id),
                None => {
                    let why = json::parse(&body).and_then(|value| wire::unusable(&value, "id"));
                    let why = why.map(|why| format!("; {why}")).unwrap_or_default();
                    Created::Unknown(lost(format!("the server answered {status} without a batch{why}")))
                }
            },
            Ok(body) => {
                let body = self.without_key(body);
                let error = wire::api_error(status, &headers, &body, &call);
                let error = about_a_create(error, &body, &batch.input_file_id);
                refused(self.vendors_own, status, &body, error)
            }
            Err(e) => Created::Unknown(lost(e.to_string())),
        }
    }

    async fn list(&self, since: i64, see: &mut See<'_>) -> Result<(), ApiError> {
        let listed = tokio::time::timeout(LIST_TIMEOUT, self.list_all(since, see)).await;
        listed.unwrap_or_else(|_| Err(blind(&format!("it takes more than {} s to read", LIST_TIMEOUT.as_secs()))))
    }

    async fn get(&self, batch_id: &str) -> Result<Batch, ApiError> {
        let value = repeat(|| self.json(self.request(Method::GET, &["batches", batch_id]))).await?;
        // Another batch's state must never be taken for this one's: a cache in between can mix them up.
        wire::batch(&value).filter(|batch| batch.id == batch_id).ok_or_else(unreadable)
    }

    async fn cancel(&self, batch_id: &str) -> Result<(), ApiError> {
        let call = || self.send(self.request(Method::POST, &["batches", batch_id, "cancel"]).timeout(CALL_TIMEOUT));
        match repeat(call).await {
            Ok(_) => Ok(()),
            // Ending or ended: OpenAI and llm-d say 400, AIBrix says 409.
            Err(e) if matches!(e.class, Class::InvalidInput | Class::NotFound) => Ok(()),
            Err(e) if e.status == Some(409) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn file_name(&self, file_id: &str) -> Result<String, ApiError> {
        let value = repeat(|| self.json(self.request(Method::GET, &["files", file_id]))).await?;
        Ok(wire::text(&value, "filename").unwrap_or_default())
    }

    async fn models(&self) -> Result<Vec<String>, ApiError> {
        let value = repeat(|| self.json(self.request(Method::GET, &["models"]))).await?;
        let list = value.get("data").unwrap_or(&value).as_array().ok_or_else(unreadable)?;
        let name = |entry: &Value| wire::id(entry, "id").or_else(|| entry.as_str().map(String::from));
        Ok(list.iter().filter_map(name).take(MOST_MODELS).collect())
    }

    async fn content(
        &self,
        file_id: &str,
        limit: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let ask = || self.request(Method::GET, &["files", file_id, "content"]);
        let response = repeat(|| self.send_patiently(ask(), self.files)).await?;
        let call = clip(format!("GET {}", response.url()), CALL_LIMIT);
        Ok(stream_patiently(response, limit, self.files).map_err(move |e| send_error(&call, e)).boxed())
    }

    async fn delete_file(&self, file_id: &str) -> Result<(), ApiError> {
        let call = || self.send(self.request(Method::DELETE, &["files", file_id]).timeout(CALL_TIMEOUT));
        match repeat(call).await {
            Ok(_) => Ok(()),
            Err(e) if e.class == Class::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A refusal counts only from the vendor's own mouth: a gateway in front may have tried again, and a page of HTML is
/// nobody's word.
fn refused(vendors_own: bool, status: StatusCode, body: &[u8], error: ApiError) -> Created {
    let ambiguous =
        matches!(status.as_u16(), 408 | 409 | 425) || !status.is_client_error() || wire::said(body).is_none();
    match vendors_own && !ambiguous {
        true => Created::No(error),
        false => Created::Unknown(error),
    }
}

/// An answer that tells neither of a batch nor of an error.
fn lost(message: String) -> ApiError {
    ApiError::new(Class::Transient, message)
}

/// What only a create can be told: that the account has no room for its tokens, or that its file is not there.
fn about_a_create(error: ApiError, body: &[u8], file_id: &str) -> ApiError {
    let class = match (error.class, wire::code(body).as_deref(), wire::param(body).as_deref()) {
        (Class::Capacity | Class::InvalidInput, Some(TOKEN_LIMIT), _) => Class::TokenLimit,
        (Class::InvalidInput | Class::NotFound, Some("file_not_found"), _) => Class::FileNotFound,
        (Class::InvalidInput | Class::NotFound, _, param)
            if says_not_found(&error.message, file_id)
                && (param == Some("input_file_id") || error.message.contains(file_id)) =>
        {
            Class::FileNotFound
        }
        (class, ..) => class,
    };
    ApiError { class, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(vendors_own: bool, status: u16, body: &str) -> Created {
        let status = StatusCode::from_u16(status).unwrap();
        let error = wire::api_error(status, &Default::default(), body.as_bytes(), "POST h/v1/batches");
        refused(vendors_own, status, body.as_bytes(), error)
    }

    #[test]
    fn only_the_vendors_own_refusal_is_a_refusal() {
        let said = r#"{"error":{"message":"no"}}"#;
        assert!(matches!(classify(true, 400, said), Created::No(e) if e.class == Class::InvalidInput));
        assert!(matches!(classify(true, 429, said), Created::No(e) if e.class == Class::Capacity));
        assert!(matches!(classify(true, 401, said), Created::No(e) if e.class == Class::Auth));
        for status in [302, 408, 409, 500, 502, 503, 504] {
            assert!(matches!(classify(true, status, said), Created::Unknown(..)), "{status}");
        }
        assert!(matches!(classify(true, 403, "<html>"), Created::Unknown(..)));
        assert!(matches!(classify(false, 400, said), Created::Unknown(..)));
    }
}
