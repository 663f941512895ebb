//! The connection of `object_store` to [`Transport`], so that requests to storage obey the same rules as all others.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::try_unfold;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body::Body as _;
use http_body_util::StreamBody;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use reqwest::{Method, Url};

use super::{Peer, ReservedMemory, SendError, Transport, stream};

/// Maximum size of an answer that names many objects, in bytes: a page of a listing, or the outcome of a deletion of many. Such an answer
/// is read into memory. A page of 1,000 keys of the greatest length has 2 MB.
const NAMES_LIMIT: u64 = 8 << 20;
/// Maximum size of any other answer that is not an object's content, in bytes.
const ANSWER_LIMIT: u64 = 256 << 10;
/// Size of an answer that is held without a reservation, in bytes. No more than this is read of an error.
const SMALL: u64 = 64 << 10;
/// Most memory that an answer takes, as a multiple of its length: its text, and the names that are read of it.
const HELD: u64 = 3;

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
        // Its length is known, because object stores refuse chunked uploads.
        if body.size_hint().exact() != Some(0) {
            *out.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let is_listing = is_list(out.url().as_str());
        let is_content = out.method() == Method::GET && !is_listing;
        let names_many = is_listing || out.method() == Method::POST && is_deletion_of_many(out.url());
        if is_listing {
            self.goes_on(out.url())?;
        }
        let response = self.transport.send(out).await.map_err(http_error)?;
        let (mut head, ()) = http::Response::new(()).into_parts();
        (head.status, head.headers) = (response.status(), response.headers().clone());
        let body = match response.status().is_success() {
            false => beginning(stream(response, u64::MAX)).left_stream(),
            true if is_content => stream(response, u64::MAX).left_stream().right_stream(),
            true => held(stream(response, if names_many { NAMES_LIMIT } else { ANSWER_LIMIT }))
                .right_stream()
                .right_stream(),
        };
        let frames = body.map(|chunk| chunk.map(http_body::Frame::data).map_err(http_error));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(StreamBody::new(frames))))
    }
}

/// Reserves memory for an answer that is read whole, as it comes. The work that reads it counts what it holds, and begins again with a
/// larger share of the memory if that is too much for now.
fn held(
    body: impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static {
    let state = (Box::pin(body), ReservedMemory::default(), 0);
    try_unfold(state, |(mut body, mut reserved, before)| async move {
        let Some(chunk) = body.try_next().await? else { return Ok(None) };
        let bytes = before + chunk.len() as u64;
        if bytes > SMALL {
            reserved.set(HELD * bytes).await;
        }
        Ok(Some((chunk, (body, reserved, bytes))))
    })
}

/// Returns the beginning of a body: at least [`SMALL`] bytes, or all of a shorter body.
fn beginning(
    body: impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static {
    let mut bytes = 0;
    body.take_while(move |chunk| {
        let is_wanted = bytes < SMALL;
        bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        std::future::ready(is_wanted)
    })
}

/// Returns whether the URL is that of S3's DeleteObjects, which answers with the names of all objects
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>).
fn is_deletion_of_many(url: &Url) -> bool {
    url.query_pairs().any(|(key, _)| key == "delete")
}

/// Returns whether the URL is a page of a listing, by the query of S3's ListObjectsV2
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>).
pub fn is_list(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("list-type="))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Meter;

    /// Reads a body of so many bytes. Returns the most memory that was reserved for it meanwhile, and what is at its end.
    async fn most_reserved(bytes: u64) -> (u64, u64) {
        let meter = Meter::default();
        let chunks = (0..bytes.div_ceil(1 << 10)).map(|_| Ok(Bytes::from(vec![b'x'; 1 << 10])));
        let most = meter.clone().measure(async {
            let (mut body, mut most) = (std::pin::pin!(held(futures::stream::iter(chunks.collect::<Vec<_>>()))), 0);
            while let Some(chunk) = body.next().await {
                chunk.unwrap();
                most = most.max(meter.reserved());
            }
            most
        });
        (most.await, meter.reserved())
    }

    #[tokio::test]
    async fn an_answer_that_is_read_whole_counts_for_the_work_that_reads_it_unless_it_is_small() {
        assert_eq!(most_reserved(SMALL).await, (0, 0));
        assert_eq!(most_reserved(2 << 20).await, (HELD * (2 << 20), 0));
    }

    #[test]
    fn a_deletion_of_many_is_told_from_other_calls() {
        let is = |url: &str| is_deletion_of_many(&url.parse().unwrap());
        assert!(is("https://s3.example/bucket?delete") && is("https://s3.example/bucket?delete="));
        assert!(
            !is("https://s3.example/bucket/delete?uploads") && !is("https://s3.example/b?list-type=2&prefix=delete")
        );
    }
}
