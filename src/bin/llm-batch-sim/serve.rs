//! Connections: our own loop around hyper, because a server framework always replies and a
//! simulator must be able to fall silent.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::try_unfold;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

/// How long to wait when the system has no more sockets, or for it to send what it was given.
const BREATHER: Duration = Duration::from_millis(50);

/// Marks a response of which not a byte may leave: its connection is cut instead.
#[derive(Debug, Clone, Copy)]
pub struct Cut;

/// A response that is never sent.
pub fn cut() -> Response {
    let mut response = StatusCode::IM_A_TEAPOT.into_response();
    response.extensions_mut().insert(Cut);
    response
}

/// A response that says its whole length and of which only so many bytes are sent, half of them
/// unless told; never all.
pub fn cut_within(response: Response, bytes: Option<u64>) -> Response {
    let (mut head, body) = response.into_parts();
    let said = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let Some(whole) = said.or(body.size_hint().exact()).filter(|whole| *whole > 0) else {
        return Response::from_parts(head, body);
    };
    head.headers.insert(CONTENT_LENGTH, whole.into());
    let left = bytes.unwrap_or(whole / 2).min(whole - 1);
    let pieces = try_unfold((body.into_data_stream(), left), async |(mut body, left)| {
        if left == 0 {
            // What was sent so far is thrown away when the connection is cut before it left.
            tokio::time::sleep(BREATHER).await;
            return Err(axum::Error::new(CutOnPurpose));
        }
        let Some(piece) = body.next().await else { return Ok(None) };
        let mut piece = piece?;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        Ok(Some((piece, (body, left))))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
struct CutOnPurpose;

/// Serves all who come, forever.
pub async fn accept(listener: TcpListener, router: Router) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot turn off Nagle's algorithm");
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| reply(router.clone(), request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(%error, "a connection ended early");
    }
}

async fn reply(router: TowerToHyperService<Router>, request: Request<Incoming>) -> Result<Response, CutOnPurpose> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.extensions().get::<Cut>().is_some() {
        info!(%method, path, "connection cut");
        return Err(CutOnPurpose);
    }
    info!(%method, path, status = response.status().as_u16(), "answered");
    Ok(response)
}
