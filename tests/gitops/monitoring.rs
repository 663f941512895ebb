//! Alerts and dashboard: what they say, and that each way to install them has the same.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use batchjob_operator::telemetry::{BudgetGauges, Metrics, Names, ProviderLoad, Request, Server, Usage};
use serde_json::{Value, json};

use crate::tools::{built, helm_template, kustomize, objects, read, root, said};

const NAMESPACE: &str = "--namespace=batchjob-operator-system";

fn promtool(args: &[&str]) -> Output {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| built("prometheus.sh", &[]));
    Command::new(folder.join("promtool")).args(args).current_dir(root()).output().unwrap()
}

fn rules() -> Value {
    objects(&read("deploy/monitoring/rules.yaml")).remove(0)
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/monitoring/dashboard.json")).unwrap()
}

fn alerts() -> Vec<Value> {
    let rules = rules();
    rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn names(values: &[Value], field: &str) -> Vec<String> {
    values.iter().map(|value| value[field].as_str().unwrap().to_string()).collect()
}

#[test]
fn each_alert_fires_and_is_silent_where_it_has_to_be() {
    said(promtool(&["check", "rules", "deploy/monitoring/rules.yaml"]));
    said(promtool(&["test", "rules", "tests/gitops/rules_test.yaml"]));
    let tests = objects(&read("tests/gitops/rules_test.yaml")).remove(0);
    let tests = tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let (fired, silent): (Vec<Value>, Vec<Value>) = tests.cloned().partition(|test| test["exp_alerts"].is_array());
    for alert in names(&alerts(), "alert") {
        for (tested, what) in [(&fired, "in which it fires"), (&silent, "in which it is silent")] {
            assert!(names(tested, "alertname").contains(&alert), "{alert} has no test {what}");
        }
    }
}

/// The metrics of an operator of which everything was counted once.
fn metrics() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.step("Poll");
    metrics.failed("SecretNotFound");
    metrics.provider_look("read");
    metrics.webhook("Taken");
    metrics.orphan_batches("BatchProvider", 1);
    let (namespace, provider) = ("shop".to_string(), "BatchProvider/llm".to_string());
    let names = Names { namespace: namespace.clone(), provider: provider.clone(), model: "gpt".into() };
    metrics.used(&names, Usage { cost_and_saved_usd: Some((1.0, 1.0)), ..Usage::default() });
    let budget = BudgetGauges { namespace: namespace.clone(), period: "Day", budget: 10.0, spent: 1.0, left: 9.0 };
    metrics.budgets(&namespace, &provider, vec![budget]);
    let load = ProviderLoad { namespace, provider, batches: 1, requests: 10, tokens: 100, seconds_without_progress: 1 };
    metrics.count_loads(move || vec![load.clone()]);
    metrics.batch_turnaround("OpenAI", Duration::from_secs(60));
    metrics.completion_lag(Duration::from_secs(1));
    drop(metrics.quota_wait());
    metrics.count_jobs(|| vec![("Held", 1)]);
    metrics.count_providers(|| vec![("True", 1)]);
    metrics.count_schedules(|| vec![("True", 1)]);
    metrics.count_failing_calls(|| vec![("Poll", 1)]);
    metrics.count_waiting(|| vec![("Visit", 1)]);
    drop((metrics.visit(), metrics.visit_queue(), metrics.transfer("Upload"), metrics.transfer_queue("Upload")));
    metrics.provider_request_queue(Duration::from_millis(1));
    for to in [Server::Provider, Server::Store, Server::Webhook] {
        metrics.request(Request { to, method: "GET", status: Some(200), took: Duration::from_millis(1) });
    }
    let text = metrics.text().unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().into())
        .collect()
}

/// The words of a query that begin with `batchjob_`.
fn named(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("batchjob_"))
}

/// Every `expr` in `value`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match field.as_str() {
            Some(query) if name == "expr" => found.push(query.into()),
            _ => expressions(field, found),
        }),
        _ => {}
    }
}

/// What they return of an operator that runs is in `tests/e2e/monitoring.rs`.
#[test]
fn every_query_is_about_metrics_that_exist_and_every_metric_is_looked_at() {
    let metrics = metrics();
    assert!(metrics.contains("batchjob_leader") && metrics.contains("batchjob_steps_total"), "{metrics:?}");
    let mut queries = vec![];
    expressions(&rules(), &mut queries);
    expressions(&dashboard(), &mut queries);
    assert!(queries.len() > 40, "{queries:?}");
    for query in &queries {
        assert!(named(query).count() > 0, "{query} is about no metric");
        named(query).for_each(|metric| assert!(metrics.contains(metric), "there is no {metric}: {query}"));
    }
    let histogram = |metric: &str| {
        ["_bucket", "_count", "_sum"].iter().find_map(|end| metric.strip_suffix(end)).map(str::to_string)
    };
    let used: BTreeSet<String> =
        queries.iter().flat_map(|query| named(query)).map(|m| histogram(m).unwrap_or(m.into())).collect();
    let unused: Vec<_> = metrics.iter().filter(|m| !used.contains(&histogram(m).unwrap_or((*m).clone()))).collect();
    // The steps of the protocol are for people who develop it.
    assert_eq!(unused, ["batchjob_steps_total"]);
}

#[test]
fn each_alert_is_explained_where_it_says_and_each_metric_as_well() {
    let page = read("docs/operations.md");
    for metric in metrics().iter().filter(|metric| !metric.contains("_seconds_")) {
        assert!(page.contains(&format!("\n| `{metric}` | ")), "docs/operations.md lacks {metric}");
    }
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let place = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook"], *place, "{name}");
        assert!(page.contains(&format!("\n### {name}\n")), "{place} is not there");
        assert!(["critical", "warning", "info"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
    }
}

/// The PrometheusRule, the ServiceMonitor and the ConfigMap with the dashboard, by kind and without labels.
fn installed(objects: Vec<Value>) -> Vec<(String, Value)> {
    let kinds = ["ConfigMap", "PrometheusRule", "ServiceMonitor"];
    let mut found: Vec<(String, Value)> = vec![];
    for mut object in objects {
        let kind = object["kind"].as_str().unwrap().to_string();
        if kinds.contains(&kind.as_str()) {
            let labels = object["metadata"].as_object_mut().unwrap().remove("labels").unwrap();
            assert_eq!(labels["app.kubernetes.io/name"], "batchjob-operator", "{kind}");
            assert_eq!(labels.get("grafana_dashboard"), (kind == "ConfigMap").then_some(&json!("1")), "{kind}");
            found.push((kind, object));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), kinds.iter().collect::<Vec<_>>());
    found
}

#[test]
fn helm_and_kustomize_install_the_same_alerts_and_dashboard_and_only_where_they_are_wanted() {
    // Below target/, which may be anywhere: kustomize takes no absolute path.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitoring");
    let (shipped, overlay) = (folder.join("shipped"), folder.join("overlay"));
    std::fs::create_dir_all(&shipped).unwrap();
    std::fs::create_dir_all(&overlay).unwrap();
    for file in std::fs::read_dir(root().join("deploy/monitoring")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), shipped.join(file.file_name())).unwrap();
    }
    let kustomization = json!({"kind": "Kustomization", "components": ["../shipped"]});
    std::fs::write(overlay.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let of_kustomize = installed(kustomize(overlay.to_str().unwrap()));
    let wanted = ["metrics.serviceMonitor.create", "metrics.prometheusRule.create", "metrics.dashboard.create"];
    let wanted = wanted.map(|value| format!("--set={value}=true"));
    let of_chart = installed(helm_template(&[NAMESPACE, &wanted[0], &wanted[1], &wanted[2]]));
    assert_eq!(of_chart, of_kustomize);
    assert_eq!(of_chart[0].1["data"]["batchjob-operator.json"], *read("deploy/monitoring/dashboard.json"));
    assert_eq!(of_chart[1].1["spec"], rules(), "run `make rules`");
    for file in ["rules.yaml", "dashboard.json"] {
        let same = read(&format!("deploy/chart/files/monitoring/{file}")) == read(&format!("deploy/monitoring/{file}"));
        assert!(same, "deploy/chart/files/monitoring/{file}: run `make rules`");
    }
    let without = json!(helm_template(&[NAMESPACE])).to_string();
    assert!(!without.contains("PrometheusRule") && !without.contains("dashboard"), "off by default");
}
