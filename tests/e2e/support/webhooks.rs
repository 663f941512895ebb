//! A receiver of webhooks, in this process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;

use super::eventually;

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Last part of the path of the URL.
    pub hook: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Status that it was answered with.
    pub answer: u16,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The body of a CloudEvent.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Name of the job, the last part of the event's type but the version, and the id.
    pub fn told(&self) -> (String, String, String) {
        let event = self.event();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let kind = text(&event["type"]).split('.').rev().nth(1).unwrap().to_string();
        (text(&event["data"]["name"]), kind, text(&event["id"]))
    }
}

/// Answers of one webhook: statuses in order, 0 for none at all; then 200.
type Answers = Arc<Mutex<HashMap<String, VecDeque<u16>>>>;

/// A server for webhooks. The last part of a path names the webhook.
pub struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Received>>>,
    answers: Answers,
}

impl Receiver {
    pub async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (got, answers): (Arc<Mutex<Vec<Received>>>, Answers) = Default::default();
        let (seen, said) = (got.clone(), answers.clone());
        let take = move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let hook = uri.path().rsplit('/').next().unwrap_or_default().to_string();
            let answer = said.lock().unwrap().get_mut(&hook).and_then(VecDeque::pop_front).unwrap_or(200);
            seen.lock().unwrap().push(Received { hook, headers, body, answer });
            async move {
                if answer == 0 {
                    std::future::pending::<()>().await;
                }
                StatusCode::from_u16(answer).unwrap()
            }
        };
        tokio::spawn(axum::serve(listener, Router::new().fallback(take)).into_future());
        Receiver { url, got, answers }
    }

    /// URL of a webhook.
    pub fn url(&self, hook: &str) -> String {
        format!("{}/{TOKEN}/{hook}", self.url)
    }

    /// Lets a webhook give these answers next.
    pub fn answers(&self, hook: &str, answers: impl IntoIterator<Item = u16>) {
        self.answers.lock().unwrap().entry(hook.into()).or_default().extend(answers);
    }

    /// Lets a webhook answer as usual again.
    pub fn mends(&self, hook: &str) {
        self.answers.lock().unwrap().remove(hook);
    }

    /// What a webhook received so far.
    pub fn received(&self, hook: &str) -> Vec<Received> {
        self.got.lock().unwrap().iter().filter(|received| received.hook == hook).cloned().collect()
    }

    /// Waits until a webhook received so many messages.
    pub async fn waits_for(&self, hook: &str, messages: usize) -> Vec<Received> {
        let what = format!("{messages} messages to the webhook '{hook}'");
        let enough = || async { Some(self.received(hook)).filter(|received| received.len() >= messages) };
        eventually(&what, 60, enough).await
    }
}

/// Part of the URLs of webhooks, which are secrets.
pub const TOKEN: &str = "T0KEN-OF-WEBHOOKS";
