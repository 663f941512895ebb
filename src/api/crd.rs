//! The CustomResourceDefinitions, as `crds/` holds them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{BatchJobObject, BatchProviderObject, ClusterBatchProviderObject, CronBatchJobObject};

/// File name and definition of every kind.
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("batchjobs.yaml", set_title(BatchJobObject::crd())),
        ("batchproviders.yaml", set_title(BatchProviderObject::crd())),
        ("cronbatchjobs.yaml", set_title(CronBatchJobObject::crd())),
        ("clusterbatchproviders.yaml", set_title(ClusterBatchProviderObject::crd())),
    ]
}

/// Its schemas have the kind as their title, and not the type's name.
fn set_title(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for schema in crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()) {
        if let Some(schema) = &mut schema.open_api_v3_schema {
            schema.title = Some(crd.spec.names.kind.clone());
        }
    }
    crd
}

/// The definition as YAML, without what the API conventions advise against (`nullable`, a `null` among enum values).
pub fn render(crd: &CustomResourceDefinition) -> Result<String, Box<dyn std::error::Error>> {
    let mut value = serde_json::to_value(crd)?;
    clean(&mut value);
    Ok(serde_saphyr::to_string(&value)?)
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            if let Some(Value::Array(allowed)) = map.get_mut("enum") {
                allowed.retain(|v| !v.is_null());
            }
            for key in ["minimum", "maximum", "multipleOf"] {
                if let Some(bound) = map.get_mut(key) {
                    integral(bound);
                }
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

/// schemars writes integer bounds as floats (`1.0`); Kubernetes' own CRDs write integers.
fn integral(bound: &mut Value) {
    if let Some(float) = bound.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15) {
        *bound = Value::from(float as i64);
    }
}
