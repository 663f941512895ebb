//! Messages as receivers get them: the published library verifies their signatures, and the CloudEvents SDK reads them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::time::{Duration, SystemTime};

use batchjob_operator::api::{
    CostStatus, ModelUsage, NotificationEvent, NotificationFormat, Outcome, ProviderReference, RequestCounts, Results,
    TokenUsage, UsageStatus,
};
use batchjob_operator::notify::{Notice, Retry, Target, Undelivered, deliver};
use batchjob_operator::transport::{HostPolicy, Transport};
use serde_json::{Value, json};

#[path = "support/receiver.rs"]
mod receiver;

use receiver::{Received, Receiver, python};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ANOTHER_KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

fn transport() -> Transport {
    Transport::new(HostPolicy::allowing(["127.0.0.1".parse().unwrap()])).unwrap()
}

fn target(receiver: &Receiver, format: NotificationFormat, keys: Option<&str>) -> Target {
    Target {
        format,
        url: format!("{}/told", receiver.url).into(),
        signing_keys: keys.map(|keys| keys.to_string().into()),
        by_admin: false,
    }
}

/// A notice with letters of several alphabets, so that what is signed is bytes and not characters.
fn notice() -> Notice {
    let tokens = TokenUsage { input_tokens: 700, output_tokens: 300, ..Default::default() };
    let end = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    Notice {
        id: "msg_0f3b2d5e-complete-1".into(),
        event: NotificationEvent::Complete,
        at: end,
        namespace: "shop".into(),
        name: "reviews".into(),
        uid: "0f3b2d5e-5d1e-4c8a-9a39-6f2f8c0b7f11".into(),
        outcome: Some(Outcome::PartiallySucceeded),
        reason: "CompletedWithFailures".into(),
        message: "2 of 100 requests have no answer; größer, 評価, 👟 \"quoted\" \\ \u{2028}".into(),
        requests: Some(RequestCounts { total: 100, succeeded: 98, failed: 2, ..Default::default() }),
        usage: Some(UsageStatus { tokens, models: vec![ModelUsage { name: "gpt-5-mini".into(), tokens }] }),
        cost: Some(CostStatus {
            actual_usd: Some("0.000175".into()),
            real_time_usd: Some("0.00035".into()),
            saved_usd: Some("0.000175".into()),
            unconfirmed_usd: Some("0.01".into()),
            ..CostStatus::default()
        }),
        start: Some(end - 90_500),
        end: Some(end),
        results: Some(Results { uri: "s3://shop/out/results.jsonl".into(), ..Default::default() }),
        provider: ProviderReference { name: "llm".into(), ..Default::default() },
        model: None,
    }
}

async fn told(receiver: &Receiver, format: NotificationFormat, keys: Option<&str>) -> Result<(), Undelivered> {
    let notice = notice();
    deliver(&transport(), &target(receiver, format, keys), &notice, notice.at).await
}

async fn only(receiver: &Receiver) -> Received {
    let received = receiver.received().await;
    assert_eq!(received.len(), 1, "{received:?}");
    received.into_iter().next().unwrap()
}

#[tokio::test]
async fn the_published_libraries_verify_and_read_a_message() {
    let receiver = Receiver::start(Some(KEY));
    let started = Notice { event: NotificationEvent::Started, requests: None, outcome: None, end: None, ..notice() };
    let target = target(&receiver, NotificationFormat::CloudEvents, Some(KEY));
    deliver(&transport(), &target, &started, started.at).await.unwrap();
    assert_eq!(receiver.received().await[0].problem, None);
    told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap();
    let received = receiver.received().await.remove(1);
    assert_eq!((received.verified, received.problem, received.answered), (Some(true), None, Some(204)));
    assert_eq!(received.path, "/told");
    assert_eq!(received.headers["content-type"], "application/cloudevents+json");
    let (event, notice) = (received.event.unwrap(), notice());
    assert_eq!(event["id"], received.headers["webhook-id"].as_str());
    assert_eq!(event["type"], "dev.llmbatch.batchjob.complete.v1");
    assert_eq!(event["subject"], "shop/reviews");
    let data = &event["data"];
    assert_eq!(data["message"], notice.message.as_str());
    assert_eq!(
        data["requests"],
        json!({"total": 100, "succeeded": 98, "failed": 2, "expired": 0, "cancelled": 0, "missing": 0})
    );
    assert_eq!(data["usage"]["inputTokens"], 700);
    assert_eq!(data["usage"]["models"][0]["name"], "gpt-5-mini");
    assert_eq!(data["cost"]["savedUSD"], "0.000175");
    assert_eq!(data["cost"]["unconfirmedUSD"], "0.01");
    assert_eq!(data["durationSeconds"], 90);
    assert_eq!(data["results"]["uri"], "s3://shop/out/results.jsonl");
}

/// The function of `docs/notifications.md`, to the letter.
#[tokio::test]
async fn the_documented_function_verifies_a_message() {
    let receiver = Receiver::start(None);
    told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap();
    let Received { body, headers, .. } = only(&receiver).await;
    let page = include_str!("../docs/notifications.md");
    let function = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let run = |body: &str| {
        let call =
            "import json, sys\nprint(received(sys.argv[1].encode(), json.loads(sys.argv[2]), sys.argv[3])['type'])";
        let mut python = Command::new(python());
        python.arg("-c").arg(format!("{function}\n{call}")).args([body, &json!(headers).to_string(), KEY]);
        python.output().unwrap()
    };
    let genuine = run(&body);
    let said = String::from_utf8_lossy(&genuine.stdout).into_owned();
    assert_eq!(said.trim(), "dev.llmbatch.batchjob.complete.v1", "{}", String::from_utf8_lossy(&genuine.stderr));
    let changed = run(&body.replacen("98", "99", 1));
    assert!(!changed.status.success() && String::from_utf8_lossy(&changed.stderr).contains("WebhookVerificationError"));
}

/// While keys are rotated, receivers with either key verify a message.
#[tokio::test]
async fn a_message_is_signed_with_every_key_of_its_secret() {
    let receiver = Receiver::start(Some(KEY));
    let both = format!("{ANOTHER_KEY} {KEY}");
    told(&receiver, NotificationFormat::CloudEvents, Some(&both)).await.unwrap();
    receiver.change_key(Some(ANOTHER_KEY)).await;
    told(&receiver, NotificationFormat::Slack, Some(&both)).await.unwrap();
    let refused = told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap_err();
    assert_eq!(refused.retry, Retry::Later, "the keys may be mended: {refused}");
    assert!(refused.message.contains("it answered 400") && refused.message.contains("signing key"), "{refused}");
    let unsigned = told(&receiver, NotificationFormat::CloudEvents, None).await.unwrap_err();
    assert!(unsigned.message.contains("it answered 400"), "{unsigned}");
    let verified: Vec<_> = receiver.received().await.iter().map(|message| message.verified).collect();
    assert_eq!(verified, [Some(true), Some(true), Some(false), Some(false)]);
}

/// A message that was changed on its way, in each of its parts.
#[tokio::test]
async fn a_message_with_a_changed_byte_is_not_verified() {
    let receiver = Receiver::start(Some(KEY));
    told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap();
    let genuine = only(&receiver).await;
    let post = async |change: &dyn Fn(&mut Received)| {
        let mut changed = genuine.clone();
        change(&mut changed);
        let mut request = reqwest::Client::new().post(format!("{}/told", receiver.url)).body(changed.body);
        for (name, value) in changed.headers.iter().filter(|(name, _)| name.starts_with("webhook-")) {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post(&|_| {}).await, 204, "it is the change that counts");
    assert_eq!(post(&|message| message.body = message.body.replacen("98", "99", 1)).await, 400);
    assert_eq!(post(&|message| message.body.push(' ')).await, 400);
    let set = |name: &'static str, change: fn(&str) -> String| {
        move |message: &mut Received| {
            let value = message.headers.get_mut(name).unwrap();
            *value = change(value);
        }
    };
    assert_eq!(post(&set("webhook-id", |id| id.replace("-1", "-2"))).await, 400);
    assert_eq!(post(&set("webhook-timestamp", |time| (time.parse::<i64>().unwrap() + 1).to_string())).await, 400);
    assert_eq!(post(&set("webhook-timestamp", |time| (time.parse::<i64>().unwrap() - 301).to_string())).await, 400);
    let flip = |signature: &str| match signature.contains("v1,A") {
        true => signature.replace("v1,A", "v1,B"),
        false => format!("v1,A{}", &signature[4..]),
    };
    assert_eq!(post(&set("webhook-signature", flip)).await, 400);
}

#[tokio::test]
async fn a_try_is_repeated_with_the_same_id_until_the_receiver_takes_it_or_is_gone() {
    let receiver = Receiver::start(Some(KEY));
    receiver
        .answer(
            json!([{"status": 500, "times": 2}, {"status": 429, "retryAfter": 7}, {"status": 410, "retryAfter": 7}]),
        )
        .await;
    let mut retries = vec![];
    for _ in 0..4 {
        retries.push(told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap_err().retry);
    }
    assert_eq!(retries, [Retry::Later, Retry::Later, Retry::After(Duration::from_secs(7)), Retry::Never]);
    told(&receiver, NotificationFormat::CloudEvents, Some(KEY)).await.unwrap();
    let received = receiver.received().await;
    assert_eq!(received.len(), 5);
    assert!(received.iter().all(|message| message.verified == Some(true)));
    assert!(received.iter().all(|message| message.headers["webhook-id"] == notice().id), "{received:?}");
}

/// The body that Slack's API takes, and nothing of a CloudEvent.
#[tokio::test]
async fn a_message_for_slack_is_json_with_text_and_blocks() {
    let receiver = Receiver::start(None);
    told(&receiver, NotificationFormat::Slack, None).await.unwrap();
    let received = only(&receiver).await;
    assert_eq!((received.verified, &received.event, &received.problem), (None, &None, &None));
    assert_eq!(received.headers["content-type"], "application/json");
    assert!(!received.headers.contains_key("webhook-signature"), "{received:?}");
    let message: Value = serde_json::from_str(&received.body).unwrap();
    assert_eq!(
        message["text"],
        "⚠️ reviews is complete, but some requests have no answer (shop) · 98 of 100 answered, 2 failed · $0.00018 (saved $0.00018) · 1 min 30 s"
    );
    assert_eq!(message["blocks"][0]["type"], "header");
}
