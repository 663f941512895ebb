//! The Kubernetes API conventions, as a lint of schemas.

use serde_json::{Value, json};

use crate::rendered;

/// Objects whose content is the provider's business.
const FREE_FORM: &[&str] = &["requestDefaults", "body"];
/// Written in one case, wherever they stand in a name: `customID`, `baseURL`, `uri`.
const ACRONYMS: &[&str] =
    &["api", "csv", "html", "http", "https", "id", "json", "llm", "sha", "tls", "ttl", "uid", "uri", "url", "usd"];

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

/// Where in a schema we are, and what rules hold there.
#[derive(Clone)]
pub struct Place {
    path: String,
    name: String,
    in_spec: bool,
    in_list: bool,
    in_reference: bool,
}

impl Place {
    pub fn root(path: &str) -> Self {
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

pub fn lint_version(version: &Value) -> Vec<String> {
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

pub fn lint(schema: &Value, place: &Place, problems: &mut Vec<String>) {
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
