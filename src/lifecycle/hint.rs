//! Hints from outside that a batch may have changed: it is looked at before its poll is due. Only the look is believed,
//! never the hint.

use super::findings::PollResult;
use super::memory::Memory;

/// Milliseconds after a hint at which its batch is looked at: at once, and again while it still runs. The event may be
/// ahead of the provider's own records.
const LOOKS: [i64; 3] = [0, 1_000, 5_000];
/// Milliseconds for which the hints for one batch count as one.
const TOGETHER: i64 = 1_000;

impl Memory {
    /// Takes in a hint for a batch that is followed, given at `now` (Unix milliseconds).
    pub fn hint(&mut self, batch_id: &str, now: i64) {
        if self.hints.get(batch_id).is_none_or(|last| now >= last + TOGETHER || now < *last) {
            self.hints.insert(batch_id.into(), now);
        }
    }

    /// Returns the time of the next look that a hint asks for, if the last look at the batch was made at `seen`; all in
    /// Unix milliseconds. None if there is no hint, or if all of its looks were made.
    pub fn hinted(&self, batch_id: &str, seen: i64) -> Option<i64> {
        let hinted = self.hints.get(batch_id)?;
        LOOKS.iter().map(|after| hinted + after).find(|due| seen < *due)
    }

    /// Returns the time at which the next look at a batch is due, by its period (milliseconds) or by a hint.
    pub(super) fn next_look(&self, batch_id: &str, look: &PollResult, period: i64) -> i64 {
        let due = look.at + period;
        self.hinted(batch_id, look.at).map_or(due, |hinted| due.min(hinted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_asks_for_three_looks_and_no_more() {
        let mut memory = Memory::default();
        assert_eq!(memory.hinted("b", 10), None);
        memory.hint("b", 100_000);
        assert_eq!(memory.hinted("other", 10), None);
        for (seen, due) in [(10, 100_000), (99_999, 100_000), (100_000, 101_000), (101_500, 105_000)] {
            assert_eq!(memory.hinted("b", seen), Some(due), "seen at {seen}");
        }
        assert_eq!(memory.hinted("b", 105_000), None);
    }

    #[test]
    fn hints_without_end_are_a_look_a_second() {
        let (mut memory, mut seen, mut looks) = (Memory::default(), 0, 0);
        for now in (1_000_000..1_060_000).step_by(10) {
            memory.hint("b", now);
            if memory.hinted("b", seen).is_some_and(|due| due <= now) {
                (seen, looks) = (now, looks + 1);
            }
        }
        assert!((55..=61).contains(&looks), "{looks} looks in a minute");
    }

    #[test]
    fn a_clock_that_was_set_back_holds_up_no_hint() {
        let mut memory = Memory::default();
        memory.hint("b", 1_000_000);
        memory.hint("b", 5_000);
        assert_eq!(memory.hinted("b", 4_000), Some(5_000));
    }
}
