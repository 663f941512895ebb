//! Starts, wires and stops everything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::event_queue::{self, EventQueue};
use super::observe::cost_nothing;
use super::pauses::{AtOnce, Pauses};
use super::providers::Reports;
use super::reconcile::reconcile;
use super::session::Sessions;
use super::{Context, Outside, leader, log_stream_error, providers, strays, transfers, turns};
use crate::account::Accounts;
use crate::api::{BatchJob, BatchProvider, ClusterBatchProvider, ProviderKind, conditions};
use crate::fair::{Limits, Shares};
use crate::lifecycle::Timing;
use crate::telemetry::{Health, Metrics, listen, serve};

/// Looks at provider objects at a time: each waits for a server, with little in memory.
const LOOKS: Limits = Limits { total: 256, per_namespace: 4, keeps_last_shares: true };
/// Jobs in one page of a list: each may carry 1.5 MB of requests, and a page is held whole, three times over while it is read.
pub(super) const PAGE: u32 = 10;
/// The time that is left to finish what is under way.
const GRACE: Duration = Duration::from_secs(8);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look after; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Our own namespace: where the Lease is, and the Secrets of cluster-wide providers.
    pub namespace: String,
    /// Whether to take part in an election first.
    pub leader_election: bool,
    /// This replica's name in the election and in events.
    pub identity: String,
    /// Local disk for transfers; may vanish at any time.
    pub spool_dir: PathBuf,
    /// ConfigMaps that the results of one job may take.
    pub output_config_maps: usize,
    /// Milliseconds between two looks at what a job refers to that failed before anything was paid.
    pub recheck: i64,
    /// Milliseconds between two looks through the lists of providers for batches that nobody follows; 0: never.
    pub stray_check: i64,
    /// Where probes and metrics are served.
    pub health_addr: std::net::SocketAddr,
    /// How long things may take.
    pub timing: Timing,
}

/// Why the operator does not start, or ends; each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("no Kubernetes cluster to work with: {0}; set KUBECONFIG, or run in a Pod with a ServiceAccount")]
    NoCluster(String),
    #[error("the Kubernetes API does not answer: {0}")]
    NoAnswer(String),
    #[error("the {0} CRD is not installed; install it with `kubectl apply -k crds`")]
    NoCrd(&'static str),
    #[error("the ServiceAccount may not {0}; apply the RBAC rules of deploy/kustomize")]
    Forbidden(String),
    #[error("cannot serve probes and metrics on {0}: {1}; choose another --health-addr")]
    Listen(std::net::SocketAddr, std::io::Error),
    #[error("the spool folder {0} cannot be written: {1}; choose another --spool-dir")]
    Spool(PathBuf, std::io::Error),
    #[error("the lease could not be taken part in: {0}")]
    Lease(String),
    #[error("another replica took the lease; this one ends, to start afresh")]
    LostLease,
    #[error("{0}")]
    Other(String),
}

impl Options {
    /// Sees what can be judged without a cluster.
    ///
    /// # Errors
    /// When the spool folder cannot be written.
    pub fn check(&self) -> Result<(), StartError> {
        let unfit = |e| StartError::Spool(self.spool_dir.clone(), e);
        tempfile::tempfile_in(&self.spool_dir).map(drop).map_err(unfit)
    }
}

/// Runs until `stop` is cancelled, reaching out through nothing but `outside`.
///
/// # Errors
/// Why it does not start, or that it lost its lease.
pub async fn run(options: Options, outside: Outside, stop: CancellationToken) -> Result<(), StartError> {
    check_crds(&outside.client, &options.watch_namespaces).await?;
    let cluster = cluster_uid(&outside.client).await?;
    let parts = Parts { outside, cluster, health: Health::default(), metrics: Metrics::default() };
    let unfit = |e| StartError::Listen(options.health_addr, e);
    let listeners = listen(options.health_addr).await.map_err(unfit)?;
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let server = serve(listeners, parts.health.clone(), parts.metrics.clone(), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);
    info!(?addresses, "serving /livez, /readyz and /metrics");
    let ended = elect_and_work(&options, parts, stop.clone()).await;
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    ended
}

/// One namespace that it may look into is enough: others may be gone, and come back.
async fn check_crds(client: &Client, watched: &[String]) -> Result<(), StartError> {
    let mut namespaces = watched.iter().map(Some).collect::<Vec<_>>();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    let (all, mut shut) = (namespaces.len(), vec![]);
    for namespace in namespaces {
        match check_kinds(client, namespace).await {
            Err(StartError::Forbidden(what)) => {
                warn!(
                    namespace,
                    what, "no right in a namespace that is to be watched; grant it, or take it out of the list"
                );
                shut.push(what);
            }
            checked => checked?,
        }
    }
    match shut.pop() {
        Some(what) if shut.len() + 1 == all => Err(StartError::Forbidden(what)),
        _ => Ok(()),
    }
}

async fn check_kinds(client: &Client, namespace: Option<&String>) -> Result<(), StartError> {
    async fn check<K>(client: &Client, namespace: Option<&String>, kind: &'static str) -> Result<(), StartError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug,
        K: for<'de> serde::Deserialize<'de>,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => Ok(()),
            // A group that nobody serves is answered with a bare 404, without a reason.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(StartError::NoCrd(kind)),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                Err(StartError::Forbidden(format!("list {kind}s")))
            }
            Err(e) => Err(StartError::NoAnswer(crate::transport::chain(&e))),
        }
    }
    check::<BatchJob>(client, namespace, "BatchJob").await?;
    check::<BatchProvider>(client, namespace, "BatchProvider").await
}

async fn cluster_uid(client: &Client) -> Result<String, StartError> {
    match Api::<Namespace>::all(client.clone()).get("kube-system").await {
        Ok(namespace) => Ok(namespace.uid().unwrap_or_default()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Err(StartError::Forbidden("get the namespace kube-system, whose uid names the cluster".into()))
        }
        Err(e) => Err(StartError::NoAnswer(crate::transport::chain(&e))),
    }
}

/// What working needs, made once at the start.
struct Parts {
    outside: Outside,
    cluster: String,
    health: Health,
    metrics: Metrics,
}

async fn elect_and_work(options: &Options, parts: Parts, stop: CancellationToken) -> Result<(), StartError> {
    let (health, metrics) = (parts.health.clone(), parts.metrics.clone());
    if !options.leader_election {
        metrics.leader.set(1);
        return work(options, parts, stop).await;
    }
    let namespace = &options.namespace;
    let lease = leader::lead(parts.outside.client.clone(), namespace, &options.identity).await;
    let mut lease = lease.map_err(|e| StartError::Lease(crate::transport::chain(&e)))?;
    // A replica that stands by does its part.
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

async fn work(options: &Options, parts: Parts, stop: CancellationToken) -> Result<(), StartError> {
    let Parts { outside: Outside { client, watching, transport, clock }, cluster, health, metrics } = parts;
    let reporter = Reporter { controller: "batchjob-operator".into(), instance: Some(options.identity.clone()) };
    let scopes: Vec<Option<String>> = match options.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let (mut pokes, mut jobs, mut streams) = (vec![], vec![], vec![]);
    for scope in &scopes {
        let (send, receive) = mpsc::unbounded_channel();
        let (reader, writer) = reflector::store();
        pokes.push((scope.clone(), send));
        jobs.push((scope.clone(), reader.clone()));
        streams.push((scope.clone(), receive, reader, writer));
    }
    let known: Vec<Store<BatchJob>> = jobs.iter().map(|(_, store)| store.clone()).collect();
    metrics.count_jobs(move || in_need(&known));
    let sessions = Arc::new(Sessions::default());
    let counted = sessions.clone();
    metrics.count_failing_calls(move || counted.failing());
    let (turns, memory) = (Shares::new(turns::LIMITS), Shares::new(transfers::LIMITS));
    let (of_turns, of_memory) = (turns.clone(), memory.clone());
    metrics.count_waiting(move || waiting(&of_turns, &of_memory));
    let mut reports = Reports::default();
    let accounts: Vec<_> =
        scopes.iter().map(|scope| (scope.clone(), reports.add(ProviderKind::BatchProvider, scope.clone()))).collect();
    let admins = reports.add(ProviderKind::ClusterBatchProvider, None);
    let own: Vec<_> = accounts.iter().map(|_| reflector::store()).collect();
    let (of_admins, admins_writer) = reflector::store();
    let known = providers::Watched {
        own: own.iter().map(|(store, _)| store.clone()).collect(),
        admins: vec![of_admins.clone()],
    };
    let (events, told) = EventQueue::new(metrics.clone());
    let publisher = event_queue::write(told, client.clone(), reporter, metrics.clone(), clock.clone(), stop.clone());
    let time = clock.clone();
    let shared_accounts = Accounts::new(Arc::new(move || time.now()));
    let context = Arc::new(Context {
        events,
        secrets: Default::default(),
        labels: Default::default(),
        providers: known,
        transport,
        client,
        metrics,
        clock,
        timing: options.timing,
        namespace: options.namespace.clone(),
        cluster,
        spool: options.spool_dir.clone(),
        copies: Default::default(),
        checks: Default::default(),
        output_config_maps: options.output_config_maps,
        recheck: options.recheck,
        stray_check: options.stray_check,
        sessions,
        accounts: shared_accounts,
        looks: Shares::new(LOOKS),
        reports,
        turns,
        transfers: memory,
        tracker: TaskTracker::new(),
        stop: stop.clone(),
        jobs,
        pokes,
    });
    let jobs = streams
        .into_iter()
        .map(|(scope, poked, reader, writer)| watch(scope, poked, (reader, writer), &watching, &context, &health));
    let jobs = join_all(jobs.collect::<Vec<_>>());
    context.tracker.spawn(publisher);
    let accounts = accounts.into_iter().zip(own);
    let accounts = accounts
        .map(|((scope, asked), store)| providers::watch::<BatchProvider>(scope, asked, store, &watching, &context));
    let accounts = join_all(accounts.collect::<Vec<_>>());
    let admins =
        providers::watch::<ClusterBatchProvider>(None, admins, (of_admins, admins_writer), &watching, &context);
    let strays = strays::watch(&context);
    let watches = async { tokio::join!(jobs, accounts, admins, strays) };
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

async fn watch(
    scope: Option<String>,
    poked: mpsc::UnboundedReceiver<ObjectRef<BatchJob>>,
    (reader, writer): (Store<BatchJob>, Writer<BatchJob>),
    client: &Client,
    context: &Arc<Context>,
    health: &Health,
) {
    let api: Api<BatchJob> = match &scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let synced = reader.clone();
    let (known, watched, of) = (reader.clone(), scope.clone(), context.clone());
    let counted = context.clone();
    let changed =
        predicates::generation.combine(predicates::annotations).combine(predicates::finalizers).combine(has_status);
    let stream = watcher(api, watcher::Config::default().page_size(PAGE))
        .backoff(Pauses::new(context.clock.clone()))
        .modify(move |job| {
            counted.saw(job);
            job.keep_for_the_watch();
        })
        .reflect(writer)
        .inspect_ok(move |event| end_sessions(event, &watched, &known, &of))
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let pokes = futures::stream::unfold(poked, |mut p| async { p.recv().await.map(|job| (job, p)) });
    let ready = async {
        if synced.wait_until_ready().await.is_ok() {
            health.set_ready(true);
            info!(namespace = scope.as_deref().unwrap_or("*"), "watching BatchJobs");
        }
    };
    let stop = context.stop.clone();
    let run = Controller::for_stream(stream, reader)
        .trigger_backoff(AtOnce)
        .reconcile_on(pokes)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(60)), context.clone())
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                log_stream_error("BatchJobs", &error);
            }
        });
    tokio::join!(run, async {
        tokio::select! { () = ready => {}, () = stop.cancelled() => {} }
    });
}

/// Ends the sessions of jobs that went without a last visit, as when somebody took the finalizer off by hand: with the event of a
/// deletion, and after a list for what went while nobody watched.
fn end_sessions(event: &watcher::Event<BatchJob>, scope: &Option<String>, known: &Store<BatchJob>, context: &Context) {
    match event {
        watcher::Event::Delete(job) => context.end_session(&job.uid().unwrap_or_default()),
        watcher::Event::InitDone => context.sessions.end_where(|uid, job| {
            let watched = scope.is_none() || *scope == job.namespace;
            watched && known.get(job).is_none_or(|known| known.uid().as_deref() != Some(uid))
        }),
        watcher::Event::Apply(_) | watcher::Event::Init | watcher::Event::InitApply(_) => {}
    }
}

/// A status that a restore or a person took away is written again; nobody else looks at a job that is over.
fn has_status(job: &BatchJob) -> Option<u64> {
    Some(u64::from(job.status.is_some()))
}

/// Jobs that ask for a person, by condition.
fn in_need(known: &[Store<BatchJob>]) -> Vec<(&'static str, i64)> {
    let of = |condition: &'static str| {
        let jobs = known.iter().flat_map(Store::state);
        // A job that failed after it was sent is over: nothing is left to mend.
        let open = jobs.filter(|job| cost_nothing(job) || job.status.as_ref().is_none_or(|s| s.outcome.is_none()));
        let in_need =
            open.filter(|job| job.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, condition)));
        (condition, i64::try_from(in_need.count()).unwrap_or(i64::MAX))
    };
    vec![of(conditions::HELD), of(conditions::STALLED)]
}

/// Visits that wait for their turn, and transfers that wait for memory, by kind.
fn waiting(visits: &Shares, transfers: &Shares) -> Vec<(&'static str, i64)> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let visits = ("Visit", count(visits.waiting().values().sum()));
    let waiting = transfers.waiting();
    let is = |lane: &str, kind: &str| lane.split(',').next() == Some(kind);
    let of = |kind| (kind, count(waiting.iter().filter(|(lane, _)| is(lane, kind)).map(|(_, n)| n).sum()));
    [visits].into_iter().chain(transfers::KINDS.map(of)).collect()
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    /// Whether an operator that is to watch these starts, where the API server lets it into those that begin with `open`.
    async fn starts(namespaces: &[&str]) -> Result<(), StartError> {
        let server = tower::service_fn(async |request: http::Request<Body>| {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []});
            let refusal = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "no", "reason": "Forbidden", "code": 403});
            let (status, body) = if request.uri().path().contains("/open") { (200, list) } else { (403, refusal) };
            let body = Body::from(body.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(status).body(body).unwrap())
        });
        let namespaces: Vec<String> = namespaces.iter().map(|name| name.to_string()).collect();
        check_crds(&Client::new(server, "default"), &namespaces).await
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_stops_nobody_in_the_others() {
        assert!(starts(&["gone", "open-1", "open-2"]).await.is_ok());
        assert!(matches!(starts(&["gone", "shut"]).await, Err(StartError::Forbidden(_))));
        assert!(matches!(starts(&[]).await, Err(StartError::Forbidden(_))), "all namespaces are asked for");
    }
}
