//! The ledgers of providers' budgets: for each provider object with budgets a ConfigMap in the operator's namespace, where tenants cannot
//! write. Each change is a conditional write of the version that was judged; changes that come together share one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use jiff::civil::Date;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::sync::oneshot;
use tracing::warn;

use super::{AccountChange, Provider, ProviderKey};
use crate::api::conditions::reasons;
use crate::api::{
    BatchJob, BatchProvider, BatchProviderSpec, BudgetStatus, ClusterBatchProvider, FIELD_MANAGER, ProviderKind,
    ProviderStatus,
};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{EventRecord, publish_on};
use crate::lifecycle::{is_finished, is_tidy};
use crate::money::{Billed, Budget, BudgetUse, Ledger, Reservation, Unbilled, Unreserved, Usd, day_of};

/// Name of the ConfigMap of a ledger, before the uid of its provider.
const NAME: &str = "batchjob-operator-budgets-";
/// Key of the ConfigMap.
const KEY: &str = "ledger.json";
/// Annotation of the ConfigMap with the provider's kind and name, for people.
const PROVIDER: &str = "llmbatch.dev/provider";
/// Most tries of a write that others interrupt.
const TRIES: u32 = 8;
/// Most entries of a ledger that is kept in memory between two writes.
const KEPT_ENTRIES: usize = 500;
/// Number of ledgers below which none is dropped from memory.
const FEW: usize = 64;
/// Most waiting jobs that are visited at a time because budgets have more room. The others are visited later, or look again by
/// themselves.
const WOKEN: usize = 32;
/// Most jobs that are remembered to wait for more room. Others look again by themselves.
const WAITING: usize = 10_000;
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
    queue: Mutex<Vec<Pending>>,
    /// The ledger as it was last read or written; locked by the one who writes.
    kept: tokio::sync::Mutex<Option<Kept>>,
    /// Grows whenever budgets may have more room than before.
    state: AtomicU64,
    /// The budgets as the provider object last had them; None before this process looked at it.
    budgets: Mutex<Option<Vec<Budget>>>,
    /// Time of the last request for a look at the provider (Unix milliseconds).
    asked_at: AtomicI64,
    /// Jobs that wait for a budget, in the order in which they were refused.
    waiting: Mutex<Vec<ObjectRef<BatchJob>>>,
}

struct Pending {
    change: Change,
    done: oneshot::Sender<Result<bool, Unreserved>>,
}

#[derive(Clone)]
enum Change {
    Reserve { key: String, wanted: Reservation, replaces: Option<u64>, budgets: Vec<Budget> },
    Settle { key: String, rev: u64, billed: Option<Box<Billed>> },
    Release { work_id: String, rev: u64, unbilled: Unbilled },
    SettleLater { work_id: String, rev: u64 },
    Sweep { gone: Arc<HashSet<String>> },
}

struct Kept {
    ledger: Ledger,
    /// The version that was read; None if there is no ConfigMap.
    version: Option<String>,
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
            queue: Mutex::default(),
            kept: tokio::sync::Mutex::default(),
            state: AtomicU64::new(1),
            budgets: Mutex::default(),
            asked_at: AtomicI64::new(0),
            waiting: Mutex::default(),
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
        self.waits(&job);
        let answer = self.change(ctx, Change::Reserve { key, wanted, replaces, budgets }).await?;
        if answer.is_ok() {
            lock(&self.waiting).retain(|waiting| *waiting != job);
        }
        Ok(answer.map(|_| ()))
    }

    fn waits(&self, job: &ObjectRef<BatchJob>) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < WAITING && !waiting.contains(job) {
            waiting.push(job.clone());
        }
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

    /// Settles the reservations of jobs that are gone, and returns the use of the budgets for status.
    ///
    /// # Errors
    /// If the ledger cannot be read or written.
    pub async fn look_after(&self, ctx: &Context, budgets: &[Budget]) -> Result<Vec<BudgetStatus>, StepError> {
        let read = self.read(ctx).await?;
        let gone = gone(ctx, &read.ledger);
        let ledger = match gone.is_empty() {
            true => read.ledger,
            false => {
                warn!(
                    provider = self.object.name,
                    jobs = gone.len(),
                    "reservations of jobs that are gone count as spent"
                );
                let _ = self.change(ctx, Change::Sweep { gone: Arc::new(gone) }).await?;
                self.read(ctx).await?.ledger
            }
        };
        let today = day_of(ctx.clock.now());
        let per_namespace = budgets.iter().filter(|budget| budget.per_namespace).count().max(1);
        Ok(ledger.uses(budgets, today, SHOWN / per_namespace).iter().map(|used| shown(used, today)).collect())
    }

    /// Makes one change. The inner result is the ledger's answer: whether something changed.
    async fn change(&self, ctx: &Context, change: Change) -> Result<Result<bool, Unreserved>, StepError> {
        loop {
            let (done, mut answer) = oneshot::channel();
            lock(&self.queue).push(Pending { change: change.clone(), done });
            let mut kept = self.kept.lock().await;
            match answer.try_recv() {
                // Another call wrote it with its own.
                Ok(answer) => return Ok(answer),
                // Another call was about to, and failed or was dropped.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let group = std::mem::take(&mut *lock(&self.queue));
            let answers = self.write_group(ctx, &mut kept, &group).await?;
            for (pending, answer) in group.into_iter().zip(answers) {
                // Nobody waits for it any more if its job ended.
                let _ = pending.done.send(answer);
            }
            if let Ok(answer) = answer.try_recv() {
                return Ok(answer);
            }
        }
    }

    /// Applies the changes to the ledger in one conditional write.
    async fn write_group(
        &self,
        ctx: &Context,
        kept: &mut Option<Kept>,
        group: &[Pending],
    ) -> Result<Vec<Result<bool, Unreserved>>, StepError> {
        for _ in 0..TRIES {
            let (read, is_fresh) = match kept.take() {
                Some(read) => (read, false),
                None => (self.read(ctx).await?, true),
            };
            let (mut ledger, today) = (read.ledger.clone(), day_of(ctx.clock.now()));
            let answers: Vec<_> = group.iter().map(|pending| apply(&mut ledger, &pending.change, today)).collect();
            // What is reserved is proved by a write, even of what was there.
            let writes = answers.contains(&Ok(true));
            if !writes && (is_fresh || group.iter().all(|pending| matches!(pending.change, Change::Release { .. }))) {
                self.keep(kept, read);
                return Ok(answers);
            }
            // Without a write, only what is there now says that a batch was settled before, or that a budget does not suffice.
            if !writes {
                continue;
            }
            if let Some(version) = self.write(ctx, &read, &ledger).await? {
                self.keep(kept, Kept { ledger, version: Some(version) });
                self.ask_for_a_look(ctx);
                let freed = group
                    .iter()
                    .zip(&answers)
                    .any(|(pending, answer)| *answer == Ok(true) && !matches!(pending.change, Change::Reserve { .. }));
                if freed {
                    self.has_room(ctx);
                }
                return Ok(answers);
            }
        }
        let message = format!("others write ConfigMap '{}' at the same time", self.name());
        Err(StepError::passing(reasons::BUDGET_LEDGER_UNAVAILABLE, message))
    }

    fn ask_for_a_look(&self, ctx: &Context) {
        let now = ctx.clock.now();
        if now >= self.asked_at.load(Ordering::Relaxed).saturating_add(SHOWN_AGAIN) {
            self.asked_at.store(now, Ordering::Relaxed);
            ctx.reports.ask(&self.object, AccountChange::Spending, now);
        }
    }

    fn keep(&self, kept: &mut Option<Kept>, now: Kept) {
        let entries = now.ledger.open.len() + now.ledger.spent.len();
        *kept = (entries <= KEPT_ENTRIES).then_some(now);
    }

    /// Has jobs visited that wait, those of each namespace in turn.
    fn has_room(&self, ctx: &Context) {
        self.state.fetch_add(1, Ordering::SeqCst);
        let mut waiting = lock(&self.waiting);
        let mut rounds: HashMap<Option<String>, usize> = HashMap::new();
        let mut order: Vec<(usize, usize)> = waiting
            .iter()
            .enumerate()
            .map(|(at, job)| {
                let round = rounds.entry(job.namespace.clone()).or_default();
                *round += 1;
                (*round, at)
            })
            .collect();
        order.sort_unstable();
        let woken: HashSet<usize> = order.into_iter().take(WOKEN).map(|(_, at)| at).collect();
        let mut at = 0;
        waiting.retain(|job| {
            let is_woken = woken.contains(&at);
            at += 1;
            if is_woken {
                ctx.jobs.poke(job.clone());
            }
            !is_woken
        });
    }

    fn name(&self) -> String {
        format!("{NAME}{}", self.uid)
    }

    fn api(&self, ctx: &Context) -> Api<ConfigMap> {
        Api::namespaced(ctx.client.clone(), &ctx.namespace)
    }

    async fn read(&self, ctx: &Context) -> Result<Kept, StepError> {
        let Some(map) = self.api(ctx).get_opt(&self.name()).await? else {
            return Ok(Kept { ledger: self.begun_anew(ctx).await?, version: None });
        };
        let text = map.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str).unwrap_or_default();
        let ledger = serde_json::from_str(text).map_err(|e| {
            let (name, namespace) = (self.name(), &ctx.namespace);
            let message = format!(
                "ConfigMap '{name}' of namespace '{namespace}', the ledger of the budgets of {:?} '{}', cannot be read: {e}. Put \
                 `{KEY}` back as it was; or delete the ConfigMap, and the ledger begins with what the provider's status shows",
                self.object.kind, self.object.name
            );
            StepError::lasting(reasons::BUDGET_LEDGER_UNAVAILABLE, message)
        })?;
        Ok(Kept { ledger, version: map.resource_version() })
    }

    /// Returns the ledger of a provider that has none. If its status shows that there was one, it begins with what that shows.
    async fn begun_anew(&self, ctx: &Context) -> Result<Ledger, StepError> {
        let namespace = self.object.namespace.as_deref();
        let found = match self.object.kind {
            ProviderKind::BatchProvider => last_shown::<BatchProvider>(ctx, namespace, &self.object.name).await?,
            ProviderKind::ClusterBatchProvider => {
                last_shown::<ClusterBatchProvider>(ctx, None, &self.object.name).await?
            }
        };
        let Some((uid, status, object)) = found.filter(|(uid, ..)| *uid == self.uid) else {
            return Ok(Ledger::default());
        };
        let today = day_of(ctx.clock.now());
        let uses: Vec<BudgetUse> = status.budgets.iter().filter_map(|budget| used(budget, today)).collect();
        let ledger = Ledger::from_last_shown(&uses, today);
        if ledger != Ledger::default() {
            let message = format!(
                "ConfigMap '{}' of namespace '{}', the ledger of the budgets, is gone. It begins anew with what status last showed; \
                 batches that were in flight count as spent. What was spent after that, or by namespaces that status did not show, \
                 does not count in this period",
                self.name(),
                ctx.namespace
            );
            warn!(provider = self.object.name, uid, "{message}");
            publish_on(ctx, object, EventRecord::warning(reasons::BUDGET_LEDGER_LOST, message));
        }
        Ok(ledger)
    }

    /// Writes the ledger over the version that was judged. Returns its new version; None if there is another one.
    async fn write(&self, ctx: &Context, judged: &Kept, ledger: &Ledger) -> Result<Option<String>, StepError> {
        let text = serde_json::to_string(ledger).map_err(|e| {
            StepError::lasting(
                reasons::BUDGET_LEDGER_UNAVAILABLE,
                format!("the ledger of budgets cannot be written: {e}"),
            )
        })?;
        let (api, params) =
            (self.api(ctx), PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() });
        let map = ConfigMap {
            metadata: ObjectMeta { resource_version: judged.version.clone(), ..self.metadata() },
            data: Some(BTreeMap::from([(KEY.to_string(), text)])),
            ..Default::default()
        };
        let written = match judged.version {
            None => api.create(&params, &map).await,
            Some(_) => api.replace(&self.name(), &params, &map).await,
        };
        match written {
            Ok(written) => Ok(written.resource_version()),
            // Somebody wrote it, made it or deleted it.
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(None)
            }
            Err(kube::Error::Api(status)) if status.is_forbidden() => Err(StepError::lasting(
                reasons::BUDGET_LEDGER_UNAVAILABLE,
                format!(
                    "the operator may not write ConfigMaps in its own namespace, where it keeps the ledger of budgets; apply the Role \
                     of this version: {}",
                    status.message
                ),
            )),
            Err(e) => Err(e.into()),
        }
    }

    fn metadata(&self) -> ObjectMeta {
        let of = match &self.object.namespace {
            Some(namespace) => format!("{:?} {namespace}/{}", self.object.kind, self.object.name),
            None => format!("{:?} {}", self.object.kind, self.object.name),
        };
        // Goes with its provider. An object of another namespace cannot own it.
        let owner = (self.object.kind == ProviderKind::ClusterBatchProvider).then(|| OwnerReference {
            api_version: "llmbatch.dev/v1alpha1".into(),
            kind: "ClusterBatchProvider".into(),
            name: self.object.name.clone(),
            uid: self.uid.clone(),
            ..Default::default()
        });
        ObjectMeta {
            name: Some(self.name()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_string(), FIELD_MANAGER.to_string())])),
            annotations: Some(BTreeMap::from([(PROVIDER.to_string(), of)])),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        }
    }
}

fn apply(ledger: &mut Ledger, change: &Change, today: Date) -> Result<bool, Unreserved> {
    match change {
        Change::Reserve { key, wanted, replaces, budgets } => {
            ledger.reserve(key, wanted.clone(), *replaces, budgets).map(|()| true)
        }
        Change::Settle { key, rev, billed } => Ok(ledger.settle(key, *rev, billed.as_deref(), today)),
        Change::Release { work_id, rev, unbilled } => Ok(ledger.release(work_id, *rev, unbilled, today)),
        Change::SettleLater { work_id, rev } => Ok(ledger.settle_later(work_id, *rev, today)),
        Change::Sweep { gone } => Ok(ledger.sweep(|open| gone.contains(&open.job_uid), today) > 0),
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

async fn last_shown<P: Provider>(
    ctx: &Context,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<(String, ProviderStatus, ObjectReference)>, StepError> {
    let found = P::api(ctx.client.clone(), namespace).get_opt(name).await?;
    Ok(found.map(|provider| {
        let status = provider.status().cloned().unwrap_or_default();
        (provider.uid().unwrap_or_default(), status, provider.object_ref(&()))
    }))
}

fn shown(used: &BudgetUse, today: Date) -> BudgetStatus {
    BudgetStatus {
        period: used.budget.period,
        start: used.budget.start(today).to_string(),
        namespace: used.namespace.clone(),
        spent_usd: used.spent.rounded(),
        reserved_usd: used.reserved.rounded(),
        max_cost_usd: used.budget.max_cost.rounded(),
    }
}

/// Returns the use that status shows; None if it is of another period than today's.
fn used(status: &BudgetStatus, today: Date) -> Option<BudgetUse> {
    let usd = |amount: &str| Usd::parse(amount).unwrap_or_default();
    let (period, per_namespace) = (status.period, status.namespace.is_some());
    let budget = Budget { period, max_cost: usd(&status.max_cost_usd), per_namespace };
    let (spent, reserved) = (usd(&status.spent_usd), usd(&status.reserved_usd));
    let is_now = status.start == budget.start(today).to_string();
    is_now.then(|| BudgetUse { budget, namespace: status.namespace.clone(), spent, reserved })
}
