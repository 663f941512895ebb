//! Connections: our own loop around hyper, because a server framework always replies and a
//! simulator must be able to fall silent.

use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

/// How long to wait when the system has no more sockets.
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
