//! Memory that is granted at once or not at all, fairly by namespace: for what nobody waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::leaves_as_much;

/// An amount of memory. A namespace gets more of it only while at least as much as it holds stays free.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: u64,
    /// What each namespace holds, in bytes.
    of: HashMap<String, u64>,
}

/// Memory that was granted, given back when this is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Arc<Budget>,
    namespace: String,
    bytes: u64,
}

impl Budget {
    /// Returns a budget of so many bytes, all of them free.
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget { total, held: Mutex::default() })
    }

    /// Grants so many bytes to a namespace; None if others have to find as much free.
    pub fn take(self: &Arc<Self>, namespace: &str, bytes: u64) -> Option<Grant> {
        let mut held = self.held();
        let of = held.of.get(namespace).copied().unwrap_or_default();
        if !leaves_as_much(self.total - held.all, bytes, of) {
            return None;
        }
        held.all += bytes;
        *held.of.entry(namespace.into()).or_default() += bytes;
        Some(Grant { budget: self.clone(), namespace: namespace.into(), bytes })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut held = self.budget.held();
        held.all -= self.bytes;
        if let Some(of) = held.of.get_mut(&self.namespace) {
            *of -= self.bytes;
            if *of == 0 {
                held.of.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_namespace_gets_about_half_and_another_finds_room() {
        let budget = Budget::new(100);
        let hostile: Vec<Grant> = std::iter::from_fn(|| budget.take("hostile", 10)).collect();
        assert_eq!(hostile.len(), 5);
        let quiet = budget.take("quiet", 40);
        assert!(quiet.is_some() && budget.take("quiet", 1).is_none());
        drop(hostile);
        assert!(budget.take("quiet", 20).is_some(), "what is given back is free");
    }

    proptest! {
        #[test]
        fn no_more_is_held_than_there_is_and_all_of_it_comes_back(
            claims in prop::collection::vec((0..4usize, 0..60u64, any::<bool>()), 0..100),
        ) {
            let budget = Budget::new(100);
            let mut grants = vec![];
            for (namespace, bytes, gives_back) in claims {
                if gives_back && !grants.is_empty() {
                    grants.swap_remove(0);
                }
                let of = |grants: &[Grant]| grants.iter().map(|g| g.bytes).sum::<u64>();
                let free = 100 - of(&grants);
                let name = namespace.to_string();
                let holds = grants.iter().filter(|g: &&Grant| g.namespace == name).map(|g| g.bytes).sum::<u64>();
                let granted = budget.take(&name, bytes);
                prop_assert_eq!(granted.is_some(), bytes + holds <= free);
                grants.extend(granted);
                prop_assert!(of(&grants) <= 100);
            }
            drop(grants);
            let held = budget.held();
            prop_assert_eq!((held.all, held.of.len()), (0, 0));
        }
    }
}
