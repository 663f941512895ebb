//! Files as people have them: tables of Excel, lines of any length, files that were compressed in pieces, embeddings with many
//! inputs a line. What was read before is read as before; what is new about a file only changes what was refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::api::{CsvOptions, EmptyPolicy, Endpoint, InputFormat};
use batchjob_operator::requests::{InMemoryPiece, PassError, PassOutput, PlanOptions, Source, pass};
use batchjob_operator::store::{Folder, StagedShard, layout, staged};
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// A recipe whose template makes `{"text": …}` of each row.
fn rows(text: &str) -> PlanOptions {
    let template = json!({"customID": "$(row.id)", "body": {"text": text}});
    PlanOptions { template: serde_json::from_value(template).unwrap(), ..support::options() }
}

fn csv(delimiter: &str, encoding: &str) -> CsvOptions {
    CsvOptions { delimiter: delimiter.into(), encoding: encoding.into() }
}

/// What a pass over these files gives, and the lines that it staged.
async fn read(files: &[(&str, &[u8])], options: &PlanOptions) -> Result<(PassOutput, Vec<Value>), String> {
    let out = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
    let held = |(name, bytes): &(&str, &[u8])| {
        Ok(InMemoryPiece { name: name.to_string(), file: name.to_string(), bytes: bytes.to_vec() })
    };
    let pieces = futures::stream::iter(files.iter().map(held).collect::<Vec<_>>()).boxed();
    let source = Source::InMemory { name: "in".into(), pieces };
    let passed = pass(source, options, Some((&out, WORK)), &std::env::temp_dir()).await;
    let passed = passed.map_err(|e: PassError| e.to_string())?;
    let mut lines = vec![];
    for shard in passed.shards.clone().map(Result::unwrap) {
        lines.extend(staged_lines(&out, &shard).await);
    }
    Ok((passed, lines))
}

async fn staged_lines(out: &Folder, shard: &StagedShard) -> Vec<Value> {
    let mut text = String::new();
    staged::open(out, &layout::shard(WORK, &shard.sha256)).await.unwrap().read_to_string(&mut text).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The texts of the requests that rows become.
async fn texts(name: &str, bytes: &[u8], options: &PlanOptions) -> Result<Vec<String>, String> {
    let (_, lines) = read(&[(name, bytes)], options).await?;
    Ok(lines.iter().map(|line| line["body"]["text"].as_str().unwrap().to_string()).collect())
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn an_input_without_requests_is_an_error_or_empty_results_as_its_policy_says() {
    let store = Arc::new(InMemory::new());
    for (key, content) in [
        ("day/hidden/_temporary/a.jsonl", "not a request"),
        ("day/hidden/.b.jsonl", "not a request"),
        ("day/hollow/a.jsonl", ""),
        ("day/hollow/b.jsonl", ""),
        ("day/marked/_SUCCESS", ""),
        ("day/none.jsonl", ""),
        ("day/blank.jsonl", "\n \r\n\n"),
        ("day/none.csv", ""),
        ("day/header.csv", "\u{feff}id,text\r\n"),
        ("day/cleared.csv", "id,text\n,\n,\n"),
    ] {
        store.put_opts(&key.into(), content.into(), Default::default()).await.unwrap();
    }
    for name in [
        "absent/",
        "absent/*.jsonl",
        "absent.jsonl",
        "absent.csv",
        "hidden/",
        "hollow/",
        "marked/",
        "none.jsonl",
        "blank.jsonl",
        "none.csv",
        "header.csv",
        "cleared.csv",
    ] {
        let uri = format!("memory://day/{name}");
        let read = async |empty_policy| {
            let options = if name.ends_with(".csv") { rows("$(row.text)") } else { support::options() };
            let (folder, name) = Folder::of(store.clone(), &uri, &format!("day/{name}")).split_last();
            let out = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
            let (source, options) = (Source::Objects { folder, name }, PlanOptions { empty_policy, ..options });
            pass(source, &options, Some((&out, WORK)), &std::env::temp_dir()).await
        };
        let complete = read(EmptyPolicy::Complete).await.unwrap();
        assert_eq!((complete.requests, complete.shards.len()), (0, 0), "{name}");
        let told = read(EmptyPolicy::Fail).await.unwrap_err().to_string();
        assert!(told.starts_with(&uri) && told.contains("emptyPolicy: Complete"), "{name}: {told}");
    }
}

/// Case 02-excel-empty-rows.
#[tokio::test]
async fn rows_of_empty_fields_are_skipped_and_counted() {
    let table = "\u{feff}id,text,\r\nr-1,Great,\r\n,,\r\n\r\nr-2,\"Leaks,\nbadly\",\r\n\"\",\"\",\"\"\r\n,,\r\n,\r\n";
    let (passed, lines) = read(&[("a.csv", table.as_bytes())], &rows("$(row.text)")).await.unwrap();
    assert_eq!((passed.requests, passed.left_out.empty_rows, passed.sources), (2, 4, 1));
    assert_eq!((&lines[0]["body"]["text"], &lines[1]["body"]["text"]), (&json!("Great"), &json!("Leaks,\nbadly")));
    let faulty = table.replace("r-2", "");
    let refused = read(&[("a.csv", faulty.as_bytes())], &rows("$(row.text)")).await.unwrap_err();
    assert_eq!(refused, "a.csv: line 5: has a custom id of 0 bytes; 1 to 512 are allowed", "a row that has something");
    let cleared = read(&[("a.csv", b"id,text\n,\n,\n")], &rows("$(row.text)")).await.unwrap_err();
    assert!(cleared.starts_with("in holds no requests"), "{cleared}");
}

/// Case 06-european-excel.
#[tokio::test]
async fn tables_are_read_as_excel_and_exports_write_them() {
    let german = "id;sterne;text\r\nr-1;5;\"Schnell, gut; gerne wieder\"\r\nr-2;1;\"2,5 Wochen zu spät\"\r\n";
    let wanted = ["5: Schnell, gut; gerne wieder", "1: 2,5 Wochen zu spät"];
    let auto = rows("$(row.sterne): $(row.text)");
    let with = |delimiter: &str, encoding: &str| PlanOptions { csv: csv(delimiter, encoding), ..auto.clone() };
    let (western, _, _) = encoding_rs::WINDOWS_1252.encode(german);
    let marked = format!("\u{feff}sep=;\r\n{german}");
    let tabs = "id\tsterne\ttext\nr-1\t5\tSchnell, gut; gerne wieder\nr-2\t1\t2,5 Wochen zu spät\n";
    let pipes = tabs.replace('\t', "|");
    for (name, bytes, options) in [
        ("a.csv", german.as_bytes().to_vec(), auto.clone()),
        ("a.csv", marked.clone().into_bytes(), auto.clone()),
        ("a.csv", german.as_bytes().to_vec(), with(";", "UTF-8")),
        ("a.csv", marked.clone().into_bytes(), with(";", "UTF-8")),
        ("a.csv", western.to_vec(), with("Auto", "Windows-1252")),
        ("a.csv", western.to_vec(), with(";", "latin1")),
        ("a.csv", utf16(&marked), auto.clone()),
        ("a.csv", utf16(german), with("Auto", "UTF-16")),
        ("a.tsv", tabs.as_bytes().to_vec(), auto.clone()),
        ("a.TSV", utf16(&format!("\u{feff}{tabs}")), auto.clone()),
        ("a.csv", pipes.clone().into_bytes(), auto.clone()),
        ("a.txt", pipes.into_bytes(), PlanOptions { format: InputFormat::Csv, ..auto.clone() }),
        ("a.csv", tabs.as_bytes().to_vec(), with(r"\t", "UTF-8")),
        ("a.csv", tabs.replace('\t', "\u{1}").into_bytes(), with("\u{1}", "UTF-8")),
    ] {
        let read = texts(name, &bytes, &options).await;
        assert_eq!(read.as_deref(), Ok(&wanted.map(String::from)[..]), "{name} {:?}", options.csv);
    }
    let rows_of_json = "{\"id\": \"r-1\", \"text\": \"x\"}\n";
    assert_eq!(texts("a.tsv", rows_of_json.as_bytes(), &rows("$(row.text)")).await.unwrap(), ["x"], "as ever");
}

#[tokio::test]
async fn a_table_that_is_not_understood_is_told_with_what_to_set() {
    let auto = rows("$(row.text)");
    let comma = PlanOptions { csv: csv(",", "UTF-8"), ..auto.clone() };
    let sixteen = PlanOptions { csv: csv("Auto", "UTF-16"), ..auto.clone() };
    for (bytes, options, words) in [
        (&b"id;txt\nr-1;x\n"[..], &auto, "line 2: has no column `text`, which the template uses; it has `id`, `txt`"),
        (b"ID;TEXT\nr-1;x\n", &auto, "it has `ID;TEXT`; are fields separated by `;`? set `spec.input.csv.delimiter`"),
        (b"ID\tTEXT\nr-1\tx\n", &auto, "are fields separated by tabs? set `spec.input.csv.delimiter`"),
        (b"id;text\nr-1;x\n", &comma, "it has `id;text`; are fields separated by `;`? set `spec.input.csv.delimiter`"),
        (
            b"id;text\nr-1;x;y\n",
            &auto,
            "line 2: begins a row of 3 fields; the header has 2; put fields that hold `;` or newlines",
        ),
        (b"sep=;\nid;text\nr-1;x\n;y\n", &auto, "line 4: has a custom id of 0 bytes"),
        (b"id;text\rr-1;x\r;y\r", &auto, "line 3: has a custom id of 0 bytes"),
        (
            b"id,text\nr-1,caf\xe9\n",
            &auto,
            "line 2: begins a row that is not UTF-8; store it as UTF-8, or set `spec.input.csv.encoding`, such as Windows-1252",
        ),
        (&utf16("id,text\nr-1,x\n"), &auto, "is the file UTF-16? set `spec.input.csv.encoding: UTF-16`"),
        (b"\xff\xfei\0d\0,\0t\0e\0x\0t\0\n\0r\0,\0\0\xd8\n\0", &sixteen, "line 2: begins a row that is not UTF-16LE"),
        (b"PK\x03\x04\x14\0", &auto, "a.csv: is a ZIP archive or an Excel workbook, which is not read"),
    ] {
        let refused = texts("a.csv", bytes, options).await.unwrap_err();
        assert!(refused.contains(words), "wanted {words:?}: {refused}");
    }
    let unknown = PlanOptions { csv: csv("Auto", "Klingon"), ..auto };
    assert!(
        texts("a.csv", b"id,text\n", &unknown)
            .await
            .unwrap_err()
            .contains("`spec.input.csv.encoding` is none that is known")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// What could be read with commas makes the same requests, whatever else is in it: those that were paid for are not paid again.
    #[test]
    fn a_table_that_was_read_before_is_read_as_before(
        header in proptest::collection::vec("[a-z;|\t=]{1,6}", 1..4),
        cells in proptest::collection::vec(proptest::collection::vec("[a-z;|\t= ]{1,4}", 4), 1..6),
        used in any::<prop::sample::Index>(),
    ) {
        let column = header[used.index(header.len())].clone();
        prop_assume!(!column.contains(['.', ')']));
        let names: std::collections::BTreeSet<&String> = header.iter().collect();
        prop_assume!(names.len() == header.len());
        let mut table = header.join(",") + "\n";
        let mut wanted = vec![];
        for cells in &cells {
            table += &(cells[..header.len()].join(",") + "\n");
            wanted.push(cells[used.index(header.len())].clone());
        }
        let ids: std::collections::BTreeSet<&String> = wanted.iter().collect();
        prop_assume!(ids.len() == wanted.len());
        let template = json!({"customID": format!("$(row.{column})"), "body": {"text": format!("$(row.{column})")}});
        let options = PlanOptions { template: serde_json::from_value(template).unwrap(), ..support::options() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(texts("a.csv", table.as_bytes(), &options)), Ok(wanted), "{}", table);
    }
}

/// Case 05-lone-surrogate: neighbours that are read for what they are.
#[tokio::test]
async fn lines_are_read_across_marks_that_joined_files_leave() {
    let line = |id: &str| format!("{{\"custom_id\": \"{id}\", \"body\": {{}}}}");
    let joined = format!("\u{feff}{}\r\n\u{feff}{}\n\n\u{feff}\n{}", line("a"), line("b"), line("c"));
    assert_eq!(read(&[("a.jsonl", joined.as_bytes())], &support::options()).await.unwrap().0.requests, 3);
    let old_mac = format!("{}\r{}\r", line("a"), line("b"));
    let refused = read(&[("a.jsonl", old_mac.as_bytes())], &support::options()).await.unwrap_err();
    assert_eq!(
        refused,
        "a.jsonl: line 1: is not JSON (a line end of CR alone at column 31); end lines with LF or CRLF"
    );
}

/// Case 08-line-over-8-mib: in each format, up to the limit that the documentation names.
#[tokio::test]
async fn lines_of_32_mib_are_read_and_longer_ones_are_not() {
    const LIMIT: usize = 32 << 20;
    let large = PlanOptions { max_bytes: 200 << 20, ..support::options() };
    let large_rows = PlanOptions { max_bytes: 200 << 20, ..rows("$(row.text)") };
    let filled =
        |head: &str, tail: &str, length: usize| format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()));
    // What a line is sent as is longer than its shortest form here.
    let room = 400;
    let fits = |head: &str, tail: &str| filled(head, tail, LIMIT - room);
    for (name, options, head, tail, too_long) in [
        (
            "a.jsonl",
            &large,
            "{\"custom_id\": \"a\", \"body\": {\"text\": \"",
            "\"}}",
            "line 1: has 33554433 bytes; 33554432 are allowed",
        ),
        (
            "rows.jsonl",
            &large_rows,
            "{\"id\": \"a\", \"text\": \"",
            "\"}",
            "line 1: has 33554433 bytes; 33554432 are allowed",
        ),
        (
            "a.csv",
            &large_rows,
            "id,text\na,",
            "",
            "line 2: begins a row of 33554433 bytes; 33554432 bytes and 4096 fields are allowed",
        ),
    ] {
        let (passed, lines) = read(&[(name, fits(head, tail).as_bytes())], options).await.unwrap();
        assert_eq!(passed.requests, 1, "{name}");
        assert!(lines[0]["body"]["text"].as_str().unwrap().len() > LIMIT - 2 * room, "{name}");
        // The header is no part of a table's row.
        let longer = filled(head, tail, LIMIT + 1 + head.find('\n').map_or(0, |end| end + 1));
        let refused = read(&[(name, longer.as_bytes())], options).await.unwrap_err();
        assert!(refused.contains(too_long), "{name}: {refused}");
    }
}

/// Case 13-embeddings-50k-inputs.
#[tokio::test]
async fn batches_of_embeddings_are_cut_by_their_inputs() {
    let lines = |inputs: &[usize]| -> String {
        let line = |(i, n): (usize, &usize)| json!({"custom_id": format!("e-{i}"), "body": {"input": vec!["x"; *n]}});
        inputs.iter().enumerate().map(|each| format!("{}\n", line(each))).collect()
    };
    let options = PlanOptions { endpoint: Endpoint::Embeddings, max_bytes: 200 << 20, ..support::options() };
    let (passed, _) = read(&[("a.jsonl", lines(&[100; 600]).as_bytes())], &options).await.unwrap();
    assert_eq!(passed.shards.map(|shard| shard.unwrap().requests).collect::<Vec<_>>(), [500, 100]);
    let few = PlanOptions { max_inputs: 5, ..options };
    let (passed, _) = read(&[("a.jsonl", lines(&[2, 2, 2, 5, 1, 4, 1]).as_bytes())], &few).await.unwrap();
    assert_eq!(passed.shards.map(|shard| shard.unwrap().requests).collect::<Vec<_>>(), [2, 1, 1, 2, 1]);
    let refused = read(&[("a.jsonl", lines(&[2, 6]).as_bytes())], &few).await.unwrap_err();
    assert_eq!(
        refused,
        "a.jsonl: line 2: holds 6 inputs; the provider takes 5 in a whole batch (`limits.maxInputsPerBatch`); make several \
         requests of it"
    );
    let chat = PlanOptions { endpoint: Endpoint::ChatCompletions, ..few };
    assert_eq!(read(&[("a.jsonl", lines(&[6, 6]).as_bytes())], &chat).await.unwrap().0.shards.len(), 1, "no inputs");
}
