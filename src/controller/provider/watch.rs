//! The watch of provider objects, and the visit of one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use kube::api::PostParams;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use tracing::warn;

use super::account::is_kept;
use super::ledger::budgets_of;
use super::reports::Reports;
use super::{Provider, ProviderKey, ProviderStores, budget_metrics, in_use, look};
use crate::account::Quota;
use crate::api::conditions::{self, READY, reasons};
use crate::api::weight::json_bytes;
use crate::api::{BatchProvider, ClusterBatchProvider, FIELD_MANAGER, ProviderKind, ProviderStatus};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{self, EventRecord};
use crate::controller::runtime::watch_backoff::{NoBackoff, WatchBackoff};
use crate::controller::{Context, log_stream_error};
use crate::lifecycle::use_changed;

/// The annotation that stands for all others of a watched provider.
const ANNOTATIONS_HASH: &str = "llmbatch.dev/annotations-hash";
/// The annotation of a watched provider that was too large to be kept whole.
const PARTIAL: &str = "llmbatch.dev/partial";
/// Provider objects in one page of a list: each may have more than a megabyte.
const PAGE: u32 = 10;
/// Largest provider object that is kept whole, in bytes of JSON.
const WHOLE_BYTES: u64 = 8 << 10;
/// The pause after a look that failed at the API server.
const AGAIN: Duration = Duration::from_secs(30);
/// The pause after a look that a change of the object made obsolete.
const CHANGED: Duration = Duration::from_secs(1);
/// The pause until the next look at an account that no job of this operator may use.
const NOT_OURS: Duration = Duration::from_secs(600);

/// The watches of provider objects, set up and not run yet.
pub(crate) struct Watches {
    own: Vec<Watch<BatchProvider>>,
    admins: Watch<ClusterBatchProvider>,
}

/// The watch of one kind, in one namespace or in all.
struct Watch<P: Provider> {
    scope: Option<String>,
    asked: mpsc::UnboundedReceiver<ProviderKey>,
    known: Store<P>,
    writer: Writer<P>,
}

/// Sets up the watches of `scopes` (None for all namespaces). Returns them with their stores and with the requests for looks.
pub(crate) fn watches(scopes: Vec<Option<String>>) -> (Watches, ProviderStores, Reports) {
    let mut reports = Reports::default();
    let own: Vec<_> = scopes.into_iter().map(|scope| Watch::set_up(scope, &mut reports)).collect();
    let admins = Watch::set_up(None, &mut reports);
    let known = ProviderStores {
        own: own.iter().map(|watch| watch.known.clone()).collect(),
        admins: vec![admins.known.clone()],
    };
    (Watches { own, admins }, known, reports)
}

impl Watches {
    /// Watches provider objects until the operator stops; `client` is for watches.
    pub async fn run(self, client: &Client, ctx: &Arc<Context>) {
        let own = self.own.into_iter().map(|one| watch(one, client, ctx));
        tokio::join!(join_all(own.collect::<Vec<_>>()), watch(self.admins, client, ctx));
    }
}

impl<P: Provider> Watch<P> {
    fn set_up(scope: Option<String>, reports: &mut Reports) -> Watch<P> {
        let asked = reports.add(P::KIND, scope.clone());
        let (known, writer) = reflector::store();
        Watch { scope, asked, known, writer }
    }
}

/// Visits the providers of a watch, on events and on request, until the operator stops.
async fn watch<P: Provider>(watch: Watch<P>, client: &Client, ctx: &Arc<Context>) {
    let Watch { scope, asked, known, writer } = watch;
    let (gone, went) = mpsc::unbounded_channel();
    // A deletion increments the generation, and a finalizer of ours is no reason to ask the account.
    let changed = predicates::generation.combine(predicates::annotations);
    let stream = watcher(P::api(client.clone(), scope.as_deref()), watcher::Config::default().page_size(PAGE))
        .backoff(WatchBackoff::new(ctx.clock.clone()))
        .modify(keep_for_the_watch)
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(provider) = event {
                // Nobody receives it if the operator stops.
                let _ = gone.send(provider.clone());
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let asked = futures::stream::unfold(asked, |mut a| async { a.recv().await.map(|key| (key.object::<P>(), a)) });
    let visits = Controller::for_stream(stream, known)
        // A look waits in a queue of its own, so that one that waits for a server delays no other.
        .with_config(controller::Config::default().concurrency(0))
        .trigger_backoff(NoBackoff)
        .reconcile_on(asked)
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned())
        .run(reconcile::<P>, |_, _, _| Action::requeue(AGAIN), ctx.clone())
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                log_stream_error("providers", &error);
            }
        });
    tokio::join!(visits, delete_ledgers(went, ctx));
}

/// Deletes the ledgers of providers that went without a visit: they had no finalizer of ours yet, or no longer.
async fn delete_ledgers<P: Provider>(mut went: mpsc::UnboundedReceiver<P>, ctx: &Context) {
    while let Some(provider) = went.recv().await {
        if let Err(error) = ctx.ledgers.delete_with(ctx, &provider, true).await {
            let (namespace, name) = (provider.namespace(), provider.name_any());
            warn!(namespace, name, why = error.chain(), "the ledger of a provider that is gone could not be deleted");
        }
    }
}

/// Returns true if a watched provider is not whole: who uses it reads it from the API server.
pub(super) fn is_partial<P: Provider>(provider: &P) -> bool {
    provider.annotations().contains_key(PARTIAL)
}

/// Drops what nobody reads of a watched provider; of its status, all but whether it is `Ready`. Of its annotations, which anybody may
/// write, a hash is kept, so that a change of them is seen; `kubectl apply` that changes nothing is none. One that is still large keeps
/// neither models nor notifications nor finalizers.
fn keep_for_the_watch<P: Provider>(provider: &mut P) {
    provider.managed_fields_mut().clear();
    provider.labels_mut().clear();
    provider.owner_references_mut().clear();
    if let Some(ProviderStatus { mut conditions, .. }) = provider.status_mut().take() {
        conditions::keep_only(&mut conditions, READY);
        *provider.status_mut() = Some(ProviderStatus { conditions, ..Default::default() });
    }
    let mut annotations = std::mem::take(provider.annotations_mut());
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    if let (false, Ok(text)) = (annotations.is_empty(), serde_json::to_vec(&annotations)) {
        provider.annotations_mut().insert(ANNOTATIONS_HASH.into(), blake3::hash(&text).to_hex().to_string());
    }
    if json_bytes(provider) > WHOLE_BYTES {
        provider.finalizers_mut().clear();
        provider.account_mut().allowed_models.clear();
        provider.account_mut().notifications.clear();
        provider.account_mut().models.clear();
        provider.annotations_mut().insert(PARTIAL.into(), String::new());
    }
}

async fn reconcile<P: Provider>(key: Arc<P>, ctx: Arc<Context>) -> Result<Action, std::convert::Infallible> {
    let visited = tokio::select! {
        visited = visit(&ctx, &*key) => visited,
        () = ctx.stop.cancelled() => return Ok(Action::await_change()),
    };
    Ok(visited.unwrap_or_else(|error| {
        let (namespace, name) = (key.namespace(), key.name_any());
        warn!(namespace, name, why = error.chain(), "a provider could not be looked after; it is tried again");
        Action::requeue(AGAIN)
    }))
}

async fn visit<P: Provider>(ctx: &Arc<Context>, key: &P) -> Result<Action, StepError> {
    let api = P::api(ctx.client.clone(), key.namespace().as_deref());
    let Some(provider) = api.get_opt(&key.name_any()).await? else { return Ok(Action::await_change()) };
    let old = provider.status().cloned().unwrap_or_default();
    if provider.meta().deletion_timestamp.is_some() {
        if !is_kept(provider.meta()) {
            return Ok(Action::await_change());
        }
        let Some((status, pause)) = in_use::kept_or_let_go(ctx, &provider, &old).await? else {
            return Ok(Action::requeue(CHANGED));
        };
        write(ctx, &api, &provider, &old, status).await?;
        return Ok(Action::requeue(pause));
    }
    if !provider.is_ours(ctx).await? {
        return Ok(Action::requeue(NOT_OURS));
    }
    let budgets = budgets_of(provider.account());
    let ledger = ctx.ledgers.of_provider(&provider, &budgets);
    if let Some(ledger) = &ledger {
        // At once: jobs may wait for a budget that was raised, and the account may take minutes to answer.
        ledger.has_budgets(ctx, budgets.clone());
    }
    let (mut status, pause) = look::look(ctx, &provider, &old).await?;
    let uid = provider.uid().unwrap_or_default();
    status.models = ctx.experience.with(&uid, provider.namespace().as_deref(), &old.models);
    if let Some(ledger) = ledger.as_ref().filter(|_| !budgets.is_empty()) {
        status.budgets = ledger.look_after(ctx, &budgets, &old.budgets).await.unwrap_or_else(|error| {
            let (namespace, name) = (provider.namespace(), provider.name_any());
            warn!(
                namespace,
                name,
                why = error.chain(),
                "the ledger of budgets could not be looked after; it is tried again"
            );
            old.budgets.clone()
        });
    }
    budget_metrics::show(&ctx.metrics, &provider, &status.budgets);
    let quota = ctx.accounts.quota(&uid);
    report_use::<P>(&quota, &old, &mut status, ctx.clock.now());
    let is_back = !conditions::is_true(&old.conditions, READY) && conditions::is_true(&status.conditions, READY);
    let written = write(ctx, &api, &provider, &old, status).await;
    if !matches!(written, Ok(true)) {
        ctx.price_lists.was_not_reported(&uid).await;
        quota.was_not_reported();
        if let Some(ledger) = &ledger {
            ledger.was_not_reported();
        }
        return written.map(|_| Action::requeue(CHANGED));
    }
    ctx.experience.wrote(&uid);
    if is_back {
        // Calls that failed there in the meantime do not wait for their next try.
        ctx.jobs.try_again(&ProviderKey::of(&provider));
    }
    Ok(Action::requeue(Duration::from_millis(pause.unsigned_abs())))
}

/// Writes into `status` what is in flight. Installs of the operator that share an account each know their own jobs alone.
fn report_use<P: Provider>(quota: &Quota, old: &ProviderStatus, status: &mut ProviderStatus, now: i64) {
    let usage = quota.usage();
    let is_known = quota.reports(&usage);
    usage.report(old, status, is_known && P::KIND == ProviderKind::ClusterBatchProvider, now);
}

/// Writes the status over the object that was judged, if it differs. Returns false if the object changed in the meantime.
async fn write<P: Provider>(
    ctx: &Context,
    api: &Api<P>,
    judged: &P,
    old: &ProviderStatus,
    status: ProviderStatus,
) -> Result<bool, StepError> {
    if *old == status {
        return Ok(true);
    }
    let mut provider = judged.clone();
    let news = news(old, &status);
    *provider.status_mut() = Some(status);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    match api.replace_status(&judged.name_any(), &params, &provider).await {
        Ok(_) => {
            news.into_iter().for_each(|news| events::publish_on(ctx, judged.object_ref(&()), news));
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Returns the events of a change of status.
fn news(old: &ProviderStatus, new: &ProviderStatus) -> Vec<EventRecord> {
    let room = use_changed(old, new).map(|(is_less, note)| match is_less {
        true => EventRecord::warning(reasons::CAPACITY_LOWERED, note),
        false => EventRecord::normal(reasons::CAPACITY_RESTORED, note),
    });
    readiness(old, new).into_iter().chain(room).collect()
}

/// Returns the event for a provider whose readiness changed.
fn readiness(old: &ProviderStatus, new: &ProviderStatus) -> Option<EventRecord> {
    let ready = |status: &ProviderStatus| status.conditions.iter().find(|c| c.type_ == READY).cloned();
    let (before, now) = (ready(old), ready(new)?);
    if before.is_some_and(|b| (b.status, b.reason) == (now.status.clone(), now.reason.clone())) {
        return None;
    }
    match conditions::is_true(&new.conditions, READY) {
        true => Some(EventRecord::normal("Ready", now.message)),
        false => Some(EventRecord::warning("NotReady", format!("{}: {}", now.reason, now.message))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(annotations: serde_json::Value) -> BatchProvider {
        let object = serde_json::json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider",
            "metadata": {"name": "llm", "uid": "u", "labels": {"l": "x".repeat(60)}, "annotations": annotations},
            "spec": {"type": "OpenAI"},
        });
        let mut provider: BatchProvider = serde_json::from_value(object).unwrap();
        keep_for_the_watch(&mut provider);
        provider
    }

    #[test]
    fn a_watched_provider_that_is_large_is_kept_in_part_and_says_so() {
        let of = |models: usize, finalizers: usize| {
            let models: Vec<String> = (0..models).map(|n| format!("{n:0250}")).collect();
            let finalizers: Vec<String> = (0..finalizers).map(|n| format!("example.com/{n:050}")).collect();
            let object = serde_json::json!({
                "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider",
                "metadata": {"name": "llm", "uid": "u", "finalizers": finalizers,
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x".repeat(60_000), "uid": "u"}]},
                "spec": {"type": "OpenAI", "allowedModels": models},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "x".repeat(60_000),
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            let mut provider: BatchProvider = serde_json::from_value(object).unwrap();
            keep_for_the_watch(&mut provider);
            provider
        };
        let whole = of(20, 20);
        assert!(!is_partial(&whole) && whole.spec.allowed_models.len() == 20 && whole.finalizers().len() == 20);
        for large in [of(64, 0), of(0, 1_000)] {
            assert!(is_partial(&large) && json_bytes(&large) < 1_000);
        }
        assert_eq!(
            conditions::status_of(&whole.status.as_ref().unwrap().conditions, READY),
            Some(true),
            "it is counted"
        );
    }

    #[test]
    fn annotations_of_a_watched_provider_take_no_memory_and_a_change_of_them_is_seen() {
        let look = |value: &str| watched(serde_json::json!({"look": value.repeat(10_000)}));
        let (one, two) = (look("1"), look("2"));
        assert_ne!(one.annotations(), two.annotations());
        assert!(serde_json::to_string(&one.metadata).unwrap().len() < 300);
        let applied = watched(serde_json::json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"}));
        assert_eq!(applied.annotations(), watched(serde_json::json!({})).annotations());
    }
}
