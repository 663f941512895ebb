//! Rules about changes of an object: which fields are locked, and what the messages say.

use serde_json::Value;

use crate::{keys, rendered, schema_of};

/// Fields of a BatchJob's spec that may be changed while it runs; whatever else is added is locked, or named here.
const EDITABLE: &[&str] = &[
    "suspend",
    "stopPolicy",
    "parallelism",
    "priority",
    "backoffLimitPerBatch",
    "backoffLimitPerRequest",
    "maxFailedRequests",
    "failOn",
    "budget",
    "canary",
    "activeDeadlineSeconds",
    "progressDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "completionWindowSeconds",
    "pollPeriodSeconds",
    "deletionPolicy",
    "providerFilePolicy",
    "notifications",
];

#[test]
fn each_field_that_shapes_requests_is_locked_and_no_other() {
    let root = &schema_of("batchjobs.yaml");
    let spec = &root["properties"]["spec"]["properties"];
    let rules = root["x-kubernetes-validations"].as_array().unwrap();
    let is_lock = |rule: &&Value| rule["rule"].as_str().is_some_and(|rule| rule.contains("oldSelf.status.lock"));
    let locks: Vec<&Value> = rules.iter().filter(is_lock).collect();
    let locked = |field: &str| locks.iter().find(|rule| rule["fieldPath"] == format!(".spec.{field}"));
    for field in keys(spec).iter().filter(|field| *field != "output") {
        assert_eq!(locked(field).is_some(), !EDITABLE.contains(&field.as_str()), "spec.{field}");
    }
    let input = locked("input").unwrap()["rule"].as_str().unwrap();
    compared("spec.input", input, &spec["input"]["properties"], &["waitFor"]);
    compared("spec.input.objectStore", input, &spec["input"]["properties"]["objectStore"]["properties"], CREDENTIALS);
    let results = &spec["input"]["properties"]["results"]["properties"];
    compared("spec.input.results", input, results, &["objectStore"]);
    compared("spec.input.results.objectStore", input, &results["objectStore"]["properties"], CREDENTIALS);
    let reuse = locked("reuseFrom").unwrap()["rule"].as_str().unwrap();
    for field in keys(&spec["reuseFrom"]["items"]["properties"]["objectStore"]["properties"]) {
        let is_compared =
            ["[", ", ", "? "].iter().any(|before| reuse.contains(&format!("{before}from.objectStore.{field}")));
        assert_eq!(is_compared, !CREDENTIALS.contains(&field.as_str()), "reuseFrom, {field}: {reuse}");
    }
    let of_output = spec["output"]["x-kubernetes-validations"].as_array().unwrap();
    let output =
        of_output.iter().find_map(|rule| rule["rule"].as_str().filter(|rule| rule.contains("oldSelf"))).unwrap();
    compared("output", &output.replace("elf.", "elf.output."), &spec["output"]["properties"], &[]);
    let location = &spec["output"]["properties"]["objectStore"]["properties"];
    compared("output.objectStore", &output.replace("elf.", "elf.output."), location, CREDENTIALS);
}

/// Fields that open a place and do not say which one it is.
const CREDENTIALS: &[&str] = &["secretRef", "tls"];

/// That a rule compares each of the fields `within` with what it was, but for these.
fn compared(within: &str, rule: &str, fields: &Value, but: &[&str]) {
    for field in keys(fields) {
        let named = format!("self.{within}.{field}");
        let mut ends = rule.match_indices(&named).map(|(at, _)| &rule[at + named.len()..]);
        let is_compared = ends.any(|rest| rest.starts_with(" == ") || rest.starts_with(") == "));
        assert_eq!(is_compared, !but.contains(&field.as_str()), "{named}: {rule}");
    }
}

#[test]
fn rules_speak_of_the_kind_that_they_are_rules_of() {
    for (file, crd) in rendered() {
        let (kind, text) = (crd["spec"]["names"]["kind"].as_str().unwrap(), crd.to_string());
        let others: Vec<&str> =
            text.split("create another ").skip(1).filter_map(|rest| rest.split([' ', '"']).next()).collect();
        assert!(others.iter().all(|other| *other == kind), "{file}: {others:?}");
        assert_eq!(others.is_empty(), kind == "CronBatchJob", "a schedule locks none of its fields: {file}");
    }
}

/// A default in the schema is written into each object, and there it is another vendor's figure.
#[test]
fn what_differs_between_vendors_has_no_default_in_the_schema() {
    let window = schema_of("batchjobs.yaml")["properties"]["spec"]["properties"]["completionWindowSeconds"].clone();
    let limits = ["batchproviders.yaml", "clusterbatchproviders.yaml"]
        .map(|file| schema_of(file)["properties"]["spec"]["properties"]["limits"].clone());
    assert!(limits.iter().all(|limits| limits["properties"].as_object().unwrap().len() == 5));
    for schema in limits.iter().chain([&window]) {
        assert!(schema.is_object() && !schema.to_string().contains("\"default\""), "{schema}");
    }
}

#[test]
fn a_template_may_change_and_holds_variables_where_a_batch_job_holds_names() {
    let template = &schema_of("cronbatchjobs.yaml")["properties"]["spec"]["properties"]["jobTemplate"];
    assert!(!template.to_string().contains("oldSelf"));
    let (spec, of_a_job) = (&template["properties"]["spec"], &schema_of("batchjobs.yaml")["properties"]["spec"]);
    assert_eq!(keys(&spec["properties"]), keys(&of_a_job["properties"]));
    for field in [
        "/runID",
        "/input/properties/configMaps/items/properties/name",
        "/input/properties/batchJobRef/properties/name",
        "/output/properties/configMap/properties/name",
    ] {
        let pattern = |schema: &Value| schema["properties"].pointer(field).unwrap().get("pattern").cloned();
        assert_eq!((pattern(spec), pattern(of_a_job).is_some()), (None, true), "{field}");
    }
    // What does not speak of a change holds for a template as well.
    let rules = |schema: &Value| schema["properties"]["input"]["x-kubernetes-validations"].clone();
    assert_eq!(rules(spec), rules(of_a_job));
    let of = |schema: &Value| schema["x-kubernetes-validations"].as_array().unwrap().clone();
    let (of_a_template, of_a_job) = (of(spec), of(of_a_job));
    let (more, same) = of_a_template.split_last().unwrap();
    assert!(same == of_a_job && !same.is_empty());
    assert_eq!(more["rule"], "!has(self.stopPolicy)", "a template is not told to stop");
}
