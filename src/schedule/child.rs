//! The BatchJob that a CronBatchJob creates for a start.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::scheduled_time::Text;
use super::{ScheduledTime, Zone, shown};
use crate::api::{
    BatchJobObject, BatchJobSpec, ConfigMapSource, CronBatchJobObject, FreeForm, GROUP, Input, ObjectStoreLocation,
    Output, VERSION, annotations,
};

/// Most characters of a CronBatchJob's name: its children's have up to 11 more, and a job's name has to fit into a label's value.
pub const NAME_LIMIT: usize = 52;

/// A template that makes no BatchJob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {fault}")]
pub struct TemplateError {
    /// The field from `spec.jobTemplate` on.
    pub field: String,
    /// Its fault and the remedy.
    pub fault: String,
}

/// Returns the name of the child of a start: `<cron>-<scheduled unix minutes>`, so that no start has two children.
pub fn child_name(cron: &str, at: Timestamp) -> String {
    format!("{cron}-{}", at.as_second().div_euclid(60))
}

/// Returns the child of a start, with `$(scheduledTime…)` replaced in its spec. Its owner is the CronBatchJob, unless that has
/// no UID, since it was never on a server.
///
/// # Errors
/// Names the field, the variable or the value at fault, and the remedy.
pub fn child(cron: &CronBatchJobObject, zone: &Zone, at: Timestamp) -> Result<BatchJobObject, TemplateError> {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() || name.len() > NAME_LIMIT {
        let fault = format!(
            "has {} characters; it needs 1 to {NAME_LIMIT}, so that the names of its BatchJobs have no more than 63",
            name.len()
        );
        return Err(TemplateError { field: "metadata.name".into(), fault });
    }
    let time = ScheduledTime { at, zone };
    let template = &cron.spec.job_template;
    let mut metadata = ObjectMeta {
        name: Some(child_name(name, at)),
        namespace: cron.metadata.namespace.clone(),
        owner_references: owner(cron).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let given = template.metadata.clone().unwrap_or_default();
    metadata.labels = Some(given.labels).filter(|labels| !labels.is_empty());
    let mut annotations = given.annotations;
    annotations.insert(annotations::SCHEDULED_TIMESTAMP.into(), time.rfc3339());
    metadata.annotations = Some(annotations);
    let spec = Expansion { time }.spec(&template.spec)?;
    Ok(BatchJobObject { metadata, spec, status: None })
}

fn owner(cron: &CronBatchJobObject) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "CronBatchJob".into(),
        name: cron.metadata.name.clone()?,
        uid: cron.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

/// The replacement of variables in a template.
struct Expansion<'a> {
    time: ScheduledTime<'a>,
}

impl Expansion<'_> {
    fn spec(&self, template: &BatchJobSpec) -> Result<BatchJobSpec, TemplateError> {
        let mut spec = template.clone();
        if spec.stop_policy.is_some() {
            let fault = "may not be set: a BatchJob that is told to stop sends nothing; set `spec.suspend`";
            return Err(at("stopPolicy", fault.into()));
        }
        match &mut spec.run_id {
            Some(run_id) => {
                self.text(run_id, "runID", Text::Plain)?;
                check_run_id(run_id).map_err(|fault| at("runID", fault))?;
            }
            None => spec.run_id = Some(self.time.run_id()),
        }
        self.json(&mut spec.request_defaults, "requestDefaults", Text::Content)?;
        self.optional(&mut spec.request_defaults_json, "requestDefaultsJSON", Text::Content)?;
        self.input(&mut spec.input)?;
        for (i, source) in spec.reuse_from.iter_mut().flatten().enumerate() {
            self.uri(&mut source.object_store.uri, &format!("reuseFrom[{i}].objectStore.uri"), Text::Plain)?;
        }
        self.output(&mut spec.output)?;
        Ok(spec)
    }

    fn input(&self, input: &mut Input) -> Result<(), TemplateError> {
        self.store(&mut input.object_store, "input.objectStore.uri", Text::Plain)?;
        if let Some(wait_for) = &mut input.wait_for {
            self.uri(&mut wait_for.uri, "input.waitFor.uri", Text::Plain)?;
        }
        for (i, source) in input.config_maps.iter_mut().flatten().enumerate() {
            self.config_map(source, &format!("input.configMaps[{i}]"))?;
        }
        if let Some(job) = &mut input.batch_job_ref {
            let field = "input.batchJobRef.name";
            self.text(&mut job.name, field, Text::Plain)?;
            check_name(&job.name, 63).map_err(|fault| at(field, fault))?;
        }
        if let Some(results) = &mut input.results {
            self.uri(&mut results.object_store.uri, "input.results.objectStore.uri", Text::Plain)?;
        }
        if let Some(template) = &mut input.template {
            self.text(&mut template.custom_id, "input.template.customID", Text::Template)?;
            self.json(&mut template.body, "input.template.body", Text::Template)?;
            self.optional(&mut template.body_json, "input.template.bodyJSON", Text::Template)?;
        }
        for (i, request) in input.inline.iter_mut().flat_map(|inline| &mut inline.requests).enumerate() {
            let field = |name: &str| format!("input.inline.requests[{i}].{name}");
            self.text(&mut request.custom_id, &field("customID"), Text::Content)?;
            self.json(&mut request.body, &field("body"), Text::Content)?;
            self.optional(&mut request.body_json, &field("bodyJSON"), Text::Content)?;
        }
        Ok(())
    }

    fn config_map(&self, source: &mut ConfigMapSource, field: &str) -> Result<(), TemplateError> {
        let (name, key) = (format!("{field}.name"), format!("{field}.key"));
        self.text(&mut source.name, &name, Text::Plain)?;
        check_name(&source.name, 253).map_err(|fault| at(&name, fault))?;
        self.optional(&mut source.key, &key, Text::Plain)?;
        source.key.as_deref().map_or(Ok(()), check_key).map_err(|fault| at(&key, fault))
    }

    fn output(&self, output: &mut Output) -> Result<(), TemplateError> {
        self.store(&mut output.object_store, "output.objectStore.uri", Text::OutputUri)?;
        if let Some(map) = &mut output.config_map {
            self.text(&mut map.name, "output.configMap.name", Text::Plain)?;
            check_name(&map.name, 240).map_err(|fault| at("output.configMap.name", fault))?;
        }
        Ok(())
    }

    fn store(&self, place: &mut Option<ObjectStoreLocation>, field: &str, kind: Text) -> Result<(), TemplateError> {
        place.as_mut().map_or(Ok(()), |place| self.uri(&mut place.uri, field, kind))
    }

    fn uri(&self, uri: &mut String, field: &str, kind: Text) -> Result<(), TemplateError> {
        self.text(uri, field, kind)?;
        check_uri(uri).map_err(|fault| at(field, fault))
    }

    fn optional(&self, text: &mut Option<String>, field: &str, kind: Text) -> Result<(), TemplateError> {
        text.as_mut().map_or(Ok(()), |text| self.text(text, field, kind))
    }

    fn text(&self, text: &mut String, field: &str, kind: Text) -> Result<(), TemplateError> {
        *text = self.time.expand(text, kind).map_err(|fault| at(field, fault))?;
        Ok(())
    }

    /// Replaces variables in the text of JSON. Values have no character that JSON escapes.
    fn json(&self, content: &mut Option<FreeForm>, field: &str, kind: Text) -> Result<(), TemplateError> {
        let Some(content) = content else { return Ok(()) };
        let expanded = self.time.expand(content.json(), kind).map_err(|fault| at(field, fault))?;
        *content = serde_json::from_str(&expanded).map_err(|error| at(field, format!("is no JSON: {error}")))?;
        Ok(())
    }
}

fn at(field: &str, fault: String) -> TemplateError {
    TemplateError { field: format!("spec.jobTemplate.spec.{field}"), fault }
}

fn check_run_id(run_id: &str) -> Result<(), String> {
    let ends = run_id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && run_id.ends_with(|c: char| c.is_ascii_alphanumeric());
    let fits = run_id.len() <= 63 && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if ends && fits {
        return Ok(());
    }
    Err(format!(
        "becomes {}; it takes at most 63 letters, digits, `-`, `_` and `.`: write a format such as \
         `$(scheduledTime:%Y-%m-%d)`, or leave it out for `20261121T013000Z`",
        shown(run_id)
    ))
}

fn check_name(name: &str, limit: usize) -> Result<(), String> {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = name.len() <= limit && name.chars().all(|c| is_end(c) || c == '-' || c == '.');
    if fits && name.starts_with(is_end) && name.ends_with(is_end) {
        return Ok(());
    }
    Err(format!(
        "becomes {}; it takes at most {limit} lower-case letters, digits, `-` and `.`: write a format such as \
         `reviews-$(scheduledTime:%Y-%m-%d)`",
        shown(name)
    ))
}

fn check_key(key: &str) -> Result<(), String> {
    let fits = (1..=253).contains(&key.len());
    if fits && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Ok(());
    }
    Err(format!(
        "becomes {}; it takes at most 253 letters, digits, `-`, `_` and `.`: write a format such as \
         `$(scheduledTime:%Y-%m-%d).jsonl`",
        shown(key)
    ))
}

fn check_uri(uri: &str) -> Result<(), String> {
    match uri.len() <= 1024 {
        true => Ok(()),
        false => Err(format!("becomes a URI of {} bytes; it takes at most 1024", uri.len())),
    }
}

#[cfg(test)]
mod tests;
