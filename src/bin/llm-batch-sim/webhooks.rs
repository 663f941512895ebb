//! Webhooks: a signed event goes out when a batch ends, as OpenAI, Azure and Doubleword send it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tracing::{debug, info};

use crate::app::lock;
use crate::batch::{Batch, Status};
use crate::durations::parse_duration;
use crate::ids;

/// Number of times that an event is sent until it is accepted, and the pause after the first, which doubles each time.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// Time that a receiver has for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The vendor whose payload is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// OpenAI's and Azure's: the type of the event and the id of the batch.
    #[default]
    OpenAI,
    /// Doubleword's: the type of the event, and the counts, files and times of the batch; only for batches that
    /// completed or failed.
    Doubleword,
}

/// A receiver of events, and how they are sent to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// URL to which events are posted.
    pub url: String,
    /// `whsec_` and the key in base64; several of them, separated by spaces, sign each event once each.
    #[serde(deserialize_with = "keys")]
    pub secret: Vec<Key>,
    /// The vendor whose payload is sent.
    #[serde(default)]
    pub shape: Shape,
    /// Number of times that each event is sent again although it was accepted.
    #[serde(default)]
    pub duplicates: u32,
    /// Time from the end of a batch to its event.
    #[serde(default, deserialize_with = "duration")]
    pub delay: Duration,
    /// Time from the event of a batch to its completion in the API.
    #[serde(default, deserialize_with = "duration")]
    pub early: Duration,
}

/// A signing key. Its `Debug` output does not show it.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Reads a secret.
pub fn parse_secret(text: &str) -> Result<Vec<Key>, String> {
    let key = |one: &str| {
        let encoded = one.strip_prefix("whsec_").ok_or("a secret begins with whsec_")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "what follows whsec_ is not base64")?;
        Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    };
    let keys: Vec<Key> = text.split_whitespace().map(key).collect::<Result<_, &str>>()?;
    if keys.is_empty() { Err("a secret begins with whsec_".into()) } else { Ok(keys) }
}

fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Key>, D::Error> {
    parse_secret(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// A webhook, with the numbers of events that were sent to it and accepted.
#[derive(Debug)]
struct Registered {
    webhook: Webhook,
    sent: AtomicU64,
    accepted: AtomicU64,
}

/// All webhooks.
#[derive(Debug, Default)]
pub struct Webhooks {
    registered: Mutex<Vec<Arc<Registered>>>,
    client: OnceLock<reqwest::Client>,
}

impl Webhooks {
    /// Adds a webhook.
    pub fn add(&self, webhook: Webhook) {
        let registered = Registered { webhook, sent: AtomicU64::new(0), accepted: AtomicU64::new(0) };
        lock(&self.registered).push(Arc::new(registered));
    }

    /// Removes all webhooks.
    pub fn clear(&self) {
        lock(&self.registered).clear();
    }

    /// Returns all webhooks, with the numbers of events that were sent and accepted.
    pub fn shown(&self) -> Value {
        let all = lock(&self.registered);
        let shown = all.iter().map(|one| {
            let Webhook { url, shape, duplicates, .. } = &one.webhook;
            let (sent, accepted) = (one.sent.load(Ordering::Relaxed), one.accepted.load(Ordering::Relaxed));
            json!({"url": url, "shape": shape, "duplicates": duplicates, "sent": sent, "accepted": accepted})
        });
        json!({"webhooks": shown.collect::<Vec<_>>()})
    }

    /// Sends the early events of a batch that is about to complete, and waits until it may complete.
    pub async fn about_to_complete(&self, batch: Batch) {
        let early = self.those(|webhook| !webhook.early.is_zero());
        let wait = early.iter().map(|one| one.webhook.early).max();
        for one in early {
            self.post(one, &batch, Status::Completed);
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends the events of a batch that ended.
    pub fn ended(&self, batch: &Batch) {
        for one in self.those(|webhook| webhook.early.is_zero() || batch.status != Status::Completed) {
            self.post(one, batch, batch.status);
        }
    }

    fn those(&self, are: impl Fn(&Webhook) -> bool) -> Vec<Arc<Registered>> {
        lock(&self.registered).iter().filter(|one| are(&one.webhook)).cloned().collect()
    }

    fn post(&self, to: Arc<Registered>, batch: &Batch, status: Status) {
        let Some(body) = body(to.webhook.shape, batch, status) else { return };
        let client = self.client.get_or_init(client).clone();
        tokio::spawn(async move { deliver(client, to, body).await });
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(PATIENCE);
    builder.build().unwrap_or_default()
}

/// Returns the event, if this vendor has one for such an end.
fn body(shape: Shape, batch: &Batch, status: Status) -> Option<String> {
    let (kind, now) = (format!("batch.{}", status.name()), ids::now());
    let body = match shape {
        Shape::OpenAI => {
            let id = ids::fresh("evt_");
            json!({"object": "event", "id": id, "type": kind, "created_at": now, "data": {"id": batch.id}})
        }
        Shape::Doubleword if matches!(status, Status::Completed | Status::Failed) => {
            let shown = json!(batch);
            json!({"type": kind, "timestamp": jiff::Timestamp::now().to_string(), "data": {
                "batch_id": batch.id, "status": status.name(), "request_counts": shown["request_counts"],
                "output_file_id": shown["output_file_id"], "error_file_id": shown["error_file_id"],
                "created_at": shown["created_at"], "finished_at": now,
            }})
        }
        Shape::Doubleword => return None,
    };
    Some(body.to_string())
}

/// Sends an event until it is accepted, and then its duplicates. The id stays the same; each sending has a time and a
/// signature of its own.
async fn deliver(client: reqwest::Client, to: Arc<Registered>, body: String) {
    let id = ids::fresh("wh_");
    tokio::time::sleep(to.webhook.delay).await;
    let (mut pause, mut left) = (PAUSE, to.webhook.duplicates);
    for _ in 0..TRIES {
        while send(&client, &to, &id, &body).await {
            if left == 0 {
                return;
            }
            left -= 1;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn send(client: &reqwest::Client, to: &Registered, id: &str, body: &str) -> bool {
    let now = ids::now();
    let signatures = to.webhook.secret.iter().map(|key| sign(key, id, now, body)).collect::<Vec<_>>().join(" ");
    let mut request = client
        .post(&to.webhook.url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signatures);
    request = match to.webhook.shape {
        Shape::OpenAI => request.header("user-agent", "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"),
        Shape::Doubleword => request.header("webhook-version", "1"),
    };
    to.sent.fetch_add(1, Ordering::Relaxed);
    match request.body(body.to_owned()).send().await {
        Ok(answer) => {
            info!(id, status = answer.status().as_u16(), "event sent");
            let accepted = answer.status().is_success();
            to.accepted.fetch_add(u64::from(accepted), Ordering::Relaxed);
            accepted
        }
        Err(error) => {
            debug!(id, %error, "the event reached nobody");
            false
        }
    }
}

fn sign(Key(key): &Key, id: &str, now: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{now}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_specifications_example() {
        let keys = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed =
            keys.map(|keys| sign(&keys[0], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#));
        assert_eq!(signed.ok().as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        for text in ["", "MfKQ9r8G", "whsec_MfK!"] {
            assert!(parse_secret(text).is_err(), "{text}");
        }
    }
}
