//! Looks at batches.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;

use super::call::{A_FEW_CALLS, Call};
use crate::account::{AnsweredBy, DueLook, OnListed};
use crate::api::BatchJob;
use crate::controller::job::act::transfer::{Outcome, memory_edit};
use crate::controller::job::permit::refusal;
use crate::lifecycle::{PollResult, PolledState, Refusal, ReportedTimes};
use crate::provider::{Batch, ErrorKind, State};

impl Call {
    /// Looks at a batch: by the account's list if that saves calls, else with a call of its own. The batch was recorded at
    /// `made` (Unix milliseconds) and is due every `period` (milliseconds).
    pub async fn poll(&self, batch_id: String, made: i64, period: i64) -> Outcome {
        let mut is_hinted = false;
        let mut seen = None;
        self.job_state.remember(|m| {
            seen = m.looks.get(&batch_id).map(|look| look.at);
            is_hinted = seen.is_some_and(|seen| m.hinted(&batch_id, seen).is_some());
        });
        if is_hinted {
            // The batch has probably ended, and a list is not believed about ends.
            return self.look_at(batch_id).await;
        }
        let (job, batch, on_listed) = (self.uid.clone(), batch_id.clone(), self.on_listed(&batch_id));
        let namespace = self.expected.owner.namespace.clone();
        let due = DueLook { namespace, job, batch, seen, made, period, on_listed };
        match self.clients.calls.look(&self.clients.api, due).await? {
            // `on_listed` has stored the look already.
            AnsweredBy::List => Ok(memory_edit(|_| {})),
            AnsweredBy::Itself => self.look_at(batch_id).await,
        }
    }

    /// Returns the function that takes in what a list shows of the batch. A list may lag, so only a running batch of this work
    /// is believed, and only if the batch was neither cancelled nor seen to end before. Otherwise the function returns false,
    /// and the batch is looked at with a call of its own.
    fn on_listed(&self, batch_id: &str) -> OnListed {
        let (ctx, job_state) = (Arc::downgrade(&self.ctx), Arc::downgrade(&self.job_state));
        let (expected, fingerprint, id) =
            (self.expected.clone(), self.clients.fingerprint.clone(), batch_id.to_string());
        let clock_since = self.job_state.memory().clock_since;
        let job = ObjectRef::<BatchJob>::new(&expected.owner.name).within(&expected.owner.namespace);
        Arc::new(move |batch, at| {
            let (Some(ctx), Some(job_state)) = (ctx.upgrade(), job_state.upgrade()) else { return true };
            let look = PollResult { at, seen: seen(batch) };
            if !expected.is_said_by(batch) || !matches!(look.seen, PolledState::Running { .. }) {
                return false;
            }
            let (mut enough, mut is_news) = (false, false);
            job_state.remember(|m| {
                let before = m.looks.get(&id);
                let runs = before.is_none_or(|look| matches!(look.seen, PolledState::Running { .. }));
                enough =
                    runs && m.fingerprint == fingerprint && m.clock_since == clock_since && !m.cancelled.contains(&id);
                if enough && before.is_none_or(|before| before.at < at) {
                    is_news = before.is_none_or(|before| before.seen != look.seen);
                    m.looked(id.clone(), look.clone(), times(batch));
                }
            });
            if is_news {
                ctx.jobs.poke(job.clone());
            }
            enough
        })
    }

    /// Looks at the batch with a call of its own.
    pub async fn look_at(&self, batch_id: String) -> Outcome {
        let was_cancelled = self.job_state.memory().cancelled.contains(&batch_id);
        let look = async {
            let at = self.ctx.clock.now();
            let (seen, times) = match self.api().get(&batch_id).await {
                Ok(batch) if !self.is_ours(&batch).await? => (PolledState::NotOurs, ReportedTimes::default()),
                Ok(batch) => (seen(&batch), times(&batch)),
                Err(e) if e.kind == ErrorKind::NotFound => (PolledState::NotFound, ReportedTimes::default()),
                Err(e) => return Err(e.into()),
            };
            Ok((PollResult { at, seen }, times))
        };
        let (look, times) = {
            let _one = self.job_state.looks.lock().await;
            self.in_turn(A_FEW_CALLS, look).await?
        };
        Ok(self.memory_edit(move |m| {
            // A look that overlaps a cancellation may show the state before it. The batch is looked at again.
            if m.cancelled.contains(&batch_id) == was_cancelled {
                m.looked(batch_id, look, times);
            }
        }))
    }
}

fn times(batch: &Batch) -> ReportedTimes {
    let Batch { created_at, completed_at, expires_at, is_finalizing, .. } = *batch;
    ReportedTimes { created_at, completed_at, expires_at, is_finalizing }
}

/// Returns the state of a batch by the provider's record of it.
pub(in crate::controller::job::act) fn seen(batch: &Batch) -> PolledState {
    let done = batch.done.unwrap_or(0);
    let State::Ended(state) = batch.state else {
        return PolledState::Running { state: batch.status.clone(), done };
    };
    if let Some(why) = batch.unnamed_answers() {
        return PolledState::Unnamed { state, why };
    }
    let rejected = batch.rejection().map(|e| match e.kind {
        ErrorKind::Transient => (Refusal::Failed, e.message),
        kind => (refusal(kind), e.message),
    });
    PolledState::Ended { state, done, rejected }
}
