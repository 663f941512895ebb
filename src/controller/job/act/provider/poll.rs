//! Looks at batches.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;

use super::call::{A_FEW_CALLS, Call};
use crate::account::{Answer, Due, Sees};
use crate::api::BatchJob;
use crate::controller::job::act::transfer::{Outcome, learned};
use crate::controller::job::permit::refusal;
use crate::lifecycle::{Polled, PolledState, Refusal};
use crate::provider::{Batch, ErrorKind, State};

impl Call {
    /// Looks at a batch: by the account's list if that saves calls, else with a call of its own. The batch was recorded at
    /// `made` (Unix milliseconds) and is due every `period` (milliseconds).
    pub async fn poll(&self, batch_id: String, made: i64, period: i64) -> Outcome {
        let seen = self.session.memory().looks.get(&batch_id).map(|look| look.at);
        let (job, batch, sees) = (self.uid.clone(), batch_id.clone(), self.sees(&batch_id));
        match self.clients.calls.look(&self.clients.api, Due { job, batch, seen, made, period, sees }).await? {
            // `sees` has stored the look already.
            Answer::List => Ok(learned(|_| {})),
            Answer::Itself => self.look_at(batch_id).await,
        }
    }

    /// Returns the function that takes in what a list shows of the batch. A list may lag, so only a running batch of this work
    /// is believed, and only if the batch was neither cancelled nor seen to end before. Otherwise the function returns false,
    /// and the batch is looked at with a call of its own.
    fn sees(&self, batch_id: &str) -> Sees {
        let (ctx, session) = (Arc::downgrade(&self.ctx), Arc::downgrade(&self.session));
        let (whose, fingerprint, id) = (self.whose.clone(), self.clients.fingerprint.clone(), batch_id.to_string());
        let job = ObjectRef::<BatchJob>::new(&whose.owner.name).within(&whose.owner.namespace);
        Arc::new(move |batch, at| {
            let (Some(ctx), Some(session)) = (ctx.upgrade(), session.upgrade()) else { return true };
            let look = Polled { at, seen: seen(batch) };
            if !whose.is_said_by(batch) || !matches!(look.seen, PolledState::Running { .. }) {
                return false;
            }
            let (mut enough, mut is_news) = (false, false);
            session.remember(|m| {
                let before = m.looks.get(&id);
                let runs = before.is_none_or(|look| matches!(look.seen, PolledState::Running { .. }));
                enough = runs && m.fingerprint == fingerprint && !m.cancelled.contains(&id);
                if enough && before.is_none_or(|before| before.at < at) {
                    is_news = before.is_none_or(|before| before.seen != look.seen);
                    m.looks.insert(id.clone(), look.clone());
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
        let was_cancelled = self.session.memory().cancelled.contains(&batch_id);
        let look = async {
            let at = self.ctx.clock.now();
            let seen = match self.api().get(&batch_id).await {
                Ok(batch) if !self.is_ours(&batch).await? => PolledState::NotOurs,
                Ok(batch) => seen(&batch),
                Err(e) if e.kind == ErrorKind::NotFound => PolledState::NotFound,
                Err(e) => return Err(e.into()),
            };
            Ok(Polled { at, seen })
        };
        let look = {
            let _one = self.session.looks.lock().await;
            self.in_turn(A_FEW_CALLS, look).await?
        };
        Ok(self.learned(move |m| {
            // A look that overlaps a cancellation may show the state before it. The batch is looked at again.
            if m.cancelled.contains(&batch_id) == was_cancelled {
                m.looks.insert(batch_id, look);
            }
        }))
    }
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
