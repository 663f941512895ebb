//! Searches the lists of providers, seldom, for batches of this cluster that run and that nobody follows.

mod account;
mod providers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::{debug, warn};

use account::{Account, ListedBatches, REMEMBERED, Reported, RunningBatch};
use providers::{Listable, providers};

use crate::api::{BatchJob, BatchProvider, ClusterBatchProvider, ProviderKind};
use crate::controller::Context;
use crate::controller::job::job_state::JobState;
use crate::controller::job::observe::{Snapshot, observe};
use crate::controller::provider::Provider;
use crate::controller::provider::account::{access, client, fingerprint, full_name, key_of};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{self, EventRecord};
use crate::controller::runtime::ownership::{BatchOwner, owner_of};
use crate::fair::{Budget, Urgency};
use crate::lifecycle::{Freshness, Holder, Orphan, Running, Shard, concerns, is_finished, orphan, recorded_beside};
use crate::provider::{Batch, BatchApi, ErrorKind};

/// Time until the first look of a leader.
const FIRST: Duration = Duration::from_secs(60);
/// Providers of one kind that are searched at a time: most of them wait for their server.
const CONCURRENCY: usize = 64;
/// Longest time that the list of one provider may take.
const A_LIST: Duration = Duration::from_secs(150);
/// Longest time that a call about one batch may take.
const A_CALL: Duration = Duration::from_secs(60);
/// Age up to which lists are read, in seconds: the longest completion window that a job may have.
const LOOK_BACK: i64 = 604_800;
/// Longest pause that a provider is granted if it asks for one, in milliseconds.
const LONGEST_PAUSE: i64 = 3_600_000;

/// The memory of provider objects between two looks, by uid. Losing it costs another report.
struct Memory {
    accounts: HashMap<String, Account>,
    /// The memory for batches of all accounts.
    budget: Arc<Budget>,
}

impl Memory {
    fn within(budget: &Arc<Budget>) -> Memory {
        Memory { accounts: HashMap::new(), budget: budget.clone() }
    }
}

/// Looks at all accounts again and again until the operator stops.
pub(crate) async fn watch(ctx: &Context) {
    let every = Duration::from_millis(ctx.orphan_check.unsigned_abs());
    if every.is_zero() {
        return;
    }
    let budget = Budget::new(REMEMBERED);
    let (mut own, mut admins) = (Memory::within(&budget), Memory::within(&budget));
    let mut pause = every.min(FIRST);
    loop {
        let pause = std::mem::replace(&mut pause, every);
        let look = async {
            tokio::time::sleep(pause + pause * u32::from(ctx.clock.jitter()) / 1024).await;
            tokio::join!(
                look_at_all::<BatchProvider>(ctx, &mut own),
                look_at_all::<ClusterBatchProvider>(ctx, &mut admins)
            );
        };
        tokio::select! {
            () = look => {}
            () = ctx.stop.cancelled() => return,
        }
    }
}

async fn look_at_all<P: Provider>(ctx: &Context, memory: &mut Memory) {
    let providers = match providers::<P>(ctx).await {
        Ok(providers) => providers,
        Err(error) => return debug!(why = error.chain(), "cannot look for orphans now"),
    };
    let budget = memory.budget.clone();
    let looks = providers.into_iter().map(|provider| {
        let uid = provider.object.uid().unwrap_or_default();
        let (account, budget) = (memory.accounts.remove(&uid).unwrap_or_default(), budget.clone());
        async move { (uid, look_at(ctx, &provider, account, &budget).await) }
    });
    let looks = looks.collect::<Vec<_>>();
    memory.accounts = futures::stream::iter(looks).buffer_unordered(CONCURRENCY).collect().await;
    let orphans =
        memory.accounts.values().flat_map(|a| a.batches.values()).filter(|b| b.reported == Reported::Orphan).count();
    ctx.metrics.orphan_batches(kind_name(P::KIND), i64::try_from(orphans).unwrap_or(i64::MAX));
}

fn kind_name(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::BatchProvider => "BatchProvider",
        ProviderKind::ClusterBatchProvider => "ClusterBatchProvider",
    }
}

async fn look_at<P: Provider>(
    ctx: &Context,
    provider: &Listable<P>,
    mut account: Account,
    budget: &Arc<Budget>,
) -> Account {
    let Listable { object: provider, can_be_searched } = provider;
    if *can_be_searched
        && ctx.clock.now() >= account.not_before
        && let Err(error) = look(ctx, provider, &mut account, budget).await
    {
        let (namespace, name) = (provider.namespace(), provider.name_any());
        debug!(namespace, name, why = error.chain(), "cannot look for orphans at a provider now");
        let asked = error.retry_after.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        account.not_before = ctx.clock.now() + asked.min(LONGEST_PAUSE);
    }
    account
}

async fn look<P: Provider>(
    ctx: &Context,
    provider: &P,
    account: &mut Account,
    budget: &Arc<Budget>,
) -> Result<(), StepError> {
    if !provider.is_ours(ctx).await? {
        return Ok(());
    }
    let name = full_name(P::KIND, &provider.name_any());
    let access = match access(ctx, provider.account(), provider.secrets_in(ctx), &name, ctx.clock.now()).await {
        Ok(access) => access,
        // The provider's own status reports it.
        Err(missing) => return missing.blocked().map(drop),
    };
    let fingerprint = fingerprint(access.key.as_ref(), provider.account().base_url());
    let calls = ctx.accounts.get(&key_of(provider, fingerprint));
    let of = provider.account();
    let api = calls.client(client(P::KIND, (of.type_, of.base_url()), access.key, &access.transport)?, "");
    let look = AccountCheck { ctx, provider: name, namespace: provider.namespace(), api: &api, calls: &calls, budget };
    let listed = look.list(account).await;
    look.judge(account, listed.is_ok()).await;
    listed
}

/// A look at one account.
struct AccountCheck<'a> {
    ctx: &'a Context,
    /// Name of the provider, such as `BatchProvider 'llm'`.
    provider: String,
    /// Namespace of the provider object; None if it has none.
    namespace: Option<String>,
    api: &'a dyn BatchApi,
    /// The account whose turns its calls take.
    calls: &'a crate::account::Account,
    /// The memory for batches of all accounts.
    budget: &'a Arc<Budget>,
}

impl AccountCheck<'_> {
    /// Records the running batches. If a list breaks off, the batches that it showed are known to run, and the others are not
    /// known to have ended.
    async fn list(&self, account: &mut Account) -> Result<(), StepError> {
        let now = self.ctx.clock.now();
        let running = Mutex::new(ListedBatches::default());
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let grant = |bytes| self.budget.take(namespace, bytes as u64);
        let note = |batch: &Batch| {
            if let Some(owner) = self.owner(batch) {
                let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
                running.note(&batch.id, owner, batch.created_at.saturating_mul(1_000), grant);
            }
            false
        };
        let list = self.api.find(now / 1_000 - LOOK_BACK, &note);
        let listed = self.calls.call("", Urgency::Usual, A_LIST, list).await;
        let running = running.into_inner().unwrap_or_else(PoisonError::into_inner);
        account.learn(running, listed.is_ok(), now);
        Ok(listed.map(drop)?)
    }

    /// Returns the owner that a running batch names, if this operator could look after it. A team's own provider may return
    /// anything, so it is believed about its own namespace only.
    fn owner(&self, batch: &Batch) -> Option<BatchOwner> {
        if batch.id.is_empty() || batch.has_ended() || batch.is_stopping() {
            return None;
        }
        let is_ours = |namespace: &str| match &self.namespace {
            Some(own) => own == namespace,
            None => self.ctx.jobs.scopes().any(|scope| scope.is_none_or(|s| s == namespace)),
        };
        owner_of(batch, &self.ctx.cluster).filter(|owner| is_ours(&owner.namespace))
    }

    /// Judges the batches that ran for long enough and that are not followed as far as the watches show.
    async fn judge(&self, account: &mut Account, whole: bool) {
        let now = self.ctx.clock.now();
        let mut over = vec![];
        for (id, seen) in account.suspects(whole, |owner, id| is_followed(self.ctx, owner, id), now, &self.ctx.timing) {
            match self.judge_one(id, seen).await {
                Ok(true) => {}
                Ok(false) => over.push(id.clone()),
                Err(error) => debug!(batch = id, why = error.chain(), "cannot tell whose a batch is now"),
            }
        }
        over.iter().for_each(|id| _ = account.batches.remove(id));
    }

    /// Judges one batch. Returns false if it no longer runs.
    async fn judge_one(&self, id: &str, seen: &mut RunningBatch) -> Result<bool, StepError> {
        let batch = match self.calls.call("", Urgency::Usual, A_CALL, self.api.get(id)).await {
            Ok(batch) => batch,
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        // The list may be older than this answer.
        if self.owner(&batch).as_ref() != Some(&seen.owner) {
            return Ok(false);
        }
        if seen.reported == Reported::Orphan {
            return Ok(true);
        }
        let owner = &seen.owner;
        let running = Running { id, work_id: &owner.work_id, intent_id: &owner.intent_id };
        let snapshot = self.snapshot(owner).await?;
        let sealed = match &snapshot {
            JobLookup::Read(snapshot) => sealed(snapshot, &running).await?,
            JobLookup::Gone | JobLookup::Unread => vec![],
        };
        let twin = match &snapshot {
            JobLookup::Read(snapshot) => self.twin(snapshot, &sealed, &running).await,
            JobLookup::Gone | JobLookup::Unread => None,
        };
        let holder = match &snapshot {
            JobLookup::Gone => Holder::Gone,
            JobLookup::Unread => Holder::Unread,
            JobLookup::Read(snapshot) => Holder::Here {
                journal: snapshot.journal.as_ref().map(|(journal, _)| &**journal),
                sealed: &sealed,
                named: snapshot.view.batches.iter().any(|b| b == id),
                twin,
            },
        };
        match (orphan(running, seen.times, holder, self.ctx.clock.now(), &self.ctx.timing), snapshot) {
            (Orphan::Report(why), snapshot) => {
                self.report(id, owner, why, matches!(snapshot, JobLookup::Gone)).await;
                seen.reported = Reported::Orphan;
            }
            (Orphan::Cancel { recorded }, JobLookup::Read(snapshot)) => {
                self.cancel(id, &recorded, &snapshot, seen.reported == Reported::Nothing).await?;
                seen.reported = Reported::Twin;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Reads the BatchJob that a batch names, and its journal, anew and as a job reads its own.
    async fn snapshot(&self, owner: &BatchOwner) -> Result<JobLookup, StepError> {
        let jobs: Api<BatchJob> = Api::namespaced(self.ctx.client.clone(), &owner.namespace);
        let Some(job) = jobs.get_opt(&owner.name).await? else { return Ok(JobLookup::Gone) };
        let snapshot = observe(self.ctx, &JobState::default(), &job, false, Freshness::Now).await?;
        let is_read = |w: &Snapshot| w.clients.is_some() && w.unread.is_none() && w.view.blocked.is_none();
        Ok(snapshot.filter(is_read).map_or(JobLookup::Unread, |snapshot| JobLookup::Read(Box::new(snapshot))))
    }

    /// Returns true if the provider, asked as the job asks it, confirms that the batch recorded for the same intent came of
    /// that intent; None if that is unknown.
    async fn twin(&self, snapshot: &Snapshot, sealed: &[Shard], running: &Running<'_>) -> Option<bool> {
        let (journal, clients) =
            (snapshot.journal.as_ref().map(|(journal, _)| &**journal)?, snapshot.clients.as_ref()?);
        let recorded = recorded_beside(journal, sealed, running)?;
        if clients.account.name != self.provider {
            return None;
        }
        let get = clients.api.get(recorded);
        match clients.calls.call("", Urgency::Usual, A_CALL, get).await {
            Ok(batch) => Some(owner_of(&batch, &self.ctx.cluster).is_some_and(|owner| {
                owner.work_id == running.work_id
                    && owner.intent_id == running.intent_id
                    && (owner.namespace, owner.name)
                        == (snapshot.view.owner.namespace.clone(), snapshot.view.owner.name.clone())
            })),
            Err(e) if e.kind == ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }

    async fn report(&self, id: &str, owner: &BatchOwner, why: &str, gone: bool) {
        let BatchOwner { namespace, name, work_id, attempt_key, .. } = owner;
        let place = self.namespace.as_ref().map(|own| format!(" of namespace '{own}'")).unwrap_or_default();
        let advice = match gone {
            true => {
                ", or apply that BatchJob again as it was, which picks it up while its journal lies at the destination"
            }
            false => "; its answers stay there for as long as the provider keeps them",
        };
        let note = format!(
            "batch {id} runs in the account of {}{place} and no BatchJob follows it: {why}. It says that it is batch {attempt_key} of \
             BatchJob {namespace}/{name}, work {work_id}. It is left alone: cancel it at the provider if nobody needs it{advice}",
            self.provider
        );
        warn!(batch = id, provider = self.provider, namespace, name, work_id, why, "a batch runs that nobody follows");
        events::publish_at_home(self.ctx, namespace, name, EventRecord::warning("OrphanBatch", note));
    }

    async fn cancel(&self, id: &str, recorded: &str, snapshot: &Snapshot, publish: bool) -> Result<(), StepError> {
        let Some(clients) = &snapshot.clients else { return Ok(()) };
        clients.calls.call("", Urgency::Usual, A_CALL, clients.api.cancel(id)).await?;
        if publish {
            let note = format!(
                "the provider made batch {id} beside {recorded} of one submission and showed it late; it is told to stop, and \
                 what it did may be billed"
            );
            warn!(batch = id, recorded, provider = self.provider, "a second batch of one submission is told to stop");
            events::publish(self.ctx, &snapshot.job, EventRecord::warning("DuplicateBatches", note));
        }
        Ok(())
    }
}

/// Reads the sealed shards of a job's journal that concern the batch. If they cannot be read, nothing can be decided.
async fn sealed(snapshot: &Snapshot, running: &Running<'_>) -> Result<Vec<Shard>, StepError> {
    let (Some((journal, _)), Some(clients)) = (&snapshot.journal, &snapshot.clients) else { return Ok(vec![]) };
    let mut found = vec![];
    let journal = journal.as_ref();
    if journal.work_id == running.work_id {
        clients
            .journals
            .each_sealed(journal, |_, shard| {
                found.extend(concerns(shard, running).then(|| shard.clone()));
                Ok(())
            })
            .await?;
    }
    Ok(found)
}

/// The result of a search for a BatchJob.
enum JobLookup {
    Gone,
    Unread,
    Read(Box<Snapshot>),
}

/// Returns true if a job that has not ended names the batch in status, as far as the watches show. Status belongs to the job's
/// own namespace, and can hide only that namespace's batches.
fn is_followed(ctx: &Context, owner: &BatchOwner, id: &str) -> bool {
    let key = ObjectRef::<BatchJob>::new(&owner.name).within(&owner.namespace);
    let jobs = ctx.jobs.watched(&key).into_iter();
    jobs.filter(|job| !is_finished(job))
        .flat_map(|job| job.status.iter().flat_map(|s| s.batches.clone()).collect::<Vec<_>>())
        .any(|batch| batch.provider_id.as_deref() == Some(id))
}
