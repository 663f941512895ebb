//! The identity of a work, and the names that are made from it.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use crate::api::text::hex;
use crate::api::{
    AddressingStyle, BatchJobSpec, ConfigMapSource, CsvOptions, EmptyPolicy, Endpoint, FreeForm, InlineInput,
    InlineRequest, Input, InputCompression, InputFormat, ObjectPolicy, ObjectStoreLocation, OnTooLarge, Output,
    ProviderKind, RequestTemplate, ResultSelection, ReuseSource,
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
    addressing_style: Option<AddressingStyle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_job_ref: Option<(&'a str, ResultSelection)>,
    endpoint: Endpoint,
    inline: Option<Inline<'a>>,
    model: &'a Option<String>,
    object_store: Option<Place<'a>>,
    provider: (ProviderKind, &'a str),
    #[serde(skip_serializing_if = "Option::is_none")]
    reading: Option<Reading<'a>>,
    #[serde(serialize_with = "known_by")]
    request_defaults: &'a Option<FreeForm>,
    #[serde(rename = "requestDefaultsJSON", skip_serializing_if = "Option::is_none")]
    request_defaults_json: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Results<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reuse_from: Option<Vec<(Place<'a>, Option<AddressingStyle>)>>,
    #[serde(rename = "runID")]
    run_id: &'a Option<String>,
}

/// The place of results that are read, and the part of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Results<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    addressing_style: Option<AddressingStyle>,
    object_store: Place<'a>,
    select: ResultSelection,
}

/// URI, endpoint and region of a place in object storage.
type Place<'a> = (&'a str, &'a Option<String>, &'a Option<String>);

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
        let place =
            |location: &'a ObjectStoreLocation| -> Place<'a> { (&location.uri, &location.endpoint, &location.region) };
        Shape {
            addressing_style: location.and_then(|location| location.addressing_style),
            batch_job_ref: input.batch_job_ref.as_ref().map(|job| (job.name.as_str(), job.select)),
            endpoint: spec.endpoint,
            inline: input.inline.as_ref().map(|InlineInput { requests }| Inline { requests: Requests(requests) }),
            model: &spec.model,
            object_store: location.map(place),
            provider: (spec.provider_ref.kind, &spec.provider_ref.name),
            reading: Reading::of(input),
            request_defaults: &spec.request_defaults,
            request_defaults_json: &spec.request_defaults_json,
            results: input.results.as_ref().map(|results| Results {
                addressing_style: results.object_store.addressing_style,
                object_store: place(&results.object_store),
                select: results.select,
            }),
            reuse_from: spec.reuse_from.as_ref().map(|sources| {
                let places = sources.iter().map(|ReuseSource { object_store: of }| (place(of), of.addressing_style));
                places.collect()
            }),
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
mod tests;
