//! The job's part in the ledger of its provider's budgets.

use kube::runtime::reflector::ObjectRef;

use super::call::Call;
use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::job::act::transfer::{Outcome, memory_edit};
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{AttemptKey, ReserveResult};
use crate::money::{Reservation, Usd, day_of, shard_key};

/// The journal that a change of the ledger was judged on.
pub(super) struct Judged {
    pub work_id: String,
    pub rev: u64,
}

impl Judged {
    /// Returns the name of the work in the ledger. It begins with the namespace: the id is from the journal, which its user may write, and
    /// nobody reaches reservations of another namespace by it.
    fn work(&self, namespace: &str) -> String {
        format!("{namespace}/{}", self.work_id)
    }
}

impl Call {
    pub(super) async fn reserve(self, judged: Judged, attempt_key: AttemptKey, amount: Usd) -> Outcome {
        let (ctx, account, owner) = (&self.ctx, &self.clients.account, &self.expected.owner);
        let ledger = account.ledger(ctx);
        let (now, state) = (ctx.clock.now(), ledger.state());
        let wanted = Reservation {
            namespace: owner.namespace.clone(),
            job_uid: self.uid.clone(),
            amount,
            day: day_of(now),
            rev: judged.rev,
        };
        let job = ObjectRef::<BatchJob>::new(self.job.name.as_deref().unwrap_or_default())
            .within(self.job.namespace.as_deref().unwrap_or_default());
        let key = shard_key(&judged.work(&owner.namespace), attempt_key.shard);
        let answer = ledger.reserve(ctx, job, (key, wanted), &account.budgets).await?;
        let asked = (attempt_key, judged.rev, amount);
        let Some(known) = ReserveResult::of(asked, answer, &account.name, now, state) else {
            // Another process wrote the journal since, or an earlier journal was put back, which does not change by being read again.
            self.job_state.journal_is_old();
            let message = "the ledger of the provider's budgets knows a later state of this job's journal, which is read again; if an \
                           earlier journal was put back, put the later one back";
            return Err(StepError::passing(reasons::BUDGET_LEDGER_UNAVAILABLE, message));
        };
        Ok(memory_edit(move |m| m.reserved = Some(known)))
    }

    pub(super) async fn settle_cost(
        self,
        judged: Judged,
        (attempt_key, intent_id): (AttemptKey, String),
        cost: Option<Usd>,
    ) -> Outcome {
        let key = shard_key(&judged.work(&self.expected.owner.namespace), attempt_key.shard);
        self.clients.account.ledger(&self.ctx).settle(&self.ctx, key, judged.rev, cost).await?;
        Ok(memory_edit(move |m| _ = m.accounted.insert(intent_id)))
    }

    pub(super) async fn release(self, judged: Judged) -> Outcome {
        let (rev, work) = (judged.rev, judged.work(&self.expected.owner.namespace));
        self.clients.account.ledger(&self.ctx).release(&self.ctx, work, rev).await?;
        Ok(memory_edit(move |m| m.released = Some(rev)))
    }
}
