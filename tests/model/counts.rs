//! How many states each exploration has, as `docs/states.md` says: a change that keeps something from being explored shows
//! there. `STATES=write` writes what it explores into the page.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;

const HEAD: &str = "\
# What the model explored

Every interleaving within a budget of faults, run by the production `decide`; the scenarios are the tests in `tests/model/scenarios.rs`.
*Every promise* holds in each state, from each state *an end* can be reached, or one promise holds where only that one can. A
scenario fails where it explores another number of states than this page says. Written by `STATES=write cargo test --test model`; with
`MODEL_SOAK=1` larger budgets are explored too, and stand here once one was seen to its end.

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

/// Holds what was explored against the page, or writes it there.
///
/// # Panics
/// Where the page says something else.
pub(super) fn counted(scenario: &str, what: &str, model: &Protocol, states: usize) {
    static EXPLORED: Mutex<Rows> = Mutex::new(Rows::new());
    let (key, count) = (format!("| {scenario} | {what} | {model:?}"), grouped(states));
    if std::env::var("STATES").is_ok_and(|to| to == "write") {
        let mut explored = EXPLORED.lock().unwrap();
        let earlier = explored.insert(key.clone(), count.clone());
        assert!(earlier.is_none_or(|earlier| earlier == count), "two explorations are called {key}");
        let mut all = rows();
        all.insert(key, count);
        let lines: Vec<String> = all.iter().map(|(key, count)| format!("{key} | {count} |\n")).collect();
        std::fs::write(page(), format!("{HEAD}{}", lines.concat())).unwrap();
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
