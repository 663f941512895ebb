//! Room for the background tasks of all jobs. A task that finds none is not begun: its job remembers it, and waits for it once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fair::{Claim, Limits, Share, Shares};
use crate::lifecycle::Task;

/// Limits of tasks that are begun, whether they wait for their turn at an account, for memory, or for an answer: each takes some 4 KiB. The
/// tasks of one account of a namespace get about a quarter of all, so that an account that never answers leaves room to the others.
pub(crate) const LIMITS: Limits = Limits { total: 4_096, per_namespace: 2_048, keeps_last_shares: true };

/// The tasks of one job that wait for room. Calls and transfers have lanes of their own, and wait each for themselves.
#[derive(Default)]
pub(crate) struct TaskRooms {
    calls: TaskRoom,
    transfers: TaskRoom,
}

impl TaskRooms {
    /// Returns the room of this task, and the name of its lane.
    pub fn of(&self, task: Task) -> (&TaskRoom, &'static str) {
        match task {
            Task::LookForInput
            | Task::Plan
            | Task::Upload(_)
            | Task::Collect(_)
            | Task::FollowUp
            | Task::Halve(_)
            | Task::Publish
            | Task::Write => (&self.transfers, "transfers"),
            Task::Place
            | Task::Post(_)
            | Task::Call(_)
            | Task::Cancel(_)
            | Task::CancelTwin(_)
            | Task::CancelUnjournaled
            | Task::DeleteFiles => (&self.calls, "calls"),
        }
    }

    /// Returns the tasks that wait.
    pub fn waiting(&self) -> BTreeSet<Task> {
        self.calls.waiting().into_iter().chain(self.transfers.waiting()).collect()
    }

    /// Gives back room that a visit did not use.
    pub fn give_back(&self) {
        [&self.calls, &self.transfers].into_iter().for_each(TaskRoom::give_back);
    }
}

/// The tasks of one job and one lane that wait for room.
#[derive(Default)]
pub(crate) struct TaskRoom(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: BTreeSet<Task>,
    /// Room that was granted to a task which the next visit begins.
    granted: BTreeMap<Task, Share>,
    is_awaited: bool,
}

/// The room that a task holds. None is needed for a task of which a job has one, and that waits for other jobs or has a last moment.
#[derive(Debug)]
pub(crate) struct Room {
    _share: Option<Share>,
}

impl TaskRoom {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the room for a task; None if it has to wait.
    pub fn take(&self, of: &Arc<Shares>, task: Task, claim: Claim) -> Option<Room> {
        if matches!(task, Task::Post(_) | Task::Place) {
            return Some(Room { _share: None });
        }
        let granted = self.lock().granted.remove(&task);
        let taken = granted.or_else(|| of.try_take(claim)).map(|share| Room { _share: Some(share) });
        if taken.is_none() {
            self.lock().waiting.insert(task);
        }
        taken
    }

    /// Waits for room for one task after another, and calls `grant` when there is some. Returns at once if somebody else waits for this job.
    pub async fn wait(&self, of: &Arc<Shares>, claim: Claim, grant: impl Fn()) {
        if std::mem::replace(&mut self.lock().is_awaited, true) {
            return;
        }
        loop {
            let share = of.take(claim.clone()).await;
            {
                let mut state = self.lock();
                let Some(task) = state.waiting.pop_first() else {
                    state.is_awaited = false;
                    return;
                };
                state.granted.insert(task, share);
            }
            grant();
        }
    }

    fn waiting(&self) -> BTreeSet<Task> {
        self.lock().waiting.clone()
    }

    fn give_back(&self) {
        let unused = std::mem::take(&mut self.lock().granted);
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::lifecycle::AttemptKey;

    const FEW: Limits = Limits { total: 16, per_namespace: 8, keeps_last_shares: true };

    fn claim(namespace: &str, account: &str) -> Claim {
        Claim { namespace: namespace.into(), lane: account.into(), size: 1, ..Claim::default() }
    }

    fn polls(n: usize) -> impl Iterator<Item = Task> {
        (0..n).map(|shard| Task::Call(AttemptKey { shard, attempt: 1 }))
    }

    #[test]
    fn a_job_of_many_calls_begins_as_many_as_its_account_gets_and_leaves_room_to_other_accounts_and_namespaces() {
        let (all, job) = (Shares::new(FEW), TaskRoom::default());
        let begun: Vec<Room> = polls(500).filter_map(|poll| job.take(&all, poll, claim("a", "silent"))).collect();
        assert_eq!((begun.len(), job.waiting().len()), (4, 496));
        for (namespace, account) in [("a", "other"), ("b", "silent")] {
            let room = TaskRoom::default().take(&all, Task::DeleteFiles, claim(namespace, account));
            assert!(room.is_some_and(|room| room._share.is_some()), "{namespace}, {account}");
        }
        for task in [Task::Place, Task::Post(AttemptKey { shard: 0, attempt: 1 })] {
            assert!(job.take(&all, task, claim("a", "silent")).is_some_and(|room| room._share.is_none()), "{task:?}");
        }
    }

    #[test]
    fn a_job_waits_once_for_all_its_calls_and_each_is_begun_with_the_room_that_it_was_granted() {
        let (all, job) = (Shares::new(FEW), TaskRoom::default());
        let mut begun: Vec<Room> = polls(6).filter_map(|poll| job.take(&all, poll, claim("a", "x"))).collect();
        let granted = std::cell::Cell::new(0);
        let mut waits = Box::pin(job.wait(&all, claim("a", "x"), || granted.set(granted.get() + 1)));
        assert!((&mut waits).now_or_never().is_none());
        assert!(job.wait(&all, claim("a", "x"), || ()).now_or_never().is_some(), "one waits");
        assert_eq!((all.waiting()["x"], granted.get()), (1, 0));
        begun.clear();
        assert!((&mut waits).now_or_never().is_some(), "nothing waits any more");
        assert_eq!((job.waiting().len(), granted.get()), (0, 2));
        begun.extend(polls(6).skip(4).filter_map(|poll| job.take(&all, poll, claim("a", "x"))));
        assert_eq!(begun.len(), 2);
        begun.extend(polls(2).filter_map(|poll| job.take(&all, poll, claim("a", "x"))));
        assert_eq!(begun.len(), 4, "what was granted counted before as well");
    }

    #[test]
    fn room_that_a_visit_does_not_use_is_given_back() {
        let (all, job) = (Shares::new(FEW), TaskRoom::default());
        let begun: Vec<Room> = polls(5).filter_map(|poll| job.take(&all, poll, claim("a", "x"))).collect();
        let mut waits = Box::pin(job.wait(&all, claim("a", "x"), || ()));
        assert!((&mut waits).now_or_never().is_none());
        drop(begun);
        assert!((&mut waits).now_or_never().is_some());
        let others = || (0..16).filter_map(|_| all.try_take(claim("b", "y"))).collect::<Vec<_>>().len();
        let before = others();
        job.give_back();
        assert!(others() >= before && job.lock().granted.is_empty());
        let all_of_it = Claim { size: FEW.total, ..claim("c", "z") };
        assert!(all.try_take(all_of_it).is_some());
    }
}
