//! Batch objects as servers dress them: what can be read is read, and what nobody knows means "still running".

use batchjob_operator::api::{BatchEnd, ProviderType};
use batchjob_operator::provider::{Batch, BatchApi, ErrorKind, State};
use serde_json::{Value, json};

use super::answers;
use super::server::Server;
use super::{client, client_of};

/// What `get` makes of `document`, in every dialect the same.
async fn read(document: &Value) -> Option<Batch> {
    let answer = answers::json(200, &document.to_string());
    let server = Server::start(move |_, _| answer.clone()).await;
    let read = client(&server, true).get("b").await.ok();
    for type_ in ProviderType::ALL {
        assert_eq!(client_of(type_, &server, true).get("b").await.ok(), read, "{type_:?}: {document}");
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn only_five_words_mean_that_a_batch_has_ended() {
    let ended = ["completed", "failed", "expired", "cancelled", "canceled", "Completed", "FAILED", " expired "];
    let running = [
        "validating",
        "in_progress",
        "finalizing",
        "cancelling",
        "created",
        "queued",
        "InProgress",
        "",
        "complete",
        "done",
        "success",
        "succeeded",
        "error",
        "null",
        "0",
        "ended",
        "completed!",
        "completed failed",
        "терминал",
        "pausiert",
    ];
    for word in ended.into_iter().chain(running) {
        let batch = read(&json!({"id": "b", "status": word})).await.unwrap();
        assert_eq!(batch.has_ended(), ended.contains(&word), "'{word}'");
        assert_eq!(batch.rejection().is_some(), word.eq_ignore_ascii_case("failed"), "'{word}'");
    }
    for odd in [json!(null), json!(7), json!(true), json!(["completed"]), json!({"is": "completed"}), json!(0.5)] {
        assert!(!read(&json!({"id": "b", "status": odd})).await.unwrap().has_ended(), "{odd}");
    }
    assert!(!read(&json!({"id": "b"})).await.unwrap().has_ended());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_of_another_type_is_taken_for_nothing() {
    let odd =
        [json!(null), json!([]), json!({}), json!(""), json!(true), json!({"a": {"b": []}}), json!([1, "x", null])];
    for key in
        ["input_file_id", "output_file_id", "error_file_id", "created_at", "request_counts", "metadata", "errors"]
    {
        for value in &odd {
            let mut document = json!({"id": "b", "status": "completed"});
            document[key] = value.clone();
            let batch = read(&document).await.unwrap();
            let nothing = Batch { errors: batch.errors.clone(), unusable: batch.unusable.clone(), ..plain() };
            assert_eq!(batch, nothing, "{key}: {value}");
            // What names answers is never taken for nothing.
            let names = matches!(key, "output_file_id" | "error_file_id");
            let empty = value.is_null() || [json!([]), json!({}), json!("")].contains(value);
            assert_eq!(batch.unusable.is_empty(), !names || empty, "{key}: {value}");
            assert!(batch.errors.len() <= 8, "{key}: {value}");
        }
    }
}

fn plain() -> Batch {
    let state = State::Ended(BatchEnd::Completed);
    Batch { id: "b".into(), state, status: "completed".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_what_they_can_be() {
    for (completed, failed, done) in [
        (json!(3), json!(4), 7),
        (json!("3"), json!(4.0), 7),
        (json!(i64::MAX), json!(1), i64::MAX),
        (json!(u64::MAX), json!(u64::MAX), i64::MAX),
        (json!(1e300), json!(null), i64::MAX),
    ] {
        let counts = json!({"completed": completed, "failed": failed, "total": -1});
        let batch = read(&json!({"id": "b", "request_counts": counts})).await.unwrap();
        assert_eq!(batch.done, Some(done), "{counts}");
    }
    // What is no count says nothing of what is done, and not that nothing is.
    for odd in [json!(-3), json!("many"), json!("1e3"), json!({"n": 1}), json!([2]), json!(true)] {
        let batch = read(&json!({"id": "b", "request_counts": {"completed": odd, "failed": 0}})).await.unwrap();
        assert_eq!(batch.done, None, "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_found_in_its_wrapper_and_another_one_is_not_taken_for_it() {
    for document in [
        json!({"job": {"id": "b", "status": "completed"}}),
        json!({"batch": {"id": "b", "status": "completed"}}),
        json!({"data": {"id": "b", "status": "completed"}, "error": null}),
        json!({"id": "b", "status": "completed", "object": "batch", "error": null, "data": null}),
    ] {
        assert_eq!(read(&document).await, Some(plain()), "{document}");
    }
    for document in [
        json!({"id": "c", "status": "completed"}),
        json!({"id": "B", "status": "completed"}),
        json!({"id": "b ", "status": "completed"}),
        json!({"id": "b", "status": "failed", "error": {"message": "no"}}),
        json!({"data": [{"id": "b", "status": "completed"}]}),
        json!({"job": {"status": "completed"}, "id": "b"}),
        json!([{"id": "b"}]),
    ] {
        assert_eq!(read(&document).await, None, "{document}");
    }
    let numbered = answers::json(200, r#"{"id": 17, "status": "completed"}"#);
    let server = Server::start(move |_, _| numbered.clone()).await;
    assert_eq!(client(&server, true).get("17").await.unwrap().id, "17", "a number is a name");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_named_are_told_of() {
    let long = "f".repeat(2_049);
    for odd in [".", "..", "a b", "a\u{0}b", "a\nb", "å", "a\u{202e}b", long.as_str()] {
        let batch = read(&json!({"id": "b", "status": "completed", "output_file_id": odd})).await.unwrap();
        assert_eq!(batch.output_file_id, None, "{odd:?}");
        assert!(batch.unnamed_answers().is_some_and(|why| why.contains("`output_file_id`")), "{odd:?}");
    }
    let long = "f".repeat(500);
    for fine in [long.as_str(), "file-1", "file_2", "../../etc", "a/b", "%2e%2e", "x?y=z", "f#g"] {
        let batch = read(&json!({"id": "b", "status": "completed", "output_file_id": fine})).await.unwrap();
        assert_eq!(batch.output_file_id.as_deref(), Some(fine));
        let server = Server::start(|_, _| answers::json(200, "{}")).await;
        let _ = client(&server, true).content(fine, 10).await;
        let path = server.seen()[0].split(' ').nth(1).unwrap().to_string();
        let inside = path.strip_prefix("/v1/files/").and_then(|p| p.strip_suffix("/content")).unwrap();
        assert!(!inside.contains(['/', '?', '#']), "{fine} stays one step of the path: {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_cut_short() {
    let story = "x".repeat(100_000);
    let errors: Vec<Value> = (0..5_000).map(|i| json!({"code": "bad", "message": story[..100], "line": i})).collect();
    let metadata: serde_json::Map<String, Value> = (0..2_000).map(|i| (format!("k{i}"), json!("v"))).collect();
    let document = json!({"id": "b", "status": "failed", "errors": {"data": errors}, "metadata": metadata});
    let batch = read(&document).await.unwrap();
    assert!(batch.errors.len() <= 8 && batch.metadata.len() <= 64);
    let document = json!({"id": "b", "status": "failed", "errors": {"data": [{"code": "bad", "message": story}]}});
    let rejection = read(&document).await.unwrap().rejection().unwrap();
    assert_eq!(rejection.kind, ErrorKind::InvalidInput);
    assert!(rejection.message.len() < 600, "{}", rejection.message.len());
    let document = json!({"id": "b", "status": "failed", "errors": {"data": [{"code": story, "message": "m"}]}});
    let rejection = read(&document).await.unwrap().rejection().unwrap();
    assert!(rejection.message.len() < 600, "{}", rejection.message.len());
    let document = json!({"id": "b", "status": story});
    assert!(read(&document).await.unwrap().status.len() <= 64);
}
