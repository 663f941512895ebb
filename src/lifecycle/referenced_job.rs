//! A BatchJob whose results another one takes.

use super::finished::cost_nothing;
use crate::api::conditions::{RESULTS_WRITTEN, is_true};
use crate::api::{BatchJob, Outcome};

/// Describes why the results of the BatchJob `name` cannot be read yet; None if they can.
pub fn lacks_results(name: &str, job: Option<&BatchJob>) -> Option<String> {
    let Some(job) = job else {
        return Some(format!(
            "BatchJob '{name}' of `spec.input.batchJobRef` does not exist (if it was deleted, let another BatchJob read its results \
             with `spec.input.results`)"
        ));
    };
    let status = job.status.as_ref().filter(|status| status.outcome.is_some());
    if cost_nothing(job) {
        let (how, remedy) = match status.and_then(|status| status.outcome) {
            Some(Outcome::Cancelled) => (
                "was told to stop",
                "delete it and apply it again without `spec.stopPolicy`, or let this job name another one",
            ),
            _ => ("failed", "correct it"),
        };
        return Some(format!(
            "BatchJob '{name}' of `spec.input.batchJobRef` {how} before anything was sent, so it has no results; {remedy}"
        ));
    }
    match status {
        None => Some(format!("BatchJob '{name}' of `spec.input.batchJobRef` has not ended")),
        Some(status) if is_true(&status.conditions, RESULTS_WRITTEN) => None,
        Some(_) => Some(format!("BatchJob '{name}' of `spec.input.batchJobRef` ended without results")),
    }
}

/// Returns the BatchJobs that wait for each other's results, from `name` to `name` again; None if it waits for none that waits
/// for it. `waits_for` returns the BatchJob whose results another one takes.
pub fn circle(name: &str, waits_for: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    const LONGEST: usize = 64;
    let mut names = vec![name.to_string()];
    while names.len() <= LONGEST {
        let next = waits_for(names.last()?)?;
        names.push(next.clone());
        if next == name {
            return Some(names);
        }
    }
    None
}

/// Says that BatchJobs wait for each other's results.
pub fn in_a_circle(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!(
        "BatchJobs {} wait for each other's results, so none of them can begin; delete one, and apply it with another \
         `spec.input.batchJobRef`",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> BatchJob {
        let job = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "a"},
            "spec": {"providerRef": {"name": "llm"}, "input": {}, "output": {}}, "status": status,
        });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn results_are_read_once_they_are_written_and_until_then_the_reason_is_told() {
        let lock = json!({"specHash": "h", "outputURI": "s3://b/out/"});
        let written = json!([{"type": "ResultsWritten", "status": "True", "reason": "ManifestWritten", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        for (status, said) in [
            (json!({}), "has not ended"),
            (json!({"lock": lock}), "has not ended"),
            (json!({"outcome": "Failed"}), "failed before anything was sent"),
            (json!({"outcome": "Cancelled"}), "was told to stop before anything was sent"),
            (json!({"outcome": "Failed", "lock": lock}), "ended without results"),
        ] {
            assert!(lacks_results("a", Some(&job(status.clone()))).is_some_and(|why| why.contains(said)), "{status}");
        }
        for outcome in ["Succeeded", "PartiallySucceeded", "Failed"] {
            let ended = job(json!({"outcome": outcome, "lock": lock, "conditions": written}));
            assert_eq!(lacks_results("a", Some(&ended)), None, "{outcome}");
        }
        let missing = lacks_results("a", None).unwrap();
        assert!(missing.contains("does not exist") && missing.contains("`spec.input.results`"), "{missing}");
    }

    #[test]
    fn jobs_that_wait_for_each_other_are_named() {
        let next = |of: &str| match of {
            "a" => Some("b".to_string()),
            "b" => Some("c".to_string()),
            "c" => Some("a".to_string()),
            "into" => Some("a".to_string()),
            _ => None,
        };
        let names = circle("b", next).unwrap();
        assert_eq!(names, ["b", "c", "a", "b"]);
        assert!(in_a_circle(&names).starts_with("BatchJobs 'b', 'c', 'a', 'b' wait for each other's results"));
        assert_eq!(circle("into", next), None, "it is in no circle itself");
        assert_eq!(circle("alone", next), None);
    }
}
