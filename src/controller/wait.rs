//! `batchjob-operator wait`: the end of a BatchJob as an exit code, for the step of a pipeline that comes after it.

use std::fmt::{self, Display, Formatter};
use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ApiResource;
use kube::core::{NotUsed, Object};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Error, watch_object};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::runtime::{cluster, dependencies};
use crate::api::conditions::{COMPLETE, STALLED};
use crate::api::{BatchJobObject, Display as Progress};

/// Seconds within which the job must be there: a pipeline may start to wait before the job is created.
const APPEARS_WITHIN: Duration = Duration::from_secs(60);
/// Refusals of the API server, one after the other, after which nothing better is expected.
const REFUSALS: u32 = 3;

/// The fields of status that are read; whatever a newer operator adds is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    observed_generation: Option<i64>,
    outcome: Option<String>,
    display: Option<Progress>,
}

type Job = Object<NotUsed, Status>;

/// How the wait for a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request was answered.
    Succeeded(String),
    /// Some requests were not answered.
    PartiallySucceeded(String),
    /// The job failed or was cancelled, is not there, or cannot be read.
    Failed(String),
    /// The time was over before the job ended.
    TimedOut(String),
}

impl Ended {
    /// The exit code: 0, 2, 1 and 124.
    pub fn code(&self) -> u8 {
        match self {
            Ended::Succeeded(_) => 0,
            Ended::PartiallySucceeded(_) => 2,
            Ended::Failed(_) => 1,
            Ended::TimedOut(_) => 124,
        }
    }
}

impl Display for Ended {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Ended::Succeeded(said) | Ended::PartiallySucceeded(said) | Ended::Failed(said) | Ended::TimedOut(said)) =
            self;
        f.write_str(said)
    }
}

/// Watches the BatchJob `name` until it ends or `timeout` is over, and writes each new stage to standard error. The namespace is
/// that of the Pod or of the kubeconfig, if none is named.
///
/// # Errors
/// When no cluster is named.
pub async fn wait_for_end(namespace: Option<String>, name: &str, timeout: Duration) -> Result<Ended, String> {
    let config = cluster::infer()?;
    let client = Client::try_from(dependencies::watching_config(config)).map_err(|e| e.to_string())?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_string());
    let api = Api::namespaced_with(client, &namespace, &ApiResource::erase::<BatchJobObject>(&()));
    Ok(watch(api, &namespace, name, timeout).await)
}

async fn watch(api: Api<Job>, namespace: &str, name: &str, timeout: Duration) -> Ended {
    let id = format!("BatchJob '{namespace}/{name}'");
    let (now, mut seen) = (Instant::now(), Seen::Nothing);
    // A time that no clock can tell is as good as for ever.
    let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(u32::MAX.into()));
    let mut looks = pin!(watch_object(api, name).default_backoff());
    let mut refusals = 0;
    loop {
        let until = if matches!(seen, Seen::Missing) { deadline.min(now + APPEARS_WITHIN) } else { deadline };
        match timeout_at(until, looks.try_next()).await {
            Err(_) if until < deadline => return Ended::Failed(format!("{id} is not there: {MISSING}")),
            Err(_) => return Ended::TimedOut(format!("{id} has not ended within {timeout:?}: {}", seen.last())),
            Ok(Ok(Some(Some(job)))) => {
                refusals = 0;
                if let Some(ended) = ended(&id, &job) {
                    return ended;
                }
                seen = tell(&id, &job, seen);
            }
            Ok(Ok(Some(None))) if matches!(seen, Seen::Job(_)) => {
                return Ended::Failed(format!("{id} was deleted before its end was seen: {}", seen.last()));
            }
            Ok(Ok(Some(None))) => (refusals, seen) = (0, Seen::Missing),
            Ok(Ok(None)) => return Ended::Failed(format!("{id} cannot be watched any more: {}", seen.last())),
            Ok(Err(error)) => {
                let refused = refusal(&error);
                refusals = if refused.is_some() { refusals + 1 } else { 0 };
                match refused {
                    Some(advice) if refusals >= REFUSALS => {
                        return Ended::Failed(format!("{id} cannot be read: {advice}"));
                    }
                    _ => eprintln!("{id} cannot be read now, and is looked at again: {error}"),
                }
                if !matches!(seen, Seen::Job(_)) {
                    seen = Seen::Unreadable(error.to_string());
                }
            }
        }
    }
}

/// What the last look showed.
enum Seen {
    Nothing,
    Missing,
    Unreadable(String),
    Job(String),
}

const MISSING: &str = "check its name, and name its namespace with --namespace";

impl Seen {
    fn last(&self) -> &str {
        match self {
            Seen::Nothing => "the API server did not answer",
            Seen::Missing => MISSING,
            Seen::Unreadable(said) | Seen::Job(said) => said,
        }
    }
}

/// Writes the stage of the job if it is a new one.
fn tell(id: &str, job: &Job, before: Seen) -> Seen {
    let said = stage(job);
    let is_new = !matches!(&before, Seen::Job(before) if without_progress(before) == without_progress(&said));
    if is_new {
        eprintln!("{id} is at {said}");
    }
    Seen::Job(said)
}

/// Text before the progress, which changes with each poll.
fn without_progress(stage: &str) -> &str {
    stage.split(PROGRESS).next().unwrap_or_default()
}

const PROGRESS: &str = "; requests that are done: ";

/// The stage of a job that has not ended: the reason and message of `Complete`, and of `Stalled` where a person has to act.
fn stage(job: &Job) -> String {
    let Some(status) = &job.status else { return "Pending: the operator has not seen it yet".into() };
    let of = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let mut said = match of(STALLED).filter(|stalled| stalled.status == "True").or_else(|| of(COMPLETE)) {
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None => "Pending: not started yet".into(),
    };
    if let Some(Progress { progress, .. }) = &status.display {
        said += PROGRESS;
        said += progress;
    }
    said
}

/// How the job ended; None while it has not, or while its spec is another one than status speaks of, as for `kubectl wait`.
fn ended(id: &str, job: &Job) -> Option<Ended> {
    let status = job.status.as_ref()?;
    if status.observed_generation < job.metadata.generation {
        return None;
    }
    let outcome = status.outcome.as_deref()?;
    let complete = status.conditions.iter().find(|condition| condition.type_ == COMPLETE);
    let why = complete.map(|c| format!(": {}: {}", c.reason, c.message)).unwrap_or_default();
    let said = format!("{id} has the outcome {outcome}{why}");
    Some(match outcome {
        "Succeeded" => Ended::Succeeded(said),
        "PartiallySucceeded" => Ended::PartiallySucceeded(said),
        _ => Ended::Failed(said),
    })
}

/// Advice for an answer of the API server that trying again does not mend; None for any other error.
fn refusal(error: &Error) -> Option<String> {
    let status = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status,
        Error::WatchError(status) => status,
        _ => return None,
    };
    let advice = match status.code {
        401 => "its ServiceAccount or kubeconfig has no valid credential",
        403 => "bind the ClusterRole `batchjob-view` to its ServiceAccount in the namespace of the job",
        404 => "the cluster does not have the kind BatchJob: install the operator",
        _ => return None,
    };
    Some(format!("{}; {advice}", status.message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(generation: i64, status: Value) -> Job {
        let job = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "spec": {"model": "m"},
            "metadata": {"name": "j", "namespace": "n", "generation": generation}, "status": status});
        serde_json::from_value(job).unwrap()
    }

    fn with(outcome: Value, reason: &str) -> Value {
        let complete = json!({"type": "Complete", "status": "True", "reason": reason, "message": "2 of 3", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        json!({"observedGeneration": 1, "outcome": outcome, "conditions": [complete], "batches": [{"state": "OfTomorrow"}]})
    }

    #[test]
    fn each_outcome_has_its_code_and_a_newer_one_is_no_success() {
        for (outcome, code) in
            [("Succeeded", 0), ("PartiallySucceeded", 2), ("Failed", 1), ("Cancelled", 1), ("OfTomorrow", 1)]
        {
            let ended = ended("BatchJob 'n/j'", &job(1, with(json!(outcome), "R"))).unwrap();
            assert_eq!(ended.code(), code, "{outcome}");
            assert_eq!(ended.to_string(), format!("BatchJob 'n/j' has the outcome {outcome}: R: 2 of 3"));
        }
    }

    #[test]
    fn a_job_that_runs_or_was_edited_since_has_not_ended() {
        assert_eq!(ended("j", &job(1, with(Value::Null, "InProgress"))), None);
        assert_eq!(ended("j", &job(2, with(json!("Succeeded"), "AllSucceeded"))), None, "status is of another spec");
        assert_eq!(ended("j", &job(1, Value::Null)), None);
    }

    #[test]
    fn progress_is_no_new_stage_and_what_a_person_has_to_mend_is() {
        let mut at = with(Value::Null, "InProgress");
        at["display"] = json!({"progress": "1/3 (33%)"});
        let first = stage(&job(1, at.clone()));
        assert_eq!(first, "InProgress: 2 of 3; requests that are done: 1/3 (33%)");
        at["display"]["progress"] = json!("2/3 (66%)");
        assert_eq!(without_progress(&first), without_progress(&stage(&job(1, at.clone()))));
        let stalled = json!({"type": "Stalled", "status": "True", "reason": "SecretNotFound", "message": "create it", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        at["conditions"].as_array_mut().unwrap().push(stalled);
        assert!(stage(&job(1, at)).starts_with("SecretNotFound: create it"));
    }
}
