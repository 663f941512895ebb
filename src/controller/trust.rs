//! Certificates of private authorities, from the ConfigMaps and Secrets that `tls.caBundleRef` names.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};

use super::Context;
use super::observe::{Missing, stuck};
use crate::api::conditions::reasons;
use crate::api::{CaBundleKind, CaBundleReference, Tls};
use crate::transport::{CaBundle, Transport};

/// Certificates and the version of the object that they are from.
pub(super) struct Trust {
    authorities: CaBundle,
    pub version: Option<String>,
}

/// The authorities that `tls`, of `user` (such as "`spec.output`"), names in `namespace`; None where it names none.
pub(super) async fn trust(
    ctx: &Context,
    tls: Option<&Tls>,
    namespace: &str,
    user: &str,
) -> Result<Option<Trust>, Missing> {
    let Some(Tls { ca_bundle_ref: reference }) = tls else { return Ok(None) };
    let wrong = |why: String| {
        let CaBundleReference { kind, name, .. } = reference;
        stuck(
            reasons::CA_BUNDLE_NOT_FOUND,
            format!("{kind:?} '{name}', which `tls.caBundleRef` of {user} names, {why}"),
        )
    };
    let (found, version) = match read(ctx, reference, namespace).await {
        Ok(Some(found)) => found,
        Ok(None) => return wrong(format!("was not found in namespace '{namespace}'; create it")),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            return wrong(format!(
                "may not be read in namespace '{namespace}'; the operator's role must allow `get` on configmaps and secrets"
            ));
        }
        Err(e) => return Err(e.into()),
    };
    let key = &reference.key;
    let Some(pem) = found else { return wrong(format!("has no key '{key}'; add it, or correct `key`")) };
    match CaBundle::from_pem(&pem) {
        Ok(authorities) => Ok(Some(Trust { authorities, version })),
        Err(why) => wrong(format!("has no usable certificates in key '{key}': {why}")),
    }
}

impl Trust {
    /// `transport`, for servers that these authorities vouch for.
    pub fn over(&self, transport: &Transport, user: &str) -> Result<Transport, Missing> {
        transport.trusting_authorities(&self.authorities).or_else(|e| {
            let why = crate::transport::chain(&e);
            stuck(
                reasons::CA_BUNDLE_NOT_FOUND,
                format!("a certificate that `tls.caBundleRef` of {user} names is of no use: {why}"),
            )
        })
    }
}

/// The text of the key, if there is one, and the version of the object; None where there is no object.
type Read = Option<(Option<String>, Option<String>)>;

async fn read(ctx: &Context, reference: &CaBundleReference, namespace: &str) -> Result<Read, kube::Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (name, key) = (&reference.name, &reference.key);
    Ok(match reference.kind {
        CaBundleKind::ConfigMap => {
            let map = Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace).get_opt(name).await?;
            map.map(|map| (map.data.as_ref().and_then(|data| data.get(key).cloned()), map.resource_version()))
        }
        CaBundleKind::Secret => {
            let secret = Api::<Secret>::namespaced(ctx.client.clone(), namespace).get_opt(name).await?;
            secret.map(|secret| {
                let value = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| text(&value.0));
                (value, secret.resource_version())
            })
        }
    })
}

/// The transport to a server, with the authorities that `tls` names.
pub(super) async fn transport(
    ctx: &Context,
    tls: Option<&Tls>,
    namespace: &str,
    user: &str,
) -> Result<Transport, Missing> {
    match trust(ctx, tls, namespace, user).await? {
        Some(trust) => trust.over(&ctx.transport, user),
        None => Ok(ctx.transport.clone()),
    }
}
