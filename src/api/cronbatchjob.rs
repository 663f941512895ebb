//! `CronBatchJob`: BatchJobs on a schedule, as CronJob has Jobs.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchJobSpec, WithoutManagedFields, rules, schema};

/// BatchJobs on a schedule, as the API server has them.
pub type CronBatchJob = WithoutManagedFields<CronBatchJobObject>;

/// A schedule, and the template of the BatchJobs that are created on it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llmbatch.dev",
    version = "v1alpha1",
    kind = "CronBatchJob",
    root = "CronBatchJobObject",
    plural = "cronbatchjobs",
    namespaced,
    status = "CronBatchJobStatus",
    shortname = "cbjob",
    category = "llmbatch",
    derive = "PartialEq",
    doc = "CronBatchJob creates BatchJobs on a schedule.",
    validation = rules::name_of_a_schedule(),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Timezone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.activeCount"),
    printcolumn(name = "Last Schedule", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Next Schedule", type_ = "string", json_path = ".status.nextScheduleTime", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct CronBatchJobSpec {
    /// Times at which BatchJobs start, in the format of cron: `MINUTE HOUR DAY MONTH WEEKDAY`, such as `30 2 * * MON-FRI`, or one of
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly` and `@every 90m`. They are the times of a CronJob with the same
    /// schedule.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("!self.contains('TZ')")
            .message("`spec.schedule` may not name a time zone; set `spec.timeZone` instead")
    )]
    pub schedule: String,
    /// Time zone of the schedule and of `$(scheduledTime)`, by its name in the IANA database, such as `Europe/Berlin`. The default is
    /// UTC. A start at a time of day that clocks skip is left out, and one at a time that they show twice takes place twice: neither
    /// happens in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*$"))]
    #[x_kube(
        validation = Rule::new("self.lowerAscii() != 'local'")
            .message("`spec.timeZone` has to be a name of the IANA time zone database, such as `Europe/Berlin`")
    )]
    pub time_zone: Option<String>,
    /// Time in seconds after its scheduled time up to which a BatchJob may still be created, after a downtime or a suspension for
    /// example; unset: no limit. Of several missed starts only the last one is made up for. A start that is refused is tried again
    /// after a minute: 120 or more lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub starting_deadline_seconds: Option<i64>,
    /// Treatment of a start that is due while an earlier BatchJob of this schedule runs. Forbid, the default: it is skipped, and the
    /// earlier one runs on; as soon as that ends, the last skipped start is made up for. Allow: both run. Replace: the earlier one is
    /// deleted first. Its batches are cancelled, unless its `deletionPolicy` is Orphan, and lines that the provider had answered or
    /// was working on may be paid again by the new BatchJob.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Stops new starts: while true, no BatchJob is created; those that run are left alone. Starts that are due meanwhile count as
    /// missed: the last one is made up for on resumption, unless `startingDeadlineSeconds` forbids it.
    #[serde(default)]
    pub suspend: bool,
    /// Number of complete BatchJobs that are kept; the oldest are deleted, and their results stay. The default is 3.
    #[serde(default = "successful_jobs_history_limit")]
    #[schemars(range(min = 0, max = 1000))]
    pub successful_jobs_history_limit: i32,
    /// Number of failed BatchJobs that are kept; the oldest are deleted, and their results stay. The default is 1.
    #[serde(default = "failed_jobs_history_limit")]
    #[schemars(range(min = 0, max = 1000))]
    pub failed_jobs_history_limit: i32,
    /// Template of the BatchJobs.
    pub job_template: BatchJobTemplate,
}

fn successful_jobs_history_limit() -> i32 {
    3
}
fn failed_jobs_history_limit() -> i32 {
    1
}

/// Fate of a start while an earlier BatchJob of the schedule runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConcurrencyPolicy {
    /// Both run.
    Allow,
    /// The start is skipped.
    #[default]
    Forbid,
    /// The earlier one is deleted first.
    Replace,
}

/// Template of the BatchJobs of a schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = rules::known_variables("?runID"),
    validation = rules::known_variables("input.?objectStore.uri"),
    validation = rules::known_variables("input.?waitFor.uri"),
    validation = rules::known_variables("input.?configMaps[].name"),
    validation = rules::known_variables("input.?configMaps[].?key"),
    validation = rules::known_variables("input.?batchJobRef.name"),
    validation = rules::known_variables("input.?results.objectStore.uri"),
    validation = rules::known_variables("?reuseFrom[].objectStore.uri"),
    validation = rules::known_variables_of_output("output.?objectStore.uri"),
    validation = rules::known_variables("output.?configMap.name")
)]
pub struct BatchJobTemplate {
    /// Labels and annotations of the BatchJobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BatchJobTemplateMetadata>,
    /// Spec of the BatchJobs. `$(scheduledTime)` in `runID`, in the URIs and names of ConfigMaps of `input` and `output`, in requests
    /// and in defaults is replaced by the time of the start: `2026-11-21T02:30:00+01:00`. `$(scheduledTime:%Y/%m/%d)` writes it in
    /// a format, and `$(scheduledTime:%Y/%m/%d:-1d)` a day earlier; units are s, m, h, d and w. Without a `runID`, that of a
    /// BatchJob is its scheduled time in UTC, `20261121T013000Z`.
    #[schemars(transform = schema::of_a_template)]
    pub spec: BatchJobSpec,
}

/// Labels and annotations of the BatchJobs of a schedule.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchJobTemplateMetadata {
    /// Labels of the BatchJobs; at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the BatchJobs; at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// Observed state of the schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CronBatchJobStatus {
    /// Conditions of the schedule, one for each aspect of its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Value of `metadata.generation` that this status was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// BatchJobs of this schedule that have not ended; at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub active: Vec<ActiveBatchJob>,
    /// Number of BatchJobs of this schedule that have not ended.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub active_count: i32,
    /// Scheduled time of the last BatchJob that was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// Time at which a BatchJob last completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
    /// Time of the next start; unset while the schedule is suspended or cannot be followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
}

/// A BatchJob that has not ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveBatchJob {
    /// Name of the BatchJob.
    #[schemars(length(max = 63))]
    pub name: String,
    /// UID of the BatchJob.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// Returns the reference of a BatchJob to the CronBatchJob that controls it.
pub fn owner_of_child(child: &ObjectMeta) -> Option<&OwnerReference> {
    let is_schedule =
        |owner: &&OwnerReference| owner.kind == "CronBatchJob" && owner.api_version.starts_with("llmbatch.dev/");
    child.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true)).find(is_schedule)
}
