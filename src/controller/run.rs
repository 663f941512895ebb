//! Starts, wires and stops everything.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kube::runtime::events::Reporter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::cron::{self, Crons};
use super::hooks::Webhooks;
use super::job::{self, Jobs};
use super::runtime::clock_watch::ClockWatch;
use super::runtime::event_queue::{self, EventQueue};
use super::runtime::leader::{self, WebhookAddresses};
use super::runtime::preflight::{check_crds, cluster_uid};
use super::runtime::trust::CERTIFICATES;
use super::{Context, Dependencies, Options, StartError, hooks, orphan, provider, series};
use crate::account::Accounts;
use crate::fair::{Budget, Limits, Shares};
use crate::hooks::Endpoints;
use crate::telemetry::{Exporter, Health, Metrics, Request, Server, Service, Traces, listen, serve};
use crate::transport::{Exchange, Observer, Peer};

/// Looks at provider objects at a time: each waits for a server, and holds little memory. All looks have one lane, so a
/// namespace has at most 8; ClusterBatchProviders count as one namespace.
const LOOKS: Limits = Limits { total: 256, per_namespace: 16, keeps_last_shares: true };
/// The time to finish running work after a stop.
const GRACE: Duration = Duration::from_secs(8);

/// Runs until `stop` is cancelled. All calls to the outside go through `dependencies`.
///
/// # Errors
/// The reason why it does not start, or the loss of its lease.
pub async fn run(options: Options, dependencies: Dependencies, stop: CancellationToken) -> Result<(), StartError> {
    check_crds(&dependencies.client, &options.watch_namespaces).await?;
    let cluster = cluster_uid(&dependencies.client).await?;
    let (health, metrics) = (Health::default(), Metrics::default());
    let webhooks = match options.provider_webhook_addr {
        Some(_) => hooks::start(&options, dependencies.clock.clone(), metrics.clone(), stop.clone()).await?,
        None => Webhooks::default(),
    };
    let parts = Parts { dependencies, cluster, health, metrics, endpoints: webhooks.endpoints };
    let unfit = |e| StartError::Listen(options.health_addr, e);
    let listeners = listen(options.health_addr).await.map_err(unfit)?;
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let server = serve(listeners, parts.health.clone(), parts.metrics.clone(), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);
    info!(?addresses, "serving /livez, /readyz and /metrics");
    let ended = elect_and_work(&options, parts, webhooks.addresses, stop.clone()).await;
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    ended
}

/// Measures the requests that go out to providers, object stores and webhooks.
#[derive(Debug)]
struct Requests(Metrics);

impl Observer for Requests {
    fn ended(&self, Exchange { peer, method, status, took }: Exchange) {
        self.0.request(Request {
            to: match peer {
                Peer::Provider => Server::Provider,
                Peer::Store => Server::Store,
                Peer::Webhook => Server::Webhook,
            },
            method: method.as_str(),
            status: status.map(|status| status.as_u16()),
            took,
        });
    }
}

/// The parts of the running operator, made once at the start.
struct Parts {
    dependencies: Dependencies,
    cluster: String,
    health: Health,
    metrics: Metrics,
    endpoints: Option<Arc<Endpoints>>,
}

async fn elect_and_work(
    options: &Options,
    parts: Parts,
    webhooks: WebhookAddresses,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let (health, metrics) = (parts.health.clone(), parts.metrics.clone());
    if !options.leader_election {
        metrics.leader.set(1);
        return work(options, parts, stop).await;
    }
    let namespace = &options.namespace;
    let lease = leader::lead_and_tell(parts.dependencies.client.clone(), namespace, &options.identity, webhooks).await;
    let mut lease = lease.map_err(|e| StartError::Lease(crate::transport::chain(&e)))?;
    // A replica on standby is ready too.
    health.set_ready(true);
    info!(namespace, identity = options.identity, "standing by for the lease");
    tokio::select! {
        won = lease.won() => if !won {
            return Err(StartError::Lease("the election ended by itself".into()));
        },
        () = stop.cancelled() => {
            lease.release().await;
            return Ok(());
        }
    }
    info!(identity = options.identity, "leading");
    metrics.leader.set(1);
    health.set_ready(false);
    let ours = stop.child_token();
    let lost = {
        let working = work(options, parts, ours.clone());
        let mut working = std::pin::pin!(working);
        tokio::select! {
            ended = &mut working => { ended?; false }
            () = lease.lost() => {
                ours.cancel();
                working.await?;
                true
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), lease.release()).await;
    if lost { Err(StartError::LostLease) } else { Ok(()) }
}

/// Returns the recorder of spans, and their sender if an admin named a collector.
fn traces(options: &Options, cluster: &str, metrics: &Metrics) -> Result<(Traces, Option<Exporter>), StartError> {
    let Some(endpoint) = options.otlp_endpoint.clone() else { return Ok((Traces::default(), None)) };
    let service = Service { instance: options.identity.clone(), cluster: cluster.into() };
    let exporter = Exporter::new(endpoint.clone(), &service, metrics.clone());
    let (traces, exporter) = exporter.map_err(|why| StartError::Traces(endpoint, why))?;
    Ok((traces, Some(exporter)))
}

async fn work(options: &Options, parts: Parts, stop: CancellationToken) -> Result<(), StartError> {
    let Parts { dependencies, cluster, health, metrics, endpoints } = parts;
    let Dependencies { client, watching, transport, clock } = dependencies;
    let hints = endpoints.as_ref().map(|endpoints| endpoints.open());
    let (jobs, scopes) = Jobs::new(options);
    jobs.count_in(&metrics);
    let (crons, schedule_looks, schedules) = Crons::new(options, clock.now());
    let (provider_watches, providers, reports) = provider::watches(options.scopes());
    crons.count_in(&metrics);
    providers.count_in(&metrics);
    let (events, told) = EventQueue::new(metrics.clone());
    let reporter = Reporter { controller: "batchjob-operator".into(), instance: Some(options.identity.clone()) };
    let publisher = event_queue::write(told, client.clone(), reporter, metrics.clone(), clock.clone(), stop.clone());
    let (traces, exporter) = traces(options, &cluster, &metrics)?;
    let (time, of_accounts) = (clock.clone(), metrics.clone());
    let context = Arc::new(Context {
        events,
        secrets: Default::default(),
        endpoints,
        certificates: Budget::new(CERTIFICATES),
        price_lists: provider::PriceLists::new(),
        labels: Default::default(),
        providers,
        experience: Default::default(),
        probes: Default::default(),
        transport: transport.observed_by(Arc::new(Requests(metrics.clone()))),
        client,
        metrics,
        traces,
        clock_watch: ClockWatch::new(clock.now()),
        clock,
        timing: options.timing,
        namespace: options.namespace.clone(),
        cluster,
        orphan_check: options.orphan_check,
        accounts: Accounts::new(
            Arc::new(move || time.now()),
            Arc::new(move |waited| of_accounts.provider_request_queue(waited)),
        ),
        ledgers: Default::default(),
        looks: Shares::new(LOOKS),
        reports,
        jobs,
        crons,
        schedule_looks,
        tracker: TaskTracker::new(),
        stop: stop.clone(),
    });
    series::count_loads(&context);
    context.tracker.spawn(publisher);
    if let Some(exporter) = exporter {
        context.tracker.spawn(exporter.run(stop.clone()));
    }
    if let Some(hints) = hints {
        context.tracker.spawn(hooks::follow(context.clone(), hints));
    }
    let jobs = scopes.into_iter().map(|scope| job::watch(scope, &watching, &context, &health));
    let jobs = join_all(jobs.collect::<Vec<_>>());
    let providers = provider_watches.run(&watching, &context);
    let schedules = schedules.into_iter().map(|scope| cron::watch(scope, &watching, &context));
    let schedules = join_all(schedules.collect::<Vec<_>>());
    let orphans = orphan::watch(&context);
    let gone = series::end_unknown(&context);
    let watches = async { tokio::join!(jobs, schedules, providers, orphans, gone) };
    let mut watches = std::pin::pin!(watches);
    tokio::select! {
        _ = &mut watches => {}
        () = stop.cancelled() => {
            info!("stopping: what is under way is finished first");
            context.tracker.close();
            let _ = tokio::time::timeout(GRACE, async { tokio::join!(watches, context.tracker.wait()) }).await;
        }
    }
    Ok(())
}
