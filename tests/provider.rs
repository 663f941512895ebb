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
use batchjob_operator::api::Capability::{DeleteFiles, ListBatches};
use batchjob_operator::api::{Endpoint, ProviderCapabilities};
use batchjob_operator::provider::{self, ApiError, BatchApi, Created, ErrorKind, OpenAi, Probe, Trial};
use batchjob_operator::transport::{HostPolicy, Interceptor, SendError, SystemLookup, Transport, Wire};
use support::ask;

/// Records every exchange; loses the first reply where told to.
#[derive(Debug, Default)]
struct Recorder {
    sent: Mutex<Vec<String>>,
    lose_a_reply: Mutex<bool>,
}

#[async_trait]
impl Interceptor for Recorder {
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
        assert!(!matches!(created, Created::Accepted(_)), "{answer:?}: {created:?}");
        assert_eq!(*recorder.sent.lock().unwrap(), ["POST /v1/batches"], "{answer:?}");
    }
    let (api, recorder) = client(&[(200, r#"{"id":"batch_1"}"#)], true).await;
    *recorder.lose_a_reply.lock().unwrap() = true;
    assert!(matches!(api.create(&ask()).await, Created::Unknown(..)), "a lost reply is no failure");
    assert_eq!(recorder.sent.lock().unwrap().len(), 1);
}

const NO: &str = r#"{"error":{"message":"Line 1: Model 'a' has not been configured"}}"#;
const OK: &str = r#"{"data":[]}"#;
const FILE: &str = r#"{"id":"file-1","filename":"probe.jsonl"}"#;

/// How an account that gives these answers in turn is tried out, and what it was asked.
async fn tried_out(answers: &[(u16, &'static str)], models: &[&str]) -> (Result<Probe, ApiError>, Vec<String>) {
    let (api, recorder) = client(answers, false).await;
    let models: Vec<String> = models.iter().map(|model| model.to_string()).collect();
    let timeout = std::time::Duration::from_secs(10);
    let trial = Trial { file_name: "probe.jsonl", endpoint: Endpoint::Embeddings, models: &models, timeout };
    let probe = provider::probe(&api, &trial).await;
    let sent = recorder.sent.lock().unwrap().clone();
    (probe, sent)
}

#[tokio::test]
async fn an_account_is_tried_out_with_a_request_for_a_model_that_it_has() {
    let trying = [(200, FILE), (200, FILE), (200, "{}"), (404, "{}"), (400, NO)];
    let names = r#"{"data":[{"id":"a"},{"id":"b"}]}"#;
    let asked = [&[(200, OK), (200, names), (403, NO)][..], &trying].concat();
    let (probe, sent) = tried_out(&asked, &[]).await;
    let both = ProviderCapabilities::of(&[ListBatches, DeleteFiles]);
    assert_eq!(probe, Ok(Probe { can: both, untried: None }));
    let uploads = |sent: &[String]| sent.iter().filter(|call| *call == "POST /v1/files").count();
    assert!(sent.contains(&"GET /v1/models".into()) && uploads(&sent) == 2, "{sent:?}");
    // Where the models are known nobody is asked for them, and one that may be any is none.
    let (probe, sent) = tried_out(&[&[(200, OK)][..], &trying].concat(), &["gpt-*", "b"]).await;
    assert_eq!(probe.unwrap().can, both);
    assert!(!sent.contains(&"GET /v1/models".into()), "{sent:?}");
    // Where a batch is made of the deleted file it is cancelled.
    let made = [(200, OK), (200, FILE), (200, FILE), (200, "{}"), (404, "{}"), (200, r#"{"id":"batch_1"}"#)];
    let (probe, sent) = tried_out(&made, &["b"]).await;
    assert_eq!(probe.unwrap().can, ProviderCapabilities::of(&[ListBatches]));
    assert_eq!(sent.last().unwrap(), "POST /v1/batches/batch_1/cancel");
}

#[tokio::test]
async fn what_cannot_be_tried_out_is_an_ability_that_is_absent() {
    for (status, said) in [(400, NO), (403, NO), (405, "{}"), (429, "{}"), (500, "{}")] {
        let (probe, sent) = tried_out(&[(200, OK), (status, said)], &["a"]).await;
        let Probe { can, untried } = probe.unwrap();
        assert_eq!(can, ProviderCapabilities::of(&[ListBatches]), "{status}");
        assert_eq!(untried.unwrap().status, Some(status));
        assert_eq!(sent.len(), 2, "{status}: {sent:?}");
    }
    let busy = [(200, OK), (200, FILE), (200, FILE), (200, "{}"), (404, "{}"), (429, "{}")];
    assert_eq!(tried_out(&busy, &["a"]).await.0.unwrap().untried.unwrap().kind, ErrorKind::Capacity);
    assert_eq!(tried_out(&[(401, NO)], &["a"]).await.0.unwrap_err().kind, ErrorKind::Auth, "the credential is refused");
    assert_eq!(
        tried_out(&[(404, "{}")], &["a"]).await.0.unwrap_err().kind,
        ErrorKind::NotFound,
        "there is no such API"
    );
}

#[tokio::test]
async fn a_credential_that_works_elsewhere_is_not_to_blame_for_a_refused_upload() {
    let error = |kind, status| ApiError { status: Some(status), ..ApiError::new(kind, "Line 1: no such model") };
    for (answers, kind, status, about_content) in [
        (&[(200, OK)][..], ErrorKind::Auth, 403, true),
        (&[(200, OK)], ErrorKind::Auth, 401, true),
        (&[(405, "{}"), (200, OK)], ErrorKind::Auth, 403, true),
        (&[(403, NO)], ErrorKind::Auth, 403, false),
        (&[(200, OK)], ErrorKind::Auth, 402, false),
        (&[(403, NO)], ErrorKind::InvalidInput, 400, true),
        (&[(200, OK)], ErrorKind::Capacity, 429, false),
        (&[(200, OK)], ErrorKind::NotFound, 404, false),
    ] {
        let (api, _) = client(answers, false).await;
        assert_eq!(provider::is_about_content(&api, &error(kind, status)).await, about_content, "{kind:?} {status}");
    }
}

/// Case 23-file-not-there-yet, of the vendor itself too.
#[tokio::test]
async fn a_create_that_is_told_of_no_file_or_of_no_room_says_so() {
    let absent = r#"{"error":{"message":"Cannot find file f, or it is not accessible.","param":"input_file_id"}}"#;
    let by_code = r#"{"error":{"message":"gone","code":"file_not_found"}}"#;
    let limit = r#"{"error":{"message":"Limit: 90,000 enqueued tokens","code":"token_limit_exceeded"}}"#;
    for (status, said, kind) in [
        (400, absent, ErrorKind::FileNotFound),
        (404, absent, ErrorKind::FileNotFound),
        (400, by_code, ErrorKind::FileNotFound),
        (400, limit, ErrorKind::TokenLimit),
        (429, limit, ErrorKind::TokenLimit),
        (429, "{}", ErrorKind::Capacity),
        (
            400,
            r#"{"error":{"message":"the file has a line that is not JSON","param":"input_file_id"}}"#,
            ErrorKind::InvalidInput,
        ),
        (404, r#"{"error":{"message":"Invalid URL"}}"#, ErrorKind::NotFound),
    ] {
        for vendors_own in [true, false] {
            let (api, _) = client(&[(status, said)], vendors_own).await;
            let told = match api.create(&ask()).await {
                Created::Rejected(e) | Created::Unknown(e) => e,
                Created::Accepted(id) => panic!("{id}"),
            };
            assert_eq!((told.kind, told.status), (kind, Some(status)), "{said}");
            assert_eq!(told.retry_after, Some(std::time::Duration::ZERO));
        }
    }
}

#[tokio::test]
async fn a_read_is_sent_again_until_it_is_answered() {
    let answers = [(503, ""), (429, "{}"), (200, "<html>"), (200, r#"{"id":"b","status":"completed"}"#)];
    let (api, recorder) = client(&answers, true).await;
    assert!(api.get("b").await.unwrap().has_ended());
    assert_eq!(recorder.sent.lock().unwrap().len(), 4);
    let (api, recorder) = client(&[(503, "")], true).await;
    assert_eq!(api.get("b").await.unwrap_err().kind, ErrorKind::Transient);
    assert_eq!(recorder.sent.lock().unwrap().len(), 4, "within bounds");
    let (api, recorder) = client(&[(401, r#"{"error":{"message":"no"}}"#)], true).await;
    assert_eq!(api.get("b").await.unwrap_err().kind, ErrorKind::Auth);
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
    assert_eq!(api.find(2_000_000_000, &|_| true).await.unwrap_err().kind, ErrorKind::Unsupported);
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
    let Created::Rejected(error) = api.create(&ask()).await else { panic!("the vendor itself refused") };
    told(&error.message, "POST");
}
