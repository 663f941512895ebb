//! `/livez`, `/readyz`, `/metrics`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::future::{FutureExt, try_join_all};
use tokio::net::TcpListener;

use super::Metrics;

/// The health that probes report.
#[derive(Clone, Debug, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Sets whether this replica can do its part: leading with its watches established, or standing by.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// Listens at `address`. `[::]` means every address of the host, whichever families it has: IPv6 and IPv4, also where the
/// system keeps IPv6 sockets to IPv6 (`net.ipv6.bindv6only`), and IPv4 alone where there is no IPv6.
///
/// # Errors
/// If the address cannot be bound.
pub async fn listen(address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    listen_by(address, async |address| TcpListener::bind(address).await).await
}

async fn listen_by(
    address: SocketAddr,
    bind: impl AsyncFn(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    if address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return Ok(vec![bind(address).await?]);
    }
    let every_v4 = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match bind(address).await {
        Ok(v6) => {
            // Mostly taken: by this very socket, which then takes IPv4 as well.
            let v4 = bind(every_v4(v6.local_addr()?.port())).await.ok();
            Ok([v6].into_iter().chain(v4).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok(vec![bind(every_v4(address.port())).await?]),
    }
}

/// Serves until `stop` resolves.
///
/// # Errors
/// If a socket fails.
pub async fn serve(
    listeners: Vec<TcpListener>,
    health: Health,
    metrics: Metrics,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(scrape).with_state(metrics));
    let stop = stop.shared();
    let servers = listeners
        .into_iter()
        .map(|listener| axum::serve(listener, router.clone()).with_graceful_shutdown(stop.clone()).into_future());
    try_join_all(servers).await.map(drop)
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    match health.is_ready() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting: no list of BatchJobs yet"),
    }
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    let open_metrics = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match metrics.text() {
        Ok(text) => (StatusCode::OK, open_metrics, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, open_metrics, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn livez(address: SocketAddr) -> bool {
        let answer = reqwest::get(format!("http://{address}/livez")).await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn serving(listeners: Vec<TcpListener>) -> u16 {
        let port = listeners[0].local_addr().unwrap().port();
        tokio::spawn(serve(listeners, Health::default(), Metrics::default(), std::future::pending()));
        port
    }

    /// Case 40-ipv6-only.
    #[tokio::test]
    async fn probes_are_answered_under_addresses_of_both_families() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let every = "[::]:0".parse().unwrap();
        let port = serving(listen(every).await.unwrap());
        assert!(livez((Ipv4Addr::LOCALHOST, port).into()).await);
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            assert!(livez((Ipv6Addr::LOCALHOST, port).into()).await);
        }
        let taken: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
        assert!(listen(taken).await.is_err(), "a port that is taken is no lack of IPv6");
    }

    #[tokio::test]
    async fn a_host_without_ipv6_is_listened_at_all_the_same() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let bind = async |address: SocketAddr| match address {
            // EAFNOSUPPORT, as of a kernel with `ipv6.disable=1`.
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(97)),
            v4 => TcpListener::bind(v4).await,
        };
        let port = serving(listen_by("[::]:0".parse().unwrap(), bind).await.unwrap());
        assert!(livez((Ipv4Addr::LOCALHOST, port).into()).await);
        let v6_alone = listen_by("[::1]:0".parse().unwrap(), bind).await;
        assert!(v6_alone.is_err(), "an address that was named is that one, or none");
    }
}
