//! The files under `crds/` are what the types say, and what they say keeps to the Kubernetes API conventions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use batchjob_operator::api::{crds, render_crd};
use serde_json::{Value, json};

/// Objects whose content is the provider's business.
const FREE_FORM: &[&str] = &["requestDefaults", "body"];
/// Written in one case, wherever they stand in a name: `customID`, `baseURL`, `uri`.
const ACRONYMS: &[&str] =
    &["api", "csv", "html", "http", "https", "id", "json", "llm", "sha", "tls", "ttl", "uid", "uri", "url", "usd"];

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
fn schemas_keep_to_the_conventions() {
    let mut problems = vec![];
    for (file, crd) in rendered() {
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let found = lint_version(version);
            problems.extend(found.into_iter().map(|problem| format!("{file} {problem}")));
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Fields of a BatchJob's spec that may be changed while it runs; whatever else is added is locked, or named here.
const EDITABLE: &[&str] = &[
    "suspend",
    "stopPolicy",
    "parallelism",
    "backoffLimitPerBatch",
    "backoffLimitPerRequest",
    "maxFailedRequests",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "completionWindowSeconds",
    "pollPeriodSeconds",
    "deletionPolicy",
    "providerFilePolicy",
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

fn keys(properties: &Value) -> Vec<String> {
    properties.as_object().unwrap().keys().cloned().collect()
}

fn schema_of(wanted: &str) -> Value {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == wanted).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
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
    assert!(limits.iter().all(|limits| limits["properties"].as_object().unwrap().len() == 4));
    for schema in limits.iter().chain([&window]) {
        assert!(schema.is_object() && !schema.to_string().contains("\"default\""), "{schema}");
    }
}

#[test]
fn columns_of_a_cron_batch_job_are_those_of_a_cron_job_and_its_next_start() {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == "cronbatchjobs.yaml").unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names: Vec<String> = columns.iter().map(|c| c["name"].as_str().unwrap().to_uppercase()).collect();
    assert_eq!(names, ["SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST SCHEDULE", "AGE", "NEXT SCHEDULE"]);
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

#[test]
fn columns_are_those_of_jobs() {
    let (_, crd) = rendered().into_iter().find(|(file, _)| *file == "batchjobs.yaml").unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names = |wide: bool| -> Vec<String> {
        let shown = columns.iter().filter(|c| (c["priority"].as_i64().unwrap_or(0) > 0) == wide);
        shown.map(|c| c["name"].as_str().unwrap().to_uppercase()).collect()
    };
    assert_eq!(names(false), ["STATUS", "PROGRESS", "FAILED", "AGE"], "NAME comes by itself");
    assert_eq!(names(true), ["PROVIDER", "MODEL", "RESULTS"], "what -o wide adds");
}

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

/// Where the files are; with UPDATE_CRDS=1, which `make crds` sets, they are written first.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        if std::env::var_os("UPDATE_CRDS").is_some_and(|v| v == "1") {
            for (file, crd) in crds() {
                std::fs::write(folder.join(file), render_crd(&crd).unwrap()).unwrap();
            }
        }
        folder
    });
    &FOLDER
}

/// The definitions as they are installed.
fn rendered() -> Vec<(&'static str, Value)> {
    let parse = |crd| serde_saphyr::from_str(&render_crd(&crd).unwrap()).unwrap();
    crds().into_iter().map(|(file, crd)| (file, parse(crd))).collect()
}

fn object_of(properties: &Value) -> Value {
    json!({"type": "object", "description": "A thing of words.", "properties": properties})
}

fn merged(schema: &Value, changes: Value) -> Value {
    let mut schema = schema.as_object().unwrap().clone();
    schema.extend(changes.as_object().unwrap().clone());
    Value::Object(schema)
}

/// Where in a schema we are, and what rules hold there.
#[derive(Clone)]
struct Place {
    path: String,
    name: String,
    in_spec: bool,
    in_list: bool,
    in_reference: bool,
}

impl Place {
    fn root(path: &str) -> Self {
        Place { path: path.into(), name: path.into(), in_spec: true, in_list: false, in_reference: false }
    }

    fn property(&self, name: &str) -> Self {
        Place {
            path: format!("{}.{name}", self.path),
            name: name.into(),
            in_reference: self.in_reference || name.ends_with("Ref") || name.ends_with("Refs"),
            ..self.clone()
        }
    }

    fn items(&self) -> Self {
        Place { path: format!("{}[]", self.path), in_list: true, ..self.clone() }
    }
}

fn lint_version(version: &Value) -> Vec<String> {
    let root = &version["schema"]["openAPIV3Schema"];
    let mut problems = vec![];
    described(root, "the root", &mut problems);
    validations(root, "the root", &mut problems);
    for part in ["spec", "status"] {
        if let Some(schema) = root["properties"].get(part) {
            described(schema, part, &mut problems);
            lint(schema, &Place { in_spec: part == "spec", ..Place::root(part) }, &mut problems);
        }
    }
    if let Some(status) = root["properties"].get("status") {
        let conditions = &status["properties"]["conditions"];
        if conditions["x-kubernetes-list-type"] != "map" || conditions["x-kubernetes-list-map-keys"] != json!(["type"])
        {
            problems.push("status: needs conditions, a list of type map with the key type".into());
        }
        if !version["subresources"]["status"].is_object() {
            problems.push("status: must be a subresource".into());
        }
    }
    problems
}

fn lint(schema: &Value, place: &Place, problems: &mut Vec<String>) {
    let path = &place.path;
    let mut problem = |text: String| problems.push(format!("{path}: {text}"));
    if schema.get("nullable").is_some() {
        problem("may not be nullable: it breaks patches".into());
    }
    if place.in_list && schema.get("default").is_some() {
        problem("may not have a default: in a list, appliers would disagree with the server".into());
    }
    for combination in ["allOf", "anyOf", "oneOf", "not", "$ref"] {
        if schema.get(combination).is_some() {
            problem(format!("may not use `{combination}`; say it in CEL"));
        }
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        if !value.as_str().is_some_and(is_pascal_case) {
            problem(format!("'{}' is not PascalCase", value.as_str().unwrap_or("not a string")));
        }
    }
    validations(schema, path, problems);
    match schema["type"].as_str() {
        Some("object") => lint_object(schema, place, problems),
        Some("array") => lint_array(schema, place, problems),
        Some(scalar) => problems.extend(scalar_problem(schema, scalar, place.in_spec).map(|p| format!("{path}: {p}"))),
        // A number or a text: bounded as both.
        None if schema["x-kubernetes-int-or-string"] == true => {
            for scalar in ["integer", "string"] {
                problems.extend(scalar_problem(schema, scalar, place.in_spec).map(|p| format!("{path}: {p}")));
            }
        }
        None => problems.push(format!("{path}: has no type")),
    }
}

fn lint_object(schema: &Value, place: &Place, problems: &mut Vec<String>) {
    let path = &place.path;
    let Some(properties) = schema["properties"].as_object() else {
        // Kubernetes' own spelling of selectors and metadata; bounded like any list of texts.
        let labels = &schema["additionalProperties"];
        if ["matchLabels", "labels", "annotations"].contains(&place.name.as_str())
            && schema["maxProperties"].is_u64()
            && labels["maxLength"].is_u64()
        {
            return;
        }
        if !FREE_FORM.contains(&place.name.as_str()) {
            problems.push(format!("{path}: needs properties; a map is better a list of named objects"));
        }
        return;
    };
    if schema.get("additionalProperties").is_some() {
        problems.push(format!("{path}: may not be a map as well"));
    }
    for (name, property) in properties {
        let place = place.property(name);
        problems.extend(name_problem(name).map(|p| format!("{}: {p}", place.path)));
        if place.in_reference && name == "namespace" {
            problems.push(format!("{}: a reference may not name a namespace: it stays in its own", place.path));
        }
        described(property, &place.path, problems);
        lint(property, &place, problems);
    }
}

fn lint_array(schema: &Value, place: &Place, problems: &mut Vec<String>) {
    let is_map = schema["x-kubernetes-list-type"] == "map";
    let wanted =
        ["maxItems", "x-kubernetes-list-type"].into_iter().chain(is_map.then_some("x-kubernetes-list-map-keys"));
    for key in wanted {
        if schema.get(key).is_none() {
            problems.push(format!("{}: needs {key}", place.path));
        }
    }
    lint(&schema["items"], &place.items(), problems);
}

fn scalar_problem(schema: &Value, scalar: &str, in_spec: bool) -> Option<String> {
    let format = schema["format"].as_str().unwrap_or_default();
    let has = |key| schema.get(key).is_some();
    match scalar {
        "boolean" => None,
        "string" if has("maxLength") || has("enum") || format == "date-time" => None,
        "string" => Some("needs maxLength, enum or format date-time".into()),
        "integer" if !["", "int32", "int64"].contains(&format) => {
            Some(format!("format '{format}' is not one of int32 and int64"))
        }
        "integer" if has("minimum") && (has("maximum") || (!in_spec && format == "int64")) => None,
        "integer" => Some("needs minimum and maximum (in status, an int64 needs a minimum only)".into()),
        other => Some(format!("type '{other}' is not one of string, integer, boolean, array and object")),
    }
}

fn name_problem(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let words = words(name);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Some("is not camelCase".into());
    }
    if lower.contains("phase") || lower.contains("stamp") {
        return Some("states are conditions, not phases, and times are called …Time, not …Timestamp".into());
    }
    let mixed = words.iter().enumerate().find(|(i, word)| {
        let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let one_case = if *i == 0 { letters.to_lowercase() } else { letters.to_uppercase() };
        ACRONYMS.contains(&letters.to_lowercase().as_str()) && letters != one_case
    });
    mixed.map(|(_, word)| format!("'{word}' is an acronym and is written in one case: customID, baseURL, uri"))
}

/// `["base", "URL"]` of `baseURL`, `["uri", "Prefix"]` of `uriPrefix`, `["max", "USD", "Cost"]` of `maxUSDCost`.
fn words(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (i, letter) in letters.iter().enumerate() {
        let after_lower = i > 0 && !letters[i - 1].is_uppercase();
        let before_lower = i > 0 && letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            words.push(String::new());
        }
        words.last_mut().unwrap().push(*letter);
    }
    words
}

fn is_pascal_case(value: &str) -> bool {
    value.starts_with(|c: char| c.is_ascii_uppercase()) && value.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Words that no text of `kubectl explain` begins with: it names the thing first.
const NO_NOUNS: &[&str] = &[
    "All", "As", "Executed", "For", "How", "It", "Merged", "None", "Not", "One", "Sent", "Such", "The same", "These",
    "They", "What", "When", "Where", "Whether", "Which", "While", "Whose", "Why",
];

fn described(schema: &Value, path: &str, problems: &mut Vec<String>) {
    let text = schema["description"].as_str().unwrap_or_default();
    let problem = match text {
        "" => "needs a description",
        text if NO_NOUNS
            .iter()
            .any(|word| text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))) =>
        {
            "its description begins with its noun"
        }
        text if !text.ends_with('.') || text.split_whitespace().count() < 3 => "its description is a sentence",
        _ => return,
    };
    problems.push(format!("{path}: {problem}: '{text}'"));
}

fn validations(schema: &Value, path: &str, problems: &mut Vec<String>) {
    let no_message = |rule: &&Value| rule["message"].as_str().unwrap_or_default().is_empty();
    let rules = schema["x-kubernetes-validations"].as_array();
    for rule in rules.into_iter().flatten().filter(no_message) {
        problems.push(format!("{path}: rule `{}` needs a message", rule["rule"].as_str().unwrap_or_default()));
    }
}
