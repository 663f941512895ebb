//! Provider objects: the capabilities of their accounts are found out and reported in status, and the objects are kept while
//! jobs need them.

pub(super) mod account;
mod budget_metrics;
mod experience;
mod in_use;
pub(super) mod ledger;
mod look;
mod prices;
mod probes;
mod read_from;
mod remembered;
mod reports;
mod watch;
mod webhook;

use std::collections::HashMap;

use kube::core::object::HasStatus;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use experience::Experience;
pub(crate) use ledger::Ledgers;
pub(crate) use prices::PriceLists;
pub(crate) use probes::Probes;
pub(crate) use read_from::ReadFrom;
pub(crate) use reports::{AccountChange, ProviderKey, Reports};
pub(crate) use watch::watches;

use crate::api::conditions::{self, READY};
use crate::api::{BatchProvider, BatchProviderSpec, ClusterBatchProvider, ProviderKind, ProviderStatus};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::telemetry::Metrics;

/// Provider objects as the watches know them.
#[derive(Default)]
pub(crate) struct ProviderStores {
    /// BatchProviders, by watch.
    pub own: Vec<Store<BatchProvider>>,
    /// ClusterBatchProviders.
    pub admins: Vec<Store<ClusterBatchProvider>>,
}

impl ProviderStores {
    /// Returns the provider objects by their uid.
    pub fn by_uid(&self) -> HashMap<String, ProviderKey> {
        self.own.iter().flat_map(keys).chain(self.admins.iter().flat_map(keys)).collect()
    }

    /// Registers the counts of providers by the status of `Ready`. A provider that is being deleted does not count.
    pub fn count_in(&self, metrics: &Metrics) {
        let (own, admins) = (self.own.clone(), self.admins.clone());
        metrics.count_providers(move || {
            conditions::count_by_status(own.iter().flat_map(ready).chain(admins.iter().flat_map(ready)))
        });
    }
}

fn keys<P: Provider>(known: &Store<P>) -> Vec<(String, ProviderKey)> {
    let all = known.state();
    all.iter().map(|provider| (provider.uid().unwrap_or_default(), ProviderKey::of(&**provider))).collect()
}

fn ready<P: Provider>(known: &Store<P>) -> Vec<Option<bool>> {
    let all = known.state();
    let here = all.iter().filter(|provider| provider.meta().deletion_timestamp.is_none());
    here.map(|provider| conditions::status_of(&provider.status()?.conditions, READY)).collect()
}

/// Either kind of provider.
pub(crate) trait Provider:
    Resource<DynamicType = ()>
    + HasStatus<Status = ProviderStatus>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The kind by which jobs refer to it.
    const KIND: ProviderKind;

    /// Returns the account that it names.
    fn account(&self) -> &BatchProviderSpec;

    /// Returns the same to be changed.
    fn account_mut(&mut self) -> &mut BatchProviderSpec;

    /// Returns the API for it; a `namespace` of None stands for all namespaces.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self>;

    /// Returns the stores of the watches of this kind.
    fn watched(ctx: &Context) -> &[Store<Self>];

    /// Returns the namespace of its Secret.
    fn secrets_in<'a>(&'a self, ctx: &'a Context) -> &'a str;

    /// Returns true if any job that this operator looks after may use it.
    fn is_ours(&self, ctx: &Context) -> impl Future<Output = Result<bool, StepError>> + Send;
}

impl Provider for BatchProvider {
    const KIND: ProviderKind = ProviderKind::BatchProvider;

    fn account(&self) -> &BatchProviderSpec {
        &self.spec
    }

    fn account_mut(&mut self) -> &mut BatchProviderSpec {
        &mut self.spec
    }

    fn api(client: Client, namespace: Option<&str>) -> Api<Self> {
        match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn watched(ctx: &Context) -> &[Store<Self>] {
        &ctx.providers.own
    }

    fn secrets_in<'a>(&'a self, _: &'a Context) -> &'a str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn is_ours(&self, _: &Context) -> Result<bool, StepError> {
        Ok(true)
    }
}

impl Provider for ClusterBatchProvider {
    const KIND: ProviderKind = ProviderKind::ClusterBatchProvider;

    fn account(&self) -> &BatchProviderSpec {
        &self.spec.provider
    }

    fn account_mut(&mut self) -> &mut BatchProviderSpec {
        &mut self.spec.provider
    }

    fn api(client: Client, _: Option<&str>) -> Api<Self> {
        Api::all(client)
    }

    fn watched(ctx: &Context) -> &[Store<Self>] {
        &ctx.providers.admins
    }

    fn secrets_in<'a>(&'a self, ctx: &'a Context) -> &'a str {
        &ctx.namespace
    }

    /// Returns false for accounts that none of the watched namespaces may use.
    async fn is_ours(&self, ctx: &Context) -> Result<bool, StepError> {
        let since = ctx.clock.now() - crate::controller::runtime::cache::LIFETIME;
        for scope in ctx.jobs.scopes() {
            let Some(namespace) = scope else { return Ok(true) };
            if self
                .spec
                .grants(namespace, &crate::controller::provider::account::labels_of(ctx, namespace, since).await?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
