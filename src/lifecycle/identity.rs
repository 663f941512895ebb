//! The identity of a work, and the names that are made from it.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use crate::api::text::hex;
use crate::api::{
    BatchJobSpec, ConfigMapSource, CsvOptions, EmptyPolicy, Endpoint, FreeForm, InlineInput, InlineRequest, Input,
    InputCompression, InputFormat, ObjectPolicy, ObjectStoreLocation, OnTooLarge, Output, ProviderKind,
    RequestTemplate,
};

/// SHA-256 over the fields that shape requests or identity: what [`crate::api::Lock`] locks. Policies, limits and the
/// names of credentials are not among them.
///
/// Holds the spelling of one body at a time: at most a few times that body's text.
pub fn spec_hash(spec: &BatchJobSpec) -> String {
    let mut hash = Hashing(Context::new(&SHA256));
    // Writing cannot fail: the keys are strings, and a digest accepts everything.
    let _ = serde_json::to_writer(&mut hash, &Shape::of(spec));
    hex(hash.0.finish().as_ref())
}

/// Hashes all bytes that are written to it.
struct Hashing(Context);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The hashed part of a spec, as JSON. The keys of all its objects are in the order of their bytes, so that equal content gives
/// equal bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    // Fields that may be absent are written only if used, so that the hashes of jobs from before these fields hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    addressing_style: Option<crate::api::AddressingStyle>,
    endpoint: Endpoint,
    inline: Option<Inline<'a>>,
    model: &'a Option<String>,
    object_store: Option<(&'a str, &'a Option<String>, &'a Option<String>)>,
    provider: (ProviderKind, &'a str),
    #[serde(skip_serializing_if = "Option::is_none")]
    reading: Option<Reading<'a>>,
    #[serde(serialize_with = "known_by")]
    request_defaults: &'a Option<FreeForm>,
    #[serde(rename = "requestDefaultsJSON", skip_serializing_if = "Option::is_none")]
    request_defaults_json: &'a Option<String>,
    #[serde(rename = "runID")]
    run_id: &'a Option<String>,
}

#[derive(Serialize)]
struct Inline<'a> {
    requests: Requests<'a>,
}

/// Requests, each built when it is written.
struct Requests<'a>(&'a [InlineRequest]);

/// A request, or a template of requests.
#[derive(Serialize)]
struct Request<'a> {
    #[serde(serialize_with = "known_by", skip_serializing_if = "Option::is_none")]
    body: &'a Option<FreeForm>,
    #[serde(rename = "bodyJSON", skip_serializing_if = "Option::is_none")]
    body_json: &'a Option<String>,
    #[serde(rename = "customID")]
    custom_id: &'a str,
}

/// Options for reading the input.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reading<'a> {
    compression: InputCompression,
    config_maps: Option<Vec<ConfigMap<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    csv: Option<(&'a str, &'a str)>,
    empty_policy: EmptyPolicy,
    format: InputFormat,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<(ObjectPolicy, ObjectPolicy)>,
    template: Option<Request<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    too_large: Option<(Option<i32>, Option<OnTooLarge>)>,
}

#[derive(Serialize)]
struct ConfigMap<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: &'a Option<String>,
    name: &'a str,
}

impl<'a> Shape<'a> {
    fn of(spec: &'a BatchJobSpec) -> Shape<'a> {
        let (input, location) = (&spec.input, spec.input.object_store.as_ref());
        let uri = |location: &'a ObjectStoreLocation| (location.uri.as_str(), &location.endpoint, &location.region);
        Shape {
            addressing_style: location.and_then(|location| location.addressing_style),
            endpoint: spec.endpoint,
            inline: input.inline.as_ref().map(|InlineInput { requests }| Inline { requests: Requests(requests) }),
            model: &spec.model,
            object_store: location.map(uri),
            provider: (spec.provider_ref.kind, &spec.provider_ref.name),
            reading: Reading::of(input),
            request_defaults: &spec.request_defaults,
            request_defaults_json: &spec.request_defaults_json,
            run_id: &spec.run_id,
        }
    }
}

impl<'a> Reading<'a> {
    /// Returns None if none of the options is set.
    fn of(input: &'a Input) -> Option<Reading<'a>> {
        let csv = input.csv.as_ref().filter(|csv| **csv != CsvOptions::default());
        let (objects, too_large) =
            ((input.hidden_objects, input.empty_objects), (input.max_object_bytes, input.on_too_large));
        let Input { inline: _, object_store: _, config_maps, format, csv: options, compression, empty_policy, .. } =
            input;
        let is_set = config_maps.is_some()
            || input.template.is_some()
            || options.is_some()
            || (*format, *compression, *empty_policy) != Default::default()
            || objects != Default::default()
            || too_large != Default::default();
        is_set.then(|| Reading {
            compression: *compression,
            config_maps: config_maps.as_ref().map(|maps| maps.iter().map(ConfigMap::of).collect()),
            csv: csv.map(|csv| (csv.delimiter.as_str(), csv.encoding.as_str())),
            empty_policy: *empty_policy,
            format: *format,
            objects: Some(objects).filter(|objects| *objects != Default::default()),
            template: input.template.as_ref().map(|RequestTemplate { custom_id, body, body_json }| Request {
                custom_id,
                body,
                body_json,
            }),
            too_large: Some(too_large).filter(|too_large| *too_large != Default::default()),
        })
    }
}

impl<'a> ConfigMap<'a> {
    fn of(source: &'a ConfigMapSource) -> ConfigMap<'a> {
        ConfigMap { key: &source.key, name: &source.name }
    }
}

impl Serialize for Requests<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|InlineRequest { custom_id, body, body_json }| Request {
            custom_id,
            body,
            body_json,
        }))
    }
}

/// Writes the identity of free-form content. Its spelling is held only while it is written.
fn known_by<S: serde::Serializer>(content: &Option<FreeForm>, serializer: S) -> Result<S::Ok, S::Error> {
    content.as_ref().map(FreeForm::known_by).serialize(serializer)
}

/// Returns the destination as one URI that ends in `/`, with `$(namespace)`, `$(name)` and `$(runID)` replaced; for a
/// ConfigMap, `configmap://NAMESPACE/NAME/`.
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
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{json as reader, weight};

    /// The definition of the hash, as one tree. serde_json sorts object keys.
    fn defined(spec: &BatchJobSpec) -> Value {
        let known_by = |content: &FreeForm| match weight::check(content.json()).map(|()| reader::object(content.json()))
        {
            Ok(Ok(object)) => Value::Object(object),
            _ => content.json().into(),
        };
        let request = |custom_id: &str, body: &Option<FreeForm>, body_json: &Option<String>| {
            let mut known = json!({"customID": custom_id});
            body.iter().for_each(|body| known["body"] = known_by(body));
            body_json.iter().for_each(|json| known["bodyJSON"] = json.as_str().into());
            known
        };
        let input = &spec.input;
        let mut shape = json!({
            "provider": (spec.provider_ref.kind, &spec.provider_ref.name),
            "model": spec.model,
            "endpoint": spec.endpoint,
            "requestDefaults": spec.request_defaults.as_ref().map(known_by),
            "runID": spec.run_id,
            "inline": input.inline.as_ref().map(|inline| json!({
                "requests": inline.requests.iter().map(|r| request(&r.custom_id, &r.body, &r.body_json)).collect::<Value>(),
            })),
            "objectStore": input.object_store.as_ref().map(|o| (&o.uri, &o.endpoint, &o.region)),
        });
        let mut reading = json!({
            "configMaps": input.config_maps,
            "format": input.format,
            "template": input.template.as_ref().map(|t| request(&t.custom_id, &t.body, &t.body_json)),
            "compression": input.compression,
            "emptyPolicy": input.empty_policy,
        });
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
        let Input { inline, object_store, .. } = input.clone();
        if *input != (Input { inline, object_store, ..Input::default() }) {
            shape["reading"] = reading;
        }
        shape
    }

    fn content() -> impl Strategy<Value = Option<FreeForm>> {
        let contents =
            ["{}", r#"{"b":1,"a":{"z":[],"y":1.50}}"#, "[1]", "\"x\"", r#"{"a":1e999}"#, r#"{"a\u0000":"\u00e9"}"#];
        let content = prop::sample::select(contents.to_vec());
        prop::option::of(content.prop_map(|text| serde_json::from_str(text).unwrap()))
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop::sample::select(vec!["a", "é\n\"", r#"{"b": 1, "a": 2}"#]).prop_map(String::from))
    }

    fn inputs() -> impl Strategy<Value = Input> {
        let request = (text(), content(), text()).prop_map(|(id, body, body_json)| InlineRequest {
            custom_id: id.unwrap_or_default(),
            body,
            body_json,
        });
        let inline =
            prop::option::of(prop::collection::vec(request, 0..3).prop_map(|requests| InlineInput { requests }));
        let template =
            prop::option::of((text(), content(), text()).prop_map(|(id, body, body_json)| RequestTemplate {
                custom_id: id.unwrap_or_default(),
                body,
                body_json,
            }));
        let style = prop::sample::select(vec![json!(null), json!("Path"), json!("VirtualHosted")]);
        let location =
            prop::option::of((text(), text(), style).prop_map(|(endpoint, region, style)| ObjectStoreLocation {
                endpoint,
                region,
                addressing_style: serde_json::from_value(style).unwrap(),
                uri: "s3://bkt/in".into(),
                ..Default::default()
            }));
        let maps = prop::collection::vec(text().prop_map(|key| ConfigMapSource { name: "m".into(), key }), 0..3);
        let one_of = |words: [&str; 2]| prop::sample::select(words.map(|word| json!(word)).to_vec());
        let csv = prop::option::of(text().prop_map(|delimiter| match delimiter {
            Some(delimiter) => CsvOptions { delimiter, ..Default::default() },
            None => CsvOptions::default(),
        }));
        let words = (one_of(["Auto", "Rows"]), one_of(["Auto", "Gzip"]), one_of(["Fail", "Complete"]));
        let objects =
            (one_of(["Skip", "Include"]), one_of(["Skip", "Include"]), prop::option::of(5..7i32), any::<bool>());
        let all = (inline, template, location, prop::option::of(maps), csv, words, objects);
        all.prop_map(|(inline, template, object_store, config_maps, csv, words, objects)| Input {
            inline,
            template,
            object_store,
            config_maps,
            csv,
            format: serde_json::from_value(words.0).unwrap(),
            compression: serde_json::from_value(words.1).unwrap(),
            empty_policy: serde_json::from_value(words.2).unwrap(),
            hidden_objects: serde_json::from_value(objects.0).unwrap(),
            empty_objects: serde_json::from_value(objects.1).unwrap(),
            max_object_bytes: objects.2,
            on_too_large: objects.3.then_some(OnTooLarge::Skip),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_spec_is_hashed_as_its_tree_is_written(
            input in inputs(), defaults in content(), defaults_json in text(), model in text(), run_id in text()
        ) {
            let spec = json!({"providerRef": {"name": "p"}, "input": {}, "output": {"configMap": {"name": "c"}}});
            let spec = BatchJobSpec {
                input, model, run_id, request_defaults: defaults, request_defaults_json: defaults_json,
                ..serde_json::from_value(spec).unwrap()
            };
            prop_assert_eq!(serde_json::to_string(&Shape::of(&spec)).unwrap(), defined(&spec).to_string());
        }
    }

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
        same.completion_window_seconds = Some(86_400);
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
