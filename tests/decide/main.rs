//! Rules that the model leaves out, by subject; and those whose words matter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/beginnings.rs"]
mod beginnings;
#[path = "../support/ends.rs"]
mod ends;

mod abandoning;
mod beside;
mod budget;
mod canary;
mod capabilities;
mod clock;
mod collecting;
mod destination;
mod eta;
mod hints;
mod input;
mod life;
mod notices;
mod partial;
mod plans;
mod prices;
mod progress;
mod providers;
mod questions;
mod refusals;
mod reservations;
mod reuse;
mod searches;
mod spending;
mod status;
mod stopping;
mod stuck;
mod submitting;
mod tidying;
mod trials;

use std::collections::BTreeMap;

use batchjob_operator::api::{
    BatchEnd, BatchJobStatus, DeletionPolicy, ErrorSummary, Outcome, ProviderFilePolicy, RequestCounts, StopPolicy,
    UnknownSubmissionPolicy,
};
use batchjob_operator::lifecycle::{
    Answers, Attempt, AttemptKey, AttemptState, Blocked, BudgetWait, CleanUpFailure, CleanUpResult, CollectResult,
    Commit, Failure, HalveResult, JobView, Journal, ManifestView, Memory, Observed, Owner, PartRef, Pass, Payload,
    Place, Plan, PlanResult, PollResult, PolledState, PostResult, ProviderView, ReadCounts, Refusal, Rejection,
    ReserveResult, Search, Shard, Shards, ShortRead, Step, Task, Timing, Waiting, decide, error_summary,
    may_be_submitted, project,
};
use beginnings::provider;

const TIMING: Timing =
    Timing { post_window: 10, send_timeout: 10, listing_lag: 10, deletion_deadline: 1_000, abandon_after: 100_000 };
const NOW: i64 = 1_000_000;

fn owner(name: &str, uid: &str) -> Owner {
    Owner { cluster: "c".into(), namespace: "n".into(), name: name.into(), uid: uid.into() }
}

fn job() -> JobView {
    JobView { submitted: true, batches: vec!["batch-1".into()], ..beginnings::job() }
}

fn plan(work_hash: &str) -> Plan {
    Plan { work_hash: work_hash.into(), ..beginnings::plan(1) }
}

fn shard(state: Option<AttemptState>) -> Shard {
    let intended = || Attempt::intended(1, "intent-1", Payload::file("file-1"), NOW - 1_000, "f");
    let attempt = state.map(|state| Attempt { state, ..intended() });
    Shard { attempt, ..beginnings::shard() }
}

fn journal(of: Owner, state: Option<AttemptState>) -> Journal {
    let mut journal = Journal::open("w".into(), of, "spec".into());
    journal.plan = Some(plan("h"));
    journal.shards.push(shard(state));
    journal
}

fn submitted() -> Option<AttemptState> {
    Some(AttemptState::Submitted { batch_id: "batch-1".into(), at: NOW - 100_000 })
}

/// A batch that completed; `retryable` of its requests failed in a way that may pass.
fn completed(batch_id: &str, counts: RequestCounts, retryable: i64) -> AttemptState {
    AttemptState::Settled {
        batch_id: batch_id.into(),
        ended: "completed".into(),
        part: Some(PartRef { name: "p".into(), sha256: "s".into() }),
        counts,
        usage: Default::default(),
        cost: None,
        retryable,
        errors: vec![],
        files: vec![],
    }
}

/// The answers of a batch, collected as one part, with its requests by outcome.
fn collected(counts: RequestCounts) -> CollectResult {
    CollectResult {
        part: PartRef { name: "p".into(), sha256: "s".into() },
        counts,
        usage: Default::default(),
        totals: None,
        retryable: 0,
        errors: vec![],
        files: vec![],
        short: None,
        long_context_above: None,
        foreign: 0,
    }
}

/// So many requests, all of which succeeded.
fn all_succeeded(requests: i64) -> RequestCounts {
    RequestCounts { total: requests, succeeded: requests, ..Default::default() }
}

/// The manifest of a work that succeeded just now.
fn manifest(work_id: &str, work_hash: &str) -> ManifestView {
    ManifestView {
        work_id: work_id.into(),
        work_hash: work_hash.into(),
        outcome: Outcome::Succeeded,
        reason: "AllSucceeded".into(),
        message: "m".into(),
        requests: RequestCounts::default(),
        at: NOW,
        files: vec![],
        errors: vec![],
        spending: Default::default(),
    }
}

fn memory() -> Memory {
    Memory { manifest: Some(None), store_proved: Some(Ok(())), ..Default::default() }
}

/// The list showed no other batch of the intent.
fn searched(mut memory: Memory) -> Memory {
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    memory
}

fn step(job: &JobView, journal: Option<&Journal>, memory: &Memory) -> Step {
    decide(&Observed { now: NOW, nonce: "nonce", timing: &TIMING, job, journal, memory })
}

fn other_work(memory: Memory) -> Memory {
    let planned = PlanResult { staged: None, plan: plan("other"), shards: Shards::default() };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

fn the_same_work(memory: Memory) -> Memory {
    let planned = PlanResult { staged: None, plan: plan("h"), shards: Shards::default() };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

fn with_provider(change: impl FnOnce(&mut ProviderView)) -> JobView {
    let mut provider = provider();
    change(&mut provider);
    JobView { provider: Some(provider), ..job() }
}
