//! Secrets that jobs and providers name. The operator may get a Secret but neither list nor watch them, so each is read once
//! for all users, and again when it is old or may have changed.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use secrecy::SecretString;

use super::cache;
use super::cache::Keep;
use super::missing::{Absent, Missing, blocked};
use crate::api::conditions::reasons;
use crate::controller::Context;

/// Largest Secret that is kept, in bytes: keys are small, but tenants choose what a Secret holds.
const KEPT_BYTES: usize = 8 << 10;

/// Secrets by namespace and name.
pub(crate) type Secrets = cache::Cache<(String, String), Option<Secret>>;

/// Reads the Secret as it was at `since` (Unix milliseconds) or later; None if there is none.
///
/// # Errors
/// When it cannot be read; status 403 if the operator may not.
pub(crate) async fn read(
    ctx: &Context,
    namespace: &str,
    name: &str,
    since: i64,
) -> Result<Option<Secret>, kube::Error> {
    let key = (namespace.to_string(), name.to_string());
    let read = || async {
        let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
        let mut found = secrets.get_opt(name).await?;
        if let Some(secret) = &mut found {
            // These repeat the applied object, with its values.
            (secret.metadata.managed_fields, secret.metadata.annotations) = (None, None);
        }
        let small = found.as_ref().is_some_and(|secret| size(secret) <= KEPT_BYTES);
        Ok((found, if small { Keep::Yes } else { Keep::No }))
    };
    ctx.secrets.get(&key, since, || ctx.clock.now(), read).await
}

fn size(secret: &Secret) -> usize {
    secret.data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum()
}

/// Returns the version of a Secret; None if there is none, or if the operator may not read it.
pub(crate) async fn version(ctx: &Context, namespace: &str, name: &str) -> Result<Option<String>, kube::Error> {
    match read(ctx, namespace, name, ctx.clock.now() - cache::LIFETIME).await {
        Ok(found) => Ok(found.and_then(|secret| secret.resource_version())),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads the Secret that `user` names, as [`read`] does.
pub(crate) async fn secret(
    ctx: &Context,
    namespace: &str,
    name: &str,
    user: &str,
    since: i64,
) -> Result<Secret, Missing> {
    match read(ctx, namespace, name, since).await {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(Missing::Absent(Absent {
            reason: reasons::SECRET_NOT_FOUND,
            what: format!("Secret '{name}', which {user} names,"),
            namespace: namespace.into(),
            or: "",
        })),
        Err(kube::Error::Api(status)) if status.is_forbidden() => blocked(
            reasons::SECRET_NOT_FOUND,
            format!(
                "the operator may not read Secret '{name}' in namespace '{namespace}'; its ClusterRole must allow `get` on secrets"
            ),
        ),
        Err(e) => Err(e.into()),
    }
}

/// Returns the text of a key of the Secret that `user` names.
pub(crate) fn value(secret: &Secret, key: &str, name: &str, user: &str) -> Result<SecretString, Missing> {
    let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    match bytes.map(|b| std::str::from_utf8(b).map(str::trim)) {
        Some(Ok(text)) if !text.is_empty() => Ok(SecretString::from(text.to_string())),
        Some(_) => blocked(
            reasons::SECRET_NOT_FOUND,
            format!("key '{key}' of Secret '{name}', which {user} names, is empty or not text"),
        ),
        None => blocked(
            reasons::SECRET_NOT_FOUND,
            format!("Secret '{name}', which {user} names, has no key '{key}'; add it"),
        ),
    }
}
