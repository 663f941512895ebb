//! Where nothing goes on any more: what is at rest, and whether somebody is told why.

use super::*;

impl Protocol {
    /// Nothing is under way and nobody has anything to do.
    pub(super) fn is_at_rest(&self, w: &World) -> bool {
        let ended = |b: &Batch| self.until == Until::Submitted || !matches!(b.state, BatchState::Running { .. });
        w.late.is_none()
            && w.posts.is_empty()
            && w.batches.iter().all(|b| b.listed && ended(b))
            && w.replicas.iter().all(|r| r.doing == Doing::Nothing && r.stale.is_none() && r.look.is_none())
            && w.replicas.iter().all(|r| r.beside == Beside::default())
            && (0..2).all(|r| match self.intends(w, r) {
                None => true,
                Some(Step::Wait { why, .. }) if !why.holds.is_empty() => self.finds_nothing_more(w, r),
                Some(Step::Wait { until, .. }) => until.is_none_or(|t| t >= NEVER),
                // Where this exploration ends: the job has its batch, or goes on to its end without one.
                Some(Step::Poll(_) | Step::Write) if !self.follows() => true,
                // The file of the next attempt is uploaded anew.
                Some(Step::DeleteFiles { attempt_key: Some(key), .. }) if w.is_to_come(key) => false,
                Some(Step::DeleteFiles { .. }) if !self.follows() => !is_unresolved(w),
                Some(step) => self.is_in_vain(w, &step),
            })
    }

    /// Whether the search that goes on while a person is asked has nothing to find.
    fn finds_nothing_more(&self, w: &World, replica: usize) -> bool {
        let (Some(job), Some(journal)) = (w.object_of(replica), &w.journal) else { return true };
        attempts(journal).filter(|a| matches!(a.state, AttemptState::Intended | AttemptState::Revoking)).all(|a| {
            let ours = |b: &Batch| b.intent == a.intent_id && b.credential == job.fingerprint;
            !w.batches.iter().any(ours)
        })
    }

    /// A step that fails however often it is tried.
    fn is_in_vain(&self, w: &World, step: &Step) -> bool {
        let Some(journal) = &w.journal else { return false };
        match step {
            Step::Upload(attempt_key) => !w.is_staged(&journal.shards[attempt_key.shard]),
            Step::Write => w.folder.manifest.is_none() && joined(w, journal, self.mutant).is_none(),
            Step::FollowUp { round } => follow_up(w, *round, self.mutant).is_none(),
            Step::Collect { attempt_key, .. } => match w.attempt(*attempt_key).map(|a| &a.state) {
                Some(AttemptState::Submitted { batch_id, .. }) => w.deleted_files.contains(&answers_of(batch_id)),
                _ => false,
            },
            _ => false,
        }
    }

    /// Nothing happens any more unless somebody is told why.
    pub(super) fn is_told(&self, w: &World, replica: usize) -> bool {
        match self.intends(w, replica) {
            Some(Step::Wait { why, .. }) => !why.holds.is_empty() || why.blocked.is_some(),
            _ => false,
        }
    }
}

fn is_unresolved(w: &World) -> bool {
    let unresolved = |a: &Attempt| matches!(a.state, AttemptState::Intended | AttemptState::Revoking);
    w.journal.as_deref().is_some_and(|j| attempts(j).any(unresolved))
}
