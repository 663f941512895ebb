//! What can be asked of a state, and how it moves.

use super::*;

pub(super) fn attempt(journal: &Journal) -> Option<&Attempt> {
    journal.shards.first()?.attempt.as_ref()
}

pub(super) fn work_of(file: &str) -> &str {
    &file[..1]
}

impl World {
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.journal.as_deref().and_then(attempt)
    }

    /// The journal's attempt, and those that may yet become it.
    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let writes = self.replicas.iter().filter_map(|r| match &r.doing {
            Doing::Writing(write) => Some(write),
            _ => None,
        });
        writes.chain(&self.late).map(|w| &w.next).chain(&self.journal).filter_map(|j| attempt(j))
    }

    pub(super) fn is_submitted(&self) -> bool {
        self.attempt().is_some_and(|a| matches!(a.state, AttemptState::Submitted { .. }))
    }

    pub(super) fn is_in_use(&self, id: &str) -> bool {
        self.attempts().any(|a| a.intent_id == id || a.file_id == id)
            || self.posts.iter().any(|p| p.intent == id || p.file == id)
            || self.batches.iter().any(|b| b.intent == id || b.file == id)
            || self.replicas.iter().any(|r| matches!(&r.doing, Doing::Unsure(i) | Doing::Waiting(i) if i == id))
    }

    pub(super) fn fresh(&self, prefix: &str) -> String {
        (1..).map(|n| format!("{prefix}{n}")).find(|id| !self.is_in_use(id)).unwrap()
    }

    pub(super) fn learn(&mut self, replica: usize, learn: impl FnOnce(&mut Memory)) {
        let mut memory = Memory::clone(&self.replicas[replica].memory);
        learn(&mut memory);
        self.replicas[replica].memory = Shared::new(memory);
    }

    pub(super) fn replace(&mut self, object: Option<JobView>, stale: u8) {
        let old = std::mem::replace(&mut self.object, object.map(Shared::new));
        for (i, replica) in self.replicas.iter_mut().enumerate() {
            if stale & 1 << i != 0 {
                replica.stale = old.clone().map(|object| (object, self.now));
            }
        }
    }

    pub(super) fn edit_object(&mut self, stale: u8, edit: impl FnOnce(&mut JobView)) -> Option<()> {
        let mut object = JobView::clone(self.object.as_ref()?);
        edit(&mut object);
        self.replace(Some(object), stale);
        Some(())
    }

    pub(super) fn decide(&self, memory: &Memory, timing: &Timing, job: &JobView, now: i64) -> Step {
        decide(&Observed { now, nonce: "?", timing, job, journal: self.journal.as_deref(), memory })
    }

    /// Random names are given when they get out, and are the first that nothing mentions: states that differ in names
    /// only are one.
    pub(super) fn named(&self, mut write: Write) -> Write {
        if let Some(intent) = &mut write.intent {
            *intent = self.fresh("i");
            let mut next = Journal::clone(&write.next);
            let attempt = next.shards[0].attempt.as_mut().unwrap();
            attempt.intent_id = intent.clone();
            if attempt.file_id == work_of(&attempt.file_id) {
                attempt.file_id = self.fresh(&attempt.file_id);
            }
            write.next = Shared::new(next);
        }
        write
    }

    pub(super) fn apply(&mut self, write: &Write, mutant: Option<Mutant>) -> bool {
        let unjudged = mutant == Some(Mutant::WritesUnjudged) && self.journal.is_some() && write.judged.is_some();
        let applied = unjudged || self.journal == write.judged;
        if applied {
            let taken = self.journal.as_ref().is_some_and(|j| j.owner != write.next.owner);
            self.history.adopted |= taken && attempt(&write.next).is_some();
            self.journal = Some(write.next.clone());
        }
        applied
    }

    /// Whether a memory holds what is found out again for nothing, or what no decision can look at any more.
    pub(super) fn has_chaff(&self, memory: &Memory) -> bool {
        let dead_intent = |id: &String| self.attempts().all(|a| a.intent_id != *id);
        let dead_file = |id: &String| self.attempts().all(|a| a.file_id != *id);
        let found_again = memory.manifest.is_some()
            || memory.pass.is_some()
            || memory.resolvable.is_some()
            || memory.store_proved == Some(Ok(()))
            || !memory.files.is_empty()
            || !memory.uploads.is_empty();
        found_again
            || memory.posted.keys().chain(memory.searches.keys()).chain(&memory.permit).any(dead_intent)
            || memory.revoked.keys().any(dead_file)
    }

    pub(super) fn without_chaff(&self, memory: &Memory, keep_uploads: bool) -> Memory {
        let mut memory = memory.clone();
        let is_live = |id: &String| self.attempts().any(|a| a.intent_id == *id || a.file_id == *id);
        memory.posted.retain(|intent, _| is_live(intent));
        memory.searches.retain(|intent, _| is_live(intent));
        memory.permit = memory.permit.take().filter(is_live);
        memory.revoked.retain(|file, _| is_live(file));
        memory.store_proved = memory.store_proved.take().filter(Result::is_err);
        memory.files.clear();
        (memory.manifest, memory.pass, memory.resolvable) = (None, None, None);
        let number = self.attempt().map_or(0, |a| a.number);
        memory.uploads.retain(|(slot, _), _| keep_uploads && slot.attempt > number);
        memory
    }

    /// Forgets chaff and gives symmetric states one shape: states that no property can tell apart are one.
    pub(super) fn normalised(mut self, keep_uploads: bool) -> Self {
        self.late = self.late.take().filter(|write| write.judged == self.journal);
        for i in 0..2 {
            let replica = &self.replicas[i];
            if self.has_chaff(&replica.memory) {
                self.replicas[i].memory = Shared::new(self.without_chaff(&replica.memory, keep_uploads));
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
            hasher.finish()
        });
        self
    }
}
