//! States that no property can tell apart become one.

use super::*;

impl World {
    /// Forgets what is found out again for nothing, or what no decision can look at any more, and gives symmetric states
    /// one shape.
    pub(super) fn normalised(mut self, model: &Protocol) -> Self {
        self.late = self.late.take().filter(|write| write.judged == self.journal);
        for i in 0..2 {
            let memory = &self.replicas[i].memory;
            let kept = self.without_chaff(memory, model);
            if kept != **memory {
                self.replicas[i].memory = Shared::new(kept);
            }
            let replica = &mut self.replicas[i];
            if replica.doing == Doing::Nothing && *replica.memory == Memory::default() {
                replica.of.clear();
            }
        }
        if !self.deleted_files.is_empty() {
            let deleted = std::mem::take(&mut self.deleted_files);
            self.deleted_files = deleted.into_iter().filter(|file| self.is_in_use(file)).collect();
        }
        self.posts.sort();
        self.replicas.sort_by_cached_key(|replica| {
            let mut hasher = DefaultHasher::new();
            replica.hash(&mut hasher);
            (replica.sees, hasher.finish())
        });
        self
    }

    fn without_chaff(&self, memory: &Memory, model: &Protocol) -> Memory {
        let mut memory = memory.clone();
        let is_live = |id: &String| self.attempts().any(|a| a.intent_id == *id || a.payload.name() == id);
        memory.posted.retain(|intent, _| is_live(intent));
        memory.searches.retain(|intent, _| is_live(intent));
        memory.permit = memory.permit.take().filter(is_live);
        memory.revoked.retain(|file, _| is_live(file));
        memory.store_proved = memory.store_proved.take().filter(Result::is_err);
        let work = self.journal.as_ref().map(|j| &j.work_id);
        memory.tidied = memory.tidied.take().filter(|tidied| Some(&tidied.work_id) == work);
        (memory.pass, memory.resolvable, memory.marked, memory.halved) = (None, None, None, None);
        // The patience with files that are short begins with the look that saw their batch ended.
        let may_be_short = model.budget.short_readings + model.budget.garbles > 0;
        memory.looks.retain(|id, look| {
            may_be_short && self.is_recorded(id) && matches!(look.seen, PolledState::Ended { rejected: None, .. })
        });
        match model.budget.rotations {
            0 => memory.files.clear(),
            _ => memory.files.retain(|file, _| is_live(file)),
        }
        if model.until == Until::Submitted {
            memory.manifest = None;
        }
        memory.uploads.retain(|(attempt_key, _), _| model.keeps_uploads() && self.is_to_come(*attempt_key));
        let Memory { uploads, contents, .. } = &mut memory;
        contents.retain(|file, _| uploads.values().any(|uploaded| uploaded == file));
        memory.later = memory.later.take().filter(|later| self.journal.as_ref().is_some_and(|j| later.past >= j.rev));
        memory.cancelled.retain(|id| self.may_be_stopped_again(id));
        memory.collected.retain(|id, _| self.is_recorded(id));
        let next = self.journal.as_ref().map_or(0, |j| j.round() + 1);
        memory.follow_up = memory.follow_up.take().filter(|(round, _)| *round == next);
        if self.journal.as_ref().is_none_or(|j| j.commit.is_some()) {
            memory.deleted.clear();
        }
        let owner = self.journal.as_ref().map(|j| &j.owner);
        let is_of_a_journal = |rev: u64| self.journals().any(|j| j.rev == rev);
        memory.reserved = memory.reserved.take().filter(|reserved| is_of_a_journal(reserved.rev));
        memory.released = memory.released.take().filter(|rev| is_of_a_journal(*rev));
        memory.accounted.retain(is_live);
        memory.owner_alive = memory.owner_alive.take().filter(|(of, _)| Some(of) == owner);
        let (credential, since) = (std::mem::take(&mut memory.fingerprint), std::mem::take(&mut memory.clock_since));
        if memory != Memory::default() {
            (memory.fingerprint, memory.clock_since) = (credential, since);
        }
        memory
    }

    pub(super) fn is_to_come(&self, attempt_key: AttemptKey) -> bool {
        attempt_key.attempt > self.attempt(attempt_key).map_or(0, |a| a.number)
    }

    /// What was told to stop is told again by a replica that forgot it, until it ended.
    fn may_be_stopped_again(&self, id: &String) -> bool {
        self.batches.iter().any(|b| b.id == *id && (b.doubled || matches!(b.state, BatchState::Running { .. })))
    }

    fn is_recorded(&self, id: &String) -> bool {
        self.attempts().any(|a| matches!(&a.state, AttemptState::Submitted { batch_id, .. } if batch_id == id))
    }
}

impl Protocol {
    /// Where a plan is made anew, an upload for the earlier one may be at hand.
    fn keeps_uploads(&self) -> bool {
        self.budget.edits > 0 || self.budget.new_sources > 0
    }
}
