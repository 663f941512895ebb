//! The results of another job as an input: those of a BatchJob of the same namespace, or a result set in object storage.

use std::path::Path;

use kube::runtime::reflector::ObjectRef;

use super::cached_job;
use super::folders::{folder_of_job, results_folder};
use crate::api::{BatchJob, BatchJobReference, Input, ResultSelection};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{circle, in_a_circle, lacks_results};
use crate::requests::{ResultLines, Source, result_columns};
use crate::results::{Columns, ResultSet};
use crate::store::{Folder, StoreError, layout};

/// Opens the results that an input names, as rows for its template or, without one, as the requests without an answer; None if
/// it names none.
///
/// # Errors
/// The inner error describes results that are not there, or that are not what the spec asks for. The outer one is of a store or
/// of the API server.
pub(super) async fn open(
    ctx: &Context,
    namespace: &str,
    input: &Input,
) -> Result<Option<Result<Source, String>>, StepError> {
    let (folder, select) = match (&input.results, &input.batch_job_ref) {
        (Some(results), _) => {
            (results_folder(ctx, namespace, &results.object_store, "`spec.input.results`").await?, results.select)
        }
        (None, Some(BatchJobReference { name, select })) => {
            let job = cached_job::whole(ctx, namespace, name).await?;
            if let Some(missing) = lacks_results(name, job.as_ref()) {
                return Ok(Some(Err(missing)));
            }
            let Some(job) = job else { return Ok(None) };
            (folder_of_job(ctx, namespace, &job).await?, *select)
        }
        (None, None) => return Ok(None),
    };
    let source = read(folder, select, input, &ctx.jobs.spool).await?;
    Ok(Some(source.map(Source::Results)))
}

async fn read(
    folder: Folder,
    select: ResultSelection,
    input: &Input,
    spool: &Path,
) -> Result<Result<ResultLines, String>, StoreError> {
    let uri = folder.uri_of("");
    match ResultSet::open(folder).await {
        Ok(Some(set)) => Ok(lines_of(&set, select, input, spool)),
        Ok(None) => Ok(Err(no_manifest(&uri))),
        Err(StoreError::Corrupt(why)) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

/// Describes why the results of the BatchJob `name` cannot be read yet by the BatchJob `of`; None if they can. The look is at what
/// the watch knows, and costs no call.
pub(super) async fn missing(ctx: &Context, namespace: &str, of: &str, name: &str) -> Option<String> {
    ctx.jobs.synced(Some(namespace)).await;
    let job = |name: &str| ctx.jobs.watched(&ObjectRef::<BatchJob>::new(name).within(namespace));
    let waits_for = |name: &str| Some(job(name)?.spec.input.batch_job_ref.as_ref()?.name.clone());
    let missing = lacks_results(name, job(name).as_deref())?;
    Some(circle(of, waits_for).map_or(missing, |names| in_a_circle(&names)))
}

/// Says that results are not there. The manifest is written last.
fn no_manifest(uri: &str) -> String {
    format!("{uri}manifest.json is not there yet, so neither are the results")
}

fn lines_of(set: &ResultSet, select: ResultSelection, input: &Input, spool: &Path) -> Result<ResultLines, String> {
    let (uri, version) = (set.uri(), format!("{}\n{select:?}", set.version()));
    let Some(template) = &input.template else {
        set.check_unsuccessful()?;
        let content = set.content(layout::UNSUCCESSFUL);
        return Ok(ResultLines { name: uri + layout::UNSUCCESSFUL, entry: "line", version, content });
    };
    let mut columns = Columns::default();
    for name in result_columns(template, &Columns::NAMES)? {
        columns.add(&name);
    }
    let content = set.rows(select, columns, spool)?;
    Ok(ResultLines { name: format!("{uri} (`select: {select:?}`)"), entry: "row", version, content })
}
