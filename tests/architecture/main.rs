//! Who may import whom, as `docs/architecture.md` has it, what the pure core may not touch, and who has a vendor's words.
//!
//! The sources are read as tokens, without comments and literals, so that words about a module are not taken for uses of
//! it, and neither groups (`crate::{api, store}`) nor `super::super` hide one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod paths;
mod tokens;

use std::fmt;
use std::path::{Path, PathBuf};

use paths::{OwnPath, expand, module_of, paths};
use tokens::{Token, is_word_char, tokens};

/// What each module may import besides itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("fair", &[]),
    ("hooks", &["fair", "standard_webhooks"]),
    ("lifecycle", &["api", "fair", "money"]),
    ("money", &["api", "fair"]),
    ("schedule", &["api"]),
    ("standard_webhooks", &[]),
    ("requests", &["api", "store"]),
    ("results", &["api", "money", "store"]),
    ("provider", &["api", "fair", "transport"]),
    ("notify", &["api", "money", "standard_webhooks", "transport"]),
    ("account", &["api", "fair", "lifecycle", "money", "provider"]),
    ("transport", &[]),
    ("store", &["api", "transport"]),
    ("telemetry", &[]),
    (
        "controller",
        &[
            "account",
            "api",
            "fair",
            "hooks",
            "lifecycle",
            "money",
            "notify",
            "schedule",
            "standard_webhooks",
            "requests",
            "results",
            "provider",
            "transport",
            "store",
            "telemetry",
        ],
    ),
];

/// The rooms of `controller/`, and which others each may know. What wires them, `mod.rs` and `run.rs`, knows them all.
const ROOMS: &[(&str, &[&str])] = &[
    ("runtime", &[]),
    ("provider", &["runtime", "job"]),
    ("job", &["runtime", "provider"]),
    ("orphan", &["runtime", "provider", "job"]),
    ("cron", &["runtime"]),
    ("hooks", &["runtime", "provider", "job"]),
    ("wait", &["runtime"]),
];

/// Modules that decide and do nothing else.
const PURE: &[&str] = &["lifecycle", "money", "schedule"];
/// Words that have no place in them: clocks, chance, I/O, async and the kube client.
const IMPURE: &[&str] = &["async", "await", "getrandom", "kube", "rand", "reqwest", "tokio", "Instant", "SystemTime"];
/// The same for modules of the standard library.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

/// Who may say `CreateBatch`, without which nobody can ask a provider for a batch.
const MAY_CREATE: &[&str] = &["src/provider/", "src/controller/job/permit.rs"];

/// Words of OpenAI's API, which a dialect puts into ours: no other file of the product has them in a literal.
const OPENAI: &[&str] = &[
    "authorization",
    "batch_cancelled",
    "batch_expired",
    "canceled",
    "canceling",
    "cancelling",
    "completion_window",
    "custom_id",
    "error_file_id",
    "finalizing",
    "has_more",
    "idempotency-key",
    "in_progress",
    "input_file_id",
    "last_id",
    "output_file_id",
    "request_counts",
    "status_code",
    "token_limit_exceeded",
    "validating",
];

/// The files that have some of them: OpenAI's own, and the formats of input and of results, which are OpenAI's for every vendor.
const MAY_SAY: &[(&str, &[&str])] = &[
    ("src/provider/openai/", OPENAI),
    ("src/requests/", &["custom_id"]),
    ("src/results/", &["batch_cancelled", "batch_expired", "canceled", "custom_id", "status_code"]),
    ("src/lifecycle/errors.rs", &["batch_cancelled", "batch_expired", "canceled", "token_limit_exceeded"]),
];

/// A program of its own, sharing nothing with the library, so that a mistake cannot hide on both sides of the wire.
const SIMULATOR: &str = "src/bin/llm-batch-sim";

#[test]
fn sources_keep_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = rust_files(&root.join("src"));
    assert!(files.contains(&root.join("src/lib.rs")), "no sources found under {}", root.display());
    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap();
            check(name, &std::fs::read_to_string(file).unwrap())
        })
        .map(|violation| violation.to_string())
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn violations_are_found() {
    for (file, source, rule) in [
        ("src/api/a.rs", "use crate::store::Folder;", "`api` may not import `store`"),
        ("src/transport/mod.rs", "use crate::api;", "`transport` may not import `api`"),
        ("src/requests/a.rs", "use crate::{api::{self, text}, lifecycle::{decide}};", "may not import `lifecycle`"),
        ("src/results/a.rs", "fn f() { crate::provider::probe(); }", "may not import `provider`"),
        ("src/provider/a/b.rs", "use super::super::super::store::Folder;", "may not import `store`"),
        ("src/provider/mod.rs", "use self::super::store::Folder;", "may not import `store`"),
        ("src/store/lines.rs", "mod tests { use super::super::super::results; }", "may not import `results`"),
        ("src/telemetry/mod.rs", "macro_rules! m { () => { $crate::api::VERSION } }", "may not import `api`"),
        ("src/api/a.rs", "use crate::r#store;", "may not import `store`"),
        ("src/api/a.rs", "use ::batchjob_operator::store;", "may not import `store`"),
        ("src/api/a.rs", "use crate::Folder;", "may not import `Folder`"),
        ("src/api/a.rs", "const A: char = '\"'; use crate::store; const B: char = '\"';", "may not import `store`"),
        ("src/api/a.rs", "/* /* */ */ fn f<'a>(x: &'a str) { crate::store::f(x) }", "may not import `store`"),
        ("src/api/a.rs", "use crate::*;", "the crate's root"),
        ("src/api/mod.rs", "use super as root;", "the crate's root"),
        ("src/api/mod.rs", "extern crate self as ours;", "the crate's root"),
        ("src/store/mod.rs", "pub use crate::transport::Transport;", "may not re-export `transport`"),
        ("src/store/mod.rs", "pub(crate) use crate::api::{text, Lock};", "may not re-export `api`"),
        ("src/helpers/mod.rs", "", "`helpers` has no row"),
        ("src/util.rs", "", "`util` has no row"),
        ("src/bin/llm-batch-sim/wire.rs", "use batchjob_operator::api;", "shares nothing"),
        ("src/bin/llm-batch-sim/wire.rs", "#[path = \"../../api/text.rs\"] mod text;", "`#[path]`"),
        ("src/bin/llm-batch-sim/wire.rs", "include!(\"../../api/text.rs\");", "`include!`"),
        ("src/controller/runtime/a.rs", "use crate::controller::{Context, job::Jobs};", "may not know the room `job`"),
        ("src/controller/job/act/a.rs", "use super::super::super::orphan;", "may not know the room `orphan`"),
        ("src/lifecycle/a.rs", "async fn f() {}", "`async`"),
        ("src/lifecycle/a.rs", "fn f() { g().await }", "`await`"),
        ("src/lifecycle/a.rs", "use std::time::{Duration, SystemTime};", "`SystemTime`"),
        ("src/lifecycle/a.rs", "use std::time::Instant as I;", "`Instant`"),
        ("src/lifecycle/a.rs", "use jiff::Timestamp as T; fn f() { T::now(); }", "`::now`"),
        ("src/lifecycle/a.rs", "use std::{collections::BTreeMap, fs};", "`std::fs`"),
        ("src/lifecycle/a.rs", "fn f() { std::net::lookup() }", "`std::net`"),
        ("src/lifecycle/a.rs", "fn f() -> u8 { rand::random() }", "`rand`"),
        ("src/lifecycle/a.rs", "use kube::Client;", "`kube`"),
        ("src/schedule/a.rs", "fn f() { Timestamp::now(); }", "`schedule` is pure; `::now`"),
        ("src/schedule/a.rs", "use crate::lifecycle;", "`schedule` may not import `lifecycle`"),
        ("src/controller/job/act.rs", "use crate::provider::{BatchApi, CreateBatch as C};", "`CreateBatch`"),
        ("src/main.rs", "fn f(b: batchjob_operator::provider::CreateBatch) {}", "`CreateBatch`"),
        ("src/lifecycle/a.rs", "fn f() -> &'static str { \"in_progress\" }", "`in_progress`"),
        ("src/provider/azure.rs", r##"const A: &str = r#"{"custom_id":""#;"##, "`custom_id`"),
        ("src/results/a.rs", "const A: &str = \"the `output_file_id` is a list\";", "`output_file_id`"),
    ] {
        let found = check(file, source);
        assert!(found.iter().any(|v| v.rule.contains(rule)), "{file}: {source}\nwanted {rule:?}, found {found:?}");
    }
    let found = check("src/api/a.rs", "//! One\n\nuse crate::{\n    api,\n    store,\n};");
    assert_eq!(found[0].to_string(), "src/api/a.rs:5: `api` may not import `store`; it may import nothing of ours");
}

#[test]
fn what_is_allowed_is_left_alone() {
    for (file, source) in [
        ("src/api/a.rs", "//! As [`crate::store`] says.\n/* crate::store */ use super::text; pub(crate) fn f() {}"),
        ("src/api/a.rs", r####"const A: &str = "crate::store"; const B: &[u8] = br##"" crate::store"##;"####),
        ("src/api/a.rs", r#"const A: &str = "\"crate::store\\"; const B: char = '\''; fn f<'a>(x: &'a str) {}"#),
        ("src/store/a.rs", "mod tests { use super::*; mod more { use super::super::f; } } use super::StoreError;"),
        ("src/store/mod.rs", "mod a; pub use a::Folder; pub use self::a::Lines; use crate::{api, transport};"),
        ("src/lib.rs", "pub mod api; pub mod store;"),
        ("src/main.rs", "use batchjob_operator::{api, controller};"),
        ("src/bin/llm-batch-sim/api/mod.rs", "use crate::store::Store; struct CreateBatch;"),
        ("src/lifecycle/a.rs", "/// Random, async, tokio.\nfn f(o: &Observed, now: i64) { g(o.now, now) }"),
        ("src/provider/openai/mod.rs", "const A: &str = \"in_progress\";"),
        ("src/results/line.rs", "const A: &str = \"custom_id\";"),
        ("src/store/a.rs", "/// in_progress\nconst A: &str = \"in_progressive\"; fn in_progress() {}"),
        ("src/store/a.rs", "#[cfg(test)] mod tests { const A: &str = \"custom_id\"; }"),
        ("src/store/a/tests.rs", "const A: &str = \"custom_id\";"),
        ("src/provider/probe.rs", "use super::CreateBatch;"),
        ("src/controller/run.rs", "use super::{job, orphan, runtime};"),
        ("src/controller/orphan/mod.rs", "use crate::controller::{Context, job::clients, runtime::error::StepError};"),
        ("src/controller/job/permit.rs", "use crate::provider::CreateBatch;"),
    ] {
        let found = check(file, source);
        assert!(found.is_empty(), "{file}: {source}\n{found:?}");
    }
}

/// `Memory::under` forgets the findings at the provider together with the credential. An edit of memory that a call or a
/// transfer ends with may come after that, so it goes through `Clients::memory_edit`, which drops it then.
#[test]
fn findings_under_one_credential_are_not_recorded_under_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let memory = std::fs::read_to_string(root.join("src/lifecycle/memory.rs")).unwrap();
    let under = memory.split_once("fn under(").unwrap().1.split("\n    }\n").next().unwrap();
    let forgotten = under.lines().filter_map(|line| line.trim().strip_prefix("self.")?.split(['.', ' ']).next());
    let forgotten: Vec<&str> = forgotten.filter(|field| *field != "fingerprint").collect();
    assert!(["looks", "unfit", "uploads", "resolvable"].iter().all(|field| forgotten.contains(field)), "{forgotten:?}");
    assert_eq!(
        edits("f(memory_edit(move |m| { m.posted.insert(id); m.looks.insert(id, look) }))", &forgotten),
        ["looks"]
    );
    assert!(
        edits("clients.memory_edit(move |m| _ = m.looks.insert(id)); memory_edit(|m| m.posted.clear())", &forgotten)
            .is_empty()
    );
    assert!(edits("job_state.remember(self.memory_edit(move |m| m.looks.clear()))", &forgotten).is_empty());
    for file in rust_files(&root.join("src/controller/job/act")) {
        let found = edits(&std::fs::read_to_string(&file).unwrap(), &forgotten);
        assert!(found.is_empty(), "{}: {found:?}, use `Clients::memory_edit`", file.display());
    }
}

/// Returns the `fields` of memory that edits of `source` change under whatever credential there is.
fn edits(source: &str, fields: &[&str]) -> Vec<String> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let is_bound = |at: usize| at > 0 && word(at - 1) == ".";
    let (mut found, mut depth, mut open) = (vec![], 0, vec![]);
    for at in 0..tokens.len() {
        match word(at) {
            "(" => depth += 1,
            ")" => {
                depth -= 1;
                open.retain(|(begun, _)| *begun <= depth);
            }
            "memory_edit" if word(at + 1) == "(" => open.push((depth + 1, !is_bound(at))),
            field if fields.contains(&field) && is_bound(at) && at > 1 && word(at - 2) == "m" => {
                found.extend(open.last().filter(|(_, any)| *any).map(|_| field.to_string()));
            }
            _ => {}
        }
    }
    found
}

#[derive(Debug)]
struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// What `source`, to be found at `file` (from the repository's root), does that it should not.
fn check(file: &str, source: &str) -> Vec<Violation> {
    let tokens = tokens(source);
    let module = module_of(file);
    let mut found = hidden_sources(&tokens);
    match module.first().copied() {
        Some("bin") if file.starts_with(SIMULATOR) => found.extend(library_in_simulator(&tokens)),
        Some("bin" | "main") | None => found.extend(batches_asked_for(file, &tokens)),
        Some(name) => {
            match MAY_IMPORT.iter().find(|(row, _)| *row == name) {
                Some((_, allowed)) => found.extend(imports(&module, allowed, &tokens)),
                None => found.push((1, format!("`{name}` has no row in MAY_IMPORT: say what it may import"))),
            }
            found.extend(batches_asked_for(file, &tokens));
            found.extend(words_of_openai(file, &tokens));
            if PURE.contains(&name) {
                found.extend(impurities(name, &tokens));
            }
        }
    }
    found.into_iter().map(|(line, rule)| Violation { file: file.into(), line, rule }).collect()
}

/// A line and the rule that it breaks.
type Finding = (usize, String);

fn imports(module: &[&str], allowed: &[&str], tokens: &[Token]) -> Vec<Finding> {
    let own = module[0];
    let mut found = vec![];
    for path in paths(module, tokens) {
        match path.segments.first().map(String::as_str) {
            None | Some("*") => found.push((path.line, format!("`{own}` may not name the crate's root as a whole"))),
            Some(other) if other == own => found.extend(rooms(module, &path)),
            Some(other) if !allowed.contains(&other) => {
                let may = if allowed.is_empty() { "nothing of ours".into() } else { allowed.join(", ") };
                found.push((path.line, format!("`{own}` may not import `{other}`; it may import {may}")));
            }
            Some(other) if path.re_exported => {
                found.push((path.line, format!("`{own}` may not re-export `{other}`; who needs it imports it there")));
            }
            Some(_) => {}
        }
    }
    found
}

/// A room of `controller/` that knows another one which it may not know.
fn rooms(module: &[&str], path: &OwnPath) -> Option<Finding> {
    let ["controller", room, ..] = module else { return None };
    let other = path.segments.get(1)?.as_str();
    let (_, may_know) = ROOMS.iter().find(|(name, _)| name == room)?;
    let is_room = ROOMS.iter().any(|(name, _)| *name == other);
    (is_room && *room != other && !may_know.contains(&other))
        .then(|| (path.line, format!("the room `{room}` of `controller` may not know the room `{other}`")))
}

fn impurities(module: &str, tokens: &[Token]) -> Vec<Finding> {
    let mut found = vec![];
    for (i, token) in tokens.iter().enumerate() {
        if IMPURE.contains(&token.text) {
            found.push((token.line, format!("`{module}` is pure; `{}` has no place in it", token.text)));
        }
        if token.text == "now" && i > 0 && tokens[i - 1].text == "::" {
            found.push((token.line, format!("`{module}` is pure; `::now` has no place in it: time comes in")));
        }
        if token.text == "std" {
            for (line, path) in expand(tokens, i) {
                if let Some(part) = path.get(1).filter(|part| IMPURE_STD.contains(part)) {
                    found.push((line, format!("`{module}` is pure; `std::{part}` has no place in it")));
                }
            }
        }
    }
    found
}

fn batches_asked_for(file: &str, tokens: &[Token]) -> Vec<Finding> {
    if MAY_CREATE.iter().any(|allowed| file.starts_with(allowed)) {
        return vec![];
    }
    let rule = format!("only {} may name `CreateBatch`: a batch costs money", MAY_CREATE.join(" and "));
    tokens.iter().filter(|t| t.text == "CreateBatch").map(|t| (t.line, rule.clone())).collect()
}

/// Literals of the product; what tests say is theirs.
fn words_of_openai(file: &str, tokens: &[Token]) -> Vec<Finding> {
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return vec![];
    }
    let allowed: Vec<&str> =
        MAY_SAY.iter().filter(|(prefix, _)| file.starts_with(prefix)).flat_map(|(_, words)| *words).copied().collect();
    let tests = ["cfg", "(", "test", ")", "]", "mod", "tests", "{"];
    let end = tokens.windows(tests.len()).position(|w| w.iter().map(|t| t.text).eq(tests)).unwrap_or(tokens.len());
    let mut found = vec![];
    for token in tokens[..end].iter().filter(|token| token.text == "\"") {
        let said = token.literal.split(|c: char| !is_word_char(c) && c != '-');
        for word in said.filter(|word| OPENAI.contains(word) && !allowed.contains(word)) {
            found.push((token.line, format!("`{word}` is OpenAI's word: it belongs to src/provider/openai/")));
        }
    }
    found
}

fn library_in_simulator(tokens: &[Token]) -> Vec<Finding> {
    let rule = "the simulator shares nothing with the operator's library";
    tokens.iter().filter(|t| t.text == "batchjob_operator").map(|t| (t.line, rule.into())).collect()
}

/// Code from elsewhere would be judged by the rules of where it lies, not of where it is used.
fn hidden_sources(tokens: &[Token]) -> Vec<Finding> {
    let is = |window: &[Token], texts: &[&str]| window.iter().map(|t| t.text).eq(texts.iter().copied());
    let attributes = tokens.windows(3).filter(|w| is(w, &["#", "[", "path"]));
    let macros = tokens.windows(2).filter(|w| is(w, &["include", "!"]));
    (attributes.map(|w| (w[0].line, "`#[path]` hides where code comes from".into())))
        .chain(macros.map(|w| (w[0].line, "`include!` hides where code comes from".into())))
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
