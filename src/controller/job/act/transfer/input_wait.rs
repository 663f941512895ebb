//! The look whether the object is there that a job waits for before its input is read.

use super::memory_edit;
use crate::api::conditions::reasons;
use crate::api::{BatchJob, ObjectStoreLocation, conditions};
use crate::controller::job::act::Act;
use crate::controller::job::folders::input_folder;
use crate::controller::job::{events, tasks};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::publish;
use crate::lifecycle::{InputLook, Memory, Step, Task};
use crate::store::{Folder, StoreError};

impl Act<'_> {
    pub(in crate::controller::job::act) fn look_for_input(&self) -> Result<(), StepError> {
        let (job, ctx) = (self.snapshot.job.clone(), self.ctx.clone());
        let (Some(location), Some(wait_for)) = (&job.spec.input.object_store, &job.spec.input.wait_for) else {
            return Ok(());
        };
        let (uri, namespace) = (wait_for.uri.clone(), self.snapshot.view.owner.namespace.clone());
        let location = ObjectStoreLocation { uri: uri.clone(), ..location.clone() };
        // A bucket that does not exist is told once; a look at an object cannot tell.
        let is_first = self.job_state.memory().input_look.is_none_or(|look| look.of != uri);
        let task = (Task::LookForInput, Step::LookForInput.name());
        tasks::start_call(self.ctx, self.job_state, &job.clone(), task, async move {
            let at = ctx.clock.now();
            let (folder, name) = input_folder(&ctx, &namespace, &location).await?;
            let is_there = is_there(&folder, &name, is_first).await?;
            if is_there && was_told_to_wait(&job) {
                publish(&ctx, &job, events::input_appeared(&uri));
            }
            let missing = (!is_there).then(|| format!("{uri} is not there yet"));
            let jitter = ctx.clock.jitter();
            Ok(memory_edit(move |m| looked(m, InputLook { of: uri, missing, at, first: at, jitter, is_due: false })))
        });
        Ok(())
    }
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
