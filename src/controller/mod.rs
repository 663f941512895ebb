//! The only module in which the others meet: `job` for BatchJobs, `cron` for CronBatchJobs, `provider` for the objects that name
//! accounts, `orphan` for batches that nobody follows, `hooks` for the webhooks of providers, `wait` for the command of that name, and
//! `runtime` for the parts that they share.

mod cron;
mod hooks;
mod job;
mod orphan;
mod provider;
mod run;
mod runtime;
mod series;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use kube::runtime::{controller, watcher};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use job::journal::{JournalStore, PackedJournal, VersionedJournal};
pub use job::permit::{PostPermit, SubmitRequest};
pub use run::run;
pub use runtime::dependencies::{Clock, Dependencies, SystemClock, config, watching_config};
pub use runtime::error::StepError;
pub use runtime::leader::{Leadership, lead};
pub use runtime::options::{Options, StartError, spool_size};
pub use wait::{Ended, wait_for_end};

use crate::account::Accounts;
use crate::fair::{Budget, Shares};
use crate::hooks::Endpoints;
use crate::lifecycle::Timing;
use crate::telemetry::{Metrics, Traces};
use crate::transport::Transport;
use cron::Crons;
use job::Jobs;
use provider::{Ledgers, Reports};
use runtime::cache::Cache;
use runtime::clock_watch::ClockWatch;
use runtime::event_queue::EventQueue;
use runtime::schedule_looks::ScheduleLooks;
use runtime::secrets::Secrets;

/// The state that all controllers share.
pub(crate) struct Context {
    client: Client,
    transport: Transport,
    events: EventQueue,
    metrics: Metrics,
    traces: Traces,
    clock: Arc<dyn Clock>,
    clock_watch: ClockWatch,
    timing: Timing,
    /// The operator's own namespace, which has the Secrets of cluster-wide providers.
    namespace: String,
    /// The uid of `kube-system`, which identifies the cluster.
    cluster: String,
    /// Milliseconds between two searches for batches that nobody follows; 0 for none.
    orphan_check: i64,
    /// The calls and the batches in flight of each account.
    accounts: Accounts,
    /// The ledgers of providers' budgets.
    ledgers: Ledgers,
    secrets: Secrets,
    /// The endpoints for webhooks of providers; None where they are not served.
    endpoints: Option<Arc<Endpoints>>,
    /// The memory for clients that trust authorities of tenants, by namespace.
    certificates: Arc<Budget>,
    /// Labels of namespaces.
    labels: Cache<String, BTreeMap<String, String>>,
    /// The provider objects as the watches know them.
    providers: provider::ProviderStores,
    /// The experience with the models of each account.
    experience: provider::Experience,
    /// The last probe of each account by this process.
    probes: provider::Probes,
    /// The price lists of accounts.
    price_lists: provider::PriceLists,
    /// Turns of looks at provider objects, by namespace.
    looks: Arc<Shares>,
    /// The requests for looks at provider objects.
    reports: Reports,
    /// The state that the visits of BatchJobs share.
    jobs: Jobs,
    /// The state that the visits of CronBatchJobs share.
    crons: Crons,
    /// The requests for looks at CronBatchJobs.
    schedule_looks: ScheduleLooks,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Logs an error of a watch; `of` names the watched kind.
fn log_stream_error<E: std::error::Error + 'static>(of: &str, error: &controller::Error<E, watcher::Error>) {
    match error {
        // The object was deleted between the event and the visit.
        controller::Error::ObjectNotFound(_) => {}
        other => warn!(error = crate::transport::chain(other), of, "a watch failed and is set up again"),
    }
}
