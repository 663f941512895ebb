//! The input of a job: ConfigMaps, objects in storage, or inline requests.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::folders::{folder_uri, input_folder};
use super::result_source;
use crate::api::text::clip;
use crate::api::{BatchJobSpec, ConfigMapSource, Input};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::requests::{self, InMemoryPiece, PassError, Source};
use crate::store::StoreError;

/// Returns the field of a result set whose answers are reused, for messages.
pub(crate) fn reuse_field(index: usize) -> String {
    format!("spec.reuseFrom[{index}]")
}

/// Checks that the job's output does not write to its input, and that no answers of its own are to be reused.
///
/// # Errors
/// A message that names the conflict and the remedy.
pub(crate) fn check(spec: &BatchJobSpec, output_uri: &str) -> Result<(), String> {
    let reused = spec.reuse_from.iter().flatten().enumerate().map(|(i, set)| (reuse_field(i), &set.object_store));
    let read = spec.input.results.iter().map(|results| ("spec.input.results".to_string(), &results.object_store));
    for (field, from) in reused.chain(read) {
        let to = spec.output.object_store.as_ref();
        if to.is_some_and(|to| to.endpoint == from.endpoint) && folder_uri(&from.uri) == output_uri {
            return Err(format!(
                "`{field}` is the destination of this job itself ({output_uri}); name that of an earlier job"
            ));
        }
    }
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

/// Opens the input. Objects and ConfigMaps are read one after the other, when their turn comes.
///
/// # Errors
/// The inner error describes results that cannot be read. The outer one is of the URI, the Secret or the certificates of an
/// object store, which are missing or cannot be used.
pub(crate) async fn open(
    ctx: &Arc<Context>,
    namespace: &str,
    input: Input,
) -> Result<Result<Source, String>, StepError> {
    if let Some(results) = result_source::open(ctx, namespace, &input).await? {
        return Ok(results);
    }
    if let Some(location) = &input.object_store {
        let (folder, name) = input_folder(ctx, namespace, location).await?;
        return Ok(Ok(Source::Objects { folder, name }));
    }
    if let Some(sources) = input.config_maps {
        let api = Api::namespaced(ctx.client.clone(), namespace);
        let left = sources.into_iter();
        let maps = Maps { api, namespace: namespace.into(), left, read: vec![] };
        let pieces = futures::stream::try_unfold(maps, Maps::next).try_flatten().boxed();
        return Ok(Ok(Source::InMemory { name: "`spec.input.configMaps`".into(), pieces }));
    }
    Ok(Ok(Source::Inline(input.inline.map(|inline| inline.requests).unwrap_or_default())))
}

/// The ConfigMaps of an input, read one after the other.
struct Maps {
    api: Api<ConfigMap>,
    namespace: String,
    left: std::vec::IntoIter<ConfigMapSource>,
    /// Names and versions of the ConfigMaps that were read.
    read: Vec<(String, Option<String>)>,
}

type Keys = BoxStream<'static, Result<InMemoryPiece, PassError>>;

impl Maps {
    async fn next(mut self) -> Result<Option<(Keys, Maps)>, PassError> {
        let Some(source) = self.left.next() else {
            self.see_unchanged().await?;
            return Ok(None);
        };
        let Some(map) = self.get(&source.name).await? else {
            return Err(PassError::NotFound(format!(
                "ConfigMap '{}', which `spec.input` names, was not found in namespace '{}'; create it",
                source.name, self.namespace
            )));
        };
        self.read.push((source.name.clone(), map.resource_version()));
        let keys = keys(&source, map)?;
        Ok(Some((futures::stream::iter(keys).map(Ok).boxed(), self)))
    }

    /// Fails if a ConfigMap changed since it was read. Otherwise the plan could mix old and new ConfigMaps, a state that never existed.
    async fn see_unchanged(&self) -> Result<(), PassError> {
        for (name, version) in &self.read {
            let now = self.get(name).await?.and_then(|map| map.resource_version());
            if now.is_none() || now != *version {
                return Err(StoreError::changed(&format!("ConfigMap '{name}'")).into());
            }
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<ConfigMap>, PassError> {
        match self.api.get_opt(name).await {
            Ok(map) => Ok(map),
            Err(kube::Error::Api(status)) if status.is_forbidden() => Err(PassError::NotFound(format!(
                "the operator may not read ConfigMap '{name}' in namespace '{}'; its ClusterRole must allow `get` on \
                 configmaps",
                self.namespace
            ))),
            Err(e) => {
                let why = clip(crate::transport::chain(&e), 512);
                Err(PassError::Unavailable(format!("the Kubernetes API: {why}")))
            }
        }
    }
}

fn keys(source: &ConfigMapSource, map: ConfigMap) -> Result<Vec<InMemoryPiece>, PassError> {
    let name = &source.name;
    let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    let mut keys: Vec<(String, Vec<u8>)> =
        text.chain(binary).filter(|(key, _)| source.key.as_ref().is_none_or(|wanted| wanted == key)).collect();
    keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let (Some(wanted), true) = (&source.key, keys.is_empty()) {
        let message = format!("ConfigMap '{name}', which `spec.input` names, has no key '{wanted}'; add it");
        return Err(PassError::NotFound(message));
    }
    let held = |(key, bytes)| InMemoryPiece { name: format!("ConfigMap '{name}', key '{key}'"), file: key, bytes };
    Ok(keys.into_iter().map(held).collect())
}
