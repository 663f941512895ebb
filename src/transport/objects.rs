//! Puts [`Transport`] under `object_store`, so that storage goes out the same way as everything else.

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

/// Largest answer that is not an object's content, in bytes: it is read whole. A page of 1,000 keys of the greatest length
/// is 2 MB.
const ANSWER_LIMIT: u64 = 8 << 20;

/// Times that one page of a listing is asked for in a row: `object_store` tries four times, and two listings may meet.
const SAME_PAGE: u32 = 16;

/// Connects `object_store` through a [`Transport`].
#[derive(Clone, Debug)]
pub struct ObjectConnector {
    transport: Transport,
    page: Arc<Mutex<(String, u32)>>,
}

impl ObjectConnector {
    /// Returns a connector for one store.
    pub fn new(transport: Transport) -> ObjectConnector {
        ObjectConnector { transport: transport.to(Peer::Store), page: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn into_transport(self) -> Transport {
        self.transport
    }

    /// A server can send a listing in a circle of empty pages, which nothing above sees.
    fn goes_on(&self, url: &Url) -> Result<(), HttpError> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if !url.query_pairs().any(|(key, _)| key == "continuation-token") || page.0 != url.as_str() {
            *page = (url.as_str().into(), 0);
        }
        page.1 += 1;
        match page.1 > SAME_PAGE {
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

/// Returns whether the URL is that of a page of a listing;
/// https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.
pub fn is_list(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("list-type="))
}

/// Returns a body of known length: storage refuses chunked uploads.
fn whole(chunks: Vec<bytes::Bytes>) -> reqwest::Body {
    match <[_; 1]>::try_from(chunks) {
        Ok([one]) => one.into(),
        Err(many) => many.concat().into(),
    }
}

fn http_error(error: SendError) -> HttpError {
    let kind = match error {
        SendError::NotSent(_) => HttpErrorKind::Connect,
        // A retry would not help.
        SendError::NotAllowed(_) => HttpErrorKind::Unknown,
        SendError::MaybeSent(_) | SendError::TimedOut(_) => HttpErrorKind::Interrupted,
        SendError::TooLarge(_) => HttpErrorKind::Decode,
    };
    HttpError::new(kind, error)
}
