//! Cancellation of batches.

use super::call::{A_FEW_CALLS, Call};
use crate::controller::job::act::transfer::Outcome;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::EventRecord;
use crate::controller::runtime::ownership;
use crate::provider::{ApiError, Batch, BatchApi, ErrorKind};

/// The reason why a batch was not cancelled.
struct NotCancelled {
    /// Whether it may run on, and cost.
    may_run: bool,
    /// The event that says so.
    event: EventRecord,
}

impl NotCancelled {
    fn not_ours(batch_id: &str) -> Self {
        let note = format!("batch {batch_id} carries nothing that says that it is this job's; it is left alone");
        NotCancelled { may_run: true, event: EventRecord::warning("NotOurs", note) }
    }

    fn unsupported(batch_id: &str, error: &ApiError) -> Self {
        let note = format!("batch {batch_id} cannot be told to stop, and runs to its end: {error}");
        NotCancelled { may_run: true, event: EventRecord::warning("NotCancelled", note) }
    }

    fn not_found(batch_id: &str) -> Self {
        let note = format!(
            "batch {batch_id} is not found under the present credential; if that is of another account than the batch was made in, the \
             batch may run on there and cost"
        );
        NotCancelled { may_run: true, event: EventRecord::warning("NotCancelled", note) }
    }

    fn ended(batch_id: &str, batch: &Batch) -> Self {
        let (state, done) = (&batch.status, batch.done.unwrap_or(0));
        let note = format!("batch {batch_id} ended as '{state}' before it could be told to stop, {done} requests done");
        NotCancelled { may_run: false, event: EventRecord::warning("NotCancelled", note) }
    }
}

impl Call {
    /// Cancels a batch that only status names, or publishes an Event that says why it was not cancelled. Without a journal, the
    /// batch's metadata is the only proof that it is this work's: a batch without metadata is left alone.
    pub async fn cancel_unjournaled(&self, batch_id: String, work_id: String) -> Outcome {
        let owner = &self.expected.owner;
        let is_ours = |batch: &Batch| ownership::is_said_by(batch, &owner.cluster, owner, &work_id);
        let stop = async { Ok(stop_unjournaled(self.api(), &batch_id, is_ours).await?) };
        let failed = self.in_turn(A_FEW_CALLS, stop).await?;
        let may_run = failed.as_ref().is_some_and(|failed| failed.may_run);
        if let Some(NotCancelled { event, .. }) = failed {
            self.publish(event);
        }
        Ok(self.memory_edit(move |m| {
            if may_run {
                m.not_stopped.insert(batch_id.clone());
            }
            m.cancelled.insert(batch_id);
        }))
    }

    /// Cancels a batch of this work, or publishes an Event that says why it was not cancelled. The provider's record of the
    /// batch is checked, because the journal that names it, or that it was searched by, is the tenant's to write.
    pub async fn cancel(&self, batch_id: String) -> Outcome {
        let failed = self.in_turn(A_FEW_CALLS, self.tell_to_stop(&batch_id)).await?;
        if let Some(NotCancelled { event, .. }) = failed {
            self.publish(event);
        }
        Ok(self.memory_edit(move |m| {
            m.looks.remove(&batch_id);
            m.cancelled.insert(batch_id);
        }))
    }

    /// Cancels the batch if it is this work's. None also if the batch does not exist.
    async fn tell_to_stop(&self, batch_id: &str) -> Result<Option<NotCancelled>, StepError> {
        let batch = match self.api().get(batch_id).await {
            Ok(batch) => batch,
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        match self.is_ours(&batch).await? {
            true => Ok(stop(self.api(), batch_id, &batch).await?),
            false => Ok(Some(NotCancelled::not_ours(batch_id))),
        }
    }
}

/// Cancels a batch that is this work's. A provider that will never cancel it lets it run to its end.
async fn stop(api: &dyn BatchApi, batch_id: &str, batch: &Batch) -> Result<Option<NotCancelled>, ApiError> {
    if batch.has_ended() {
        return Ok(Some(NotCancelled::ended(batch_id, batch)));
    }
    match api.cancel(batch_id).await {
        Err(error) if error.is_permanent() => Ok(Some(NotCancelled::unsupported(batch_id, &error))),
        cancelled => cancelled.map(|()| None),
    }
}

/// Cancels a batch without a journal. A provider that does not find it, or will never show it, ends the tries as well, because nothing
/// but the answer to this waits for the batch. A credential that was replaced may be of another account, so a batch that is not found
/// may run.
async fn stop_unjournaled(
    api: &dyn BatchApi,
    batch_id: &str,
    is_ours: impl Fn(&Batch) -> bool,
) -> Result<Option<NotCancelled>, ApiError> {
    match api.get(batch_id).await {
        Ok(batch) if is_ours(&batch) => stop(api, batch_id, &batch).await,
        Ok(_) => Ok(Some(NotCancelled::not_ours(batch_id))),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(Some(NotCancelled::not_found(batch_id))),
        Err(error) if error.is_permanent() => Ok(Some(NotCancelled::unsupported(batch_id, &error))),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::api::BatchEnd;
    use crate::provider::State;
    use crate::provider::fake::Provider;

    /// The provider's cancellation answers with 405 or 501.
    #[tokio::test]
    async fn a_batch_without_a_journal_that_cannot_be_cancelled_is_told_of_and_not_tried_for_ever() {
        let provider = Provider::default();
        let batch = |id: &str, state| Batch { id: id.into(), state, ..Batch::default() };
        let ended = State::Ended(BatchEnd::Completed);
        provider.batches.lock().unwrap().extend([
            batch("ours", State::Running),
            batch("another", State::Running),
            batch("done", ended),
        ]);
        for (id, expected) in [
            ("ours", Some((true, "NotCancelled"))),
            ("another", Some((true, "NotOurs"))),
            ("done", Some((false, "NotCancelled"))),
            ("of-another-account", Some((true, "NotCancelled"))),
        ] {
            let failed = stop_unjournaled(&provider, id, |batch| batch.id != "another").await.unwrap();
            assert_eq!(failed.map(|failed| (failed.may_run, failed.event.reason)), expected, "{id}");
        }
    }
}
