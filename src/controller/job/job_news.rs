//! News of jobs for the CronBatchJobs that created them, and for the jobs that take their results.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;

use crate::api::{BatchJob, CronBatchJob, owner_of_child};
use crate::controller::runtime::schedule_looks::ScheduleLooks;
use crate::lifecycle::{is_finished, lacks_results};
use crate::schedule::Child;

/// Finds out which events of the watch somebody has to look at. A schedule does when its job begins, ends, or is deleted; a job that
/// takes results, when those of the other job are there, or that job is created or deleted. Both look at what the watch knows, so
/// they are told once the watch knows the news.
pub(super) struct JobNews {
    known: Store<BatchJob>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    schedules: Vec<ObjectRef<CronBatchJob>>,
    /// Namespaces and names of jobs whose results may be waited for.
    results: HashSet<(String, String)>,
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
        let before = self.known.get(&ObjectRef::from_obj(job));
        let is_news = |differs: &dyn Fn(&BatchJob) -> bool| is_gone || before.as_deref().is_none_or(differs);
        let stage = |job: &BatchJob| Child { started: None, ..Child::of(job) };
        if let Some(schedule) = schedule_of(job).filter(|_| is_news(&|before| stage(before) != stage(job))) {
            self.waiting().schedules.push(schedule);
        }
        let lacks = |job: &BatchJob| lacks_results("", Some(job));
        if is_news(&|before| lacks(before) != lacks(job)) {
            self.waiting().results.insert((job.namespace().unwrap_or_default(), job.name_any()));
        }
    }

    /// Tells the schedules, after an event that is known now, and returns the jobs that wait for results of which there is news.
    /// What a list shows is known at its end.
    pub fn tell(&self, event: &Event<BatchJob>, looks: &ScheduleLooks) -> Vec<Arc<BatchJob>> {
        if matches!(event, Event::Init | Event::InitApply(_)) {
            return vec![];
        }
        let Waiting { schedules, results } = std::mem::take(&mut *self.waiting());
        schedules.into_iter().for_each(|schedule| looks.ask(schedule));
        if results.is_empty() {
            return vec![];
        }
        let waits = |job: &Arc<BatchJob>| {
            let reference = job.spec.input.batch_job_ref.as_ref();
            reference.is_some_and(|of| results.contains(&(job.namespace().unwrap_or_default(), of.name.clone())))
        };
        self.known.state().into_iter().filter(|job| waits(job) && !is_finished(job)).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_job_is_told_when_the_job_whose_results_it_waits_for_is_created_ends_or_goes() {
        let named = |name: &str, input: Value, status: Value| {
            let mut job = job(status);
            (job.metadata.name, job.metadata.uid) = (Some(name.into()), Some(name.into()));
            job.spec.input = serde_json::from_value(input).unwrap();
            job
        };
        let (known, mut writer) = reflector::store();
        let (news, looks) = (JobNews::new(known), ScheduleLooks::default());
        let mut told = |event: Event<BatchJob>| {
            news.see(&event);
            writer.apply_watcher_event(&event);
            news.tell(&event, &looks).iter().map(|job| job.name_any()).collect::<Vec<_>>()
        };
        let reference = json!({"batchJobRef": {"name": "first", "select": "Succeeded"}});
        let over = json!({"outcome": "Succeeded", "lock": {"specHash": "h", "outputURI": "u"}});
        assert!(told(Event::Apply(named("second", reference.clone(), json!({})))).is_empty());
        assert!(told(Event::Apply(named("third", json!({}), json!({})))).is_empty());
        let mut failed = named("fourth", reference, over.clone());
        failed.metadata.generation = None;
        assert!(told(Event::Apply(failed)).is_empty(), "it has ended");
        let first = |status: Value| named("first", json!({}), status);
        assert_eq!(told(Event::Apply(first(json!({})))), ["second"]);
        assert!(told(Event::Apply(first(json!({"requests": {"total": 3}})))).is_empty(), "a poll");
        let mut ended = over;
        ended["conditions"] = json!([{"type": "ResultsWritten", "status": "True", "reason": "ManifestWritten",
            "message": "", "lastTransitionTime": "2026-11-21T02:30:00Z"}]);
        assert_eq!(told(Event::Apply(first(ended.clone()))), ["second"]);
        assert_eq!(told(Event::Delete(first(ended))), ["second"]);
    }
}
