//! The README's manifests are the examples, to the letter, and its commands exist.

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

#[test]
fn manifests_are_the_examples() {
    let readme = read("README.md");
    let blocks: Vec<&str> = readme.split("```yaml\n").skip(1).filter_map(|b| b.split("```").next()).collect();
    let examples =
        ["examples/reviews.yaml", "examples/provider.yaml", "examples/reviews-csv.yaml", "examples/config-map.yaml"]
            .map(read);
    assert_eq!(blocks, examples);
}

#[test]
fn commands_and_links_exist() {
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let verbs = ["$ make ", "`make "].map(|before| readme.split(before).skip(1));
    for verb in verbs.into_iter().flatten().filter_map(|rest| rest.split([' ', '`', '\n']).next()) {
        assert!(makefile.contains(&format!("\n{verb}:")), "make {verb}");
    }
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(!read(link).is_empty(), "{link}");
    }
}

/// `docs/states.md` names what explored how many states.
#[test]
fn scenarios_that_are_counted_exist() {
    let (page, tests) = (read("docs/states.md"), read("tests/model/scenarios.rs") + &read("tests/model/mutants.rs"));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    let names: Vec<&str> = rows.filter_map(|row| row.split(' ').next()).collect();
    assert!(names.len() > 50, "{}", names.len());
    for name in names {
        assert!(tests.contains(&format!("fn {name}()")), "there is no scenario {name}; delete its row");
    }
}

/// `docs/guarantees.md` and `docs/compatibility.md` name the test that holds each promise and each row.
#[test]
fn tests_that_are_named_exist() {
    for (page, at_least) in [("docs/guarantees.md", 30), ("docs/compatibility.md", 0)] {
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
