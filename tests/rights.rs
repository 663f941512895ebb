//! What the end-to-end tests left behind: the operator asked the API server for what `deploy/` grants, nothing is missing and
//! nothing is spare; and every scene was looked through for prompts, answers and keys. Run all of `--test e2e` first.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Where something is asked for or granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In no namespace, in all of them, or in `default`, where events about what lies in none are.
    Cluster,
    /// Where the operator is installed.
    Home,
    /// In a namespace that it looks after.
    Watched,
}

/// Place, API group, resource and verb.
type Right = (Place, String, String, String);

fn texts(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string())
}

/// What the roles of one of these kinds in a file grant the operator.
fn granted(file: &str, kinds: &[&str]) -> BTreeSet<Right> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let ours = documents.filter(|d| {
        let is_ours = d["metadata"]["name"].as_str().unwrap().starts_with("batchjob-operator");
        is_ours && kinds.iter().any(|kind| d["kind"] == *kind)
    });
    let mut rights = BTreeSet::new();
    for role in ours {
        let place = match (role["kind"].as_str(), role["metadata"]["namespace"].as_str()) {
            (Some("ClusterRole"), _) => Place::Cluster,
            (_, Some(_)) => Place::Home,
            (_, None) => Place::Watched,
        };
        for rule in role["rules"].as_array().unwrap() {
            for (group, resource) in
                texts(&rule["apiGroups"]).flat_map(|g| texts(&rule["resources"]).map(move |r| (g.clone(), r)))
            {
                rights.extend(texts(&rule["verbs"]).map(|verb| (place, group.clone(), resource.clone(), verb)));
            }
        }
    }
    assert!(!rights.is_empty(), "{file}");
    rights
}

/// A request for an object or a list.
struct Asked {
    right: Right,
    name: String,
    allowed: bool,
}

/// None where somebody else asked, or for another path, such as `/version`.
fn asked(event: &Value) -> Option<Asked> {
    let home = event["user"]["username"]
        .as_str()?
        .strip_prefix("system:serviceaccount:")?
        .strip_suffix(":batchjob-operator")?;
    let of = event.get("objectRef")?;
    let text = |key: &str| of[key].as_str().unwrap_or_default().to_string();
    let resource = match text("subresource") {
        sub if sub.is_empty() => text("resource"),
        sub => format!("{}/{sub}", text("resource")),
    };
    let place = match text("namespace").as_str() {
        "" | "default" => Place::Cluster,
        // A namespace is an object in itself.
        _ if resource == "namespaces" => Place::Cluster,
        namespace if namespace == home => Place::Home,
        _ => Place::Watched,
    };
    Some(Asked {
        right: (place, text("apiGroup"), resource, event["verb"].as_str().unwrap().into()),
        name: text("name"),
        allowed: event["annotations"]["authorization.k8s.io/decision"] == "allow",
    })
}

/// The lines of a file that the end-to-end tests of this very operator wrote.
fn left_behind(file: &str) -> Vec<Value> {
    let read = |file: &str| -> Vec<Value> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("run `cargo test --test e2e` first: {e}"));
        // Whoever wrote it was killed: the last line may be half a line.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let operator = std::fs::metadata(env!("CARGO_BIN_EXE_batchjob-operator")).unwrap().modified().unwrap();
    let of = &read("e2e-record.jsonl")[0]["operator"];
    assert_eq!(*of, format!("{operator:?}"), "these were of another operator: run `cargo test --test e2e` again");
    read(file)
}

fn all_asked() -> Vec<Asked> {
    left_behind("e2e-audit.log").iter().filter_map(asked).collect()
}

fn without_place(rights: &BTreeSet<Right>) -> BTreeSet<(&str, &str, &str)> {
    rights.iter().map(|(_, group, resource, verb)| (group.as_str(), resource.as_str(), verb.as_str())).collect()
}

#[test]
fn the_operator_is_granted_what_it_asks_for_and_nothing_else() {
    let asked = all_asked();
    let refused: BTreeSet<&Right> = asked.iter().filter(|a| !a.allowed).map(|a| &a.right).collect();
    assert!(refused.is_empty(), "asked for and not granted: {refused:?}");
    let used: BTreeSet<Right> = asked.into_iter().map(|a| a.right).collect();
    let granted = granted("deploy/kustomize/rbac.yaml", &["ClusterRole", "Role"]);
    let (used, granted) = (without_place(&used), without_place(&granted));
    let spare: Vec<_> = granted.difference(&used).collect();
    assert!(spare.is_empty(), "granted and never asked for, if all end-to-end tests were run: {spare:?}");
    let elsewhere: Vec<_> = used.difference(&granted).collect();
    assert!(elsewhere.is_empty(), "used, and not granted by deploy/kustomize: {elsewhere:?}");
}

#[test]
fn an_operator_of_some_namespaces_is_granted_each_thing_where_it_asks_for_it_and_nowhere_else() {
    let used: BTreeSet<Right> = all_asked().into_iter().map(|a| a.right).collect();
    let mut granted = granted("deploy/kustomize/rbac.yaml", &["Role"]);
    granted.extend(self::granted("deploy/namespaced/rbac.yaml", &["ClusterRole", "Role"]));
    granted.extend(self::granted("deploy/namespaced/watched/rbac.yaml", &["Role"]));
    // What is not granted in a namespace must be granted in all of them.
    let everywhere = |(_, group, resource, verb): Right| (Place::Cluster, group, resource, verb);
    let needed: BTreeSet<Right> =
        used.into_iter().map(|right| if granted.contains(&right) { right } else { everywhere(right) }).collect();
    let missing: Vec<_> = needed.difference(&granted).collect();
    assert!(missing.is_empty(), "asked for and not granted by deploy/namespaced: {missing:?}");
    let spare: Vec<_> = granted.difference(&needed).collect();
    assert!(spare.is_empty(), "granted by deploy/namespaced and never asked for there: {spare:?}");
}

#[test]
fn secrets_are_read_by_name_only() {
    let all = all_asked();
    let secrets: Vec<&Asked> = all.iter().filter(|a| a.right.2 == "secrets").collect();
    let by_name = |a: &&Asked| a.right.3 == "get" && !a.name.is_empty();
    assert!(secrets.len() > 100 && secrets.iter().all(by_name), "{} Secrets read", secrets.len());
}

#[test]
fn every_scene_was_looked_through_at_its_end() {
    let record = left_behind("e2e-record.jsonl");
    let scenes = |key: &str| record.iter().filter_map(|l| l[key].as_str()).collect::<BTreeSet<_>>();
    let (begun, quiet) = (scenes("begun"), scenes("quiet"));
    assert!(begun.len() > 80, "{} scenes, if all end-to-end tests were run", begun.len());
    assert_eq!(begun, quiet);
    let ran = record.iter().filter(|l| l["logs"].as_u64().is_some_and(|n| n > 0));
    let unseen: Vec<&Value> = ran.filter(|l| l["metrics"] == 0).map(|l| &l["quiet"]).collect();
    assert!(unseen.is_empty(), "an operator ran and nobody looked at its metrics: {unseen:?}");
}
