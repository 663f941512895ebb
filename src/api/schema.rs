//! Schema fragments that a derive cannot express.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A JSON object that only the provider interprets. Its size is checked when the job is planned.
pub fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Keeps the description of an optional field whose type is an enum. kube would replace it with that of the enum.
pub fn own_description(schema: &mut Schema) {
    if let Some(of_type) = schema.get_mut("anyOf").and_then(|any| any.get_mut(0)).and_then(Value::as_object_mut) {
        of_type.remove("description");
    }
}

/// Leaves out all defaults: the items of a list have none in the schema, where appliers and the API server would disagree.
pub fn without_defaults(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("default");
        object.values_mut().for_each(drop_defaults);
    }
}

fn drop_defaults(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("default");
            map.values_mut().for_each(drop_defaults);
        }
        Value::Array(schemas) => schemas.iter_mut().for_each(drop_defaults),
        _ => {}
    }
}

/// Fields of a BatchJob's spec whose patterns `$(scheduledTime)` does not fit.
const WITH_VARIABLES: [&str; 5] =
    [".runID", ".input.configMaps.name", ".input.configMaps.key", ".input.batchJobRef.name", ".output.configMap.name"];

/// Makes the schema of a BatchJob's spec that of a template: rules about changes are left out, for a template may change, and
/// so are patterns of what `$(scheduledTime)` may stand in, which are checked when a BatchJob is made of it. `stopPolicy` is
/// refused.
pub fn of_a_template(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        let mut whole = Value::Object(std::mem::take(object));
        relax(&mut whole, "");
        if let Value::Object(relaxed) = whole {
            *object = relaxed;
        }
        let no_stop = json!({
            "rule": "!has(self.stopPolicy)",
            "message": "`spec.jobTemplate.spec.stopPolicy` may not be set: a BatchJob that is told to stop sends nothing; set \
                        `spec.suspend` of the CronBatchJob, or `spec.stopPolicy` of a BatchJob that runs",
            "fieldPath": ".stopPolicy"
        });
        let rules = object.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        rules.as_array_mut().into_iter().for_each(|rules| rules.push(no_stop.clone()));
    }
}

fn relax(schema: &mut Value, path: &str) {
    let map = match schema {
        Value::Object(map) => map,
        Value::Array(schemas) => return schemas.iter_mut().for_each(|schema| relax(schema, path)),
        _ => return,
    };
    if let Some(Value::Array(rules)) = map.get_mut("x-kubernetes-validations") {
        rules.retain(|rule| !rule["rule"].as_str().is_some_and(|rule| rule.contains("oldSelf")));
        if rules.is_empty() {
            map.remove("x-kubernetes-validations");
        }
    }
    if path == ".stopPolicy" {
        map.insert(
            "description".into(),
            "Way to stop a BatchJob. It is not allowed in a template: a BatchJob that is told to stop sends nothing."
                .into(),
        );
    }
    if WITH_VARIABLES.contains(&path) && map.remove("pattern").is_some() {
        map.insert("maxLength".into(), 512.into());
    }
    for (key, part) in map.iter_mut() {
        match part {
            Value::Object(properties) if key == "properties" => {
                properties.iter_mut().for_each(|(name, property)| relax(property, &format!("{path}.{name}")));
            }
            part => relax(part, path),
        }
    }
}

/// Labels, as `metadata.labels` has them.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$",
            "description": "Value of the label."
        }
    })
}

/// Annotations, as `metadata.annotations` has them.
pub fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 16384, "description": "Value of the annotation."}
    })
}

/// `metav1.LabelSelector` with bounds, and with CEL rules for its operators: an expression that the API server would
/// refuse in a selector of its own is refused here as well.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let value = json!({
        "type": "string",
        "maxLength": 63,
        "pattern": "^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$",
        "description": "Value of the label."
    });
    let key = "^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$";
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels with their values; all of them have to match. At most 16.",
                "maxProperties": 16,
                "additionalProperties": value,
                "x-kubernetes-validations": [{
                    "rule": format!("self.all(key, key.size() <= 317 && key.matches('{key}'))"),
                    "message": "`matchLabels` has a key that is no label's; write it as `team` or `example.com/team`"
                }]
            },
            "matchExpressions": {
                "type": "array",
                "description": "Conditions on labels; all of them have to hold. At most 16.",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "description": "Condition on one label.",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "type": "string",
                            "description": "Key of the label.",
                            "minLength": 1,
                            "maxLength": 317,
                            "pattern": key
                        },
                        "operator": {
                            "type": "string",
                            "description": "Relation of the label to `values`. In: the label is there, with one of `values`. NotIn: it is not there, or has another value. \
                                Exists: it is there, with any value. DoesNotExist: it is not there.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "type": "array",
                            "description": "Values of the label, for In and NotIn. At most 64.",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": value
                        }
                    },
                    "x-kubernetes-validations": [
                        {
                            "rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                            "message": "the operators In and NotIn need at least one of `values`"
                        },
                        {
                            "rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
                            "message": "the operators Exists and DoesNotExist take no `values`; remove them, or use In or NotIn"
                        }
                    ]
                }
            }
        }
    })
}

/// A number, or a percentage such as `2%`: Kubernetes' `int-or-string`.
pub fn count_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maximum": 1_000_000,
        "maxLength": 4,
        "pattern": "^(100|[0-9]{1,2})%$"
    })
}

/// `metav1.Condition` with the bounds that Kubernetes' own API markers give it.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "Aspect of the state of the object.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "Name of the condition in CamelCase."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "State of the condition: True, False or Unknown."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0,
                    "description": "Value of `metadata.generation` that the condition was derived from."},
                "lastTransitionTime": {"type": "string", "format": "date-time",
                    "description": "Time at which the status last went from one value to another."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 128, "description": "Reason for the status, in one CamelCase word."},
                "message": {"type": "string", "maxLength": 2048, "description": "Explanation for a person: the cause, and the remedy."}
            }
        }
    })
}
