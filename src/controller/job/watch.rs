//! The watch of BatchJobs, and the controller that visits them.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::info;

use super::job_news::JobNews;
use super::reconcile::reconcile;
use crate::api::{BatchJob, Outcome, conditions};
use crate::controller::runtime::watch_backoff::{NoBackoff, WatchBackoff};
use crate::controller::{Context, log_stream_error};
use crate::lifecycle::{Load, cost_nothing, is_finished};
use crate::telemetry::Health;

/// Number of jobs in one page of a list. A job may hold 1.5 MB of requests, and a page takes three times its size while it is read.
const PAGE: u32 = 10;
/// The pause after an error of `reconcile`, which the controller requires although `reconcile` never fails.
const BROKE_OFF: Duration = Duration::from_secs(60);

/// One namespace to watch, or all namespaces.
pub(crate) struct Scope {
    namespace: Option<String>,
    jobs: Store<BatchJob>,
    writer: Writer<BatchJob>,
    pokes: UnboundedReceiver<ObjectRef<BatchJob>>,
}

/// A watched namespace (None for all), the store of its jobs, and the sender of requests for visits. The stored jobs are hints only: they
/// may be old, and hold no more than [`BatchJob::keep_for_the_watch`] leaves.
pub(super) type WatchedJobs = (Option<String>, Store<BatchJob>, UnboundedSender<ObjectRef<BatchJob>>);

/// Returns the two ends of the watch of a namespace, or of all namespaces for None: one to read, and one for [`watch`].
pub(super) fn scope(namespace: Option<String>) -> (WatchedJobs, Scope) {
    let (send, pokes) = mpsc::unbounded_channel();
    let (jobs, writer) = reflector::store();
    ((namespace.clone(), jobs.clone(), send), Scope { namespace, jobs, writer, pokes })
}

/// Waits until the watch of `namespace` has listed its jobs.
pub(super) async fn synced(watched: &[WatchedJobs], namespace: Option<&str>) {
    for (_, store, _) in watched.iter().filter(|(scope, ..)| scope.as_deref() == namespace) {
        // A store that fails belongs to a watch that ended: the operator stops.
        let _ = store.wait_until_ready().await;
    }
}

/// Visits the jobs of `scope` until the operator stops. `client` is used for the watch only.
pub(crate) async fn watch(scope: Scope, client: &Client, context: &Arc<Context>, health: &Health) {
    let Scope { namespace, jobs, writer, pokes } = scope;
    let api: Api<BatchJob> = match &namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (known, watched, of) = (jobs.clone(), namespace.clone(), context.clone());
    let counted = context.clone();
    let changed =
        predicates::generation.combine(predicates::annotations).combine(predicates::finalizers).combine(has_status);
    let (news, others) = (Arc::new(JobNews::new(jobs.clone())), context.clone());
    let seen = news.clone();
    let stream = watcher(api, watcher::Config::default().page_size(PAGE))
        .backoff(WatchBackoff::new(context.clock.clone()))
        .inspect_ok(move |event| seen.see(event))
        .modify(move |job| {
            count(&counted, job);
            job.keep_for_the_watch();
        })
        .reflect(writer)
        .inspect_ok(move |event| end_job_states(event, &watched, &known, &of))
        .inspect_ok(move |event| {
            for job in news.tell(event, &others.schedule_looks) {
                others.jobs.look_for_input(&job);
            }
        })
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let pokes = futures::stream::unfold(pokes, |mut p| async { p.recv().await.map(|job| (job, p)) });
    let synced = jobs.clone();
    let ready = async {
        if synced.wait_until_ready().await.is_ok() {
            health.set_ready(true);
            info!(namespace = namespace.as_deref().unwrap_or("*"), "watching BatchJobs");
        }
    };
    let stop = context.stop.clone();
    let run = Controller::for_stream(stream, jobs)
        .trigger_backoff(NoBackoff)
        .reconcile_on(pokes)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(BROKE_OFF), context.clone())
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                log_stream_error("BatchJobs", &error);
            }
        });
    tokio::join!(run, async {
        tokio::select! { () = ready => {}, () = stop.cancelled() => {} }
    });
}

/// Counts the batches in a job's status towards the limit of its account, until the job's journal is read and says how many there are.
fn count(ctx: &Context, job: &BatchJob) {
    let Some(uid) = job.metadata.uid.as_deref() else { return };
    let Some(status) = &job.status else { return };
    let Some(provider) = &status.provider else { return };
    if !is_finished(job) {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        ctx.accounts.guess(&provider.uid, uid, namespace, Load::of_status(status));
    }
}

/// Drops the states of jobs that were deleted without a last visit, for example because a person removed the finalizer by hand. They are
/// found by the event of their deletion, or, if they were deleted while nobody watched, by their absence from a complete list.
fn end_job_states(
    event: &watcher::Event<BatchJob>,
    scope: &Option<String>,
    known: &Store<BatchJob>,
    context: &Context,
) {
    match event {
        watcher::Event::Delete(job) => context.jobs.end(context, &job.uid().unwrap_or_default()),
        watcher::Event::InitDone => {
            let gone = context.jobs.job_states.uids_where(|uid, job| {
                let watched = scope.is_none() || *scope == job.namespace;
                watched && known.get(job).is_none_or(|known| known.uid().as_deref() != Some(uid))
            });
            gone.iter().for_each(|uid| context.jobs.end(context, uid));
        }
        watcher::Event::Apply(_) | watcher::Event::Init | watcher::Event::InitApply(_) => {}
    }
}

/// Tells the predicate whether a job has a status. If a restore or a person removes it, the job is visited, even after its end, and the
/// status is written again.
fn has_status(job: &BatchJob) -> Option<u64> {
    Some(u64::from(job.status.is_some()))
}

/// The value of the label `condition` for jobs whose condition `Progressing` is False.
const NOT_PROGRESSING: &str = "NotProgressing";

/// Returns the numbers of jobs that need a person, by condition.
pub(super) fn in_need(known: &[Store<BatchJob>]) -> Vec<(&'static str, i64)> {
    let of = |condition: &'static str| {
        let jobs = known.iter().flat_map(Store::state);
        // A job that failed after it was submitted is over, and nobody can fix it; one that was told to stop needs no fix.
        let outcome = |job: &BatchJob| job.status.as_ref().and_then(|s| s.outcome);
        let open = jobs.filter(|job| match outcome(job) {
            Some(Outcome::Cancelled) => false,
            outcome => outcome.is_none() || cost_nothing(job),
        });
        let in_need =
            open.filter(|job| job.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, condition)));
        (condition, i64::try_from(in_need.count()).unwrap_or(i64::MAX))
    };
    vec![of(conditions::HELD), of(conditions::STALLED), (NOT_PROGRESSING, not_progressing(known))]
}

/// Returns the number of jobs whose batches do not get on.
fn not_progressing(known: &[Store<BatchJob>]) -> i64 {
    let jobs = known.iter().flat_map(Store::state);
    let of = |job: &BatchJob| conditions::status_of(&job.status.as_ref()?.conditions, conditions::PROGRESSING);
    i64::try_from(jobs.filter(|job| of(job) == Some(false)).count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_namespace_that_cannot_be_read_keeps_no_other_from_being_known() {
        let (shut, _unread) = scope(Some("shut".into()));
        let (open, mut read) = scope(Some("open".into()));
        let watched = [shut, open];
        assert_eq!(synced(&watched, Some("open")).now_or_never(), None);
        read.writer.apply_watcher_event(&watcher::Event::Init);
        read.writer.apply_watcher_event(&watcher::Event::InitDone);
        assert_eq!(synced(&watched, Some("open")).now_or_never(), Some(()));
        assert_eq!(synced(&watched, Some("shut")).now_or_never(), None);
    }

    /// A person who told a job to stop has nothing to mend.
    #[test]
    fn jobs_that_wait_for_a_person_are_counted_and_those_that_were_told_to_stop_are_not() {
        let job = |name: &str, outcome: serde_json::Value| -> BatchJob {
            let condition = |type_: &str, status: &str| {
                serde_json::json!({"type": type_, "status": status, "reason": "Any", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let mut conditions = vec![condition("Stalled", "True")];
            if outcome.is_null() {
                conditions.push(condition("Progressing", "False"));
            }
            let mut status = serde_json::json!({ "conditions": conditions });
            if !outcome.is_null() {
                status["outcome"] = outcome;
            }
            serde_json::from_value(serde_json::json!({
                "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": name, "namespace": "n"},
                "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}}, "status": status,
            }))
            .unwrap()
        };
        let (known, mut writer) = kube::runtime::reflector::store();
        for (name, outcome) in [("runs", None), ("failed-for-free", Some("Failed")), ("stopped", Some("Cancelled"))] {
            writer.apply_watcher_event(&watcher::Event::Apply(job(name, outcome.into())));
        }
        assert_eq!(in_need(&[known]), [(conditions::HELD, 0), (conditions::STALLED, 2), (NOT_PROGRESSING, 1)]);
    }
}
