//! The promises of the whole server, asked for over the wire.

mod azure;
mod flaws;
mod webhooks;
mod wire;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::testkit::{Failure, Server, chats, ended, form, id, sorted, wish};

const LONG: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_batch_comes_back_whole_and_is_billed_once() -> Result<(), Failure> {
    let rules = json!([{"contains": "bad", "status": 400, "code": "refused"}]);
    let server = Server::start(&[], Duration::ZERO, &rules).await?;
    let texts: Vec<String> = (0..20).map(|n| format!("text {n}")).collect();
    let batch = server.order(&chats(texts.iter().map(String::as_str).chain(["bad"]))).await?;
    let batch = server.batch(&batch, ended).await?;
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["request_counts"], json!({"total": 21, "completed": 20, "failed": 1}));
    assert_eq!(batch["metadata"], json!({"intent": "i-1"}));

    let rows = server.rows(&batch["output_file_id"]).await?;
    let order: Vec<&str> = rows.iter().filter_map(|row| row["custom_id"].as_str()).collect();
    let mut inputs: Vec<String> = (0..20).map(|n| format!("r{n}")).collect();
    assert_ne!(order, inputs);
    inputs.sort();
    assert_eq!(sorted(&rows, "custom_id"), inputs);
    let used = |row: &Value| row["response"]["body"]["usage"]["total_tokens"].as_u64();
    let sum: u64 = rows.iter().filter_map(used).sum();
    assert_eq!(batch["usage"]["total_tokens"], sum);

    let errors = server.rows(&batch["error_file_id"]).await?;
    assert_eq!(sorted(&errors, "custom_id"), ["r20"]);
    assert_eq!(errors[0]["error"], Value::Null);
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["code"], "refused");

    let ledger = server.ledger().await?;
    assert_eq!(sorted(&ledger, "custom_id"), inputs);
    assert_eq!(ledger[19]["seq"], 20);
    Ok(())
}

#[tokio::test]
async fn a_batch_of_failures_is_completed_without_output() -> Result<(), Failure> {
    let server = Server::start(&[], Duration::ZERO, &json!([{"status": 500}])).await?;
    let batch = server.batch(&server.order(&chats(["a"])).await?, ended).await?;
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["output_file_id"], Value::Null);
    assert_eq!(server.rows(&batch["error_file_id"]).await?.len(), 1);
    assert!(server.ledger().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_bad_file_fails_and_costs_nothing() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let batch = server.order(&(chats(["a"]) + "{\n{\n")).await?;
    let batch = server.batch(&batch, ended).await?;
    assert_eq!(batch["status"], "failed");
    assert_eq!(batch["errors"]["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(batch["errors"]["data"][0]["line"], 2);
    assert_eq!(batch["request_counts"]["total"], 0);
    assert!(server.ledger().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_lost_reply_leaves_the_batch() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let file = server.upload("", &chats(["a"])).await?.json()?;
    let fault = json!({"point": "create_batch", "action": "drop_reply", "times": 1});
    assert_eq!(server.post("/admin/faults", &fault).await?.status, 200);

    // A create that is refused is told: the fault waits for one that succeeds.
    assert_eq!(server.post("/v1/batches", &wish("file-none")).await?.status, 400);
    assert!(server.post("/v1/batches", &wish(id(&file))).await.is_err());
    let state = server.get("/admin/state").await?.json()?;
    assert_eq!(state["creates"], 1);
    let listed = server.get("/v1/batches").await?.json()?;
    assert_eq!(listed["data"][0]["metadata"], json!({"intent": "i-1"}));
    assert_eq!(listed["data"][0]["input_file_id"], file["id"]);

    assert_eq!(server.get("/admin/faults").await?.json()?, json!({"faults": []}));
    assert_eq!(server.post("/v1/batches", &wish(id(&file))).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_lost_request_does_nothing_and_a_status_says_so() -> Result<(), Failure> {
    let server = Server::plain().await?;
    for fault in [
        json!({"point": "upload", "action": "drop_request"}),
        json!({"point": "upload", "action": "status", "status": 429, "retry_after": 7}),
        json!({"point": "upload", "action": "status", "status": 502, "body": "<html>"}),
    ] {
        assert_eq!(server.post("/admin/faults", &fault).await?.status, 200);
    }
    assert!(server.upload("", "x").await.is_err());
    let busy = server.upload("", "x").await?;
    assert_eq!(busy.status, 429);
    assert!(busy.head.contains("retry-after: 7"), "{}", busy.head);
    let page = server.upload("", "x").await?;
    assert!(page.head.contains("text/html"), "{}", page.head);
    assert_eq!((page.status, page.body.as_slice()), (502, b"<html>".as_slice()));
    assert_eq!(server.get("/admin/state").await?.json()?["uploads"], 0);
    assert_eq!(server.contents()?, 0);
    Ok(())
}

#[tokio::test]
async fn cancelling_bills_what_ran_and_names_what_did_not() -> Result<(), Failure> {
    let server = Server::start(&[], PATIENCE * 2, &json!([])).await?;
    let texts: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let batch = server.order(&chats(&texts)).await?;
    server.batch(&batch, |batch| batch["request_counts"]["completed"].as_u64() > Some(0)).await?;
    let cancelled = server.post(&format!("/v1/batches/{batch}/cancel"), &Value::Null).await?;
    assert_eq!(cancelled.json()?["status"], "cancelling");
    let batch = server.batch(&batch, ended).await?;
    assert_eq!(batch["status"], "cancelled");

    let ran = server.rows(&batch["output_file_id"]).await?;
    let ledger = server.ledger().await?;
    assert_eq!(sorted(&ran, "custom_id"), sorted(&ledger, "custom_id"));
    assert_eq!(batch["request_counts"]["completed"], ran.len());
    let left = server.rows(&batch["error_file_id"]).await?;
    assert!(!ran.is_empty() && !left.is_empty());
    assert_eq!(ran.len() + left.len(), 1000);
    assert!(left.iter().all(|row| row["error"]["code"] == "batch_cancelled"));
    assert!(left.iter().all(|row| row["response"].is_null()));

    let path = format!("/v1/batches/{}/cancel", id(&batch));
    assert_eq!(server.post(&path, &Value::Null).await?.status, 409);
    Ok(())
}

#[tokio::test]
async fn a_running_batch_can_be_finished_at_once() -> Result<(), Failure> {
    let server = Server::start(&[], LONG, &json!([])).await?;
    let batch = server.order(&chats(["a", "b"])).await?;
    let path = format!("/admin/batches/{batch}/finish");
    let batch = server.post(&path, &Value::Null).await?.json()?;
    assert_eq!(batch["status"], "completed");
    assert_eq!(server.ledger().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn accounts_do_not_see_each_other() -> Result<(), Failure> {
    let server = Server::start(&["a", "b"], Duration::ZERO, &json!([])).await?;
    let file = server.upload("a", &chats(["a"])).await?.json()?;
    let ask = async |key: &str, request: String, body: Value| {
        server.send(key, &request, "application/json", &body.to_string()).await
    };
    let create = || "POST /v1/batches".to_owned();
    assert_eq!(ask("b", create(), wish(id(&file))).await?.status, 400);
    let batch = ask("a", create(), wish(id(&file))).await?.json()?;
    for request in [
        format!("GET /v1/files/{}", id(&file)),
        format!("GET /v1/files/{}/content", id(&file)),
        format!("DELETE /v1/files/{}", id(&file)),
        format!("GET /v1/batches/{}", id(&batch)),
        format!("POST /v1/batches/{}/cancel", id(&batch)),
    ] {
        assert_eq!(ask("b", request.clone(), Value::Null).await?.status, 404, "{request}");
        let stranger = ask("c", request, Value::Null).await?;
        assert_eq!(stranger.status, 401);
        assert_eq!(stranger.json()?["error"]["code"], "invalid_api_key");
    }
    for request in ["GET /v1/files", "GET /v1/batches"] {
        let list = ask("b", request.to_owned(), Value::Null).await?.json()?;
        assert_eq!(list["data"], json!([]), "{request}");
    }
    let seen = ask("a", format!("GET /v1/files/{}", id(&file)), Value::Null).await?;
    assert_eq!(seen.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_deleted_file_starts_no_batch_and_stops_none() -> Result<(), Failure> {
    let server = Server::start(&[], LONG, &json!([])).await?;
    let file = server.upload("", &chats(["a"])).await?.json()?;
    let batch = server.post("/v1/batches", &wish(id(&file))).await?.json()?;
    let deleted = server.delete(&format!("/v1/files/{}", id(&file))).await?.json()?;
    assert_eq!(deleted, json!({"id": file["id"], "object": "file", "deleted": true}));
    assert_eq!(server.post("/v1/batches", &wish(id(&file))).await?.status, 400);

    let path = format!("/admin/batches/{}/finish", id(&batch));
    let batch = server.post(&path, &Value::Null).await?.json()?;
    assert_eq!(batch["request_counts"]["completed"], 1);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let form = form(&"x".repeat(100_000));
    let mut stream = TcpStream::connect(server.address).await?;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\
         content-type: multipart/form-data; boundary=xyz\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(form.get(..50_000).unwrap_or_default().as_bytes()).await?;
    let start = Instant::now();
    while server.contents()? == 0 && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.contents()?, 1);
    drop(stream);
    while server.contents()? > 0 && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.contents()?, 0);
    assert_eq!(server.get("/v1/files").await?.json()?["data"], json!([]));
    assert_eq!(server.get("/admin/state").await?.json()?["uploads"], 0);
    Ok(())
}
