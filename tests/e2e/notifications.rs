//! Webhooks that are told of a job.

use std::time::{Duration, Instant};

use batchjob_operator::api::{BatchJobObject as BatchJob, NotificationState, NotificationStatus};
use serde_json::{Value, json};

use crate::receiver::Receiver as PythonReceiver;
use crate::support::eventually;
use crate::support::quiet::{self, Told};
use crate::support::scene::Scene;
use crate::support::slow_server::{Manner, Server};
use crate::support::webhooks::{Received, Receiver, TOKEN};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The Secret of a scene that has the URL of each of these webhooks under its name, and a signing key.
fn secret(receiver: &Receiver, hooks: &[&str]) -> Value {
    let mut urls: serde_json::Map<String, Value> =
        hooks.iter().map(|hook| (hook.to_string(), receiver.url(hook).into())).collect();
    urls.insert("signing".into(), KEY.into());
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hooks"}, "stringData": urls})
}

/// A notification of this name, whose webhook has the same one.
fn notification(name: &str, events: &[&str]) -> Value {
    json!({"name": name, "events": events, "webhook": {
        "urlSecretKeyRef": {"name": "hooks", "key": name},
        "signingSecretKeyRef": {"name": "hooks", "key": "signing"},
    }})
}

fn tells(notifications: &[Value]) -> Value {
    json!({"spec": {"notifications": notifications}})
}

/// A job that fails before anything is sent, with these notifications.
fn unfit(notifications: &[Value]) -> Value {
    let mut job = tells(notifications);
    job["spec"]["requestDefaults"] = json!({"stream": true});
    job
}

/// Waits until status says of all messages of a job that they are delivered.
async fn delivered(scene: &Scene, job: &str, messages: usize) -> Vec<NotificationStatus> {
    let all = |job: &BatchJob| job.status.iter().flat_map(|s| s.notifications.clone()).collect::<Vec<_>>();
    let is_delivered = |job: &BatchJob| {
        let all = all(job);
        all.len() == messages && all.iter().all(|message| message.state == NotificationState::Delivered)
    };
    all(&scene.wait_job(&format!("{messages} messages are delivered"), job, 60, is_delivered).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_of_a_job_at_least_once_and_holds_up_nobody() {
    let receiver = Receiver::start().await;
    let platform = "notifications: [{name: platform, events: [Failed, Complete], webhook: {urlSecretKeyRef: {name: hooks, key: platform}}}]";
    let mut scene = Scene::set("notify", &["--batch-duration", "300ms"]).await;
    scene.apply(&secret(&receiver, &["ops", "slack", "flaky", "down", "silent", "platform", "mine"]).to_string());
    scene.apply(&format!("{}  {platform}\n", scene.manifest("provider.yaml")));
    scene.restart().await;

    // A job succeeds: the webhook is told in order, each time once, and of the end when the results are there.
    let mut slack = notification("slack", &["Complete"]);
    slack["format"] = json!("Slack");
    scene.apply_job("good", tells(&[notification("ops", &["Started", "Complete", "Failed"]), slack]));
    let told = receiver.waits_for("ops", 2).await;
    let (started, complete) = (told[0].told(), told[1].told());
    assert_eq!((started.1.as_str(), complete.1.as_str()), ("started", "complete"));
    let uri = complete_uri(&told[1].event());
    assert!(uri.ends_with("/out/good/results.jsonl") && scene.get("out/good/results.jsonl").await.is_some(), "{uri}");
    for (received, (_, _, id)) in told.iter().zip([&started, &complete]) {
        assert_eq!(received.header("webhook-id"), id);
        assert!(received.header("webhook-signature").starts_with("v1,"));
    }
    is_a_message_to_a_channel(&receiver.waits_for("slack", 1).await[0], &scene.namespace, &uri);
    let status = delivered(&scene, "good", 4).await;
    let of = |name: &str| status.iter().filter(|m| m.name == name).map(|m| m.id.as_str()).collect::<Vec<_>>();
    assert_eq!(of("ops"), [started.2.as_str(), complete.2.as_str()]);
    assert!(status.iter().all(|message| message.attempts == 1 && message.last_error.is_empty()), "{status:?}");
    // The provider's webhook is told of each job.
    assert_eq!(receiver.waits_for("platform", 1).await[0].told().0, "good");
    let events = || async { Some(scene.told("NotificationDelivered").await).filter(|events| events.len() == 4) };
    eventually("an event of each delivery", 20, events).await;

    // One fails before anything is sent, and has a notification of the provider's name of its own.
    let bad = unfit(&[
        json!({"name": "platform", "events": ["Failed"], "webhook": {"urlSecretKeyRef": {"name": "hooks", "key": "mine"}}}),
    ]);
    scene.apply_job("bad", bad);
    let (job, event, _) = receiver.waits_for("mine", 1).await[0].told();
    assert_eq!((job.as_str(), event.as_str()), ("bad", "failed"));
    assert!(receiver.waits_for("mine", 1).await[0].event()["data"]["message"].as_str().unwrap().contains("stream"));
    delivered(&scene, "bad", 1).await;

    // A receiver that fails three times gets the same message again, and the object is kept for it although its time is over.
    receiver.answers("flaky", [500, 503, 429]);
    let mut flaky = tells(&[notification("flaky", &["Complete"])]);
    flaky["spec"]["ttlSecondsAfterFinished"] = json!(0);
    scene.apply_job("flaky", flaky);
    // One that never answers, and one whose URL is missing, keep no job from its end.
    receiver.answers("silent", [0; 1_000]);
    scene.apply_job(
        "silent",
        tells(&[notification("silent", &["Started", "Complete"]), notification("gone", &["Started"])]),
    );
    scene.wait_complete("silent").await;
    let told = receiver.waits_for("flaky", 4).await;
    assert!(told.iter().all(|received| received.told() == told[0].told()), "{told:?}");
    assert_eq!(told.iter().map(|received| received.answer).collect::<Vec<_>>(), [500, 503, 429, 200]);
    scene.wait_gone("flaky").await;
    // The third failure in a row is an event, which outlives the job.
    let failed = || async {
        let of_flaky = |event: &Value| event["note"].as_str().is_some_and(|note| note.contains("'flaky'"));
        scene.told("NotificationFailed").await.into_iter().find(of_flaky)
    };
    let failed = eventually("an event of the third failure in a row", 20, failed).await;
    let note = failed["note"].as_str().unwrap();
    let words = ["could not be told of Complete in 3 attempts", "it answered 429"];
    assert!(failed["type"] == "Warning" && words.iter().all(|part| note.contains(part)), "{failed}");
    let is_told = |job: &BatchJob| {
        let of = |name: &str| job.status.iter().flat_map(|s| &s.notifications).find(|m| m.name == name).cloned();
        of("gone").is_some_and(|m| m.last_error.contains("has no key 'gone'; add it"))
            && of("silent").is_some_and(|m| m.last_error.contains("no answer within 20 s"))
    };
    // The operator is killed with an end that is written and not delivered: the next one delivers it.
    receiver.answers("down", [503; 1_000]);
    scene.apply_job("killed", tells(&[notification("down", &["Complete"])]));
    let before = receiver.waits_for("down", 1).await;
    scene.wait_job("it shows what became of both", "silent", 40, is_told).await;
    scene.stop().await;
    receiver.mends("down");
    scene.restart().await;
    let status = delivered(&scene, "killed", 2).await;
    let after = receiver.received("down");
    assert!(after.last().unwrap().answer == 200 && after.iter().all(|received| received.told() == before[0].told()));
    assert!(status.iter().any(|message| message.id == before[0].told().2));

    // A deletion waits for no webhook.
    scene.kubectl(&["delete", "bjob", "silent", "--timeout=10s"]);
    nothing_told(&scene).await;
}

/// Fails unless this is the message for Slack about the job `good`, which has its results at `uri`.
fn is_a_message_to_a_channel(received: &Received, namespace: &str, uri: &str) {
    assert_eq!(received.header("content-type"), "application/json");
    let message: Value = serde_json::from_slice(&received.body).unwrap();
    let line = message["text"].as_str().unwrap();
    assert!(line.starts_with(&format!("✅ good is complete ({namespace}) · 3 of 3 answered · ")), "{line}");
    let blocks = message["blocks"].as_array().unwrap();
    let header = json!({"type": "header", "text": {"type": "plain_text", "text": "✅ good is complete"}});
    assert_eq!(blocks[0], header);
    let fields: Vec<&Value> = blocks.iter().filter_map(|block| block["fields"].as_array()).flatten().collect();
    for field in
        [format!("*Namespace*\n`{namespace}`"), "*Requests*\n`3 of 3 answered`".into(), "*Provider*\n`llm`".into()]
    {
        let field = json!({"type": "mrkdwn", "text": field, "verbatim": true});
        assert!(fields.contains(&&field), "{field} is not among {fields:?}");
    }
    assert_eq!(blocks.last().unwrap()["text"]["text"], format!("*Results*\n`{uri}`"));
}

fn complete_uri(event: &Value) -> String {
    assert_eq!(event["data"]["outcome"], "Succeeded", "{event}");
    event["data"]["results"]["uri"].as_str().unwrap().into()
}

/// Fails if the URL of a webhook, or the signing key, was told to anybody.
async fn nothing_told(scene: &Scene) {
    let mut told: Vec<Told> = quiet::logs(&scene.namespace);
    assert!(!told.is_empty());
    told.extend(quiet::objects(&scene.client, &scene.namespace).await);
    quiet::assert_untold(&told, TOKEN);
    quiet::assert_untold(&told, KEY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_of_a_question_once_and_of_the_end_after_the_answer() {
    let receiver = Receiver::start().await;
    // It has the key of the Secret, and lets the published library verify what comes.
    let verifier = PythonReceiver::start(Some(KEY));
    let scene = Scene::with("notify-held", &["--batch-duration", "300ms"], "unknownSubmissionPolicy: Hold").await;
    let mut secret = secret(&receiver, &["ops"]);
    secret["stringData"]["verifier"] = format!("{}/{TOKEN}/verifier", verifier.url).into();
    scene.apply(&secret.to_string());
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("j", tells(&["ops", "verifier"].map(|name| notification(name, &["Held", "Complete"]))));
    let held = receiver.waits_for("ops", 1).await;
    assert_eq!(held[0].told().1, "held");
    let message = held[0].event()["data"]["message"].as_str().unwrap().to_string();
    assert!(message.contains("kubectl") && message.contains("=none"), "it has the command to copy: {message}");
    scene.answer("j", "none").await;
    scene.wait_complete("j").await;
    let told: Vec<String> = receiver.waits_for("ops", 2).await.iter().map(|received| received.told().1).collect();
    assert_eq!(told, ["held", "complete"]);
    delivered(&scene, "j", 4).await;
    let verified = verifier.received().await;
    assert!(verified.iter().all(|m| m.verified == Some(true) && m.answered == Some(204)), "{verified:?}");
    let types: Vec<&str> = verified.iter().map(|m| m.event.as_ref().unwrap()["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["dev.llmbatch.batchjob.held.v1", "dev.llmbatch.batchjob.complete.v1"]);
}

/// How long it takes until a webhook of this scene is told of a job that fails at once.
async fn time_of_a_message(scene: &Scene, receiver: &Receiver, job: &str) -> Duration {
    let began = Instant::now();
    scene.apply_job(job, unfit(&[notification("ops", &["Failed"])]));
    let is_told = || async { receiver.received("ops").iter().any(|received| received.told().0 == job).then_some(()) };
    eventually(&format!("the webhook is told of the job {job}"), 10, is_told).await;
    began.elapsed()
}

/// Given a namespace with ten jobs that have eight webhooks each, none of which ever answers, when a job of another namespace ends, then
/// its webhook is told as soon as before. The silent ones hold no more than the share of a namespace.
#[tokio::test(flavor = "multi_thread")]
async fn eighty_silent_webhooks_of_one_namespace_hold_up_no_message_of_another() {
    let receiver = Receiver::start().await;
    let silent = Server::start(Manner::Silent).await;
    let noisy = Scene::set("notify-noisy", &[]).await;
    let mut quiet = Scene::set("notify-quiet", &[]).await;
    quiet.settings.namespaces += &format!(",{}", noisy.namespace);
    quiet.apply(&secret(&receiver, &["ops"]).to_string());
    let names: Vec<String> = (0..8).map(|n| format!("silent-{n}")).collect();
    let mut urls = secret(&receiver, &[]);
    for name in &names {
        urls["stringData"][name] = json!(silent.url);
    }
    noisy.apply(&urls.to_string());
    quiet.restart().await;
    let undisturbed = time_of_a_message(&quiet, &receiver, "undisturbed").await;

    noisy.provider_judged("llm").await;
    let silent_ones: Vec<Value> = names.iter().map(|name| notification(name, &["Failed"])).collect();
    let jobs: Vec<Value> = (0..10).map(|n| noisy.job(&format!("noisy-{n}"), unfit(&silent_ones))).collect();
    noisy.apply(&json!({"apiVersion": "v1", "kind": "List", "items": jobs}).to_string());
    for n in 0..10 {
        noisy.wait_condition(&format!("noisy-{n}"), "Failed", "True", 20).await;
    }
    // All places of the namespace but the last one, which is kept for a notification of another name.
    silent.holds(15).await;
    let took = time_of_a_message(&quiet, &receiver, "disturbed").await;
    let held = silent.held();
    assert!(held <= 16, "{held} webhooks of one namespace are waited for at a time");
    assert!(took <= undisturbed * 2 + Duration::from_secs(2), "a message took {took:?} instead of {undisturbed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admins_webhook_is_told_of_jobs_that_may_use_the_account_and_of_no_others() {
    let receiver = Receiver::start().await;
    let scene = Scene::new("notify-admin", &["--batch-duration", "300ms"]).await;
    let home = |manifest: Value| {
        let args = ["-n", scene.settings.home.as_str(), "apply", "-f", "-"];
        let (ok, said) = scene.settings.cluster().try_kubectl(&args, Some(&manifest.to_string()));
        assert!(ok, "{said}");
    };
    let provider = |name: &str, namespaces: &str| {
        json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name}, "spec": {
            "type": "OpenAICompatible", "baseURL": scene.sim.url, "namespaces": [{"names": [namespaces]}],
            "auth": {"secretKeyRef": {"name": scene.namespace, "key": "key"}},
            "notifications": [{"name": "admins", "events": ["Started", "Complete", "Failed", "Stalled"],
                "webhook": {"urlSecretKeyRef": {"name": scene.namespace, "key": name}}}],
        }})
    };
    let (granted, other) = (format!("{}-granted", scene.namespace), format!("{}-other", scene.namespace));
    home(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": scene.namespace},
        "stringData": {"key": "sk-test", &granted: receiver.url("granted"), &other: receiver.url("other")}}));
    home(provider(&granted, &scene.namespace));
    home(provider(&other, "elsewhere"));
    for name in [&granted, &other] {
        let reference = json!({"kind": "ClusterBatchProvider", "name": name});
        scene.apply_job(name, json!({"spec": {"providerRef": reference}}));
    }
    scene.wait_condition(&other, "Stalled", "True", 40).await;
    scene.wait_complete(&granted).await;
    let told: Vec<String> = receiver.waits_for("granted", 2).await.iter().map(|received| received.told().1).collect();
    assert_eq!(told, ["started", "complete"]);
    delivered(&scene, &granted, 2).await;
    let status = scene.get_job(&other).await.status.unwrap();
    assert!(status.notifications.is_empty() && receiver.received("other").is_empty(), "{:?}", status.notifications);
    scene.settings.cluster().kubectl(&["delete", "clusterbatchprovider", &other]);
}
