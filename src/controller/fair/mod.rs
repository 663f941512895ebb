//! What all jobs share, fair by namespace: turns of visits, the memory of transfers, and calls to the API server.

mod calls;
mod queue;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

pub(super) use calls::FairCalls;
pub(super) use queue::{Claim, Limits};

use queue::FairQueue;

/// Something limited that is handed out in shares; see [`FairQueue`] for who gets one.
#[derive(Debug)]
pub(super) struct Shares {
    state: Mutex<State>,
    short: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    queue: FairQueue,
    next_ticket: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

/// A share, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    ticket: u64,
}

impl Shares {
    pub fn new(limits: Limits) -> Arc<Shares> {
        let state = State { queue: FairQueue::new(limits), next_ticket: 0, waiting: HashMap::new() };
        Arc::new(Shares { state: Mutex::new(state), short: watch::Sender::new(false) })
    }

    /// Waits for a share. Whoever stops waiting leaves the queue.
    pub async fn take(self: &Arc<Self>, claim: Claim) -> Share {
        let (share, granted) = self.enter(claim);
        // The sender goes with the share that is waited for, and not before.
        let _ = granted.await;
        share
    }

    fn enter(self: &Arc<Self>, claim: Claim) -> (Share, oneshot::Receiver<()>) {
        let (sender, granted) = oneshot::channel();
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.enter(ticket, claim);
        state.waiting.insert(ticket, sender);
        self.hand_out(&mut state);
        (Share { of: self.clone(), ticket }, granted)
    }

    /// Whether a namespace that holds nothing waits: who is slow makes room then.
    pub fn is_short(&self) -> watch::Receiver<bool> {
        self.short.subscribe()
    }

    /// How many wait, by lane.
    pub fn waiting(&self) -> BTreeMap<String, usize> {
        self.state().queue.waiting().into_iter().map(|(lane, waiting)| (lane.to_string(), waiting)).collect()
    }

    fn hand_out(&self, state: &mut State) {
        while let Some(ticket) = state.queue.grant() {
            // Who no longer listens is about to leave.
            let _ = state.waiting.remove(&ticket).map(|sender| sender.send(()));
        }
        let short = state.queue.is_short();
        self.short.send_if_modified(|was| std::mem::replace(was, short) != short);
    }

    /// A poisoned lock is one whose holder panicked; the queue is consistent between two of its calls.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Makes it larger, if that is possible now. False: it stays as it is.
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
    use futures::FutureExt;

    use super::*;

    fn claim(namespace: &str) -> Claim {
        Claim { namespace: namespace.into(), lane: String::new(), size: 1 }
    }

    #[tokio::test]
    async fn who_stops_waiting_holds_nobody_up_and_who_is_done_gives_back() {
        let shares = Shares::new(Limits { total: 1, per_namespace: 1 });
        let first = shares.take(claim("a")).await;
        let mut gives_up = Box::pin(shares.take(claim("b")));
        let mut waits = Box::pin(shares.take(claim("c")));
        assert!((&mut gives_up).now_or_never().is_none() && (&mut waits).now_or_never().is_none());
        assert!(*shares.is_short().borrow());
        assert_eq!(shares.waiting(), [(String::new(), 2)].into());
        drop(gives_up);
        drop(first);
        let share = (&mut waits).now_or_never().expect("its turn");
        assert!(!*shares.is_short().borrow());
        drop(share);
        assert!(shares.take(claim("d")).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_share_that_was_granted_to_one_who_no_longer_waits_goes_to_the_next() {
        let shares = Shares::new(Limits { total: 1, per_namespace: 1 });
        let first = shares.take(claim("a")).await;
        let mut granted = Box::pin(shares.take(claim("b")));
        assert!((&mut granted).now_or_never().is_none());
        drop(first);
        drop(granted);
        assert!(shares.take(claim("c")).now_or_never().is_some());
    }
}
