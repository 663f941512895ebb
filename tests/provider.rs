//! The provider client on the wire: what is sent once, what is sent again, and what is made of odd answers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/ask.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use batchjob_operator::provider::{BatchApi, Class, Created, OpenAi};
use batchjob_operator::transport::{HostPolicy, SendError, SystemLookup, Tap, Transport, Wire};
use support::ask;

/// Records every exchange; loses the first reply where told to.
#[derive(Debug, Default)]
struct Recorder {
    sent: Mutex<Vec<String>>,
    lose_a_reply: Mutex<bool>,
}

#[async_trait]
impl Tap for Recorder {
    async fn exchange(&self, request: reqwest::Request, wire: Wire) -> Result<reqwest::Response, SendError> {
        self.sent.lock().unwrap().push(format!("{} {}", request.method(), request.url().path()));
        let response = wire.pass(request).await?;
        match std::mem::take(&mut *self.lose_a_reply.lock().unwrap()) {
            true => Err(SendError::MaybeSent("connection reset".into())),
            false => Ok(response),
        }
    }
}

type Answers = Arc<Mutex<VecDeque<(u16, &'static str)>>>;

/// A server that gives the answers in turn, and the last one for ever; and a client of it.
async fn client(answers: &[(u16, &'static str)], vendors_own: bool) -> (OpenAi, Arc<Recorder>) {
    async fn answer(State(answers): State<Answers>, _: Request) -> Response {
        let mut answers = answers.lock().unwrap();
        let (status, body) = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] };
        Response::builder().status(status).header("retry-after", "0").body(Body::from(body)).unwrap()
    }
    let answers: Answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer).with_state(answers)).await });
    let recorder = Arc::new(Recorder::default());
    let hosts = HostPolicy::allowing(["127.0.0.1".parse().unwrap()]);
    let transport = Transport::with(hosts, Arc::new(SystemLookup), Some(recorder.clone())).unwrap();
    (OpenAi::new(transport, &url, Some("sk-test".to_string().into()), vendors_own).unwrap(), recorder)
}

#[tokio::test]
async fn a_create_is_sent_once_whatever_comes_back() {
    for answer in
        [(503, "busy"), (429, r#"{"error":{"message":"slow down"}}"#), (500, "<html>"), (302, ""), (200, "not json")]
    {
        let (api, recorder) = client(&[answer, (200, r#"{"id":"batch_1"}"#)], true).await;
        let created = api.create(&ask()).await;
        assert!(!matches!(created, Created::Yes(_)), "{answer:?}: {created:?}");
        assert_eq!(*recorder.sent.lock().unwrap(), ["POST /v1/batches"], "{answer:?}");
    }
    let (api, recorder) = client(&[(200, r#"{"id":"batch_1"}"#)], true).await;
    *recorder.lose_a_reply.lock().unwrap() = true;
    assert!(matches!(api.create(&ask()).await, Created::Unknown(..)), "a lost reply is no failure");
    assert_eq!(recorder.sent.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_read_is_sent_again_until_it_is_answered() {
    let answers = [(503, ""), (429, "{}"), (200, "<html>"), (200, r#"{"id":"b","status":"completed"}"#)];
    let (api, recorder) = client(&answers, true).await;
    assert!(api.get("b").await.unwrap().has_ended());
    assert_eq!(recorder.sent.lock().unwrap().len(), 4);
    let (api, recorder) = client(&[(503, "")], true).await;
    assert_eq!(api.get("b").await.unwrap_err().class, Class::Transient);
    assert_eq!(recorder.sent.lock().unwrap().len(), 4, "within bounds");
    let (api, recorder) = client(&[(401, r#"{"error":{"message":"no"}}"#)], true).await;
    assert_eq!(api.get("b").await.unwrap_err().class, Class::Auth);
    assert_eq!(recorder.sent.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_search_reads_every_page_and_notices_a_list_that_repeats_itself() {
    let first = r#"{"data":[{"id":"b2","created_at":2000000000,"input_file_id":"f"}],"has_more":true,"last_id":"b2"}"#;
    let second =
        r#"{"data":[{"id":"b1","created_at":1999999999,"input_file_id":"f"}],"has_more":false,"last_id":"b1"}"#;
    let (api, _) = client(&[(200, first), (200, second)], true).await;
    let found = api.find(2_000_000_000, &|b| b.input_file_id.as_deref() == Some("f")).await.unwrap();
    assert_eq!(found.iter().map(|b| b.id.as_str()).collect::<Vec<_>>(), ["b1", "b2"], "oldest first");
    let (api, recorder) = client(&[(200, first)], true).await;
    assert_eq!(api.find(2_000_000_000, &|_| true).await.unwrap_err().class, Class::Unsupported);
    assert_eq!(recorder.sent.lock().unwrap().len(), 2);
    // One page that cannot be read means that nothing is known.
    let (api, _) = client(&[(200, first), (500, "")], true).await;
    assert!(api.find(2_000_000_000, &|_| true).await.is_err());
}

#[tokio::test]
async fn what_is_gone_or_ending_is_no_error_to_stop_or_delete() {
    for answer in
        [(400, r#"{"error":{"message":"cannot cancel"}}"#), (409, r#"{"detail":"ended"}"#), (409, ""), (404, "{}")]
    {
        let (api, _) = client(&[answer], false).await;
        assert!(api.cancel("b").await.is_ok(), "{answer:?}");
    }
    let (api, _) = client(&[(404, "{}")], false).await;
    assert!(api.delete_file("f").await.is_ok());
    let (api, _) = client(&[(500, "")], false).await;
    assert!(api.delete_file("f").await.is_err());
}

#[tokio::test]
async fn an_answer_over_its_limit_is_cut_off() {
    let (api, _) = client(&[(200, "0123456789")], true).await;
    let mut content = api.content("f", 4).await.unwrap();
    assert!(futures::StreamExt::next(&mut content).await.unwrap().is_err());
}

#[tokio::test]
async fn a_key_that_a_server_repeats_is_not_passed_on() {
    let refusal = (401, r#"{"error":{"message":"Incorrect API key provided: sk-test. Find yours in the console."}}"#);
    let (api, _) = client(&[refusal], true).await;
    let told = |message: &str, call: &str| {
        let said =
            format!("Incorrect API key provided: [key]. Find yours in the console. (401, {call} http://127.0.0.1:");
        assert!(message.starts_with(&said), "{message}");
    };
    told(&api.get("b").await.unwrap_err().message, "GET");
    let Created::No(error) = api.create(&ask()).await else { panic!("the vendor itself refused") };
    told(&error.message, "POST");
}
