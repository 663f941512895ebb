//! Rules that the model leaves out, by subject; and those whose words matter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod abandoning;
mod beside;
mod collecting;
mod destination;
mod progress;
mod providers;
mod questions;
mod refusals;
mod status;
mod submitting;
mod tidying;

use batchjob_operator::api::{
    BatchJobStatus, DeletionPolicy, ErrorSummary, InputStatus, Lock, Outcome, PinnedProvider, ProviderFilePolicy,
    ProviderType, RequestCounts, UnknownSubmissionPolicy,
};
use batchjob_operator::lifecycle::{
    Answers, Attempt, AttemptState, Collected, Commit, Failure, Halved, JobView, Journal, Look, ManifestView, Memory,
    Observed, Owner, PartRef, Pass, Place, Plan, Planned, Posted, ProviderView, Refusal, Rejection, Search, Seen,
    Shard, Shards, Slot, Step, Stuck, Task, Tidied, Timing, Untidy, Waiting, decide, error_summary, may_be_submitted,
    project,
};

const TIMING: Timing =
    Timing { post_window: 10, send_timeout: 10, listing_lag: 10, deletion_deadline: 1_000, abandon_after: 100_000 };
const NOW: i64 = 1_000_000;

fn owner(name: &str, uid: &str) -> Owner {
    Owner { cluster: "c".into(), namespace: "n".into(), name: name.into(), uid: uid.into() }
}

fn job() -> JobView {
    JobView {
        owner: owner("j", "u"),
        deleting_since: None,
        finalizer: true,
        suspend: false,
        spec_hash: "spec".into(),
        output_uri: "s3://b/o/".into(),
        lock: Some(Lock { spec_hash: "spec".into(), output_uri: "s3://b/o/".into() }),
        shard_limit: 100,
        seal_at: 16,
        parallelism: 4,
        backoff_limit_per_batch: 3,
        backoff_limit_per_request: 2,
        max_failed: None,
        deadline: None,
        poll_period: 60_000,
        deletion_policy: DeletionPolicy::Cancel,
        provider_file_policy: ProviderFilePolicy::Delete,
        pinned: true,
        provider: Some(provider()),
        submitted: true,
        batches: vec!["batch-1".into()],
        remembered: None,
        finished: false,
        mended: false,
        tidy: false,
        answers: Default::default(),
        fingerprint: "f".into(),
        stuck: None,
        is_lost: false,
    }
}

fn provider() -> ProviderView {
    let pin = PinnedProvider { uid: "p".into(), type_: ProviderType::OpenAI, base_url: "https://p/v1".into() };
    ProviderView {
        name: "BatchProvider 'p'".into(),
        pin,
        kept: true,
        going: false,
        is_vendors_own: false,
        unknown_submission_policy: UnknownSubmissionPolicy::Resolve,
    }
}

fn plan(work_hash: &str) -> Plan {
    Plan {
        work_hash: work_hash.into(),
        input: InputStatus::default(),
        requests: 1,
        too_large: Default::default(),
        left_out: Default::default(),
    }
}

fn shard(state: Option<AttemptState>) -> Shard {
    let attempt = state.map(|state| Attempt {
        number: 1,
        intent_id: "intent-1".into(),
        file_id: "file-1".into(),
        post_by: NOW - 1_000,
        fingerprint: "f".into(),
        declined: None,
        billed_again: 0,
        state,
    });
    Shard {
        index_sha256: String::new(),
        sha256: "s".into(),
        bytes: 1,
        first: 0,
        requests: 1,
        failures: 0,
        attempt,
        round: 0,
        took: Default::default(),
        took_errors: vec![],
        model: "m".into(),
        streaks: Default::default(),
    }
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
    let planned = Planned { staged: None, plan: plan("other"), shards: Shards::default() };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

fn the_same_work(memory: Memory) -> Memory {
    let planned = Planned { staged: None, plan: plan("h"), shards: Shards::default() };
    Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(planned) }), ..memory }
}

fn with_provider(change: impl FnOnce(&mut ProviderView)) -> JobView {
    let mut provider = provider();
    change(&mut provider);
    JobView { provider: Some(provider), ..job() }
}
