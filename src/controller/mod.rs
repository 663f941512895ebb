//! The only place where the others meet: `observe -> decide -> record -> act`, one effect a step.

mod account;
mod act;
mod backoff;
mod cache;
mod cluster;
mod event_queue;
mod events;
mod fair_calls;
mod finalizer;
mod journal;
mod leader;
mod metadata;
mod missing;
mod names;
mod observe;
mod outside;
mod pauses;
mod permit;
mod providers;
mod reconcile;
mod record;
mod references;
mod run;
mod secrets;
mod session;
mod snapshot;
mod source;
mod strays;
mod tasks;
mod transfers;
mod trouble;
mod trust;
mod turns;
mod version;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use kube::runtime::controller;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use journal::{JournalStore, Judged, Packed};
pub use leader::{Leadership, lead};
pub use outside::{Clock, Outside, SystemClock, config, watching_config};
pub use permit::{Ask, PostPermit};
pub use run::{Options, StartError, run};
pub use trouble::Trouble;

use crate::account::Accounts;
use crate::api::BatchJob;
use crate::fair::Shares;
use crate::lifecycle::{Task, Timing};
use crate::store::{Copies, StoreChecks};
use crate::telemetry::Metrics;
use crate::transport::Transport;
use backoff::Failed;
use cache::Cache;
use event_queue::EventQueue;
use providers::{Reports, Saw};
use secrets::Secrets;
use session::{Session, Sessions};

/// What every reconcile shares.
pub(crate) struct Context {
    client: Client,
    transport: Transport,
    events: EventQueue,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    timing: Timing,
    /// Our own namespace: where the Secrets of cluster-wide providers are.
    namespace: String,
    /// uid of `kube-system`: the cluster's name.
    cluster: String,
    spool: PathBuf,
    /// What of the staged files lies on local disk, and whether their stores check what is put.
    copies: Copies,
    checks: StoreChecks,
    /// ConfigMaps that the results of one job may take.
    output_config_maps: usize,
    /// Milliseconds between two looks at what a job refers to that failed before anything was paid.
    recheck: i64,
    /// Milliseconds between two looks for batches that nobody follows; 0: never.
    stray_check: i64,
    sessions: Arc<Sessions>,
    /// Who runs the calls at providers.
    accounts: Accounts,
    secrets: Secrets,
    /// Labels of namespaces.
    labels: Cache<String, BTreeMap<String, String>>,
    /// What the watches know of provider objects.
    providers: providers::Watched,
    /// Turns of looks at provider objects, by namespace.
    looks: Arc<Shares>,
    /// Where looks at provider objects are asked for.
    reports: Reports,
    /// Turns of visits.
    turns: Arc<Shares>,
    /// The memory of transfers, in MiB.
    transfers: Arc<Shares>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// What the watches know of jobs; lean, and for hints only.
    jobs: Vec<(Option<String>, Store<BatchJob>)>,
    pokes: Vec<(Option<String>, mpsc::UnboundedSender<ObjectRef<BatchJob>>)>,
}

impl Context {
    /// Has the job looked at again soon.
    fn poke(&self, job: ObjectRef<BatchJob>) {
        for (namespace, pokes) in &self.pokes {
            if namespace.is_none() || *namespace == job.namespace {
                // A closed channel means that we are stopping.
                let _ = pokes.send(job.clone());
            }
        }
    }

    /// Ends what runs for a job, and forgets it.
    fn end_session(&self, uid: &str) {
        self.sessions.end(uid);
        self.accounts.forget(uid);
    }

    /// Counts the batches that a job's status names towards its account's limit: all that is known of them until the job's
    /// journal is read.
    fn saw(&self, job: &BatchJob) {
        let Some(uid) = job.metadata.uid.as_deref() else { return };
        let Some(provider) = job.status.as_ref().and_then(|s| s.provider.as_ref()) else { return };
        if !observe::is_finished(job) {
            let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
            self.accounts.quota(&provider.uid).guess(uid, namespace, in_flight(job));
        }
    }

    fn failed(&self, session: &Session, what: Option<Task>, failed: Failed) {
        let now = self.clock.now();
        self.metrics.failed(failed.trouble.category());
        if failed.trouble.is_unfit_store {
            session.remember(|m| m.unfit_store = Some(failed.trouble.stuck.message.clone()));
        }
        if failed.trouble.is_of_account
            && let Some(account) = session.account()
        {
            self.reports.ask(&account, Saw::Failure, now);
        }
        session.failed(what, failed, now, self.clock.jitter());
    }

    fn succeeded(&self, session: &Session, what: Option<Task>) {
        let had_failed = session.succeeded(what);
        if had_failed.is_some_and(|b| b.is_of_account())
            && let Some(account) = session.account()
        {
            self.reports.ask(&account, Saw::Recovery, self.clock.now());
        }
    }
}

/// Batches that may run, as far as status tells.
fn in_flight(job: &BatchJob) -> usize {
    job.status.iter().flat_map(|s| &s.batches).filter(|batch| crate::lifecycle::is_in_flight(batch)).count()
}

/// `of` says what is watched.
fn log_stream_error<E: std::error::Error + 'static>(of: &str, error: &controller::Error<E, watcher::Error>) {
    match error {
        // The object went between the event and the visit.
        controller::Error::ObjectNotFound(_) => {}
        other => warn!(error = crate::transport::chain(other), of, "a watch failed and is set up again"),
    }
}
