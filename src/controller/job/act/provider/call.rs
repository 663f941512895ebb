//! Calls at the provider, and the proof that a batch or a file is this work's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;

use crate::controller::Context;
use crate::controller::job::act::transfer::MemoryEdit;
use crate::controller::job::clients::Clients;
use crate::controller::job::job_state::JobState;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{self, EventRecord};
use crate::controller::runtime::ownership;
use crate::fair::Urgency;
use crate::lifecycle::{Journal, Memory, Owner, Task};
use crate::provider::{ApiError, Batch, BatchApi, ErrorKind};

/// Deadline of a few small calls in a row, each of which has a time-out of its own.
pub(super) const A_FEW_CALLS: Duration = Duration::from_secs(120);

/// The work that a batch or a file has to belong to. The job touches no others.
pub(super) struct ExpectedOwner {
    pub owner: Owner,
    /// The cluster that began the work. Batches and files name it at the provider.
    cluster: String,
    work_id: String,
    /// Prefix of the names of the work's files; None without a journal.
    pub file_prefix: Option<String>,
}

impl ExpectedOwner {
    pub fn of(owner: &Owner, journal: Option<&Journal>) -> ExpectedOwner {
        match journal {
            Some(journal) => ExpectedOwner {
                owner: journal.owner.clone(),
                cluster: journal.named_after().into(),
                work_id: journal.work_id.clone(),
                file_prefix: Some(ownership::file_prefix(journal)),
            },
            None => {
                let cluster = owner.cluster.clone();
                ExpectedOwner { owner: owner.clone(), cluster, work_id: String::new(), file_prefix: None }
            }
        }
    }

    /// Returns true if the batch's own metadata says that it is this work's.
    pub fn is_said_by(&self, batch: &Batch) -> bool {
        ownership::is_said_by(batch, &self.cluster, &self.owner, &self.work_id)
    }
}

/// The context of one call at the provider.
pub(super) struct Call {
    pub ctx: Arc<Context>,
    pub job_state: Arc<JobState>,
    pub clients: Arc<Clients>,
    pub task: Task,
    pub job: ObjectReference,
    pub uid: String,
    pub expected: Arc<ExpectedOwner>,
}

impl Call {
    pub fn api(&self) -> &dyn BatchApi {
        &*self.clients.api
    }

    pub fn publish(&self, news: EventRecord) {
        events::publish_on(&self.ctx, self.job.clone(), news);
    }

    /// Runs `call` when it is its turn at the account, for at most `deadline`.
    pub async fn in_turn<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        self.clients.calls.call(&self.expected.owner.namespace, Urgency::Usual, deadline, call).await
    }

    /// See [`Clients::memory_edit`].
    pub fn memory_edit(&self, learn: impl FnOnce(&mut Memory) + Send + 'static) -> MemoryEdit {
        self.clients.memory_edit(learn)
    }

    pub async fn is_our_file(&self, file_id: &str) -> Result<Option<bool>, StepError> {
        Ok(is_our_file(self.api(), &self.expected, file_id).await?)
    }

    /// Returns true if the provider's own record says that the batch is this work's: its metadata or, at servers that keep no
    /// metadata, the name of its input file.
    pub async fn is_ours(&self, batch: &Batch) -> Result<bool, StepError> {
        if batch.said(ownership::WORK).is_some() {
            return Ok(self.expected.is_said_by(batch));
        }
        match &batch.input_file_id {
            Some(file) => Ok(self.is_our_file(file).await? == Some(true)),
            None => Ok(false),
        }
    }
}

/// Returns whether a file is this work's, by its name at the provider. The journal alone proves nothing, because the tenant can
/// write it. None if there is no such file under this credential.
///
/// # Errors
/// If the provider does not tell.
pub(super) async fn is_our_file(
    api: &dyn BatchApi,
    expected: &ExpectedOwner,
    file_id: &str,
) -> Result<Option<bool>, ApiError> {
    match api.file_name(file_id).await {
        Ok(name) => Ok(Some(expected.file_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix)))),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
