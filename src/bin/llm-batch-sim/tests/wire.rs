//! Requests that go wrong.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::testkit::{Failure, Server, chats, id, wish};

#[tokio::test]
async fn a_late_reply_tells_of_what_was_done_at_once() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let file = server.upload("", &chats(["a"])).await?.json()?;
    server.fault(json!({"point": "create_batch", "action": "delay", "milliseconds": 400})).await?;
    let start = Instant::now();
    let wish = wish(id(&file));
    let (reply, state) = tokio::join!(server.post("/v1/batches", &wish), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.get("/admin/state").await
    });
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert_eq!(reply?.status, 200);
    assert_eq!(state?.json()?["creates"], 1);
    Ok(())
}

#[tokio::test]
async fn a_body_is_cut_and_says_its_whole_length() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let content = chats(["a"]);
    let file = server.upload("", &content).await?.json()?;
    let path = format!("/v1/files/{}/content", id(&file));
    for (bytes, sent) in
        [(json!(null), content.len() / 2), (json!(7), 7), (json!(0), 0), (json!(1_u64 << 40), content.len() - 1)]
    {
        server.fault(json!({"point": "content", "action": "truncate", "bytes": bytes})).await?;
        let cut = server.get(&path).await?;
        assert_eq!(cut.status, 200);
        let length = format!("content-length: {}\r\n", content.len());
        assert!(cut.head.contains(&length), "{}", cut.head);
        assert_eq!(cut.body, content.as_bytes().get(..sent).unwrap_or_default());
    }
    server.fault(json!({"point": "get_file", "action": "truncate"})).await?;
    let cut = server.get(&format!("/v1/files/{}", id(&file))).await?;
    assert!(cut.json().is_err());
    assert_eq!(server.get(&path).await?.body, content.as_bytes());
    Ok(())
}

#[tokio::test]
async fn a_redirect_comes_back_and_nothing_is_done() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let location = "https://store.example/f?sig=1";
    server.fault(json!({"point": "upload", "action": "redirect", "location": location, "status": 308})).await?;
    let elsewhere = server.upload("", "x").await?;
    assert_eq!(elsewhere.status, 308);
    assert!(elsewhere.head.contains(&format!("location: {location}\r\n")), "{}", elsewhere.head);
    assert_eq!(server.get("/admin/state").await?.json()?["uploads"], 0);
    Ok(())
}

#[tokio::test]
async fn a_gateways_page_comes_back_and_nothing_is_done() -> Result<(), Failure> {
    let server = Server::plain().await?;
    server.fault(json!({"point": "upload", "action": "html"})).await?;
    let page = server.upload("", "x").await?;
    assert_eq!(page.status, 502);
    assert!(page.head.contains("content-type: text/html\r\n"), "{}", page.head);
    assert!(page.body.starts_with(b"<html>"));
    assert_eq!(server.get("/admin/state").await?.json()?["uploads"], 0);
    Ok(())
}

#[tokio::test]
async fn the_list_lags_behind() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let batch = server.order(&chats(["a"])).await?;
    server.fault(json!({"point": "list_batches", "action": "lag", "seconds": 3600})).await?;
    let listed = server.get("/v1/batches").await?.json()?;
    assert_eq!((&listed["data"], &listed["has_more"]), (&json!([]), &json!(false)));
    assert_eq!(server.get(&format!("/v1/batches/{batch}")).await?.status, 200);
    let listed = server.get("/v1/batches").await?.json()?;
    assert_eq!(listed["data"][0]["id"], batch.as_str());
    Ok(())
}

#[tokio::test]
async fn one_request_meets_one_fault() -> Result<(), Failure> {
    let server = Server::plain().await?;
    server.fault(json!({"point": "list_batches", "action": "lag", "seconds": 1})).await?;
    server.fault(json!({"point": "list_batches", "action": "drop_reply"})).await?;
    assert_eq!(server.get("/v1/batches").await?.status, 200);
    assert!(server.get("/v1/batches").await.is_err());
    assert_eq!(server.get("/v1/batches").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_told() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let refused = server.post("/admin/faults", &json!({"point": "batch", "action": "delay"})).await?;
    assert_eq!(refused.status, 400);
    let message = refused.json()?["error"]["message"].take();
    assert!(message.as_str().is_some_and(|message| message.contains("expire")), "{message}");
    assert_eq!(server.get("/admin/faults").await?.json()?["faults"], Value::Array(vec![]));
    Ok(())
}

#[tokio::test]
async fn what_a_gateway_denies_exists_all_the_same() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let wish = wish(id(&server.upload("", &chats(["a"])).await?.json()?));
    let denied =
        json!({"point": "create_batch", "action": "deny", "status": 429, "retry_after": 60, "body": "slow down"});
    server.fault(denied).await?;
    let reply = server.post("/v1/batches", &wish).await?;
    assert_eq!((reply.status, reply.body.as_slice()), (429, &b"slow down"[..]));
    assert!(reply.head.contains("retry-after: 60\r\n"), "{}", reply.head);
    assert_eq!(server.get("/admin/state").await?.json()?["creates"], 1);
    Ok(())
}

#[tokio::test]
async fn a_gateway_makes_two_batches_of_one_request() -> Result<(), Failure> {
    let server = Server::plain().await?;
    server.fault(json!({"point": "create_batch", "action": "double"})).await?;
    let told = server.order(&chats(["a"])).await?;
    let listed = server.get("/v1/batches").await?.json()?;
    let ids: Vec<&str> = listed["data"].as_array().into_iter().flatten().map(id).collect();
    assert!(ids.len() == 2 && ids.contains(&told.as_str()), "{ids:?}");
    assert_eq!(listed["data"][0]["metadata"], listed["data"][1]["metadata"]);
    Ok(())
}

#[tokio::test]
async fn a_file_is_not_known_yet() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let file = server.upload("", &chats(["a"])).await?.json()?;
    server.fault(json!({"point": "create_batch", "action": "unknown_file"})).await?;
    let reply = server.post("/v1/batches", &wish(id(&file))).await?;
    assert_eq!((reply.status, &reply.json()?["error"]["param"]), (400, &json!("input_file_id")));
    assert!(String::from_utf8(reply.body)?.contains(id(&file)));
    assert_eq!(server.post("/v1/batches", &wish(id(&file))).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_server_that_knows_its_models_looks_into_files() -> Result<(), Failure> {
    let server = Server::strict("m", u64::MAX, Duration::ZERO).await?;
    assert_eq!(server.get("/v1/models").await?.json()?["data"][0]["id"], "m");
    let other = chats(["a", "b"]).replacen("\"model\":\"m\"", "\"model\":\"x\"", 1);
    for (content, status, words) in [
        ("{}\n".to_owned(), 400, "Line 1"),
        ("nonsense\n".to_owned(), 400, "Line 1"),
        (chats(["a"]).replace("\"model\"", "\"other\""), 400, "must name a model"),
        (other, 403, "Line 1: Model 'x' has not been configured"),
        (chats(["a"]), 200, "in.jsonl"),
    ] {
        let reply = server.upload("", &content).await?;
        assert_eq!(reply.status, status, "{content}");
        assert!(String::from_utf8(reply.body)?.contains(words), "{content}");
    }
    assert_eq!(server.get("/admin/state").await?.json()?["uploads"], 1);
    Ok(())
}
