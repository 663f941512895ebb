//! Events that go out when batches end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::app::lock;
use crate::testkit::{Failure, Server, chats};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Starts a receiver that refuses the first events. Returns its URL, and the requests that came.
async fn receiver(refuses: usize) -> Result<(String, Arc<Mutex<Vec<String>>>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (url, came) = (format!("http://{}/hooks/u", listener.local_addr()?), Arc::new(Mutex::new(vec![])));
    let log = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            while !text.ends_with('}') {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes).await {
                    Ok(count @ 1..) => text += &String::from_utf8_lossy(&bytes[..count]),
                    _ => break,
                }
            }
            let count = {
                let mut log = lock(&log);
                log.push(text);
                log.len()
            };
            let status = if count > refuses { "200 OK" } else { "503 Busy" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((url, came))
}

async fn until(came: &Mutex<Vec<String>>, count: usize) -> Vec<String> {
    for _ in 0..1_000 {
        if lock(came).len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lock(came).clone()
}

fn header(request: &str, name: &str) -> String {
    let line = request.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_default().to_owned()
}

fn body(request: &str) -> Result<Value, Failure> {
    Ok(serde_json::from_str(request.split("\r\n\r\n").nth(1).ok_or("no body")?)?)
}

#[tokio::test]
async fn an_event_is_sent_until_it_is_accepted_and_again_if_told() -> Result<(), Failure> {
    let (server, (url, came)) = (Server::plain().await?, receiver(1).await?);
    let wish = json!({"url": url, "secret": SECRET, "duplicates": 1});
    assert_eq!(server.post("/admin/webhooks", &wish).await?.status, 200);
    let batch = server.order(&chats(["hi"])).await?;
    let came = until(&came, 3).await;
    let ids: Vec<String> = came.iter().map(|request| header(request, "webhook-id")).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0] && id.starts_with("wh_")), "{ids:?}");
    let event = body(&came[0])?;
    assert_eq!((&event["type"], &event["data"]), (&json!("batch.completed"), &json!({"id": batch})));
    assert!(event["id"].as_str().is_some_and(|id| id.starts_with("evt_")), "{event}");
    assert!(header(&came[0], "webhook-signature").starts_with("v1,"));
    let shown = server.get("/admin/webhooks").await?.json()?;
    assert_eq!(shown["webhooks"][0]["sent"], 3);
    assert!(!shown.to_string().contains("whsec_"));
    server.delete("/admin/webhooks").await?;
    assert_eq!(server.get("/admin/webhooks").await?.json()?, json!({"webhooks": []}));
    Ok(())
}

#[tokio::test]
async fn doublewords_event_says_what_the_batch_came_to_and_an_early_one_comes_before_its_end() -> Result<(), Failure> {
    let (server, (fat, came), (thin, early)) = (Server::plain().await?, receiver(0).await?, receiver(0).await?);
    server.post("/admin/webhooks", &json!({"url": fat, "secret": SECRET, "shape": "Doubleword"})).await?;
    server.post("/admin/webhooks", &json!({"url": thin, "secret": SECRET, "early": "1s"})).await?;
    let batch = server.order(&chats(["hi"])).await?;
    let early = body(&until(&early, 1).await[0])?;
    assert_eq!(early["data"]["id"], batch.as_str());
    let shown = server.get(&format!("/v1/batches/{batch}")).await?.json()?;
    assert_eq!(shown["status"], "finalizing");
    let came = until(&came, 1).await;
    let event = body(&came[0])?;
    assert_eq!((&event["type"], &event["data"]["batch_id"]), (&json!("batch.completed"), &json!(batch)));
    assert_eq!(
        (&event["data"]["status"], &event["data"]["request_counts"]["completed"]),
        (&json!("completed"), &json!(1))
    );
    assert_eq!(header(&came[0], "webhook-version"), "1");
    for wrong in
        [json!({"url": fat}), json!({"url": fat, "secret": "s"}), json!({"url": fat, "secret": SECRET, "delay": "x"})]
    {
        assert_eq!(server.post("/admin/webhooks", &wrong).await?.status, 400, "{wrong}");
    }
    Ok(())
}
