//! What must be so when a story is over.

use std::collections::BTreeSet;

use batchjob_operator::api::{BatchJobObject as BatchJob, RequestCounts};
use http::Method;
use serde_json::Value;

use super::calls::{Call, Way};
use super::stage::{Account, LINES, Stage};
use crate::support::quiet::CANARY;
use crate::support::scene::condition;
use crate::support::shared::storage;
use crate::support::webhooks::TOKEN;

/// What a whole and tidy output folder holds.
const FOLDER: [&str; 4] = ["_SUCCESS", "_batchjob/journal.json", "manifest.json", "results.jsonl"];

/// Complaints about a story.
#[derive(Default)]
pub struct Complaints(Vec<String>);

impl Complaints {
    pub fn unless(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.0.push(what());
        }
    }

    pub fn into_result(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}

/// Nothing is paid twice, whatever happens.
pub fn paid_once(account: &Account, wrong: &mut Complaints) {
    wrong.unless(account.overlaps == 0, || format!("{} lines were billed in two live batches", account.overlaps));
    let mut lines: Vec<&str> = account.billed.iter().map(|id| id.split('-').next().unwrap()).collect();
    lines.sort();
    let all: Vec<String> = (0..LINES).map(|i| format!("r{i}")).collect();
    wrong.unless(lines == all, || format!("billed were {:?}", account.billed));
}

/// Every batch there ever was is in the manifest and at its end.
pub fn nothing_runs_on(account: &Account, manifest: &Value, wrong: &mut Complaints) {
    let made: BTreeSet<&str> = account.batches.iter().map(|b| b["id"].as_str().unwrap()).collect();
    let told: BTreeSet<&str> = manifest["batches"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    wrong.unless(made == told, || format!("batches {made:?} were made, the manifest tells of {told:?}"));
    let over = |b: &Value| matches!(b["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"));
    wrong.unless(account.batches.iter().all(over), || format!("a batch runs on: {:?}", account.batches));
}

/// Files at the provider. One whose name nobody was told, or could remember, goes by its own expiry; no batch was made of it.
pub fn no_files_left(account: &Account, may_lose_uploads: bool, wrong: &mut Complaints) {
    let used: BTreeSet<&str> = account.batches.iter().filter_map(|b| b["input_file_id"].as_str()).collect();
    let lost = |f: &Value| may_lose_uploads && f["purpose"] == "batch" && !used.contains(f["id"].as_str().unwrap());
    let left: Vec<String> = account.files.iter().filter(|f| !lost(f)).map(Value::to_string).collect();
    wrong.unless(left.is_empty(), || format!("left at the provider: {left:?}"));
}

/// Status and conditions of a job that ended well.
pub fn status_is_true(job: &BatchJob, wrong: &mut Complaints) {
    let complete = condition(job, "Complete").map(|(status, reason, _)| (status, reason));
    wrong.unless(complete == Some(("True".into(), "AllSucceeded".into())), || format!("Complete is {complete:?}"));
    for other in ["Failed", "Stalled", "Held", "Suspended"] {
        let said = condition(job, other).filter(|(status, _, _)| status == "True");
        wrong.unless(said.is_none(), || format!("{other} is True on a job that is complete: {said:?}"));
    }
    let status = job.status.clone().unwrap_or_default();
    wrong.unless(status.holds.is_empty(), || format!("holds are left: {:?}", status.holds));
    wrong.unless(status.requests == Some(all_succeeded()), || format!("status counts {:?}", status.requests));
}

fn all_succeeded() -> RequestCounts {
    let lines = LINES as i64;
    RequestCounts { total: lines, succeeded: lines, ..Default::default() }
}

/// What lies in the folder, but for a staged file that `late` may have put there when all was over; returns the manifest and,
/// without what chance gave, the results.
pub async fn folder_is_whole(stage: &Stage, late: Option<&Call>, wrong: &mut Complaints) -> (Value, String) {
    let mut there = stage.world.list(&stage.out("")).await;
    let came_late = |file: &String| {
        let put = Call::new(Way::Storage, &Method::PUT, &format!("/tests/out/j/{file}"), "");
        !FOLDER.contains(&file.as_str()) && late == Some(&put)
    };
    if let Some(at) = there.iter().position(came_late) {
        there.remove(at);
    }
    wrong.unless(there == FOLDER, || format!("in the folder are {there:?}"));
    let manifest = stage.world.get(&stage.out("manifest.json")).await.unwrap_or_default();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let counts = serde_json::from_value::<RequestCounts>(manifest["requests"].clone()).ok();
    wrong.unless(counts == Some(all_succeeded()), || format!("the manifest counts {counts:?}"));
    let results = stage.world.get(&stage.out("results.jsonl")).await.unwrap_or_default();
    let results = String::from_utf8(results).unwrap();
    let said = (manifest["files"][0]["lines"].as_u64(), manifest["files"][0]["bytes"].as_u64());
    let is = (results.lines().count() as u64, results.len() as u64);
    wrong.unless(said == (Some(is.0), Some(is.1)), || format!("the manifest says {said:?} of a file of {is:?}"));
    (manifest, without_chance(&results))
}

/// Prompts and answers lie nowhere but in results once nobody goes on with the work.
pub async fn nothing_staged(stage: &Stage, when: &str, wrong: &mut Complaints) {
    let mut there = stage.world.list(&stage.out("_batchjob/")).await;
    there.retain(|file| file != "journal.json" && !file.starts_with("journal/"));
    there.extend(stage.world.list(&stage.out("results.partial/")).await);
    wrong.unless(there.is_empty(), || format!("{when} there lie on below _batchjob/ and results.partial/ {there:?}"));
}

/// Nobody is told of trouble where there was none. Worth a warning are submissions of unknown outcome, those that the server
/// answered with an error, and that no batch came of one of the latter.
pub async fn events_are_true(stage: &Stage, wrong: &mut Complaints) {
    let events = stage.events().await;
    let declined = events.iter().any(|(_, reason, _)| reason == "SubmissionDeclined");
    let is_due = |reason: &str| match reason {
        "SubmissionUnknown" | "SubmissionDeclined" => true,
        "BatchRefused" => declined,
        _ => false,
    };
    let warnings: Vec<_> =
        events.into_iter().filter(|(type_, reason, _)| type_ != "Normal" && !is_due(reason)).collect();
    wrong.unless(warnings.is_empty(), || format!("warnings: {warnings:?}"));
}

/// The webhook was told of each event, under one id, whatever came between.
pub fn told_at_least_once(stage: &Stage, wrong: &mut Complaints) {
    let told: BTreeSet<(String, String)> = stage
        .world
        .webhooks
        .received(&stage.namespace)
        .iter()
        .map(|received| received.told())
        .map(|(_, e, id)| (e, id))
        .collect();
    let events: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    wrong.unless(events == ["complete", "started"], || format!("the webhook was told {told:?}"));
}

/// The log has no prompt, no key, and no URL of a webhook.
pub fn log_is_quiet(stage: &Stage, wrong: &mut Complaints) {
    let log = stage.log.text();
    let told =
        log.lines().find(|line| [CANARY, "sk-test", TOKEN, &storage().secret_key].iter().any(|c| line.contains(c)));
    wrong.unless(told.is_none(), || format!("told to the log: {told:?}"));
}

/// Results without what differs between two runs: the provider's 32-digit ids, and its clock.
fn without_chance(results: &str) -> String {
    let mut out = String::new();
    let mut rest = results;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let digits = rest[start..].find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len() - start);
        let (before, run) = (&rest[..start], &rest[start..start + digits]);
        out.push_str(before);
        let clock = out.ends_with("\"created\":") || out.ends_with("\"created\": ");
        out.push_str(if digits == 32 || clock { "*" } else { run });
        rest = &rest[start + digits..];
    }
    out + rest
}
