//! BatchJobs: `observe -> decide -> record -> act`, one effect a step.

pub(super) mod act;
pub(super) mod backoff;
mod cache_budget;
mod cached_job;
mod clients;
mod events;
mod folders;
mod job_news;
pub(super) mod job_state;
pub(super) mod journal;
mod judge;
mod measures;
mod notices;
pub(super) mod observe;
pub(super) mod permit;
mod place;
mod reconcile;
mod record;
mod references;
mod rejudge;
mod result_source;
mod source;
mod spans;
mod task_room;
mod tasks;
mod transfers;
mod turns;
mod view;
mod visit;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use kube::runtime::reflector::{ObjectRef, Store};

use watch::WatchedJobs;
pub(super) use watch::{Scope, watch};

use super::Context;
use super::provider::{AccountChange, ProviderKey};
use super::runtime::options::Options;
use crate::api::BatchJob;
use crate::fair::Shares;
use crate::lifecycle::{Memory, Task};
use crate::store::{LocalCopies, StoreChecks};
use crate::telemetry::Metrics;
use backoff::FailedCall;
use cache_budget::CacheBudget;
use job_state::{JobState, JobStates};
use notices::Deliveries;
use task_room::AllRooms;

/// The state that the visits of all BatchJobs share.
pub(super) struct Jobs {
    spool: PathBuf,
    /// The staged files that are on local disk, and whether their stores check uploads.
    copies: LocalCopies,
    checks: StoreChecks,
    /// ConfigMaps that the results of one job may take.
    output_config_maps: usize,
    /// Milliseconds between two looks at the references of a job that failed before anything was paid.
    recheck: i64,
    job_states: Arc<JobStates>,
    /// The messages to webhooks that are being delivered.
    deliveries: Deliveries,
    /// The bytes that are cached of jobs at rest.
    cache_budget: CacheBudget,
    /// Turns of visits.
    turns: Arc<Shares>,
    /// The memory for large visits, in bytes.
    rooms: Arc<Shares>,
    /// The room for background tasks.
    task_room: AllRooms,
    /// The memory for transfers, in MiB.
    transfers: Arc<Shares>,
    /// The local disk for transfers.
    disk: transfers::DiskShares,
    /// The jobs as the watches know them, lean and for hints only, and the requests for visits, by watched namespace.
    watched: Vec<WatchedJobs>,
}

impl Jobs {
    /// Returns the state for `options`, with the scopes to watch.
    pub fn new(options: &Options) -> (Jobs, Vec<Scope>) {
        let (watched, scopes) = options.scopes().into_iter().map(watch::scope).unzip();
        let jobs = Jobs {
            spool: options.spool_dir.clone(),
            copies: LocalCopies::of_spool(options.spool_size),
            checks: Default::default(),
            output_config_maps: options.output_config_maps,
            recheck: options.recheck,
            job_states: Default::default(),
            deliveries: Default::default(),
            cache_budget: Default::default(),
            turns: Shares::new(turns::LIMITS),
            rooms: Shares::new(turns::ROOMS),
            task_room: AllRooms::new(task_room::LIMITS),
            transfers: Shares::new(transfers::LIMITS),
            disk: transfers::DiskShares::of_spool(options.spool_size),
            watched,
        };
        (jobs, scopes)
    }

    /// Registers the counts of jobs that need a person, of calls that keep failing, and of waiting visits and transfers.
    pub fn count_in(&self, metrics: &Metrics) {
        let known: Vec<Store<BatchJob>> = self.watched.iter().map(|(_, store, _)| store.clone()).collect();
        metrics.count_jobs(move || watch::in_need(&known));
        let job_states = self.job_states.clone();
        metrics.count_failing_calls(move || job_states.failing());
        let visits = [self.turns.clone(), self.rooms.clone()];
        let (transfers, disk) = (self.transfers.clone(), self.disk.clone());
        metrics.count_waiting(move || waiting(&visits, &transfers, &disk));
    }

    /// Returns the watched namespaces; None stands for all.
    pub fn scopes(&self) -> impl Iterator<Item = Option<&str>> {
        self.watched.iter().map(|(scope, ..)| scope.as_deref())
    }

    /// Returns a job as the watches know it.
    pub fn watched(&self, job: &ObjectRef<BatchJob>) -> Option<Arc<BatchJob>> {
        self.watched.iter().find_map(|(_, store, _)| store.get(job))
    }

    /// Returns the jobs of the watches that may know jobs of `namespace`; None for all watches.
    pub fn watched_in(&self, namespace: Option<&str>) -> impl Iterator<Item = Arc<BatchJob>> {
        let may_know =
            move |scope: &Option<String>| scope.is_none() || namespace.is_none() || scope.as_deref() == namespace;
        self.watched.iter().filter(move |(scope, ..)| may_know(scope)).flat_map(|(_, store, _)| store.state())
    }

    /// Waits until the watch of this namespace, or of all for None, knows all jobs. Another namespace may never be readable.
    pub async fn synced(&self, namespace: Option<&str>) {
        watch::synced(&self.watched, namespace).await;
    }

    /// Asks for a visit of the job soon.
    pub fn poke(&self, job: ObjectRef<BatchJob>) {
        for (namespace, _, pokes) in &self.watched {
            if namespace.is_none() || *namespace == job.namespace {
                // A closed channel means that the operator stops.
                let _ = pokes.send(job.clone());
            }
        }
    }

    /// Lets a job look again at once whether the input that it waits for is there.
    pub fn look_for_input(&self, job: &BatchJob) {
        self.job_states
            .get(job.metadata.uid.as_deref().unwrap_or_default(), job)
            .remember(Memory::look_for_input_again);
        self.poke(ObjectRef::from_obj(job));
    }

    /// Lets those of these jobs that follow the batch look at it now (Unix milliseconds). Returns how many do.
    pub fn hint(&self, jobs: &[String], batch_id: &str, now: i64) -> usize {
        let followers = jobs.iter().filter_map(|uid| {
            self.job_states.hint(uid, batch_id, now, |job| self.watched(job).is_some_and(|job| names(&job, batch_id)))
        });
        followers.map(|job| self.poke(job)).count()
    }

    /// Lets all failed calls of this account be tried again at once.
    pub fn try_again(&self, account: &ProviderKey) {
        self.job_states.try_again(account).into_iter().for_each(|job| self.poke(job));
    }

    /// Records the bytes that are kept of a job whose visit is over. Caches beyond the limit are dropped, and read again at the
    /// job's next visit.
    fn is_at_rest(&self, job: &BatchJob) {
        let (uid, namespace) = (job.metadata.uid.as_deref(), job.metadata.namespace.as_deref());
        let (uid, namespace) = (uid.unwrap_or_default(), namespace.unwrap_or_default());
        let Some(bytes) = self.job_states.weight(uid) else { return self.cache_budget.forget(uid) };
        for uid in self.cache_budget.keep(uid, namespace, bytes) {
            self.job_states.let_go(&uid);
        }
    }

    /// Ends the tasks of a job, and drops its state.
    fn end(&self, ctx: &Context, uid: &str) {
        self.job_states.end(uid);
        self.cache_budget.forget(uid);
        ctx.accounts.forget(uid);
    }
}

/// Returns whether the job's status names the batch.
fn names(job: &BatchJob, batch_id: &str) -> bool {
    job.status.iter().flat_map(|status| &status.batches).any(|batch| batch.provider_id.as_deref() == Some(batch_id))
}

/// Records that a step, or `task`, failed, so that it is tried again later. If the account may be the cause, it is looked at.
fn note_failure(ctx: &Context, job_state: &JobState, task: Option<Task>, failed: FailedCall) {
    let now = ctx.clock.now();
    ctx.metrics.failed(failed.error.kind());
    if failed.error.is_unfit_store {
        job_state.remember(|m| m.unfit_store = Some(failed.error.blocked.message.clone()));
    }
    if failed.error.is_of_account
        && let Some(account) = job_state.account()
    {
        ctx.reports.ask(&account, AccountChange::Failure, now);
    }
    job_state.failed(task, failed, now, ctx.clock.jitter());
}

/// Clears the failures of the steps, or of `task`. If the account seemed to be the cause, it is looked at again.
fn note_success(ctx: &Context, job_state: &JobState, task: Option<Task>) {
    let had_failed = job_state.succeeded(task);
    if had_failed.is_some_and(|b| b.is_of_account())
        && let Some(account) = job_state.account()
    {
        ctx.reports.ask(&account, AccountChange::Recovery, ctx.clock.now());
    }
}

/// Returns the numbers of visits that wait for their turn or for memory, and of transfers that wait for memory, by kind.
fn waiting(visits: &[Arc<Shares>], transfers: &Shares, disk: &transfers::DiskShares) -> Vec<(&'static str, i64)> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let visits = ("Visit", count(visits.iter().flat_map(|shares| shares.waiting().into_values()).sum()));
    let waiting: Vec<(String, usize)> = transfers.waiting().into_iter().chain(disk.waiting()).collect();
    let is = |lane: &str, kind: &str| lane.split(',').next() == Some(kind);
    let of = |kind| (kind, count(waiting.iter().filter(|(lane, _)| is(lane, kind)).map(|(_, n)| n).sum()));
    [visits].into_iter().chain(transfers::KINDS.map(of)).collect()
}
