//! The layer between `object_store` and the wire. It reads a refusal before it is discarded, and signs a request again
//! that was signed for another region than the bucket's.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, RANGE};
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};

use super::refusal::{NoContentLength, Refusal};
use crate::transport::{ObjectConnector, is_list};

/// Region that requests are signed for until the bucket's is known. It is Amazon's own default.
const DEFAULT_REGION: &str = "us-east-1";

/// The region that requests are signed for.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// `region` of the location.
    set: Option<String>,
    /// The region that the store named, if `region` is not set.
    found: Arc<Mutex<Option<String>>>,
    /// Whether host names contain the region as well, as Amazon's do.
    in_host: bool,
}

impl Region {
    pub fn new(set: Option<&str>, in_host: bool) -> Region {
        Region { set: set.map(String::from), found: Arc::default(), in_host }
    }

    /// Returns the region that `object_store` signs for.
    pub fn assumed(&self) -> &str {
        self.set.as_deref().unwrap_or(DEFAULT_REGION)
    }

    fn found(&self) -> Option<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the region that the store named. Returns false if the location sets one, or if it is no news.
    fn learn(&self, named: Option<&str>) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match named {
            Some(named) if self.set.is_none() && found.as_deref().unwrap_or(DEFAULT_REGION) != named => {
                *found = Some(named.into());
                true
            }
            _ => false,
        }
    }
}

/// An HTTP service that sends requests and reads refusals.
#[derive(Clone)]
pub(super) struct Answers {
    http: ObjectConnector,
    credential: Arc<AwsCredential>,
    region: Region,
    /// Whether puts are sent with a last byte other than the one that was signed and hashed.
    damages: bool,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("region", &self.region).finish_non_exhaustive()
    }
}

impl HttpConnector for Answers {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Answers {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answered = self.send(&request).await?;
        let refusal = match self.refusal(&request, answered).await? {
            Ok(response) => return has_length(&request, response),
            Err(refusal) => refusal,
        };
        if !self.region.learn(refusal.region()) {
            return Err(for_good(refusal));
        }
        let answered = self.send(&request).await?;
        match self.refusal(&request, answered).await? {
            Ok(response) => has_length(&request, response),
            Err(refusal) => Err(for_good(refusal)),
        }
    }
}

impl Answers {
    pub fn new(http: ObjectConnector, credential: AwsCredential, region: Region) -> Answers {
        Answers { http, credential: Arc::new(credential), region, damages: false }
    }

    /// Returns a service that damages puts, to see whether the store detects it.
    pub fn damaging(&self) -> Answers {
        Answers { damages: true, ..self.clone() }
    }

    /// Sends the request as it is, or signed for the bucket's region if the store named one.
    async fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut request = request.clone();
        if let Some(region) = self.region.found() {
            if self.region.in_host {
                *request.uri_mut() = moved(request.uri(), &region);
            }
            self.sign(&mut request, &region)?;
        }
        match self.damages && request.method() == Method::PUT {
            true => self.http.call(damaged(request).await?).await,
            false => self.http.call(request).await,
        }
    }

    fn sign(&self, request: &mut HttpRequest, region: &str) -> Result<(), HttpError> {
        request.headers_mut().remove(AUTHORIZATION);
        // The digest of the content stays: the signer would compute a wrong one for a payload in several pieces.
        let digest = request.headers().get("x-amz-content-sha256").and_then(|digest| from_hex(digest.as_bytes()));
        let signed = AwsAuthorizer::new(&self.credential, "s3", region).try_authorize(request, digest.as_deref());
        signed.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))
    }

    /// Returns the response, or the refusal in it.
    async fn refusal(
        &self,
        request: &HttpRequest,
        response: HttpResponse,
    ) -> Result<Result<HttpResponse, Refusal>, HttpError> {
        if !is_refusal(response.status()) {
            return Ok(Ok(response));
        }
        let response = match request.method() == Method::HEAD {
            true => self.in_words(request).await?.unwrap_or(response),
            false => response,
        };
        let (head, body) = response.into_parts();
        let body = body.bytes().await.unwrap_or_default();
        Ok(Err(Refusal::read(request, &head, &body, &self.credential)))
    }

    /// Sends the GET that corresponds to a HEAD, because the refusal of a HEAD has no body. Returns None if the GET is
    /// not refused.
    async fn in_words(&self, head: &HttpRequest) -> Result<Option<HttpResponse>, HttpError> {
        let mut get = head.clone();
        *get.method_mut() = Method::GET;
        *get.body_mut() = HttpRequestBody::empty();
        get.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let region = self.region.found();
        if self.region.in_host
            && let Some(region) = &region
        {
            *get.uri_mut() = moved(get.uri(), region);
        }
        self.sign(&mut get, region.as_deref().unwrap_or(self.region.assumed()))?;
        let response = self.http.call(get).await?;
        Ok(is_refusal(response.status()).then_some(response))
    }
}

/// Returns whether an answer is one of which `object_store` keeps nothing but the status, and that the same request would get
/// again.
fn is_refusal(status: StatusCode) -> bool {
    let has_a_meaning = [304, 404, 408, 409, 412, 416, 425, 429].contains(&status.as_u16());
    (status.is_redirection() || status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED) && !has_a_meaning
}

/// Checks that the answer has a Content-Length: an object's size is in no other place.
fn has_length(request: &HttpRequest, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let of_object = match *request.method() {
        Method::HEAD => true,
        Method::GET => !is_list(&request.uri().to_string()),
        _ => false,
    };
    match of_object && response.status().is_success() && !response.headers().contains_key(CONTENT_LENGTH) {
        true => Err(HttpError::new(HttpErrorKind::Unknown, NoContentLength)),
        false => Ok(response),
    }
}

/// Returns the request with another last byte.
async fn damaged(request: HttpRequest) -> Result<HttpRequest, HttpError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
    let mut body = body.to_bytes().to_vec();
    if let Some(last) = body.last_mut() {
        *last ^= 1;
    }
    Ok(HttpRequest::from_parts(head, Bytes::from(body).into()))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?));
    bytes.collect()
}

/// Wraps a refusal in an error of a kind that `object_store` does not retry.
fn for_good(refusal: Refusal) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, refusal)
}

/// Returns the URI at Amazon's host of another region.
fn moved(uri: &Uri, region: &str) -> Uri {
    let assumed = format!("s3.{DEFAULT_REGION}.amazonaws.com");
    let there = uri.to_string().replacen(&assumed, &format!("s3.{region}.amazonaws.com"), 1);
    there.parse().unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_back() {
        assert_eq!(from_hex(b"00ff1A"), Some(vec![0, 255, 26]));
        assert!([&b"0"[..], b"UNSIGNED-PAYLOAD", b"0g"].iter().all(|text| from_hex(text).is_none()));
    }

    #[test]
    fn amazons_host_is_that_of_the_region() {
        for (uri, there) in [
            ("https://s3.us-east-1.amazonaws.com/b/k?x=1", "https://s3.eu-west-3.amazonaws.com/b/k?x=1"),
            ("https://b.s3.us-east-1.amazonaws.com/k", "https://b.s3.eu-west-3.amazonaws.com/k"),
        ] {
            assert_eq!(moved(&uri.parse().unwrap(), "eu-west-3"), there);
        }
    }
}
