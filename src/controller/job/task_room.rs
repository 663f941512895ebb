//! Room for the background tasks of all jobs. A task that finds none is not begun: its job remembers it, and waits for it once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::fair::{Claim, Limits, Share, Shares};
use crate::lifecycle::Task;

/// Limits of tasks that are begun, whether they wait for their turn at an account, for memory, or for an answer: each takes some 4
/// KiB. The tasks of one account of a namespace get about a quarter of all, so that an account that never answers leaves room to the
/// others.
pub(crate) const LIMITS: Limits = Limits { total: 4_096, per_namespace: 2_048, keeps_last_shares: true };

/// Number of tasks for which each namespace has room of its own, whatever others hold: a task may wait for a server for
/// long, and a dozen namespaces with many tasks can take all the room that is shared.
const OWN: u64 = 8;

/// Least number of rooms at which those that are no longer needed are looked for, and dropped.
const FEW_NAMESPACES: usize = 64;

/// The room for the tasks of all jobs.
pub(crate) struct AllRooms {
    shared: Arc<Shares>,
    own: Mutex<OwnRooms>,
}

/// The room that each namespace has for itself. It exists while a task holds some of it, or waits.
#[derive(Default)]
struct OwnRooms {
    of: HashMap<String, Weak<Shares>>,
    /// Number of rooms at which those that are not needed are dropped next.
    drop_at: usize,
}

impl AllRooms {
    /// Returns room for as many shared tasks as the limits say, and for [`OWN`] tasks of each namespace.
    pub fn new(limits: Limits) -> AllRooms {
        AllRooms { shared: Shares::new(limits), own: Mutex::default() }
    }

    /// Returns the namespace's own room, and the claim for a part of it. Lanes share this room as namespaces share the
    /// common room.
    fn own(&self, claim: &Claim) -> (Arc<Shares>, Claim) {
        let Claim { namespace, lane, .. } = claim;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.of.len() >= own.drop_at {
            own.of.retain(|_, room| room.strong_count() > 0);
            own.drop_at = FEW_NAMESPACES.max(2 * own.of.len());
        }
        let known = own.of.get(namespace).and_then(Weak::upgrade);
        let room = known.unwrap_or_else(|| {
            let room = Shares::new(Limits { total: OWN, per_namespace: OWN, keeps_last_shares: true });
            own.of.insert(namespace.clone(), Arc::downgrade(&room));
            room
        });
        (room, Claim { namespace: lane.clone(), lane: String::new(), ..claim.clone() })
    }

    fn try_take(&self, claim: Claim) -> Option<Share> {
        let (own, of_own) = self.own(&claim);
        own.try_take(of_own).or_else(|| self.shared.try_take(claim))
    }

    async fn take(&self, claim: Claim) -> Share {
        let (own, of_own) = self.own(&claim);
        tokio::select! {
            biased;
            share = own.take(of_own) => share,
            share = self.shared.take(claim) => share,
        }
    }
}

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
            | Task::Reserve
            | Task::SettleCost(_)
            | Task::Release
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
    pub fn take(&self, of: &AllRooms, task: Task, claim: Claim) -> Option<Room> {
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

    /// Waits for room for one task after another, and calls `grant` when there is some. Returns at once if somebody else waits for
    /// this job.
    pub async fn wait(&self, of: &AllRooms, claim: Claim, grant: impl Fn()) {
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
    /// The part of a namespace's own room that one of its lanes gets.
    const OWN_OF_A_LANE: usize = OWN as usize / 2;

    fn claim(namespace: &str, account: &str) -> Claim {
        Claim { namespace: namespace.into(), lane: account.into(), size: 1, ..Claim::default() }
    }

    fn polls(n: usize) -> impl Iterator<Item = Task> {
        (0..n).map(|shard| Task::Call(AttemptKey { shard, attempt: 1 }))
    }

    #[test]
    fn a_job_of_many_calls_begins_as_many_as_its_account_gets_and_leaves_room_to_other_accounts_and_namespaces() {
        let (all, job) = (AllRooms::new(FEW), TaskRoom::default());
        let begun: Vec<Room> = polls(500).filter_map(|poll| job.take(&all, poll, claim("a", "silent"))).collect();
        assert_eq!((begun.len(), job.waiting().len()), (OWN_OF_A_LANE + 4, 500 - OWN_OF_A_LANE - 4));
        for (namespace, account) in [("a", "other"), ("b", "silent")] {
            let room = TaskRoom::default().take(&all, Task::DeleteFiles, claim(namespace, account));
            assert!(room.is_some_and(|room| room._share.is_some()), "{namespace}, {account}");
        }
        for task in [Task::Place, Task::Post(AttemptKey { shard: 0, attempt: 1 })] {
            assert!(job.take(&all, task, claim("a", "silent")).is_some_and(|room| room._share.is_none()), "{task:?}");
        }
    }

    #[test]
    fn a_namespace_without_tasks_begins_some_however_many_namespaces_hold_all_that_is_shared() {
        let all = AllRooms::new(LIMITS);
        let hostile = |n: usize| {
            polls(5_000)
                .filter_map(|poll| TaskRoom::default().take(&all, poll, claim(&format!("hostile-{n}"), "silent")))
                .collect::<Vec<Room>>()
        };
        let held: Vec<Vec<Room>> = (0..40).map(hostile).collect();
        assert!(all.shared.try_take(claim("quiet", "honest")).is_none(), "nothing is left of what is shared");
        assert!(held.iter().map(Vec::len).sum::<usize>() <= LIMITS.total as usize + 40 * OWN as usize);
        let job = TaskRoom::default();
        let begun: Vec<Room> = polls(100).filter_map(|poll| job.take(&all, poll, claim("quiet", "honest"))).collect();
        assert_eq!(begun.len(), OWN_OF_A_LANE);
        assert!(job.take(&all, Task::DeleteFiles, claim("quiet", "another")).is_some(), "another of its accounts");
        // A task of the namespace that ends lets the next one begin.
        let mut waits = Box::pin(job.wait(&all, claim("quiet", "honest"), || ()));
        assert!((&mut waits).now_or_never().is_none());
        let waiting = job.waiting().len();
        drop(begun);
        assert!((&mut waits).now_or_never().is_none(), "others of its tasks wait on");
        assert_eq!(job.waiting().len(), waiting - OWN_OF_A_LANE);
    }

    #[test]
    fn namespaces_whose_tasks_are_over_take_no_memory() {
        let all = AllRooms::new(FEW);
        for n in 0..1_000 {
            assert!(all.try_take(claim(&n.to_string(), "x")).is_some());
        }
        assert!(all.own.lock().unwrap().of.len() <= FEW_NAMESPACES);
    }

    #[test]
    fn a_job_waits_once_for_all_its_calls_and_each_is_begun_with_the_room_that_it_was_granted() {
        let (all, job) = (AllRooms::new(FEW), TaskRoom::default());
        let most = OWN_OF_A_LANE + 4;
        let all_of_them = most + 2;
        let mut begun: Vec<Room> =
            polls(all_of_them).filter_map(|poll| job.take(&all, poll, claim("a", "x"))).collect();
        let granted = std::cell::Cell::new(0);
        let mut waits = Box::pin(job.wait(&all, claim("a", "x"), || granted.set(granted.get() + 1)));
        assert!((&mut waits).now_or_never().is_none());
        assert!(job.wait(&all, claim("a", "x"), || ()).now_or_never().is_some(), "one waits");
        assert_eq!((all.shared.waiting()["x"], granted.get()), (1, 0));
        begun.clear();
        assert!((&mut waits).now_or_never().is_some(), "nothing waits any more");
        assert_eq!((job.waiting().len(), granted.get()), (0, 2));
        begun.extend(polls(all_of_them).skip(most).filter_map(|poll| job.take(&all, poll, claim("a", "x"))));
        assert_eq!(begun.len(), 2);
        begun.extend(polls(most).filter_map(|poll| job.take(&all, poll, claim("a", "x"))));
        assert_eq!(begun.len(), most, "what was granted counted before as well");
    }

    #[test]
    fn room_that_a_visit_does_not_use_is_given_back() {
        let (all, job) = (AllRooms::new(FEW), TaskRoom::default());
        let begun: Vec<Room> =
            polls(OWN_OF_A_LANE + 5).filter_map(|poll| job.take(&all, poll, claim("a", "x"))).collect();
        let mut waits = Box::pin(job.wait(&all, claim("a", "x"), || ()));
        assert!((&mut waits).now_or_never().is_none());
        drop(begun);
        assert!((&mut waits).now_or_never().is_some());
        job.give_back();
        assert!(job.lock().granted.is_empty());
        let (own, _) = all.own(&claim("a", "x"));
        for (room, whole) in [(&own, OWN), (&all.shared, FEW.total)] {
            assert!(room.try_take(Claim { size: whole, ..claim("c", "z") }).is_some());
        }
    }
}
