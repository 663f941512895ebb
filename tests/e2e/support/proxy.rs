//! A reverse proxy that lets faults be placed exactly: at the n-th request that matches, before it is passed on or after.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::TryStreamExt;

use super::odd_store::Oddity;

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The request never reaches the server.
    Before,
    /// The server acted, and its answer is lost.
    After,
    /// Something else happens first; the request is answered.
    Meanwhile,
}

/// What happens at the chosen request, once.
pub struct Fault {
    pub method: &'static str,
    /// Part of path and query.
    pub path: &'static str,
    /// From 1.
    pub nth: usize,
    pub when: When,
    pub strike: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Plan {
    fault: Option<Fault>,
    seen: usize,
    struck: bool,
}

/// A proxy in front of `upstream`.
#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    plan: Arc<Mutex<Plan>>,
    hanging: Arc<AtomicUsize>,
}

/// Requests that are never answered.
#[derive(Clone, Copy)]
struct Hang {
    method: &'static str,
    /// Part of path and query.
    path: &'static str,
    /// Part of the body.
    body: &'static str,
}

#[derive(Clone)]
struct Upstream {
    base: String,
    oddity: Oddity,
    client: reqwest::Client,
    plan: Arc<Mutex<Plan>>,
    /// Requests that are never answered; how many there were.
    hangs: Option<Hang>,
    hanging: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn start(upstream: &str, ca_file: Option<&str>) -> Proxy {
        Proxy::put(upstream, ca_file, Oddity::None, None).await
    }

    /// A server that answers everything but requests of this method whose path and query has this part.
    pub async fn that_hangs(upstream: &str, method: &'static str, path: &'static str) -> Proxy {
        Proxy::that_hangs_at(upstream, method, path, "").await
    }

    /// The same for requests whose body has this part.
    pub async fn that_hangs_at(upstream: &str, method: &'static str, path: &'static str, body: &'static str) -> Proxy {
        Proxy::put(upstream, None, Oddity::None, Some(Hang { method, path, body })).await
    }

    /// How many requests were never answered.
    pub fn hanging(&self) -> usize {
        self.hanging.load(Ordering::Relaxed)
    }

    /// A store in front of `upstream` that is odd in this way.
    pub async fn odd(upstream: &str, oddity: Oddity) -> Proxy {
        Proxy::put(upstream, None, oddity, None).await
    }

    async fn put(upstream: &str, ca_file: Option<&str>, oddity: Oddity, hangs: Option<Hang>) -> Proxy {
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if let Some(file) = ca_file {
            let pem = std::fs::read(file).unwrap();
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap());
        }
        let (plan, hanging) = (Arc::new(Mutex::new(Plan::default())), Arc::new(AtomicUsize::new(0)));
        let (base, client) = (upstream.into(), client.build().unwrap());
        let state = Upstream { base, oddity, client, plan: plan.clone(), hangs, hanging: hanging.clone() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Proxy { url, plan, hanging }
    }

    /// Places a fault.
    pub fn place(&self, fault: Fault) {
        *self.plan.lock().unwrap() = Plan { fault: Some(fault), seen: 0, struck: false };
    }

    /// Whether the placed fault struck.
    pub fn struck(&self) -> bool {
        self.plan.lock().unwrap().struck
    }
}

impl Plan {
    fn due(&mut self, method: &str, path: &str) -> Option<Fault> {
        let fault = self.fault.as_ref().filter(|f| f.method == method && path.contains(f.path))?;
        self.seen += 1;
        if self.seen < fault.nth {
            return None;
        }
        self.struck = true;
        self.fault.take()
    }
}

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path_and_query().map(|p| p.to_string()).unwrap_or_default();
    if let Some(refusal) = upstream.oddity.refusal(&parts.method, &parts.uri, &parts.headers) {
        return refusal;
    }
    if let Some(hang) = upstream.hangs.filter(|hang| parts.method == hang.method && path.contains(hang.path)) {
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        if memchr::memmem::find(&bytes, hang.body.as_bytes()).is_some() {
            upstream.hanging.fetch_add(1, Ordering::Relaxed);
            return std::future::pending().await;
        }
        body = Body::from(bytes);
    }
    let mut fault = upstream.plan.lock().unwrap().due(parts.method.as_str(), &path);
    if let Some(fault) = fault.take_if(|f| f.when == When::Before) {
        (fault.strike)();
        return nothing().await;
    }
    if let Some(fault) = fault.take_if(|f| f.when == When::Meanwhile) {
        (fault.strike)();
    }
    // The Host header stays: storage requests are signed over it.
    let mut headers = parts.headers;
    headers.remove("connection");
    let length = headers.get("content-length").is_some() || headers.get("transfer-encoding").is_some();
    let mut out = upstream.client.request(parts.method, format!("{}{path}", upstream.base)).headers(headers);
    if length {
        out = out.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let Ok(response) = out.send().await else { return nothing().await };
    if let Some(fault) = fault {
        (fault.strike)();
        return nothing().await;
    }
    let mut answer = Response::builder().status(response.status());
    for (name, value) in response.headers().iter().filter(|(n, _)| *n != "transfer-encoding" && *n != "connection") {
        answer = answer.header(name, value);
    }
    answer.body(Body::from_stream(response.bytes_stream().map_err(std::io::Error::other))).unwrap()
}

/// The caller waits for an answer that never comes, until it gives up or dies.
async fn nothing() -> Response {
    std::future::pending().await
}
