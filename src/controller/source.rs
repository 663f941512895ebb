//! Opens what `spec.input` names.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::trouble::Trouble;
use super::{Context, observe};
use crate::api::text::clip;
use crate::api::{BatchJobSpec, ConfigMapSource, Input};
use crate::requests::{self, Held, PassError, Source};

/// What can be said of the input before it is opened.
///
/// # Errors
/// Says what to do.
pub(super) fn check(spec: &BatchJobSpec, output_uri: &str) -> Result<(), String> {
    if let (Some(input), Some(output)) = (&spec.input.object_store, &spec.output.object_store) {
        return requests::apart(input, output, output_uri);
    }
    let (Some(sources), Some(output)) = (&spec.input.config_maps, &spec.output.config_map) else { return Ok(()) };
    match sources.iter().find(|s| s.name == output.name || s.name.starts_with(&format!("{}-", output.name))) {
        Some(source) => Err(format!(
            "`spec.input` reads ConfigMap '{}', which `spec.output` may write to; choose another name for the output",
            source.name
        )),
        None => Ok(()),
    }
}

/// Opens the input; what it holds is read when its turn comes.
///
/// # Errors
/// When something is missing.
pub(super) async fn open(ctx: &Arc<Context>, namespace: &str, input: &Input) -> Result<Source, Trouble> {
    if let Some(location) = &input.object_store {
        let (folder, name) = observe::input_folder(ctx, namespace, location).await?;
        return Ok(Source::Objects { folder, name });
    }
    if let Some(sources) = &input.config_maps {
        let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
        let namespace = namespace.to_string();
        let maps = futures::stream::iter(sources.clone()).then(move |source| {
            let (api, namespace) = (api.clone(), namespace.clone());
            async move { keys(&api, &namespace, &source).await.map(|keys| futures::stream::iter(keys).map(Ok)) }
        });
        return Ok(Source::Held { name: "`spec.input.configMaps`".into(), pieces: maps.try_flatten().boxed() });
    }
    Ok(Source::Inline(input.inline.as_ref().map(|i| i.requests.clone()).unwrap_or_default()))
}

async fn keys(api: &Api<ConfigMap>, namespace: &str, source: &ConfigMapSource) -> Result<Vec<Held>, PassError> {
    let name = &source.name;
    let named = format!("ConfigMap '{name}', which `spec.input` names,");
    let map = match api.get_opt(name).await {
        Ok(Some(map)) => map,
        Ok(None) => {
            let message = format!("{named} was not found in namespace '{namespace}'; create it");
            return Err(PassError::NotFound(message));
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            return Err(PassError::NotFound(format!(
                "the operator may not read ConfigMap '{name}' in namespace '{namespace}'; its ClusterRole must allow \
                 `get` on configmaps"
            )));
        }
        Err(e) => {
            let why = clip(crate::transport::chain(&e), 512);
            return Err(PassError::Unavailable(format!("the Kubernetes API: {why}")));
        }
    };
    let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    let mut keys: Vec<(String, Vec<u8>)> =
        text.chain(binary).filter(|(key, _)| source.key.as_ref().is_none_or(|wanted| wanted == key)).collect();
    keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let (Some(wanted), true) = (&source.key, keys.is_empty()) {
        return Err(PassError::NotFound(format!("{named} has no key '{wanted}'; add it")));
    }
    let held = |(key, bytes)| Held { name: format!("ConfigMap '{name}', key '{key}'"), file: key, bytes };
    Ok(keys.into_iter().map(held).collect())
}
