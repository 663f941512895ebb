//! Cancellation of batches.

use super::call::{A_FEW_CALLS, Call};
use crate::controller::job::act::transfer::Outcome;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::EventRecord;
use crate::controller::runtime::ownership;
use crate::provider::ErrorKind;

impl Call {
    /// Cancels a batch that only status names. Without a journal, the batch's metadata is the only proof that it is this
    /// work's: a batch without metadata is left alone.
    pub async fn cancel_unjournaled(&self, batch_id: String, work_id: String) -> Outcome {
        let owner = &self.expected.owner;
        let cancel = async {
            match self.api().get(&batch_id).await {
                Ok(batch) if ownership::is_said_by(&batch, &owner.cluster, owner, &work_id) => {
                    Ok(self.api().cancel(&batch_id).await?)
                }
                Ok(_) => Ok(()),
                Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e.into()),
            }
        };
        self.in_turn(A_FEW_CALLS, cancel).await?;
        Ok(self.memory_edit(move |m| _ = m.cancelled.insert(batch_id)))
    }

    /// Cancels a batch of this work, or publishes an Event that says why it was not cancelled. The provider's record of the
    /// batch is checked, because the journal that names it, or that it was searched by, is the tenant's to write.
    pub async fn cancel(&self, batch_id: String) -> Outcome {
        let news = self.in_turn(A_FEW_CALLS, self.tell_to_stop(&batch_id)).await?;
        if let Some(news) = news {
            self.publish(news);
        }
        Ok(self.memory_edit(move |m| {
            m.looks.remove(&batch_id);
            m.cancelled.insert(batch_id);
        }))
    }

    /// Cancels the batch. Returns the Event to publish if it was not cancelled; None also if the batch does not exist.
    async fn tell_to_stop(&self, batch_id: &str) -> Result<Option<EventRecord>, StepError> {
        let batch = match self.api().get(batch_id).await {
            Ok(batch) => batch,
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if !self.is_ours(&batch).await? {
            let note = format!("batch {batch_id} carries nothing that says that it is this job's; it is left alone");
            return Ok(Some(EventRecord::warning("NotOurs", note)));
        }
        if batch.has_ended() {
            let (state, done) = (&batch.status, batch.done.unwrap_or(0));
            let note =
                format!("batch {batch_id} ended as '{state}' before it could be told to stop, {done} requests done");
            return Ok(Some(EventRecord::warning("NotCancelled", note)));
        }
        match self.api().cancel(batch_id).await {
            Err(error) if error.is_permanent() => {
                let note = format!("batch {batch_id} cannot be told to stop, and runs to its end: {error}");
                Ok(Some(EventRecord::warning("NotCancelled", note)))
            }
            cancelled => Ok(cancelled.map(|()| None)?),
        }
    }
}
