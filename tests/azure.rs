//! Azure OpenAI on the wire: paths, header, and what its answers mean.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/ask.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use batchjob_operator::api::{BatchEnd, Endpoint, ProviderType};
use batchjob_operator::provider::{ApiError, BatchApi, CreateBatch, Created, Dialect, ErrorKind, InputFile, OpenAi};
use batchjob_operator::provider::{State as BatchState, Trial, probe};
use batchjob_operator::transport::{HostPolicy, Transport};
use serde_json::{Value, json};
use support::ask;

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    api_key: Option<String>,
    authorization: bool,
    body: Bytes,
}

type Answer = Arc<dyn Fn(usize, &str) -> (u16, Value) + Send + Sync>;

#[derive(Clone)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Answer,
}

/// A client of a server that answers each request by its number and its first line. `root` is the path of `spec.baseURL`.
async fn client(root: &str, answer: impl Fn(usize, &str) -> (u16, Value) + Send + Sync + 'static) -> (OpenAi, Server) {
    async fn serve(State(server): State<Server>, request: Request) -> Response {
        let (api_key, authorization) = {
            let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_string());
            (header("api-key"), header("authorization").is_some())
        };
        let line = format!("{} {}", request.method(), request.uri());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let n = {
            let mut seen = server.seen.lock().unwrap();
            seen.push(Seen { line: line.clone(), api_key, authorization, body });
            seen.len() - 1
        };
        let (status, body) = (server.answer)(n, &line);
        (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
    }
    let server = Server { seen: Arc::default(), answer: Arc::new(answer) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{root}", listener.local_addr().unwrap());
    let router = Router::new().fallback(serve).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let transport = Transport::new(HostPolicy::allowing(["127.0.0.1".parse().unwrap()])).unwrap();
    let api = OpenAi::new(transport, &url, Some("azure-key".to_string().into()), true).unwrap();
    (api.speaking(Dialect::of(ProviderType::AzureOpenAI)), server)
}

impl Server {
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

fn a_file() -> InputFile {
    let content = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"{}\n"))]));
    InputFile { name: "f.jsonl".into(), bytes: 3, content }
}

#[tokio::test]
async fn a_resource_is_called_below_openai_with_the_key_in_its_own_header() {
    for (root, query) in [("", ""), ("/openai/v1", ""), ("/openai", "?api-version=2024-10-21")] {
        let v1 = if query.is_empty() { "/v1" } else { "" };
        let (api, server) = client(root, |_, _| (200, json!({"id": "b", "status": "Validating"}))).await;
        assert_eq!(api.create(&ask()).await, Created::Accepted("b".into()));
        assert_eq!(api.get("b").await.unwrap().state, BatchState::Running);
        api.cancel("b").await.unwrap();
        let paths = ["POST /openai{v1}/batches", "GET /openai{v1}/batches/b", "POST /openai{v1}/batches/b/cancel"];
        assert_eq!(server.lines(), paths.map(|path| path.replace("{v1}", v1) + query), "{root}");
        for seen in server.seen() {
            assert_eq!((seen.api_key.as_deref(), seen.authorization), (Some("azure-key"), false), "{}", seen.line);
        }
        let (api, server) = client(root, |_, _| (200, json!({"data": [], "has_more": false}))).await;
        api.find(0, &|_| true).await.unwrap();
        let limit = if query.is_empty() { "?limit=100" } else { "?api-version=2024-10-21&limit=100" };
        assert_eq!(server.lines(), [format!("GET /openai{v1}/batches{limit}")]);
    }
}

#[tokio::test]
async fn a_batch_of_either_endpoint_is_asked_for_as_chat_completions_and_its_lines_say_which() {
    for (endpoint, url) in [
        (Endpoint::ChatCompletions, Some("/chat/completions")),
        (Endpoint::Responses, Some("/v1/responses")),
        (Endpoint::Embeddings, None),
        (Endpoint::Completions, None),
        (Endpoint::Moderations, None),
    ] {
        let dialect = Dialect::of(ProviderType::AzureOpenAI);
        let line = (dialect.line)(endpoint).map(|parts| {
            let line: Value =
                serde_json::from_str(&[parts[0].as_str(), "r1", &parts[1], "{}", &parts[2]].concat()).unwrap();
            assert_eq!(
                (&line["custom_id"], &line["method"], &line["body"]),
                (&json!("r1"), &json!("POST"), &json!({}))
            );
            line["url"].as_str().unwrap().to_string()
        });
        assert_eq!(line.as_deref(), url, "{endpoint:?}");
        let (api, server) = client("", |_, _| (200, json!({"id": "b"}))).await;
        api.create(&CreateBatch { endpoint, ..ask() }).await;
        let asked: Value = serde_json::from_slice(&server.seen()[0].body).unwrap();
        assert_eq!(asked["endpoint"], "/chat/completions", "{endpoint:?}");
    }
}

#[tokio::test]
async fn an_upload_ends_once_its_file_was_looked_into() {
    let file = |status: &str| json!({"id": "file-1", "status": status, "filename": "f.jsonl"});
    let states = ["uploaded", "pending", "running", "processed"];
    let (api, server) = client("", move |n, _| (200, file(states[n.min(3)]))).await;
    assert_eq!(api.upload(a_file()).await.unwrap(), "file-1");
    assert_eq!(server.lines()[0], "POST /openai/v1/files");
    assert_eq!(server.lines()[1..], ["GET /openai/v1/files/file-1"; 3], "until it is processed");
    // The upload itself is over before.
    let (api, server) = client("", move |_, _| (200, file("pending"))).await;
    assert_eq!(api.send_file(a_file()).await.unwrap(), "file-1");
    assert_eq!(server.lines(), ["POST /openai/v1/files"]);
    assert!(!api.is_processed("file-1").await.unwrap());
    let refused =
        json!({"id": "file-1", "status": "error", "status_details": "the file starts with a byte order mark"});
    let (api, _) = client("", move |n, _| (200, if n == 0 { file("pending") } else { refused.clone() })).await;
    let error = api.upload(a_file()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput);
    assert!(error.message.contains("byte order mark"), "{error}");
}

#[tokio::test]
async fn room_that_there_is_not_is_a_wait_and_no_fault_of_the_requests() {
    let full = json!({"error": {"code": "quotaExceeded", "message": "The quota for files without expiry is reached. The maximum is 500."}});
    let (api, _) = client("", move |_, _| (400, full.clone())).await;
    assert_eq!(api.upload(a_file()).await.unwrap_err().kind, ErrorKind::Capacity);
    let no_key = json!({"error": {"code": "401", "message": "Access denied due to invalid subscription key"}});
    let (api, _) = client("", move |_, _| (401, no_key.clone())).await;
    assert_eq!(api.get("b").await.unwrap_err().kind, ErrorKind::Auth);
    let failed = |code: &str| {
        let error = json!({"code": code, "message": "said by Azure", "line": null});
        json!({"id": "b", "status": "Failed", "errors": {"object": "list", "data": [error]},
            "request_counts": {"total": null, "completed": null, "failed": null}, "completed_at": "2024-07-19T13:44:00Z"})
    };
    for (code, kind) in [
        ("token_limit_exceeded", ErrorKind::TokenLimit),
        ("too_many_tasks", ErrorKind::InvalidInput),
        ("url_mismatch", ErrorKind::InvalidInput),
        ("model_mismatch", ErrorKind::InvalidInput),
        ("empty_file", ErrorKind::InvalidInput),
    ] {
        let document = failed(code);
        let (api, _) = client("", move |_, _| (200, document.clone())).await;
        let batch = api.get("b").await.unwrap();
        assert_eq!(batch.state, BatchState::Ended(BatchEnd::Failed));
        assert_eq!(batch.rejection().map(|e| e.kind), Some(kind), "{code}");
    }
}

#[tokio::test]
async fn times_as_text_are_times() {
    let batch = json!({"id": "b", "status": "Validating", "created_at": "2024-07-19T13:43:01Z"});
    let (api, _) = client("", move |_, _| (200, batch.clone())).await;
    assert_eq!(api.get("b").await.unwrap().created_at, 1_721_396_581);
}

#[tokio::test]
async fn an_endpoint_without_batches_is_not_tried_out() {
    let (api, server) = client("", |_, _| (200, json!({"data": []}))).await;
    let timeout = Duration::from_secs(5);
    let models = ["my-deployment".to_string()];
    let trial = Trial { file_name: "probe.jsonl", endpoint: Endpoint::Embeddings, models: &models, timeout };
    let untried: Option<ApiError> = probe(&api, &trial).await.unwrap().untried;
    assert_eq!(untried.unwrap().kind, ErrorKind::Unsupported);
    assert_eq!(server.lines().len(), 1, "the list alone: {:?}", server.lines());
}
