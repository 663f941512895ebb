//! What a request and its work are known by is the same in every version: a hash that changes makes a work a new one, which
//! its own results keep from being written. What is sent is what was written.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::api::Written;
use batchjob_operator::requests::{Defaults, Held, PassError, Passed, Recipe, Source, pass};
use batchjob_operator::store::{Folder, layout, staged};
use futures::StreamExt;
use serde_json::Value;
use tokio::io::AsyncReadExt;

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn recipe(defaults: &str) -> Recipe {
    let defaults = Defaults::of_field(&Written { field: "requestDefaultsJSON", json: defaults }).unwrap();
    Recipe { defaults, run_id: Some("r".into()), ..support::recipe() }
}

async fn text(folder: &Folder, name: &str) -> String {
    let mut text = String::new();
    staged::open(folder, name).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// The pass over requests with these bodies, and for each the body that is sent and the hash of the request.
async fn passed(bodies: &[&str], defaults: &str) -> (Passed, Vec<(String, String)>) {
    try_passed(bodies, defaults).await.unwrap()
}

async fn try_passed(bodies: &[&str], defaults: &str) -> Result<(Passed, Vec<(String, String)>), PassError> {
    let out = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let lines = bodies.iter().enumerate().map(|(i, body)| format!("{{\"custom_id\": \"id-{i}\", \"body\": {body}}}\n"));
    let held = Held { name: "in".into(), file: "in.jsonl".into(), bytes: lines.collect::<String>().into_bytes() };
    let source = Source::Held { name: "in".into(), pieces: futures::stream::iter([Ok(held)]).boxed() };
    let passed = pass(source, &recipe(defaults), Some((&out, WORK)), &std::env::temp_dir()).await?;
    let [shard] = &passed.shards[..] else { panic!("{} shards", passed.shards.len()) };
    let (sent, index) = (layout::shard(WORK, &shard.sha256), layout::index(WORK, &shard.index_sha256));
    let (sent, index) = (text(&out, &sent).await, text(&out, &index).await);
    let each = sent.lines().zip(index.lines()).enumerate().map(|(i, (sent, entry))| {
        let head = format!(r#"{{"custom_id":"r{i}-01234567","method":"POST","url":"/v1/chat/completions","body":"#);
        let body = sent.strip_prefix(&head).unwrap().strip_suffix('}').unwrap();
        let entry: Value = serde_json::from_str(entry).unwrap();
        (body.to_string(), entry["request_sha256"].as_str().unwrap().to_string())
    });
    Ok((passed.clone(), each.collect()))
}

/// What is written, what is sent of it, and the start of its hash.
const PINNED: [(&str, &str, &str); 9] = [
    (
        r#"{"model": "m", "messages": [{"role": "user", "content": "plain"}], "temperature": 0}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": "plain"}], "temperature": 0}"#,
        "c6ad53e080de6ef9",
    ),
    (
        r#"{ "b" : [ ] , "a" : { } , "B" : null , "": [ true , false ] }"#,
        r#"{ "b" : [ ] , "a" : { } , "B" : null , "": [ true , false ],"model":"m" }"#,
        "fe9b30bbc62e3a67",
    ),
    (
        r#"{"messages": "tab\tnew\nquote\"back\\slash\/cr\rbs\bff\f"}"#,
        r#"{"messages": "tab\tnew\nquote\"back\\slash\/cr\rbs\bff\f","model":"m"}"#,
        "b1909ff90c91be3a",
    ),
    (
        r#"{"messages": "\u00e9 \u20ac \ud83d\ude00 \u0041 \u0000 \u001F \u007f \u2028 é € 😀"}"#,
        r#"{"messages": "\u00e9 \u20ac \ud83d\ude00 \u0041 \u0000 \u001F \u007f \u2028 é € 😀","model":"m"}"#,
        "32df6d128d2af5de",
    ),
    (
        r#"{"n": [0, -0, 1, -1, 10, 1.0, 1.50, 1e2, 1E-7, 0.1e1]}"#,
        r#"{"n": [0, -0, 1, -1, 10, 1.0, 1.50, 1e2, 1E-7, 0.1e1],"model":"m"}"#,
        "0b8cc93118f9b80c",
    ),
    (
        r#"{"x": {"z": 1, "y": 2, "z2": 3}, "max_tokens": 7, "messages": []}"#,
        r#"{"x": {"z": 1, "y": 2, "z2": 3}, "max_tokens": 7, "messages": [],"model":"m"}"#,
        "3eb7311b8dfa0238",
    ),
    (
        r#"{"model": "other\u002done", "messages": []}"#,
        r#"{"model": "other\u002done", "messages": []}"#,
        "f33ecdd066eb6da4",
    ),
    (
        r#"{"stream": false, "messages": [[[[{"b":1,"a":[{}]}]]]]}"#,
        r#"{"stream": false, "messages": [[[[{"b":1,"a":[{}]}]]]],"model":"m"}"#,
        "c785b715c75d6d58",
    ),
    (
        r#"{"é": 1, "z": 2, "a\"b": 3, "a": 4, "aa": 5, "a\u0000": 6}"#,
        r#"{"é": 1, "z": 2, "a\"b": 3, "a": 4, "aa": 5, "a\u0000": 6,"model":"m"}"#,
        "f755135226148b21",
    ),
];

#[tokio::test]
async fn requests_are_sent_as_they_are_written_and_known_as_ever() {
    for (written, sent, hash) in PINNED {
        let (_, requests) = passed(&[written], "{}").await;
        let [(body, sha256)] = &requests[..] else { panic!("{} requests", requests.len()) };
        assert_eq!(body, sent);
        assert_eq!(sha256.get(..16).unwrap(), hash, "{sent}");
    }
}

/// Versions before kept no more digits than a 64-bit float has: what they sent, and knew the request by, was another number.
#[tokio::test]
async fn a_number_that_was_sent_as_another_one_is_known_by_its_own_digits_now() {
    for (written, before, now) in [
        (
            r#"{"n":[18446744073709551615,18446744073709551616,-9223372036854775808,-9223372036854775809],"model":"m"}"#,
            "8efe84fb0bbea0d3",
            "c2356beb6d1a6776",
        ),
        (
            r#"{"n":[1e308,5e-324,0.1,123456789.123456789,1e16,1e15,12345678901234567890123],"model":"m"}"#,
            "0e297d4bafa9adb5",
            "a5e718501cfaded0",
        ),
    ] {
        let (_, requests) = passed(&[written], "{}").await;
        assert_eq!(requests[0].0, written, "all digits are sent");
        assert_eq!(requests[0].1.get(..16).unwrap(), now);
        assert_ne!(before, now);
    }
    let floats = r#"{"model":"m","n":[18446744073709551615,1.8446744073709552e+19,-9223372036854775808,-9.223372036854776e+18]}"#;
    let (_, requests) = passed(&[floats], "{}").await;
    assert!(requests[0].1.starts_with("8efe84fb0bbea0d3"), "what was sent then is known as it was then");
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused() {
    for twice in [r#"{"x": 1, "x": 2}"#, r#"{"x": 1, "\u0078": 2}"#, r#"{"messages": [{"role": "a", "role": "b"}]}"#] {
        let refused = try_passed(&[twice], "{}").await.unwrap_err().to_string();
        assert!(refused.contains("line 1: ") && refused.contains("twice"), "{refused}");
    }
}

#[tokio::test]
async fn works_are_known_as_ever() {
    let bodies = PINNED.map(|(written, ..)| written).into_iter().filter(|b| !b.contains("other")).collect::<Vec<_>>();
    let (work, requests) = passed(&bodies, r#"{"z": {"b": 0.50, "a": "\u007f/é\n"}, "max_tokens": 5}"#).await;
    let first = r#"{"model": "m", "messages": [{"role": "user", "content": "plain"}], "temperature": 0,"z":{"b": 0.50, "a": "\u007f/é\n"},"max_tokens":5}"#;
    assert_eq!(requests[0].0, first);
    assert_eq!(work.input_sha256, "6805d0012507be5ace60e6b5694d535d43d319c311bcdc80e270be64cf6ff354");
    assert_eq!(work.work_hash, "v1-a7ca9ef354ec6acf776aa06e29c44cd75a21c3aa0a78861c3ee6f4e702f6f966");
}
