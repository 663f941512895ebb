//! The files under `crds/` are what the types say, and what they say keeps to the Kubernetes API conventions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod breaches;
mod conventions;
mod rules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use batchjob_operator::api::{crds, render_crd};
use serde_json::{Value, json};

#[test]
fn files_match_the_types() {
    for (file, crd) in crds() {
        let stored = std::fs::read_to_string(folder().join(file)).unwrap_or_default();
        assert!(
            stored == render_crd(&crd).unwrap(),
            "crds/{file} is not what the types in src/api say: run `make crds`"
        );
    }
}

#[test]
fn every_kind_is_installed_and_nothing_else() {
    let kinds: BTreeSet<String> = crds().into_iter().map(|(file, _)| file.into()).collect();
    let entries = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let stored: BTreeSet<String> = entries.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(stored, kinds, "files in crds/");
    let list: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(folder().join("kustomization.yaml")).unwrap()).unwrap();
    assert_eq!(list["resources"], json!(kinds), "`resources` of crds/kustomization.yaml");
}

#[test]
fn columns_of_a_cron_batch_job_are_those_of_a_cron_job_and_its_next_start() {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == "cronbatchjobs.yaml").unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names: Vec<String> = columns.iter().map(|c| c["name"].as_str().unwrap().to_uppercase()).collect();
    assert_eq!(names, ["SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST SCHEDULE", "AGE", "NEXT SCHEDULE"]);
}

#[test]
fn columns_are_those_of_jobs() {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == "batchjobs.yaml").unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names = |wide: bool| -> Vec<String> {
        let shown = columns.iter().filter(|c| (c["priority"].as_i64().unwrap_or(0) > 0) == wide);
        shown.map(|c| c["name"].as_str().unwrap().to_uppercase()).collect()
    };
    assert_eq!(names(false), ["STATUS", "PROGRESS", "FAILED", "COST", "AGE"], "NAME comes by itself");
    assert_eq!(names(true), ["ETA", "PROVIDER", "MODEL", "SAVED", "SUSPECT", "RESULTS"], "what -o wide adds");
}

/// Where the files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
}

/// The definitions as they are installed.
fn rendered() -> Vec<(&'static str, Value)> {
    let parse = |crd| serde_saphyr::from_str(&render_crd(&crd).unwrap()).unwrap();
    crds().into_iter().map(|(file, crd)| (file, parse(crd))).collect()
}

fn schema_of(wanted: &str) -> Value {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == wanted).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn keys(properties: &Value) -> Vec<String> {
    properties.as_object().unwrap().keys().cloned().collect()
}
