//! The webhooks of providers: their port, and the looks that hints cause.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::runtime::leader::WebhookAddresses;
use super::{Clock, Context, Options, StartError};
use crate::hooks::{Endpoints, Hint, Outcome, serve};
use crate::telemetry::{Metrics, listen};

/// The webhooks of this replica.
#[derive(Default)]
pub(super) struct Webhooks {
    /// The endpoints; None where they are not served.
    pub endpoints: Option<Arc<Endpoints>>,
    /// Their addresses, for the other replicas.
    pub addresses: WebhookAddresses,
}

/// Listens at `--provider-webhook-addr`, and serves the returned endpoints until `stop` is cancelled. A thread of its own serves
/// them, so that a flood of requests takes at most one core, and nothing else waits behind it.
pub(super) async fn start(
    options: &Options,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<Webhooks, StartError> {
    let Some(address) = options.provider_webhook_addr else { return Ok(Webhooks::default()) };
    let unfit = |error| StartError::ListenForWebhooks(address, error);
    let listeners = listen(address).await.map_err(unfit)?;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let listeners: Result<Vec<_>, _> = listeners.into_iter().map(TcpListener::into_std).collect();
    let listeners = listeners.map_err(unfit)?;
    let count = Arc::new(move |outcome: Outcome| metrics.webhook(outcome.name()));
    let endpoints = Endpoints::new(Arc::new(move || clock.now()), count);
    let port = addresses.first().map_or(address.port(), SocketAddr::port);
    let own = options.pod_ip.map(|ip| SocketAddr::new(ip, port));
    let (leaders, leader) = watch::channel(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unfit)?;
    let served = endpoints.clone();
    let serving = move || {
        runtime.block_on(async {
            let listeners = listeners.into_iter().filter_map(|listener| TcpListener::from_std(listener).ok()).collect();
            serve(listeners, served, leader, stop.cancelled()).await;
        });
    };
    std::thread::Builder::new().name("webhooks".into()).spawn(serving).map_err(unfit)?;
    info!(?addresses, "serving /hooks");
    Ok(Webhooks { endpoints: Some(endpoints), addresses: WebhookAddresses { own, leaders } })
}

/// Follows hints until the operator stops: each job that waits for the batch looks at it now.
pub(super) async fn follow(ctx: Arc<Context>, mut hints: mpsc::Receiver<Hint>) {
    loop {
        let hint = tokio::select! {
            hint = hints.recv() => hint,
            () = ctx.stop.cancelled() => None,
        };
        let Some(Hint { provider, batch_id }) = hint else { return };
        let jobs = ctx.accounts.jobs_at(&provider);
        let looking = ctx.jobs.hint(&jobs, &batch_id, ctx.clock.now());
        debug!(provider, batch_id, looking, "a provider says that a batch changed");
    }
}
