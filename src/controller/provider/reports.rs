//! Reports of jobs about provider accounts: an account that fails, or recovers, is looked at soon, so that its object says so.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use super::Provider;
use crate::api::{ProviderKind, ProviderReference};

/// Milliseconds between two looks at an account that jobs ask for.
const ASKED_AGAIN: i64 = 15_000;
/// Most accounts whose last request for a look is remembered.
const REMEMBERED: usize = 1_000;

/// A provider object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProviderKey {
    pub kind: ProviderKind,
    /// Namespace of the object; None for a ClusterBatchProvider.
    pub namespace: Option<String>,
    pub name: String,
}

/// Kind and name, such as `BatchProvider/llm`.
impl fmt::Display for ProviderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.kind, self.name)
    }
}

impl ProviderKey {
    pub fn of<P: Provider>(provider: &P) -> ProviderKey {
        let meta = provider.meta();
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone().unwrap_or_default());
        ProviderKey { kind: P::KIND, namespace, name }
    }

    /// Returns the object that a job of `namespace` refers to.
    pub fn referred_to(reference: &ProviderReference, namespace: &str) -> ProviderKey {
        let namespace = (reference.kind == ProviderKind::BatchProvider).then(|| namespace.to_string());
        ProviderKey { kind: reference.kind, namespace, name: reference.name.clone() }
    }

    pub fn object<P: Provider + Resource<DynamicType = ()>>(self) -> ObjectRef<P> {
        let object = ObjectRef::new(&self.name);
        match &self.namespace {
            Some(namespace) => object.within(namespace),
            None => object,
        }
    }
}

/// The change that a job saw of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AccountChange {
    /// A call failed.
    Failure,
    /// A call that had failed succeeded.
    Recovery,
    /// Its table of prices is another one.
    Prices,
    /// Its ledger of budgets changed.
    Spending,
    /// Other batches are in flight, or it showed to have less room or more.
    InFlight,
}

/// The requests for looks at provider objects.
#[derive(Default)]
pub(crate) struct Reports {
    /// The watches, by kind and by the namespace that they cover; None for all.
    watches: Vec<(ProviderKind, Option<String>, mpsc::UnboundedSender<ProviderKey>)>,
    /// The time of the last request for a look, by account and by the change that a job saw.
    asked: Mutex<HashMap<(ProviderKey, AccountChange), i64>>,
}

impl Reports {
    /// Adds a watch of this kind, and returns its requests for looks.
    pub fn add(&mut self, kind: ProviderKind, scope: Option<String>) -> mpsc::UnboundedReceiver<ProviderKey> {
        let (send, receive) = mpsc::unbounded_channel();
        self.watches.push((kind, scope, send));
        receive
    }

    /// Asks for a look at this account soon, for the change that a job `saw` at `now` (Unix milliseconds).
    pub fn ask(&self, key: &ProviderKey, saw: AccountChange, now: i64) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(&(key.clone(), saw)).is_some_and(|last| now < last + ASKED_AGAIN) {
            return;
        }
        if asked.len() >= REMEMBERED {
            asked.clear();
        }
        asked.insert((key.clone(), saw), now);
        let of = |scope: &Option<String>| scope.is_none() || *scope == key.namespace;
        for (_, _, watch) in self.watches.iter().filter(|(kind, scope, _)| *kind == key.kind && of(scope)) {
            // A closed channel means that the operator stops.
            let _ = watch.send(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ProviderKey {
        ProviderKey { kind: ProviderKind::BatchProvider, namespace: Some("shop".into()), name: name.into() }
    }

    #[test]
    fn an_account_that_jobs_see_fail_is_looked_at_soon_and_not_for_each_of_them() {
        let mut reports = Reports::default();
        let mut shop = reports.add(ProviderKind::BatchProvider, Some("shop".into()));
        let mut other = reports.add(ProviderKind::BatchProvider, Some("other".into()));
        let mut admins = reports.add(ProviderKind::ClusterBatchProvider, None);
        (0..100).for_each(|now| reports.ask(&key("llm"), AccountChange::Failure, now));
        reports.ask(&key("gateway"), AccountChange::Failure, 100);
        let asked: Vec<ProviderKey> = std::iter::from_fn(|| shop.try_recv().ok()).collect();
        assert_eq!(asked, [key("llm"), key("gateway")]);
        assert!(other.try_recv().is_err() && admins.try_recv().is_err());
        reports.ask(&key("llm"), AccountChange::Recovery, 200);
        assert_eq!(shop.try_recv(), Ok(key("llm")), "it may be back");
        reports.ask(&key("llm"), AccountChange::Failure, ASKED_AGAIN);
        assert_eq!(shop.try_recv(), Ok(key("llm")));
    }
}
