//! The watch of CronBatchJobs.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use super::visit::visit;
use crate::api::CronBatchJob;
use crate::controller::runtime::watch_backoff::{NoBackoff, WatchBackoff};
use crate::controller::{Context, log_stream_error};
use crate::fair::Claim;

/// CronBatchJobs in one page of a list: each may carry 1.5 MB of requests.
const PAGE: u32 = 10;
/// The pause after a visit that failed at the API server.
const AGAIN: Duration = Duration::from_secs(30);

/// One namespace to watch, or all.
pub(crate) struct Scope {
    namespace: Option<String>,
    looks: UnboundedReceiver<ObjectRef<CronBatchJob>>,
}

impl Scope {
    pub(super) fn new(namespace: Option<String>, looks: UnboundedReceiver<ObjectRef<CronBatchJob>>) -> Scope {
        Scope { namespace, looks }
    }
}

/// Visits the CronBatchJobs of `scope` until the operator stops; `client` is for watches.
pub(crate) async fn watch(scope: Scope, client: &Client, ctx: &Arc<Context>) {
    let Scope { namespace, looks } = scope;
    // The children of a schedule are those that the watch of BatchJobs knows.
    tokio::select! {
        () = ctx.jobs.synced(namespace.as_deref()) => {}
        () = ctx.stop.cancelled() => return,
    }
    let api: Api<CronBatchJob> = match &namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (known, writer) = reflector::store();
    ctx.crons.is_watched_by(known.clone());
    let (of, listed, scope) = (ctx.clone(), known.clone(), namespace.clone());
    let changed = predicates::generation.combine(predicates::annotations);
    let stream = watcher(api, watcher::Config::default().page_size(PAGE))
        .backoff(WatchBackoff::new(ctx.clock.clone()))
        .modify(CronBatchJob::keep_for_the_watch)
        .reflect(writer)
        .inspect_ok(move |event| forget_deleted(&of, event, &listed, scope.as_deref()))
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let looks = futures::stream::unfold(looks, |mut looks| async { looks.recv().await.map(|cron| (cron, looks)) });
    Controller::for_stream(stream, known)
        // A visit waits in a queue of its own, which is fair by namespace.
        .with_config(controller::Config::default().concurrency(0))
        .trigger_backoff(NoBackoff)
        .reconcile_on(looks)
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(AGAIN), ctx.clone())
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                log_stream_error("CronBatchJobs", &error);
            }
        })
        .await;
}

/// Forgets the skipped starts of CronBatchJobs that were deleted: with the event of a deletion, and after a list for those that were
/// deleted while nobody watched.
fn forget_deleted(
    ctx: &Context,
    event: &watcher::Event<CronBatchJob>,
    known: &Store<CronBatchJob>,
    scope: Option<&str>,
) {
    match event {
        watcher::Event::Delete(cron) => ctx.crons.forget(&cron.uid().unwrap_or_default()),
        watcher::Event::InitDone => ctx.crons.keep_known(scope, &known.state()),
        watcher::Event::Apply(_) | watcher::Event::Init | watcher::Event::InitApply(_) => {}
    }
}

async fn reconcile(key: Arc<CronBatchJob>, ctx: Arc<Context>) -> Result<Action, std::convert::Infallible> {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let visited = async {
        let claim = Claim { namespace: namespace.clone(), size: 1, ..Claim::default() };
        let _turn = ctx.crons.turns.take(claim).await;
        visit(&ctx, &key).await
    };
    let visited = tokio::select! {
        visited = visited => visited,
        () = ctx.stop.cancelled() => return Ok(Action::await_change()),
    };
    Ok(visited.unwrap_or_else(|error| {
        warn!(namespace, name, why = error.chain(), "a CronBatchJob could not be looked after; it is tried again");
        Action::requeue(AGAIN)
    }))
}
