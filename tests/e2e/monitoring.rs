//! What Prometheus sees of an operator at work: the alerts and the dashboard of `deploy/monitoring/`.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::operator::Operator;
use crate::support::process::{Process, free_port, root, scratch};
use crate::support::scene::{Scene, condition};

/// A server that scrapes operators each second and judges the alerts as often.
struct Prometheus {
    url: String,
    _process: Process,
}

impl Prometheus {
    async fn start(name: &str, operator: &Operator) -> Prometheus {
        let script = root().join("tests/cluster/prometheus.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/cluster/prometheus.sh failed");
        let program = format!("{}/prometheus", String::from_utf8(output.stdout).unwrap().trim());
        let folder = scratch().join(format!("{name}-prometheus"));
        std::fs::create_dir_all(&folder).unwrap();
        let target = operator.health.strip_prefix("http://").unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [root().join("deploy/monitoring/rules.yaml")],
            "scrape_configs": [{"job_name": "batchjob-operator",
                "static_configs": [{"targets": [target], "labels": {"namespace": "batchjob-operator-system"}}]}],
        });
        std::fs::write(folder.join("prometheus.yml"), config.to_string()).unwrap();
        let url = format!("127.0.0.1:{}", free_port());
        let args = [
            format!("--config.file={}", folder.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={url}"),
        ];
        let process = Process::supervised(program.as_ref(), &args, &[], &format!("{name}-prometheus"));
        let prometheus = Prometheus { url: format!("http://{url}"), _process: process };
        eventually("Prometheus is ready", 30, || async {
            let ready = reqwest::get(format!("{}/-/ready", prometheus.url)).await;
            ready.is_ok_and(|ready| ready.status().is_success()).then_some(())
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let request = reqwest::Client::new().get(format!("{}/api/v1/{path}", self.url)).query(query);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        answer["data"].clone()
    }

    /// The number of series that a query returns.
    async fn returned(&self, query: &str) -> usize {
        self.get("query", &[("query", query)]).await["result"].as_array().unwrap().len()
    }

    /// The only value that a query returns.
    async fn value(&self, query: &str) -> f64 {
        let result = self.get("query", &[("query", query)]).await;
        result["result"][0]["value"][1].as_str().unwrap_or_default().parse().unwrap_or(f64::NAN)
    }

    /// The series that a scrape of an operator has now.
    async fn series(&self) -> BTreeSet<String> {
        let result = self.get("query", &[("query", "{job=\"batchjob-operator\", __name__=~\"batchjob_.*\"}")]).await;
        result["result"].as_array().unwrap().iter().map(|series| series["metric"].to_string()).collect()
    }

    async fn rules(&self) -> Vec<Value> {
        let rules = self.get("rules", &[]).await;
        rules["groups"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .cloned()
            .collect()
    }

    /// The alerts whose expression is true.
    async fn raised(&self) -> BTreeSet<String> {
        let alerts = self.get("alerts", &[]).await;
        let alerts = alerts["alerts"].as_array().unwrap().iter();
        alerts.map(|alert| alert["labels"]["alertname"].as_str().unwrap().into()).collect()
    }
}

/// Every query of the dashboard, for all installs and for the last five minutes.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(fields) => fields.iter().for_each(|(name, field)| match field.as_str() {
                Some(query) if name == "expr" => {
                    found.push(query.replace("$namespace", ".*").replace("$__rate_interval", "5m"));
                }
                _ => collect(field, found),
            }),
            _ => {}
        }
    }
    let dashboard = std::fs::read_to_string(root().join("deploy/monitoring/dashboard.json")).unwrap();
    let mut found = vec![];
    collect(&serde_json::from_str(&dashboard).unwrap(), &mut found);
    found
}

/// The selectors of a query: each metric, with what is in braces behind it.
fn selectors(query: &str) -> Vec<String> {
    let found = query.match_indices("batchjob_").map(|(at, _)| {
        let rest = &query[at..];
        let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let end = if rest[name..].starts_with('{') { name + rest[name..].find('}').unwrap() + 1 } else { name };
        rest[..end].to_string()
    });
    found.collect()
}

/// Runs a job whose batch ends at once.
async fn run(scene: &Scene, name: &str) {
    scene.apply_job(name, json!({}));
    let batch = scene.batch_of(name).await;
    scene.finish(&batch).await;
    scene.wait_tidy(name).await;
}

/// Brings about what the alerts are about: a batch that hangs, a question, an obstacle, a store and a webhook that do not answer, a
/// provider and a schedule that cannot work, an error of the provider, a batch that nobody follows, and a forged event.
async fn troubles(scene: &Scene, webhooks: &str) {
    let nowhere = "http://127.0.0.1:9/";
    // The shortest time after which a batch hangs.
    scene.apply_job("hangs", json!({"spec": {"progressDeadlineSeconds": 60}}));
    scene.batch_of("hangs").await;
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("held", json!({}));
    scene.wait_condition("held", "Held", "True", 60).await;
    scene.sim.fault(json!({"point": "upload", "action": "status", "status": 500, "times": 1})).await;
    let hooks =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hooks"}, "stringData": {"url": nowhere}});
    scene.apply(&hooks.to_string());
    let told = json!([{"name": "ops", "events": ["Started"], "webhook": {"urlSecretKeyRef": {"name": "hooks", "key": "url"}}}]);
    scene.apply_job("orphan", json!({"spec": {"deletionPolicy": "Orphan", "notifications": told}}));
    scene.batch_of("orphan").await;
    scene.kubectl(&["delete", "bjob", "orphan", "--wait=false"]);
    scene.apply_job("stalled", json!({"spec": {"output": {"objectStore": {"endpoint": nowhere}}}}));
    let mut schedule = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "metadata": {"name": "never"},
        "spec": {"schedule": "30 4 * * *", "timeZone": "Europe/Berlni", "jobTemplate": {}}});
    schedule["spec"]["jobTemplate"]["spec"] = scene.job("never", json!({}))["spec"].clone();
    scene.apply(&schedule.to_string());
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": "away"},
        "spec": {"type": "OpenAICompatible", "baseURL": format!("{nowhere}v1")}});
    scene.apply(&provider.to_string());
    let forged = reqwest::Client::new().post(format!("{webhooks}/hooks/none")).body("{}").send().await.unwrap();
    assert_eq!(forged.status(), 401);
    scene.wait_condition("stalled", "Stalled", "True", 60).await;
    scene.wait_gone("orphan").await;
}

/// A provider that takes one batch at a time, where a token costs ten cents.
fn dear(scene: &Scene, budget: &str) -> String {
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": "dear"},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.base_url,
            "auth": {"secretKeyRef": {"name": "llm-key", "key": "api-key"}},
            "limits": {"maxBatchesInFlight": 1},
            "models": [{"name": "*", "prices": {"inputUSDPerMillion": "0", "outputUSDPerMillion": "100000"}}],
            "budgets": [{"period": "Day", "maxCostUSD": budget}]}});
    provider.to_string()
}

/// Has a job wait for the place of another one, both pay, and the budget turn out to be too low.
async fn wait_and_pay(scene: &Scene) {
    scene.apply(&dear(scene, "100"));
    let of_dear = json!({"spec": {"providerRef": {"name": "dear"}, "requestDefaults": {"max_completion_tokens": 10}}});
    scene.apply_job("first-to-pay", of_dear.clone());
    let first = scene.batch_of("first-to-pay").await;
    scene.apply_job("second-to-pay", of_dear);
    let waits = |job: &BatchJob| condition(job, "Complete").is_some_and(|(_, reason, _)| reason == "WaitingForQuota");
    scene.wait_job("it waits for the place", "second-to-pay", 60, waits).await;
    scene.finish(&first).await;
    let second = scene.batch_of("second-to-pay").await;
    scene.finish(&second).await;
    scene.wait_tidy("second-to-pay").await;
    scene.apply(&dear(scene, "0.01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_sees_what_needs_a_person_every_query_returns_series_and_jobs_add_none() {
    let mut scene = Scene::set("monitored", &["--batch-duration", "1h"]).await;
    scene.apply(&format!("{}  unknownSubmissionPolicy: Hold\n", scene.manifest("provider.yaml")));
    let webhooks = format!("127.0.0.1:{}", free_port());
    scene.settings.extra =
        ["--orphan-check-seconds", "1", "--provider-webhook-addr", &webhooks].map(String::from).to_vec();
    scene.restart().await;
    let prometheus = Prometheus::start(&scene.namespace, scene.operator.as_ref().unwrap()).await;

    // An operator that only works raises nothing, and more jobs make no more series.
    let jobs = ["one", "two", "three", "four", "five", "six"];
    run(&scene, "first").await;
    eventually("the first job is scraped", 30, || async {
        (prometheus.returned("batchjob_steps_total{step=\"CleanUp\"} >= 1").await > 0).then_some(())
    })
    .await;
    let before = prometheus.series().await;
    assert!(before.len() > 100, "{before:?}");
    for name in jobs {
        run(&scene, name).await;
    }
    eventually("the last job is scraped", 30, || async {
        (prometheus.returned("batchjob_steps_total{step=\"CleanUp\"} >= 7").await > 0).then_some(())
    })
    .await;
    let after = prometheus.series().await;
    let new: Vec<_> = after.difference(&before).collect();
    println!("{} series after the first job, {} after seven", before.len(), after.len());
    assert!(new.len() < jobs.len(), "{} jobs made {} series: {new:?}", jobs.len(), new.len());
    assert_eq!(prometheus.raised().await, BTreeSet::new());
    let of_jobs = format!("{{exported_namespace=\"{}\",provider=\"BatchProvider/llm\"", scene.namespace);
    for (query, wanted) in [
        (format!("sum(batchjob_requests_total{of_jobs},model=\"gpt-5-mini\",outcome=\"Succeeded\"}})"), 21.0),
        (format!("sum(batchjob_tokens_total{of_jobs}}}) > bool 21"), 1.0),
        (format!("sum(batchjob_batches_in_flight{of_jobs}}}) or vector(0)"), 0.0),
        ("sum(batchjob_completion_lag_seconds_count)".into(), 7.0),
        ("sum(batchjob_batch_turnaround_seconds_count{type=\"OpenAICompatible\"})".into(), 7.0),
    ] {
        assert_eq!(prometheus.value(&query).await, wanted, "{query}");
    }
    let lag = "sum(batchjob_completion_lag_seconds_sum) / sum(batchjob_completion_lag_seconds_count)";
    println!("{:.1} s from the end of a batch to the end of its job, polled each second", prometheus.value(lag).await);

    // Everything that a query asks for has happened.
    troubles(&scene, &format!("http://{webhooks}")).await;
    wait_and_pay(&scene).await;
    let rules = prometheus.rules().await;
    let asked: Vec<String> =
        rules.iter().flat_map(|rule| selectors(rule["query"].as_str().unwrap())).chain(queries()).collect();
    assert!(rules.len() >= 15 && asked.len() > 50, "{asked:?}");
    eventually_all(&prometheus, &asked).await;

    // What people are told to look at is there.
    let looks = looks(&scene.namespace);
    assert!(looks.len() > 15, "{looks:?}");
    for look in looks {
        let (ok, said) =
            scene.settings.cluster().try_kubectl(&look.iter().map(String::as_str).collect::<Vec<_>>(), None);
        assert!(ok, "kubectl {look:?}: {said}");
    }

    // Alerts are raised for what needs a person, and no others; also of the message whose job was deleted before it was told.
    let wanted: BTreeSet<String> = [
        "BatchJobsHeld",
        "BatchJobsStalled",
        "BatchJobsNotProgressing",
        "BatchProviderNotReady",
        "BatchProviderBudgetNearlySpent",
        "BatchScheduleNotReady",
        "BatchJobCallsFailing",
        "BatchJobOrphanBatches",
        "BatchJobNotificationsGivenUp",
    ]
    .map(String::from)
    .into();
    let mut raised = BTreeSet::new();
    until(120, async || {
        raised = prometheus.raised().await;
        // Those about the share of failures depend on how much else is asked.
        raised.retain(|alert| !alert.ends_with("Errors"));
        raised == wanted
    })
    .await;
    assert_eq!(raised, wanted);
    for rule in prometheus.rules().await {
        assert_eq!((&rule["health"], rule["lastError"].as_str().unwrap_or_default()), (&json!("ok"), ""), "{rule}");
    }
    println!("{} series at the end", prometheus.series().await.len());
    scene.answer("held", "none").await;
}

/// The arguments of each command of `docs/operations.md` that looks at something, about objects of this scene.
fn looks(namespace: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let commands = page.split("kubectl ").skip(1).map(|rest| rest.split(['`', '\n']).next().unwrap());
    let looks = commands.filter(|command| ["get ", "describe "].iter().any(|verb| command.starts_with(verb)));
    let about = looks.map(|look| {
        // No replica of the scene takes part in an election.
        let look = look.replace("lease batchjob-operator", "lease").replace("cbjob NAME ", "cbjob never ");
        let look = look.replace("NAME ", "held ").replace("-n NAMESPACE", &format!("-n {namespace}"));
        let mut words = vec![String::new()];
        for (i, part) in look.split('\'').enumerate() {
            match i % 2 {
                0 => part.chars().for_each(|c| match c {
                    ' ' => words.push(String::new()),
                    c => words.last_mut().unwrap().push(c),
                }),
                _ => words.last_mut().unwrap().push_str(part),
            }
        }
        words
    });
    about.collect()
}

/// Waits until each of the queries returns series.
async fn eventually_all(prometheus: &Prometheus, queries: &[String]) {
    let mut left: BTreeSet<&String> = queries.iter().collect();
    until(90, async || {
        for query in left.clone() {
            if prometheus.returned(query).await > 0 {
                left.remove(query);
            }
        }
        left.is_empty()
    })
    .await;
    assert!(left.is_empty(), "no series for {left:#?}");
}

/// Asks until it is so, or until the time is over: the caller says what is missing then.
async fn until(seconds: u64, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !is_so().await && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
