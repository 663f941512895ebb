//! The ledgers of providers' budgets: for each provider object with budgets a ConfigMap in the operator's namespace, where tenants cannot
//! write. Each change is a conditional write of the version that was judged; changes that come together share one.

mod changes;
mod config_map;
mod shown;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tracing::warn;

use super::{AccountChange, Provider, ProviderKey};
use crate::api::{BatchJob, BatchProviderSpec, BudgetStatus, ProviderKind};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{is_finished, is_tidy};
use crate::money::{Billed, Budget, Ledger, Reservation, Unbilled, Unreserved, Usd, day_of};
use changes::{Answer, Change, Changes};
use config_map::LedgerMap;
use shown::{Report, shown};
use waiting::WaitingJobs;

/// Number of ledgers below which none is dropped from memory.
const FEW: usize = 64;
/// Least time in milliseconds between two looks at a provider that a change of its ledger asks for, so that status shows the change.
const SHOWN_AGAIN: i64 = 60_000;
/// Most namespaces in the status of a provider.
const SHOWN: usize = 16;

/// The ledgers of this process.
#[derive(Default)]
pub(crate) struct Ledgers {
    by_provider: Mutex<HashMap<String, Arc<ProviderLedger>>>,
}

/// The ledger of one provider object.
pub(crate) struct ProviderLedger {
    /// uid of the provider object.
    uid: String,
    object: ProviderKey,
    changes: Changes,
    /// Grows whenever budgets may have more room than before.
    state: AtomicU64,
    /// The budgets as the provider object last had them; None before this process looked at it.
    budgets: Mutex<Option<Vec<Budget>>>,
    /// Time of the last request for a look at the provider (Unix milliseconds).
    asked_at: AtomicI64,
    waiting: Mutex<WaitingJobs>,
    report: Report,
}

/// Locks the mutex even if it is poisoned: what it guards is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the budgets of a provider. An amount that cannot be read, which its schema refuses, allows nothing.
pub(crate) fn budgets_of(spec: &BatchProviderSpec) -> Vec<Budget> {
    let budget = |of: &crate::api::ProviderBudget| Budget {
        period: of.period,
        max_cost: Usd::parse(&of.max_cost_usd).unwrap_or_default(),
        per_namespace: of.per_namespace,
    };
    spec.budgets.iter().map(budget).collect()
}

impl Ledgers {
    /// Returns the ledger of the provider object with this uid; the same one for all callers.
    pub fn of(&self, uid: &str, object: &ProviderKey) -> Arc<ProviderLedger> {
        let mut all = lock(&self.by_provider);
        if let Some(ledger) = all.get(uid) {
            return ledger.clone();
        }
        if all.len() >= FEW {
            all.retain(|_, ledger| Arc::strong_count(ledger) > 1 || !lock(&ledger.waiting).is_empty());
        }
        let ledger = Arc::new(ProviderLedger {
            uid: uid.into(),
            object: object.clone(),
            changes: Changes::default(),
            state: AtomicU64::new(1),
            budgets: Mutex::default(),
            asked_at: AtomicI64::new(0),
            waiting: Mutex::default(),
            report: Report::default(),
        });
        all.insert(uid.into(), ledger.clone());
        ledger
    }

    /// Returns the ledger of a provider that has budgets, or had some.
    pub fn of_provider<P: Provider>(&self, provider: &P, budgets: &[Budget]) -> Option<Arc<ProviderLedger>> {
        let uid = provider.uid().unwrap_or_default();
        let is_known = lock(&self.by_provider).contains_key(&uid);
        (is_known || !budgets.is_empty()).then(|| self.of(&uid, &ProviderKey::of(provider)))
    }

    /// Deletes the ledger of a BatchProvider: of one that `is_gone` in any case, and otherwise unless a job that is not finished has a
    /// reservation in it. That of a ClusterBatchProvider is owned by it, and goes with it. Returns whether there is none any more.
    ///
    /// # Errors
    /// If the API server cannot be asked.
    pub async fn delete_with<P: Provider>(
        &self,
        ctx: &Context,
        provider: &P,
        is_gone: bool,
    ) -> Result<bool, StepError> {
        if P::KIND == ProviderKind::ClusterBatchProvider {
            return Ok(true);
        }
        let uid = provider.uid().unwrap_or_default();
        let object = ProviderKey::of(provider);
        let unfinished = ctx.jobs.watched_in(object.namespace.as_deref()).filter(|job| !is_gone && !is_finished(job));
        let unfinished: HashSet<String> = unfinished.filter_map(|job| job.metadata.uid.clone()).collect();
        let ledger = self.of(&uid, &object);
        let is_deleted = ledger.map(ctx).delete(|open| unfinished.contains(&open.job_uid)).await?;
        if is_deleted {
            lock(&self.by_provider).remove(&uid);
        }
        Ok(is_deleted)
    }

    /// Returns the state of the ledger of this provider: with another one than before, budgets may have more room.
    pub fn state(&self, uid: &str) -> u64 {
        lock(&self.by_provider).get(uid).map_or(0, |ledger| ledger.state())
    }
}

impl ProviderLedger {
    pub fn state(&self) -> u64 {
        self.state.load(Ordering::SeqCst)
    }

    /// Reserves an amount for a batch of `job`, which is visited again once there may be room if there is none now. `budgets` count
    /// if this process has not looked at the provider yet. `replaces` names its own reservation, see [`Ledger::reserve`].
    ///
    /// # Errors
    /// If it is unknown whether the amount is reserved.
    pub async fn reserve(
        &self,
        ctx: &Context,
        job: ObjectRef<BatchJob>,
        (key, wanted, replaces): (String, Reservation, Option<u64>),
        budgets: &[Budget],
    ) -> Result<Result<(), Unreserved>, StepError> {
        let budgets = lock(&self.budgets).clone().unwrap_or_else(|| budgets.to_vec());
        // It is put on the list before the ledger refuses it, so that it misses no wake.
        lock(&self.waiting).add(&job);
        let answer = self.change(ctx, Change::Reserve { key, wanted, replaces, budgets }).await?;
        if answer.is_ok() {
            lock(&self.waiting).remove(&job);
        }
        Ok(answer.map(|_| ()))
    }

    /// Writes the cost of a batch, as its answers tell it, in the place of its reservation; None for all that was reserved.
    ///
    /// # Errors
    /// If it is unknown whether the cost is in the ledger.
    pub async fn settle(
        &self,
        ctx: &Context,
        key: String,
        rev: u64,
        billed: Option<Box<Billed>>,
    ) -> Result<(), StepError> {
        self.change(ctx, Change::Settle { key, rev, billed }).await.map(|_| ())
    }

    /// Ends the reservations of a work, by a journal of revision `rev` that lets no intent follow; only those of shards that are
    /// `unbilled` without cost.
    ///
    /// # Errors
    /// If it is unknown whether any is left.
    pub async fn release(
        &self,
        ctx: &Context,
        (work_id, rev): (String, u64),
        unbilled: Unbilled,
    ) -> Result<(), StepError> {
        self.change(ctx, Change::Release { work_id, rev, unbilled }).await.map(|_| ())
    }

    /// Counts in full what was reserved for a work on later revisions of its journal than `rev`.
    ///
    /// # Errors
    /// If it is unknown whether any is left.
    pub async fn settle_later(&self, ctx: &Context, work_id: String, rev: u64) -> Result<(), StepError> {
        self.change(ctx, Change::SettleLater { work_id, rev }).await.map(|_| ())
    }

    /// Takes in the budgets that the provider object has. Jobs that wait are visited if they changed.
    pub fn has_budgets(&self, ctx: &Context, budgets: Vec<Budget>) {
        let before = lock(&self.budgets).replace(budgets.clone());
        if before.is_some_and(|before| before != budgets) {
            self.has_room(ctx);
        }
    }

    /// Settles the reservations of jobs that are gone, and returns the use of the budgets for status, which shows `known`.
    ///
    /// # Errors
    /// If the ledger cannot be read or written.
    pub async fn look_after(
        &self,
        ctx: &Context,
        budgets: &[Budget],
        known: &[BudgetStatus],
    ) -> Result<Vec<BudgetStatus>, StepError> {
        let mut ledger = self.map(ctx).read().await?.ledger;
        let gone = gone(ctx, &ledger);
        if !gone.is_empty() {
            warn!(provider = self.object.name, jobs = gone.len(), "reservations of jobs that are gone count as spent");
            let _ = self.change(ctx, Change::Sweep { gone: Arc::new(gone) }).await?;
            ledger = self.map(ctx).read().await?.ledger;
        }
        let today = day_of(ctx.clock.now());
        let per_namespace = budgets.iter().filter(|budget| budget.per_namespace).count().max(1);
        let uses = ledger.uses(budgets, today, SHOWN / per_namespace);
        let now: Vec<BudgetStatus> = uses.iter().map(|used| shown(used, today)).collect();
        Ok(match self.object.kind {
            ProviderKind::BatchProvider => now,
            ProviderKind::ClusterBatchProvider => self.report.of(now, known),
        })
    }

    /// Records that the budgets of the last look did not reach status.
    pub fn was_not_reported(&self) {
        self.report.was_not_written();
    }

    /// Makes one change, and has jobs visited for which there may be room afterwards.
    async fn change(&self, ctx: &Context, change: Change) -> Result<Answer, StepError> {
        let (answer, written) = self.changes.make(&self.map(ctx), change).await?;
        if let Some(written) = written {
            self.ask_for_a_look(ctx);
            if written.freed {
                self.has_room(ctx);
            }
        }
        Ok(answer)
    }

    fn map<'a>(&'a self, ctx: &'a Context) -> LedgerMap<'a> {
        LedgerMap {
            client: &ctx.client,
            events: &ctx.events,
            namespace: &ctx.namespace,
            provider: &self.object,
            uid: &self.uid,
            today: day_of(ctx.clock.now()),
        }
    }

    fn ask_for_a_look(&self, ctx: &Context) {
        let now = ctx.clock.now();
        if now >= self.asked_at.load(Ordering::Relaxed).saturating_add(SHOWN_AGAIN) {
            self.asked_at.store(now, Ordering::Relaxed);
            ctx.reports.ask(&self.object, AccountChange::Spending, now);
        }
    }

    /// Has jobs visited that wait.
    fn has_room(&self, ctx: &Context) {
        self.state.fetch_add(1, Ordering::SeqCst);
        let woken = lock(&self.waiting).wake();
        woken.into_iter().for_each(|job| ctx.jobs.poke(job));
    }
}

/// Returns the uids of jobs with reservations that nobody settles any more: they are over, or do not exist. Jobs of namespaces that this
/// operator does not watch, or whose watch has not shown all of them yet, are not known to be gone.
fn gone(ctx: &Context, ledger: &Ledger) -> HashSet<String> {
    if ledger.open.is_empty() {
        return HashSet::new();
    }
    let scopes: Vec<Option<&str>> =
        ctx.jobs.scopes().filter(|scope| ctx.jobs.synced(*scope).now_or_never().is_some()).collect();
    let is_over = |job: &BatchJob| is_finished(job) && is_tidy(job);
    let known = ctx.jobs.watched_in(None).filter(|job| !is_over(job)).filter_map(|job| job.metadata.uid.clone());
    let known: HashSet<String> = known.collect();
    let is_watched = |namespace: &str| scopes.iter().any(|scope| scope.is_none_or(|scope| scope == namespace));
    let open = ledger.open.values().filter(|open| is_watched(&open.namespace) && !known.contains(&open.job_uid));
    open.map(|open| open.job_uid.clone()).collect()
}
