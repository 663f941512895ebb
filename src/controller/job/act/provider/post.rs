//! The POST that creates a batch.

use tracing::warn;

use super::call::Call;
use crate::controller::job::act::transfer::{Outcome, memory_edit};
use crate::controller::job::permit::{PostPermit, SubmitRequest};
use crate::fair::Urgency;
use crate::lifecycle::{Payload, PostResult, Refusal, Rejection, refused_for_its_file};

impl Call {
    /// Sends the POST and uses the permit up. If the job or the operator stops before that, nothing is sent and the attempt
    /// counts as not sent. Once the POST is sent, its reply is awaited, whatever stops.
    ///
    /// # Errors
    /// If the provider does not tell whose the input file is. The permit is then kept for the next try.
    pub async fn post(&self, permit: PostPermit, ask: SubmitRequest) -> Outcome {
        let (job_state, stop) = (self.job_state.clone(), self.ctx.stop.clone());
        let intent_id = permit.intent_id().to_string();
        let prepare = async {
            let place = self.clients.calls.turn(&self.expected.owner.namespace, Urgency::Urgent).await;
            let ours = match &ask.payload {
                Payload::File { id } if !self.uploaded(id) => self.is_our_file(id).await,
                _ => Ok(Some(true)),
            };
            (place, ours)
        };
        let (_place, ours) = tokio::select! {
            ready = prepare => ready,
            () = async { tokio::select! { () = job_state.stop.cancelled() => {}, () = stop.cancelled() => {} } } => {
                let unsent = Rejection::new(Refusal::NotSent, "the operator was stopped before the batch was asked for");
                return Ok(memory_edit(move |m| _ = m.posted.insert(intent_id, PostResult::Refused(unsent))));
            }
        };
        let ours = match ours {
            Ok(ours) => ours,
            Err(error) => {
                self.job_state.hold_permit(permit);
                return Err(error);
            }
        };
        if let Some(refused) = refused_for_its_file(ask.payload.name(), ours) {
            let file = ask.payload.name().to_string();
            let forget = self.memory_edit(move |m| _ = m.deleted.insert(file));
            return Ok(memory_edit(move |m| {
                m.posted.insert(intent_id, PostResult::Refused(refused));
                // A file that counts as deleted is not used again: the next attempt gets a new one.
                forget(m);
            }));
        }
        let posted = permit.post(self.api(), ask, self.ctx.clock.now()).await;
        match &posted {
            PostResult::Created(_) => _ = self.ctx.metrics.batches_created.inc(),
            PostResult::Unknown(why) | PostResult::Declined(Rejection { message: why, .. }) => {
                let task = self.task;
                warn!(?task, why, "nobody can tell whether a batch was created; it is looked for");
            }
            PostResult::Refused(..) => {}
        }
        // The outcome of an intent holds under any credential.
        Ok(memory_edit(move |m| _ = m.posted.insert(intent_id, posted)))
    }

    /// Returns true if this process uploaded the file itself, so that the provider need not be asked whose it is.
    fn uploaded(&self, file_id: &str) -> bool {
        self.job_state.memory().uploads.values().any(|uploaded| uploaded == file_id)
    }
}
