//! The job's part in the ledger of its provider's budgets.

use kube::runtime::reflector::ObjectRef;
use tracing::warn;

use super::call::Call;
use crate::api::BatchJob;
use crate::controller::job::act::transfer::{Outcome, memory_edit};
use crate::lifecycle::{AttemptKey, LaterRevision, ReserveRequest, ReserveResult};
use crate::money::{Billed, Reservation, Terms, Unbilled, day_of, shard_key};

/// The journal that a change of the ledger was judged on.
pub(super) struct Judged {
    pub work_id: String,
    pub rev: u64,
}

impl Judged {
    /// Returns the name of the work in the ledger. It begins with the namespace: the id is from the journal, which its user may write,
    /// and nobody reaches reservations of another namespace by it.
    fn work(&self, namespace: &str) -> String {
        format!("{namespace}/{}", self.work_id)
    }
}

impl Call {
    pub(super) async fn reserve(
        self,
        judged: Judged,
        request: ReserveRequest,
        terms: Box<Terms>,
        replaces: Option<u64>,
    ) -> Outcome {
        let (ctx, account, owner) = (&self.ctx, &self.clients.account, &self.expected.owner);
        let ledger = account.ledger(ctx);
        let (now, state) = (ctx.clock.now(), ledger.state());
        let wanted = Reservation {
            namespace: owner.namespace.clone(),
            job_uid: self.uid.clone(),
            amount: request.amount,
            day: day_of(now),
            rev: judged.rev,
            terms: Some(terms),
        };
        let job = ObjectRef::<BatchJob>::new(self.job.name.as_deref().unwrap_or_default())
            .within(self.job.namespace.as_deref().unwrap_or_default());
        let key = shard_key(&judged.work(&owner.namespace), request.attempt_key.shard);
        let answer = ledger.reserve(ctx, job, (key, wanted, replaces), &account.budgets).await?;
        let known = ReserveResult::of(request, answer, &account.name, now, state);
        if known.is_err() {
            // Another process wrote the journal since, or an earlier journal was put back.
            self.job_state.journal_is_old();
        }
        Ok(memory_edit(move |m| match known {
            Ok(known) => m.reserved = Some(known),
            Err(later) => m.later = Some(later),
        }))
    }

    pub(super) async fn settle_cost(
        self,
        judged: Judged,
        (attempt_key, intent_id): (AttemptKey, String),
        billed: Option<Box<Billed>>,
    ) -> Outcome {
        let key = shard_key(&judged.work(&self.expected.owner.namespace), attempt_key.shard);
        self.clients.account.ledger(&self.ctx).settle(&self.ctx, key, judged.rev, billed).await?;
        Ok(memory_edit(move |m| _ = m.accounted.insert(intent_id)))
    }

    pub(super) async fn release(self, judged: Judged, unbilled: Unbilled) -> Outcome {
        let (rev, work) = (judged.rev, judged.work(&self.expected.owner.namespace));
        self.clients.account.ledger(&self.ctx).release(&self.ctx, (work, rev), unbilled).await?;
        Ok(memory_edit(move |m| m.released = Some(rev)))
    }

    pub(super) async fn settle_later(self, judged: Judged) -> Outcome {
        let (rev, work) = (judged.rev, judged.work(&self.expected.owner.namespace));
        warn!(
            job = self.job.name,
            rev, "an earlier journal was put back; batches that it does not know count as spent"
        );
        self.clients.account.ledger(&self.ctx).settle_later(&self.ctx, work, rev).await?;
        Ok(memory_edit(move |m| {
            m.later = m.later.map(|later| LaterRevision { counted_after: Some(rev), ..later });
        }))
    }
}
