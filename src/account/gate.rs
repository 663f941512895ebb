//! Places that are given out fairly: to the key that holds the fewest, and among equals in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Whose turn comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Has a last moment: a POST.
    Urgent,
    /// Everything else.
    Usual,
}

/// A number of places, shared by keys such as namespaces.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    held: HashMap<String, usize>,
    urgent: Queue,
    usual: Queue,
}

/// Waiters by key; keys in the order of their turns.
#[derive(Debug, Default)]
struct Queue {
    turns: VecDeque<String>,
    waiting: HashMap<String, VecDeque<oneshot::Sender<Place>>>,
}

/// A place; it is free again once this is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    key: String,
}

impl Gate {
    /// So many places.
    pub fn new(places: usize) -> Arc<Gate> {
        let (urgent, usual) = (Queue::default(), Queue::default());
        let state = State { free: places, held: HashMap::new(), urgent, usual };
        Arc::new(Gate { state: Mutex::new(state) })
    }

    /// Waits for a place.
    pub async fn place(self: &Arc<Self>, key: &str, urgency: Urgency) -> Place {
        loop {
            let (give, place) = oneshot::channel();
            {
                let mut state = self.lock();
                let queue = match urgency {
                    Urgency::Urgent => &mut state.urgent,
                    Urgency::Usual => &mut state.usual,
                };
                if !queue.waiting.contains_key(key) {
                    queue.turns.push_back(key.into());
                }
                queue.waiting.entry(key.into()).or_default().push_back(give);
            }
            self.give_out();
            // The sender is dropped with the gate alone, which `self` keeps.
            if let Ok(place) = place.await {
                return place;
            }
        }
    }

    fn give_out(self: &Arc<Self>) {
        loop {
            let Some((key, waiter)) = self.lock().next() else { return };
            // Who went away in this very moment drops the place, which gives it to the next.
            let _ = waiter.send(Place { gate: self.clone(), key });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panicking holder leaves is whole: no step in here can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next to get a place, which is taken for it.
    fn next(&mut self) -> Option<(String, oneshot::Sender<Place>)> {
        if self.free == 0 {
            return None;
        }
        let (key, waiter) = self.urgent.next(&self.held).or_else(|| self.usual.next(&self.held))?;
        self.free -= 1;
        *self.held.entry(key.clone()).or_insert(0) += 1;
        Some((key, waiter))
    }
}

impl Queue {
    fn next(&mut self, held: &HashMap<String, usize>) -> Option<(String, oneshot::Sender<Place>)> {
        let waiting = &mut self.waiting;
        self.turns.retain(|key| {
            let waits = waiting.get_mut(key).is_some_and(|waiters| {
                waiters.retain(|waiter| !waiter.is_closed());
                !waiters.is_empty()
            });
            if !waits {
                waiting.remove(key);
            }
            waits
        });
        let holds = |key: &String| held.get(key).copied().unwrap_or(0);
        let (turn, _) = self.turns.iter().enumerate().min_by_key(|(_, key)| holds(key))?;
        let key = self.turns.remove(turn)?;
        let waiters = self.waiting.get_mut(&key)?;
        let waiter = waiters.pop_front()?;
        match waiters.is_empty() {
            true => _ = self.waiting.remove(&key),
            false => self.turns.push_back(key.clone()),
        }
        Some((key, waiter))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.gate.lock();
            state.free += 1;
            if let Some(held) = state.held.get_mut(&self.key) {
                *held -= 1;
                if *held == 0 {
                    state.held.remove(&self.key);
                }
            }
        }
        self.gate.give_out();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;

    /// Asks for a place of `key`, without waiting for it.
    fn ask(gate: &Arc<Gate>, key: &'static str, urgency: Urgency) -> Waiter {
        let gate = gate.clone();
        let mut place: Waiting = Box::pin(async move { gate.place(key, urgency).await });
        match (&mut place).now_or_never() {
            Some(place) => Waiter { key, state: Ok(place) },
            None => Waiter { key, state: Err(place) },
        }
    }

    type Waiting = Pin<Box<dyn Future<Output = Place>>>;

    /// Somebody who has a place, or waits for one.
    struct Waiter {
        key: &'static str,
        state: Result<Place, Waiting>,
    }

    impl Waiter {
        fn has_place(&mut self) -> bool {
            if let Err(waiting) = &mut self.state
                && let Some(place) = waiting.now_or_never()
            {
                self.state = Ok(place);
            }
            self.state.is_ok()
        }
    }

    /// The keys of those who get a place, in their order, when whoever has one gives it back at once.
    fn order(mut waiters: Vec<Waiter>) -> Vec<&'static str> {
        let mut order = vec![];
        while let Some(at) = waiters.iter_mut().position(|w| w.has_place()) {
            order.push(waiters.remove(at).key);
        }
        assert!(waiters.is_empty(), "{} wait for ever", waiters.len());
        order
    }

    #[test]
    fn a_flood_of_one_namespace_delays_another_by_one_call() {
        let gate = Gate::new(1);
        let mut waiters: Vec<Waiter> = (0..100).map(|_| ask(&gate, "flood", Urgency::Usual)).collect();
        waiters.push(ask(&gate, "quiet", Urgency::Usual));
        let order = order(waiters);
        assert!(order[..3].contains(&"quiet"), "{order:?}");
        assert_eq!(order.len(), 101, "the flood is served as well");
    }

    #[test]
    fn the_namespace_that_holds_the_fewest_places_comes_first() {
        let gate = Gate::new(3);
        let mut hang: Vec<Waiter> = (0..9).map(|_| ask(&gate, "hangs", Urgency::Usual)).collect();
        assert_eq!(hang.iter_mut().filter_map(|w| w.has_place().then_some(())).count(), 3, "what is free is used");
        let mut quiet = ask(&gate, "quiet", Urgency::Usual);
        assert!(!quiet.has_place());
        drop(hang.remove(0));
        assert!(quiet.has_place(), "the next place is the one's that has none");
    }

    #[test]
    fn a_post_goes_ahead_of_polls() {
        let gate = Gate::new(1);
        let mut waiters: Vec<Waiter> = (0..10).map(|_| ask(&gate, "polls", Urgency::Usual)).collect();
        waiters.push(ask(&gate, "posts", Urgency::Urgent));
        assert_eq!(order(waiters)[1], "posts");
    }

    #[test]
    fn a_waiter_that_goes_away_leaves_its_turn_to_the_next() {
        let gate = Gate::new(1);
        let first = ask(&gate, "a", Urgency::Usual);
        (0..10_000).for_each(|_| drop(ask(&gate, "a", Urgency::Usual)));
        let mut next = ask(&gate, "b", Urgency::Usual);
        drop(first);
        assert!(next.has_place());
        drop(next);
        assert_eq!(gate.lock().free, 1);
        assert!(gate.lock().held.is_empty(), "what nobody uses is forgotten");
    }
}
