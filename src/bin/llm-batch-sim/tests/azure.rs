//! Azure OpenAI, as it differs from OpenAI.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::testkit::{Failure, Server, chats, ended, form, id};

/// Asks with these headers; status and body.
async fn ask(server: &Server, request: &str, headers: &str, body: &str) -> Result<(u64, Value), Failure> {
    let mut stream = TcpStream::connect(server.address).await?;
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, serde_json::from_str(body)?))
}

const KEY: &str = "api-key: sk-a\r\n";

async fn upload(server: &Server, content: &str) -> Result<Value, Failure> {
    let headers = format!("{KEY}content-type: multipart/form-data; boundary=xyz\r\n");
    Ok(ask(server, "POST /openai/v1/files", &headers, &form(content)).await?.1)
}

/// The batch of a file, once it was looked into.
async fn create(server: &Server, content: &str) -> Result<(u64, Value), Failure> {
    let file = upload(server, content).await?;
    let wish = json!({"input_file_id": id(&file), "endpoint": "/chat/completions", "completion_window": "24h"});
    loop {
        let (status, answer) = ask(server, "POST /openai/v1/batches", KEY, &wish.to_string()).await?;
        if !answer["error"]["message"].as_str().is_some_and(|why| why.contains("not been processed")) {
            return Ok((status, answer));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn end_of(server: &Server, content: &str) -> Result<Value, Failure> {
    let (_, batch) = create(server, content).await?;
    loop {
        let (_, batch) = ask(server, &format!("GET /openai/v1/batches/{}", id(&batch)), KEY, "").await?;
        if ended(&batch) {
            return Ok(batch);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn server() -> Result<Server, Failure> {
    Server::start(&["sk-a"], Duration::ZERO, &json!([])).await
}

#[tokio::test]
async fn the_key_comes_in_its_own_header_and_errors_say_a_code_and_a_message() -> Result<(), Failure> {
    let server = server().await?;
    for headers in
        ["", "authorization: Bearer sk-a\r\n", "api-key: other\r\n", "api-key: sk-a\r\nauthorization: Bearer sk-a\r\n"]
    {
        let (status, answer) = ask(&server, "GET /openai/v1/batches", headers, "").await?;
        assert_eq!((status, &answer["error"]["code"]), (401, &json!("401")), "{headers}");
        assert_eq!(answer["error"].as_object().map(serde_json::Map::len), Some(2), "{answer}");
    }
    assert_eq!(ask(&server, "GET /openai/v1/batches", KEY, "").await?.0, 200);
    assert_eq!(ask(&server, "GET /openai/batches", KEY, "").await?.0, 404, "without a version");
    assert_eq!(ask(&server, "GET /openai/batches?api-version=2024-10-21", KEY, "").await?.0, 200);
    assert_eq!(ask(&server, "GET /v1/batches", KEY, "").await?.0, 401, "OpenAI does not know that header");
    Ok(())
}

#[tokio::test]
async fn a_file_is_pending_for_a_moment_and_no_batch_is_made_of_it_before() -> Result<(), Failure> {
    let server = server().await?;
    let file = upload(&server, &chats(["a"])).await?;
    assert_eq!(file["status"], "pending");
    let wish = json!({"input_file_id": id(&file), "endpoint": "/chat/completions", "completion_window": "24h"});
    assert_eq!(ask(&server, "POST /openai/v1/batches", KEY, &wish.to_string()).await?.0, 400);
    let batch = end_of(&server, &chats(["a"]).replace("/v1/chat", "/chat")).await?;
    assert_eq!((&batch["status"], &batch["endpoint"]), (&json!("completed"), &json!("/chat/completions")));
    let errors = batch["error_file_id"].as_str().ok_or("a batch without failures names an error file")?;
    let (_, file) = ask(&server, &format!("GET /openai/v1/files/{errors}"), KEY, "").await?;
    assert_eq!(file["bytes"], 0);
    Ok(())
}

#[tokio::test]
async fn lines_say_which_endpoint_they_are_for_and_not_every_one_has_batches() -> Result<(), Failure> {
    let server = server().await?;
    let chat = chats(["a", "b"]);
    for (content, code) in [
        (chat.clone(), None),
        (chat.replacen("/v1/chat", "/chat", 1), None),
        (chat.replacen("/v1/chat/completions", "/v1/responses", 1), Some("url_mismatch")),
        (chat.replace("/v1/chat/completions", "/v1/embeddings"), Some("url_mismatch")),
        (chat.replacen("\"m\"", "\"other\"", 1), Some("model_mismatch")),
    ] {
        let batch = end_of(&server, &content).await?;
        assert_eq!(batch["errors"]["data"][0]["code"].as_str(), code, "{batch}");
    }
    let wish = json!({"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "24h"});
    assert_eq!(ask(&server, "POST /openai/v1/batches", KEY, &wish.to_string()).await?.0, 400);
    Ok(())
}
