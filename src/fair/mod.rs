//! Fair sharing of limited resources among namespaces.
//!
//! One queue hands out turns of visits, the memory of transfers, calls to the API server, calls of a provider account, and looks at
//! provider objects. Memory for which nobody waits is granted or refused at once ([`Budget`]). Places for batches have limits of their
//! own (`lifecycle/admit.rs`), and the same rule.

mod budget;
mod queue;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

pub use budget::{Budget, Grant};
pub use queue::{Claim, Limits, Shortage, Urgency};

use queue::FairQueue;

/// The grace of a first try; see [`grace`].
const GRACE: Duration = Duration::from_secs(3);

/// Returns whether a holder of `held` may get `more` of the `free` amount: only if at least as much as it already holds stays free.
pub fn leaves_as_much(free: u64, more: u64, held: u64) -> bool {
    free.checked_sub(more).is_some_and(|left| left >= held)
}

/// Returns the time for which a holder of a share may be slow while a namespace without a share waits. It doubles with each consecutive
/// failure, so that an honest server that is slow at times succeeds in the end.
pub fn grace(failures: u32) -> Duration {
    GRACE * (1 << failures.min(9))
}

/// A limited resource that is handed out in shares, in the order of [`FairQueue`].
#[derive(Debug)]
pub struct Shares {
    state: Mutex<State>,
    shortage: watch::Sender<Shortage>,
}

#[derive(Debug)]
struct State {
    queue: FairQueue,
    next_ticket: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

/// A share, which is given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    ticket: u64,
    is_retry: bool,
}

/// A watch that tells the holder of a share whether others wait, so that a slow holder has to make room.
#[derive(Clone, Debug)]
pub struct OthersWait {
    shortage: watch::Receiver<Shortage>,
    is_retry: bool,
}

impl OthersWait {
    /// Returns whether the holder has to make room now.
    pub fn is_so(&mut self) -> bool {
        match *self.shortage.borrow_and_update() {
            Shortage::None => false,
            Shortage::OfRetries => self.is_retry,
            Shortage::OfAll => true,
        }
    }

    /// Waits until the holder has to make room.
    pub async fn become_so(mut self) {
        while !self.is_so() {
            self.changed().await;
        }
    }

    /// Waits until the result of [`OthersWait::is_so`] may have changed.
    pub async fn changed(&mut self) {
        if self.shortage.changed().await.is_err() {
            // The queue is gone, so nobody waits.
            std::future::pending().await
        }
    }
}

impl Shares {
    /// Returns these shares, all of them free.
    pub fn new(limits: Limits) -> Arc<Shares> {
        let state = State { queue: FairQueue::new(limits), next_ticket: 0, waiting: HashMap::new() };
        Arc::new(Shares { state: Mutex::new(state), shortage: watch::Sender::default() })
    }

    /// Waits for a share. A dropped future gives up its place in the queue.
    pub async fn take(self: &Arc<Self>, claim: Claim) -> Share {
        let (share, granted) = self.enter(claim);
        // This cannot fail: the sender is kept until it is used or the share is dropped.
        let _ = granted.await;
        share
    }

    /// Takes a share if it can be granted now.
    pub fn try_take(self: &Arc<Self>, claim: Claim) -> Option<Share> {
        let (share, mut granted) = self.enter(claim);
        granted.try_recv().ok().map(|()| share)
    }

    /// Returns a watch for a holder of a share; see [`Share::others_wait`].
    pub fn others_wait(&self, is_retry: bool) -> OthersWait {
        OthersWait { shortage: self.shortage.subscribe(), is_retry }
    }

    fn enter(self: &Arc<Self>, claim: Claim) -> (Share, oneshot::Receiver<()>) {
        let (sender, granted) = oneshot::channel();
        let is_retry = claim.is_retry;
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.enter(ticket, claim);
        state.waiting.insert(ticket, sender);
        self.hand_out(&mut state);
        (Share { of: self.clone(), ticket, is_retry }, granted)
    }

    /// Returns the number of waiting claims, by lane.
    pub fn waiting(&self) -> BTreeMap<String, usize> {
        self.state().queue.waiting().into_iter().map(|(lane, waiting)| (lane.to_string(), waiting)).collect()
    }

    fn hand_out(&self, state: &mut State) {
        while let Some(ticket) = state.queue.grant() {
            // If the receiver is gone, the share is being dropped, and is given back at once.
            let _ = state.waiting.remove(&ticket).map(|sender| sender.send(()));
        }
        let shortage = state.queue.shortage();
        self.shortage.send_if_modified(|was| std::mem::replace(was, shortage) != shortage);
    }

    /// Locks the state, also after a holder of the lock panicked: the queue is consistent between two of its calls.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Returns a watch on whether the holder has to make room, if it is slow.
    pub fn others_wait(&self) -> OthersWait {
        self.of.others_wait(self.is_retry)
    }

    /// Waits until the holder has to make room, if it is slow.
    pub async fn is_wanted(&self) {
        self.others_wait().become_so().await;
    }

    /// Returns the size of the share. It is at most the total and, for a retry, at most half of it.
    pub fn size(&self) -> u64 {
        self.of.state().queue.size(self.ticket)
    }

    /// Enlarges the share to `size` if that is possible now. Returns false if the share is unchanged.
    pub fn grow(&self, size: u64) -> bool {
        self.of.state().queue.grow(self.ticket, size)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.waiting.remove(&self.ticket);
        state.queue.leave(self.ticket);
        self.of.hand_out(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;

    fn claim(namespace: &str) -> Claim {
        Claim { namespace: namespace.into(), size: 1, ..Claim::default() }
    }

    fn urgent(namespace: &str) -> Claim {
        Claim { urgency: Urgency::Urgent, ..claim(namespace) }
    }

    /// Shares of this number of places, all of which are given out when free.
    fn places(total: u64) -> Arc<Shares> {
        Shares::new(Limits { total, per_namespace: u64::MAX, keeps_last_shares: false })
    }

    type Waiting = Pin<Box<dyn Future<Output = Share>>>;

    /// A task that has a share, or waits for one.
    struct Waiter {
        namespace: String,
        state: Result<Share, Waiting>,
    }

    impl Waiter {
        fn has_share(&mut self) -> bool {
            if let Err(waiting) = &mut self.state
                && let Some(share) = waiting.now_or_never()
            {
                self.state = Ok(share);
            }
            self.state.is_ok()
        }
    }

    /// Asks for a share, without waiting for it.
    fn ask(shares: &Arc<Shares>, claim: Claim) -> Waiter {
        let (shares, namespace) = (shares.clone(), claim.namespace.clone());
        let mut waiter = Waiter { namespace, state: Err(Box::pin(async move { shares.take(claim).await })) };
        waiter.has_share();
        waiter
    }

    /// Returns the namespaces that get a share, in order, if each gives its share back at once.
    fn order(mut waiters: Vec<Waiter>) -> Vec<String> {
        let mut order = vec![];
        while let Some(at) = waiters.iter_mut().position(Waiter::has_share) {
            order.push(waiters.remove(at).namespace);
        }
        assert!(waiters.is_empty(), "{} wait for ever", waiters.len());
        order
    }

    #[test]
    fn a_flood_of_one_namespace_delays_another_by_one_call() {
        let calls = places(1);
        let mut waiters: Vec<Waiter> = (0..100).map(|_| ask(&calls, claim("flood"))).collect();
        waiters.push(ask(&calls, claim("quiet")));
        let order = order(waiters);
        assert!(order[..3].contains(&"quiet".into()), "{order:?}");
        assert_eq!(order.len(), 101, "the flood is served as well");
    }

    #[test]
    fn what_is_free_is_used_and_the_next_share_is_for_the_namespace_that_holds_the_least() {
        let calls = places(3);
        let mut hang: Vec<Waiter> = (0..9).map(|_| ask(&calls, claim("hangs"))).collect();
        assert_eq!(hang.iter_mut().filter_map(|w| w.has_share().then_some(())).count(), 3);
        let mut quiet = ask(&calls, claim("quiet"));
        assert!(!quiet.has_share());
        drop(hang.remove(0));
        assert!(quiet.has_share());
    }

    #[test]
    fn a_post_goes_ahead_of_polls_of_its_own_namespace_and_of_others() {
        for namespace in ["polls", "posts"] {
            let calls = places(1);
            let mut waiters: Vec<Waiter> = (0..10).map(|_| ask(&calls, claim("polls"))).collect();
            waiters.push(ask(&calls, Claim { lane: "POST".into(), ..urgent(namespace) }));
            let mut post = waiters.remove(10);
            drop(waiters.remove(0));
            assert!(post.has_share(), "{namespace}");
        }
    }

    #[test]
    fn who_goes_away_leaves_the_turn_to_the_next() {
        let calls = places(1);
        let first = ask(&calls, claim("a"));
        (0..10_000).for_each(|_| drop(ask(&calls, claim("a"))));
        let mut next = ask(&calls, claim("b"));
        drop(first);
        assert!(next.has_share());
    }

    #[test]
    fn a_share_says_how_large_it_is_where_less_was_given_than_was_wished() {
        for (is_retry, wished, given) in [(false, 3, 3), (false, 20, 8), (true, 6, 4)] {
            let share = places(8).take(Claim { size: wished, is_retry, ..claim("a") }).now_or_never();
            assert_eq!(share.map(|share| share.size()), Some(given), "{wished} of 8, retry: {is_retry}");
        }
    }

    #[tokio::test]
    async fn who_stops_waiting_holds_nobody_up_and_who_is_done_gives_back() {
        let shares = Shares::new(Limits { total: 1, per_namespace: 1, keeps_last_shares: true });
        let first = shares.take(claim("a")).await;
        let mut gives_up = Box::pin(shares.take(claim("b")));
        let mut waits = Box::pin(shares.take(claim("c")));
        assert!((&mut gives_up).now_or_never().is_none() && (&mut waits).now_or_never().is_none());
        assert!(first.others_wait().is_so() && first.is_wanted().now_or_never().is_some());
        assert_eq!(shares.waiting(), [(String::new(), 2)].into());
        drop(gives_up);
        drop(first);
        let share = (&mut waits).now_or_never().expect("its turn");
        assert!(!share.others_wait().is_so() && share.is_wanted().now_or_never().is_none());
        drop(share);
        assert!(shares.take(claim("d")).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_share_that_was_granted_to_one_who_no_longer_waits_goes_to_the_next() {
        let shares = Shares::new(Limits { total: 1, per_namespace: 1, keeps_last_shares: true });
        let first = shares.take(claim("a")).await;
        let mut granted = Box::pin(shares.take(claim("b")));
        assert!((&mut granted).now_or_never().is_none());
        drop(first);
        drop(granted);
        assert!(shares.take(claim("c")).now_or_never().is_some());
    }
}
