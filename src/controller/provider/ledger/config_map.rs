//! The ConfigMap of a ledger: it is read, written over the version that was judged, and deleted with its provider.

use std::collections::BTreeMap;

use jiff::civil::Date;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use super::super::account::is_kept;
use super::super::{Provider, ProviderKey};
use super::shown;
use crate::api::conditions::reasons;
use crate::api::{BatchProvider, ClusterBatchProvider, FIELD_MANAGER, ProviderKind};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::event_queue::EventQueue;
use crate::controller::runtime::events::EventRecord;
use crate::money::{BudgetUse, Ledger, Reservation};

/// Name of the ConfigMap of a ledger, before the uid of its provider.
const NAME: &str = "batchjob-operator-budgets-";
/// Key of the ConfigMap.
const KEY: &str = "ledger.json";
/// Annotation of the ConfigMap with the provider's kind and name, for people.
const PROVIDER: &str = "llmbatch.dev/provider";

/// The ConfigMap of the ledger of one provider object.
pub(super) struct LedgerMap<'a> {
    pub client: &'a Client,
    pub events: &'a EventQueue,
    /// The operator's own namespace, where it is.
    pub namespace: &'a str,
    pub provider: &'a ProviderKey,
    /// uid of the provider.
    pub uid: &'a str,
    pub today: Date,
}

/// A ledger as it was read or written.
#[derive(Default)]
pub(super) struct Stored {
    pub ledger: Ledger,
    /// Version of the ConfigMap; None if there is none.
    pub version: Option<String>,
}

impl LedgerMap<'_> {
    /// Returns the ledger as it is now. If it is gone, it is begun anew with what the provider's status last showed, which is told.
    ///
    /// # Errors
    /// If it cannot be read, or not be begun anew.
    pub async fn read(&self) -> Result<Stored, StepError> {
        if let Some(map) = self.api().get_opt(&self.name()).await? {
            return Ok(Stored { ledger: self.parse(&map)?, version: map.resource_version() });
        }
        let Some((provider, ledger)) = self.last_shown().await? else { return Ok(Stored::default()) };
        let written = self.write(None, &ledger).await;
        // It is written although an error says otherwise, if the reply was lost.
        if written.as_ref().map_or_else(|error| error.retryable, Option::is_some) {
            self.tell_loss(provider);
        }
        match written? {
            Some(version) => Ok(Stored { ledger, version: Some(version) }),
            None => Err(self.is_contended()),
        }
    }

    /// Writes the ledger over the version that was judged; None if there was none. Returns its new version; None if there is another one.
    ///
    /// # Errors
    /// If it is unknown whether it was written.
    pub async fn write(&self, judged: Option<&str>, ledger: &Ledger) -> Result<Option<String>, StepError> {
        let text = serde_json::to_string(ledger).map_err(|e| {
            StepError::lasting(
                reasons::BUDGET_LEDGER_UNAVAILABLE,
                format!("the ledger of budgets cannot be written: {e}"),
            )
        })?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        let map = ConfigMap {
            metadata: ObjectMeta { resource_version: judged.map(Into::into), ..self.metadata() },
            data: Some(BTreeMap::from([(KEY.to_string(), text)])),
            ..Default::default()
        };
        let written = match judged {
            None => self.api().create(&params, &map).await,
            Some(_) => self.api().replace(&self.name(), &params, &map).await,
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

    /// Deletes the ledger of a provider that nobody needs, unless it has a reservation that `is_needed`. Returns whether there is none
    /// any more. One that may not be deleted is left to a person, since its provider should not stay because of it.
    ///
    /// # Errors
    /// If the API server cannot be asked.
    pub async fn delete(&self, is_needed: impl Fn(&Reservation) -> bool) -> Result<bool, StepError> {
        let Some(map) = self.api().get_opt(&self.name()).await? else { return Ok(true) };
        if self.parse(&map).is_ok_and(|ledger| ledger.open.values().any(is_needed)) {
            return Ok(false);
        }
        let judged = Preconditions { resource_version: map.resource_version(), uid: map.uid() };
        let params = DeleteParams { preconditions: Some(judged), ..Default::default() };
        match self.api().delete(&self.name(), &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let (name, namespace) = (self.name(), self.namespace);
                warn!(
                    "ConfigMap '{name}' of namespace '{namespace}', the ledger of a provider that is gone, may not be deleted; delete it, \
                     and apply the Role of this version: {}",
                    status.message
                );
                Ok(true)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Returns the error for a ledger that others write all the time.
    pub fn is_contended(&self) -> StepError {
        let message = format!("others write ConfigMap '{}' at the same time", self.name());
        StepError::passing(reasons::BUDGET_LEDGER_UNAVAILABLE, message)
    }

    fn name(&self) -> String {
        format!("{NAME}{}", self.uid)
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    fn parse(&self, map: &ConfigMap) -> Result<Ledger, StepError> {
        let text = map.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str).unwrap_or_default();
        serde_json::from_str(text).map_err(|e| {
            let message = format!(
                "ConfigMap '{}' of namespace '{}', the ledger of the budgets of {:?} '{}', cannot be read: {e}. Put `{KEY}` back as it \
                 was; or delete the ConfigMap, and the ledger begins with what the provider's status shows",
                self.name(),
                self.namespace,
                self.provider.kind,
                self.provider.name
            );
            StepError::lasting(reasons::BUDGET_LEDGER_UNAVAILABLE, message)
        })
    }

    /// Returns the ledger that begins with what the provider's status shows; None if it shows nothing, and the ledger is a new one.
    async fn last_shown(&self) -> Result<Option<(ObjectReference, Ledger)>, StepError> {
        let namespace = self.provider.namespace.as_deref();
        let found = match self.provider.kind {
            ProviderKind::BatchProvider => self.uses_of::<BatchProvider>(namespace).await?,
            ProviderKind::ClusterBatchProvider => self.uses_of::<ClusterBatchProvider>(None).await?,
        };
        let Some((object, uses)) = found else { return Ok(None) };
        let ledger = Ledger::from_last_shown(&uses, self.today);
        Ok((ledger != Ledger::default()).then_some((object, ledger)))
    }

    /// Returns what the provider's status shows; None if the provider is gone, or going and needed by nobody.
    async fn uses_of<P: Provider>(
        &self,
        namespace: Option<&str>,
    ) -> Result<Option<(ObjectReference, Vec<BudgetUse>)>, StepError> {
        let found = P::api(self.client.clone(), namespace).get_opt(&self.provider.name).await?;
        let is_here = |meta: &ObjectMeta| {
            meta.uid.as_deref() == Some(self.uid) && (meta.deletion_timestamp.is_none() || is_kept(meta))
        };
        Ok(found.filter(|provider| is_here(provider.meta())).map(|provider| {
            let budgets = provider.status().map(|status| status.budgets.as_slice()).unwrap_or_default();
            (provider.object_ref(&()), budgets.iter().filter_map(|budget| shown::used(budget, self.today)).collect())
        }))
    }

    fn tell_loss(&self, provider: ObjectReference) {
        let message = format!(
            "ConfigMap '{}' of namespace '{}', the ledger of the budgets, was gone. It begins anew with what status last showed; batches \
             that were in flight count as spent. What was spent after that, or by namespaces that status did not show, does not count in \
             this period",
            self.name(),
            self.namespace
        );
        warn!(provider = self.provider.name, uid = self.uid, "{message}");
        self.events.publish(provider, None, EventRecord::warning(reasons::BUDGET_LEDGER_LOST, message));
    }

    fn metadata(&self) -> ObjectMeta {
        let of = match &self.provider.namespace {
            Some(namespace) => format!("{:?} {namespace}/{}", self.provider.kind, self.provider.name),
            None => format!("{:?} {}", self.provider.kind, self.provider.name),
        };
        // Goes with its provider. An object of another namespace cannot own it.
        let owner = (self.provider.kind == ProviderKind::ClusterBatchProvider).then(|| OwnerReference {
            api_version: "llmbatch.dev/v1alpha1".into(),
            kind: "ClusterBatchProvider".into(),
            name: self.provider.name.clone(),
            uid: self.uid.into(),
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
