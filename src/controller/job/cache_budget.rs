//! The caches of jobs between their visits: the object as it was last seen, the head of the journal, and large clients, findings and
//! errors. Tenants and providers can make all of them large, and all of them can be found out again. When they exceed the limit, the
//! oldest of the namespace that holds the most are dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Bytes that are kept of all jobs at rest together.
const LIMIT: usize = 32 << 20;
/// Bytes that are kept of the jobs of one namespace, so that none can push out the caches of the others.
const LIMIT_OF_NAMESPACE: usize = LIMIT / 2;

/// The bytes that are kept of each job at rest.
#[derive(Default)]
pub(crate) struct CacheBudget(Mutex<State>);

#[derive(Default)]
struct State {
    /// The namespace of each job, and its number there, by the uid of the job.
    jobs: HashMap<String, (String, u64)>,
    namespaces: HashMap<String, Namespace>,
    next: u64,
    bytes: usize,
}

#[derive(Default)]
struct Namespace {
    /// The uid and the kept bytes of each job, the oldest first.
    jobs: BTreeMap<u64, (String, usize)>,
    bytes: usize,
}

impl CacheBudget {
    /// Records that `bytes` are kept of a job whose last visit is over. Returns the uids of the jobs whose caches must be
    /// dropped.
    #[must_use]
    pub fn keep(&self, uid: &str, namespace: &str, bytes: usize) -> Vec<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget(uid);
        state.add(uid, namespace, bytes);
        let mut let_go = vec![];
        while state.bytes_of(namespace) > LIMIT_OF_NAMESPACE {
            let_go.extend(state.drop_oldest(namespace));
        }
        while state.bytes > LIMIT {
            let most = state.namespaces.iter().max_by_key(|(_, of)| of.bytes).map(|(name, _)| name.clone());
            let Some(most) = most else { break };
            let_go.extend(state.drop_oldest(&most));
        }
        let_go
    }

    /// Records that nothing is kept of a job, or that it is being visited.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(uid);
    }
}

impl State {
    fn bytes_of(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).map_or(0, |of| of.bytes)
    }

    fn add(&mut self, uid: &str, namespace: &str, bytes: usize) {
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.jobs.insert(uid.into(), (namespace.into(), number));
        let of = self.namespaces.entry(namespace.into()).or_default();
        of.bytes += bytes;
        of.jobs.insert(number, (uid.into(), bytes));
    }

    fn forget(&mut self, uid: &str) {
        let Some((namespace, number)) = self.jobs.remove(uid) else { return };
        let Some(of) = self.namespaces.get_mut(&namespace) else { return };
        let bytes = of.jobs.remove(&number).map_or(0, |(_, bytes)| bytes);
        of.bytes -= bytes;
        self.bytes -= bytes;
        if of.jobs.is_empty() {
            self.namespaces.remove(&namespace);
        }
    }

    fn drop_oldest(&mut self, namespace: &str) -> Option<String> {
        let (_, (uid, _)) = self.namespaces.get(namespace)?.jobs.first_key_value()?;
        let uid = uid.clone();
        self.forget(&uid);
        Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_of_the_namespace_that_holds_the_most_goes_first() {
        let kept = CacheBudget::default();
        let third = LIMIT_OF_NAMESPACE / 3;
        for (uid, namespace) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")] {
            assert!(kept.keep(uid, namespace, third).is_empty(), "{uid}");
        }
        assert_eq!(kept.keep("c2", "c", third), ["a1"], "in all");
        assert!(kept.keep("a2", "a", third).is_empty(), "it was looked at again");
        assert_eq!(kept.keep("a4", "a", 2 * third), ["a3", "a2"], "of one namespace");
        assert_eq!(kept.keep("d1", "d", LIMIT_OF_NAMESPACE + 1), ["d1"], "what is larger than all that it may hold");
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_the_limits_say_and_a_small_namespace_loses_nothing_to_a_large_one(
            jobs in prop::collection::vec((0..40usize, 0..3usize, 0..LIMIT_OF_NAMESPACE), 1..200),
            forgotten in prop::collection::vec(0..40usize, 0..20),
        ) {
            let kept = CacheBudget::default();
            prop_assert!(kept.keep("quiet", "quiet", 1).is_empty());
            let mut holds: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
            for (at, (uid, namespace, bytes)) in jobs.into_iter().enumerate() {
                if let Some(gone) = forgotten.get(at) {
                    kept.forget(&gone.to_string());
                    holds.remove(gone);
                }
                holds.insert(uid, (namespace, bytes));
                for gone in kept.keep(&uid.to_string(), &namespace.to_string(), bytes) {
                    prop_assert!(gone != "quiet");
                    holds.remove(&gone.parse().unwrap());
                }
                let sum = |of: usize| holds.values().filter(|(ns, _)| *ns == of).map(|(_, b)| b).sum::<usize>();
                prop_assert!((0..3).all(|ns| sum(ns) <= LIMIT_OF_NAMESPACE));
                let all = (0..3).map(sum).sum::<usize>() + 1;
                prop_assert!(all <= LIMIT);
                let state = kept.0.lock().unwrap();
                prop_assert_eq!((state.bytes, state.jobs.len()), (all, holds.len() + 1));
            }
        }
    }
}
