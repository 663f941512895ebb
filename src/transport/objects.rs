//! The connection of `object_store` to [`Transport`], so that requests to storage obey the same rules as all others.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use reqwest::{Method, Url};

use super::{Peer, SendError, Transport, stream};

/// Maximum size of an answer that is not an object's content, in bytes. Such an answer is read into memory. A page of 1,000 keys of the
/// greatest length has 2 MB.
const ANSWER_LIMIT: u64 = 8 << 20;

/// Maximum number of requests for one page of a listing. `object_store` tries a page four times, and several listings may run at once.
const SAME_PAGE: u32 = 16;
/// Number of pages after which requests are counted anew: the longest circle of pages that is found.
const CIRCLE: usize = 1_024;

/// A connector of `object_store` that sends through a [`Transport`].
#[derive(Clone, Debug)]
pub struct ObjectConnector {
    transport: Transport,
    /// The number of requests for each page since a listing began, by the hash of its URL.
    pages: Arc<Mutex<HashMap<u64, u32>>>,
}

impl ObjectConnector {
    /// Returns a connector for one store.
    pub fn new(transport: Transport) -> ObjectConnector {
        ObjectConnector { transport: transport.to(Peer::Store), pages: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn into_transport(self) -> Transport {
        self.transport
    }

    /// Counts the requests for each page of a listing, and fails beyond [`SAME_PAGE`]. A server whose empty pages continue with
    /// themselves, or with one another, would keep `object_store` busy, and show its caller no object by which to notice.
    fn goes_on(&self, url: &Url) -> Result<(), HttpError> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = BuildHasherDefault::<DefaultHasher>::default().hash_one(url.as_str());
        let is_first = !url.query_pairs().any(|(key, _)| key == "continuation-token");
        if is_first || pages.len() >= CIRCLE && !pages.contains_key(&page) {
            pages.clear();
        }
        let requests = pages.entry(page).or_insert(0);
        *requests += 1;
        match *requests > SAME_PAGE {
            true => {
                Err(HttpError::new(HttpErrorKind::Unknown, SendError::MaybeSent("the listing goes in a circle".into())))
            }
            false => Ok(()),
        }
    }
}

impl HttpConnector for ObjectConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for ObjectConnector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        let mut out = reqwest::Request::new(parts.method, url);
        *out.headers_mut() = parts.headers;
        let chunks = body.into_data_stream().map_err(|e| HttpError::new(HttpErrorKind::Request, e));
        let bytes: Vec<bytes::Bytes> = chunks.try_collect().await?;
        if bytes.iter().any(|b| !b.is_empty()) {
            *out.body_mut() = Some(whole(bytes));
        }
        let is_listing = is_list(out.url().as_str());
        let is_content = out.method() == Method::GET && !is_listing;
        if is_listing {
            self.goes_on(out.url())?;
        }
        let response = self.transport.send(out).await.map_err(http_error)?;
        let limit = if is_content && response.status().is_success() { u64::MAX } else { ANSWER_LIMIT };
        let (mut head, ()) = http::Response::new(()).into_parts();
        (head.status, head.headers) = (response.status(), response.headers().clone());
        let frames = stream(response, limit).map(|chunk| chunk.map(http_body::Frame::data).map_err(http_error));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(StreamBody::new(frames))))
    }
}

/// Returns whether the URL is a page of a listing, by the query of S3's ListObjectsV2
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>).
pub fn is_list(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("list-type="))
}

/// Returns a body of known length, because object stores refuse chunked uploads.
fn whole(chunks: Vec<bytes::Bytes>) -> reqwest::Body {
    match <[_; 1]>::try_from(chunks) {
        Ok([one]) => one.into(),
        Err(many) => many.concat().into(),
    }
}

fn http_error(error: SendError) -> HttpError {
    let kind = match error {
        SendError::NotSent(_) => HttpErrorKind::Connect,
        // A retry would not help, and `object_store` does not retry this kind.
        SendError::NotAllowed(_) => HttpErrorKind::Unknown,
        SendError::MaybeSent(_) | SendError::TimedOut(_) => HttpErrorKind::Interrupted,
        SendError::TooLarge(_) => HttpErrorKind::Decode,
    };
    HttpError::new(kind, error)
}
