//! A provider account: the object that names it, and its credential.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::ledger::{ProviderLedger, budgets_of};
use super::prices::{self, SharedList};
use super::watch::is_partial;
use super::{AccountChange, Provider, ProviderKey, ReadFrom};
use crate::account::{AccountKey, AccountLimits};
use crate::api::conditions::reasons;
use crate::api::text::hex;
use crate::api::{
    BatchProvider, BatchProviderSpec, ClusterBatchProvider, EffectiveLimits, IN_USE_FINALIZER, Notification,
    PinnedProvider, ProviderAuth, ProviderKind, ProviderLimits, ProviderReference, ProviderType,
    UnknownSubmissionPolicy, WithoutManagedFields,
};
use crate::controller::Context;
use crate::controller::runtime::cache::{self, Keep};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::missing::{Absent, Missing, blocked};
use crate::controller::runtime::secrets::{secret, value};
use crate::controller::runtime::trust;
use crate::lifecycle::{ProviderView, Subscription};
use crate::money::Budget;
use crate::provider::{ApiError, Dialect, ErrorKind, OpenAi};
use crate::transport::Transport;

/// Most bytes of a namespace's labels that are kept for other jobs.
const KEPT_LABELS: usize = 8 << 10;

/// A provider account and its credential, as they were read. Each job at work holds one, so that it has nothing whose size a tenant
/// decides but short texts: of the lists of the spec the names of at most 8 webhooks, and of the metadata what [`SeenMetadata`] keeps.
/// All jobs of an account share its price list.
pub(crate) struct Account {
    /// Name for messages, such as `BatchProvider 'llm'`.
    pub name: String,
    /// The object that names it.
    pub object: ProviderKey,
    /// The spec, without its list of models: see [`allowed_models`].
    type_: ProviderType,
    base_url: String,
    limits: ProviderLimits,
    unknown_submission_policy: UnknownSubmissionPolicy,
    /// The webhooks that are told of its jobs.
    pub subscriptions: Vec<Subscription>,
    /// Its budgets.
    pub budgets: Vec<Budget>,
    pub key: Option<SecretString>,
    transport: Transport,
    prices: Arc<SharedList>,
    seen: Mutex<SeenMetadata>,
}

/// The metadata of a provider at the last look at it, without labels and annotations.
#[derive(Clone)]
pub(crate) struct SeenMetadata {
    /// Name, namespace, uid and version; whether it is being deleted, and its finalizers.
    pub metadata: ObjectMeta,
    /// Whether all of its finalizers are in the metadata. If they are many, ours alone is.
    pub has_all_finalizers: bool,
}

/// Most bytes of finalizers that are kept of an object.
const KEPT_FINALIZERS: usize = 2 << 10;

impl From<ObjectMeta> for SeenMetadata {
    fn from(object: ObjectMeta) -> SeenMetadata {
        let ObjectMeta { name, namespace, uid, resource_version, deletion_timestamp, mut finalizers, .. } = object;
        let bytes: usize = finalizers.iter().flatten().map(String::len).sum();
        let has_all_finalizers = bytes <= KEPT_FINALIZERS;
        if !has_all_finalizers && let Some(finalizers) = &mut finalizers {
            finalizers.retain(|finalizer| finalizer == IN_USE_FINALIZER);
            finalizers.shrink_to_fit();
        }
        let kept =
            ObjectMeta { name, namespace, uid, resource_version, deletion_timestamp, finalizers, ..Default::default() };
        SeenMetadata { metadata: kept, has_all_finalizers }
    }
}

impl Account {
    /// Returns the view of the account for [`crate::lifecycle::decide`].
    pub fn view(&self) -> ProviderView {
        let seen = self.seen().metadata;
        ProviderView {
            name: self.name.clone(),
            kept: is_kept(&seen),
            terminating: seen.deletion_timestamp.is_some(),
            pin: PinnedProvider {
                uid: seen.uid.unwrap_or_default(),
                type_: self.type_,
                base_url: self.base_url.clone(),
            },
            is_vendors_own: self.dialect().is_vendors_own(&self.base_url),
            unknown_submission_policy: self.unknown_submission_policy,
            capabilities: self.dialect().capabilities,
            prices: self.prices.list.clone(),
            models: Arc::default(),
            has_budgets: !self.budgets.is_empty(),
        }
    }

    /// Returns the dialect that its server speaks.
    pub fn dialect(&self) -> &'static Dialect {
        Dialect::of(self.type_)
    }

    /// Returns `spec.type`.
    pub fn type_(&self) -> ProviderType {
        self.type_
    }

    /// Returns the root URL of its API.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Returns the key of the account in [`Accounts`](crate::account::Accounts).
    pub fn key(&self, fingerprint: &str) -> AccountKey {
        let (provider, namespace) = (self.seen().metadata.uid.unwrap_or_default(), self.object.namespace.clone());
        AccountKey { provider, namespace: namespace.unwrap_or_default(), fingerprint: fingerprint.into() }
    }

    /// Returns the ledger of its budgets.
    pub fn ledger(&self, ctx: &Context) -> Arc<ProviderLedger> {
        ctx.ledgers.of(&self.seen().metadata.uid.unwrap_or_default(), &self.object)
    }

    /// Returns the limits that apply to its batches.
    pub fn limits(&self) -> EffectiveLimits {
        self.dialect().limits.effective(self.limits)
    }

    /// Returns the limits on what is in flight.
    pub fn limits_in_flight(&self) -> AccountLimits {
        let limits = self.limits();
        AccountLimits {
            batches: limits.max_batches_in_flight.and_then(|limit| usize::try_from(limit).ok()),
            requests: limits.max_enqueued_requests.and_then(|limit| u64::try_from(limit).ok()),
            tokens: self.prices.enqueued_tokens.clone(),
        }
    }

    /// Returns the object's metadata at the last look.
    pub fn seen(&self) -> SeenMetadata {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the metadata that a later look showed.
    pub fn saw(&self, object: ObjectMeta) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = object.into();
    }

    /// Returns the bytes of memory that the account and a client for it take.
    pub fn weight(&self) -> usize {
        let seen = self.seen().metadata;
        let finalizers: usize = seen.finalizers.iter().flatten().map(String::len).sum();
        let key = self.key.as_ref().map_or(0, |key| key.expose_secret().len());
        let told =
            self.subscriptions.iter().map(|told| size_of::<Subscription>() + told.name.len() + told.events.len());
        size_of::<Account>()
            + finalizers
            + told.sum::<usize>()
            + self.budgets.len() * size_of::<Budget>()
            + 2 * (key + self.base_url.len() + self.name.len() + self.object.name.len())
    }

    /// Returns the [`fingerprint`] of the account.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.key.as_ref(), &self.base_url)
    }
}

/// Returns a mark of endpoint and credential that reveals neither: the credential is the key of the HMAC.
pub(crate) fn fingerprint(key: Option<&SecretString>, base_url: &str) -> String {
    let key = key.map(|k| k.expose_secret()).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hex(&hmac::sign(&key, base_url.as_bytes()).as_ref()[..8])
}

/// Returns the key of a provider's account in [`Accounts`](crate::account::Accounts).
pub(crate) fn key_of<P: Provider>(provider: &P, fingerprint: String) -> AccountKey {
    let (namespace, provider) = (provider.namespace().unwrap_or_default(), provider.uid().unwrap_or_default());
    AccountKey { provider, namespace, fingerprint }
}

/// Returns true if our in-use finalizer is on a provider.
pub(crate) fn is_kept(object: &ObjectMeta) -> bool {
    object.finalizers.iter().flatten().any(|f| f == IN_USE_FINALIZER)
}

/// Returns the account that a job of `namespace` refers to, if the job may use it. Its object is as the watch `knows` it, and
/// its Secret as it was at `since` (Unix milliseconds) or later.
pub(crate) async fn account(
    ctx: &Context,
    reference: &ProviderReference,
    namespace: &str,
    known: ReadFrom<'_>,
    since: i64,
) -> Result<Account, Missing> {
    let name = full_name(reference.kind, &reference.name);
    let (object, spec, secrets_in) = match reference.kind {
        ProviderKind::BatchProvider => {
            let WithoutManagedFields(provider) = existing(ctx, &reference.name, namespace, known).await?;
            (provider.metadata, provider.spec, namespace)
        }
        ProviderKind::ClusterBatchProvider => {
            let WithoutManagedFields(provider) = granted(ctx, &reference.name, namespace, known).await?;
            (provider.metadata, provider.spec.provider, ctx.namespace.as_str())
        }
    };
    let Access { key, transport, .. } = access(ctx, &spec, secrets_in, &name, since).await?;
    let of = ProviderKey::referred_to(reference, namespace);
    let source = prices::Source {
        kind: reference.kind,
        name: &reference.name,
        uid: object.uid.as_deref().unwrap_or_default(),
        generation: object.generation,
        spec: &spec,
        namespace: secrets_in,
    };
    let (prices, is_other) = prices::list(ctx, &source, ctx.clock.now() - cache::LIFETIME + 1).await?;
    if is_other {
        ctx.reports.ask(&of, AccountChange::Prices, ctx.clock.now());
    }
    let base_url = spec.base_url().into();
    let budgets = budgets_of(&spec);
    let subscriptions = spec.notifications.iter().map(Subscription::from).collect();
    let BatchProviderSpec { type_, limits, unknown_submission_policy, .. } = spec;
    let seen = Mutex::new(object.into());
    Ok(Account {
        name,
        object: of,
        type_,
        base_url,
        limits,
        unknown_submission_policy,
        subscriptions,
        budgets,
        key,
        transport,
        prices,
        seen,
    })
}

/// Returns the models that jobs may use with this account, as its object says now; none if it allows any. A list may be long, and is
/// held by nobody between two passes over an input.
///
/// # Errors
/// When the object is gone, or another one has its name, or the API server cannot be asked.
pub(crate) async fn allowed_models(ctx: &Context, account: &Account) -> Result<Vec<String>, StepError> {
    let (seen, of) = (account.seen().metadata, &account.object);
    let (namespace, known) = (of.namespace.as_deref(), ReadFrom::WatchSince(&seen));
    let found = match of.kind {
        ProviderKind::BatchProvider => known
            .look::<BatchProvider>(ctx, namespace, &of.name)
            .await?
            .map(|WithoutManagedFields(provider)| (provider.metadata.uid, provider.spec.allowed_models)),
        ProviderKind::ClusterBatchProvider => known
            .look::<ClusterBatchProvider>(ctx, namespace, &of.name)
            .await?
            .map(|WithoutManagedFields(provider)| (provider.metadata.uid, provider.spec.provider.allowed_models)),
    };
    match found {
        Some((uid, models)) if uid == seen.uid => Ok(models),
        _ => Err(StepError::passing(
            reasons::PROVIDER_NOT_FOUND,
            format!("{} was deleted or replaced while the input was read; it is read again", account.name),
        )),
    }
}

/// The notifications of a provider object.
pub(crate) struct ProviderNotifications {
    pub notifications: Vec<Notification>,
    /// The namespace of their Secrets.
    pub secrets_in: String,
    /// Whether an admin wrote them.
    pub by_admin: bool,
}

/// Returns the notifications of the provider that a job of `namespace` refers to.
///
/// # Errors
/// If the provider does not exist now or is not granted, or the API server cannot be asked.
pub(crate) async fn notifications(
    ctx: &Context,
    reference: &ProviderReference,
    namespace: &str,
) -> Result<ProviderNotifications, Missing> {
    let (name, known) = (&reference.name, ReadFrom::Watch);
    Ok(match reference.kind {
        ProviderKind::BatchProvider => {
            let WithoutManagedFields(provider) = existing(ctx, name, namespace, known).await?;
            let (notifications, secrets_in) = (provider.spec.notifications, namespace.into());
            ProviderNotifications { notifications, secrets_in, by_admin: false }
        }
        ProviderKind::ClusterBatchProvider => {
            let WithoutManagedFields(provider) = granted(ctx, name, namespace, known).await?;
            let (notifications, secrets_in) = (provider.spec.provider.notifications, ctx.namespace.clone());
            ProviderNotifications { notifications, secrets_in, by_admin: true }
        }
    })
}

/// Returns the webhooks of the provider that a job of `namespace` refers to, as the watch knows it. Costs no call where there are none.
pub(crate) async fn watched_subscriptions(
    ctx: &Context,
    reference: &ProviderReference,
    namespace: &str,
) -> Vec<Subscription> {
    fn of<P: Provider>(ctx: &Context, object: ObjectRef<P>) -> bool {
        let found = P::watched(ctx).iter().find_map(|store| store.get(&object));
        found.is_some_and(|provider| is_partial(&*provider) || !provider.account().notifications.is_empty())
    }
    let object = &reference.name;
    let has_some = match reference.kind {
        ProviderKind::BatchProvider => of(ctx, ObjectRef::<BatchProvider>::new(object).within(namespace)),
        ProviderKind::ClusterBatchProvider => of(ctx, ObjectRef::<ClusterBatchProvider>::new(object)),
    };
    if !has_some {
        return vec![];
    }
    // If it is gone, or the API server cannot be asked now, a later visit sees to it.
    let found = notifications(ctx, reference, namespace).await;
    found.map(|found| found.notifications.iter().map(Subscription::from).collect()).unwrap_or_default()
}

impl Account {
    /// Returns a client for the account.
    ///
    /// # Errors
    /// When the URL cannot be parsed.
    pub fn client(&self, kind: ProviderKind) -> Result<OpenAi, ApiError> {
        client(kind, (self.type_, &self.base_url), self.key.clone(), &self.transport)
    }
}

/// Returns a client for an account. The admin chooses the host of a ClusterBatchProvider, and so it may be a private one. Keys
/// and prompts are never sent to a public host in clear text, whoever names it.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn client(
    kind: ProviderKind,
    (type_, base_url): (ProviderType, &str),
    key: Option<SecretString>,
    transport: &Transport,
) -> Result<OpenAi, ApiError> {
    let transport =
        reaching(kind, base_url, transport).map_err(|e| ApiError::new(ErrorKind::Transient, e.to_string()))?;
    let dialect = Dialect::of(type_);
    Ok(OpenAi::new(transport, base_url, key, dialect.is_vendors_own(base_url))?.speaking(dialect))
}

/// Returns the transport for an account at this URL. A URL that cannot be parsed reaches nothing anyway.
fn reaching(kind: ProviderKind, base_url: &str, transport: &Transport) -> Result<Transport, reqwest::Error> {
    let Ok(url) = base_url.parse::<Url>() else { return Ok(transport.clone()) };
    let transport = match kind {
        ProviderKind::ClusterBatchProvider => transport.trusting(&url)?,
        ProviderKind::BatchProvider => transport.clone(),
    };
    if url.scheme() == "http" { transport.in_clear_text() } else { Ok(transport) }
}

/// Returns a name such as `BatchProvider 'llm'`.
pub(crate) fn full_name(kind: ProviderKind, name: &str) -> String {
    format!("{kind:?} '{name}'")
}

/// Returns the labels of a namespace as they were at `since` (Unix milliseconds) or later; none if it is gone.
pub(crate) async fn labels_of(
    ctx: &Context,
    namespace: &str,
    since: i64,
) -> Result<BTreeMap<String, String>, kube::Error> {
    let read = || async {
        let found = Api::<Namespace>::all(ctx.client.clone()).get_opt(namespace).await?;
        let labels = found.and_then(|namespace| namespace.metadata.labels).unwrap_or_default();
        let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        Ok((labels, if bytes <= KEPT_LABELS { Keep::Yes } else { Keep::No }))
    };
    ctx.labels.get(&namespace.to_string(), since, || ctx.clock.now(), read).await
}

/// Returns the account of this name in the namespace.
async fn existing(ctx: &Context, name: &str, namespace: &str, known: ReadFrom<'_>) -> Result<BatchProvider, Missing> {
    let found = known.look::<BatchProvider>(ctx, Some(namespace), name).await?;
    found.ok_or_else(|| {
        Missing::Absent(Absent {
            reason: reasons::PROVIDER_NOT_FOUND,
            what: full_name(ProviderKind::BatchProvider, name),
            namespace: namespace.into(),
            or: ", or correct `spec.providerRef`",
        })
    })
}

/// Returns an admin's account, if it is granted to the namespace. One that is not granted looks like one that does not exist.
async fn granted(
    ctx: &Context,
    name: &str,
    namespace: &str,
    known: ReadFrom<'_>,
) -> Result<ClusterBatchProvider, Missing> {
    // A grant that ended a moment ago does not count: a job sends only after a look made since it was pinned.
    let age = if matches!(known, ReadFrom::ApiServer) { 0 } else { cache::LIFETIME };
    let labels = labels_of(ctx, namespace, ctx.clock.now() - age).await?;
    match known.look::<ClusterBatchProvider>(ctx, None, name).await? {
        Some(provider) if provider.spec.grants(namespace, &labels) => Ok(provider),
        _ => blocked(
            reasons::PROVIDER_NOT_FOUND,
            format!(
                "ClusterBatchProvider '{name}' does not exist or is not granted to namespace '{namespace}'; ask the \
                 admin of the cluster, or correct `spec.providerRef`"
            ),
        ),
    }
}

/// The access to an account.
pub(crate) struct Access {
    /// The key; None if the server asks for none.
    pub key: Option<SecretString>,
    /// Version of the Secret that the key is from.
    pub version: Option<String>,
    /// The transport, which trusts the authorities that the account names.
    pub transport: Transport,
}

/// Reads the credential of an account and the authorities that vouch for its server, both from `namespace`, and the credential
/// as it was at `since` (Unix milliseconds) or later.
pub(crate) async fn access(
    ctx: &Context,
    spec: &BatchProviderSpec,
    namespace: &str,
    user: &str,
    since: i64,
) -> Result<Access, Missing> {
    let transport = trust::transport(ctx, spec.tls.as_ref(), namespace, user).await?;
    let Some(ProviderAuth { secret_key_ref: reference }) = &spec.auth else {
        return Ok(Access { key: None, version: None, transport });
    };
    let secret = secret(ctx, namespace, &reference.name, user, since).await?;
    let key = value(&secret, &reference.key, &reference.name, user)?;
    Ok(Access { key: Some(key), version: secret.resource_version(), transport })
}
