//! `plan`: check and encode, next to a JSON parser that only looks where things are.

#[path = "../../tests/support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::requests::{PlanOptions, Source, pass};
use batchjob_operator::store::Folder;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Bar, Figure, input, scaled};

const PAIRS: usize = 7;

/// What can be had for a single look at a line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    custom_id: &'a RawValue,
    #[serde(borrow)]
    method: &'a RawValue,
    #[serde(borrow)]
    url: &'a RawValue,
    #[serde(borrow)]
    body: &'a RawValue,
}

pub fn measure() -> Figure {
    let bytes: Vec<u8> = (0..scaled(50_000)).flat_map(|i| input::line(i).into_bytes()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Arc::new(InMemory::new());
    runtime.block_on(store.put(&"requests.jsonl".into(), PutPayload::from(bytes.clone()))).unwrap();
    let megabytes = bytes.len() as f64 / 1e6;
    let pairs: Vec<(f64, f64)> =
        (0..PAIRS).map(|_| (megabytes / planned(&runtime, store.clone()), megabytes / parsed(&bytes))).collect();
    let name = format!("{megabytes:.0} MB checked and encoded in memory; serde_json parsing them into raw values");
    Figure::of_pairs("plan", name, "MB/s of one core", &pairs, Bar::AtLeast(0.7))
}

/// Seconds of CPU that a pass takes.
fn planned(runtime: &tokio::runtime::Runtime, store: Arc<dyn ObjectStore>) -> f64 {
    let source = Source::Objects { folder: Folder::of(store, "memory://in/", ""), name: "requests.jsonl".into() };
    let (options, spool) = (options(), std::env::temp_dir());
    let began = cpu();
    let passed = runtime.block_on(pass(source, &options, None, &spool)).unwrap();
    let took = cpu() - began;
    assert_eq!(passed.requests as usize, scaled(50_000));
    took
}

/// Seconds of CPU that the parser takes.
fn parsed(bytes: &[u8]) -> f64 {
    let (began, mut seen) = (cpu(), 0);
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let line: Line = serde_json::from_slice(line).unwrap();
        seen += [line.custom_id, line.method, line.url, line.body].iter().map(|raw| raw.get().len()).sum::<usize>();
    }
    let took = cpu() - began;
    assert!(seen > bytes.len() / 2);
    took
}

fn options() -> PlanOptions {
    let model = Some("gpt-5-mini".into());
    PlanOptions { provider: "llm".into(), model, max_requests: 50_000, max_bytes: 200 << 20, ..support::options() }
}

/// Seconds that this thread was on a core, as the kernel counts them: others may be on the machine.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() as f64 / 1e9
}
