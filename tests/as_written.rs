//! A request is sent as it was written, byte for byte where nothing has to be changed, over every format and every input; and
//! it is known by its content, however it was written.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use async_compression::tokio::write::GzipEncoder;
use batchjob_operator::api::{InlineRequest, InputFormat, RequestTemplate, Written};
use batchjob_operator::requests::{Defaults, InMemoryPiece, PlanOptions, Source, pass};
use batchjob_operator::store::{Folder, layout, staged};
use futures::StreamExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// JSON as somebody may write it.
#[derive(Clone, Debug)]
enum Json {
    /// A number, a string or a word, as it is written.
    Leaf(String),
    List(Vec<Json>),
    /// Keys as they are written; their meanings differ.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// With `space` between all that may be apart; with the fields of each object in their order, or backwards.
    fn write(&self, space: &str, backwards: bool) -> String {
        let listed = |items: Vec<String>| items.join(&format!("{space},{space}"));
        match self {
            Json::Leaf(text) => text.clone(),
            Json::List(items) => {
                format!("[{space}{}{space}]", listed(items.iter().map(|i| i.write(space, backwards)).collect()))
            }
            Json::Object(fields) => {
                let field =
                    |(key, value): &(String, Json)| format!("{key}{space}:{space}{}", value.write(space, backwards));
                let mut fields: Vec<String> = fields.iter().map(field).collect();
                if backwards {
                    fields.reverse();
                }
                format!("{{{space}{}{space}}}", listed(fields))
            }
        }
    }
}

fn leaf() -> impl Strategy<Value = Json> {
    let piece = select(vec![
        "a",
        "é",
        "😀",
        "\u{2028}",
        "\u{7f}",
        "$(",
        "$(row.x)",
        "$$(",
        "'",
        r#"\""#,
        r"\\",
        r"\n",
        r"\/",
        r"\u00e9",
        r"\u000A",
        r"\ud83d\ude00",
        r"\u0000",
        "<&>",
        " ",
        "NaN",
    ]);
    let string = vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,24})",
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}",
        "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?[eE][-+]?[0-9]{1,2}",
        select(vec!["19.90", "1e3", "1.0", "-0", "0.1e1", "1E-400", "18446744073709551616"]).prop_map(String::from),
    ];
    let word = select(vec!["true", "false", "null"]).prop_map(String::from);
    prop_oneof![3 => string, 3 => number, 1 => word].prop_map(Json::Leaf)
}

/// Fields with keys of their own: what tells them apart is their number, in one of two spellings.
fn fields(value: impl Strategy<Value = Json> + 'static) -> impl Strategy<Value = Vec<(String, Json)>> {
    let suffix = select(vec!["", "é", r#"\""#, r"\/", "😀", "Z", "$(row.x)"]);
    vec((0..40u8, suffix, any::<bool>(), value), 0..6).prop_map(|all| {
        let mut seen = std::collections::BTreeSet::new();
        let field = |(number, suffix, escaped, value): (u8, &str, bool, Json)| {
            let first = char::from(b'A' + number);
            let first =
                if escaped || first == '\\' { format!("\\u{:04x}", u32::from(first)) } else { first.to_string() };
            (format!("\"{first}{suffix}\""), value)
        };
        all.into_iter().filter(|(number, ..)| seen.insert(*number)).map(field).collect()
    })
}

/// A body that names a model among its fields.
fn body() -> impl Strategy<Value = Json> {
    let value = leaf().prop_recursive(5, 40, 5, |inner| {
        prop_oneof![vec(inner.clone(), 0..5).prop_map(Json::List), fields(inner).prop_map(Json::Object)]
    });
    (fields(value), any::<prop::sample::Index>()).prop_map(|(mut fields, at)| {
        fields.insert(at.index(fields.len() + 1), (r#""model""#.into(), Json::Leaf(r#""m""#.into())));
        Json::Object(fields)
    })
}

/// Spaces as people have them within a line.
fn space() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", " ", "  ", "\t"])
}

/// What becomes of one request: its body as it is sent, and the hash that it is known by.
async fn sent(source: Source, options: PlanOptions) -> (String, String) {
    let out = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let passed = pass(source, &options, Some((&out, WORK)), &std::env::temp_dir()).await.unwrap();
    let shard = passed.shards.clone().next().unwrap().unwrap();
    let read = async |name: String| {
        let mut text = String::new();
        staged::open(&out, &name).await.unwrap().read_to_string(&mut text).await.unwrap();
        text
    };
    let line = read(layout::shard(WORK, &shard.sha256)).await;
    let entry: Value = serde_json::from_str(&read(layout::index(WORK, &shard.index_sha256)).await).unwrap();
    let head = r#"{"custom_id":"r0-01234567","method":"POST","url":"/v1/chat/completions","body":"#;
    let body = line.strip_prefix(head).unwrap().strip_suffix("}\n").unwrap();
    (body.into(), entry["request_blake3"].as_str().unwrap().into())
}

/// No model of its own and no defaults: nothing has to be changed.
fn options(format: InputFormat, template: Option<RequestTemplate>) -> PlanOptions {
    PlanOptions { model: None, format, template, ..support::options() }
}

fn held(file: &str, text: String) -> Source {
    let held = InMemoryPiece { name: "in".into(), file: file.into(), bytes: text.into_bytes() };
    Source::InMemory { name: "in".into(), pieces: futures::stream::iter([Ok(held)]).boxed() }
}

async fn object(name: &str, bytes: &[u8]) -> Source {
    let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://in/", "in/");
    let mut upload = folder.overwrite(name, "w");
    upload.write(bytes).await.unwrap();
    upload.finish().await.unwrap();
    Source::Objects { folder, name: name.into() }
}

async fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(vec![]);
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn template(body: &str) -> Option<RequestTemplate> {
    Some(RequestTemplate { custom_id: "$(row.id)".into(), body: None, body_json: Some(body.into()) })
}

/// The body through every format without a template, from every kind of input.
async fn as_requests(body: &str) -> Vec<(&'static str, (String, String))> {
    let inline: InlineRequest = serde_json::from_str(&format!(r#"{{"customID": "a", "body": {body}}}"#)).unwrap();
    let as_text = InlineRequest { custom_id: "a".into(), body: None, body_json: Some(body.into()) };
    let bare = format!("{{\"custom_id\": \"a\", \"body\": {body}}}\r\n");
    let full = format!(
        "{{\"body\":{body},\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"more\":[{body}]}}"
    );
    let packed = gzip(&full).await;
    let auto = || options(InputFormat::Auto, None);
    vec![
        ("inline `body`", sent(Source::Inline(vec![inline]), auto()).await),
        ("inline `bodyJSON`", sent(Source::Inline(vec![as_text]), auto()).await),
        ("Requests in a ConfigMap", sent(held("a.jsonl", bare.clone()), options(InputFormat::Requests, None)).await),
        (
            "OpenAIBatch in a ConfigMap",
            sent(held("a.jsonl", full.clone()), options(InputFormat::OpenAIBatch, None)).await,
        ),
        ("Auto in an object", sent(object("a.jsonl", bare.as_bytes()).await, auto()).await),
        ("Auto in a gzip object", sent(object("a.jsonl.gz", &packed).await, auto()).await),
    ]
}

/// The body as the value `x` of another one, through every format with a template.
async fn as_values(body: &str) -> Vec<(&'static str, (String, String))> {
    let row = format!("{{\"id\": 7, \"b\": {body}}}\n");
    let table = format!("id,b\n7,\"{}\"\n", body.replace('"', "\"\""));
    let csv = || options(InputFormat::Csv, template(r#"{"model":"m","x":"$(row.b:json)"}"#));
    let rows = || options(InputFormat::Rows, template(r#"{"model":"m","x":"$(row.b)"}"#));
    let text = template(&format!(r#"{{"model":"m","x":{}}}"#, body.replace("$(", "$$(")));
    vec![
        ("Rows in a ConfigMap", sent(held("a.jsonl", row.clone()), rows()).await),
        ("Rows in an object", sent(object("a.jsonl", row.as_bytes()).await, rows()).await),
        ("CSV in a ConfigMap", sent(held("a.csv", table.clone()), csv()).await),
        ("CSV in an object", sent(object("a.csv", table.as_bytes()).await, csv()).await),
        ("`template.bodyJSON`", sent(held("a.jsonl", "{\"id\":7}\n".into()), options(InputFormat::Rows, text)).await),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Cases 03-big-integer-ids and 17-schema-key-order, of any body.
    #[test]
    fn what_is_sent_is_what_was_written(body in body(), space in space()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let written = body.write(space, false);
        for (how, (sent, _)) in runtime.block_on(as_requests(&written)) {
            prop_assert_eq!(&sent, &written, "{}", how);
        }
        let within = format!(r#"{{"model":"m","x":{written}}}"#);
        for (how, (sent, _)) in runtime.block_on(as_values(&written)) {
            // `$$(` is how a template writes `$(`; in keys it stands for itself.
            let sent = if how == "`template.bodyJSON`" { sent.replace("$$(", "$(") } else { sent };
            let within = if how == "`template.bodyJSON`" { within.replace("$$(", "$(") } else { within.clone() };
            prop_assert_eq!(&sent, &within, "{}", how);
        }
    }

    /// A document is put in as text, whatever it holds.
    #[test]
    fn a_document_is_sent_as_its_text(document in body(), space in space()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = document.write(space, false);
        let template = RequestTemplate { custom_id: "$(object.key)".into(), ..template(r#"{"model":"m","x":"$(object.text)"}"#).unwrap() };
        let options = options(InputFormat::Objects, Some(template));
        let (sent, _) = runtime.block_on(async { sent(object("a.txt", text.as_bytes()).await, options).await });
        let read: Value = serde_json::from_str(&sent).unwrap();
        prop_assert_eq!(read["x"].as_str(), Some(text.as_str()));
    }

    #[test]
    fn equal_json_is_known_by_one_hash(body in body(), space in space()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (one, other) = (body.write(space, false), body.write(" ", true));
        let (one, other) = (runtime.block_on(as_requests(&one)), runtime.block_on(as_requests(&other)));
        let hash = &one[0].1.1;
        for (how, (_, other)) in one.iter().chain(&other) {
            prop_assert_eq!(other, hash, "{}", how);
        }
    }

    #[test]
    fn what_is_added_leaves_the_rest_as_it_is(body in body(), space in space()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let written = body.write(space, false);
        let line = format!("{{\"custom_id\": \"a\", \"body\": {written}}}\n");
        let defaults = Written { field: "requestDefaultsJSON", json: r#"{"z": [1.0, 1e3], "model": "d", "mine": {"b": 1,"a": 2}}"# };
        let options = PlanOptions { defaults: Defaults::of_field(&defaults).unwrap(), ..options(InputFormat::Requests, None) };
        let (sent, _) = runtime.block_on(sent(held("a.jsonl", line), options));
        let end = format!("{space}}}");
        let wanted = format!("{},\"z\":[1.0, 1e3],\"mine\":{{\"b\": 1,\"a\": 2}}{end}", written.strip_suffix(&end).unwrap());
        prop_assert_eq!(sent, wanted);
    }
}
