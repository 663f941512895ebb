//! The text of a table of prices: YAML or JSON that an admin writes, read with bounds and with errors that name entry and field.

use serde_json::{Map, Value};
use serde_saphyr::DuplicateKeyPolicy;

use crate::api::ProviderModel;

/// Most bytes of a table; a ConfigMap has room for no more.
const BYTES: usize = 1 << 20;
/// Most models of a table.
const MODELS: usize = 512;
/// Most characters of a version.
const VERSION: usize = 63;
/// Most nodes of YAML: each model has at most 17 fields, and each field two.
const NODES: usize = 64 * MODELS;
/// Deepest nesting of YAML; a table has six levels.
const DEPTH: usize = 10;
/// Most aliases of YAML.
const ALIASES: usize = MODELS;

/// A table of prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Text that names the edition of the table, such as a date.
    pub version: Option<String>,
    /// Models, at most 512. Their values are [checked](super::PriceList::of_models) when a list is made of them.
    pub models: Vec<ProviderModel>,
}

/// The value that a field may have.
#[derive(Clone, Copy)]
enum Kind {
    Name,
    Amount,
    Count,
    Object(&'static [Field]),
}

/// A field: its name, whether it is required, and its value.
type Field = (&'static str, bool, Kind);

const INPUT: Field = ("inputUSDPerMillion", true, Kind::Amount);
const CACHED: Field = ("cachedInputUSDPerMillion", false, Kind::Amount);
const OUTPUT: Field = ("outputUSDPerMillion", true, Kind::Amount);
const BATCH: Field = ("batch", false, Kind::Object(&[INPUT, CACHED, OUTPUT]));
const LONG_CONTEXT: Field =
    ("longContext", false, Kind::Object(&[("aboveInputTokens", true, Kind::Count), INPUT, CACHED, OUTPUT, BATCH]));
const MODEL: &[Field] = &[
    ("name", true, Kind::Name),
    ("prices", false, Kind::Object(&[INPUT, CACHED, OUTPUT, BATCH, LONG_CONTEXT])),
    ("batchDiscountPercent", false, Kind::Count),
    ("maxInputTokens", false, Kind::Count),
    ("maxOutputTokens", false, Kind::Count),
];

impl PriceTable {
    /// Reads a table.
    ///
    /// # Errors
    /// The first fault, with its entry, its field and the remedy.
    pub fn read(text: &str) -> Result<PriceTable, String> {
        if text.len() > BYTES {
            return Err(format!("it has {} bytes, and a table has at most {BYTES}; split it over several", text.len()));
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: DEPTH,
                flow_nesting_limit: DEPTH,
                max_nodes: NODES,
                max_events: 4 * NODES,
                max_documents: 1,
                max_aliases: ALIASES,
                max_anchors: ALIASES,
                max_total_scalar_bytes: BYTES,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES },
            duplicate_keys: DuplicateKeyPolicy::Error,
            with_snippet: false,
        };
        let table: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| format!("it is no YAML or JSON: {}", clip(&error.to_string(), 200)))?;
        let Value::Object(fields) = table else {
            return Err("it has no `models`; write `models:` and a list of models below it".into());
        };
        only(&fields, &["version", "models"], "it")?;
        let version = match fields.get("version") {
            None => None,
            Some(Value::String(text)) if is_version(text) => Some(text.clone()),
            Some(other) => {
                let other = shown(other);
                return Err(format!("`version` is {other}; write a short text in quotes, such as '2026-11-30'"));
            }
        };
        let Some(Value::Array(entries)) = fields.get("models") else {
            return Err("it has no list `models`; write `models:` and a list of models below it".into());
        };
        if entries.len() > MODELS {
            return Err(format!(
                "`models` has {} entries, and a table has at most {MODELS}; let names that end in `*` stand for many",
                entries.len()
            ));
        }
        let models = entries.iter().enumerate().map(|(index, entry)| model(index, entry));
        Ok(PriceTable { version, models: models.collect::<Result<_, _>>()? })
    }
}

fn is_version(text: &str) -> bool {
    (1..=VERSION).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn model(index: usize, entry: &Value) -> Result<ProviderModel, String> {
    let path = entry_path("models", index, entry["name"].as_str().unwrap_or_default());
    check(entry, MODEL, &path)?;
    serde::Deserialize::deserialize(entry).map_err(|error: serde_json::Error| format!("{path}: {error}"))
}

/// Returns the place of an entry for people, such as `models[3] ('gpt-5-mini')`.
pub(super) fn entry_path(list: &str, index: usize, name: &str) -> String {
    match name {
        "" => format!("`{list}[{index}]`"),
        name => format!("`{list}[{index}]` ('{}')", clip(name, 64)),
    }
}

fn check(value: &Value, fields: &[Field], path: &str) -> Result<(), String> {
    let Value::Object(found) = value else {
        return Err(format!("{path} is {}; write its fields below it", shown(value)));
    };
    let names: Vec<&str> = fields.iter().map(|(name, ..)| *name).collect();
    only(found, &names, path)?;
    for (name, is_required, kind) in fields {
        let wanted = match kind {
            Kind::Name => "write the name of the model, in quotes if it is a number",
            Kind::Amount => "write USD for a million tokens in quotes, such as '0.25'",
            Kind::Count => "write a whole number",
            Kind::Object(_) => "write its fields below it, or remove it",
        };
        match (found.get(*name), kind) {
            (None, _) if *is_required => return Err(format!("{path} has no `{name}`; {wanted}")),
            (None, _) => {}
            (Some(Value::String(_)), Kind::Name | Kind::Amount) => {}
            (Some(Value::Number(number)), Kind::Count) if number.is_i64() => {}
            (Some(value @ Value::Object(_)), Kind::Object(fields)) => {
                check(value, fields, &format!("{path}: `{name}`"))?
            }
            (Some(other), _) => return Err(format!("{path}: `{name}` is {}; {wanted}", shown(other))),
        }
    }
    Ok(())
}

fn only(found: &Map<String, Value>, known: &[&str], path: &str) -> Result<(), String> {
    let Some(other) = found.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    Err(format!("{path} has the field '{}', which is not known; there are {}", clip(other, 64), known.join(", ")))
}

/// Returns a value as an error shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "a list".into(),
        Value::String(text) => format!("'{}'", clip(text, 40)),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(value) => format!("the word {value} of YAML"),
    }
}

fn clip(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
