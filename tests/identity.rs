//! What a request is sent as, and what it and its work are known by, are the same in every version: a hash that changes makes
//! a work a new one, and a new work is paid.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::requests::{Held, Passed, Recipe, Source, pass};
use batchjob_operator::store::{Folder, layout, staged};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn recipe(defaults: Value) -> Recipe {
    Recipe { defaults: defaults.as_object().unwrap().clone(), run_id: Some("r".into()), ..support::recipe() }
}

async fn text(folder: &Folder, name: &str) -> String {
    let mut text = String::new();
    staged::open(folder, name).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// The pass over requests with these bodies, and for each the body that is sent and the hash of the request.
async fn passed(bodies: &[&str], defaults: Value) -> (Passed, Vec<(String, String)>) {
    let out = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let lines = bodies.iter().enumerate().map(|(i, body)| format!("{{\"custom_id\": \"id-{i}\", \"body\": {body}}}\n"));
    let held = Held { name: "in".into(), file: "in.jsonl".into(), bytes: lines.collect::<String>().into_bytes() };
    let source = Source::Held { name: "in".into(), pieces: futures::stream::iter([Ok(held)]).boxed() };
    let passed = pass(source, &recipe(defaults), Some((&out, WORK)), &std::env::temp_dir()).await.unwrap();
    let [shard] = &passed.shards[..] else { panic!("{} shards", passed.shards.len()) };
    let (sent, index) = (layout::shard(WORK, &shard.sha256), layout::index(WORK, &shard.index_sha256));
    let (sent, index) = (text(&out, &sent).await, text(&out, &index).await);
    let each = sent.lines().zip(index.lines()).enumerate().map(|(i, (sent, entry))| {
        let head = format!(r#"{{"custom_id":"r{i}-01234567","method":"POST","url":"/v1/chat/completions","body":"#);
        let body = sent.strip_prefix(&head).unwrap().strip_suffix('}').unwrap();
        let entry: Value = serde_json::from_str(entry).unwrap();
        (body.to_string(), entry["request_sha256"].as_str().unwrap().to_string())
    });
    (passed.clone(), each.collect())
}

/// What is written, what is sent of it, and the start of its hash.
const PINNED: [(&str, &str, &str); 12] = [
    (
        r#"{"model": "m", "messages": [{"role": "user", "content": "plain"}], "temperature": 0}"#,
        r#"{"messages":[{"content":"plain","role":"user"}],"model":"m","temperature":0}"#,
        "c6ad53e080de6ef9",
    ),
    (
        r#"{ "b" : [ ] , "a" : { } , "B" : null , "": [ true , false ] }"#,
        r#"{"":[true,false],"B":null,"a":{},"b":[],"model":"m"}"#,
        "fe9b30bbc62e3a67",
    ),
    (
        r#"{"messages": "tab\tnew\nquote\"back\\slash\/cr\rbs\bff\f"}"#,
        r#"{"messages":"tab\tnew\nquote\"back\\slash/cr\rbs\bff\f","model":"m"}"#,
        "b1909ff90c91be3a",
    ),
    (
        r#"{"messages": "\u00e9 \u20ac \ud83d\ude00 \u0041 \u0000 \u001F \u007f \u2028 é € 😀"}"#,
        "{\"messages\":\"é € 😀 A \\u0000 \\u001f \u{7f} \u{2028} é € 😀\",\"model\":\"m\"}",
        "32df6d128d2af5de",
    ),
    (
        r#"{"n": [0, -0, 1, -1, 10, 1.0, 1.50, 1e2, 1E-7, 0.1e1]}"#,
        r#"{"model":"m","n":[0,-0.0,1,-1,10,1.0,1.5,100.0,1e-7,1.0]}"#,
        "0b8cc93118f9b80c",
    ),
    (
        r#"{"n": [18446744073709551615, 18446744073709551616, -9223372036854775808, -9223372036854775809]}"#,
        r#"{"model":"m","n":[18446744073709551615,1.8446744073709552e+19,-9223372036854775808,-9.223372036854776e+18]}"#,
        "8efe84fb0bbea0d3",
    ),
    (
        r#"{"n": [1e308, 5e-324, 0.1, 123456789.123456789, 1e16, 1e15, 12345678901234567890123]}"#,
        r#"{"model":"m","n":[1e+308,5e-324,0.1,123456789.12345679,1e+16,1000000000000000.0,1.2345678901234568e+22]}"#,
        "0e297d4bafa9adb5",
    ),
    (r#"{"x": 1, "x": {"z": 1, "y": 2, "z": 3}, "\u0078": [2]}"#, r#"{"model":"m","x":[2]}"#, "418c6cc05e3f366d"),
    (
        r#"{"x": {"z": 1, "y": 2, "z": 3}, "max_tokens": 7, "messages": []}"#,
        r#"{"max_tokens":7,"messages":[],"model":"m","x":{"y":2,"z":3}}"#,
        "0937826224119265",
    ),
    (r#"{"model": "other\u002done", "messages": []}"#, r#"{"messages":[],"model":"other-one"}"#, "f33ecdd066eb6da4"),
    (
        r#"{"stream": false, "messages": [[[[{"b":1,"a":[{}]}]]]]}"#,
        r#"{"messages":[[[[{"a":[{}],"b":1}]]]],"model":"m","stream":false}"#,
        "c785b715c75d6d58",
    ),
    (
        r#"{"é": 1, "z": 2, "a\"b": 3, "a": 4, "aa": 5, "a\u0000": 6}"#,
        r#"{"a":4,"a\u0000":6,"a\"b":3,"aa":5,"model":"m","z":2,"é":1}"#,
        "f755135226148b21",
    ),
];

#[tokio::test]
async fn requests_are_sent_and_known_as_ever() {
    for (written, sent, hash) in PINNED {
        let (_, requests) = passed(&[written], json!({})).await;
        let [(body, sha256)] = &requests[..] else { panic!("{} requests", requests.len()) };
        assert_eq!(body, sent);
        assert_eq!(sha256.get(..16).unwrap(), hash, "{sent}");
    }
}

#[tokio::test]
async fn works_are_known_as_ever() {
    let bodies = PINNED.map(|(written, ..)| written).into_iter().filter(|b| !b.contains("other")).collect::<Vec<_>>();
    let (work, requests) = passed(&bodies, json!({"max_tokens": 5, "z": {"b": 0.50, "a": "\u{7f}/é\n"}})).await;
    let first = "{\"max_tokens\":5,\"messages\":[{\"content\":\"plain\",\"role\":\"user\"}],\"model\":\"m\",\"temperature\":0,\
                 \"z\":{\"a\":\"\u{7f}/é\\n\",\"b\":0.5}}";
    assert_eq!(requests[0].0, first);
    assert_eq!(work.input_sha256, "006402318a68ed8281024df56c3b2d805914fa70f4352100f68a99564d144a90");
    assert_eq!(work.work_hash, "v1-893ccab4172d18fed1acb27d4398e13d99bc93b6da27ee7072cbe0774af0fee0");
}
