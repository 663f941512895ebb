//! Certificates of private authorities, from the ConfigMaps and Secrets that `tls.caBundleRef` names.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::error::StepError;
use super::missing::{Absent, Missing, blocked};
use super::{cache, secrets};
use crate::api::conditions::reasons;
use crate::api::{CaBundleKind, CaBundleReference, Tls};
use crate::controller::Context;
use crate::transport::{CaBundle, Granted, Transport};

/// Bytes of clients that trust authorities of tenants.
pub(crate) const CERTIFICATES: u64 = 32 << 20;

/// Returns the transport to a server whose `tls`, a field of `user` (such as "`spec.output`"), may name authorities in
/// `namespace`.
pub(crate) async fn transport(
    ctx: &Context,
    tls: Option<&Tls>,
    namespace: &str,
    user: &str,
) -> Result<Transport, Missing> {
    let Some(Tls { ca_bundle_ref: reference }) = tls else { return Ok(ctx.transport.clone()) };
    let CaBundleReference { kind, name, key } = reference;
    let wrong = |why: String| {
        let what = format!("{kind:?} '{name}', which `tls.caBundleRef` of {user} names,");
        blocked(reasons::CA_BUNDLE_NOT_FOUND, format!("{what} {why}"))
    };
    let found = match read(ctx, reference, namespace).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Err(Missing::Absent(Absent {
                reason: reasons::CA_BUNDLE_NOT_FOUND,
                what: format!("{kind:?} '{name}', which `tls.caBundleRef` of {user} names,"),
                namespace: namespace.into(),
                or: "",
            }));
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            let role = "the operator's role must allow `get` on configmaps and secrets";
            return wrong(format!("may not be read in namespace '{namespace}'; {role}"));
        }
        Err(e) => return Err(e.into()),
    };
    let Some(pem) = found else { return wrong(format!("has no key '{key}'; add it, or correct `key`")) };
    let grant = |bytes| Some(Granted(Box::new(ctx.certificates.take(namespace, bytes)?)));
    let trusting = CaBundle::from_pem(&pem).and_then(|authorities| {
        ctx.transport.trusting_authorities(&authorities, grant).map_err(|e| crate::transport::chain(&e))
    });
    match trusting {
        Ok(Some(trusting)) => Ok(trusting),
        Ok(None) => {
            let message = format!(
                "there is no memory for the certificates of {kind:?} '{name}', which `tls.caBundleRef` of {user} names, while jobs of \
                 namespace '{namespace}' use so many others; let them share one bundle"
            );
            Err(Missing::Unknown(StepError::passing(reasons::CA_BUNDLE_NOT_FOUND, message)))
        }
        Err(why) => wrong(format!("has no usable certificates in key '{key}': {why}")),
    }
}

/// Reads the text of the key, if there is one; None if there is no object.
async fn read(
    ctx: &Context,
    reference: &CaBundleReference,
    namespace: &str,
) -> Result<Option<Option<String>>, kube::Error> {
    let CaBundleReference { kind, name, key } = reference;
    Ok(match kind {
        CaBundleKind::ConfigMap => {
            let map = Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace).get_opt(name).await?;
            map.map(|map| map.data.unwrap_or_default().remove(key))
        }
        CaBundleKind::Secret => {
            let secret = secrets::read(ctx, namespace, name, ctx.clock.now() - cache::LIFETIME).await?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            secret.map(|secret| secret.data.unwrap_or_default().remove(key).map(|value| text(&value.0)))
        }
    })
}
