//! A mark of the objects that a job refers to. A failure before anything was paid is judged again when the mark changes.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::folders::{input_folder, results_folder};
use super::source::reuse_field;
use crate::api::text::hex;
use crate::api::{
    BatchJob, BatchJobSpec, BatchProvider, BatchProviderSpec, CaBundleKind, ClusterBatchProvider, ObjectStoreLocation,
    ProviderKind, Tls, WithoutManagedFields,
};
use crate::controller::Context;
use crate::controller::provider::ReadFrom;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::secrets;
use crate::lifecycle::lacks_results;
use crate::requests::means_many;
use crate::store::layout;

/// Returns a mark of the versions of all objects that the job refers to: its provider, Secrets and certificates, and the ConfigMaps,
/// the single object or the results of its input. The objects of an input folder or pattern are not included. A missing object is part
/// of the mark, so that its creation changes it.
///
/// # Errors
/// If a version cannot be read now.
pub(crate) async fn mark(ctx: &Context, job: &BatchJob) -> Result<String, StepError> {
    let namespace = job.namespace().unwrap_or_default();
    let live;
    let spec = match job.spec.input.is_unknown() {
        false => &job.spec,
        true => {
            let jobs: Api<BatchJob> = Api::namespaced(ctx.client.clone(), &namespace);
            live = jobs.get_opt(&job.name_any()).await?;
            live.as_ref().map_or(&job.spec, |live| &live.spec)
        }
    };
    let mut seen = provider(ctx, spec, &namespace).await?;
    for location in locations(spec) {
        seen.push(secrets::version(ctx, &namespace, &location.secret_ref.name).await?);
        seen.extend(authorities(ctx, location.tls.as_ref(), &namespace).await?);
    }
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    for map in spec.input.config_maps.iter().flatten() {
        seen.push(version(&maps, &map.name).await?);
    }
    if let Some(reference) = &spec.input.batch_job_ref {
        seen.push(results_of(ctx, &namespace, &reference.name));
    }
    if let Some(results) = &spec.input.results {
        seen.push(manifest(ctx, &namespace, &results.object_store, "`spec.input.results`").await?);
    }
    for (i, source) in spec.reuse_from.iter().flatten().enumerate() {
        seen.push(manifest(ctx, &namespace, &source.object_store, &format!("`{}`", reuse_field(i))).await?);
    }
    if let Some(location) = &spec.input.object_store {
        seen.push(object(ctx, &namespace, location).await?);
    }
    Ok(hex(digest(&SHA256, json!(seen).to_string().as_bytes()).as_ref()))
}

fn locations(spec: &BatchJobSpec) -> impl Iterator<Item = &ObjectStoreLocation> {
    let results = spec.input.results.iter().map(|results| &results.object_store);
    let reused = spec.reuse_from.iter().flatten().map(|source| &source.object_store);
    spec.input.object_store.iter().chain(results).chain(&spec.output.object_store).chain(reused)
}

async fn provider(ctx: &Context, spec: &BatchJobSpec, namespace: &str) -> Result<Vec<Option<String>>, StepError> {
    let name = &spec.provider_ref.name;
    let (meta, (auth, tls), secrets_in) = match spec.provider_ref.kind {
        ProviderKind::BatchProvider => {
            let found = ReadFrom::Watch.look::<BatchProvider>(ctx, Some(namespace), name).await?;
            let (meta, auth) =
                found.map(|WithoutManagedFields(p)| (p.metadata, refers_to(&p.spec))).unwrap_or_default();
            (meta, auth, namespace)
        }
        ProviderKind::ClusterBatchProvider => {
            let found = ReadFrom::Watch.look::<ClusterBatchProvider>(ctx, None, name).await?;
            let (meta, auth) =
                found.map(|WithoutManagedFields(p)| (p.metadata, refers_to(&p.spec.provider))).unwrap_or_default();
            (meta, auth, ctx.namespace.as_str())
        }
    };
    // Not the resourceVersion: the status is written often and does not matter here.
    let mut seen = vec![meta.uid, meta.generation.map(|g| g.to_string())];
    if let Some(name) = auth {
        seen.push(secrets::version(ctx, secrets_in, &name).await?);
    }
    seen.extend(authorities(ctx, tls.as_ref(), secrets_in).await?);
    Ok(seen)
}

/// Returns the name of the provider's Secret, and the reference to its certificates.
fn refers_to(spec: &BatchProviderSpec) -> (Option<String>, Option<Tls>) {
    (spec.auth.as_ref().map(|auth| auth.secret_key_ref.name.clone()), spec.tls.clone())
}

/// Returns the version of the ConfigMap or Secret with certificates; None if `tls` names none.
async fn authorities(ctx: &Context, tls: Option<&Tls>, namespace: &str) -> Result<Option<Option<String>>, StepError> {
    let Some(Tls { ca_bundle_ref: reference }) = tls else { return Ok(None) };
    let (client, name) = (ctx.client.clone(), &reference.name);
    let found = match reference.kind {
        CaBundleKind::ConfigMap => version(&Api::<ConfigMap>::namespaced(client, namespace), name).await?,
        CaBundleKind::Secret => secrets::version(ctx, namespace, name).await?,
    };
    Ok(Some(found))
}

/// Returns the resourceVersion of an object; None if it does not exist or the operator may not read it.
async fn version<K>(api: &Api<K>, name: &str) -> Result<Option<String>, StepError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.get_metadata_opt(name).await {
        Ok(found) => Ok(found.and_then(|object| object.metadata.resource_version)),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Returns a text that changes when the results of the BatchJob `name` do; None if it does not exist.
fn results_of(ctx: &Context, namespace: &str, name: &str) -> Option<String> {
    let job = ctx.jobs.watched(&ObjectRef::new(name).within(namespace))?;
    let end =
        job.status.as_ref().and_then(|status| status.completion_time.as_ref()).map(|time| time.0.as_millisecond());
    Some(json!([job.metadata.uid, end, lacks_results(name, Some(&job))]).to_string())
}

/// Returns the version of a result set's manifest; None if there is none, or if it cannot be read until a person changes
/// something.
async fn manifest(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
    user: &str,
) -> Result<Option<String>, StepError> {
    let looked = async {
        let folder = results_folder(ctx, namespace, location, user).await?;
        Ok::<_, StepError>(folder.stat(layout::MANIFEST).await?.map(|object| object.version()))
    };
    if_readable(looked.await)
}

fn if_readable(looked: Result<Option<String>, StepError>) -> Result<Option<String>, StepError> {
    match looked {
        Err(error) if !error.retryable => Ok(None),
        looked => looked,
    }
}

/// Returns the version of an input that is a single object; None for a folder or a pattern, and for an object that cannot be read until
/// a person changes something.
async fn object(ctx: &Context, namespace: &str, location: &ObjectStoreLocation) -> Result<Option<String>, StepError> {
    if means_many(&location.uri) {
        return Ok(None);
    }
    let looked = async {
        let (folder, name) = input_folder(ctx, namespace, location).await?;
        Ok::<_, StepError>(folder.stat(&name).await?.map(|object| object.version()))
    };
    if_readable(looked.await)
}
