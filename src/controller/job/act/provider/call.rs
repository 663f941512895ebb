//! Calls at the provider, and the proof that a batch or a file is this work's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;

use crate::controller::Context;
use crate::controller::job::act::transfer::{Learned, learned};
use crate::controller::job::clients::Clients;
use crate::controller::job::session::Session;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{self, EventRecord};
use crate::controller::runtime::ownership;
use crate::fair::Urgency;
use crate::lifecycle::{Journal, Memory, Owner, Task};
use crate::provider::{ApiError, Batch, BatchApi, ErrorKind};

/// Deadline of a few small calls in a row, each of which has a time-out of its own.
pub(super) const A_FEW_CALLS: Duration = Duration::from_secs(120);

/// The work that a batch or a file has to belong to. The job touches no others.
pub(super) struct Whose {
    pub owner: Owner,
    /// The cluster that began the work. Batches and files name it at the provider.
    cluster: String,
    work_id: String,
    /// Prefix of the names of the work's files; None without a journal.
    pub file_prefix: Option<String>,
}

impl Whose {
    pub fn of(owner: &Owner, journal: Option<&Journal>) -> Whose {
        match journal {
            Some(journal) => Whose {
                owner: journal.owner.clone(),
                cluster: journal.named_after().into(),
                work_id: journal.work_id.clone(),
                file_prefix: Some(ownership::file_prefix(journal)),
            },
            None => {
                let cluster = owner.cluster.clone();
                Whose { owner: owner.clone(), cluster, work_id: String::new(), file_prefix: None }
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
    pub session: Arc<Session>,
    pub clients: Arc<Clients>,
    pub task: Task,
    pub job: ObjectReference,
    pub uid: String,
    pub whose: Arc<Whose>,
}

impl Call {
    pub fn api(&self) -> &dyn BatchApi {
        &*self.clients.api
    }

    pub fn tell(&self, news: EventRecord) {
        events::publish_on(&self.ctx, self.job.clone(), news);
    }

    /// Runs `call` when it is its turn at the account, for at most `deadline`.
    pub async fn in_turn<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        self.clients.calls.call(&self.whose.owner.namespace, Urgency::Usual, deadline, call).await
    }

    /// Returns an edit of memory that is skipped if the job's credential changed since the call began: the finding may be that
    /// of another account.
    pub fn learned(&self, learn: impl FnOnce(&mut Memory) + Send + 'static) -> Learned {
        let fingerprint = self.clients.fingerprint.clone();
        learned(move |m| {
            if m.fingerprint == fingerprint {
                learn(m);
            }
        })
    }

    pub async fn is_our_file(&self, file_id: &str) -> Result<Option<bool>, StepError> {
        Ok(is_our_file(self.api(), &self.whose, file_id).await?)
    }

    /// Returns true if the provider's own record says that the batch is this work's: its metadata or, at servers that keep no
    /// metadata, the name of its input file.
    pub async fn is_ours(&self, batch: &Batch) -> Result<bool, StepError> {
        if batch.said(ownership::WORK).is_some() {
            return Ok(self.whose.is_said_by(batch));
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
pub(super) async fn is_our_file(api: &dyn BatchApi, whose: &Whose, file_id: &str) -> Result<Option<bool>, ApiError> {
    match api.file_name(file_id).await {
        Ok(name) => Ok(Some(whose.file_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix)))),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
