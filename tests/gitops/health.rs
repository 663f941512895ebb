//! What Argo CD, Flux and kstatus make of objects, as `health/main.go` asks their own code.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tools::built;

#[derive(Serialize)]
pub struct Question {
    pub object: Value,
    /// Script of Argo CD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lua: Option<String>,
    /// Item of Flux' `healthCheckExprs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flux: Option<Value>,
}

#[derive(Deserialize, Debug)]
pub struct Answer {
    pub kstatus: String,
    /// What the script returned.
    #[serde(default)]
    pub returned: Value,
    #[serde(default)]
    pub flux: String,
}

/// The answers to these questions, in their order.
pub fn ask(questions: &[Question]) -> Vec<Answer> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| built("health.sh", &[]).join("health"));
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = questions.iter().map(|question| serde_json::to_string(question).unwrap() + "\n").collect();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "health failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Answer> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}
