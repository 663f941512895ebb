//! The watch of BatchJobs, which has them visited.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::info;

use super::reconcile::reconcile;
use crate::api::{BatchJob, conditions};
use crate::controller::runtime::watch_backoff::{NoBackoff, WatchBackoff};
use crate::controller::{Context, log_stream_error};
use crate::lifecycle::{cost_nothing, is_finished};
use crate::telemetry::Health;

/// Jobs in one page of a list: each may carry 1.5 MB of requests, and a page is held whole, three times over while it is read.
const PAGE: u32 = 10;
/// The pause before a visit that broke off is made again.
const BROKE_OFF: Duration = Duration::from_secs(60);

/// One namespace to watch, or all.
pub(crate) struct Scope {
    namespace: Option<String>,
    jobs: Store<BatchJob>,
    writer: Writer<BatchJob>,
    pokes: UnboundedReceiver<ObjectRef<BatchJob>>,
}

/// A namespace that is watched, None for all; what is known of its jobs, lean and for hints only; where a visit is asked for.
pub(super) type Watched = (Option<String>, Store<BatchJob>, UnboundedSender<ObjectRef<BatchJob>>);

/// What is known of a namespace, and what the watch of it writes; None: of all.
pub(super) fn scope(namespace: Option<String>) -> (Watched, Scope) {
    let (send, pokes) = mpsc::unbounded_channel();
    let (jobs, writer) = reflector::store();
    ((namespace.clone(), jobs.clone(), send), Scope { namespace, jobs, writer, pokes })
}

/// Visits the jobs of `scope` until told to stop; `client` is for watches.
pub(crate) async fn watch(scope: Scope, client: &Client, context: &Arc<Context>, health: &Health) {
    let Scope { namespace, jobs, writer, pokes } = scope;
    let api: Api<BatchJob> = match &namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (known, watched, of) = (jobs.clone(), namespace.clone(), context.clone());
    let counted = context.clone();
    let changed =
        predicates::generation.combine(predicates::annotations).combine(predicates::finalizers).combine(has_status);
    let stream = watcher(api, watcher::Config::default().page_size(PAGE))
        .backoff(WatchBackoff::new(context.clock.clone()))
        .modify(move |job| {
            count(&counted, job);
            job.keep_for_the_watch();
        })
        .reflect(writer)
        .inspect_ok(move |event| end_sessions(event, &watched, &known, &of))
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let pokes = futures::stream::unfold(pokes, |mut p| async { p.recv().await.map(|job| (job, p)) });
    let synced = jobs.clone();
    let ready = async {
        if synced.wait_until_ready().await.is_ok() {
            health.set_ready(true);
            info!(namespace = namespace.as_deref().unwrap_or("*"), "watching BatchJobs");
        }
    };
    let stop = context.stop.clone();
    let run = Controller::for_stream(stream, jobs)
        .trigger_backoff(NoBackoff)
        .reconcile_on(pokes)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(BROKE_OFF), context.clone())
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                log_stream_error("BatchJobs", &error);
            }
        });
    tokio::join!(run, async {
        tokio::select! { () = ready => {}, () = stop.cancelled() => {} }
    });
}

/// Counts the batches that a job's status names towards its account's limit: all that is known of them until the job's
/// journal is read.
fn count(ctx: &Context, job: &BatchJob) {
    let Some(uid) = job.metadata.uid.as_deref() else { return };
    let Some(provider) = job.status.as_ref().and_then(|s| s.provider.as_ref()) else { return };
    if !is_finished(job) {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        ctx.accounts.quota(&provider.uid).guess(uid, namespace, in_flight(job));
    }
}

/// Batches that may run, as far as status tells.
fn in_flight(job: &BatchJob) -> usize {
    job.status.iter().flat_map(|s| &s.batches).filter(|batch| crate::lifecycle::is_in_flight(batch)).count()
}

/// Ends the sessions of jobs that went without a last visit, as when somebody took the finalizer off by hand: with the event of a
/// deletion, and after a list for what went while nobody watched.
fn end_sessions(event: &watcher::Event<BatchJob>, scope: &Option<String>, known: &Store<BatchJob>, context: &Context) {
    match event {
        watcher::Event::Delete(job) => context.jobs.end(context, &job.uid().unwrap_or_default()),
        watcher::Event::InitDone => context.jobs.sessions.end_where(|uid, job| {
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
pub(super) fn in_need(known: &[Store<BatchJob>]) -> Vec<(&'static str, i64)> {
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
