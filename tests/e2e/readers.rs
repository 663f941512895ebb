//! Results as those read them who wait for them: pandas and DuckDB, on the files as they stand.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;

use object_store::ObjectStoreExt;
use serde::Deserialize;
use serde_json::json;

use crate::support::process::{python, root};
use crate::support::quiet::CANARY;
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
    blake3: Option<String>,
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
    let scene = Scene::with("readers", &args, "limits: {maxRequestsPerBatch: 60}").await;
    scene.put("in/rows.jsonl", (0..LINES).map(request).collect::<String>()).await;
    for (compression, ending) in [("None", ""), ("Gzip", ".gz"), ("Zstd", ".zst")] {
        let job = compression.to_lowercase();
        let spec = json!({"model": null, "output": {"compression": compression}});
        scene.apply_job(&job, json!({"inputKey": "rows.jsonl", "spec": spec}));
        let done = scene.wait_complete(&job).await;
        assert_eq!(condition(&done, "Complete").unwrap().1, "CompletedWithFailures");
        let files = ["results", "errors", "unsuccessful"].map(|name| format!("{name}.jsonl{ending}"));
        let tables = read(&scene, &job, &files).await;
        for reader in READERS {
            check(&format!("{reader}, {compression}"), files.each_ref().map(|file| &tables[file][reader]));
        }
    }
}

/// Number, order and fields of results, errors and unsuccessful requests.
fn check(reader: &str, [results, errors, unsuccessful]: [&Table; 3]) {
    let (refused, answered): (Vec<usize>, Vec<usize>) = (0..LINES).partition(|i| prompt(*i).contains("forbidden"));
    assert_eq!(refused.len(), 7);
    for table in [results, errors] {
        assert_eq!(table.columns, ["id", "custom_id", "response", "error", "request_blake3"], "{reader}");
        assert!(table.lines.iter().all(|l| l.blake3.as_ref().is_some_and(|s| s.len() == 64)), "{reader}");
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
    assert_eq!(all.filter_map(|l| l.blake3.as_ref()).collect::<HashSet<_>>().len(), LINES, "{reader}");
}

/// What each reader makes of each file of the job, byte for byte as it lies in the bucket.
async fn read(scene: &Scene, job: &str, files: &[String]) -> BTreeMap<String, Tables> {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let key = format!("{}/out/{job}/{file}", scene.namespace);
        let bytes = scene.bucket.get(&key.into()).await.unwrap().bytes().await.unwrap();
        std::fs::write(folder.path().join(file), bytes).unwrap();
    }
    let mut command = Command::new(python("readers", "python"));
    let script = root().join("tests/readers/read.py");
    let output = command.arg(script).args(files).current_dir(folder.path()).output().unwrap();
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
        _ => format!("review {i} {CANARY}"),
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
