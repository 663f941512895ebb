//! How many states each exploration has, as `docs/states.md` says: a change that keeps something from being explored shows
//! there. `STATES=write` writes what it explores into the page.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use super::explore::scenario;
use super::*;

const HEAD: &str = "\
# What the model explored

Every interleaving within a budget of faults, run by the production `decide`; the scenarios are the tests in `tests/model/scenarios.rs`
and its neighbours. *Every promise* holds in each state, from each state *an end* can be reached, or one promise holds where only that
one can. A scenario fails where it explores another number of states than this page says, and a row fails that no scenario explores.
Written by `STATES=write cargo test --test model`; with `MODEL_SOAK=1` larger budgets are explored too, and stand here once one was
seen to its end.

| scenario | explored | what may happen | states |
|---|---|---|---:|
";

/// Counts by what a row says before its last cell.
type Rows = BTreeMap<String, String>;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/states.md")
}

fn rows() -> Rows {
    let text = std::fs::read_to_string(page()).unwrap_or_default();
    let row = |line: &str| line.strip_suffix(" |")?.rsplit_once(" | ").map(|(key, count)| (key.into(), count.into()));
    text.lines().filter(|line| !HEAD.contains(line)).filter_map(row).collect()
}

/// What this process explored.
static EXPLORED: Mutex<Rows> = Mutex::new(Rows::new());

/// Whether the page is written, in place of held to what is explored.
fn writes() -> bool {
    std::env::var("STATES").is_ok_and(|to| to == "write")
}

fn write(rows: &Rows) {
    let lines: Vec<String> = rows.iter().map(|(key, count)| format!("{key} | {count} |\n")).collect();
    std::fs::write(page(), format!("{HEAD}{}", lines.concat())).unwrap();
}

thread_local! {
    /// The scenario of this thread that lists what it explores, and explores nothing.
    static SCENARIO: Cell<Option<&'static str>> = const { Cell::new(None) };
    static LISTED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The scenario that only lists what it explores.
pub(super) fn listed_scenario() -> Option<&'static str> {
    SCENARIO.get()
}

fn key(scenario: &str, what: &str, model: &Protocol) -> String {
    format!("| {scenario} | {what} | {model:?}")
}

/// Lists an exploration in place of exploring it. False: it is to be explored.
pub(super) fn listed(what: &str, model: &Protocol) -> bool {
    let lists = listed_scenario().is_some();
    if lists {
        LISTED.with_borrow_mut(|all| all.insert(key(&scenario(), what, model)));
    }
    lists
}

/// What the scenarios explore, larger budgets included, by what a row says of it before its count.
fn explorations(scenarios: impl IntoIterator<Item = (&'static str, fn())>) -> BTreeSet<String> {
    for (name, scenario) in scenarios {
        SCENARIO.set(Some(name));
        scenario();
    }
    SCENARIO.set(None);
    LISTED.take()
}

/// A row that no scenario explores is a claim; `STATES=write` deletes it.
#[test]
fn each_row_of_the_page_is_explored_by_a_scenario() {
    let explored = explorations(
        [SUBMITTING, CAPABILITIES, ENDING, PAYING, OLD_LOOKS, RESERVATIONS, MUTANTS].concat().iter().copied(),
    );
    let _written = EXPLORED.lock().unwrap();
    let (kept, stale): (Rows, Rows) = rows().into_iter().partition(|(key, _)| explored.contains(key));
    assert!(kept.len() > 100, "{} rows", kept.len());
    if writes() {
        return write(&kept);
    }
    let stale: Vec<String> = stale.into_keys().collect();
    assert!(stale.is_empty(), "no scenario explores this, delete it from docs/states.md:\n{}", stale.join("\n"));
}

/// Holds what was explored against the page, or writes it there.
///
/// # Panics
/// Where the page says something else.
pub(super) fn counted(scenario: &str, what: &str, model: &Protocol, states: usize) {
    let (key, count) = (key(scenario, what, model), grouped(states));
    if writes() {
        let mut explored = EXPLORED.lock().unwrap();
        let earlier = explored.insert(key.clone(), count.clone());
        assert!(earlier.is_none_or(|earlier| earlier == count), "two explorations are called {key}");
        let mut all = rows();
        all.insert(key, count);
        write(&all);
        return;
    }
    match rows().remove(&key) {
        None if soak() => println!("not in docs/states.md yet: {key} | {count} |"),
        said => assert_eq!(said, Some(count), "what docs/states.md says, and what is: {key}"),
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let (first, rest) = digits.split_at((digits.len() - 1) % 3 + 1);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group));
    groups.fold(first.to_string(), |text, group| format!("{text},{group}"))
}
