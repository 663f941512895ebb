//! A receiver of notifications as its users would write one: a Python server with the published libraries, `tests/receiver/receive.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

/// A receiver that runs until this is dropped, however the test ends.
pub struct Receiver {
    process: Child,
    /// Its URL, without a path. It takes messages at every path that does not begin with `/_/`.
    pub url: String,
}

/// A message that came.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// Path of its URL.
    pub path: String,
    /// Headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body, as it came.
    pub body: String,
    /// Whether the `standardwebhooks` library verified it. None if the receiver has no key.
    pub verified: Option<bool>,
    /// Attributes and `data` of the CloudEvent, as the SDK read them. None if it is none.
    pub event: Option<Value>,
    /// Words of the library that did not accept it.
    pub problem: Option<String>,
    /// Status that it was answered with. None if it was left without an answer.
    pub answered: Option<u16>,
}

/// Returns the Python that has the published libraries.
pub fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/venv.sh");
    let output = Command::new(venv).arg("receiver").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/cluster/venv.sh receiver failed");
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("python")
}

impl Receiver {
    /// Starts a receiver. With a `key` (`whsec_…`) it answers 400 to messages that are not signed by it.
    pub fn start(key: Option<&str>) -> Receiver {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(python());
        command.arg(root.join("tests/receiver/receive.py")).args(key.map(|key| format!("--key={key}")));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let up: Value = serde_json::from_str(&line).unwrap();
        Receiver { process, url: up["url"].as_str().unwrap().into() }
    }

    /// Returns the messages so far, oldest first.
    pub async fn received(&self) -> Vec<Received> {
        reqwest::get(format!("{}/_/messages", self.url)).await.unwrap().json().await.unwrap()
    }

    /// Sets the answers to the next messages: a list of `{"status": 500, "retryAfter": 2, "times": 3}` and
    /// `{"hang": true}`. Messages after those are answered as usual.
    pub async fn answer(&self, answers: Value) {
        self.tell("answers", answers).await;
    }

    /// Takes messages for genuine that are signed by this key alone; None: takes any.
    #[allow(dead_code, reason = "not every test has its key changed")]
    pub async fn change_key(&self, key: Option<&str>) {
        self.tell("key", json!({"key": key})).await;
    }

    async fn tell(&self, what: &str, body: Value) {
        let url = format!("{}/_/{what}", self.url);
        assert!(reqwest::Client::new().post(url).json(&body).send().await.unwrap().status().is_success());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
