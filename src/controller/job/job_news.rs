//! News of jobs for the CronBatchJobs that created them.

use std::sync::{Mutex, PoisonError};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;

use crate::api::{BatchJob, CronBatchJob, owner_of_child};
use crate::controller::runtime::schedule_looks::ScheduleLooks;
use crate::schedule::Child;

/// Finds out which events of the watch a schedule has to look at: its job begins, ends, or is deleted. The schedule looks at what
/// the watch knows, so it is told once the watch knows the news.
pub(super) struct JobNews {
    known: Store<BatchJob>,
    waiting: Mutex<Vec<ObjectRef<CronBatchJob>>>,
}

impl JobNews {
    pub fn new(known: Store<BatchJob>) -> JobNews {
        JobNews { known, waiting: Mutex::default() }
    }

    /// Compares an event with what is known before it.
    pub fn see(&self, event: &Event<BatchJob>) {
        let (job, is_gone) = match event {
            Event::Apply(job) | Event::InitApply(job) => (job, false),
            Event::Delete(job) => (job, true),
            Event::Init | Event::InitDone => return,
        };
        let Some(schedule) = schedule_of(job) else { return };
        let stage = |job: &BatchJob| Child { started: None, ..Child::of(job) };
        let before = self.known.get(&ObjectRef::from_obj(job));
        if is_gone || before.is_none_or(|before| stage(&before) != stage(job)) {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(schedule);
        }
    }

    /// Tells the schedules, after an event that is known now. What a list shows is known at its end.
    pub fn tell(&self, event: &Event<BatchJob>, looks: &ScheduleLooks) {
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(|schedule| looks.ask(schedule));
        }
    }
}

/// Returns the CronBatchJob that a job belongs to.
fn schedule_of(job: &BatchJob) -> Option<ObjectRef<CronBatchJob>> {
    let owner = owner_of_child(&job.metadata)?;
    Some(ObjectRef::new(&owner.name).within(job.metadata.namespace.as_deref()?))
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> BatchJob {
        serde_json::from_value(json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
            "metadata": {"name": "nightly-1", "namespace": "news", "uid": "u", "ownerReferences": [
                {"apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "name": "nightly", "uid": "c", "controller": true},
            ]},
            "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_schedule_is_told_when_its_job_begins_ends_or_goes_and_not_of_each_poll() {
        let (known, mut writer) = reflector::store();
        let news = JobNews::new(known);
        let mut looks = ScheduleLooks::default();
        let mut asked = looks.add(None);
        let (runs, ended) = (
            job(json!({})),
            job(json!({"conditions": [{"type": "Complete", "status": "True", "reason": "AllSucceeded", "message": "",
            "lastTransitionTime": "2026-11-21T02:30:00Z"}]})),
        );
        let polled = job(json!({"requests": {"total": 3}}));
        let story = [
            (Event::Apply(runs), true),
            (Event::Apply(polled), false),
            (Event::Apply(ended.clone()), true),
            (Event::Delete(ended), true),
        ];
        for (event, is_news) in story {
            news.see(&event);
            assert!(asked.try_recv().is_err(), "told before it is known: {event:?}");
            writer.apply_watcher_event(&event);
            news.tell(&event, &looks);
            assert_eq!(asked.try_recv().is_ok_and(|schedule| schedule.name == "nightly"), is_news, "{event:?}");
        }
    }
}
