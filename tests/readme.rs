//! The README's manifests are the examples, to the letter, and its commands exist, as CONTRIBUTING's do.

#![allow(clippy::unwrap_used)]

#[path = "support/manifests.rs"]
mod manifests;

use std::collections::BTreeSet;
use std::path::Path;

use batchjob_operator::api::{BatchJobObject, BatchProvider, ClusterBatchProvider, CronBatchJobObject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

#[test]
fn manifests_are_the_examples() {
    let readme = read("README.md");
    let blocks = manifests::blocks(&readme);
    let examples = [
        "examples/reviews.yaml",
        "examples/provider.yaml",
        "examples/reviews-csv.yaml",
        "examples/config-map.yaml",
        "examples/nightly.yaml",
        "examples/from-git/kustomization.yaml",
        "examples/from-git/capitals.yaml",
    ]
    .map(read);
    assert_eq!(blocks, examples);
}

/// What the API server says of them is in `tests/e2e/schema.rs`.
#[test]
fn manifests_have_no_field_and_no_value_that_is_not_known() {
    let shown = manifests::shown();
    assert!(shown.iter().any(|shown| shown.place.starts_with("docs/jobs.md")), "{shown:?}");
    for manifests::Shown { place, objects } in shown {
        for object in objects {
            let read = match object["kind"].as_str().unwrap_or_default() {
                "BatchJob" => read_as::<BatchJobObject>(&object),
                "CronBatchJob" => read_as::<CronBatchJobObject>(&object),
                "BatchProvider" => read_as::<BatchProvider>(&object),
                "ClusterBatchProvider" => read_as::<ClusterBatchProvider>(&object),
                "Secret" | "ConfigMap" | "ResourceQuota" => continue,
                kind => panic!("{place}: the kind {kind}"),
            };
            let read = read.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(lost(&object["spec"], &read["spec"], "spec"), None, "{place}: a field that is not known");
        }
    }
}

/// Returns an object as the operator understands it.
fn read_as<T: DeserializeOwned + Serialize>(object: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(serde_json::from_str::<T>(&object.to_string())?)
}

/// Returns the first field of `written` that is not in `read`.
fn lost(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(fields), _) => fields.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            read.get(name).map_or(Some(path.clone()), |read| lost(value, read, &path))
        }),
        (Value::Array(items), _) => {
            items.iter().enumerate().find_map(|(i, item)| lost(item, &read[i], &format!("{path}[{i}]")))
        }
        _ => (written != read).then(|| path.into()),
    }
}

#[test]
fn commands_exist() {
    let makefile = read("Makefile");
    for page in ["README.md", "CONTRIBUTING.md"] {
        let text = read(page);
        let verbs = ["$ make ", "`make "].map(|before| text.split(before).skip(1));
        for verb in verbs.into_iter().flatten().filter_map(|rest| rest.split([' ', '`', '\n']).next()) {
            assert!(makefile.contains(&format!("\n{verb}:")), "{page}: make {verb}");
        }
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    for page in ["README.md", "CONTRIBUTING.md"].into_iter().map(String::from).chain(manifests::files("docs", "md")) {
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { page.clone() } else { beside(&page, file) };
            let text = read(&file);
            assert!(!text.is_empty(), "{page}: {link}");
            assert!(heading.is_empty() || headings(&text).any(|h| h == heading), "{page}: {link}: no such heading");
        }
    }
}

/// Returns the path of a file that a page names from its own folder.
fn beside(page: &str, file: &str) -> String {
    match (page.rsplit_once('/'), file.strip_prefix("../")) {
        (Some(_), Some(file)) => file.into(),
        (Some((folder, _)), None) => format!("{folder}/{file}"),
        (None, _) => file.into(),
    }
}

/// Returns the headings of a page as links name them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let is_kept = |c: char| c.is_alphanumeric() || c == '-' || c == ' ';
    let titles = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    titles.map(move |title| title.to_lowercase().replace(|c| !is_kept(c), "").replace(' ', "-"))
}

#[test]
fn every_status_that_the_docs_explain_exists() {
    let (page, conditions) = (read("docs/jobs.md"), read("src/api/conditions.rs"));
    let tables = page.split("\n\n").filter(|table| table.starts_with("| STATUS"));
    let rows = tables.flat_map(|table| table.lines().skip(2));
    let words: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(words.contains(&"InProgress") && words.contains(&"InvalidInput"), "{words:?}");
    for word in words {
        assert!(conditions.contains(&format!(": &str = \"{word}\";")), "docs/jobs.md: {word} is no reason");
    }
}

/// The words in code in the first cells of the tables of a text.
fn first_cells(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split(" | ").next());
    rows.flat_map(|cell| cell.split('`').step_by(2)).filter(|word| !word.trim_matches([',', ' ']).is_empty())
}

/// The text of a page from a heading to the next one of its rank.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let from = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let rank = heading.split(' ').next().unwrap();
    from.split(&format!("\n{rank} ")).next().unwrap()
}

/// The string constants of a text, as `const NAME: &str = "Value";`.
fn constants(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"))
}

/// Whoever is on call finds each word that an object can show.
#[test]
fn every_condition_and_every_reason_is_explained_and_no_others() {
    let (page, code) = (read("docs/operations.md"), read("src/api/conditions.rs"));
    let (types, reasons) = code.split_once("pub mod reasons").unwrap();
    let types: BTreeSet<&str> = constants(types).collect();
    let explained: BTreeSet<&str> = first_cells(section(&page, "## Conditions")).collect();
    assert_eq!(explained, types);
    let reasons: BTreeSet<&str> = constants(reasons).collect();
    assert!(reasons.contains("SpecDrift") && reasons.len() > 50, "{reasons:?}");
    let (jobs, schedules) = (read("docs/jobs.md"), read("docs/schedules.md"));
    let here: BTreeSet<&str> = first_cells(section(&page, "## Reasons")).collect();
    let elsewhere: BTreeSet<&str> = first_cells(section(&jobs, "## What STATUS says"))
        .chain(first_cells(section(&schedules, "## Watching a schedule")))
        .collect();
    let unexplained: Vec<_> = reasons.iter().filter(|r| !here.contains(*r) && !elsewhere.contains(*r)).collect();
    assert!(unexplained.is_empty(), "docs/operations.md does not explain {unexplained:?}");
    let unknown: Vec<_> = here.difference(&reasons).collect();
    assert!(unknown.is_empty(), "docs/operations.md explains what nothing shows: {unknown:?}");
}

#[test]
fn every_question_has_its_answers_explained() {
    let mut kinds = BTreeSet::new();
    for file in manifests::files("src/lifecycle", "rs") {
        let text = read(&file);
        let of_attempts = text.split(".hold(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let others = text.split("let id = format!(\"").skip(1).filter_map(|rest| rest.split('-').next());
        kinds.extend(of_attempts.chain(others).map(|kind| format!("{kind}-…")));
    }
    assert!(kinds.contains("lost-…") && kinds.contains("journal-…"), "{kinds:?}");
    let page = read("docs/operations.md");
    let explained: BTreeSet<String> = first_cells(section(&page, "## Questions")).map(String::from).collect();
    assert_eq!(explained, kinds);
}

#[test]
fn events_that_the_docs_look_for_are_published() {
    let page = read("docs/operations.md");
    let mut sources = vec![];
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controller"), &mut sources);
    let events = page.split("reason=").skip(1).map(|rest| rest.split(|c: char| !c.is_alphabetic()).next().unwrap());
    let events: BTreeSet<&str> = events.collect();
    assert!(events.contains("OrphanBatch"), "{events:?}");
    for event in events {
        assert!(sources.iter().any(|source| source.contains(&format!("\"{event}\""))), "nothing publishes {event}");
    }
}

/// `docs/guarantees.md` and `docs/compatibility.md` name the test that holds each promise and each row.
#[test]
fn tests_that_are_named_exist() {
    for (page, at_least) in [("docs/guarantees.md", 30), ("docs/compatibility.md", 0), ("docs/operations.md", 2)] {
        let text = read(page);
        let named: Vec<(&str, &str)> = text.split('`').filter_map(|word| word.split_once(".rs::")).collect();
        assert!(named.len() > at_least || at_least == 0, "{page} names {} tests", named.len());
        for (file, name) in named {
            let exists = read(&format!("{file}.rs")).contains(&format!("fn {name}("));
            assert!(exists, "{page}: {file}.rs has no test {name}");
        }
    }
}

/// A row of `docs/compatibility.md` without a test is a claim.
#[test]
fn each_row_of_the_compatibility_table_names_its_test() {
    let page = read("docs/compatibility.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| held by |"));
    for row in rows {
        assert!(row.split(" | ").last().is_some_and(|cell| cell.contains(".rs::")), "{row}");
    }
}

/// What other people's bug reports said of work like this, each turned into a test that names it.
const CASES: &[&str] = &[
    "01-column-with-parenthesis",
    "02-excel-empty-rows",
    "03-big-integer-ids",
    "04-stream-null",
    "05-lone-surrogate",
    "06-european-excel",
    "07-pzstd",
    "08-line-over-8-mib",
    "09-underscore-names",
    "13-embeddings-50k-inputs",
    "14-azure-lines",
    "15-csv-numbers-are-text",
    "16-inline-over-256-kib",
    "17-schema-key-order",
    "20-slow-upload",
    "21-long-file-ids",
    "22-token-limit-for-ever",
    "23-file-not-there-yet",
    "24-create-refused-at-once",
    "25-nan-in-answers",
    "26-ok-with-an-error-in-it",
    "28-redirects",
    "30-other-stores",
    "40-ipv6-only",
    "41-proxy-in-the-environment",
    "42-kstatus-of-a-failed-job",
];

#[test]
fn each_case_is_named_by_a_test() {
    let mut sources = vec![];
    for folder in ["src", "tests"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    assert!(sources.len() > 100, "{} sources", sources.len());
    let untested: Vec<_> =
        CASES.iter().filter(|case| !sources.iter().any(|source| source.contains(&format!("Case {case}")))).collect();
    assert!(untested.is_empty(), "no test names {untested:?}");
}

/// The texts of all Rust sources below `folder`.
fn collect(folder: &Path, sources: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect(&path, sources),
            false if path.extension().is_some_and(|e| e == "rs") => {
                sources.push(std::fs::read_to_string(&path).unwrap_or_default());
            }
            false => {}
        }
    }
}
