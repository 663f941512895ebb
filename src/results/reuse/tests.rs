use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use super::*;
use crate::api::text::hex;

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// A result set whose answers are these lines.
async fn set(lines: &[String]) -> (Folder, ResultSet) {
    let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "s3://b/mon/", "mon/");
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let counts = json!({"total": lines.len(), "succeeded": lines.len()});
    let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref());
    let manifest = json!({
        "manifestVersion": 1, "workID": WORK, "workHash": "v2-h", "outcome": "Succeeded", "reason": "AllSucceeded",
        "message": "", "requests": counts, "batches": [], "completedAt": 0,
        "files": [{"name": layout::RESULTS, "lines": lines.len(), "bytes": text.len(), "sha256": sha256}],
    });
    folder.put_new(layout::RESULTS, text.into()).await.unwrap();
    folder.put_new(layout::MANIFEST, manifest.to_string().into()).await.unwrap();
    let set = ResultSet::open(folder.clone()).await.unwrap().unwrap();
    (folder, set)
}

fn hash(n: u8) -> String {
    hex(&[n; 32])
}

fn answer(n: u8) -> String {
    format!(
        r#"{{"id":"b","custom_id":"theirs","response":{{"body":{n}}},"error":null,"request_blake3":"{}"}}"#,
        hash(n)
    )
}

async fn added(set: &ResultSet, version: WorkHashVersion) -> Result<(ReuseCounts, KeyedLines), StoreError> {
    let spool = std::env::temp_dir();
    let mut answers = KeyedLinesWriter::new(&spool).await?;
    let counts = add_answers(set, version, &mut answers, &spool).await?;
    Ok((counts, answers.finish().await?))
}

#[tokio::test]
async fn answers_are_found_by_the_hash_of_this_version_and_others_are_counted() {
    let earlier = answer(3).replace("request_blake3", "request_sha256");
    let (_, set) = set(&[answer(1), answer(2), earlier, answer(1)]).await;
    let (counts, answers) = added(&set, WorkHashVersion::V2).await.unwrap();
    assert_eq!((counts, answers.len()), (ReuseCounts { answers: 3, incomparable: 1 }, 2));
    let found = answers.reader().line(&[2; 32]).await.unwrap().unwrap();
    assert_eq!(std::str::from_utf8(&found).unwrap(), r#"{"id":"b","response":{"body":2}}"#);
    assert!(!answers.hold(&[3; 32]).unwrap());
    let (counts, answers) = added(&set, WorkHashVersion::V1).await.unwrap();
    assert_eq!(counts, ReuseCounts { answers: 1, incomparable: 3 });
    assert!(answers.hold(&[3; 32]).unwrap());
}

#[tokio::test]
async fn a_set_that_was_changed_is_refused_and_a_line_that_is_no_answer_is_named() {
    let (folder, changed) = set(&[answer(1)]).await;
    folder.delete(layout::RESULTS).await.unwrap();
    folder.put_new(layout::RESULTS, answer(2).replace('2', "3").into()).await.unwrap();
    let refused = added(&changed, WorkHashVersion::V2).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains("s3://b/mon/results.jsonl")), "{refused}");
    for (line, why) in [
        ("{", "is no line of results"),
        ("[]", "is no answer"),
        (&answer(2).replace("\"id\"", "\"request_blake3\""), "is no line of results"),
        (&answer(2).replace("\"error\":null", "\"error\":{\"code\":\"x\"}"), "is no answer"),
        (&answer(2).replace("\"response\"", "\"answer\""), "is no answer"),
        (&answer(2).replace(&hash(2), "2"), "names its request by no hash"),
        (&answer(2).replace(&hash(2), &"é".repeat(32)), "names its request by no hash"),
    ] {
        let (_, set) = set(&[answer(1), line.to_string()]).await;
        let refused = added(&set, WorkHashVersion::V2).await.unwrap_err().to_string();
        assert!(refused.contains("line 2") && refused.contains(why), "{line}: {refused}");
    }
}
