//! Webhooks of providers: hints, and nothing but hints.

use batchjob_operator::api::BatchProviderObject as BatchProvider;
use serde_json::json;

use crate::support::eventually;
use crate::support::process::free_port;
use crate::support::scene::Scene;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

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
}

/// Given jobs that are polled once an hour, when their batches end, then signed events have them complete within seconds, also one
/// that comes before the provider itself shows the end; and events that are forged or of other batches cause no call.
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
    let answer = reqwest::Client::new().delete(format!("{}/webhooks", scene.sim.admin)).send().await.unwrap();
    assert!(answer.status().is_success());
    scene.sim.admin_post("webhooks", json!({"url": url, "secret": KEY, "early": "600ms"})).await;
    scene.finish(&batches[1]).await;
    scene.wait_condition("early", "Complete", "True", 10).await;
    let polls = scene.polls().await;
    assert!((5.0..=6.0).contains(&polls), "it was polled again if it still ran at the first poll: {polls}");
    assert!(scene.kubectl(&["get", "bjob", "unheard", "-o", "jsonpath={.status.outcome}"]).is_empty());
    scene.sim.assert_billed_once(9).await;
}
