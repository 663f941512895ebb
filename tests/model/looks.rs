//! The look that a replica decides on, which may be older than the world; and what acting on an old one does harm to.

use super::*;

/// What a replica read last, where the world may have changed since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LastLook {
    /// None: the object as it is now.
    pub job: Option<Shared<JobView>>,
    /// None: the journal as it is now.
    pub journal: Option<Option<Shared<Journal>>>,
    /// When it was made.
    pub at: i64,
}

/// Steps that a mutant decides on whatever look is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Those for which a look of the last second is good enough.
    Recent,
    Intent,
    Post,
    Revoke,
    Cancel,
    /// The deletion of a file that has to be gone.
    DeleteFile,
    Fail,
    LetGo,
}

impl Unread {
    fn is(self, step: &Step) -> bool {
        match self {
            Unread::Recent => step.freshness() == Freshness::Recent,
            Unread::Intent => matches!(step, Step::WriteIntent { .. }),
            Unread::Post => matches!(step, Step::Post(_)),
            Unread::Revoke => matches!(step, Step::Revoke(_)),
            Unread::Cancel => matches!(step, Step::Cancel { .. }),
            Unread::DeleteFile => matches!(step, Step::DeleteFiles { must: true, .. }),
            Unread::Fail => matches!(step, Step::Fail(_)),
            Unread::LetGo => matches!(step, Step::RemoveFinalizer { .. }),
        }
    }
}

impl Protocol {
    /// How fresh the look has to be that the step is decided on.
    fn freshness(&self, step: &Step) -> Freshness {
        match self.mutant {
            Some(Mutant::Unread(kind) | Mutant::UnreadAndUnjudged(kind)) if kind.is(step) => Freshness::Any,
            _ => step.freshness(),
        }
    }

    pub(super) fn look_actions(&self, w: &World, i: usize, out: &mut Vec<Action>) {
        let replica = &w.replicas[i];
        let may_keep = w.left.old_looks > 0 && replica.doing == Doing::Nothing && replica.stale.is_none();
        match &replica.look {
            None if may_keep && w.object_of(i).is_some() => out.push(Action::KeepLook(i)),
            None => {}
            Some(look) => {
                out.extend(look.job.is_some().then_some(Action::Renew { replica: i, object: true }));
                out.extend(look.journal.is_some().then_some(Action::Renew { replica: i, object: false }));
            }
        }
    }

    /// Whether the look of the replica has to be renewed for this step; renews it.
    pub(super) fn renews(&self, w: &mut World, replica: usize, step: &Step) -> bool {
        let Some(look) = &w.replicas[replica].look else { return false };
        let is_fresh = match self.freshness(step) {
            Freshness::Any => true,
            // Less than anything takes that the clock moves for.
            Freshness::Recent => look.at == w.now,
            Freshness::Now => false,
        };
        if !is_fresh {
            w.replicas[replica].look = None;
        }
        !is_fresh
    }
}

impl World {
    pub(super) fn keep_look(&mut self, replica: usize) -> Option<()> {
        self.left.old_looks -= 1;
        let job = self.object_of(replica)?.clone();
        self.replicas[replica].look =
            Some(LastLook { job: Some(job), journal: Some(self.journal.clone()), at: self.now });
        Some(())
    }

    /// The replica sees the object, or the journal, as it is now.
    pub(super) fn renew(&mut self, replica: usize, object: bool) {
        let look = &mut self.replicas[replica].look;
        if let Some(look) = look {
            match object {
                true => look.job = None,
                false => look.journal = None,
            }
        }
        *look = look.take().filter(|look| look.job.is_some() || look.journal.is_some());
    }

    /// Remembers what a step is about to do to the world as it is, `journal` included, whatever it was decided on.
    pub(super) fn note_harm(&mut self, journal: Option<&Journal>, job: &JobView, step: &Step) {
        match step {
            Step::Cancel { twin: false, .. } => {
                self.history.stopped_wanted |= journal.is_some_and(|j| self.is_wanted(j, job));
            }
            Step::Revoke(attempt_key) => {
                let file = self.attempt(*attempt_key).map(|a| a.payload.name().to_string());
                self.history.deleted_in_use |= self.is_read(journal, job, file.as_slice());
            }
            Step::DeleteFiles { files, .. } => self.history.deleted_in_use |= self.is_read(journal, job, files),
            _ => {}
        }
    }

    /// Whether the batches of the journal are wanted, and the `job` that was judged is not there any more to want otherwise.
    fn is_wanted(&self, journal: &Journal, job: &JobView) -> bool {
        let goes = |o: &JobView| {
            let is_late = o.deadline.is_some_and(|deadline| self.now >= deadline);
            is_late || o.deleting_since.is_some() || o.stop == Some(StopPolicy::Cancel)
        };
        let wants = |o: &JobView| {
            let its = o.owner.is_namesake(&journal.owner) && o.spec_hash == journal.spec_hash;
            its && o.lock.is_some() && !o.finished && !goes(o)
        };
        let objects = || self.objects.iter().flatten();
        !objects().any(|o| o.owner == job.owner && goes(o)) && objects().any(|o| wants(o))
    }

    /// Whether a batch that the journal follows and that still runs is made of one of these files, which the job can delete.
    fn is_read(&self, journal: Option<&Journal>, job: &JobView, files: &[String]) -> bool {
        let follows = |a: &Attempt| match &a.state {
            AttemptState::Submitted { batch_id, .. } => {
                self.batches.iter().any(|b| b.id == *batch_id && matches!(b.state, BatchState::Running { .. }))
            }
            _ => false,
        };
        let deletes = |file: &str| files.iter().any(|f| f == file) && credential_of(file) == job.fingerprint;
        journal.is_some_and(|j| attempts(j).any(|a| deletes(a.payload.name()) && follows(a)))
    }

    /// Whether the object that goes leaves something running that nobody else looks after.
    pub(super) fn is_left_running(&self, object: &JobView) -> bool {
        let Some(journal) = self.journal.as_ref().filter(|j| j.owner == object.owner && j.commit.is_none()) else {
            return false;
        };
        let runs = |intent: &str| {
            let state = BatchState::Running { told_to_stop: false };
            self.batches.iter().any(|b| b.intent == intent && b.state == state)
                || self.posts.iter().any(|p| p.intent == intent)
        };
        let left = |a: &Attempt| match a.state {
            AttemptState::Intended | AttemptState::Revoking | AttemptState::Submitted { .. } => runs(&a.intent_id),
            _ => false,
        };
        let others = self.objects.iter().flatten().filter(|o| o.owner == object.owner).count() > 1;
        object.deletion_policy == DeletionPolicy::Cancel && !others && attempts(journal).any(left)
    }
}
