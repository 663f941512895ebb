use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{BatchJobReference, ResultsInput, WaitFor, json as reader, weight};

/// The definition of the hash, as one tree. serde_json sorts object keys.
fn defined(spec: &BatchJobSpec) -> Value {
    let known_by = |content: &FreeForm| match weight::check(content.json()).map(|()| reader::object(content.json())) {
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
    if let Some(from) = &spec.reuse_from {
        let place = |o: &ObjectStoreLocation| json!(((&o.uri, &o.endpoint, &o.region), o.addressing_style));
        shape["reuseFrom"] = from.iter().map(|source| place(&source.object_store)).collect();
    }
    if let Some(style) = input.object_store.as_ref().and_then(|o| o.addressing_style) {
        shape["addressingStyle"] = json!(style);
    }
    if let Some(job) = &input.batch_job_ref {
        shape["batchJobRef"] = json!((&job.name, job.select));
    }
    if let Some(results) = &input.results {
        let place = &results.object_store;
        let identity = json!((&place.uri, &place.endpoint, &place.region));
        shape["results"] = json!({"objectStore": identity, "select": results.select});
        if let Some(style) = place.addressing_style {
            shape["results"]["addressingStyle"] = json!(style);
        }
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
    let Input { inline, object_store, batch_job_ref, results, .. } = input.clone();
    if *input != (Input { inline, object_store, batch_job_ref, results, ..Input::default() }) {
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

fn selection() -> impl Strategy<Value = ResultSelection> {
    prop::sample::select(vec![ResultSelection::Unsuccessful, ResultSelection::Succeeded, ResultSelection::All])
}

fn reuse() -> impl Strategy<Value = Option<Vec<ReuseSource>>> {
    let source = (text(), text()).prop_map(|(endpoint, region)| {
        let uri = "s3://bkt/yesterday/".into();
        ReuseSource { object_store: ObjectStoreLocation { uri, endpoint, region, ..Default::default() } }
    });
    prop::option::of(prop::collection::vec(source, 1..3))
}

fn inputs() -> impl Strategy<Value = Input> {
    let request = (text(), content(), text()).prop_map(|(id, body, body_json)| InlineRequest {
        custom_id: id.unwrap_or_default(),
        body,
        body_json,
    });
    let inline = prop::option::of(prop::collection::vec(request, 0..3).prop_map(|requests| InlineInput { requests }));
    let template = prop::option::of((text(), content(), text()).prop_map(|(id, body, body_json)| RequestTemplate {
        custom_id: id.unwrap_or_default(),
        body,
        body_json,
    }));
    let style = || prop::sample::select(vec![json!(null), json!("Path"), json!("VirtualHosted")]);
    let location = || {
        prop::option::of((text(), text(), style()).prop_map(|(endpoint, region, style)| ObjectStoreLocation {
            endpoint,
            region,
            addressing_style: serde_json::from_value(style).unwrap(),
            uri: "s3://bkt/in".into(),
            ..Default::default()
        }))
    };
    let results = (location(), prop::option::of(selection())).prop_map(|(location, select)| {
        location.zip(select).map(|(object_store, select)| ResultsInput { object_store, select })
    });
    let job = prop::option::of(selection().prop_map(|select| BatchJobReference { name: "a".into(), select }));
    let maps = prop::collection::vec(text().prop_map(|key| ConfigMapSource { name: "m".into(), key }), 0..3);
    let one_of = |words: [&str; 2]| prop::sample::select(words.map(|word| json!(word)).to_vec());
    let csv = prop::option::of(text().prop_map(|delimiter| match delimiter {
        Some(delimiter) => CsvOptions { delimiter, ..Default::default() },
        None => CsvOptions::default(),
    }));
    let words = (one_of(["Auto", "Rows"]), one_of(["Auto", "Gzip"]), one_of(["Fail", "Complete"]));
    let objects = (one_of(["Skip", "Include"]), one_of(["Skip", "Include"]), prop::option::of(5..7i32), any::<bool>());
    let all = (inline, template, location(), prop::option::of(maps), csv, words, objects, (job, results));
    all.prop_map(|(inline, template, object_store, config_maps, csv, words, objects, of_jobs)| Input {
        batch_job_ref: of_jobs.0,
        results: of_jobs.1,
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
        wait_for: objects.3.then(WaitFor::default),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_spec_is_hashed_as_its_tree_is_written(
        input in inputs(), reuse_from in reuse(), defaults in content(), defaults_json in text(), model in text(),
        run_id in text()
    ) {
        let spec = json!({"providerRef": {"name": "p"}, "input": {}, "output": {"configMap": {"name": "c"}}});
        let spec = BatchJobSpec {
            input, reuse_from, model, run_id, request_defaults: defaults, request_defaults_json: defaults_json,
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
    same.stop_policy = Some(crate::api::StopPolicy::Drain);
    same.parallelism = 9;
    same.completion_window_seconds = Some(86_400);
    same.input.object_store.as_mut().unwrap().secret_ref.name = "b".into();
    same.input.wait_for = Some(WaitFor { uri: "s3://bkt/_SUCCESS".into(), timeout_seconds: Some(60) });
    assert_eq!(spec_hash(&spec), spec_hash(&same));
    let reusing = |secret: &str| {
        let from = json!([{"objectStore": {"uri": "s3://bkt/yesterday/", "secretRef": {"name": secret}}}]);
        spec_hash(&BatchJobSpec { reuse_from: serde_json::from_value(from).unwrap(), ..spec.clone() })
    };
    assert_eq!(reusing("a"), reusing("b"));
    assert_ne!(reusing("a"), spec_hash(&spec), "what is reused decides what is sent");
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
