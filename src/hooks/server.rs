//! The server: one request a connection, with limits for its size and its time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{Endpoints, Outcome};

/// Connections at a time. Further ones wait to be accepted.
const CONNECTIONS: usize = 256;
/// Most bytes of a request's head, and of its body: events have less than 4 KiB.
const HEAD_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 16 << 10;
/// Most headers of a request. Gateways add a dozen.
const HEADERS: usize = 64;
/// Time for the head of a request, and for the whole request with its answer.
const HEAD_TIME: Duration = Duration::from_secs(3);
const TIME: Duration = Duration::from_secs(6);
/// Time for a connection to the leader.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Seconds after which a sender should try again.
const AGAIN: HeaderValue = HeaderValue::from_static("5");
/// The pause when the system has no more sockets.
const BREATHER: Duration = Duration::from_millis(50);

/// Serves `POST /hooks/UID` until `stop` resolves. While this replica takes no events, connections are passed on to the `leader`, whose
/// address may change; if it is unknown, the sender is told to try again.
pub async fn serve(
    listeners: Vec<TcpListener>,
    endpoints: Arc<Endpoints>,
    leader: watch::Receiver<Option<SocketAddr>>,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = listeners.iter().map(|listener| accept(listener, &places, &endpoints, &leader));
    tokio::select! {
        _ = futures::future::join_all(accepting) => {}
        () = stop => {}
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    endpoints: &Arc<Endpoints>,
    leader: &watch::Receiver<Option<SocketAddr>>,
) {
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        let (endpoints, leader) = (endpoints.clone(), *leader.borrow());
        tokio::spawn(async move {
            let _place = place;
            let _ = timeout(TIME, connection(stream, endpoints, leader)).await;
        });
    }
}

async fn connection(stream: TcpStream, endpoints: Arc<Endpoints>, leader: Option<SocketAddr>) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    if !endpoints.is_open()
        && let Some(leader) = leader
        && let Ok(Ok(to)) = timeout(CONNECT_TIME, TcpStream::connect(leader)).await
    {
        return pass_on(stream, to).await;
    }
    let service = service_fn(move |request| reply(endpoints.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    served.await.map_err(io::Error::other)
}

async fn pass_on(mut stream: TcpStream, mut leader: TcpStream) -> io::Result<()> {
    let _ = leader.set_nodelay(true);
    tokio::io::copy_bidirectional(&mut stream, &mut leader).await.map(drop)
}

type Answer = Response<Full<Bytes>>;

async fn reply(endpoints: Arc<Endpoints>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let Some(uid) = head.uri.path().strip_prefix("/hooks/") else {
        return Ok(answer(StatusCode::NOT_FOUND, "there is nothing here\n"));
    };
    if head.method != Method::POST {
        let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, "events are sent by POST\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(answer);
    }
    // The endpoint is looked up once the request is complete: until then all requests are treated alike.
    let Ok(body) = Limited::new(body, BODY_BYTES).collect().await else {
        return Ok(answer(StatusCode::PAYLOAD_TOO_LARGE, "an event has at most 16 KiB\n"));
    };
    Ok(match endpoints.judge(uid, &head.headers, &body.to_bytes()) {
        Outcome::Taken | Outcome::Repeated | Outcome::Ignored => answer(StatusCode::OK, "ok\n"),
        Outcome::Refused => answer(StatusCode::UNAUTHORIZED, "the event is not signed by a key of this endpoint\n"),
        Outcome::Later => {
            let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, "try again\n");
            answer.headers_mut().insert(RETRY_AFTER, AGAIN);
            answer
        }
    })
}

fn answer(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}
