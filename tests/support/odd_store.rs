//! S3-compatible servers as they are: what each kind refuses, and a store in memory that refuses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// How a store differs from Amazon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// It takes every write, whatever its condition.
    IgnoresConditions,
    /// 501 to this header of a PUT, as Alibaba's OSS.
    Lacks(&'static str),
    /// The bucket has to be in the host's name, as with Alibaba's OSS.
    WantsBucketInHost,
    /// It is in this region, and tells so with every error, as MinIO and Garage.
    Region(&'static str),
    /// It is in this region, and tells so in a header of a redirect that leads nowhere, as Amazon.
    RedirectsToRegion(&'static str),
    /// It is in this region, and does not tell.
    SilentRegion(&'static str),
    /// It takes what is put whatever its hash: whole objects, or parts of them.
    IgnoresHashes,
    IgnoresHashesOfParts,
    /// No listing.
    NoListing(u16, &'static str),
    /// No deletion of many objects by one request, as Google's.
    NoBulkDelete,
    /// Content without its length, as behind a proxy that compresses.
    NoLength,
    /// A refusal of everything.
    Refuses(u16, &'static str),
    /// A redirect of everything to this.
    Redirects(&'static str),
    /// The API is below this path, and what comes elsewhere is not found.
    Below(&'static str),
}

fn error(status: u16, code: &str, more: &str) -> Response {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as it is</Message>{more}</Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(Body::from(body)).unwrap()
}

impl Oddity {
    /// What a store of this kind answers instead of doing what is asked. To a HEAD, the body is for nobody.
    pub fn refusal(self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query = uri.query().unwrap_or_default();
        let signed_for = header("authorization").split('/').nth(2).unwrap_or_default();
        match self {
            Oddity::Lacks(name) if method == Method::PUT && headers.contains_key(name) => {
                Some(error(501, "NotImplemented", ""))
            }
            Oddity::WantsBucketInHost if !header("host").starts_with("shop.") => {
                Some(error(403, "SecondLevelDomainForbidden", ""))
            }
            Oddity::Region(region) if signed_for != region => {
                Some(error(400, "AuthorizationHeaderMalformed", &format!("<Region>{region}</Region>")))
            }
            Oddity::RedirectsToRegion(region) if signed_for != region => {
                let mut response = error(301, "PermanentRedirect", "<Endpoint>elsewhere</Endpoint>");
                response.headers_mut().insert("x-amz-bucket-region", region.parse().unwrap());
                Some(response)
            }
            Oddity::SilentRegion(region) if signed_for != region => {
                Some(error(400, "AuthorizationHeaderMalformed", ""))
            }
            Oddity::NoListing(status, code) if query.contains("list-type=") => Some(error(status, code, "")),
            Oddity::NoBulkDelete if method == Method::POST && query.starts_with("delete") => {
                Some(error(501, "NotImplemented", ""))
            }
            Oddity::Refuses(status, code) => Some(error(status, code, "<Region>eu-west-3</Region>")),
            Oddity::Redirects(location) => {
                Some(Response::builder().status(308).header("location", location).body(Body::empty()).unwrap())
            }
            Oddity::Below(path) if !uri.path().starts_with(path) => Some(StatusCode::NOT_FOUND.into_response()),
            _ => None,
        }
    }
}

/// A store in memory.
#[derive(Clone)]
pub struct OddStore {
    pub url: String,
    pub port: u16,
    oddity: Oddity,
    objects: Arc<Mutex<HashMap<String, (Bytes, u64)>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl OddStore {
    pub async fn start(oddity: Oddity) -> OddStore {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let store = OddStore { url, port, oddity, objects: Arc::default(), seen: Arc::default() };
        let router = Router::new().fallback(serve).with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        store
    }

    /// Method and path of the requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Keys of the objects there are, with their bucket, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.objects.lock().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }
}

async fn serve(State(store): State<OddStore>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    store.seen.lock().unwrap().push(format!("{method} {uri}"));
    if let Some(refusal) = store.oddity.refusal(&method, &uri, &headers) {
        return refusal;
    }
    // As Amazon does, and not every other store.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let is_part = uri.query().unwrap_or_default().contains("partNumber=");
    let ignored = match store.oddity {
        Oddity::IgnoresHashes => true,
        Oddity::IgnoresHashesOfParts => is_part,
        _ => false,
    };
    if !ignored && headers.get("x-amz-content-sha256").is_none_or(|signed| *signed != digest) {
        return error(400, "XAmzContentSHA256Mismatch", "");
    }
    let key = match store.oddity {
        Oddity::WantsBucketInHost => format!("/shop{}", uri.path()),
        Oddity::Below(path) => uri.path().trim_start_matches(path).into(),
        _ => uri.path().to_string(),
    };
    let mut objects = store.objects.lock().unwrap();
    let query = uri.query().unwrap_or_default();
    if query.contains("list-type=") {
        return list(&objects);
    }
    if method == Method::POST && query.starts_with("delete") {
        let deleted: String = objects.drain().map(|(key, _)| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
        return format!("<DeleteResult>{deleted}</DeleteResult>").into_response();
    }
    if let Some(answer) = multipart(&mut objects, &method, &key, query, &body) {
        return answer;
    }
    let there = objects.get(&key).cloned();
    let tag = |n: u64| format!("\"{n}\"");
    match method {
        Method::PUT => {
            let taken = headers.contains_key("if-none-match") && there.is_some();
            let stale = headers.get("if-match").is_some_and(|t| there.as_ref().is_none_or(|(_, n)| *t != tag(*n)));
            if (taken || stale) && store.oddity != Oddity::IgnoresConditions {
                return error(412, "PreconditionFailed", "");
            }
            let n = there.map_or(1, |(_, n)| n + 1);
            objects.insert(key, (body, n));
            ([("etag", tag(n))], "").into_response()
        }
        Method::DELETE => {
            objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => match there {
            Some((bytes, n)) => {
                let head = [("etag", tag(n)), ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT".into())];
                match store.oddity {
                    Oddity::NoLength => {
                        let chunks = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
                        (head, Body::from_stream(chunks)).into_response()
                    }
                    _ => (head, bytes).into_response(),
                }
            }
            None => error(404, "NoSuchKey", ""),
        },
    }
}

/// An upload in parts, of which there is one at a time for each key.
fn multipart(
    objects: &mut HashMap<String, (Bytes, u64)>,
    method: &Method,
    key: &str,
    query: &str,
    body: &Bytes,
) -> Option<Response> {
    let parts = format!("{key}?parts");
    match *method {
        Method::POST if query.starts_with("uploads") => {
            objects.insert(parts, (Bytes::new(), 1));
            let started = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
            Some(started.into_response())
        }
        Method::PUT if query.contains("uploadId=") => {
            let (before, _) = objects.get(&parts).cloned().unwrap_or_default();
            objects.insert(parts, ([before, body.clone()].concat().into(), 1));
            Some(([("etag", "\"p\"")], "").into_response())
        }
        Method::POST if query.contains("uploadId=") => {
            let (whole, n) = objects.remove(&parts)?;
            objects.insert(key.into(), (whole, n));
            let done = "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>";
            Some(done.into_response())
        }
        Method::DELETE if query.contains("uploadId=") => {
            objects.remove(&parts);
            Some(StatusCode::NO_CONTENT.into_response())
        }
        _ => None,
    }
}

fn list(objects: &HashMap<String, (Bytes, u64)>) -> Response {
    let entry = |(key, (bytes, n)): (&String, &(Bytes, u64))| {
        let key = key.trim_start_matches("/shop/");
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-22T00:00:00.000Z</LastModified><ETag>\"{n}\"</ETag><Size>{}</Size></Contents>",
            bytes.len()
        )
    };
    let entries: String = objects.iter().map(entry).collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>").into_response()
}
