//! The memory of one account between two looks at it. It is bounded, since anybody with the key can fill a list.

use std::collections::BTreeMap;

use crate::controller::runtime::ownership::BatchOwner;
use crate::fair::Grant;
use crate::lifecycle::{BatchTimes, Timing, is_old_enough};

/// Most batches of one account that are remembered.
const MOST: usize = 1_000;
/// Bytes that a remembered batch takes besides its texts.
const BATCH_BYTES: usize = 512;
/// Bytes that remembered batches of all accounts take, shared fairly by namespace.
pub(super) const REMEMBERED: u64 = 16 << 20;
/// Batches of one account that are judged in one look: each costs some calls.
const JUDGED: usize = 20;

/// The state of one account. Losing it costs another report.
#[derive(Default)]
pub(super) struct Account {
    /// The time at which the account may be asked again.
    pub not_before: i64,
    /// Batches that ran at the last look at the account, by the provider's name.
    pub batches: BTreeMap<String, RunningBatch>,
}

/// A batch that ran at the last look at its account.
pub(super) struct RunningBatch {
    pub owner: BatchOwner,
    pub times: BatchTimes,
    /// The time at which it was judged last; the batch that waited longest comes first.
    judged: i64,
    pub reported: Reported,
    _memory: Grant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    Nothing,
    /// The batch is an orphan, which was reported.
    Orphan,
    /// The batch is a twin, which was reported to the people of its job.
    Twin,
}

/// The running batches that one reading of a list showed, up to [`MOST`].
#[derive(Default)]
pub(super) struct ListedBatches(BTreeMap<String, (BatchOwner, i64, Grant)>);

impl ListedBatches {
    /// Records a batch that was `created` at this time (Unix milliseconds; 0 if unknown), if its bytes are granted.
    pub fn note(&mut self, id: &str, owner: BatchOwner, created: i64, grant: impl FnOnce(usize) -> Option<Grant>) {
        let BatchOwner { namespace, name, work_id, intent_id, attempt_key } = &owner;
        let texts = [namespace, name, work_id, intent_id, attempt_key].map(String::len).iter().sum::<usize>();
        if self.0.len() < MOST
            && let Some(memory) = grant(BATCH_BYTES + id.len() + texts)
        {
            self.0.insert(id.into(), (owner, created, memory));
        }
    }
}

impl Account {
    /// Merges the batches that a list showed at `now`. A batch that is missing in a list that was not `whole` may still run.
    pub fn learn(&mut self, listed: ListedBatches, whole: bool, now: i64) {
        if whole {
            self.batches.retain(|id, seen| listed.0.get(id).is_some_and(|(owner, ..)| *owner == seen.owner));
        }
        for (id, (owner, created, memory)) in listed.0 {
            if self.batches.len() < MOST {
                let times = BatchTimes { created, first: now };
                self.batches.entry(id).or_insert(RunningBatch {
                    owner,
                    times,
                    judged: 0,
                    reported: Reported::Nothing,
                    _memory: memory,
                });
            }
        }
    }

    /// Returns the batches to judge at `now`: those that ran for long enough and are not followed. Reported orphans are looked
    /// at again only if the list was not `whole`.
    pub fn suspects(
        &mut self,
        whole: bool,
        is_followed: impl Fn(&BatchOwner, &str) -> bool,
        now: i64,
        timing: &Timing,
    ) -> Vec<(&String, &mut RunningBatch)> {
        let mut suspects = vec![];
        for (id, seen) in &mut self.batches {
            match is_followed(&seen.owner, id) {
                true => seen.reported = Reported::Nothing,
                false if seen.reported == Reported::Orphan && whole => {}
                false if is_old_enough(seen.times, now, timing) => suspects.push((id, seen)),
                false => {}
            }
        }
        suspects.sort_by_key(|(_, seen)| seen.judged);
        suspects.truncate(JUDGED);
        suspects.iter_mut().for_each(|(_, seen)| seen.judged = now);
        suspects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair::Budget;

    const TIMING: Timing =
        Timing { post_window: 1, send_timeout: 1, listing_lag: 1, deletion_deadline: 1, abandon_after: 1 };

    fn owner(work: &str) -> BatchOwner {
        BatchOwner {
            namespace: "n".into(),
            name: "j".into(),
            work_id: work.into(),
            intent_id: "i".into(),
            attempt_key: "00000-1".into(),
        }
    }

    /// A list of `count` batches from the `first` on.
    fn listed(first: usize, count: usize) -> ListedBatches {
        let (mut listed, budget) = (ListedBatches::default(), Budget::new(REMEMBERED));
        let grant = |bytes| budget.take("n", bytes as u64);
        (first..first + count).for_each(|i| listed.note(&format!("batch-{i:05}"), owner("w"), 1, grant));
        listed
    }

    fn ids(suspects: Vec<(&String, &mut RunningBatch)>) -> Vec<String> {
        suspects.into_iter().map(|(id, _)| id.clone()).collect()
    }

    #[test]
    fn of_a_list_without_end_so_many_are_remembered() {
        assert_eq!(listed(0, 5 * MOST).0.len(), MOST);
        let mut account = Account::default();
        for (look, whole) in [(1, false), (2, false), (3, true)] {
            account.learn(listed(look * MOST, 5 * MOST), whole, 1);
            assert_eq!(account.batches.len(), MOST);
        }
    }

    #[test]
    fn a_namespace_whose_accounts_list_long_names_without_end_leaves_memory_to_others() {
        let budget = Budget::new(REMEMBERED);
        let listed = |namespace: &str| {
            let mut listed = ListedBatches::default();
            let grant = |bytes| budget.take(namespace, bytes as u64);
            (0..MOST).for_each(|i| listed.note(&format!("{i:02048}"), owner("w"), 1, grant));
            listed.0.len()
        };
        let mut hostile = vec![];
        for _ in 0..100 {
            let mut listed = ListedBatches::default();
            (0..MOST).for_each(|i| {
                listed.note(&format!("{i:02048}"), owner("w"), 1, |bytes| budget.take("hostile", bytes as u64))
            });
            hostile.push(listed);
        }
        let all: usize = hostile.iter().map(|listed| listed.0.len()).sum();
        assert!((2_000..5_000).contains(&all), "{all} of 100,000");
        assert_eq!(listed("quiet"), MOST);
    }

    #[test]
    fn so_many_are_judged_at_a_time_and_each_gets_its_turn() {
        let mut account = Account::default();
        account.learn(listed(0, 3 * JUDGED), true, 1);
        assert!(account.suspects(true, |_, _| false, 2, &TIMING).is_empty(), "they may be on their way into a journal");
        let mut judged: Vec<String> = vec![];
        for look in 1..=3 {
            let now = look * 1_000;
            let some = ids(account.suspects(true, |_, _| false, now, &TIMING));
            assert_eq!(some.len(), JUDGED);
            judged.extend(some);
        }
        judged.sort();
        judged.dedup();
        assert_eq!(judged.len(), 3 * JUDGED);
    }

    #[test]
    fn what_a_broken_list_does_not_show_may_still_run() {
        let mut account = Account::default();
        account.learn(listed(0, 2), true, 1);
        account.learn(listed(0, 1), false, 2);
        assert_eq!(account.batches.len(), 2);
        account.learn(listed(0, 1), true, 3);
        assert_eq!(account.batches.len(), 1);
        let mut other = ListedBatches::default();
        other.note("batch-00000", owner("another work"), 1, |bytes| Budget::new(REMEMBERED).take("n", bytes as u64));
        account.learn(other, true, 4);
        let times = account.batches["batch-00000"].times;
        assert_eq!(times.first, 4, "what says something else of itself is another one");
    }

    #[test]
    fn who_was_told_of_is_judged_again_only_where_the_list_broke_off_or_once_it_was_followed() {
        let mut account = Account::default();
        account.learn(listed(0, 1), true, 1);
        let publish =
            |account: &mut Account| account.batches.values_mut().for_each(|seen| seen.reported = Reported::Orphan);
        publish(&mut account);
        assert!(account.suspects(true, |_, _| false, 1_000, &TIMING).is_empty());
        assert_eq!(account.suspects(false, |_, _| false, 1_000, &TIMING).len(), 1);
        assert!(account.suspects(true, |_, _| true, 1_000, &TIMING).is_empty());
        assert_eq!(account.suspects(true, |_, _| false, 1_000, &TIMING).len(), 1, "nobody follows it any more");
    }
}
