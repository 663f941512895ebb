//! Every call, whatever is answered: a POST is sent once and is never taken for refused or made where nobody can tell.

#[path = "../support/ask.rs"]
mod support;

use std::time::{Duration, Instant};

use batchjob_operator::api::ProviderType;
use batchjob_operator::provider::{BatchApi, CreateBatch, Created, ErrorKind, InputFile};
use futures::StreamExt;
use futures::future::join_all;
use support::ask;

use super::answers::{odd, refusals};
use super::server::{Answer, Server, Then};
use super::{client, client_of};

/// A client that reads 4 MB at most, in a debug build, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of one POST, and how often the server saw it.
async fn created_as(type_: ProviderType, answer: Answer, vendors_own: bool) -> (Created, Vec<String>) {
    let server = Server::start(move |_, _| answer.clone()).await;
    let api = client_of(type_, &server, vendors_own);
    let created = tokio::time::timeout(PATIENCE, api.create(&ask())).await.unwrap();
    (created, server.seen())
}

/// Every dialect, at the vendor's own host and behind a gateway, where it has both.
fn dialects() -> [(ProviderType, bool); 4] {
    use ProviderType::{AzureOpenAI, OpenAI, OpenAICompatible};
    [(OpenAI, true), (OpenAICompatible, false), (AzureOpenAI, true), (AzureOpenAI, false)]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_answered_to_a_create_it_is_sent_once_and_unknown() {
    let cases = odd();
    assert!(cases.len() >= 90, "{}", cases.len());
    let run = |(name, answer): (String, Answer)| async move {
        for (type_, vendors_own) in dialects() {
            let (created, seen) = created_as(type_, answer.clone(), vendors_own).await;
            assert!(matches!(created, Created::Unknown(..)), "{name}, {type_:?}, {vendors_own}: {created:?}");
            assert_eq!(seen, ["POST /v1/batches HTTP/1.1"], "{name}, {type_:?}, {vendors_own}");
        }
    };
    join_all(cases.into_iter().map(run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_from_the_vendor_alone() {
    for (name, answer) in refusals() {
        for (type_, vendors_own) in dialects() {
            let (created, seen) = created_as(type_, answer.clone(), vendors_own).await;
            assert_eq!(matches!(created, Created::Rejected(_)), vendors_own, "{name}, {type_:?}: {created:?}");
            assert!(vendors_own || matches!(created, Created::Unknown(..)), "{name}, {type_:?}: {created:?}");
            assert_eq!(seen.len(), 1, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_is_not_waited_for_longer_than_it_may_take() {
    let interim = Then::Endless(b"HTTP/1.1 103 Early Hints\r\n\r\n");
    for (bytes, then) in [
        (&b""[..], Then::Hang),
        (b"HTTP/1.1 200 OK\r\n", Then::Hang),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"id\"", Then::Hang),
        (b"", interim),
    ] {
        let server = Server::start(move |_, _| Answer { bytes: bytes.to_vec(), then }).await;
        let began = Instant::now();
        let ask = CreateBatch { timeout: Duration::from_millis(300), ..ask() };
        let created = client(&server, true).create(&ask).await;
        assert!(matches!(created, Created::Unknown(..)), "{created:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_on_to_another_host() {
    for status in [301, 302, 303, 307, 308] {
        let trap = Server::start(|_, _| super::answers::json(200, r#"{"id":"b","status":"completed"}"#)).await;
        let there = format!("{}/v1/batches", trap.url);
        let server = Server::start(move |_, _| {
            let head =
                format!("HTTP/1.1 {status} X\r\nlocation: {there}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            Answer { bytes: head.into_bytes(), then: Then::Close }
        })
        .await;
        let api = client(&server, true);
        assert!(matches!(api.create(&ask()).await, Created::Unknown(..)), "{status}");
        assert!(api.get("b").await.is_err(), "{status}");
        assert!(api.content("f", 10).await.is_err(), "{status}");
        assert!(trap.seen().is_empty(), "{status}: the key went along");
    }
}

/// Case 28-redirects.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_names_where_it_leads_and_what_to_set_instead() {
    let led = |location: &'static str| async move {
        let server = Server::start(move |_, first| {
            let path = first.split(' ').nth(1).unwrap();
            let location = location.replace("PATH", path);
            let head =
                format!("HTTP/1.1 308 X\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            Answer { bytes: head.into_bytes(), then: Then::Close }
        })
        .await;
        let api = client(&server, false);
        let Created::Unknown(created) = api.create(&ask()).await else { panic!("{location}") };
        let created = created.message;
        let mut said = vec![created];
        let content = futures::stream::iter([Ok("{}\n".into())]).boxed();
        let file = InputFile { name: "x.jsonl".into(), bytes: 3, content };
        let errors = [
            api.upload(file).await.unwrap_err(),
            api.get("b").await.unwrap_err(),
            api.cancel("b").await.unwrap_err(),
            api.file_name("f").await.unwrap_err(),
            api.content("f", 10).await.map(drop).unwrap_err(),
            api.delete_file("f").await.unwrap_err(),
            api.find(0, &|_| true).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, ErrorKind::Redirected, "{location}: {error}");
            said.push(error.message);
        }
        assert_eq!(server.seen().len(), said.len(), "{location}: nothing is asked for twice");
        said
    };
    for said in led("https://gw.example:8443PATH").await {
        assert!(said.contains("308") && said.contains("`spec.baseURL: https://gw.example:8443/v1`"), "{said}");
    }
    for said in led("https://u:pw@store.example/bucket/0123?X-Amz-Signature=canary").await {
        assert!(said.contains("leads to https://store.example; redirects are not followed: have the server"), "{said}");
        assert!(["canary", "pw", "0123"].iter().all(|secret| !said.contains(secret)), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_call_takes_an_odd_answer_for_a_good_one() {
    let run = |(name, answer): (String, Answer)| async move {
        let server = Server::start(move |_, _| answer.clone()).await;
        let api = client(&server, true);
        let content = futures::stream::iter([Ok("{}\n".into())]).boxed();
        let file = InputFile { name: "x.jsonl".into(), bytes: 3, content };
        let uploaded = tokio::time::timeout(PATIENCE, api.upload(file)).await.expect(&name);
        assert!(uploaded.is_err(), "{name}: {uploaded:?}");
        assert_eq!(server.seen(), ["POST /v1/files HTTP/1.1"], "{name}: an upload is not repeated here");
        let got = tokio::time::timeout(PATIENCE, api.get("batch_9")).await.expect(&name);
        assert!(got.is_err(), "{name}: {got:?}");
        assert!(server.seen().len() <= 5, "{name}: {:?}", server.seen());
        let why = got.unwrap_err().message;
        assert!(why.len() <= 600 && !why.contains("sk-canary"), "{name}: {why}");
    };
    futures::stream::iter(odd()).for_each_concurrent(24, run).await;
}
