//! The job's part in the ledger of its provider's budgets.

use kube::runtime::reflector::ObjectRef;

use super::call::Call;
use crate::api::BatchJob;
use crate::controller::job::act::transfer::{Outcome, memory_edit};
use crate::lifecycle::{AttemptKey, ReserveResult};
use crate::money::{Reservation, Usd, day_of, shard_key};

/// The journal that a change of the ledger was judged on.
pub(super) struct Judged {
    pub work_id: String,
    pub rev: u64,
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
        let key = shard_key(&judged.work_id, attempt_key.shard);
        let answer = ledger.reserve(ctx, job, (key, wanted), &account.budgets).await?;
        let asked = (attempt_key, judged.rev, amount);
        let Some(known) = ReserveResult::of(asked, answer, &account.name, now, state) else {
            // Another process wrote the journal since.
            self.job_state.journal_is_old();
            return Ok(memory_edit(|_| {}));
        };
        Ok(memory_edit(move |m| m.reserved = Some(known)))
    }

    pub(super) async fn settle_cost(
        self,
        judged: Judged,
        (attempt_key, intent_id): (AttemptKey, String),
        cost: Option<Usd>,
    ) -> Outcome {
        let key = shard_key(&judged.work_id, attempt_key.shard);
        self.clients.account.ledger(&self.ctx).settle(&self.ctx, key, judged.rev, cost).await?;
        Ok(memory_edit(move |m| _ = m.accounted.insert(intent_id)))
    }

    pub(super) async fn release(self, judged: Judged) -> Outcome {
        let rev = judged.rev;
        self.clients.account.ledger(&self.ctx).release(&self.ctx, judged.work_id, rev).await?;
        Ok(memory_edit(move |m| m.released = Some(rev)))
    }
}
