//! What makes two jobs the same work, and names made from it.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::api::text::hex;
use crate::api::{BatchJobSpec, CsvOptions, FreeForm, Input, Output};

/// Prefix of every work hash; grows when its definition changes, so that old hashes stay recognisable.
pub const WORK_HASH_VERSION: &str = "v1";

/// SHA-256 over the fields that shape requests or identity: what [`crate::api::Lock`] locks. Policies, limits and the
/// names of credentials are not among them.
pub fn spec_hash(spec: &BatchJobSpec) -> String {
    let mut shape = json!({
        "provider": (spec.provider_ref.kind, &spec.provider_ref.name),
        "model": spec.model,
        "endpoint": spec.endpoint,
        "requestDefaults": spec.request_defaults.as_ref().map(FreeForm::known_by),
        "runID": spec.run_id,
        "inline": spec.input.inline.as_ref().map(|inline| json!({
            "requests": inline.requests.iter().map(|r| known_by(&r.custom_id, &r.body, &r.body_json)).collect::<Value>(),
        })),
        "objectStore": spec.input.object_store.as_ref().map(|o| (&o.uri, &o.endpoint, &o.region)),
    });
    let input = &spec.input;
    let mut reading = json!({
        "configMaps": input.config_maps,
        "format": input.format,
        "template": input.template.as_ref().map(|t| known_by(&t.custom_id, &t.body, &t.body_json)),
        "compression": input.compression,
        "emptyPolicy": input.empty_policy,
    });
    // Named only where used, so that the hashes of jobs from before these fields hold.
    if let Some(json) = &spec.request_defaults_json {
        shape["requestDefaultsJSON"] = json.as_str().into();
    }
    if let Some(style) = input.object_store.as_ref().and_then(|o| o.addressing_style) {
        shape["addressingStyle"] = json!(style);
    }
    if input.max_object_bytes.is_some() || input.on_too_large.is_some() {
        reading["tooLarge"] = json!((input.max_object_bytes, input.on_too_large));
    }
    if let Some(csv) = input.csv.as_ref().filter(|csv| **csv != CsvOptions::default()) {
        reading["csv"] = json!((&csv.delimiter, &csv.encoding));
    }
    if (input.hidden_objects, input.empty_objects) != Default::default() {
        reading["objects"] = json!((input.hidden_objects, input.empty_objects));
    }
    if *input != (Input { inline: input.inline.clone(), object_store: input.object_store.clone(), ..Input::default() })
    {
        shape["reading"] = reading;
    }
    // serde_json sorts object keys, so equal content gives equal bytes.
    hex(digest(&SHA256, shape.to_string().as_bytes()).as_ref())
}

fn known_by(custom_id: &str, body: &Option<FreeForm>, body_json: &Option<String>) -> Value {
    let mut known = json!({"customID": custom_id});
    if let Some(body) = body {
        known["body"] = body.known_by();
    }
    if let Some(json) = body_json {
        known["bodyJSON"] = json.as_str().into();
    }
    known
}

/// The destination as one URI that ends in `/`: `$(namespace)`, `$(name)` and `$(runID)` replaced; of a ConfigMap
/// `configmap://NAMESPACE/NAME/`.
///
/// # Errors
/// A message that names the variable that is unknown or has no value.
pub fn output_uri(output: &Output, namespace: &str, name: &str, run_id: Option<&str>) -> Result<String, String> {
    match (&output.object_store, &output.config_map) {
        (Some(location), _) => expanded(&location.uri, namespace, name, run_id),
        (None, Some(map)) => Ok(format!("configmap://{namespace}/{}/", map.name)),
        (None, None) => Err("`spec.output` names neither `objectStore` nor `configMap`".into()),
    }
}

fn expanded(template: &str, namespace: &str, name: &str, run_id: Option<&str>) -> Result<String, String> {
    let mut uri = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("$(") {
        let end = rest[start..].find(')').ok_or("`spec.output` has a `$(` without its `)`")? + start;
        uri.push_str(&rest[..start]);
        uri.push_str(match &rest[start + 2..end] {
            "namespace" => namespace,
            "name" => name,
            "runID" => run_id.ok_or("`spec.output` uses `$(runID)`, but `spec.runID` is not set")?,
            other => {
                return Err(format!(
                    "`spec.output` uses `$({other})`; only `$(namespace)`, `$(name)` and `$(runID)` are known"
                ));
            }
        });
        rest = &rest[end + 1..];
    }
    uri.push_str(rest);
    Ok(format!("{}/", uri.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_others_are_named() {
        let uri = |t| expanded(t, "shop", "reviews", Some("v1"));
        assert_eq!(uri("s3://b/$(namespace)/$(name)/$(runID)").unwrap(), "s3://b/shop/reviews/v1/");
        assert_eq!(uri("s3://b/x//").unwrap(), "s3://b/x/");
        assert!(uri("s3://b/$(uid)/").unwrap_err().contains("$(uid)"));
        assert!(uri("s3://b/$(name").unwrap_err().contains("without its"));
        assert!(expanded("s3://b/$(runID)", "n", "j", None).unwrap_err().contains("not set"));
    }

    #[test]
    fn policies_and_credentials_are_no_part_of_the_identity() {
        let spec: BatchJobSpec = serde_json::from_value(json!({
            "providerRef": {"name": "p"},
            "input": {"objectStore": {"uri": "s3://bkt/in", "secretRef": {"name": "a"}}},
            "output": {"objectStore": {"uri": "s3://bkt/out", "secretRef": {"name": "a"}}},
        }))
        .unwrap();
        let mut same = spec.clone();
        same.suspend = true;
        same.parallelism = 9;
        same.input.object_store.as_mut().unwrap().secret_ref.name = "b".into();
        assert_eq!(spec_hash(&spec), spec_hash(&same));
        let mut other = spec.clone();
        other.request_defaults = Some(serde_json::from_value(json!({"n": 2})).unwrap());
        assert_ne!(spec_hash(&spec), spec_hash(&other));
        let mut as_text = spec.clone();
        as_text.request_defaults_json = Some(r#"{"n": 2}"#.into());
        assert!(![&spec, &other].map(spec_hash).contains(&spec_hash(&as_text)));
    }

    #[test]
    fn a_spec_is_known_as_ever() {
        let spec = json!({
            "providerRef": {"name": "p"},
            "requestDefaults": {"b": 1, "a": {"x": [0.5]}},
            "input": {
                "inline": {"requests": [{"customID": "a", "body": {"n": 1}}]},
                "template": {"customID": "$(row.id)", "body": {"m": "$(row.t)"}},
            },
            "output": {"objectStore": {"uri": "s3://bkt/out", "secretRef": {"name": "a"}}},
        });
        let hash = spec_hash(&serde_json::from_value(spec).unwrap());
        assert_eq!(hash, "c60a3789530ee941d20a4ad51a4112aef86e7c669d72f532c0aaeaa4a35eac57");
    }

    #[test]
    fn content_of_no_use_has_a_hash() {
        let hash = |defaults: String| {
            let spec = format!(
                r#"{{"providerRef": {{"name": "p"}}, "requestDefaults": {defaults}, "input": {{}},
                    "output": {{"configMap": {{"name": "a"}}}}}}"#
            );
            spec_hash(&serde_json::from_str(&spec).unwrap())
        };
        let deep = |leaf: &str| format!("{}{leaf}{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert_eq!(hash(deep("1")), hash(deep("1")));
        assert_ne!(hash(deep("1")), hash(deep("2")));
        let marked = |text: &str| format!(r#"{{"$serde_json::private::RawValue": "{text}"}}"#);
        assert_ne!(hash(marked("{}")), hash("{}".into()));
        assert_ne!(hash(marked("[1")), hash(marked("[2")));
    }

    #[test]
    fn how_the_input_is_read_is_part_of_the_identity() {
        let hash = |change: Value| {
            let mut spec = json!({
                "providerRef": {"name": "p"},
                "input": {"objectStore": {"uri": "s3://bkt/in", "secretRef": {"name": "a"}}},
                "output": {"objectStore": {"uri": "s3://bkt/out", "secretRef": {"name": "a"}}},
            });
            for (key, value) in change.as_object().unwrap() {
                spec["input"][key] = value.clone();
            }
            spec_hash(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(hash(json!({})), hash(json!({"format": "Auto", "compression": "Auto", "emptyPolicy": "Fail"})));
        let template = |body: Value| json!({"customID": "$(row.id)", "body": body});
        let all = [
            json!({}),
            json!({"objectStore": {"uri": "s3://bkt/in", "secretRef": {"name": "a"}, "addressingStyle": "Path"}}),
            json!({"objectStore": {"uri": "s3://bkt/in", "secretRef": {"name": "a"}, "addressingStyle": "VirtualHosted"}}),
            json!({"format": "Requests"}),
            json!({"compression": "Gzip"}),
            json!({"emptyPolicy": "Complete"}),
            json!({"configMaps": [{"name": "a"}]}),
            json!({"configMaps": [{"name": "a", "key": "b"}]}),
            json!({"template": template(json!({"n": 1}))}),
            json!({"template": template(json!({"n": 2}))}),
            json!({"template": {"customID": "$(row.id)", "bodyJSON": r#"{"n": 2, "m": 1}"#}}),
            json!({"template": {"customID": "$(row.id)", "bodyJSON": r#"{"m": 1, "n": 2}"#}}),
            json!({"maxObjectBytes": 5}),
            json!({"maxObjectBytes": 6}),
            json!({"onTooLarge": "Skip"}),
            json!({"maxObjectBytes": 6, "onTooLarge": "Skip"}),
            json!({"csv": {"delimiter": ";"}}),
            json!({"csv": {"encoding": "UTF-16"}}),
            json!({"hiddenObjects": "Include"}),
            json!({"emptyObjects": "Include"}),
        ];
        let hashes: std::collections::BTreeSet<String> = all.iter().map(|c| hash(c.clone())).collect();
        assert_eq!(hashes.len(), all.len());
    }
}
