//! The view of a BatchJob object on which decisions are made.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::conditions::reasons;
use crate::api::text::clip;
use crate::api::{BatchJob, FINALIZER, WaitFor, annotations};
use crate::controller::Context;
use crate::lifecycle::{
    self, Answers, Blocked, CostLimit, InputWait, JobView, MaxFailed, Owner, Plan, Subscription, expiry, is_finished,
    is_tidy,
};
use crate::money::{Usd, for_people};

/// Seconds that providers take for a batch at most, where a job does not ask for another time.
const COMPLETION_WINDOW: i32 = 86_400;

pub(crate) fn view(ctx: &Context, job: &BatchJob, spec_hash: String) -> JobView {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let spec = &job.spec;
    let (output_uri, blocked) = match lifecycle::output_uri(&spec.output, &namespace, &name, spec.run_id.as_deref()) {
        Ok(uri) => (uri, None),
        Err(message) => (String::new(), Some(Blocked { reason: reasons::INVALID_INPUT, message })),
    };
    JobView {
        owner: Owner { cluster: ctx.cluster.clone(), namespace, name, uid: job.uid().unwrap_or_default() },
        deleting_since: job.metadata.deletion_timestamp.as_ref().map(|t| t.0.as_millisecond()),
        finalizer: job.finalizers().iter().any(|f| f == FINALIZER),
        suspend: spec.suspend,
        stop: spec.stop_policy,
        spec_hash,
        output_uri,
        partial_results: spec.output.partial_results,
        lock: job.status.as_ref().and_then(|s| s.lock.clone()),
        input_wait: input_wait(job),
        shard_limit: match spec.output.config_map {
            Some(_) => lifecycle::SHARD_LIMIT_IN_CONFIG_MAPS,
            None => lifecycle::SHARD_LIMIT,
        },
        seal_at: match spec.output.config_map {
            Some(_) => usize::MAX,
            None => lifecycle::SEAL_AT,
        },
        parallelism: usize::try_from(spec.parallelism).unwrap_or(1),
        backoff_limit_per_batch: spec.backoff_limit_per_batch.unsigned_abs(),
        backoff_limit_per_request: spec.backoff_limit_per_request.unsigned_abs(),
        max_failed: spec.max_failed_requests.as_ref().and_then(max_failed),
        fail_on: spec.fail_on.clone(),
        budget: spec.budget.as_ref().map(|budget| CostLimit {
            // The schema allows nothing that cannot be read. If it did, nothing would be sent.
            most: Usd::parse(&budget.max_cost_usd).unwrap_or(Usd::ZERO),
            on_exceeded: budget.on_exceeded,
        }),
        canary: spec.canary.as_ref().map(|canary| canary.approval),
        approves: job.annotations().get(annotations::APPROVE).map(|id| clip(id.trim().into(), 64)),
        deadline: deadline(job),
        progress_deadline: spec.progress_deadline_seconds.map(|seconds| seconds.saturating_mul(1000)),
        completion_window: i64::from(spec.completion_window_seconds.unwrap_or(COMPLETION_WINDOW)) * 1000,
        poll_period: i64::from(spec.poll_period_seconds) * 1000,
        deletion_policy: spec.deletion_policy,
        provider_file_policy: spec.provider_file_policy,
        pinned: job.status.as_ref().is_some_and(|s| s.provider.is_some()),
        provider: None,
        submitted: job.status.as_ref().is_some_and(lifecycle::may_be_submitted),
        batches: job.status.iter().flat_map(|s| &s.batches).filter_map(|b| b.provider_id.clone()).collect(),
        estimated: for_people::amount(estimated(job)),
        remembered: remembered(job),
        finished: is_finished(job),
        reevaluated: false,
        tidy: is_tidy(job),
        expires_at: expiry(job, ctx.crons.since()),
        subscriptions: spec.notifications.iter().map(Subscription::from).collect(),
        answers: job.annotations().get(annotations::RESOLVE).map(|text| Answers::parse(text)).unwrap_or_default(),
        fingerprint: String::new(),
        blocked,
        store_is_away: false,
        is_lost: false,
    }
}

fn estimated(job: &BatchJob) -> Option<&str> {
    job.status.as_ref()?.cost.as_ref()?.estimated_usd.as_deref()
}

fn remembered(job: &BatchJob) -> Option<(String, Plan)> {
    let status = job.status.as_ref()?;
    let (work, requests) = (status.work.as_ref()?, status.requests?.total);
    let (work_hash, input) = (work.hash.clone()?, status.input.clone()?);
    let (too_large, left_out, reuse, models, canary) = Default::default();
    Some((work.id.clone(), Plan { work_hash, input, requests, too_large, left_out, reuse, models, canary }))
}

/// Returns the limit; None if the text is no percentage, which the schema does not allow.
fn max_failed(value: &IntOrString) -> Option<MaxFailed> {
    match value {
        IntOrString::Int(count) => Some(MaxFailed::Count(i64::from(*count))),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok().map(MaxFailed::Percent),
    }
}

fn deadline(job: &BatchJob) -> Option<i64> {
    Some(start(job)? + job.spec.active_deadline_seconds? * 1000)
}

/// Returns what the job waits for before its input is read.
fn input_wait(job: &BatchJob) -> Option<InputWait> {
    let input = &job.spec.input;
    let (of, timeout, field) = match (&input.wait_for, &input.batch_job_ref, &input.results) {
        (Some(WaitFor { uri, timeout_seconds }), ..) => {
            (uri.clone(), *timeout_seconds, "spec.input.waitFor.timeoutSeconds")
        }
        (None, Some(reference), _) => {
            (format!("the results of BatchJob '{}'", reference.name), None, "spec.activeDeadlineSeconds")
        }
        (None, None, Some(results)) => {
            let folder = results.object_store.uri.trim_end_matches('/');
            (format!("{folder}/manifest.json"), None, "spec.activeDeadlineSeconds")
        }
        (None, None, None) => return None,
    };
    // The start that status still names is not the one of a job that was suspended a moment ago.
    let since = start(job).filter(|_| !job.spec.suspend);
    let until = since.zip(timeout).map(|(since, timeout)| since + timeout * 1000);
    Some(InputWait { of, since, until, field })
}

fn start(job: &BatchJob) -> Option<i64> {
    Some(job.status.as_ref()?.start_time.as_ref()?.0.as_millisecond())
}
