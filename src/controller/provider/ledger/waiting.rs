//! The jobs that wait for a budget.

use std::collections::{HashMap, HashSet};

use kube::runtime::reflector::ObjectRef;

use crate::api::BatchJob;

/// Most waiting jobs that are visited at a time because budgets have more room. The others are visited later, or look again by
/// themselves.
const WOKEN: usize = 32;
/// Most jobs that are remembered to wait for more room. Others look again by themselves.
const WAITING: usize = 10_000;

/// Jobs that wait for a budget, in the order in which they were refused.
#[derive(Default)]
pub(super) struct WaitingJobs(Vec<ObjectRef<BatchJob>>);

impl WaitingJobs {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a job, unless it waits already.
    pub fn add(&mut self, job: &ObjectRef<BatchJob>) {
        if self.0.len() < WAITING && !self.0.contains(job) {
            self.0.push(job.clone());
        }
    }

    /// Removes a job that no longer waits.
    pub fn remove(&mut self, job: &ObjectRef<BatchJob>) {
        self.0.retain(|waiting| waiting != job);
    }

    /// Removes the jobs that are to be visited now, those of each namespace in turn.
    pub fn wake(&mut self) -> Vec<ObjectRef<BatchJob>> {
        let mut rounds: HashMap<Option<String>, usize> = HashMap::new();
        let mut order: Vec<(usize, usize)> = vec![];
        for (at, job) in self.0.iter().enumerate() {
            let round = rounds.entry(job.namespace.clone()).or_default();
            order.push((*round, at));
            *round += 1;
        }
        order.sort_unstable();
        let woken: HashSet<usize> = order.into_iter().take(WOKEN).map(|(_, at)| at).collect();
        let waiting = std::mem::take(&mut self.0).into_iter().enumerate();
        let (woken, left): (Vec<_>, Vec<_>) = waiting.partition(|(at, _)| woken.contains(at));
        self.0 = left.into_iter().map(|(_, job)| job).collect();
        woken.into_iter().map(|(_, job)| job).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_of_each_namespace_are_woken_in_turn_and_each_once() {
        let job = |namespace: &str, n: usize| ObjectRef::<BatchJob>::new(&format!("j{n}")).within(namespace);
        let mut waiting = WaitingJobs::default();
        for n in 0..100 {
            waiting.add(&job("flood", n));
            waiting.add(&job("flood", n));
        }
        waiting.add(&job("quiet", 0));
        waiting.add(&job("gone", 0));
        waiting.remove(&job("gone", 0));
        let first = waiting.wake();
        assert!(first.len() == WOKEN && first.contains(&job("quiet", 0)) && !first.contains(&job("gone", 0)));
        assert!((0..WOKEN - 1).all(|n| first.contains(&job("flood", n))), "in the order in which they came: {first:?}");
        let all: Vec<_> = std::iter::from_fn(|| Some(waiting.wake()).filter(|woken| !woken.is_empty())).collect();
        assert_eq!(first.len() + all.iter().map(Vec::len).sum::<usize>(), 101);
    }
}
