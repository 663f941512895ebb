//! The provider objects that the watches know, and the rules for when that knowledge is good enough.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;

use super::Provider;
use super::watch::is_partial;
use crate::controller::Context;
use crate::controller::runtime::version;

/// The way to look at a provider object.
#[derive(Clone, Copy)]
pub(crate) enum ReadFrom<'a> {
    /// As the watch has it.
    Watch,
    /// As the watch has it, unless it is older there than this look at it.
    WatchSince(&'a ObjectMeta),
    /// Reads it anew: a job that pins a provider must see its state since the pin.
    ApiServer,
}

impl ReadFrom<'_> {
    /// Returns the provider object; None if there is none.
    ///
    /// # Errors
    /// When the API server must be asked and the call fails.
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
            ReadFrom::Watch => true,
            ReadFrom::WatchSince(seen) => !version::is_older(found.meta(), seen),
            ReadFrom::ApiServer => false,
        };
        match watched().filter(|found| is_good(found) && !is_partial(&**found)) {
            Some(found) => Ok(Some(P::clone(&found))),
            // Not in the store yet, or no longer, or not as a whole.
            None => P::api(ctx.client.clone(), namespace).get_opt(name).await,
        }
    }
}
