//! What a tenant tries in order to use what is not theirs. None of it succeeds, and each attempt is told why.

use batchjob_operator::api::BatchProviderObject as BatchProvider;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use object_store::ObjectStore;
use serde_json::{Value, json};

use crate::support::scene::{Scene, condition};
use crate::support::shared::{cluster, storage};

/// A tenant, and a neighbour with a batch that runs, its answers in storage, and Secrets and ConfigMaps of its own.
pub struct Stage {
    pub tenant: Scene,
    pub neighbour: Scene,
    /// The neighbour's batch.
    pub batch: Value,
    /// The neighbour's journal.
    pub journal: Value,
    /// What the neighbour has, before anything is tried.
    before: Value,
}

impl Stage {
    pub async fn set(name: &str) -> Stage {
        let neighbour = Scene::set(&format!("{name}-neighbour"), &["--batch-duration", "1h"]).await;
        let mut tenant = Scene::set(&format!("{name}-tenant"), &["--batch-duration", "200ms"]).await;
        tenant.settings.namespaces = format!("{},{}", tenant.namespace, neighbour.namespace);
        // Credentials that open everything, where an SDK would look for them.
        tenant.settings.env = vec![
            ("AWS_ACCESS_KEY_ID", storage().access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", storage().secret_key.clone()),
            ("AWS_ENDPOINT_URL", storage().endpoint.clone()),
            ("AWS_ENDPOINT_URL_S3", storage().endpoint.clone()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_SKIP_SIGNATURE", "true".into()),
            ("OPENAI_API_KEY", "sk-test".into()),
        ];
        tenant.restart().await;
        neighbour.provider_judged("llm").await;
        neighbour.apply_job("j", json!({}));
        neighbour.apply(&map("answers", json!({"secret": "the neighbour's"})));
        let batch = neighbour.wait_batch("the neighbour's batch runs", |b| b["status"] == "in_progress").await;
        neighbour.wait_condition("j", "Submitted", "True", 30).await;
        let journal = neighbour.get("out/j/_batchjob/journal.json").await.unwrap();
        let journal = serde_json::from_str(&journal).unwrap();
        let mut stage = Stage { tenant, neighbour, batch, journal, before: Value::Null };
        stage.before = stage.neighbours().await;
        stage
    }

    /// Everything of the neighbour that an attempt might touch.
    async fn neighbours(&self) -> Value {
        let state = self.neighbour.sim.state().await;
        let id = &self.batch["id"];
        let folder = self.neighbour.namespace.as_str().into();
        let objects: Vec<_> = self.neighbour.bucket.list(Some(&folder)).try_collect().await.unwrap();
        let mut objects: Vec<_> = objects.into_iter().map(|o| (o.location.to_string(), o.e_tag)).collect();
        objects.sort();
        let maps: Api<ConfigMap> = Api::namespaced(self.neighbour.client.clone(), &self.neighbour.namespace);
        let maps: Vec<_> =
            maps.list(&Default::default()).await.unwrap().into_iter().map(|m| (m.name_any(), m.data)).collect();
        let of = |list: &Value, key: &str, is: &Value| -> Vec<Value> {
            list.as_array().unwrap().iter().filter(|x| &x[key] == is).cloned().collect()
        };
        json!({
            "batch": of(&state["batches"], "id", id).iter().map(|b| json!([b["status"], b["metadata"]])).collect::<Vec<_>>(),
            "batches of its file": of(&state["batches"], "input_file_id", &self.batch["input_file_id"]).len(),
            "file": of(&state["files"], "id", &self.batch["input_file_id"]),
            "storage": objects,
            "maps": maps,
        })
    }

    pub async fn assert_untouched(&self) {
        assert_eq!(self.neighbours().await, self.before);
    }

    /// The tenant's job must be told this.
    pub async fn told(&self, name: &str, reason: &str, words: &str) {
        let what = format!("{name} is told {reason}: {words}");
        let told = |job: &batchjob_operator::api::BatchJobObject| {
            ["Stalled", "Failed", "Held"]
                .iter()
                .filter_map(|type_| condition(job, type_))
                .any(|(status, why, message)| status == "True" && why == reason && message.contains(words))
        };
        let job = self.tenant.wait_job(&what, name, 60, told).await;
        assert_ne!(condition(&job, "Complete").map(|c| c.0).as_deref(), Some("True"), "{name}");
    }

    /// A job of the tenant, with `change` put at these places.
    pub fn job(&self, name: &str, changes: &[(&str, Value)]) -> Value {
        let mut job = self.tenant.job(name, json!({}));
        for (place, value) in changes {
            *job.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value.clone();
        }
        job
    }

    fn apply_pruned(&self, manifest: &Value) {
        let text = manifest.to_string();
        let args = ["-n", &self.tenant.namespace, "apply", "--validate=ignore", "-f", "-"];
        let (ok, said) = cluster().try_kubectl(&args, Some(&text));
        assert!(ok, "{said}");
    }
}

fn map(name: &str, data: Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
}

pub fn secret(name: &str, data: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}).to_string()
}

fn provider(name: &str, url: &str, secret: Value) -> Value {
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": url, "auth": {"secretKeyRef": secret}}})
}

/// The neighbour's account, and everybody's who is granted it.
pub fn cluster_provider(stage: &Stage, name: &str, grants: Value) {
    let namespace = "batchjob-operator-system";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "stringData": {"key": "sk-test", "api-key": "sk-test"}});
    let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": stage.neighbour.sim.url, "namespaces": grants,
            "unknownSubmissionPolicy": "Hold", "auth": {"secretKeyRef": {"name": name, "key": "key"}}}});
    for manifest in [secret, provider] {
        let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&manifest.to_string()));
        assert!(ok, "{said}");
    }
}

/// Where a job names something, and what it is told when that is not in its own namespace.
const PLACES: [(&str, &str, &str); 4] = [
    ("/spec/providerRef", "ProviderNotFound", "was not found in namespace"),
    ("/spec/input/objectStore/secretRef", "SecretNotFound", "was not found in namespace"),
    ("/spec/output/objectStore/secretRef", "SecretNotFound", "was not found in namespace"),
    ("/spec/input/configMaps/0", "ConfigMapNotFound", "was not found in namespace"),
];

/// A job that has something at the place.
fn with_place(stage: &Stage, name: &str, place: &str, value: Value) -> Value {
    let at = |uri: &str| {
        json!({"uri": format!("s3://tests/{}/{uri}", stage.tenant.namespace),
        "endpoint": stage.tenant.endpoint, "secretRef": {"name": "s3"}})
    };
    let input = match place {
        p if p.starts_with("/spec/input/configMaps") => json!({"configMaps": [{"name": "requests"}]}),
        p if p.starts_with("/spec/input/objectStore") => json!({"objectStore": at("in/x.jsonl")}),
        _ => json!({"inline": {"requests": crate::support::scene::requests(name, 1)}}),
    };
    let mut job = stage.job(name, &[("/spec/input", input)]);
    *job.pointer_mut(place).unwrap() = value;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_another_namespace_cannot_be_named() {
    let stage = Stage::set("names").await;
    let (tenant, other) = (&stage.tenant, &stage.neighbour.namespace);
    // Names of things that the neighbour has and the tenant has not.
    stage.neighbour.apply(&secret(
        "theirs",
        json!({"api-key": "sk-test",
        "aws_access_key_id": storage().access_key, "aws_secret_access_key": storage().secret_key}),
    ));
    stage.neighbour.apply(&map("theirs", json!({"r.jsonl": "{}"})));
    stage
        .neighbour
        .apply(&provider("theirs", &stage.neighbour.sim.url, json!({"name": "llm-key", "key": "api-key"})).to_string());
    let before = stage.neighbours().await;
    let mut tried = 0;
    for (i, (place, reason, words)) in PLACES.iter().enumerate() {
        // No reference has a namespace: a person is told so, and what slips through means nothing.
        let name = format!("pruned-{i}");
        let job = with_place(&stage, &name, place, json!({"name": "theirs", "namespace": other}));
        let (ok, said) = tenant.try_apply(&job.to_string());
        assert!(!ok && said.contains("unknown field") && said.contains("namespace"), "{place}: {said}");
        stage.apply_pruned(&job);
        assert!(!tenant.kubectl(&["get", "bjob", &name, "-o", "jsonpath={.spec}"]).contains("namespace"), "{place}");
        let job = with_place(&stage, &format!("plain-{i}"), place, json!({"name": "theirs"}));
        tenant.apply(&job.to_string());
        for name in [name, format!("plain-{i}")] {
            stage.told(&name, reason, &format!("{words} '{}'", tenant.namespace)).await;
        }
        let dotted = with_place(&stage, &format!("dotted-{i}"), place, json!({"name": format!("theirs.{other}")}));
        tenant.apply(&dotted.to_string());
        stage.told(&format!("dotted-{i}"), reason, words).await;
        for odd in [
            format!("{other}/theirs"),
            format!("../../{other}/secrets/theirs"),
            "..".into(),
            format!("{other}%2Ftheirs"),
            "a?b".into(),
        ] {
            let job = with_place(&stage, "odd", place, json!({"name": odd}));
            let (ok, said) = tenant.try_apply(&job.to_string());
            assert!(!ok && said.contains("should match"), "{place} {odd}: {said}");
            tried += 1;
        }
        tried += 4;
    }
    // The same for the credential of an account, and for where results go.
    for (name, reference) in [
        ("namespaced", json!({"name": "theirs", "key": "api-key", "namespace": other})),
        ("plain", json!({"name": "theirs", "key": "api-key"})),
    ] {
        let account = provider(name, &stage.neighbour.sim.url, reference);
        stage.apply_pruned(&account);
        let judged = tenant.provider_judged(name).await;
        let ready = &judged.status.unwrap().conditions[0];
        assert!(ready.reason == "SecretNotFound" && ready.message.contains(&tenant.namespace), "{ready:?}");
    }
    for odd in [format!("{other}/theirs"), "..".into(), "../x".into()] {
        let account = provider("odd", &stage.neighbour.sim.url, json!({"name": odd, "key": "api-key"}));
        let output = stage.job("odd", &[("/spec/output", json!({"configMap": {"name": odd}}))]);
        for manifest in [account, output] {
            let (ok, said) = tenant.try_apply(&manifest.to_string());
            assert!(!ok && said.contains("should match"), "{odd}: {said}");
            tried += 1;
        }
    }
    assert!(tried >= 40, "{tried}");
    assert_eq!(stage.neighbours().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_storage_and_hosts_that_are_not_the_tenants_stay_closed() {
    let stage = Stage::set("closed").await;
    let (tenant, other) = (&stage.tenant, &stage.neighbour.namespace);
    let own = &tenant.namespace;
    let (granted, label) = (format!("{own}-granted"), format!("{own}-label"));
    cluster_provider(&stage, &granted, json!([{"names": [other, format!("{own}-2"), &own[..own.len() - 1]]}]));
    cluster_provider(&stage, &label, json!([{"namespaceSelector": {"matchLabels": {"team": "ml", "tier": "gold"}}}]));
    tenant.kubectl(&["label", "namespace", own, "team=ml"]);
    let reference = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let location =
        |uri: String, secret: &str| json!({"uri": uri, "endpoint": tenant.endpoint, "secretRef": {"name": secret}});
    tenant.apply(&secret("wrong", json!({"aws_access_key_id": "wrong", "aws_secret_access_key": "wrong"})));
    tenant.apply(&secret(
        "foreign",
        json!({"aws_access_key_id": storage().access_key, "aws_secret_access_key": "wrong"}),
    ));
    tenant.apply(&secret("empty", json!({"aws_access_key_id": "", "aws_secret_access_key": ""})));
    tenant.apply(&secret("lacking", json!({"x": "y"})));
    tenant.apply(&map("answers", json!({"a": "somebody's"})));
    let theirs = |key: &str| format!("s3://tests/{other}/{key}");
    let mine = format!("s3://tests/{own}/elsewhere/");
    let refused = |host: &str| json!({"uri": mine, "endpoint": format!("http://{host}"), "secretRef": {"name": "s3"}});
    let mut attempts: Vec<(&str, Value, &str, &str)> = vec![
        ("/spec/providerRef", reference("ClusterBatchProvider", &granted), "ProviderNotFound", "not granted"),
        ("/spec/providerRef", reference("ClusterBatchProvider", &label), "ProviderNotFound", "not granted"),
        ("/spec/providerRef", reference("ClusterBatchProvider", "llm"), "ProviderNotFound", "not granted"),
        ("/spec/providerRef", reference("BatchProvider", &granted), "ProviderNotFound", "was not found"),
        ("/spec/output", json!({"configMap": {"name": "answers"}}), "OutputConflict", "answers"),
        ("/spec/output", json!({"configMap": {"name": "kube-root-ca.crt"}}), "OutputConflict", "kube-root-ca.crt"),
        ("/spec/output/objectStore", location(theirs("out/j/"), "s3"), "OutputConflict", "in use by BatchJob"),
    ];
    // The operator's own environment opens the storage: nobody gets in by it.
    for (secret, reason, words) in [
        ("wrong", "CredentialsRejected", "the store refused the credentials"),
        ("foreign", "CredentialsRejected", "the store refused the credentials"),
        ("empty", "SecretNotFound", "is empty"),
        ("lacking", "SecretNotFound", "has no key"),
        ("absent", "SecretNotFound", "was not found"),
    ] {
        attempts.push(("/spec/output/objectStore", location(theirs("new/"), secret), reason, words));
        attempts.push((
            "/spec/output/objectStore",
            location(format!("s3://tests/{other}/$(name)/$(runID)/"), secret),
            reason,
            words,
        ));
        let input = json!({"objectStore": location(theirs("out/j/_batchjob/journal.json"), secret)});
        attempts.push(("/spec/input", input, reason, words));
        let folder = json!({"objectStore": location(theirs(""), secret)});
        attempts.push(("/spec/input", folder, reason, words));
    }
    for host in [
        "169.254.169.254",
        "10.0.0.1:9000",
        "2886729729:9000",
        "127.1.1.1",
        "[::1]:9000",
        "0x7f.0.0.2",
        "[::ffff:a9fe:a9fe]",
    ] {
        attempts.push(("/spec/output/objectStore", refused(host), "HostNotAllowed", "--allow-private-hosts"));
        let name = format!("host-{}", attempts.len());
        let url = format!("http://{host}/v1");
        tenant.apply(&provider(&name, &url, json!({"name": "llm-key", "key": "api-key"})).to_string());
        let not_ready = |p: &BatchProvider| {
            let ready = p.status.as_ref().and_then(|s| s.conditions.first());
            ready.is_some_and(|c| c.reason == "HostNotAllowed" && c.message.contains("--allow-private-hosts"))
        };
        tenant.wait_provider("its host is refused", &name, not_ready).await;
        attempts.push(("/spec/providerRef", json!({"name": name}), "HostNotAllowed", "--allow-private-hosts"));
    }
    for (i, (place, value, ..)) in attempts.iter().enumerate() {
        let mut job = stage.job(&format!("a{i}"), &[]);
        job["spec"]["runID"] = json!("v1");
        *job.pointer_mut(place).unwrap() = value.clone();
        tenant.apply(&job.to_string());
    }
    for (i, (_, _, reason, words)) in attempts.iter().enumerate() {
        stage.told(&format!("a{i}"), reason, words).await;
    }
    assert!(attempts.len() >= 40, "{}", attempts.len());
    // A grant that ends; those that wait for one would take it, too.
    tenant.kubectl(&["delete", "bjob", "--all", "--timeout=60s"]);
    tenant.kubectl(&["label", "namespace", own, "tier=gold"]);
    let job = |name: &str| stage.job(name, &[("/spec/providerRef", reference("ClusterBatchProvider", &label))]);
    tenant.apply(&job("while-granted").to_string());
    tenant.wait_condition("while-granted", "Submitted", "True", 30).await;
    tenant.kubectl(&["label", "namespace", own, "tier-"]);
    tenant.apply(&job("afterwards").to_string());
    stage.told("afterwards", "ProviderNotFound", "not granted").await;
    let creates = stage.neighbour.sim.state().await["creates"].as_i64().unwrap();
    assert_eq!(creates, 2, "the neighbour's batch, and the one while it was granted");
    assert_eq!(tenant.sim.spent().await.1, 0);
    stage.assert_untouched().await;
}
