//! Batches that go wrong, and what was paid for twice.

use std::time::Duration;

use serde_json::{Value, json};

use crate::testkit::{Failure, Server, chats, ended, sorted, wish};

const LONG: Duration = Duration::from_secs(3600);
const TEN: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

struct Ended {
    server: Server,
    batch: Value,
    output: Vec<Value>,
    errors: Vec<Value>,
    billed: Vec<String>,
}

/// What comes of ten requests in a batch with this flaw.
async fn run(flaw: Value) -> Result<Ended, Failure> {
    let server = Server::plain().await?;
    server.fault(flaw).await?;
    let batch = server.order(&chats(TEN)).await?;
    let batch = server.batch(&batch, ended).await?;
    let output = server.rows(&batch["output_file_id"]).await?;
    let errors = server.rows(&batch["error_file_id"]).await?;
    let billed = sorted(&server.ledger().await?, "custom_id");
    Ok(Ended { server, batch, output, errors, billed })
}

fn inputs() -> Vec<String> {
    TEN.iter().map(|n| format!("r{n}")).collect()
}

#[tokio::test]
async fn a_batch_expires_with_what_it_has() -> Result<(), Failure> {
    let run = run(json!({"point": "batch", "action": "expire", "after": 0.3})).await?;
    assert_eq!(run.batch["status"], "expired");
    assert!(run.batch["expired_at"].is_i64() && run.batch["completed_at"].is_null());
    assert_eq!(run.batch["request_counts"], json!({"total": 10, "completed": 3, "failed": 0}));
    assert_eq!(sorted(&run.output, "custom_id"), run.billed);
    assert_eq!((run.output.len(), run.errors.len()), (3, 7));
    assert!(run.errors.iter().all(|row| row["error"]["code"] == "batch_expired" && row["response"].is_null()));

    let again = run.server.order(&chats(TEN)).await?;
    assert_eq!(run.server.batch(&again, ended).await?["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_batch_that_ignores_its_cancellation_runs_on_and_is_billed() -> Result<(), Failure> {
    let server = Server::start(&[], LONG, &json!([])).await?;
    server.fault(json!({"point": "batch", "action": "ignore_cancel"})).await?;
    let batch = server.order(&chats(TEN)).await?;
    server.batch(&batch, |batch| batch["status"] == "in_progress").await?;
    let told = server.post(&format!("/v1/batches/{batch}/cancel"), &Value::Null).await?;
    assert_eq!(told.json()?["status"], "cancelling");
    let ended = server.post(&format!("/admin/batches/{batch}/finish"), &Value::Null).await?.json()?;
    assert_eq!((&ended["status"], &ended["request_counts"]["completed"]), (&json!("cancelled"), &json!(10)));
    assert_eq!(sorted(&server.ledger().await?, "custom_id"), inputs());
    Ok(())
}

#[tokio::test]
async fn a_batch_fails_for_a_reason_that_passes() -> Result<(), Failure> {
    let flaw = json!({"point": "batch", "action": "fail", "code": "token_limit_exceeded", "message": "Later."});
    let run = run(flaw).await?;
    assert_eq!(run.batch["status"], "failed");
    let error = json!({"code": "token_limit_exceeded", "line": null, "message": "Later.", "param": null});
    assert_eq!(run.batch["errors"]["data"], json!([error]));
    assert_eq!(run.batch["request_counts"]["total"], 0);
    assert_eq!((&run.batch["output_file_id"], &run.batch["error_file_id"]), (&Value::Null, &Value::Null));
    assert!(run.billed.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_state_that_nobody_knows_is_shown_while_it_runs() -> Result<(), Failure> {
    let server = Server::start(&[], LONG, &json!([])).await?;
    server.fault(json!({"point": "batch", "action": "odd_state", "state": "queued_for_gpu"})).await?;
    let batch = server.order(&chats(["a"])).await?;
    server.batch(&batch, |batch| batch["status"] == "queued_for_gpu").await?;
    let listed = server.get("/v1/batches").await?.json()?;
    assert_eq!(listed["data"][0]["status"], "queued_for_gpu");
    let ended = server.post(&format!("/admin/batches/{batch}/finish"), &Value::Null).await?.json()?;
    assert_eq!(ended["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_stuck_batch_ends_only_when_told_to() -> Result<(), Failure> {
    for (end, status, ran) in [("admin/batches/{}/finish", "completed", 10), ("v1/batches/{}/cancel", "cancelled", 5)] {
        let server = Server::plain().await?;
        server.fault(json!({"point": "batch", "action": "stuck"})).await?;
        let batch = server.order(&chats(TEN)).await?;
        server.batch(&batch, |batch| batch["request_counts"]["completed"] == 5).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = server.get(&format!("/v1/batches/{batch}")).await?.json()?;
        assert_eq!((&now["status"], &now["request_counts"]["completed"]), (&json!("in_progress"), &json!(5)));
        assert_eq!(server.post(&format!("/{}", end.replace("{}", &batch)), &Value::Null).await?.status, 200);
        assert_eq!(server.batch(&batch, ended).await?["status"], status);
        assert_eq!(server.ledger().await?.len(), ran);
    }
    Ok(())
}

#[tokio::test]
async fn rows_are_lost_and_paid() -> Result<(), Failure> {
    let run = run(json!({"point": "batch", "action": "lose_rows", "rows": 2})).await?;
    assert_eq!(run.batch["request_counts"], json!({"total": 10, "completed": 10, "failed": 0}));
    assert_eq!(run.billed, inputs());
    assert_eq!((run.output.len(), run.errors.len()), (8, 0));
    Ok(())
}

#[tokio::test]
async fn rows_stand_twice_and_are_paid_once() -> Result<(), Failure> {
    let run = run(json!({"point": "batch", "action": "double_rows", "rows": 2})).await?;
    assert_eq!(run.batch["request_counts"]["completed"], 10);
    assert_eq!(run.billed, inputs());
    assert_eq!(run.output.get(10..), run.output.get(..2));
    let mut ids = sorted(&run.output, "custom_id");
    ids.dedup();
    assert_eq!((run.output.len(), ids), (12, inputs()));
    Ok(())
}

/// Without usage, with usage as text, and with answers that are none: all are billed as any other.
#[tokio::test]
async fn rows_have_answers_and_usage_that_are_none() -> Result<(), Failure> {
    for (shape, place, wanted) in [
        ("no_usage", "/usage", None),
        ("empty", "/choices/0/message/content", Some(Value::Null)),
        ("refusal", "/choices/0/message/refusal", Some(json!("I can't help with that."))),
        ("truncated", "/choices/0/finish_reason", Some(json!("length"))),
        ("filtered", "/choices/0/finish_reason", Some(json!("content_filter"))),
    ] {
        let run = run(json!({"point": "batch", "action": "odd_rows", "rows": 1, "shape": shape})).await?;
        assert_eq!(run.billed, inputs());
        let odd = run.output.iter().filter(|row| row["response"]["body"].pointer(place) == wanted.as_ref());
        assert_eq!(odd.count(), 1, "{shape}");
    }
    let run = run(json!({"point": "batch", "action": "odd_rows", "shape": "text_usage"})).await?;
    let texts = run.output.iter().filter(|row| row["response"]["body"]["usage"]["prompt_tokens"].is_string());
    assert_eq!(texts.count(), 1);
    Ok(())
}

/// What the ledger bills is what the rows say, and what the batch says unless told otherwise.
#[tokio::test]
async fn tokens_add_up_unless_the_totals_are_to_differ() -> Result<(), Failure> {
    for (flaw, more) in [
        (json!({"point": "batch", "action": "odd_state", "state": "x"}), 0),
        (json!({"point": "batch", "action": "totals_differ", "tokens": 100}), 100),
    ] {
        let run = run(flaw).await?;
        let sum = |of: &[Value], place: &str| of.iter().filter_map(|row| row.pointer(place)?.as_u64()).sum::<u64>();
        let ledger = run.server.ledger().await?;
        let (input, output) = (sum(&ledger, "/input_tokens"), sum(&ledger, "/output_tokens"));
        assert!(input > 0 && output > 0);
        assert_eq!(sum(&run.output, "/response/body/usage/prompt_tokens"), input);
        assert_eq!(sum(&run.output, "/response/body/usage/completion_tokens"), output);
        assert_eq!(run.batch["usage"]["input_tokens"], input + more);
        assert_eq!(run.batch["usage"]["output_tokens"], output);
    }
    Ok(())
}

#[tokio::test]
async fn rows_of_nobody_are_in_the_output() -> Result<(), Failure> {
    let run = run(json!({"point": "batch", "action": "foreign_rows", "rows": 3})).await?;
    let ids = sorted(&run.output, "custom_id");
    let (foreign, own): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| id.starts_with("foreign-"));
    assert_eq!((foreign.len(), &own), (3, &inputs()));
    assert_eq!(run.billed, inputs());
    assert_eq!(run.batch["request_counts"]["total"], 10);
    Ok(())
}

#[tokio::test]
async fn rows_fail_and_cost_nothing() -> Result<(), Failure> {
    let flaw = json!({"point": "batch", "action": "fail_rows", "rows": 4, "status": 503, "code": "overloaded"});
    let run = run(flaw).await?;
    assert_eq!(run.batch["request_counts"], json!({"total": 10, "completed": 6, "failed": 4}));
    assert_eq!(sorted(&run.output, "custom_id"), run.billed);
    assert_eq!((run.output.len(), run.errors.len()), (6, 4));
    for row in &run.errors {
        assert_eq!(row["response"]["status_code"], 503);
        assert_eq!(row["response"]["body"]["error"]["code"], "overloaded");
    }
    Ok(())
}

#[tokio::test]
async fn counts_and_metadata_can_be_missing() -> Result<(), Failure> {
    let bare = run(json!({"point": "batch", "action": "no_counts"})).await?;
    assert_eq!(bare.batch.get("request_counts"), None);
    assert_eq!((&bare.batch["status"], bare.output.len()), (&json!("completed"), 10));
    let forgetful = run(json!({"point": "batch", "action": "metadata_lost"})).await?;
    assert_eq!(forgetful.batch.get("metadata"), Some(&Value::Null));
    let listed = forgetful.server.get("/v1/batches").await?.json()?;
    assert_eq!(listed["data"][0]["metadata"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn a_row_that_fails_once_succeeds_when_it_is_sent_again() -> Result<(), Failure> {
    let rules = json!([{"contains": "shaky", "status": 500, "times": 1}]);
    let server = Server::start(&[], Duration::ZERO, &rules).await?;
    for (completed, failed) in [(1, 1), (2, 0)] {
        let batch = server.order(&chats(["firm", "shaky"])).await?;
        let batch = server.batch(&batch, ended).await?;
        assert_eq!(batch["request_counts"], json!({"total": 2, "completed": completed, "failed": failed}));
    }
    Ok(())
}

#[tokio::test]
async fn paying_twice_at_once_is_seen_and_twice_in_turn_is_not() -> Result<(), Failure> {
    let server = Server::plain().await?;
    let overlaps = async || Ok::<_, Failure>(server.get("/admin/state").await?.json()?["overlaps"].take());
    let first = server.order(&chats(["a", "b"])).await?;
    server.batch(&first, ended).await?;
    server.fault(json!({"point": "batch", "action": "stuck", "after": 0})).await?;
    let idle = server.order(&chats(["a", "b", "c"])).await?;
    server.batch(&idle, |batch| batch["status"] == "in_progress").await?;
    assert_eq!(overlaps().await?, 0);

    let second = server.order(&chats(["b", "x", "c"])).await?;
    server.batch(&second, ended).await?;
    assert_eq!(overlaps().await?, 2);
    server.post(&format!("/admin/batches/{idle}/finish"), &Value::Null).await?;
    assert_eq!(overlaps().await?, 2);

    assert_eq!(server.post("/v1/batches", &wish("file-none")).await?.status, 400);
    let last = server.order(&chats(["a", "b", "c"])).await?;
    server.batch(&last, ended).await?;
    assert_eq!(overlaps().await?, 2);
    Ok(())
}

#[tokio::test]
async fn an_account_has_room_for_so_many_requests() -> Result<(), Failure> {
    let server = Server::strict("m", 3, LONG).await?;
    let failed = |batch: &Value| batch["errors"]["data"][0]["code"] == "token_limit_exceeded";
    let runs = |batch: &Value| batch["status"] == "in_progress";
    server.batch(&server.order(&chats(TEN)).await?, failed).await?;
    let first = server.order(&chats(["a", "b"])).await?;
    server.batch(&first, runs).await?;
    server.batch(&server.order(&chats(["c", "d"])).await?, failed).await?;
    server.batch(&server.order(&chats(["e"])).await?, runs).await?;
    server.post(&format!("/admin/batches/{first}/finish"), &json!({})).await?;
    server.batch(&server.order(&chats(["c", "d"])).await?, runs).await?;
    Ok(())
}

#[tokio::test]
async fn rows_are_written_as_some_servers_write_them_and_billed_as_any_other() -> Result<(), Failure> {
    for (shape, part) in [
        ("infinity", "\"logprob\":-Infinity,"),
        ("error_body", "\"status_code\":200"),
        ("error_of_nulls", "\"error\":{\"code\":null,\"message\":null}"),
        ("text_body", "\"body\":\"{\\\""),
        ("single_quotes", "'custom_id':'r"),
        ("cut_off", "\"response\"\n"),
        ("garbled", "########"),
    ] {
        let server = Server::plain().await?;
        server.fault(json!({"point": "batch", "action": "odd_rows", "shape": shape})).await?;
        let batch = server.order(&chats(TEN)).await?;
        let batch = server.batch(&batch, ended).await?;
        let file = batch["output_file_id"].as_str().unwrap_or_default();
        let content = server.get(&format!("/v1/files/{file}/content")).await?.body;
        let text = String::from_utf8_lossy(&content);
        assert_eq!((text.matches(part).count() >= 1, text.lines().count()), (true, 10), "{shape}: {text}");
        assert_eq!(sorted(&server.ledger().await?, "custom_id"), inputs());
    }
    Ok(())
}

#[tokio::test]
async fn an_output_file_may_have_a_long_id() -> Result<(), Failure> {
    let run = run(json!({"point": "batch", "action": "long_file_id", "characters": 500})).await?;
    assert_eq!(run.batch["output_file_id"].as_str().map(str::len), Some(500));
    assert_eq!(run.output.len(), 10);
    Ok(())
}
