//! All ways out of an operator, with faults in them: a tap under provider and object store, a layer under the kube client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use batchjob_operator::transport::{Interceptor, SendError, Wire};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use kube::client::{Body, DynBody};
use reqwest::Url;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, Service};

use super::calls::{Call, Fault, Point, Way};
use crate::support::webhooks::TOKEN;

/// How long a call is held up, and after which time one arrives that its sender has given up.
pub const DELAY: Duration = Duration::from_millis(300);

/// The calls of all operators of a story, and the faults that are to befall them.
pub struct Script {
    state: Mutex<State>,
    /// Where what arrives late is sent from: it outlives its operator.
    outlives: tokio::runtime::Handle,
    late: Arc<AtomicUsize>,
    /// How late.
    late_by: Duration,
}

#[derive(Default)]
struct State {
    open: Vec<Point>,
    struck: Vec<Point>,
    seen: HashMap<Call, usize>,
    calls: Vec<Met>,
    /// By URL, the last answer and the last one that was another.
    answers: HashMap<String, (Stored, Option<Stored>)>,
}

/// A call that was made.
#[derive(Clone)]
pub struct Met {
    pub call: Call,
    /// Counted among its kind, from 1.
    pub nth: usize,
    /// Whether there was an earlier and different answer to the same question.
    pub had_another_answer: bool,
}

/// An answer that can be given again.
type Stored = (http::StatusCode, http::HeaderMap, Bytes);

impl Script {
    pub fn new(faults: Vec<Point>, late_by: Duration) -> Arc<Script> {
        let state = Mutex::new(State { open: faults, ..Default::default() });
        Arc::new(Script { state, outlives: tokio::runtime::Handle::current(), late: Default::default(), late_by })
    }

    /// The faults that befell a call.
    pub fn struck(&self) -> Vec<Point> {
        self.state.lock().unwrap().struck.clone()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Met> {
        self.state.lock().unwrap().calls.clone()
    }

    pub fn calls_made(&self) -> usize {
        self.state.lock().unwrap().calls.len()
    }

    /// Calls that are still on their way although their sender gave up.
    pub fn late(&self) -> usize {
        self.late.load(Ordering::SeqCst)
    }

    /// Counts a call; its place among all, and what befalls it.
    fn meet(&self, call: &Call) -> (usize, Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        let nth = state.seen.entry(call.clone()).or_default();
        *nth += 1;
        let nth = *nth;
        let index = state.calls.len();
        state.calls.push(Met { call: call.clone(), nth, had_another_answer: false });
        let Some(place) = state.open.iter().position(|p| p.call == *call && p.nth == nth) else { return (index, None) };
        let point = state.open.swap_remove(place);
        let fault = point.fault;
        state.struck.push(point);
        (index, Some(fault))
    }

    /// Remembers an answer; returns the one to the same question that was another.
    fn earlier(&self, index: usize, url: &str, answer: &Stored) -> Option<Stored> {
        let mut state = self.state.lock().unwrap();
        let (last, other) = state.answers.entry(url.into()).or_insert_with(|| (answer.clone(), None));
        if last.2 != answer.2 {
            *other = Some(std::mem::replace(last, answer.clone()));
        }
        let other = other.clone();
        state.calls[index].had_another_answer = other.is_some();
        other
    }
}

/// The ways out of one operator.
#[derive(Clone)]
pub struct Wires {
    script: Arc<Script>,
    /// Set when the operator dies: from then on nothing leaves it and nothing reaches it.
    pub dead: CancellationToken,
    storage: Url,
}

impl std::fmt::Debug for Wires {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Wires")
    }
}

impl Wires {
    pub fn new(script: Arc<Script>, storage: &str) -> Wires {
        Wires { script, dead: CancellationToken::new(), storage: storage.parse().unwrap() }
    }

    /// One call, and what befalls it.
    async fn exchange<R, E>(
        &self,
        fault: Option<Fault>,
        pass: impl Future<Output = Result<R, E>>,
        answer: impl FnOnce(u16) -> R,
        lost: impl FnOnce() -> E,
    ) -> Result<R, E> {
        let living = async {
            match fault {
                None | Some(Fault::Stale) => pass.await,
                Some(Fault::CrashBefore) => self.die().await,
                Some(Fault::CrashAfter) => {
                    let _ = pass.await;
                    self.die().await
                }
                Some(Fault::LostRequest | Fault::Late) => Err(lost()),
                Some(Fault::LostReply) => {
                    let _ = pass.await;
                    Err(lost())
                }
                Some(Fault::Answer(status)) => Ok(answer(status)),
                Some(Fault::AnswerAfter(status)) => {
                    let _ = pass.await;
                    Ok(answer(status))
                }
                Some(Fault::Delay) => {
                    tokio::time::sleep(DELAY).await;
                    pass.await
                }
            }
        };
        tokio::select! {
            biased;
            () = self.dead.cancelled() => std::future::pending().await,
            reply = living => reply,
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.cancel();
        std::future::pending().await
    }

    /// Has `request` arrive when its sender no longer waits for the reply.
    fn send_late(&self, request: &reqwest::Request) {
        let Some(request) = request.try_clone() else { return };
        let (late, by) = (self.script.late.clone(), self.script.late_by);
        late.fetch_add(1, Ordering::SeqCst);
        self.script.outlives.spawn(async move {
            tokio::time::sleep(by).await;
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let _ = client.execute(request).await;
            late.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

#[async_trait]
impl Interceptor for Wires {
    async fn exchange(&self, request: reqwest::Request, wire: Wire) -> Result<reqwest::Response, SendError> {
        let url = request.url().clone();
        let way = match url.port() == self.storage.port() {
            true => Way::Storage,
            false if url.path().contains(TOKEN) => Way::Webhook,
            false => Way::Provider,
        };
        let call = Call::new(way, request.method(), url.path(), url.query().unwrap_or_default());
        let (index, fault) = self.script.meet(&call);
        if fault == Some(Fault::Late) {
            self.send_late(&request);
        }
        let pass = async {
            let response = wire.pass(request).await?;
            if !call.may_be_stale() {
                return Ok(response);
            }
            let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
            let bytes = body.collect().await.map_err(|e| SendError::MaybeSent(e.to_string()))?.to_bytes();
            let now = (parts.status, parts.headers, bytes);
            let told = self.told(index, url.as_str(), now, fault);
            Ok(response_of(told).map(reqwest::Body::from).into())
        };
        let answer = |status| {
            let body = match way {
                Way::Storage => {
                    format!("<Error><Code>Ordered</Code><Message>status {status} was ordered</Message></Error>")
                }
                _ => format!(r#"{{"error":{{"message":"status {status} was ordered"}}}}"#),
            };
            http::Response::builder().status(status).body(reqwest::Body::from(body)).unwrap().into()
        };
        self.exchange(fault, pass, answer, || SendError::MaybeSent("the connection broke, as was ordered".into())).await
    }
}

impl Wires {
    /// What is told of an answer: itself, or an earlier one.
    fn told(&self, index: usize, url: &str, now: Stored, fault: Option<Fault>) -> Stored {
        let earlier = self.script.earlier(index, url, &now);
        if fault == Some(Fault::Stale) { earlier.unwrap_or(now) } else { now }
    }
}

fn response_of((status, headers, bytes): Stored) -> http::Response<Bytes> {
    let mut response = http::Response::new(bytes);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().remove(http::header::TRANSFER_ENCODING);
    response
}

type Answer = http::Response<Box<DynBody>>;

/// The layer under a kube client.
#[derive(Clone)]
pub struct KubeLayer(pub Wires);

/// What the layer makes of the client's service.
pub struct KubeWire<S> {
    wires: Wires,
    inner: S,
}

impl<S> Layer<S> for KubeLayer {
    type Service = KubeWire<S>;

    fn layer(&self, inner: S) -> KubeWire<S> {
        KubeWire { wires: self.0.clone(), inner }
    }
}

impl<S> Service<http::Request<Body>> for KubeWire<S>
where
    S: Service<http::Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let uri = request.uri().clone();
        let call = Call::new(Way::Kubernetes, request.method(), uri.path(), uri.query().unwrap_or_default());
        let (index, fault) = self.wires.script.meet(&call);
        let (wires, sent) = (self.wires.clone(), self.inner.call(request));
        Box::pin(async move {
            let pass = async {
                let response = sent.await?;
                if !call.may_be_stale() {
                    return Ok(response);
                }
                let (parts, body) = response.into_parts();
                let now = (parts.status, parts.headers, body.collect().await?.to_bytes());
                Ok(response_of(wires.told(index, &uri.to_string(), now, fault)).map(boxed))
            };
            wires.exchange(fault, pass, status, || "the connection broke, as was ordered".into()).await
        })
    }
}

fn boxed(bytes: Bytes) -> Box<DynBody> {
    Box::new(Full::new(bytes).map_err(|never| match never {}))
}

/// What the API server says when it will not.
fn status(code: u16) -> Answer {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "ServiceUnavailable",
    };
    let message = format!("status {code} was ordered");
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    http::Response::builder().status(code).body(boxed(body.to_string().into())).unwrap()
}
