//! The figures of the README: ratios of this operator to what one would use without it, both measured in this run, and
//! written to `target/bench.json`. `cargo bench --bench figures -- NAME…` measures some; `BENCH_SCALE=0.1` less of everything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../../tests/e2e/support/mod.rs"]
mod support;

mod end_to_end;
mod hooks;
mod input;
mod journal;
mod objects;
mod plan;
mod poll;
mod storm;

use serde::Serialize;

use support::process::{root, scratch};

/// One comparison.
#[derive(Debug, Serialize)]
struct Figure {
    id: &'static str,
    name: String,
    ours: f64,
    reference: f64,
    ratio: f64,
    unit: &'static str,
    /// What it is held against, and whether it holds.
    #[serde(skip)]
    bar: (String, bool),
}

impl Figure {
    /// Of runs that were made in pairs: ours, the reference.
    fn of_pairs(id: &'static str, name: String, unit: &'static str, pairs: &[(f64, f64)], bar: Bar) -> Figure {
        let all = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).collect::<Vec<f64>>();
        let (ours, reference) = (median(all(|p| p.0)), median(all(|p| p.1)));
        let ratios = all(|p| p.0 / p.1);
        println!("{id}: ours {:.2?}, reference {:.2?}, ratios {ratios:.3?}", all(|p| p.0), all(|p| p.1));
        let ratio = median(ratios);
        Figure { id, name, ours, reference, ratio, unit, bar: bar.judge(ratio) }
    }
}

/// What a ratio should be.
enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    fn judge(self, ratio: f64) -> (String, bool) {
        match self {
            Bar::AtMost(most) => (format!("<= {most}"), ratio <= most),
            Bar::AtLeast(least) => (format!(">= {least}"), ratio >= least),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// `full`, or less for a quick look.
fn scaled(full: usize) -> usize {
    let scale = std::env::var("BENCH_SCALE").map_or(1.0, |s| s.parse::<f64>().expect("BENCH_SCALE is a number"));
    ((full as f64 * scale) as usize).max(1)
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut figures = vec![];
    // First, while nothing else runs.
    if is_wanted("plan") {
        figures.push(plan::measure());
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if is_wanted("journal") || is_wanted("journal-time") {
        figures.extend(runtime.block_on(journal::measure()));
    }
    if is_wanted("objects") {
        figures.push(runtime.block_on(objects::measure()));
    }
    if is_wanted("storm") {
        figures.extend(runtime.block_on(storm::measure()));
    }
    if is_wanted("poll") {
        figures.push(runtime.block_on(poll::measure()));
    }
    if is_wanted("hooks") {
        figures.push(runtime.block_on(hooks::measure()));
    }
    if is_wanted("e2e-50k") || is_wanted("rss-flat") {
        figures.extend(runtime.block_on(end_to_end::measure(is_wanted("e2e-50k"), is_wanted("rss-flat"))));
    }
    report(&figures);
    let _ = std::fs::remove_dir_all(scratch());
}

fn report(figures: &[Figure]) {
    let text = serde_json::to_string_pretty(figures).unwrap() + "\n";
    std::fs::create_dir_all(root().join("target")).unwrap();
    std::fs::write(root().join("target/bench.json"), text).unwrap();
    println!("\n| figure | what | ours | reference | unit | ratio | wanted |\n|---|---|---:|---:|---|---:|---|");
    for Figure { id, name, ours, reference, ratio, unit, bar: (bar, holds) } in figures {
        let missed = if *holds { "" } else { ", missed" };
        println!("| `{id}` | {name} | {ours:.1} | {reference:.1} | {unit} | {ratio:.2} | {bar}{missed} |");
    }
}
