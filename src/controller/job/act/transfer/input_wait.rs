//! Looks for the input that a job waits for: an object in storage, or the results of another job.

use kube::ResourceExt;

use super::memory_edit;
use crate::api::conditions::reasons;
use crate::api::{BatchJob, ObjectStoreLocation, WaitFor, conditions};
use crate::controller::Context;
use crate::controller::job::act::Act;
use crate::controller::job::folders::{input_folder, results_folder};
use crate::controller::job::{events, result_source, source, tasks};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::publish;
use crate::lifecycle::{InputLook, InputWait, Memory, Task};
use crate::store::{Folder, StoreError, layout, reserve};

/// Most bytes of a page of a listing, as text and as a list.
const PAGE_BYTES: usize = 24 << 20;

impl Act<'_> {
    pub(in crate::controller::job::act) fn look_for_input(&self) -> Result<(), StepError> {
        let (job, ctx) = (self.snapshot.job.clone(), self.ctx.clone());
        let Some(InputWait { of, .. }) = self.snapshot.view.input_wait.clone() else { return Ok(()) };
        let output_uri = self.snapshot.view.output_uri.clone();
        // A bucket that does not exist is told once; a look at an object cannot tell.
        let is_first = self.job_state.memory().input_look.is_none_or(|look| look.of != of);
        // A look holds the heads of a store, and the first one a page of its listing, so it takes its share of the memory for transfers.
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::LookForInput, move || async move {
            // A job would wait for its own results for ever.
            source::check(&job.spec, &output_uri).map_err(|why| StepError::lasting(reasons::INVALID_INPUT, why))?;
            let at = ctx.clock.now();
            let missing = missing(&ctx, &job, is_first).await?;
            if missing.is_none() && was_told_to_wait(&job) {
                publish(&ctx, &job, events::input_appeared(&of));
            }
            let jitter = ctx.clock.jitter();
            Ok(memory_edit(move |m| looked(m, InputLook { of, missing, at, first: at, jitter, is_due: false })))
        });
        Ok(())
    }
}

/// Describes the missing input, for a person; None if the input is there.
async fn missing(ctx: &Context, job: &BatchJob, is_first: bool) -> Result<Option<String>, StepError> {
    let (input, namespace) = (&job.spec.input, job.namespace().unwrap_or_default());
    let (folder, name) = match (&input.object_store, &input.wait_for, &input.results, &input.batch_job_ref) {
        (Some(location), Some(WaitFor { uri, .. }), ..) => {
            input_folder(ctx, &namespace, &ObjectStoreLocation { uri: uri.clone(), ..location.clone() }).await?
        }
        (.., Some(results), _) => {
            let folder = results_folder(ctx, &namespace, &results.object_store, "`spec.input.results`").await?;
            (folder, layout::MANIFEST.into())
        }
        (.., Some(reference)) => {
            return Ok(result_source::missing(ctx, &namespace, &job.name_any(), &reference.name).await);
        }
        _ => return Ok(None),
    };
    let is_there = is_there(&folder, &name, is_first).await?;
    Ok((!is_there).then(|| format!("{} is not there yet", folder.uri_of(&name))))
}

/// Records a look. A pass that was made before its object was there may have read half of the input.
fn looked(memory: &mut Memory, look: InputLook) {
    if look.missing.is_none() {
        memory.pass = None;
    }
    memory.input_look = Some(look.after(memory.input_look.take()));
}

fn was_told_to_wait(job: &BatchJob) -> bool {
    let conditions = job.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == conditions::COMPLETE && c.reason == reasons::WAITING_FOR_INPUT)
}

async fn is_there(folder: &Folder, name: &str, is_first: bool) -> Result<bool, StepError> {
    match folder.exists(name).await {
        Ok(false) if is_first => {
            let _page = reserve(PAGE_BYTES).await;
            folder.see_bucket().await?;
            Ok(false)
        }
        Ok(is_there) => Ok(is_there),
        Err(StoreError::Denied(why)) => Err(StoreError::Denied(format!(
            "{why}. A store also answers so while the object is not there, if the credentials may not list the bucket: allow \
             `s3:ListBucket`"
        ))
        .into()),
        Err(error) => Err(error.into()),
    }
}
