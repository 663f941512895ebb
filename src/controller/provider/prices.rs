//! The price list of an account: that of the models of its object, and that of the table that it names. A fault of either stops no
//! job: without a price there is no cost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::Provider;
use super::account::full_name;
use crate::api::conditions::reasons;
use crate::api::{BatchProviderSpec, EnqueuedTokenLimits, PriceTableReference, ProviderKind};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::fair::{Budget, Grant};
use crate::lifecycle::{Blocked, PricesCheck};
use crate::money::{PriceList, PriceTable};
use crate::provider::Dialect;

/// Bytes of all price lists in use.
pub(crate) const MEMORY: u64 = 16 << 20;
/// Number of accounts from which on those whose list nobody uses are forgotten.
const REMEMBERED: usize = 1_000;

/// The price list that all jobs of an account share.
#[derive(Default)]
pub(crate) struct SharedList {
    /// The list.
    pub list: Arc<PriceList>,
    /// Limits of the input tokens that the account takes at a time.
    pub enqueued_tokens: EnqueuedTokenLimits,
    fault: Option<Blocked>,
    /// The memory of the list.
    _memory: Option<Grant>,
}

/// The price lists that jobs use, by uid of the provider object.
pub(crate) struct PriceLists {
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
    memory: Arc<Budget>,
}

/// The list of an account as it was made last.
#[derive(Default)]
struct Known {
    /// The list, while a job uses it.
    list: Weak<SharedList>,
    /// `metadata.generation` of the object that it was made of.
    generation: Option<i64>,
    /// `metadata.resourceVersion` of the ConfigMap that it was made of.
    table: Option<String>,
    /// Time at which the ConfigMap was read (Unix milliseconds).
    read_at: i64,
    /// The report that this process wrote last.
    reported: Option<PricesCheck>,
}

/// A provider object and the namespace of what it refers to.
pub(super) struct Source<'a> {
    pub kind: ProviderKind,
    pub name: &'a str,
    pub uid: &'a str,
    pub generation: Option<i64>,
    pub spec: &'a BatchProviderSpec,
    pub namespace: &'a str,
}

/// The text of a table, or the reason why there is none.
struct Table {
    version: Option<String>,
    text: Result<String, Blocked>,
}

impl PriceLists {
    pub fn new() -> PriceLists {
        PriceLists { known: Mutex::default(), memory: Budget::new(MEMORY) }
    }

    fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(uid) {
            let is_used = |entry: &Known| entry.list.strong_count() > 0;
            known
                .retain(|_, entry| Arc::strong_count(entry) > 1 || entry.try_lock().is_ok_and(|entry| is_used(&entry)));
        }
        known.entry(uid.into()).or_default().clone()
    }

    /// Records that the status of a provider object was not written, so that its next report is.
    pub async fn was_not_reported(&self, uid: &str) {
        self.of(uid).lock().await.reported = None;
    }
}

/// Returns the price list of an account, with its table as it was at `since` (Unix milliseconds) or later, and whether the table is
/// another one than at the last call. It is made anew only if the object or the table changed.
///
/// # Errors
/// When the API server cannot be asked for the table, and no earlier list of the same object is in use.
pub(super) async fn list(
    ctx: &Context,
    source: &Source<'_>,
    since: i64,
) -> Result<(Arc<SharedList>, bool), kube::Error> {
    if source.spec.models.is_empty() && source.spec.prices_ref.is_none() {
        return Ok((Arc::default(), false));
    }
    let entry = ctx.price_lists.of(source.uid);
    let mut known = entry.lock().await;
    let now = ctx.clock.now();
    let earlier = known.list.upgrade().filter(|_| known.generation == source.generation);
    let table = match &source.spec.prices_ref {
        None => None,
        Some(_) if (since..=now).contains(&known.read_at) && earlier.is_some() => {
            return Ok((earlier.unwrap_or_default(), false));
        }
        Some(reference) => match (read(ctx, source, reference).await, &earlier) {
            (Ok(table), _) => Some(table),
            (Err(_), Some(earlier)) => return Ok((earlier.clone(), false)),
            (Err(error), None) => return Err(error),
        },
    };
    let version = table.as_ref().and_then(|table| table.version.clone());
    let is_known = known.generation.is_some() && known.table == version;
    let is_other = known.generation.is_some() && known.table != version;
    (known.read_at, known.table, known.generation) = (now, version, source.generation);
    // A table that is not there has no version: the reason is found anew.
    if let Some(earlier) = earlier.filter(|_| is_known && table.as_ref().is_none_or(|table| table.version.is_some())) {
        return Ok((earlier, false));
    }
    let shared = Arc::new(made(&ctx.price_lists.memory, source, table));
    known.list = Arc::downgrade(&shared);
    Ok((shared, is_other))
}

/// Makes a list, if there is memory for it.
fn made(memory: &Arc<Budget>, source: &Source<'_>, table: Option<Table>) -> SharedList {
    let (list, fault) = list_of(source, table);
    // They hold whatever becomes of the prices: there are at most 64.
    let enqueued_tokens = EnqueuedTokenLimits::of(&source.spec.models);
    let bytes = u64::try_from(list.weight() + enqueued_tokens.weight()).unwrap_or(u64::MAX);
    match memory.take(source.namespace, bytes) {
        Some(memory) => SharedList { list: Arc::new(list), enqueued_tokens, fault, _memory: Some(memory) },
        None => {
            let message = format!(
                "there is no memory for the prices of {} while other accounts of namespace '{}' have so many; let names that end in `*` \
                 stand for many",
                full_name(source.kind, source.name),
                source.namespace
            );
            let list = PriceList { fault: Some(message.clone()), ..PriceList::default() };
            let fault = Some(Blocked { reason: reasons::PRICES_INVALID, message });
            SharedList { list: Arc::new(list), enqueued_tokens, fault, _memory: None }
        }
    }
}

fn list_of(source: &Source<'_>, table: Option<Table>) -> (PriceList, Option<Blocked>) {
    let Source { kind, name, generation, spec, .. } = source;
    let discount = Dialect::of(spec.type_).batch_discount_percent;
    let mut fault = None;
    let from = format!("{kind:?} {name} (generation {})", generation.unwrap_or_default());
    let own = PriceList::of_models(from, "spec.models", &spec.models, discount);
    let mut list = own.unwrap_or_else(|message| {
        fault = Some(Blocked { reason: reasons::PRICES_INVALID, message });
        PriceList::default()
    });
    if let (Some(table), Some(reference)) = (table, &spec.prices_ref) {
        match table_list(source, reference, table, discount) {
            Ok(table) => list.otherwise = Some(Arc::new(table)),
            Err(blocked) => fault = fault.or(Some(blocked)),
        }
    }
    list.fault = fault.as_ref().map(|fault| fault.message.clone());
    (list, fault)
}

fn table_list(
    source: &Source<'_>,
    PriceTableReference { name, key }: &PriceTableReference,
    Table { version, text }: Table,
    discount: i32,
) -> Result<PriceList, Blocked> {
    let list = |text: String| {
        let table = PriceTable::read(&text)?;
        let edition = table.version.map(|edition| format!(", version {edition}")).unwrap_or_default();
        let from = format!("ConfigMap {name} (resourceVersion {}){edition}", version.unwrap_or_default());
        PriceList::of_models(from, "models", &table.models, discount)
    };
    list(text?).map_err(|why| {
        let user = full_name(source.kind, source.name);
        let message = format!(
            "key '{key}' of ConfigMap '{name}', which `spec.pricesRef` of {user} names, is no table of prices: {why}"
        );
        Blocked { reason: reasons::PRICES_INVALID, message }
    })
}

/// Reads the text of the table.
async fn read(
    ctx: &Context,
    source: &Source<'_>,
    PriceTableReference { name, key }: &PriceTableReference,
) -> Result<Table, kube::Error> {
    let what = format!("ConfigMap '{name}', which `spec.pricesRef` of {} names,", full_name(source.kind, source.name));
    let namespace = source.namespace;
    let fault = |version, reason, why: String| Table {
        version,
        text: Err(Blocked { reason, message: format!("{what} {why}") }),
    };
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    Ok(match maps.get_opt(name).await {
        Ok(Some(mut map)) => {
            let version = map.resource_version();
            let is_binary = map.binary_data.as_ref().is_some_and(|data| data.contains_key(key));
            match map.data.as_mut().and_then(|data| data.remove(key)) {
                Some(text) => Table { version, text: Ok(text) },
                None if is_binary => fault(
                    version,
                    reasons::PRICES_INVALID,
                    format!("has key '{key}' in `binaryData`; put it into `data`, as text"),
                ),
                None => fault(
                    version,
                    reasons::PRICES_INVALID,
                    format!("has no key '{key}'; add it, or correct `spec.pricesRef.key`"),
                ),
            }
        }
        Ok(None) => fault(
            None,
            reasons::CONFIG_MAP_NOT_FOUND,
            format!("was not found in namespace '{namespace}'; create it, or correct `spec.pricesRef`"),
        ),
        Err(kube::Error::Api(status)) if status.is_forbidden() => fault(
            None,
            reasons::CONFIG_MAP_NOT_FOUND,
            format!("may not be read in namespace '{namespace}'; the operator's role must allow `get` on configmaps"),
        ),
        Err(error) => return Err(error),
    })
}

/// Reads the table of an account anew. Returns the report on its prices; None if its object speaks of none.
pub(super) async fn look<P: Provider>(ctx: &Context, provider: &P) -> Result<Option<PricesCheck>, StepError> {
    let (spec, uid) = (provider.account(), provider.uid().unwrap_or_default());
    if spec.models.is_empty() && spec.prices_ref.is_none() {
        return Ok(None);
    }
    let source = Source {
        kind: P::KIND,
        name: &provider.name_any(),
        uid: &uid,
        generation: provider.meta().generation,
        spec,
        namespace: provider.secrets_in(ctx),
    };
    let (shared, _) = list(ctx, &source, ctx.clock.now()).await?;
    let report = PricesCheck {
        from: shared.list.origins(),
        models: shared.list.priced_names(),
        fault: shared.fault.clone(),
        is_reported: false,
    };
    let entry = ctx.price_lists.of(&uid);
    let before = entry.lock().await.reported.replace(report.clone());
    // Each install reads a table of its own namespace. If each wrote what it read over the report of the other, they would do so for
    // ever.
    let is_reported = P::KIND == ProviderKind::ClusterBatchProvider && before.as_ref() == Some(&report);
    Ok(Some(PricesCheck { is_reported, ..report }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(models: Value) -> BatchProviderSpec {
        let spec = json!({"type": "OpenAI", "models": models, "pricesRef": {"name": "prices", "key": "k"}});
        serde_json::from_value(spec).unwrap()
    }

    fn source(spec: &BatchProviderSpec) -> Source<'_> {
        let (kind, generation) = (ProviderKind::BatchProvider, Some(3));
        Source { kind, name: "llm", uid: "u", generation, spec, namespace: "shop" }
    }

    fn table(text: &str) -> Option<Table> {
        Some(Table { version: Some("812".into()), text: Ok(text.into()) })
    }

    const MODELS: &str =
        "version: '2026-11'\nmodels: [{name: b, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}]";

    #[test]
    fn models_of_the_object_and_of_the_table_have_their_own_origins_and_a_broken_table_leaves_those_of_the_object() {
        let spec = spec(json!([{"name": "a", "prices": {"inputUSDPerMillion": "1", "outputUSDPerMillion": "2"}}]));
        let (list, fault) = list_of(&source(&spec), table(MODELS));
        let from = |list: &PriceList, model| list.priced(model).map(|priced| priced.from.to_string());
        assert!(fault.is_none() && list.fault.is_none());
        assert_eq!(from(&list, "a").as_deref(), Some("BatchProvider llm (generation 3)"));
        assert_eq!(from(&list, "b").as_deref(), Some("ConfigMap prices (resourceVersion 812), version 2026-11"));
        assert_eq!(list.of("b").unwrap().batch.input, list.of("b").unwrap().real_time.input.less_percent(50));
        let (list, fault) = list_of(&source(&spec), table("models: {}"));
        assert_eq!((from(&list, "a").is_some(), from(&list, "b")), (true, None));
        insta::assert_snapshot!(fault.unwrap().message, @"key 'k' of ConfigMap 'prices', which `spec.pricesRef` of BatchProvider 'llm' names, is no table of prices: it has no list `models`; write `models:` and a list of models below it");
        assert!(list.no_prices("b").contains("is no table of prices"), "who needs the price reads why there is none");
    }

    #[test]
    fn a_list_for_which_there_is_no_memory_is_not_used_and_finds_some_when_another_is_gone() {
        let spec = spec(json!([]));
        let one = list_of(&source(&spec), table(MODELS)).0.weight();
        let memory = Budget::new(u64::try_from(2 * one).unwrap());
        let first = made(&memory, &source(&spec), table(MODELS));
        let second = made(&memory, &source(&spec), table(MODELS));
        assert!(first.fault.is_none() && first.list.of("b").is_some());
        assert!(second.fault.is_some_and(|fault| fault.message.contains("no memory")) && second.list.of("b").is_none());
        drop(first);
        assert!(made(&memory, &source(&spec), table(MODELS)).fault.is_none());
    }
}
