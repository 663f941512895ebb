//! What the watches know of provider objects, and when that is good enough.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;

use super::Provider;
use crate::controller::Context;
use crate::controller::runtime::version;

/// How a provider object is looked at.
#[derive(Clone, Copy)]
pub(crate) enum Known<'a> {
    /// As the watch has it.
    ByWatch,
    /// As the watch has it, unless it is older there than this look at it.
    Since(&'a ObjectMeta),
    /// Anew: whoever pins a provider has to see what it is since.
    Not,
}

impl Known<'_> {
    /// The provider object; None where there is none.
    ///
    /// # Errors
    /// When the API server has to be asked and cannot be.
    pub async fn look<P: Provider>(
        self,
        ctx: &Context,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<P>, kube::Error> {
        let object = ObjectRef::new(name);
        let object = namespace.map_or(object.clone(), |namespace| object.within(namespace));
        let watched = || P::watched(ctx).iter().find_map(|store| store.get(&object));
        let is_good = |found: &P| match self {
            Known::ByWatch => true,
            Known::Since(seen) => !version::is_older(found.meta(), seen),
            Known::Not => false,
        };
        match watched().filter(|found| is_good(found)) {
            Some(found) => Ok(Some(P::clone(&found))),
            // Not there yet, or no longer.
            None => P::api(ctx.client.clone(), namespace).get_opt(name).await,
        }
    }
}
