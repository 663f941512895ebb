//! The webhook of an account: its signing secret, and the endpoint at which its events are taken.

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use secrecy::ExposeSecret;

use super::Provider;
use super::account::full_name;
use crate::api::ProviderKind;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::missing::{Missing, blocked};
use crate::controller::runtime::secrets::{secret, value};
use crate::lifecycle::WebhookCheck;
use crate::standard_webhooks::SigningKeys;

/// Reads the signing secret of an account and lets its endpoint take events that are signed with it. None if the
/// account has no webhook. The secret is read here only, so that requests cause no call to the API server. Where no
/// webhooks are served, it is not read.
pub(super) async fn look<P: Provider>(ctx: &Context, provider: &P) -> Result<Option<WebhookCheck>, StepError> {
    let (uid, namespace) = (provider.uid().unwrap_or_default(), provider.namespace().unwrap_or_default());
    let is_shared = P::KIND == ProviderKind::ClusterBatchProvider;
    let check = |is_shared, served| WebhookCheck { path: format!("/hooks/{uid}"), is_shared, served };
    let Some(endpoints) = &ctx.endpoints else {
        return Ok(provider.account().webhook.as_ref().map(|_| check(is_shared, None)));
    };
    let keys = match keys(ctx, provider).await {
        None => None,
        Some(Ok(keys)) => Some(Ok(keys)),
        Some(Err(missing)) => Some(Err(missing.blocked()?)),
    };
    let usable = keys.as_ref().and_then(|keys| keys.as_ref().ok()).cloned();
    let was_taken_away = endpoints.set(&uid, (&namespace, &provider.name_any()), usable, |uid, (namespace, name)| {
        let object = ObjectRef::<P>::new(name);
        let object = if namespace.is_empty() { object } else { object.within(namespace) };
        // An endpoint of the other kind is left to the looks at that kind. Only those of BatchProviders have a
        // namespace.
        namespace.is_empty() != provider.namespace().is_none() || is_watched(ctx, &object, uid)
    });
    // The condition is this operator's own word if it took events until now.
    Ok(keys.map(|keys| check(is_shared && !was_taken_away, Some(keys.map(|_| ())))))
}

fn is_watched<P: Provider>(ctx: &Context, object: &ObjectRef<P>, uid: &str) -> bool {
    let found = P::watched(ctx).iter().find_map(|store| store.get(object));
    found.is_some_and(|provider| provider.meta().uid.as_deref() == Some(uid))
}

/// Returns the keys of the account's webhook; None if it has none.
async fn keys<P: Provider>(ctx: &Context, provider: &P) -> Option<Result<SigningKeys, Missing>> {
    let reference = &provider.account().webhook.as_ref()?.signing_secret_key_ref;
    let user = full_name(P::KIND, &provider.name_any());
    let read = async {
        let secret = secret(ctx, provider.secrets_in(ctx), &reference.name, &user, ctx.clock.now()).await?;
        let value = value(&secret, &reference.key, &reference.name, &user)?;
        SigningKeys::parse(value.expose_secret()).or_else(|why| {
            let (key, name) = (&reference.key, &reference.name);
            blocked(
                reasons::SIGNING_SECRET_INVALID,
                format!("key '{key}' of Secret '{name}', which {user} names, is no signing secret: {why}"),
            )
        })
    };
    Some(read.await)
}
