//! Where tests of decisions begin: a locked job that is pinned to its provider, and a plan of shards that are yet to be sent.

use batchjob_operator::api::{
    DeletionPolicy, InputStatus, Lock, PinnedProvider, ProviderFilePolicy, ProviderType, UnknownSubmissionPolicy,
};
use batchjob_operator::lifecycle::{JobView, Owner, Plan, ProviderView, Shard};

pub fn owner() -> Owner {
    Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() }
}

/// Nothing of it was submitted yet.
pub fn job() -> JobView {
    JobView {
        owner: owner(),
        deleting_since: None,
        finalizer: true,
        suspend: false,
        stop: None,
        spec_hash: "spec".into(),
        output_uri: "s3://b/o/".into(),
        partial_results: false,
        lock: Some(Lock { spec_hash: "spec".into(), output_uri: "s3://b/o/".into() }),
        shard_limit: 100,
        seal_at: 16,
        parallelism: 4,
        backoff_limit_per_batch: 3,
        backoff_limit_per_request: 2,
        max_failed: None,
        fail_on: vec![],
        budget: None,
        canary: None,
        approves: None,
        deadline: None,
        progress_deadline: None,
        completion_window: 86_400_000,
        poll_period: 60_000,
        deletion_policy: DeletionPolicy::Cancel,
        provider_file_policy: ProviderFilePolicy::Delete,
        pinned: true,
        provider: Some(provider()),
        submitted: false,
        batches: vec![],
        estimated: None,
        remembered: None,
        finished: false,
        input_wait: None,
        reevaluated: false,
        tidy: false,
        expires_at: None,
        subscriptions: vec![],
        answers: Default::default(),
        fingerprint: "f".into(),
        blocked: None,
        store_is_away: false,
        is_lost: false,
    }
}

pub fn provider() -> ProviderView {
    ProviderView {
        name: "BatchProvider 'p'".into(),
        pin: PinnedProvider { uid: "p".into(), type_: ProviderType::OpenAI, base_url: "https://p/v1".into() },
        kept: true,
        terminating: false,
        is_vendors_own: false,
        unknown_submission_policy: UnknownSubmissionPolicy::Resolve,
        capabilities: Default::default(),
        prices: Default::default(),
        models: Default::default(),
        has_budgets: false,
    }
}

pub fn plan(requests: i64) -> Plan {
    Plan {
        work_hash: "h".into(),
        input: InputStatus::default(),
        requests,
        too_large: Default::default(),
        left_out: Default::default(),
        reuse: vec![],
        models: vec![],
        canary: None,
    }
}

/// One request of the first round.
pub fn shard() -> Shard {
    Shard { sha256: "s".into(), bytes: 1, requests: 1, model: "m".into(), ..Shard::default() }
}
