//! What became of each line, and who paid for it.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest::{SHA256, digest};
use batchjob_operator::api::BatchJobObject as BatchJob;
use kube::api::ListParams;
use serde_json::Value;

use crate::jobs::{Job, Meddling};
use crate::world::{NAMESPACE, World, insist};

/// What is wrong with jobs, in lines.
#[derive(Debug, Default)]
pub struct Verdict {
    pub lines: usize,
    pub answered: usize,
    /// In neither file, or counted nowhere.
    pub lost: usize,
    /// In both files, twice in one, unknown, out of order, or with another's answer.
    pub wrong: usize,
    /// Answered, and billed to nobody.
    pub unbilled: usize,
    /// Billed more than once, beyond what the provider itself lost.
    pub billed_again: usize,
    pub unfinished: usize,
    /// Names of jobs that were at their end before anything was sent.
    pub unsent: HashSet<String>,
    /// Outcomes of jobs.
    pub outcomes: HashMap<String, usize>,
    pub complaints: Vec<String>,
    /// What was answered, by the hash of its request.
    answers: HashSet<String>,
}

impl Verdict {
    pub fn sound(&self) -> bool {
        self.complaints.is_empty()
    }

    fn complain(&mut self, job: &Job, what: String) {
        self.complaints.push(format!("{}: {what} ({job:?})", job.name));
    }

    pub fn unfinished(&mut self, why: String) {
        self.unfinished += 1;
        self.complaints.push(why);
    }

    /// Judges a job that has ended.
    pub async fn judge(&mut self, world: &World, job: &Job, ended: &BatchJob) {
        let status = ended.status.clone().unwrap_or_default();
        let outcome = status.outcome.map_or("none".to_string(), |outcome| format!("{outcome:?}"));
        *self.outcomes.entry(outcome).or_default() += 1;
        self.lines += job.lines;
        if !status.holds.is_empty() {
            self.complain(job, format!("somebody is asked: {:?}", status.holds));
        }
        let Some(counts) = status.requests else {
            // It ran out of time before anything was sent: what was staged stays for when that is mended.
            self.unsent.insert(job.name.clone());
            if job.deadline.is_none() {
                self.lost += job.lines;
                self.complain(job, format!("nothing is counted: {:?}", status.conditions));
            }
            return;
        };
        let answered = self.lines_of(world, job, "results.jsonl").await;
        let without = self.lines_of(world, job, "errors.jsonl").await;
        let ended = counts.succeeded + counts.failed + counts.expired + counts.cancelled + counts.missing;
        let lines = job.lines as i64;
        if (counts.total, ended, counts.succeeded) != (lines, lines, answered.len() as i64) {
            self.lost += 1;
            self.complain(job, format!("{counts:?}, {} answers", answered.len()));
        }
        let all: HashSet<usize> = answered.iter().chain(&without).copied().collect();
        let (lost, twice) = (job.lines - all.len(), answered.len() + without.len() - all.len());
        if (lost, twice) != (0, 0) {
            self.lost += lost;
            self.wrong += twice;
            self.complain(job, format!("{lost} lines lost, {twice} with two ends"));
        }
        self.answered += answered.len();
        self.answers.extend(answered.iter().map(|i| billed_as(job, *i)));
    }

    /// Judges what lies on beside results: a job that was deleted, and not orphaned, leaves nothing behind.
    pub fn nothing_staged(&mut self, jobs: &[Job], staged: &[String]) {
        for job in jobs.iter().filter(|job| matches!(job.meddling, Meddling::Again { .. }) && !job.orphan) {
            let of_it: Vec<&String> = staged.iter().filter(|file| file.contains(&job.name)).collect();
            if !of_it.is_empty() {
                self.complain(job, format!("left staged: {of_it:?}"));
            }
        }
    }

    /// The places of a result file's lines among the requests.
    async fn lines_of(&mut self, world: &World, job: &Job, file: &str) -> Vec<usize> {
        let places: HashMap<String, usize> = job.ids().into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        let mut seen = vec![];
        for line in text_of(world, job, file).await.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let place = places.get(line["custom_id"].as_str().unwrap()).copied();
            let said = &line["response"]["body"]["choices"][0]["message"]["content"];
            let right = place.is_some_and(|i| file != "results.jsonl" || *said == job.answer(i));
            if !right || seen.last() >= place.as_ref() {
                self.wrong += 1;
                self.complain(job, format!("{file}, after {:?}: {line}", seen.last()));
            }
            seen.extend(place);
        }
        seen
    }

    /// Judges what the provider billed: no line that was not asked for, every answer, and none again that was not lost.
    pub async fn bill(&mut self, world: &World, jobs: &[Job], lost_by_provider: u64) {
        let owners: HashMap<String, &Job> =
            jobs.iter().flat_map(|job| (0..job.lines).map(move |i| (billed_as(job, i), job))).collect();
        let mut billed: HashMap<String, usize> = HashMap::new();
        for line in world.sim.ledger().await {
            *billed.entry(line["request_sha256"].as_str().unwrap().into()).or_default() += 1;
        }
        let again: usize = billed.values().map(|n| n - 1).sum();
        self.billed_again = again.saturating_sub(lost_by_provider as usize);
        if self.billed_again > 0 {
            let of: HashSet<&str> = billed.iter().filter(|(_, n)| **n > 1).map(|(h, _)| &*owners[h].name).collect();
            self.complaints
                .push(format!("{again} lines billed again, {lost_by_provider} lost by the provider: {of:?}"));
        }
        self.unbilled = self.answers.iter().filter(|hash| !billed.contains_key(*hash)).count();
        if self.unbilled > 0 {
            self.complaints.push(format!("{} answers that nobody paid for", self.unbilled));
        }
        let unknown = billed.keys().filter(|hash| !owners.contains_key(*hash)).count();
        if unknown > 0 {
            self.complaints.push(format!("{unknown} lines billed that no job has"));
        }
    }
}

/// As the ledger names the `i`th request.
fn billed_as(job: &Job, i: usize) -> String {
    let hash = digest(&SHA256, job.body(i).as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A result file; empty where there is none.
async fn text_of(world: &World, job: &Job, file: &str) -> String {
    if !job.to_map {
        return world.get(&format!("{NAMESPACE}/out/{}/{file}", job.name)).await.unwrap_or_default();
    }
    let maps = world.config_maps();
    let ours = ListParams::default().labels(&format!("llmbatch.dev/job={}", job.name));
    let all = insist("list ConfigMaps", || maps.list(&ours)).await;
    all.into_iter().find_map(|map| map.data?.remove(file)).unwrap_or_default()
}
