//! The last look at a job: its object and its journal, as this process last read or wrote them.
//!
//! Decisions are made on it, so that a visit that finds nothing to do costs no call. A step that pays, destroys or writes is
//! decided on a look that is fresh enough for it; see [`Freshness`].

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::sync::Semaphore;

use crate::api::weight::json_bytes;
use crate::api::{BatchJob, annotations};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::{metadata, version};
use crate::lifecycle::{self, Freshness};

/// Milliseconds for which a look counts as recent.
const RECENT: i64 = 1_000;
/// Milliseconds after which an object that does not seem to change is read again: a watch can be broken.
const LONGEST: i64 = 600_000;
/// Milliseconds after which the journal, which no watch covers, is read again: another cluster may have taken the work over.
const LONGEST_OF_JOURNAL: i64 = 15_000;

/// Bytes that are kept of a person's answers.
const ANSWERS_LIMIT: usize = 16 << 10;

/// A job's object, without the content of its requests.
#[derive(Clone)]
pub(crate) struct CachedJob {
    pub job: Arc<BatchJob>,
    /// The hash of the spec, including the content of its requests.
    pub spec_hash: String,
    /// The time at which the look began (Unix milliseconds).
    pub at: i64,
    /// Bytes of memory that it takes.
    pub weight: usize,
}

/// Returns true if a look made at `at` is as fresh as `wanted` requires of a look that begins at `began`. A look that nothing
/// contradicts is good for `longest` milliseconds.
fn is_fresh(at: i64, wanted: Freshness, began: i64, longest: i64) -> bool {
    match wanted {
        Freshness::Any => began < at + longest,
        Freshness::Recent => began < at + RECENT,
        Freshness::Now => at >= began,
    }
}

/// Returns the same as [`is_fresh`], for a journal that was read or written at `at`.
pub(crate) fn is_fresh_journal(at: i64, wanted: Freshness, began: i64) -> bool {
    is_fresh(at, wanted, began, LONGEST_OF_JOURNAL)
}

impl CachedJob {
    fn new(mut job: BatchJob, spec_hash: String, at: i64) -> CachedJob {
        leave_out_requests(&mut job);
        // About twice the size of its text, most of which is short strings.
        let text = usize::try_from(json_bytes(&job)).unwrap_or(usize::MAX / 4);
        let weight = size_of::<BatchJob>() + 2 * text + spec_hash.len();
        CachedJob { job: Arc::new(job), spec_hash, at, weight }
    }

    /// Returns the look after a write of ours that was judged on it and left the spec alone.
    pub fn after(&self, metadata: ObjectMeta, edit: impl FnOnce(&mut BatchJob), at: i64) -> CachedJob {
        let mut job = BatchJob::clone(&self.job);
        job.metadata = metadata;
        edit(&mut job);
        CachedJob::new(job, self.spec_hash.clone(), at)
    }
}

/// Removes the content of the requests, which may be a megabyte: a reader of the input fetches it again. The answers of a
/// person are kept, up to [`ANSWERS_LIMIT`].
fn leave_out_requests(job: &mut BatchJob) {
    let said = |key: &'static str| {
        let text = job.annotations().get(key).filter(|text| text.len() <= ANSWERS_LIMIT)?;
        Some((key.to_string(), text.clone()))
    };
    let answers: Vec<(String, String)> =
        [annotations::RESOLVE, annotations::APPROVE].into_iter().filter_map(said).collect();
    let finalizers = job.metadata.finalizers.take();
    job.drop_requests();
    if !answers.is_empty() {
        job.annotations_mut().extend(answers);
    }
    job.metadata.finalizers = finalizers;
}

/// Returns a look at the object, as fresh as `wanted` requires of a look that begins at `began`; None if the object is gone.
pub(crate) async fn look(
    ctx: &Context,
    key: &BatchJob,
    last: Option<CachedJob>,
    wanted: Freshness,
    began: i64,
) -> Result<Option<CachedJob>, StepError> {
    let namespace = key.namespace().unwrap_or_default();
    if let Some(last) = last {
        if is_fresh(last.at, wanted, began, LONGEST) && is_the_latest(ctx, &last.job) {
            return Ok(Some(last));
        }
        let at = ctx.clock.now();
        let live = metadata::get::<BatchJob>(&ctx.client, Some(&namespace), &key.name_any()).await?;
        match live {
            Some(live) if live.uid == key.metadata.uid && live.resource_version == last.job.resource_version() => {
                return Ok(Some(CachedJob { at, ..last }));
            }
            Some(live) if live.uid == key.metadata.uid => {}
            _ => return Ok(None),
        }
        return Ok(read(ctx, key).await?.map(|(job, at)| {
            let same = job.metadata.generation.is_some() && job.metadata.generation == last.job.metadata.generation;
            let spec_hash = if same { last.spec_hash } else { lifecycle::spec_hash(&job.spec) };
            CachedJob::new(job, spec_hash, at)
        }));
    }
    Ok(read(ctx, key).await?.map(|(job, at)| {
        let spec_hash = lifecycle::spec_hash(&job.spec);
        CachedJob::new(job, spec_hash, at)
    }))
}

/// Reads the whole object, and returns it with the time at which the look began; None if it is gone.
pub(crate) async fn read(ctx: &Context, key: &BatchJob) -> Result<Option<(BatchJob, i64)>, StepError> {
    let at = ctx.clock.now();
    let job = whole(ctx, &key.namespace().unwrap_or_default(), &key.name_any()).await?;
    Ok(job.filter(|job| job.uid() == key.uid()).map(|job| (job, at)))
}

/// Limits the objects that are read whole at a time: each takes some 6 MB meanwhile.
static READS: Semaphore = Semaphore::const_new(8);

/// Reads the whole object of this name; None if there is none.
pub(crate) async fn whole(ctx: &Context, namespace: &str, name: &str) -> Result<Option<BatchJob>, StepError> {
    let jobs: Api<BatchJob> = Api::namespaced(ctx.client.clone(), namespace);
    let _one = READS.acquire().await;
    Ok(jobs.get_opt(name).await?)
}

/// Returns true if the watch knows nothing newer. A change by a person is noticed by its watch event.
fn is_the_latest(ctx: &Context, job: &BatchJob) -> bool {
    let object = ObjectRef::from_obj(job);
    let known = ctx.jobs.watched(&object);
    known.is_some_and(|known| known.uid() == job.uid() && !version::is_older(&job.metadata, &known.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_pays_is_decided_on_a_look_that_was_made_for_it_and_a_wait_on_any() {
        let (began, hour) = (10_000, 3_600_000);
        let fresh = |at, wanted| is_fresh(at, wanted, began, LONGEST);
        assert!(fresh(began, Freshness::Now) && !fresh(began - 1, Freshness::Now));
        assert!(fresh(began - RECENT + 1, Freshness::Recent) && !fresh(began - RECENT, Freshness::Recent));
        assert!(fresh(began - LONGEST + 1, Freshness::Any) && !fresh(began - hour, Freshness::Any));
        let unread = 0;
        let now = 1_764_444_600_000;
        for wanted in [Freshness::Any, Freshness::Recent, Freshness::Now] {
            assert!(!is_fresh_journal(unread, wanted, now), "a journal that changed, or may have, is read");
        }
    }

    #[test]
    fn a_look_keeps_what_is_decided_by_and_lets_go_of_the_requests() {
        let job = serde_json::json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
            "metadata": {
                "name": "j", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "7",
                "finalizers": ["llmbatch.dev/batchjob", "somebody.else/keeps-it"],
                "annotations": {annotations::RESOLVE: "lost-1=resend,".repeat(200), "other": "x".repeat(10_000)},
            },
            "spec": {
                "providerRef": {"name": "llm"},
                "input": {"inline": {"requests": [{"customID": "a", "body": {"messages": "x".repeat(10_000)}}]}},
                "output": {"configMap": {"name": "answers"}},
            },
        });
        let job: BatchJob = serde_json::from_value(job).unwrap();
        let seen = CachedJob::new(job.clone(), "h".into(), 1);
        assert_eq!(seen.job.metadata.finalizers, job.metadata.finalizers, "those of others are written back");
        assert_eq!(seen.job.annotations()[annotations::RESOLVE], job.annotations()[annotations::RESOLVE]);
        let kept = serde_json::to_string(&*seen.job).unwrap();
        assert!(kept.len() < 5_000, "{} bytes", kept.len());
    }
}
