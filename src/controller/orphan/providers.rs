//! The provider objects whose accounts are searched for orphans.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use tracing::warn;

use crate::api::ProviderKind;
use crate::api::conditions::{self, READY};
use crate::controller::Context;
use crate::controller::provider::Provider;
use crate::controller::runtime::error::StepError;

/// Providers in one page of a list: each may have more than a megabyte.
const PAGE: u32 = 10;

/// A provider object, as much of it as a look needs.
pub(super) struct Listable<P> {
    pub object: P,
    /// Whether its status says that it can be searched. Status is a hint, which saves futile calls.
    pub can_be_searched: bool,
}

impl<P: Provider> Listable<P> {
    /// Drops what no look needs: anybody who may write the object decides how large that is.
    fn of(mut object: P) -> Listable<P> {
        let can_be_searched = object.status().is_some_and(|s| {
            conditions::is_true(&s.conditions, READY) && s.capabilities.is_some_and(|can| can.list_batches())
        });
        let ObjectMeta { name, namespace, uid, .. } = std::mem::take(object.meta_mut());
        *object.meta_mut() = ObjectMeta { name, namespace, uid, ..Default::default() };
        *object.status_mut() = None;
        object.account_mut().allowed_models = vec![];
        Listable { object, can_be_searched }
    }
}

/// Lists the providers that this process may see.
pub(super) async fn providers<P: Provider>(ctx: &Context) -> Result<Vec<Listable<P>>, StepError> {
    let own: Vec<Option<&str>> = match P::KIND {
        ProviderKind::BatchProvider => ctx.jobs.scopes().collect(),
        ProviderKind::ClusterBatchProvider => vec![None],
    };
    let mut providers = vec![];
    for scope in own {
        match providers_in(ctx, scope).await {
            Ok(found) => providers.extend(found),
            // A namespace that is gone does not keep the others from being searched.
            Err(kube::Error::Api(status)) if scope.is_some() && (status.is_forbidden() || status.is_not_found()) => {
                warn!(namespace = scope, why = status.message, "cannot list a namespace's providers");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(providers)
}

async fn providers_in<P: Provider>(ctx: &Context, scope: Option<&str>) -> kube::Result<Vec<Listable<P>>> {
    let api = P::api(ctx.client.clone(), scope);
    let (mut providers, mut page) = (vec![], ListParams::default().limit(PAGE));
    loop {
        let list = api.list(&page).await?;
        providers.extend(list.items.into_iter().map(Listable::of));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(providers),
        }
    }
}
