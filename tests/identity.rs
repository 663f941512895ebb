//! What a request and its work are known by is the same in every version: a hash that changes makes a work a new one, which
//! its own results keep from being written. What is sent is what was written.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::api::{WorkHashVersion, Written};
use batchjob_operator::requests::{Defaults, InMemoryPiece, PassError, PassOutput, PlanOptions, Source, pass};
use batchjob_operator::store::{Folder, IndexEntry, layout, staged};
use futures::StreamExt;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use WorkHashVersion::{V1, V2};

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn options(defaults: &str, hash_version: WorkHashVersion) -> PlanOptions {
    let defaults = Defaults::of_field(&Written { field: "requestDefaultsJSON", json: defaults }).unwrap();
    PlanOptions { defaults, run_id: Some("r".into()), hash_version, ..support::options() }
}

async fn text(folder: &Folder, name: &str) -> String {
    let mut text = String::new();
    staged::open(folder, name).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// The pass over requests with these bodies, and for each the body that is sent and the hash of the request.
async fn passed(bodies: &[&str], defaults: &str, version: WorkHashVersion) -> (PassOutput, Vec<(String, String)>) {
    try_passed(bodies, defaults, version).await.unwrap()
}

async fn try_passed(
    bodies: &[&str],
    defaults: &str,
    version: WorkHashVersion,
) -> Result<(PassOutput, Vec<(String, String)>), PassError> {
    let out = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
    let lines = bodies.iter().enumerate().map(|(i, body)| format!("{{\"custom_id\": \"id-{i}\", \"body\": {body}}}\n"));
    let held =
        InMemoryPiece { name: "in".into(), file: "in.jsonl".into(), bytes: lines.collect::<String>().into_bytes() };
    let source = Source::InMemory { name: "in".into(), pieces: futures::stream::iter([Ok(held)]).boxed() };
    let passed = pass(source, &options(defaults, version), Some((&out, WORK)), &std::env::temp_dir()).await?;
    assert_eq!(passed.shards.len(), 1);
    let shard = passed.shards.clone().next().unwrap().unwrap();
    let (sent, index) = (layout::shard(WORK, &shard.sha256), layout::index(WORK, &shard.index_sha256));
    let (sent, index) = (text(&out, &sent).await, text(&out, &index).await);
    let each = sent.lines().zip(index.lines()).enumerate().map(|(i, (sent, entry))| {
        let head = format!(r#"{{"custom_id":"r{i}-01234567","method":"POST","url":"/v1/chat/completions","body":"#);
        let body = sent.strip_prefix(&head).unwrap().strip_suffix('}').unwrap();
        let entry: Value = serde_json::from_str(entry).unwrap();
        (body.to_string(), entry[field_of(version)].as_str().unwrap().to_string())
    });
    Ok((passed.clone(), each.collect()))
}

/// What an index calls the hash of a request.
fn field_of(version: WorkHashVersion) -> &'static str {
    match version {
        V1 => "request_sha256",
        V2 => "request_blake3",
    }
}

/// What is written, what is sent of it, and the start of its hash in the first version.
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

/// The start of their hashes in the second version.
const PINNED_BLAKE3: [&str; 9] = [
    "22aceb39bae6884e",
    "1078f57c9cb32272",
    "01b4661ca1d3761b",
    "2cab3f5c3e8522fd",
    "7444f41d0d366e02",
    "ac69155df5881124",
    "9393953e57882d35",
    "fb7e51ed911555ac",
    "0b7cfd16584a3212",
];

#[tokio::test]
async fn requests_are_sent_as_they_are_written_and_known_as_ever() {
    for (written, sent, hash) in PINNED {
        let (_, requests) = passed(&[written], "{}", V1).await;
        let [(body, sha256)] = &requests[..] else { panic!("{} requests", requests.len()) };
        assert_eq!(body, sent);
        assert_eq!(sha256.get(..16).unwrap(), hash, "{sent}");
    }
}

/// Both versions hash one spelling, which the first one's pinned hashes hold fast; so a few of the second are enough.
#[tokio::test]
async fn requests_of_the_second_version_are_known_by_blake3() {
    let mut known_by = vec![];
    for (written, sent, _) in PINNED {
        let (_, requests) = passed(&[written], "{}", V2).await;
        assert_eq!(requests[0].0, sent);
        known_by.push(requests[0].1.get(..16).unwrap().to_string());
    }
    assert_eq!(known_by, PINNED_BLAKE3);
    let known_by = br#"/v1/chat/completions
m
{"messages":[{"content":"plain","role":"user"}],"model":"m","temperature":0}"#;
    let mut whole = known_by.to_vec();
    whole.resize(1024, b'\n');
    let hash = blake3::hash(&whole).to_hex();
    assert!(hash.starts_with(PINNED_BLAKE3[0]), "{hash}");
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
        let (_, requests) = passed(&[written], "{}", V1).await;
        assert_eq!(requests[0].0, written, "all digits are sent");
        assert_eq!(requests[0].1.get(..16).unwrap(), now);
        assert_ne!(before, now);
    }
    let floats = r#"{"model":"m","n":[18446744073709551615,1.8446744073709552e+19,-9223372036854775808,-9.223372036854776e+18]}"#;
    let (_, requests) = passed(&[floats], "{}", V1).await;
    assert!(requests[0].1.starts_with("8efe84fb0bbea0d3"), "what was sent then is known as it was then");
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused() {
    for twice in [r#"{"x": 1, "x": 2}"#, r#"{"x": 1, "\u0078": 2}"#, r#"{"messages": [{"role": "a", "role": "b"}]}"#] {
        let refused = try_passed(&[twice], "{}", V2).await.unwrap_err().to_string();
        assert!(refused.contains("line 1: ") && refused.contains("twice"), "{refused}");
    }
}

#[tokio::test]
async fn works_are_known_as_ever() {
    let bodies = PINNED.map(|(written, ..)| written).into_iter().filter(|b| !b.contains("other")).collect::<Vec<_>>();
    let defaults = r#"{"z": {"b": 0.50, "a": "\u007f/é\n"}, "max_tokens": 5}"#;
    let (work, requests) = passed(&bodies, defaults, V1).await;
    let first = r#"{"model": "m", "messages": [{"role": "user", "content": "plain"}], "temperature": 0,"z":{"b": 0.50, "a": "\u007f/é\n"},"max_tokens":5}"#;
    assert_eq!(requests[0].0, first);
    assert_eq!(work.work_hash, "v1-a7ca9ef354ec6acf776aa06e29c44cd75a21c3aa0a78861c3ee6f4e702f6f966");
    let (now, _) = passed(&bodies, defaults, V2).await;
    assert_eq!(now.work_hash, "v2-f111d01b52ee5bf45f280f7bc97b20259c91e50d8e879562d7496890db3d93fe");
    let known_by = |passed: &PassOutput| {
        let shards: Vec<_> = passed.shards.clone().map(|shard| shard.unwrap().sha256).collect();
        (shards, passed.input_version.clone())
    };
    assert_eq!(known_by(&now), known_by(&work));
    let versions = [&work, &now].map(|passed| WorkHashVersion::of(&passed.work_hash));
    assert_eq!(versions, [Some(V1), Some(V2)]);
}

/// The index says what the hash of a request is called, and results lines say it after it.
#[test]
fn a_line_of_an_index_is_read_and_written_as_its_work_has_it() {
    for line in [
        r#"{"index":7,"custom_id":"a","request_sha256":"00ff"}"#,
        r#"{"index":7,"custom_id":"a","request_blake3":"00ff"}"#,
    ] {
        let entry: IndexEntry = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), line);
    }
}
