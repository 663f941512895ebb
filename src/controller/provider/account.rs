//! A provider account: the object that names it, and its credential.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{ProviderKey, ReadFrom};
use crate::account::AccountKey;
use crate::api::conditions::reasons;
use crate::api::text::hex;
use crate::api::{
    BatchProvider, BatchProviderSpec, ClusterBatchProvider, EffectiveLimits, IN_USE_FINALIZER, PinnedProvider,
    ProviderAuth, ProviderKind, ProviderReference, WithoutManagedFields,
};
use crate::controller::Context;
use crate::controller::runtime::cache::{self, Keep};
use crate::controller::runtime::missing::{Absent, Missing, blocked};
use crate::controller::runtime::secrets::{secret, value};
use crate::controller::runtime::trust;
use crate::lifecycle::ProviderView;
use crate::provider::{ApiError, Dialect, ErrorKind, OpenAi};
use crate::transport::Transport;

/// A provider account and its credential, as they were read.
pub(crate) struct Account {
    /// Name for messages, such as `BatchProvider 'llm'`.
    pub name: String,
    /// The object that names it.
    pub object: ProviderKey,
    pub spec: BatchProviderSpec,
    pub key: Option<SecretString>,
    transport: Transport,
    seen: Mutex<ObjectMeta>,
}

impl Account {
    /// Returns the view of the account for [`crate::lifecycle::decide`].
    pub fn view(&self) -> ProviderView {
        let seen = self.seen();
        ProviderView {
            name: self.name.clone(),
            kept: is_kept(&seen),
            terminating: seen.deletion_timestamp.is_some(),
            pin: PinnedProvider {
                uid: seen.uid.unwrap_or_default(),
                type_: self.spec.type_,
                base_url: self.spec.base_url().into(),
            },
            is_vendors_own: self.dialect().is_vendors_own(self.spec.base_url()),
            unknown_submission_policy: self.spec.unknown_submission_policy,
            capabilities: self.dialect().capabilities,
        }
    }

    /// Returns the dialect that its server speaks.
    pub fn dialect(&self) -> &'static Dialect {
        Dialect::of(self.spec.type_)
    }

    /// Returns the key of the account in [`Accounts`](crate::account::Accounts).
    pub fn key(&self, fingerprint: &str) -> AccountKey {
        AccountKey { provider: self.seen().uid.unwrap_or_default(), fingerprint: fingerprint.into() }
    }

    /// Returns the limits that apply to its batches.
    pub fn limits(&self) -> EffectiveLimits {
        self.dialect().limits.effective(self.spec.limits)
    }

    /// Returns the object's metadata at the last look.
    pub fn seen(&self) -> ObjectMeta {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the metadata that a later look showed.
    pub fn saw(&self, object: ObjectMeta) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = object;
    }

    /// Returns the [`fingerprint`] of the account.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.key.as_ref(), self.spec.base_url())
    }
}

/// Returns a mark of endpoint and credential that reveals neither: the credential is the key of the HMAC.
pub(crate) fn fingerprint(key: Option<&SecretString>, base_url: &str) -> String {
    let key = key.map(|k| k.expose_secret()).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hex(&hmac::sign(&key, base_url.as_bytes()).as_ref()[..8])
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
            let found = known.look::<BatchProvider>(ctx, Some(namespace), &reference.name).await?;
            let Some(WithoutManagedFields(provider)) = found else {
                return Err(Missing::Absent(Absent {
                    reason: reasons::PROVIDER_NOT_FOUND,
                    what: name,
                    namespace: namespace.into(),
                    or: ", or correct `spec.providerRef`",
                }));
            };
            (provider.metadata, provider.spec, namespace)
        }
        ProviderKind::ClusterBatchProvider => {
            let WithoutManagedFields(provider) = granted(ctx, &reference.name, namespace, known).await?;
            (provider.metadata, provider.spec.provider, ctx.namespace.as_str())
        }
    };
    let Access { key, transport, .. } = access(ctx, &spec, secrets_in, &name, since).await?;
    let of = ProviderKey {
        kind: reference.kind,
        namespace: (reference.kind == ProviderKind::BatchProvider).then(|| namespace.to_string()),
        name: reference.name.clone(),
    };
    Ok(Account { name, object: of, spec, key, transport, seen: Mutex::new(object) })
}

impl Account {
    /// Returns a client for the account.
    ///
    /// # Errors
    /// When the URL cannot be parsed.
    pub fn client(&self, kind: ProviderKind) -> Result<OpenAi, ApiError> {
        client(kind, &self.spec, self.key.clone(), &self.transport)
    }
}

/// Returns a client for an account. The admin chooses the host of a ClusterBatchProvider, and so it may be a private one. Keys
/// and prompts are never sent to a public host in clear text, whoever names it.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn client(
    kind: ProviderKind,
    spec: &BatchProviderSpec,
    key: Option<SecretString>,
    transport: &Transport,
) -> Result<OpenAi, ApiError> {
    let transport =
        reaching(kind, spec.base_url(), transport).map_err(|e| ApiError::new(ErrorKind::Transient, e.to_string()))?;
    let (dialect, base_url) = (Dialect::of(spec.type_), spec.base_url());
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
        Ok((labels, Keep::Yes))
    };
    ctx.labels.get(&namespace.to_string(), since, || ctx.clock.now(), read).await
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
