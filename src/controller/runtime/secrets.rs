//! Secrets that jobs and providers name. The operator may get a Secret but neither list nor watch them, so each is read once
//! for all users, and again when it is old or may have changed.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt};
use secrecy::SecretString;

use super::cache;
use super::cache::Keep;
use super::missing::{Absent, Missing, blocked};
use crate::api::conditions::reasons;
use crate::controller::Context;

/// Largest Secret that is kept, in bytes: keys are small, but tenants choose what a Secret holds.
const KEPT_BYTES: usize = 8 << 10;

/// Longest value that is a credential, in bytes. Each job at work holds those that it uses, and servers take no longer header.
const CREDENTIAL_BYTES: usize = 8 << 10;

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
        let found = secrets.get_opt(name).await?.map(needed);
        let small = found.as_ref().is_some_and(|secret| size(secret) <= KEPT_BYTES);
        Ok((found, if small { Keep::Yes } else { Keep::No }))
    };
    ctx.secrets.get(&key, since, || ctx.clock.now(), read).await
}

/// Returns the values of a Secret, and its version: its owner decides how large all else is.
fn needed(secret: Secret) -> Secret {
    let metadata = ObjectMeta { resource_version: secret.metadata.resource_version, ..Default::default() };
    Secret { data: secret.data, metadata, ..Default::default() }
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

/// Returns the text of a key of the Secret that `user` names: a credential of at most [`CREDENTIAL_BYTES`].
pub(crate) fn value(secret: &Secret, key: &str, name: &str, user: &str) -> Result<SecretString, Missing> {
    let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    match bytes.map(|b| std::str::from_utf8(b).map(str::trim)) {
        Some(Ok(text)) if text.len() > CREDENTIAL_BYTES => blocked(
            reasons::SECRET_NOT_FOUND,
            format!(
                "key '{key}' of Secret '{name}', which {user} names, has {} bytes, and a credential has at most {CREDENTIAL_BYTES}; \
                 put the credential alone there",
                text.len()
            ),
        ),
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

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn holding(bytes: usize) -> Secret {
        let data = [("key".to_string(), ByteString(vec![b'k'; bytes]))].into();
        let long = Some([("x".repeat(60), "x".repeat(60))].into());
        let metadata = ObjectMeta {
            resource_version: Some("7".into()),
            labels: long.clone(),
            annotations: long,
            finalizers: Some(vec!["x".repeat(60)]),
            ..Default::default()
        };
        Secret { data: Some(data), metadata, type_: Some("x".repeat(60)), ..Default::default() }
    }

    #[test]
    fn a_kept_secret_takes_no_memory_beside_its_values() {
        let kept = needed(holding(1));
        assert_eq!((kept.resource_version().as_deref(), size(&kept)), (Some("7"), 4));
        assert!(!serde_json::to_string(&kept).unwrap().contains("xxx"));
    }

    #[test]
    fn a_value_that_is_longer_than_any_credential_is_refused_with_its_place() {
        assert!(value(&holding(CREDENTIAL_BYTES), "key", "s3", "`spec.output`").is_ok());
        let Err(Missing::Blocked(told)) = value(&holding(CREDENTIAL_BYTES + 1), "key", "s3", "`spec.output`") else {
            panic!("taken for a credential")
        };
        assert_eq!(
            told.message,
            "key 'key' of Secret 's3', which `spec.output` names, has 8193 bytes, and a credential has at most 8192; put the credential \
             alone there"
        );
    }
}
