//! The lint finds each breach of the conventions.

use serde_json::{Value, json};

use crate::conventions::{Place, lint, lint_version};

#[test]
fn breaches_of_the_conventions_are_found() {
    let string = json!({"type": "string", "maxLength": 8, "description": "A thing of words."});
    let with = |changes: Value| merged(&string, changes);
    let integer = |extra: Value| merged(&json!({"type": "integer", "description": "A thing of words."}), extra);
    let list = |extra: Value| {
        merged(
            &json!({"type": "array", "description": "A thing of words.", "items": {"type": "string", "maxLength": 8}}),
            extra,
        )
    };
    let object = |name: &str, schema: &Value| json!({"type": "object", "description": "A thing of words.", "properties": {name: schema}});
    let bounded = json!({"maxItems": 8, "x-kubernetes-list-type": "atomic"});
    for (name, schema, problem) in [
        (
            "a",
            json!({"type": "string", "description": "A thing of words."}),
            "needs maxLength, enum or format date-time",
        ),
        ("a", with(json!({"description": ""})), "needs a description"),
        ("a", with(json!({"description": "What was read."})), "begins with its noun"),
        ("a", with(json!({"description": "One of them; the file has more."})), "begins with its noun"),
        ("a", with(json!({"description": "Requests."})), "is a sentence"),
        ("a", with(json!({"description": "Requests of the batch"})), "is a sentence"),
        ("a", with(json!({"nullable": true})), "may not be nullable"),
        ("a", with(json!({"enum": ["Yes", "no"]})), "'no' is not PascalCase"),
        ("a", with(json!({"enum": ["NotFound", "Not-Ready"]})), "'Not-Ready' is not PascalCase"),
        ("a", with(json!({"x-kubernetes-validations": [{"rule": "true"}]})), "rule `true` needs a message"),
        ("a", with(json!({"anyOf": []})), "may not use `anyOf`"),
        ("a", integer(json!({"minimum": 1})), "needs minimum and maximum"),
        ("a", integer(json!({"maximum": 1})), "needs minimum and maximum"),
        ("a", integer(json!({"minimum": 0, "format": "int64"})), "needs minimum and maximum"),
        ("a", integer(json!({"minimum": 0, "maximum": 1, "format": "uint32"})), "format 'uint32'"),
        ("a", merged(&string, json!({"type": "number", "minimum": 0, "maximum": 1})), "type 'number'"),
        ("a", json!({"description": "A thing of words."}), "has no type"),
        (
            "a",
            json!({"description": "A thing of words.", "x-kubernetes-int-or-string": true, "maxLength": 4}),
            "needs minimum and maximum",
        ),
        ("a", list(json!({"maxItems": 8})), "needs x-kubernetes-list-type"),
        ("a", list(json!({"x-kubernetes-list-type": "set"})), "needs maxItems"),
        ("a", list(json!({"maxItems": 8, "x-kubernetes-list-type": "map"})), "needs x-kubernetes-list-map-keys"),
        ("a", merged(&list(bounded.clone()), json!({"items": {"type": "string"}})), ".a[]: needs maxLength"),
        (
            "a",
            merged(&list(bounded.clone()), json!({"items": object("b", &with(json!({"default": "c"})))})),
            ".a[].b: may not have a default",
        ),
        ("a", json!({"type": "object", "description": "A thing of words."}), "needs properties"),
        (
            "a",
            json!({"type": "object", "description": "A thing of words.", "additionalProperties": {"type": "string", "maxLength": 8}}),
            "needs properties",
        ),
        (
            "matchLabels",
            json!({"type": "object", "description": "A thing of words.", "additionalProperties": {"type": "string", "maxLength": 8}}),
            "needs properties",
        ),
        ("labels", merged(&object("b", &string), json!({"additionalProperties": true})), "may not be a map"),
        (
            "labels",
            json!({"type": "object", "description": "A thing of words.", "maxProperties": 4, "additionalProperties": {"type": "string"}}),
            "needs properties",
        ),
        ("secretRef", object("namespace", &string), "may not name a namespace"),
        ("secretRef", object("key", &object("namespace", &string)), "may not name a namespace"),
        ("customId", string.clone(), "one case"),
        ("baseUrl", string.clone(), "one case"),
        ("uriPrefixUri", string.clone(), "one case"),
        ("Name", string.clone(), "camelCase"),
        ("run_id", string.clone(), "camelCase"),
        ("currentPhase", string.clone(), "phase"),
        ("startTimestamp", string.clone(), "stamp"),
    ] {
        let mut problems = vec![];
        lint(&object(name, &schema), &Place::root("spec"), &mut problems);
        assert!(problems.iter().any(|p| p.contains(problem)), "{name}: {schema}\nwanted {problem:?}: {problems:#?}");
    }
}

#[test]
fn breaches_in_status_are_found() {
    let conditions = json!({"type": "array", "description": "A thing of words.", "maxItems": 8, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"], "items": object_of(&json!({}))});
    let version = |status: Value, subresources: Value| {
        let properties = json!({"spec": object_of(&json!({})), "status": status});
        json!({"schema": {"openAPIV3Schema": object_of(&properties)}, "subresources": subresources})
    };
    let status = |conditions: &Value| object_of(&json!({"conditions": conditions}));
    let count = json!({"type": "integer", "description": "A thing of words.", "format": "int64", "minimum": 0});
    let fine = object_of(&json!({"conditions": &conditions, "succeeded": count}));
    assert_eq!(lint_version(&version(fine.clone(), json!({"status": {}}))), Vec::<String>::new());
    let by_name = merged(&conditions, json!({"x-kubernetes-list-map-keys": ["name"]}));
    let atomic = merged(&conditions, json!({"x-kubernetes-list-type": "atomic"}));
    for (version, problem) in [
        (version(object_of(&json!({})), json!({"status": {}})), "needs conditions"),
        (version(status(&by_name), json!({"status": {}})), "needs conditions"),
        (version(status(&atomic), json!({"status": {}})), "needs conditions"),
        (version(fine, json!({})), "subresource"),
    ] {
        let problems = lint_version(&version);
        assert!(problems.iter().any(|p| p.contains(problem)), "{version}\nwanted {problem:?}: {problems:#?}");
    }
}

fn object_of(properties: &Value) -> Value {
    json!({"type": "object", "description": "A thing of words.", "properties": properties})
}

fn merged(schema: &Value, changes: Value) -> Value {
    let mut schema = schema.as_object().unwrap().clone();
    schema.extend(changes.as_object().unwrap().clone());
    Value::Object(schema)
}
