//! Webhooks of providers: hints, and nothing but hints.

use batchjob_operator::api::{
    BatchProviderObject as BatchProvider, ClusterBatchProviderObject as ClusterBatchProvider,
};
use kube::Api;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::free_port;
use crate::support::scene::Scene;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ADMINS_KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

fn secret(value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "stringData": {"secret": value}})
        .to_string()
}

impl Scene {
    /// Waits until status says this of the webhook of `llm`. Returns the path to register.
    async fn webhook(&self, status: &str, reason: &str, words: &str) -> String {
        let is_so = |p: &BatchProvider| {
            let conditions = p.status.iter().flat_map(|s| &s.conditions);
            conditions.filter(|c| c.type_ == "WebhookReady").any(|c| {
                c.status == status && c.reason == reason && c.message.contains(words) && !c.message.contains("canary")
            })
        };
        let provider = self.wait_provider(&format!("its webhook is {status}, {reason}"), "llm", is_so).await;
        provider.status.unwrap().webhook_path.unwrap()
    }

    async fn polls(&self) -> f64 {
        self.operator.as_ref().unwrap().metric("batchjob_steps_total{step=\"Poll\"}").await
    }

    /// Registers this webhook at the provider in place of all others.
    async fn registers_alone(&self, webhook: Value) {
        let answer = reqwest::Client::new().delete(format!("{}/webhooks", self.sim.admin)).send().await.unwrap();
        assert!(answer.status().is_success());
        self.sim.admin_post("webhooks", webhook).await;
    }

    /// Applies an admin's account at the scene's provider, with a webhook. Returns the path to register.
    async fn admins_webhook(&self) -> String {
        let name = self.namespace.as_str();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"key": "sk-test", "signing": ADMINS_KEY}});
        let spec = json!({
            "type": "OpenAICompatible", "baseURL": self.sim.url, "namespaces": [{"names": [name]}],
            "auth": {"secretKeyRef": {"name": name, "key": "key"}},
            "webhook": {"signingSecretKeyRef": {"name": name, "key": "signing"}},
        });
        let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider",
            "metadata": {"name": name}, "spec": spec});
        for manifest in [secret, provider] {
            let args = ["-n", self.settings.home.as_str(), "apply", "-f", "-"];
            let (ok, said) = self.settings.cluster().try_kubectl(&args, Some(&manifest.to_string()));
            assert!(ok, "{said}");
        }
        let providers: Api<ClusterBatchProvider> = Api::all(self.client.clone());
        let listening = || async {
            let status = providers.get(name).await.unwrap().status?;
            let is_so = status.conditions.iter().any(|c| c.type_ == "WebhookReady" && c.status == "True");
            status.webhook_path.filter(|_| is_so)
        };
        eventually("events of the admin's account are taken", 30, listening).await
    }
}

/// Given jobs that are polled once an hour, when their batches end, then signed events have them complete within seconds, also one
/// that comes before the provider itself shows the end; and events that are forged or of other batches cause no call. An admin's account
/// is heard as a team's is.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_polled_each_hour_is_complete_seconds_after_its_batch_ended_and_a_forged_event_causes_no_call() {
    let port = free_port();
    let mut scene = Scene::set("webhooks", &["--batch-duration", "1h"]).await;
    scene.settings.extra = vec!["--provider-webhook-addr".into(), format!("127.0.0.1:{port}")];
    let provider = scene.manifest("provider.yaml");
    scene.apply(&format!("{provider}  webhook: {{signingSecretKeyRef: {{name: hook, key: secret}}}}\n"));
    scene.restart().await;
    scene.webhook("False", "SecretNotFound", "Secret 'hook'").await;
    scene.apply(&secret("whsec_canary!"));
    scene.kubectl(&["annotate", "batchprovider", "llm", "look=1"]);
    scene.webhook("False", "SigningSecretInvalid", "key 'secret' of Secret 'hook'").await;
    scene.apply(&secret(KEY));
    scene.kubectl(&["annotate", "--overwrite", "batchprovider", "llm", "look=2"]);
    let path = scene.webhook("True", "Listening", "/hooks/").await;
    let uid = scene.kubectl(&["get", "batchprovider", "llm", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(path, format!("/hooks/{uid}"));
    let url = format!("http://127.0.0.1:{port}{path}");
    scene.sim.admin_post("webhooks", json!({"url": url, "secret": KEY, "duplicates": 1})).await;
    // The same account under another name: events of its batches reach the endpoint, and no job follows them there.
    scene.apply(&provider.replace("name: llm\n", "name: unheard\n"));
    let hourly = |provider: &str| json!({"spec": {"pollPeriodSeconds": 3600, "providerRef": {"name": provider}}});
    for (job, provider) in [("a", "llm"), ("early", "llm"), ("unheard", "unheard")] {
        scene.apply_job(job, hourly(provider));
    }
    let mut batches = vec![];
    for job in ["a", "early", "unheard"] {
        batches.push(scene.batch_of(job).await);
    }
    eventually("each batch was looked at", 30, async || (scene.polls().await >= 3.0).then_some(())).await;
    let operator = scene.operator.as_ref().unwrap();
    let outcome = async |outcome: &str| {
        operator.metric(&format!("batchjob_provider_webhooks_total{{outcome=\"{outcome}\"}}")).await
    };
    let forged = json!({"type": "batch.completed", "data": {"id": batches[0]["id"]}}).to_string();
    let now = jiff::Timestamp::now().as_second().to_string();
    let sent = reqwest::Client::new()
        .post(&url)
        .header("webhook-id", "wh_1")
        .header("webhook-timestamp", now)
        .header("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        .body(forged);
    assert_eq!(sent.send().await.unwrap().status(), 401);
    scene.finish(&batches[2]).await;
    eventually("the foreign event came", 30, async || (outcome("Repeated").await >= 1.0).then_some(())).await;
    scene.finish(&batches[0]).await;
    scene.wait_condition("a", "Complete", "True", 10).await;
    assert_eq!((outcome("Refused").await, outcome("Taken").await), (1.0, 2.0));
    assert_eq!(scene.polls().await, 4.0, "one poll more, of the batch that a genuine event named");
    scene.registers_alone(json!({"url": url, "secret": KEY, "early": "600ms"})).await;
    scene.finish(&batches[1]).await;
    scene.wait_condition("early", "Complete", "True", 10).await;
    let polls = scene.polls().await;
    assert!((5.0..=6.0).contains(&polls), "it was polled again if it still ran at the first poll: {polls}");
    assert!(scene.kubectl(&["get", "bjob", "unheard", "-o", "jsonpath={.status.outcome}"]).is_empty());
    let lag = async |end: &str| operator.metric(&format!("batchjob_completion_lag_seconds_{end}")).await;
    eventually("both ends were measured", 30, async || (lag("count").await >= 2.0).then_some(())).await;
    let lag = lag("sum").await / 2.0;
    println!("{lag:.1} s from the end of a batch to the end of its job, with webhooks");
    assert!(lag < 10.0, "{lag}");

    // An account of an admin is heard under the secret in the operator's namespace, also of a batch that expired: the rest is sent again.
    let url = format!("http://127.0.0.1:{port}{}", scene.admins_webhook().await);
    scene.registers_alone(json!({"url": url, "secret": ADMINS_KEY})).await;
    scene.sim.fault(json!({"point": "batch", "action": "expire", "after": 0.5})).await;
    let reference = json!({"kind": "ClusterBatchProvider", "name": scene.namespace});
    scene.apply_job("shared", json!({"spec": {"pollPeriodSeconds": 3600, "providerRef": reference}}));
    let expires = scene.batch_of("shared").await;
    eventually("it was looked at", 30, async || (scene.polls().await > polls).then_some(())).await;
    scene.finish(&expires).await;
    scene.wait_batch("it expired", |batch| batch["id"] == expires["id"] && batch["status"] == "expired").await;
    let rest = scene.wait_batch("the rest is sent again", |batch| batch["status"] == "in_progress").await;
    scene.finish(&rest).await;
    scene.wait_condition("shared", "Complete", "True", 20).await;
    assert_eq!(scene.result_ids("shared").await, ["shared-0", "shared-1", "shared-2"]);
    scene.sim.assert_billed_once(12).await;
}
