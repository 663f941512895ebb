//! The parts of BatchJobs that this process keeps in memory. An object has up to 1.5 MB, and there are thousands.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};

use super::text::clip;
use super::{
    BatchJob, BatchJobSpec, BatchJobStatus, BatchStatus, CronBatchJob, CronBatchJobStatus, FINALIZER, InlineInput,
    Input, InputStatus, NotificationStatus, ObjectStoreLocation, Output, annotations, conditions, owner_of_child,
};

/// Most bytes of the names that one job refers to: URIs, Secrets and ConfigMaps.
const REFERENCES_LIMIT: usize = 1 << 10;
/// Most batches of one job whose ids are kept.
const BATCHES_LIMIT: usize = 32;
/// Most bytes of an annotation. Longer answers are read from the object.
const ANNOTATION_LIMIT: usize = 1 << 10;

impl BatchJob {
    /// Drops the parts that only the pass over the input needs, which reads the object anew: requests, template and
    /// defaults, and metadata that decides nothing. The kind of the input's source stays.
    ///
    /// The schema bounds the rest: names and URIs of the spec, and the status. [`crate::lifecycle::spec_hash`] has to
    /// be taken before, since it changes.
    pub fn drop_requests(&mut self) {
        drop_requests(&mut self.spec);
        self.metadata = metadata(std::mem::take(&mut self.metadata));
    }

    /// Drops everything except for what a watch needs: that there is an object to look at, whether the job is over, and
    /// the objects that it refers to. At most some 8 KiB are left.
    pub fn keep_for_the_watch(&mut self) {
        self.drop_requests();
        let spec = &mut self.spec;
        match references(spec) {
            Some(input) => spec.input = input,
            None => (spec.input, spec.output, spec.reuse_from) = (Input::unknown(), spec.output.server(), None),
        }
        (spec.max_failed_requests, spec.fail_on) = (None, vec![]);
        spec.notifications.clear();
        self.status = self.status.take().map(status);
    }
}

impl CronBatchJob {
    /// Drops everything except for what a watch needs: that there is an object to look at, and whether it is `Ready`.
    pub fn keep_for_the_watch(&mut self) {
        let template = &mut self.spec.job_template;
        template.metadata = None;
        drop_requests(&mut template.spec);
        (template.spec.input, template.spec.output) = (Input::unknown(), Output::default());
        template.spec.reuse_from = None;
        template.spec.notifications.clear();
        self.metadata = metadata(std::mem::take(&mut self.metadata));
        self.status = self.status.take().map(|mut status| {
            conditions::keep_only(&mut status.conditions, conditions::READY);
            CronBatchJobStatus { conditions: status.conditions, ..Default::default() }
        });
    }
}

fn drop_requests(spec: &mut BatchJobSpec) {
    (spec.request_defaults, spec.request_defaults_json) = (None, None);
    spec.input.template = None;
    spec.input.inline = spec.input.inline.take().map(|_| InlineInput::default());
}

impl Input {
    /// Returns the mark of an input whose references were too long to be kept. Code that needs them has to read the
    /// object. No list of ConfigMaps that the schema accepts is empty.
    fn unknown() -> Input {
        Input { config_maps: Some(vec![]), ..Default::default() }
    }

    /// Returns whether the references of the job were too long to be kept.
    pub fn is_unknown(&self) -> bool {
        self.config_maps.as_ref().is_some_and(Vec::is_empty)
    }
}

impl Output {
    /// Returns the server of the output alone, by which jobs take turns.
    fn server(&self) -> Output {
        let of = |location: &ObjectStoreLocation| ObjectStoreLocation {
            endpoint: location.endpoint.clone(),
            ..Default::default()
        };
        Output { object_store: self.object_store.as_ref().map(of), ..Default::default() }
    }
}

/// Returns the metadata that decisions use. Anybody may write the rest.
fn metadata(all: ObjectMeta) -> ObjectMeta {
    let ours = [annotations::RESOLVE, annotations::APPROVE, annotations::RECONCILE_REQUESTED_AT];
    let kept = |(key, value): (String, String)| {
        ours.contains(&key.as_str()).then(|| match key == annotations::RESOLVE && value.len() > ANNOTATION_LIMIT {
            // The hash changes whenever the answer does.
            true => (key, blake3::hash(value.as_bytes()).to_hex().to_string()),
            false => (key, clip(value, ANNOTATION_LIMIT)),
        })
    };
    // A reference that no API server would make is nobody's.
    let is_short = |owner: &&OwnerReference| owner.name.len() + owner.uid.len() + owner.api_version.len() <= 400;
    let owner = owner_of_child(&all).filter(is_short).cloned();
    let finalizers = all.finalizers.map(|all| all.into_iter().filter(|finalizer| finalizer == FINALIZER).collect());
    ObjectMeta {
        annotations: all.annotations.map(|all| all.into_iter().filter_map(kept).collect()),
        creation_timestamp: all.creation_timestamp,
        deletion_timestamp: all.deletion_timestamp,
        finalizers,
        generation: all.generation,
        name: all.name,
        namespace: all.namespace,
        owner_references: owner.map(|owner| vec![owner]),
        resource_version: all.resource_version,
        uid: all.uid,
        ..Default::default()
    }
}

/// Returns the input with the names of other objects alone; None if the names that the spec refers to are too long to be kept.
fn references(spec: &BatchJobSpec) -> Option<Input> {
    let (input, output) = (&spec.input, &spec.output);
    let of = |location: &ObjectStoreLocation| {
        let more = [&location.endpoint, &location.region].into_iter().flatten().map(String::len).sum::<usize>();
        location.uri.len() + more + location.secret_ref.name.len()
    };
    let maps = input.config_maps.iter().flatten();
    let results = input.results.iter().map(|results| &results.object_store);
    let reused = spec.reuse_from.iter().flatten().map(|source| &source.object_store);
    let locations = input.object_store.iter().chain(results).chain(&output.object_store).chain(reused);
    let bytes = maps.map(|map| map.name.len() + 24).sum::<usize>() + locations.map(of).sum::<usize>();
    (bytes <= REFERENCES_LIMIT).then(|| {
        let Input { inline, object_store, config_maps, batch_job_ref, results, format, .. } = input.clone();
        let sources = Input { inline, object_store, config_maps, batch_job_ref, results, ..Default::default() };
        Input { format, ..sources }
    })
}

fn status(all: BatchJobStatus) -> BatchJobStatus {
    let is_over = all.outcome.is_some();
    let condition = |c: Condition| Condition { message: String::new(), ..c };
    let batch = |batch: BatchStatus| BatchStatus { provider_id: batch.provider_id, ..Default::default() };
    let batches: Vec<BatchStatus> = match is_over {
        true => vec![],
        false => all.batches.into_iter().filter(|b| b.provider_id.is_some()).take(BATCHES_LIMIT).map(batch).collect(),
    };
    BatchJobStatus {
        conditions: all.conditions.into_iter().map(condition).collect(),
        observed_generation: all.observed_generation,
        last_handled_reconcile_at: all.last_handled_reconcile_at,
        observed_references: all.observed_references,
        outcome: all.outcome,
        protocol_version: all.protocol_version,
        lock: all.lock.map(|_| Default::default()),
        provider: all.provider,
        start_time: all.start_time,
        submission_time: all.submission_time,
        last_progress_time: all.last_progress_time,
        completion_time: all.completion_time,
        // The presence of the input is kept, not its content.
        input: all.input.map(|_| InputStatus::default()),
        batches,
        // One stands for all that wait.
        notifications: all
            .notifications
            .into_iter()
            .find(NotificationStatus::is_pending)
            .into_iter()
            .map(pending)
            .collect(),
        ..Default::default()
    }
}

/// Returns a message that waits, without its texts.
fn pending(message: NotificationStatus) -> NotificationStatus {
    NotificationStatus { message: String::new(), last_error: String::new(), questions: vec![], ..message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn watched(mut job: BatchJob) -> BatchJob {
        job.keep_for_the_watch();
        job
    }

    fn job(spec: Value) -> BatchJob {
        let location = |uri: &str| json!({"uri": uri, "secretRef": {"name": "s3"}});
        let mut job = json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
            "metadata": {
                "name": "j", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "7",
                "annotations": {"note": "x".repeat(200_000), annotations::RESOLVE: "h=keep", annotations::RECONCILE_REQUESTED_AT: "z".repeat(5_000)},
                "labels": {"l": "x".repeat(63)},
                "finalizers": [FINALIZER, "other.dev/x".repeat(1_000)],
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o".repeat(10_000), "uid": "u"}],
            },
            "spec": {"providerRef": {"name": "p"}, "output": {"objectStore": location("s3://b/out/")}},
            "status": {
                "outcome": null, "observedGeneration": 3, "submissionTime": "2026-01-01T00:00:00Z",
                "lock": {"specHash": "s".repeat(64), "outputURI": "u".repeat(2_000)},
                "conditions": [{"type": "Held", "status": "True", "reason": "R", "message": "m".repeat(2_000), "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "batches": (0..132).map(|i| json!({"name": "0-1", "state": "Submitted", "providerID": format!("b{i}"), "requests": 1, "model": "m".repeat(253)})).collect::<Value>(),
                "errorSummary": [{"code": "c", "count": 1, "message": "m".repeat(256)}],
            },
        });
        job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(job).unwrap()
    }

    fn large() -> Value {
        let body = json!({"x": "y".repeat(400_000)});
        json!({
            "requestDefaults": body, "requestDefaultsJSON": body.to_string(),
            "input": {
                "inline": {"requests": [{"customID": "a", "body": body}]},
                "template": {"customID": "a", "bodyJSON": body.to_string()},
                "csv": {"delimiter": ";".repeat(100_000)},
            },
        })
    }

    fn size(job: &BatchJob) -> usize {
        std::mem::size_of::<BatchJob>() + serde_json::to_string(job).unwrap().len()
    }

    #[test]
    fn a_watched_job_is_small_and_says_what_is_to_be_known() {
        let kept = watched(job(large()));
        let (meta, status) = (&kept.metadata, kept.status.as_ref().unwrap());
        assert_eq!(
            (meta.uid.as_deref(), meta.generation, meta.finalizers.as_deref()),
            (Some("u"), Some(3), Some(&[FINALIZER.to_string()][..]))
        );
        assert_eq!(meta.annotations.as_ref().unwrap()[annotations::RESOLVE], "h=keep");
        assert_eq!(kept.spec.provider_ref.name, "p");
        assert_eq!(kept.spec.output.object_store.as_ref().unwrap().uri, "s3://b/out/");
        assert!(kept.spec.input.inline.is_some() && !kept.spec.input.is_unknown());
        assert!(status.lock.is_some() && status.submission_time.is_some());
        assert_eq!((status.conditions[0].type_.as_str(), status.conditions[0].message.as_str()), ("Held", ""));
        assert_eq!(status.batches.len(), BATCHES_LIMIT);
        assert!(size(&kept) < 12_000, "{} bytes", size(&kept));
        let mut over = job(large());
        over.status.as_mut().unwrap().outcome = Some(crate::api::Outcome::Succeeded);
        let over = watched(over);
        assert!(size(&over) < 6_000, "{} bytes", size(&over));
    }

    #[test]
    fn a_change_at_the_end_of_long_answers_shows() {
        let answers = |last: &str| {
            let mut job = job(json!({"input": {}}));
            let text = "h=keep ".repeat(1_000) + last;
            job.metadata.annotations.get_or_insert_default().insert(annotations::RESOLVE.into(), text);
            watched(job).metadata.annotations.as_ref().unwrap()[annotations::RESOLVE].clone()
        };
        assert_ne!(answers("i=keep"), answers("i=resend"));
        assert!(answers("i=keep").len() <= ANNOTATION_LIMIT);
    }

    #[test]
    fn references_that_are_too_long_are_read_when_they_are_needed() {
        let maps: Vec<Value> =
            (0..50).map(|i| json!({"name": format!("{i}-{}", "m".repeat(200)), "key": "k".repeat(253)})).collect();
        let kept = watched(job(json!({"input": {"configMaps": maps}})));
        assert!(kept.spec.input.is_unknown() && kept.spec.output.object_store.as_ref().unwrap().uri.is_empty());
        let uri = format!("s3://b/{}", "u".repeat(1_900));
        let kept = watched(job(json!({"input": {"objectStore": {"uri": uri, "secretRef": {"name": "s"}}}})));
        assert!(kept.spec.input.is_unknown());
    }

    #[test]
    fn result_sets_to_reuse_are_kept_unless_their_names_are_long() {
        let from = |uri: String| json!({"input": {"inline": {"requests": []}}, "reuseFrom": [{"objectStore": {"uri": uri, "secretRef": {"name": "s"}}}]});
        let kept = watched(job(from("s3://b/yesterday/".into())));
        assert_eq!(kept.spec.reuse_from.as_ref().unwrap()[0].object_store.uri, "s3://b/yesterday/");
        let kept = watched(job(from(format!("s3://b/{}/", "u".repeat(1_010)))));
        assert!(kept.spec.input.is_unknown() && kept.spec.reuse_from.is_none());
    }

    #[test]
    fn of_the_status_of_a_watched_schedule_only_its_readiness_is_kept() {
        let condition = |type_: &str| json!({"type": type_, "status": "False", "reason": "R", "message": "m".repeat(2_000), "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut cron: CronBatchJob = serde_json::from_value(json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "metadata": {"name": "c"},
            "spec": {"schedule": "30 4 * * *", "jobTemplate": {"spec": job(large()).spec}},
            "status": {"conditions": [condition("Other"), condition("Ready"), condition("Ready")], "activeCount": 3},
        }))
        .unwrap();
        cron.keep_for_the_watch();
        let status = cron.status.as_ref().unwrap();
        assert_eq!(conditions::status_of(&status.conditions, conditions::READY), Some(false));
        assert!(serde_json::to_string(status).unwrap().len() < 200, "{status:?}");
    }

    #[test]
    fn a_snapshot_keeps_what_decisions_need_and_no_requests() {
        let mut kept = job(large());
        kept.drop_requests();
        assert_eq!(kept.status, job(large()).status);
        assert_eq!(kept.spec.input.csv, job(large()).spec.input.csv);
        assert_eq!(kept.spec.input.inline, Some(InlineInput::default()));
        assert!(
            kept.spec.input.template.is_none()
                && kept.spec.request_defaults.is_none()
                && kept.spec.request_defaults_json.is_none()
        );
        assert!(kept.metadata.labels.is_none() && kept.metadata.owner_references.is_none());
    }
}
