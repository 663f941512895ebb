//! The simulator of a scene: a provider in a process of its own.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;

use super::eventually;
use super::process::Process;

pub struct Simulator {
    _process: Process,
    pub url: String,
    pub admin: String,
    /// Uploads before the story of the scene began; -1: it has not begun.
    before: AtomicI64,
}

impl Simulator {
    pub fn start(name: &str, args: &[&str]) -> Simulator {
        let program = Path::new(env!("CARGO_BIN_EXE_llm-batch-sim"));
        let mut all = vec!["--listen".to_string(), "127.0.0.1:0".into(), "--api-key".into(), "sk-test".into()];
        all.extend(args.iter().map(|a| a.to_string()));
        let mut process = Process::supervised(program, &all, &[], &format!("{name}-sim"));
        let up = process.announcement();
        Simulator {
            url: up["url"].as_str().unwrap().into(),
            admin: up["admin"].as_str().unwrap().into(),
            before: AtomicI64::new(-1),
            _process: process,
        }
    }

    /// Every line that was billed.
    pub async fn ledger(&self) -> Vec<Value> {
        let text = reqwest::get(format!("{}/ledger", self.admin)).await.unwrap().text().await.unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    pub async fn state(&self) -> Value {
        reqwest::get(format!("{}/state", self.admin)).await.unwrap().json().await.unwrap()
    }

    /// What is uploaded from now on counts.
    pub async fn begin(&self) {
        self.before.store(self.state().await["uploads"].as_i64().unwrap(), Ordering::Relaxed);
    }

    pub fn has_begun(&self) -> bool {
        self.before.load(Ordering::Relaxed) >= 0
    }

    /// Uploads and creates of the scene's jobs: without those that trying the provider out took before they began.
    pub async fn spent(&self) -> (i64, i64) {
        let state = self.state().await;
        let of = |key: &str| state[key].as_i64().unwrap();
        (of("uploads") - self.before.load(Ordering::Relaxed), of("creates"))
    }

    pub async fn fault(&self, fault: Value) {
        self.admin_post("faults", fault).await;
    }

    /// Waits until every fault has struck.
    pub async fn faults_struck(&self) {
        eventually("all faults struck", 60, async || {
            self.faults_left().await.as_array().unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// What has yet to strike.
    pub async fn faults_left(&self) -> Value {
        let left: Value = reqwest::get(format!("{}/faults", self.admin)).await.unwrap().json().await.unwrap();
        left["faults"].clone()
    }

    pub async fn no_more_faults(&self) {
        let answer = reqwest::Client::new().delete(format!("{}/faults", self.admin)).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    pub async fn admin_post(&self, path: &str, body: Value) {
        let url = format!("{}/{path}", self.admin);
        let answer = reqwest::Client::new().post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    }

    /// Fails unless every line was billed exactly once.
    pub async fn assert_billed_once(&self, lines: usize) {
        let mut billed: Vec<String> =
            self.ledger().await.iter().map(|l| l["request_sha256"].as_str().unwrap().to_string()).collect();
        assert_eq!(billed.len(), lines, "lines billed");
        billed.sort();
        billed.dedup();
        assert_eq!(billed.len(), lines, "lines billed once");
    }
}
