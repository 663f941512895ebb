//! Waits: the time of the next look at a waiting job, and whether its stage is worth a write of status.

use super::journal::Journal;
use super::memory::Memory;
use super::step::Waiting;
use super::task::Task;
use crate::api::conditions::reasons;

/// Milliseconds between two looks at a problem that a person may have fixed: Secrets are polled, not watched.
pub const MENDED: i64 = 15_000;
/// Stages that a small job passes in less than a few seconds.
const BRIEF: [&str; 4] = [reasons::PLANNING, reasons::SUBMITTING, reasons::COLLECTING, reasons::WRITING_RESULTS];
/// Milliseconds after which a brief stage is written to status.
const WRITTEN_AFTER: i64 = 5_000;

impl Waiting {
    /// Returns the wait of a job that this process has not seen wait yet, at the stage that its journal shows.
    pub fn at_stage_of(journal: Option<&Journal>) -> Waiting {
        let stage = match journal {
            None => reasons::PENDING,
            Some(journal) if journal.commit.is_some() => reasons::WRITING_RESULTS,
            Some(journal) if journal.has_intents() => reasons::IN_PROGRESS,
            Some(journal) if journal.plan.is_some() => reasons::SUBMITTING,
            Some(_) => reasons::PLANNING,
        };
        Waiting { stage, ..Default::default() }
    }

    /// Returns when to write the wait to status (Unix milliseconds), or None for at once. A brief stage that began at `since`
    /// and has nothing to say is written later, because it may be over within a few seconds.
    pub fn written_at(&self, memory: &Memory, since: i64) -> Option<i64> {
        let has_words = !self.holds.is_empty() || self.blocked.is_some() || self.note.is_some();
        // The state of a new batch is known when its first look ends.
        let is_looked_at =
            self.stage == reasons::IN_PROGRESS && memory.running.iter().any(|task| matches!(task, Task::Call(_)));
        (!has_words && (BRIEF.contains(&self.stage) || is_looked_at)).then_some(since + WRITTEN_AFTER)
    }
}

/// Returns the latest time of the next visit to a job whose next step, or next try, is due at `due` (Unix milliseconds). A
/// failure that a person may fix at any time makes it earlier.
pub fn next_visit(due: Option<i64>, may_be_fixed: bool, now: i64) -> Option<i64> {
    due.into_iter().chain(may_be_fixed.then_some(now + MENDED)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::AttemptKey;

    fn at(stage: &'static str) -> Waiting {
        Waiting { stage, ..Default::default() }
    }

    #[test]
    fn a_stage_of_a_few_seconds_is_told_only_where_it_lasts() {
        let memory = Memory::default();
        assert_eq!(at(reasons::PLANNING).written_at(&memory, 10), Some(10 + WRITTEN_AFTER));
        assert_eq!(at(reasons::SUSPENDED).written_at(&memory, 10), None, "what lasts is told at once");
        let note = Some("the provider has no room".to_string());
        assert_eq!(Waiting { note, ..at(reasons::PLANNING) }.written_at(&memory, 10), None, "words are told at once");
    }

    #[test]
    fn a_batch_whose_first_look_is_under_way_is_not_told_yet() {
        let mut memory = Memory::default();
        assert_eq!(at(reasons::IN_PROGRESS).written_at(&memory, 10), None);
        memory.running.insert(Task::Call(AttemptKey { shard: 0, attempt: 1 }));
        assert_eq!(at(reasons::IN_PROGRESS).written_at(&memory, 10), Some(10 + WRITTEN_AFTER));
    }

    #[test]
    fn what_a_person_may_mend_is_looked_at_before_the_next_try() {
        assert_eq!(next_visit(None, false, 7), None);
        assert_eq!(next_visit(Some(1_000_000), true, 7), Some(7 + MENDED));
        assert_eq!(next_visit(Some(8), true, 7), Some(8));
        assert_eq!(next_visit(Some(8), false, 7), Some(8));
    }
}
