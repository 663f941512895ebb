//! Results as those read them who wait for them: pandas and DuckDB, on the files as they stand.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use crate::support::process::{python, root};
use crate::support::scene::{Scene, condition};

const LINES: usize = 250;
const READERS: [&str; 3] = ["duckdb", "duckdb_lines", "pandas"];

/// What a reader made of a file.
#[derive(Deserialize)]
struct Table {
    columns: Vec<String>,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    custom_id: String,
    sha256: Option<String>,
    status: Option<i64>,
    answer: Option<String>,
    code: Option<String>,
    asked: Option<String>,
}

type Tables = BTreeMap<String, Table>;

#[tokio::test(flavor = "multi_thread")]
async fn pandas_and_duckdb_read_the_results_as_they_stand() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let refuse = json!({"contains": "forbidden", "status": 400, "code": "content_filter", "message": "Refused.\n"});
    let guessable =
        [json!({"contains": "number", "answer": "42"}), json!({"contains": "date", "answer": "2026-11-22"})];
    std::fs::write(rules.path(), json!([refuse, guessable[0], guessable[1]]).to_string()).unwrap();
    let args = ["--batch-duration", "200ms", "--answers", rules.path().to_str().unwrap()];
    let mut scene = Scene::set("readers", &args).await;
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 60\n"));
    scene.restart().await;
    scene.put("in/rows.jsonl", (0..LINES).map(request).collect::<String>()).await;
    scene.apply_job("j", json!({"inputKey": "rows.jsonl", "spec": {"model": null}}));
    let job = scene.wait_complete("j").await;
    assert_eq!(condition(&job, "Complete").unwrap().1, "CompletedWithFailures");

    let folder = tempfile::tempdir().unwrap();
    let [results, errors, unsuccessful] = ["results.jsonl", "errors.jsonl", "unsuccessful.jsonl"];
    let tables = read(&scene, folder.path(), &[results, errors, unsuccessful]).await;
    let (refused, answered): (Vec<usize>, Vec<usize>) = (0..LINES).partition(|i| prompt(*i).contains("forbidden"));
    assert_eq!(refused.len(), 7);
    let outcome = ["id", "custom_id", "response", "error", "request_sha256"];
    for reader in READERS {
        let [results, errors, unsuccessful] = [results, errors, unsuccessful].map(|file| &tables[file][reader]);
        for table in [results, errors] {
            assert_eq!(table.columns, outcome, "{reader}");
            assert!(table.lines.iter().all(|l| l.sha256.as_ref().is_some_and(|s| s.len() == 64)), "{reader}");
        }
        assert_eq!(unsuccessful.columns, ["custom_id", "method", "url", "body"], "{reader}");
        let answers = |i: &usize| (id(*i), Some(200), Some(answer(*i)), None);
        let seen: Vec<_> =
            results.lines.iter().map(|l| (l.custom_id.clone(), l.status, l.answer.clone(), l.code.clone())).collect();
        assert_eq!(seen, answered.iter().map(answers).collect::<Vec<_>>(), "{reader}");
        let reasons = |i: &usize| (id(*i), Some(400), Some("content_filter"));
        let seen: Vec<_> = errors.lines.iter().map(|l| (l.custom_id.clone(), l.status, l.code.as_deref())).collect();
        assert_eq!(seen, refused.iter().map(reasons).collect::<Vec<_>>(), "{reader}");
        let requests = |i: &usize| (id(*i), Some(prompt(*i)));
        let seen: Vec<_> = unsuccessful.lines.iter().map(|l| (l.custom_id.clone(), l.asked.clone())).collect();
        assert_eq!(seen, refused.iter().map(requests).collect::<Vec<_>>(), "{reader}");
        let all = results.lines.iter().chain(&errors.lines);
        assert_eq!(all.filter_map(|l| l.sha256.as_ref()).collect::<HashSet<_>>().len(), LINES, "{reader}");
    }
}

/// What each reader makes of each file of job `j`.
async fn read(scene: &Scene, folder: &std::path::Path, files: &[&str]) -> BTreeMap<String, Tables> {
    for file in files {
        std::fs::write(folder.join(file), scene.get(&format!("out/j/{file}")).await.unwrap()).unwrap();
    }
    let mut command = Command::new(python("readers", "python"));
    let output = command.arg(root().join("tests/readers/read.py")).args(files).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn id(i: usize) -> String {
    format!("{i:04}")
}

/// What readers stumble over: types to guess, quotes, other alphabets, and what some take for the end of a line.
fn prompt(i: usize) -> String {
    match i % 41 {
        3 => format!("forbidden {i}"),
        5 => format!("a number {i}"),
        7 => format!("a date {i}"),
        11 => format!("{i} \"quoted\", with\nnew\r\nlines\tand \\ slashes"),
        13 => format!("{i} Ünïcödé, 評価, отзыв, 👟\u{2028}\u{2029}\u{85}"),
        17 => format!("{i}"),
        _ => format!("review {i}"),
    }
}

fn answer(i: usize) -> String {
    match i % 41 {
        5 => "42".into(),
        7 => "2026-11-22".into(),
        _ => format!("echo: {}", prompt(i)),
    }
}

fn request(i: usize) -> String {
    let body = json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt(i)}]});
    json!({"custom_id": id(i), "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string() + "\n"
}
