use tokio::io::AsyncReadExt;

use super::*;
use crate::api::{OutputCompression, RequestCounts};
use crate::results::Manifest;
use crate::results::set::tests::{folder, put_manifest, written};

const RESULTS: &str = concat!(
    r#"{"id":"x","custom_id":"é \"a\"","response":{"status_code":200,"body":{"choices":[{"message":{"content":"A"}}]}},"error":null}"#,
    "\n",
    r#"{"id":"x","custom_id":"c","response":{"status_code":200,"body":{"choices":[{"message":{"content":null}}]}},"error":null}"#,
    "\n"
);
const ERRORS: &str = concat!(
    r#"{"id":null,"custom_id":"b","response":{"status_code":400,"body":{"error":{"code":"bad"}}},"error":null}"#,
    "\n",
    r#"{"id":null,"custom_id":"d","response":null,"error":{"code":"batch_expired"}}"#,
    "\n"
);

fn requests(ids: &[&str]) -> String {
    let line = |id: &&str| {
        let id = serde_json::Value::from(*id);
        format!("{{\"custom_id\":{id},\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{{\"q\":{id}}}}}\n")
    };
    ids.iter().map(line).collect()
}

/// A set of four requests, `b` and `d` without an answer, whose manifest is of these files.
async fn set(files: &[(&str, &str)]) -> ResultSet {
    let folder = folder();
    let manifest = written(&folder, files, OutputCompression::Gzip).await;
    let requests = RequestCounts { succeeded: 2, failed: 1, expired: 1, total: 4, ..Default::default() };
    put_manifest(&folder, &Manifest { requests, ..manifest }).await;
    ResultSet::open(folder).await.unwrap().unwrap()
}

async fn whole_set() -> ResultSet {
    let (all, without) = (requests(&["é \"a\"", "b", "c", "d"]), requests(&["b", "d"]));
    set(&[
        (layout::RESULTS, RESULTS),
        (layout::ERRORS, ERRORS),
        (layout::UNSUCCESSFUL, &without),
        (layout::REQUESTS, &all),
    ])
    .await
}

fn columns(names: &[&str]) -> Columns {
    let mut columns = Columns::default();
    assert!(names.iter().all(|name| columns.add(name)));
    columns
}

async fn rows(set: &ResultSet, select: ResultSelection, names: &[&str]) -> Result<String, String> {
    let mut text = String::new();
    let mut content = set.rows(select, columns(names), &std::env::temp_dir())?;
    content.read_to_string(&mut text).await.map_err(|e| read_error(e).to_string())?;
    Ok(text)
}

#[tokio::test]
async fn rows_have_the_columns_that_are_used_in_the_order_of_the_input() {
    use ResultSelection::{All, Succeeded, Unsuccessful};
    let set = whole_set().await;
    let all = rows(&set, All, &Columns::NAMES).await.unwrap();
    insta::assert_snapshot!(all, @r#"
    {"custom_id":"é \"a\"","answer":"A","response":{"choices":[{"message":{"content":"A"}}]},"error":null,"request":{"q":"é \"a\""}}
    {"custom_id":"b","answer":null,"response":{"error":{"code":"bad"}},"error":{"code":"bad"},"request":{"q":"b"}}
    {"custom_id":"c","answer":null,"response":{"choices":[{"message":{"content":null}}]},"error":null,"request":{"q":"c"}}
    {"custom_id":"d","answer":null,"response":null,"error":{"code":"batch_expired"},"request":{"q":"d"}}
    "#);
    assert_eq!(rows(&set, Succeeded, &["answer"]).await.unwrap(), "{\"answer\":\"A\"}\n{\"answer\":null}\n");
    let with_requests = rows(&set, Succeeded, &["answer", "request"]).await.unwrap();
    assert_eq!(
        with_requests,
        "{\"answer\":\"A\",\"request\":{\"q\":\"é \\\"a\\\"\"}}\n{\"answer\":null,\"request\":{\"q\":\"c\"}}\n"
    );
    let failed = rows(&set, Unsuccessful, &["request"]).await.unwrap();
    assert_eq!(failed, "{\"request\":{\"q\":\"b\"}}\n{\"request\":{\"q\":\"d\"}}\n");
    assert_eq!(rows(&set, All, &[]).await.unwrap(), "{}\n".repeat(4), "a template without variables");
}

#[tokio::test]
async fn what_a_set_lacks_is_named_with_the_remedy() {
    use ResultSelection::{All, Succeeded, Unsuccessful};
    let without = requests(&["b", "d"]);
    let set = set(&[(layout::RESULTS, RESULTS), (layout::ERRORS, ERRORS), (layout::UNSUCCESSFUL, &without)]).await;
    for select in [Succeeded, All] {
        let refused = rows(&set, select, &["request"]).await.unwrap_err();
        assert!(
            refused.contains("`$(row.request)`") && refused.contains("`spec.output.includeRequests: true`"),
            "{refused}"
        );
    }
    assert!(rows(&set, Unsuccessful, &["answer"]).await.unwrap_err().contains("`$(row.answer)`"));
    assert!(rows(&set, Succeeded, &["error"]).await.unwrap_err().contains("`$(row.error)`"));
    let in_turn = rows(&set, All, &["custom_id"]).await.unwrap();
    assert_eq!(in_turn.matches(['c', 'b', 'd']).count(), 11, "{in_turn}");
    let empty = self::set(&[(layout::RESULTS, RESULTS)]).await;
    let refused = rows(&empty, All, &["custom_id"]).await.unwrap_err();
    assert!(refused.contains("2 requests without an answer, and 0 lines of errors.jsonl"), "{refused}");
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_no_rows() {
    use ResultSelection::{All, Succeeded, Unsuccessful};
    let all = ["é \"a\"", "b", "c", "d"];
    for (requests_of, without, select) in [
        (["é \"a\"", "b", "c", "x"], ["b", "d"], All),
        (["é \"a\"", "c", "b", "d"], ["b", "d"], All),
        (["c", "b", "é \"a\"", "d"], ["b", "d"], Succeeded),
        (["x", "b", "c", "d"], ["b", "d"], Succeeded),
        (all, ["d", "b"], Unsuccessful),
    ] {
        let (requests_of, without) = (requests(&requests_of), requests(&without));
        let set = set(&[
            (layout::RESULTS, RESULTS),
            (layout::ERRORS, ERRORS),
            (layout::UNSUCCESSFUL, &without),
            (layout::REQUESTS, &requests_of),
        ])
        .await;
        let result = rows(&set, select, &["request"]).await;
        let is_in_order = requests_of == requests(&["é \"a\"", "c", "b", "d"]);
        match is_in_order {
            true => assert_eq!(result.unwrap().lines().count(), 4, "each has its own line, whatever the order"),
            false => {
                let refused = result.unwrap_err();
                assert!(refused.contains("was changed after it was written"), "{select:?}: {refused}");
            }
        }
    }
}

/// Long lines take no memory while more is read, and come out as they went in.
#[tokio::test]
async fn long_lines_are_rows_of_several_chunks() {
    let long = "y".repeat(6 << 20);
    let result = |id: &str, text: &str| {
        format!(
            "{{\"id\":null,\"custom_id\":\"{id}\",\"response\":{{\"body\":{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}}}}}\n"
        )
    };
    let results = result("a", &long) + &result("c", "short");
    let set = set(&[(layout::RESULTS, &results)]).await;
    let rows = rows(&set, ResultSelection::Succeeded, &["custom_id", "answer", "response"]).await.unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["answer"] == long && rows[0]["response"]["choices"][0]["message"]["content"] == long);
    assert_eq!((&rows[1]["custom_id"], &rows[1]["answer"]), (&"c".into(), &"short".into()));
}
