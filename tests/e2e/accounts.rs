//! Provider objects tell what they are, and stay while they are needed.

use batchjob_operator::api::BatchProviderObject as BatchProvider;
use kube::Api;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition};
use crate::support::shared::{cluster, storage};
use crate::support::tls_front::{ANOTHER_AUTHORITY, AUTHORITY, tls_front};

const PROBES: &str = "batchjob_provider_looks_total{look=\"probe\"}";
const READS: &str = "batchjob_provider_looks_total{look=\"read\"}";

/// Status, reason and message of `Ready`.
fn ready(provider: &BatchProvider) -> (String, String, String) {
    let conditions = &provider.status.as_ref().unwrap().conditions;
    let c = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    (c.status.clone(), c.reason.clone(), c.message.clone())
}

fn provider(name: &str, url: &str, secret: &str) -> String {
    let auth = json!({"secretKeyRef": {"name": secret, "key": "api-key"}});
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": url, "auth": auth}})
    .to_string()
}

fn secret(name: &str, key: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}}).to_string()
}

/// A port where nobody listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

impl Scene {
    pub async fn wait_ready(&self, name: &str, status: &str, reason: &str) -> BatchProvider {
        let is_so = |p: &BatchProvider| {
            p.status.as_ref().is_some_and(|s| !s.conditions.is_empty()) && {
                let (s, r, _) = ready(p);
                s == status && r == reason
            }
        };
        self.wait_provider(&format!("Ready is {status} with {reason}"), name, is_so).await
    }

    async fn wait_provider_gone(&self, name: &str) {
        let providers: Api<BatchProvider> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("provider {name} is gone"), 60, || async {
            providers.get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_says_whether_its_account_works_and_what_to_do_if_not() {
    let scene = Scene::new("ready", &[]).await;
    let good = scene.wait_ready("llm", "True", "Probed").await;
    assert!(ready(&good).2.contains("found, or revoked and sent again"), "{:?}", ready(&good));
    let can = good.status.unwrap().capabilities.unwrap();
    assert!(can.can_resolve());
    let shown = scene.kubectl(&["get", "bprov", "llm", "-o", "jsonpath={.status.capabilities}"]);
    assert_eq!(shown, r#"["ListBatches","DeleteFiles"]"#);
    let state = scene.sim.state().await;
    assert_eq!((&state["files"], &state["creates"]), (&json!([]), &json!(0)), "nothing is left of trying it out");
    scene.apply(&secret("bad-key", "api-key", "sk-wrong"));
    scene.apply(&secret("no-key", "other", "x"));
    let elsewhere = scene.sim.url.replace("/v1", "/elsewhere");
    let host = nowhere();
    let public = "http://8.8.8.8/v1".to_string();
    for (name, url, key, reason, words) in [
        ("clear-text", &public, "llm-key", "HostNotAllowed", "in clear text"),
        (
            "refused",
            &scene.sim.url,
            "bad-key",
            "CredentialsRejected",
            "put another key into 'api-key' of Secret 'bad-key'",
        ),
        ("no-secret", &scene.sim.url, "later", "SecretNotFound", "Secret 'later'"),
        ("no-key", &scene.sim.url, "no-key", "SecretNotFound", "has no key 'api-key'; add it"),
        ("away", &host, "llm-key", "ProviderUnreachable", "check `spec.baseURL`"),
        ("no-api", &elsewhere, "llm-key", "NoBatchAPI", "there is no batch API at"),
    ] {
        scene.apply(&provider(name, url, key));
        let (_, _, message) = ready(&scene.wait_ready(name, "False", reason).await);
        assert!(message.contains(words) && !message.contains("sk-"), "{name}: {message}");
    }
    let table = scene.kubectl(&["get", "batchproviders", "-o", "wide"]);
    let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "READY", "TYPE", "URL", "AGE", "REASON", "IN-FLIGHT"]);
    let llm = words.iter().find(|w| w[0] == "llm").unwrap();
    assert_eq!((llm[1], llm[5]), ("True", "Probed"));
    scene.apply(&secret("later", "api-key", "sk-test"));
    scene.wait_ready("no-secret", "True", "Probed").await;
    for reason in ["NotReady", "Ready"] {
        scene.wait_told(reason, 1).await;
    }
    // Jobs do not wait for Ready: each finds out for itself.
    scene.apply_job("j", json!({"spec": {"providerRef": {"name": "away"}}}));
    let job = scene.wait_condition("j", "Stalled", "True", 60).await;
    assert!(condition(&job, "Stalled").unwrap().2.contains("cannot reach the provider"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_tried_out_once_and_then_only_asked_and_an_unchanged_look_writes_nothing() {
    let mut scene = Scene::new("looks", &[]).await;
    let providers: Api<BatchProvider> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let resource_version = || async { providers.get("llm").await.unwrap().metadata.resource_version };
    scene.wait_ready("llm", "True", "Probed").await;
    let operator = scene.operator.as_ref().unwrap();
    assert_eq!((operator.metric(PROBES).await, operator.metric(READS).await), (1.0, 0.0));
    for n in 1..=3 {
        scene.kubectl(&["annotate", "batchprovider", "llm", "--overwrite", &format!("look={n}")]);
        let before = resource_version().await;
        eventually("it is looked at", 20, || async { (operator.metric(READS).await >= f64::from(n)).then_some(()) })
            .await;
        assert_eq!(resource_version().await, before);
    }
    // Another operator does not try out what an earlier one did.
    scene.restart().await;
    let operator = scene.operator.as_ref().unwrap();
    eventually("it is looked at", 20, || async { (operator.metric(READS).await >= 1.0).then_some(()) }).await;
    assert_eq!((operator.metric(PROBES).await, scene.sim.spent().await), (0.0, (0, 0)));
    // Another key may be another account.
    scene.apply(&secret("llm-key", "api-key", "sk-wrong"));
    scene.kubectl(&["annotate", "batchprovider", "llm", "--overwrite", "look=4"]);
    scene.wait_ready("llm", "False", "CredentialsRejected").await;
    scene.apply(&secret("llm-key", "api-key", "sk-test"));
    scene.kubectl(&["annotate", "batchprovider", "llm", "--overwrite", "look=5"]);
    scene.wait_ready("llm", "True", "Probed").await;
    assert_eq!(scene.sim.spent().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admins_account_is_looked_after_by_the_operators_of_the_namespaces_that_may_use_it() {
    let scene = Scene::new("admins", &["--batch-duration", "1h"]).await;
    let (name, foreign) = (scene.namespace.clone(), format!("{}-foreign", scene.namespace));
    let all = |args: &[&str]| cluster().kubectl(args);
    let apply = |manifest: Value| {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    };
    apply(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": "batchjob-operator-system"}, "stringData": {"api-key": "sk-test"}}));
    for (provider, grant) in [(&foreign, "nobody"), (&name, scene.namespace.as_str())] {
        apply(
            json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": provider},
            "spec": {"type": "OpenAICompatible", "baseURL": scene.base_url, "namespaces": [{"names": [grant]}],
                "auth": {"secretKeyRef": {"name": name, "key": "api-key"}}}}),
        );
    }
    let status = |provider: &str| all(&["get", "cbprov", provider, "-o", "jsonpath={.status.conditions[0].reason}"]);
    eventually("it is ready", 30, || async { (status(&name) == "Probed").then_some(()) }).await;
    assert_eq!(status(&foreign), "", "granted to no namespace of this operator");
    scene.apply_job("j", json!({"spec": {"providerRef": {"kind": "ClusterBatchProvider", "name": name}}}));
    scene.wait_condition("j", "Submitted", "True", 30).await;
    all(&["delete", "cbprov", &name, &foreign, "--wait=false"]);
    let message = || all(&["get", "cbprov", &name, "-o", "jsonpath={.status.conditions[0].message}"]);
    let named = format!("{}/j", scene.namespace);
    eventually("it says which job keeps it", 30, || async { message().contains(&named).then_some(()) }).await;
    scene.kubectl(&["delete", "bjob", "j", "--wait=false"]);
    scene.wait_gone("j").await;
    eventually("it goes", 30, || async {
        let (found, _) = cluster().try_kubectl(&["get", "cbprov", &name], None);
        (!found).then_some(())
    })
    .await;
    assert_eq!(scene.sim.state().await["batches"][0]["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_stays_until_its_batches_are_settled_and_takes_no_new_jobs() {
    let scene = Scene::new("stays", &["--batch-duration", "1h"]).await;
    scene.apply_job("running", json!({}));
    scene.apply_job("suspended", json!({"spec": {"suspend": true}}));
    let batch = scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    let running = scene.wait_condition("running", "Submitted", "True", 30).await;
    let pinned = running.status.unwrap().provider.unwrap();
    assert_eq!(Some(pinned.base_url.as_str()), Some(scene.sim.url.as_str()));
    scene.wait_condition("suspended", "Planned", "True", 30).await;
    scene.kubectl(&["delete", "batchprovider", "llm", "--wait=false"]);
    let terminating = scene.wait_ready("llm", "False", "ProviderTerminating").await;
    assert!(ready(&terminating).2.contains("running"), "{:?}", ready(&terminating));
    // A job that has nothing at the provider does not hold it back.
    let job = scene.wait_condition("suspended", "Stalled", "True", 60).await;
    assert_eq!(condition(&job, "Stalled").unwrap().1, "ProviderTerminating");
    assert!(job.status.unwrap().provider.is_none());
    scene.apply_job("new", json!({}));
    let job = scene.wait_condition("new", "Stalled", "True", 30).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "ProviderTerminating");
    assert!(message.contains("BatchProvider 'llm' is being deleted and takes no new jobs"), "{message}");
    let only_running = |p: &BatchProvider| ready(p).2.contains("BatchJob running are settled");
    scene.wait_provider("only the running job keeps it", "llm", only_running).await;
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    let done = scene.wait_complete("running").await;
    assert_eq!(condition(&done, "Complete").unwrap().1, "AllSucceeded");
    scene.wait_provider_gone("llm").await;
    // Created again, it takes them.
    scene.sim.admin_post("batch-duration", json!({"duration": "200ms"})).await;
    scene.example("provider.yaml");
    scene.wait_complete("new").await;
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_deleted_while_a_batch_runs_comes_to_its_end() {
    let scene = Scene::new("namespace", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    // Secrets go first there; what the operator remembers of them is good enough to settle, however long ago it was read.
    scene.kubectl(&["delete", "secret", "llm-key", "s3"]);
    let job = scene.wait_condition("j", "Stalled", "True", 60).await;
    assert_eq!(condition(&job, "Stalled").unwrap().1, "SecretNotFound");
    cluster().kubectl(&["delete", "namespace", &scene.namespace, "--wait=false"]);
    eventually("the namespace is gone", 90, || async {
        let (found, _) = cluster().try_kubectl(&["get", "namespace", &scene.namespace], None);
        (!found).then_some(())
    })
    .await;
    let state = scene.sim.state().await;
    assert_eq!((&state["batches"][0]["status"], &state["files"]), (&json!("cancelled"), &json!([])));
    assert_eq!((&state["creates"], &state["overlaps"]), (&json!(1), &json!(0)));
    let manifest: Value = serde_json::from_str(&scene.get("out/j/manifest.json").await.unwrap()).unwrap();
    assert_eq!(manifest["outcome"], "Cancelled", "what was paid for is in storage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_credentials_nobody_remembers_ends_after_the_deadline() {
    let mut scene = Scene::set("forgotten", &["--batch-duration", "1h"]).await;
    scene.settings.extra = ["--deletion-deadline-seconds", "5"].map(String::from).to_vec();
    scene.restart().await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    scene.stop().await;
    scene.kubectl(&["delete", "secret", "llm-key", "s3"]);
    cluster().kubectl(&["delete", "namespace", &scene.namespace, "--wait=false"]);
    scene.operator = Some(scene.settings.start().await);
    eventually("the namespace is gone", 90, || async {
        let (found, _) = cluster().try_kubectl(&["get", "namespace", &scene.namespace], None);
        (!found).then_some(())
    })
    .await;
    assert_eq!(scene.sim.state().await["creates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_hold_a_lost_reply_is_never_sent_again_by_itself() {
    let scene = Scene::with("hold-policy", &["--batch-duration", "300ms"], "unknownSubmissionPolicy: Hold").await;
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Held", "True", 60).await;
    let hold = job.status.as_ref().unwrap().holds[0].clone();
    assert!(hold.message.contains("`unknownSubmissionPolicy` is Hold"), "{}", hold.message);
    let searches = || scene.operator.as_ref().unwrap().metric("batchjob_steps_total{step=\"Search\"}");
    let before = searches().await;
    eventually("it is searched on", 30, || async { (searches().await >= before + 2.0).then_some(()) }).await;
    assert_eq!(scene.sim.spent().await, (1, 0), "nothing is sent again");
    assert_eq!(scene.sim.state().await["files"].as_array().unwrap().len(), 1, "nothing is revoked");
    scene.kubectl(&["annotate", "bjob", "j", &format!("llmbatch.dev/resolve={}", hold.answers[0])]);
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
    // A batch that was created all the same is found and adopted, without a person.
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_reply"})).await;
    scene.apply_job("k", json!({}));
    scene.wait_complete("k").await;
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_account_cannot_do_is_said_with_what_that_means() {
    let scene = Scene::new("cannot", &[]).await;
    for (name, point, wanted, words) in [
        ("keeps-files", "delete_file", (true, false), "is held: the provider keeps deleted files"),
        ("lists-nothing", "list_batches", (false, true), "is held: the provider does not list batches"),
    ] {
        scene.sim.fault(json!({"point": point, "action": "status", "status": 405})).await;
        scene.apply(&provider(name, &scene.sim.url, "llm-key"));
        let provider = scene.wait_ready(name, "True", "Probed").await;
        let can = provider.status.as_ref().unwrap().capabilities.unwrap();
        assert_eq!((can.list_batches(), can.delete_files()), wanted, "{name}");
        assert!(ready(&provider).2.contains(words), "{:?}", ready(&provider));
    }
}

/// What holds certificates, under this key.
fn certificates(kind: &str, name: &str, key: &str, pem: &str) -> Value {
    let data = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, data: {key: pem}})
}

/// `HOST:PORT` of a URL.
fn authority_of(url: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_a_private_authority_are_trusted_where_it_is_named_and_a_better_one_is_noticed() {
    let scene = Scene::new("private-ca", &["--batch-duration", "200ms"]).await;
    let url = format!("https://127.0.0.1:{}/v1", tls_front(authority_of(&scene.sim.url)));
    let store = format!("https://127.0.0.1:{}", tls_front(authority_of(&storage().endpoint)));
    let mut provider: Value = serde_json::from_str(&provider("tls", &url, "llm-key")).unwrap();
    provider["spec"]["tls"] = json!({"caBundleRef": {"name": "corp-ca"}});
    scene.apply(&provider.to_string());
    let (_, _, message) = ready(&scene.wait_ready("tls", "False", "CABundleNotFound").await);
    assert!(message.contains("ConfigMap 'corp-ca'") && message.contains("create it"), "{message}");
    let mut job = scene.job("j", json!({"spec": {"providerRef": {"name": "tls"}}}));
    let output = &mut job["spec"]["output"]["objectStore"];
    output["endpoint"] = store.into();
    output["tls"] = json!({"caBundleRef": {"kind": "Secret", "name": "store-ca", "key": "bundle.pem"}});
    scene.apply(&certificates("Secret", "store-ca", "bundle.pem", AUTHORITY).to_string());
    scene.apply(&job.to_string());
    for (key, pem, reason, words) in [
        ("other", AUTHORITY, "CABundleNotFound", "has no key 'ca.crt'; add it"),
        ("ca.crt", "MIIB", "CABundleNotFound", "no certificate in PEM form"),
        ("ca.crt", ANOTHER_AUTHORITY, "ProviderUnavailable", "name that in `tls.caBundleRef`"),
    ] {
        scene.apply(&certificates("ConfigMap", "corp-ca", key, pem).to_string());
        let told = |j: &batchjob_operator::api::BatchJobObject| {
            condition(j, "Stalled").is_some_and(|(s, r, m)| s == "True" && r == reason && m.contains(words))
        };
        scene.wait_job(&format!("it is told {reason}: {words}"), "j", 60, told).await;
    }
    scene.apply(&certificates("ConfigMap", "corp-ca", "ca.crt", AUTHORITY).to_string());
    scene.wait_complete("j").await;
    // An admin's, in the operator's own namespace.
    let name = scene.namespace.clone();
    provider["kind"] = "ClusterBatchProvider".into();
    provider["metadata"]["name"] = name.as_str().into();
    provider["spec"]["namespaces"] = json!([{"names": [name]}]);
    provider["spec"]["tls"] = json!({"caBundleRef": {"name": name}});
    provider["spec"]["auth"]["secretKeyRef"]["name"] = name.as_str().into();
    let home = |manifest: String| {
        let args = ["-n", scene.settings.home.as_str(), "apply", "-f", "-"];
        let (ok, said) = cluster().try_kubectl(&args, Some(&manifest));
        assert!(ok, "{said}");
    };
    home(secret(&name, "api-key", "sk-test"));
    home(certificates("ConfigMap", &name, "ca.crt", AUTHORITY).to_string());
    home(provider.to_string());
    scene.apply_job("k", json!({"spec": {"providerRef": {"kind": "ClusterBatchProvider", "name": name}}}));
    scene.wait_complete("k").await;
    cluster().kubectl(&["delete", "clusterbatchprovider", &name, "--wait=false"]);
    scene.sim.assert_billed_once(6).await;
}

/// A table of prices in a ConfigMap, with what a million tokens of the scene's model cost.
fn prices(version: &str, input: &str) -> String {
    let table = format!(
        "version: '{version}'\nmodels:\n- {{name: gpt-5*, prices: {{inputUSDPerMillion: {input}, outputUSDPerMillion: '2'}}}}\n"
    );
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prices"}, "data": {"prices.yaml": table}})
        .to_string()
}

impl Scene {
    /// Waits until the provider says this of its prices. Returns the message, and the origin of those in use.
    async fn wait_prices(&self, status: &str, words: &str) -> (String, Option<String>) {
        let said = |p: &BatchProvider| {
            let conditions = p.status.iter().flat_map(|s| &s.conditions);
            conditions.filter(|c| c.type_ == "PricesReady").find(|c| c.status == status).map(|c| c.message.clone())
        };
        let is_so = |p: &BatchProvider| said(p).is_some_and(|message| message.contains(words));
        let provider = self.wait_provider(&format!("PricesReady is {status}: {words}"), "llm", is_so).await;
        assert_eq!(ready(&provider).0, "True", "prices stop no job");
        (said(&provider).unwrap(), provider.status.unwrap().prices_from)
    }

    fn look_at_the_account(&self, n: usize) {
        self.kubectl(&["annotate", "batchprovider", "llm", "--overwrite", &format!("look={n}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_come_from_a_table_whose_faults_are_told_and_whose_change_in_the_middle_of_a_job_is_too() {
    let fields = "pricesRef: {name: prices}\n  limits: {maxRequestsPerBatch: 2}";
    let mut scene = Scene::with("prices", &["--batch-duration", "1h"], fields).await;
    scene
        .wait_prices("False", "ConfigMap 'prices', which `spec.pricesRef` of BatchProvider 'llm' names, was not found")
        .await;
    scene.apply(&prices("one", "1.5"));
    scene.look_at_the_account(1);
    let (message, from) =
        scene.wait_prices("False", "`models[0]` ('gpt-5*'): `prices`: `inputUSDPerMillion` is the number 1.5").await;
    assert!(message.contains("key 'prices.yaml'") && message.contains("in quotes") && from.is_none(), "{message}");
    scene.apply(&prices("one", "'1.5'"));
    scene.look_at_the_account(2);
    let (_, from) = scene.wait_prices("True", "1 name of a model has prices").await;
    assert!(
        from.is_some_and(
            |from| from.starts_with("ConfigMap prices (resourceVersion ") && from.ends_with(", version one")
        )
    );
    scene.apply_job("j", json!({"spec": {"parallelism": 1}}));
    let batches = async |scene: &Scene, n: usize| {
        let all = || async { scene.sim.state().await["batches"].as_array().filter(|all| all.len() == n).cloned() };
        eventually(&format!("{n} batches"), 60, all).await
    };
    let first = batches(&scene, 1).await;
    scene.apply(&prices("two", "'3'"));
    scene.restart().await;
    scene.wait_prices("True", "version two").await;
    scene.finish(&first[0]).await;
    let both = batches(&scene, 2).await;
    let told = scene.wait_told("PricesChanged", 1).await;
    let note = told[0]["note"].as_str().unwrap();
    for words in
        ["model 'gpt-5-mini'", "from $1.50 for input", "to $3.00 for input", "version two", "keep their prices"]
    {
        assert!(note.contains(words), "{words}: {note}");
    }
    scene.finish(both.iter().find(|batch| batch["id"] != first[0]["id"]).unwrap()).await;
    let cost = scene.wait_complete("j").await.status.unwrap().cost.unwrap();
    assert_eq!(scene.told("PricesChanged").await.len(), 1);
    let manifest: Value = serde_json::from_str(&scene.get("out/j/manifest.json").await.unwrap()).unwrap();
    let estimated = &manifest["cost"]["estimatedUSD"];
    assert!(estimated.is_string() && *estimated == json!(cost.estimated_usd), "{manifest}: {cost:?}");
    // Millionths of a USD, which a token costs if a million cost a USD. The price of the first batch has changed since.
    let charges = scene.sim.ledger().await;
    let of = |charge: &Value| {
        let input = if charge["batch_id"] == first[0]["id"] { 1.5 } else { 3.0 };
        charge["input_tokens"].as_f64().unwrap() * input + charge["output_tokens"].as_f64().unwrap() * 2.0
    };
    let paid = charges.iter().map(of).sum::<f64>().round() / 1e6;
    assert!(charges.len() == 3 && paid > 0.0);
    assert_eq!(cost.actual_usd.unwrap().parse::<f64>().unwrap(), paid);
    let from = cost.prices_from.unwrap();
    assert!(
        from.contains("version one; later ConfigMap prices (resourceVersion ") && from.ends_with("version two"),
        "{from}"
    );
}
