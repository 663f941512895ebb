//! The storage folders of a job: the folder of its output, and the folder that holds its input.

use kube::ResourceExt;

use crate::api::conditions::reasons;
use crate::api::{BatchJob, ObjectStoreLocation};
use crate::controller::Context;
use crate::controller::runtime::cache::LIFETIME;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::missing::{Missing, blocked};
use crate::controller::runtime::secrets::{secret, value};
use crate::controller::runtime::trust;
use crate::lifecycle::{self, JobView};
use crate::store::{Backend, ConfigMaps, Credentials, Folder, Place};

/// Opens the folder of the output. Returns it with the version of its Secret, which must have been read at `since` or later (Unix
/// milliseconds); None for an output in ConfigMaps.
pub(crate) async fn output_folder(
    ctx: &Context,
    job: &BatchJob,
    view: &JobView,
    namespace: &str,
    since: i64,
) -> Result<(Folder, Option<String>), Missing> {
    let output = &job.spec.output;
    if let Some(location) = &output.object_store {
        let (credentials, version) = storage_credentials(ctx, namespace, location, "`spec.output`", since).await?;
        let transport = trust::transport(ctx, location.tls.as_ref(), namespace, "`spec.output`").await?;
        return Folder::open(location, &view.output_uri, &credentials, &transport)
            .map(|folder| (folder.keeping(ctx.jobs.copies.of(namespace)).seeing(ctx.jobs.checks.clone()), version))
            .or_else(|e| blocked(reasons::INVALID_INPUT, format!("`spec.output`: {e}")));
    }
    let name = output.config_map.as_ref().map(|map| map.name.as_str()).unwrap_or_default();
    let maps = ConfigMaps::new(ctx.client.clone(), namespace, name, &job.name_any(), ctx.jobs.output_config_maps);
    Ok((Folder::of_config_maps(maps, &view.output_uri), None))
}

/// Reads the credentials of a location from its Secret, and returns them with the Secret's version. `user` is the field that names
/// the Secret, for messages, such as "`spec.input`".
async fn storage_credentials(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
    user: &str,
    since: i64,
) -> Result<(Credentials, Option<String>), Missing> {
    let name = &location.secret_ref.name;
    // An invalid URI is reported when the folder is opened.
    let backend = location.uri.parse().map_or(Backend::S3, |place: Place| place.backend);
    let secret = secret(ctx, namespace, name, user, since).await?;
    let mut values = vec![];
    for key in backend.secret_keys() {
        match value(&secret, key.name, name, user) {
            Ok(value) => values.push((key.name, value)),
            Err(missing) if key.required => return Err(missing),
            Err(_) => {}
        }
    }
    Ok((values.into_iter().collect(), secret.resource_version()))
}

/// Returns the URI of a folder with its `/`.
pub(crate) fn folder_uri(uri: &str) -> String {
    format!("{}/", uri.trim_end_matches('/'))
}

/// Opens the folder of the input. Returns it with the last part of the URI: an object's name, a pattern, or nothing for a folder.
pub(crate) async fn input_folder(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
) -> Result<(Folder, String), StepError> {
    Ok(folder_to_read(ctx, namespace, location, &location.uri, "`spec.input`").await?.split_last())
}

/// Opens the folder of a result set. `user` is the field that names it, for messages.
pub(crate) async fn results_folder(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
    user: &str,
) -> Result<Folder, StepError> {
    folder_to_read(ctx, namespace, location, &folder_uri(&location.uri), user).await
}

/// Opens the folder that another BatchJob of the namespace wrote its results to.
pub(crate) async fn folder_of_job(ctx: &Context, namespace: &str, job: &BatchJob) -> Result<Folder, StepError> {
    let (name, output) = (job.name_any(), &job.spec.output);
    let user = format!("`spec.output` of BatchJob '{name}'");
    let uri = lifecycle::output_uri(output, namespace, &name, job.spec.run_id.as_deref());
    let uri = uri.map_err(|why| StepError::lasting(reasons::INVALID_INPUT, format!("BatchJob '{name}': {why}")))?;
    match (&output.object_store, &output.config_map) {
        (Some(location), _) => folder_to_read(ctx, namespace, location, &uri, &user).await,
        (None, map) => {
            let map = map.as_ref().map(|map| map.name.as_str()).unwrap_or_default();
            let maps = ConfigMaps::new(ctx.client.clone(), namespace, map, &name, ctx.jobs.output_config_maps);
            Ok(Folder::of_config_maps(maps, &uri))
        }
    }
}

async fn folder_to_read(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
    uri: &str,
    user: &str,
) -> Result<Folder, StepError> {
    let since = ctx.clock.now() - LIFETIME;
    let (credentials, _) = storage_credentials(ctx, namespace, location, user, since).await?;
    let transport = trust::transport(ctx, location.tls.as_ref(), namespace, user).await?;
    Ok(Folder::open(location, uri, &credentials, &transport)?)
}
