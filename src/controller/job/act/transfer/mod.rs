//! Steps that move data: they run beside the reconcile loop, and can all be done again.

mod batch;
mod input;
mod results;
mod staged;

use crate::api::{BatchJob, RequestCounts};
use crate::controller::job::clients::Clients;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{Memory, Shard};
use crate::store::StagedShard;

/// Requests of a batch whose answers go into a ConfigMap: all of them lie there as one object, which has to find room.
const REQUESTS_OF_CONFIG_MAPS: i64 = 500;

/// What a finished task changes in memory.
pub(crate) type Learned = Box<dyn FnOnce(&mut Memory) + Send>;

/// For [`tasks`](crate::controller::job::tasks): how a task ended.
pub(crate) type Outcome = Result<Learned, StepError>;

pub(super) fn learned(edit: impl FnOnce(&mut Memory) + Send + 'static) -> Learned {
    Box::new(edit)
}

/// Requests of one batch at most.
fn max_requests(job: &BatchJob, clients: &Clients) -> i64 {
    let limit = i64::from(clients.account.limits().max_requests_per_batch);
    match job.spec.output.config_map {
        Some(_) => limit.min(REQUESTS_OF_CONFIG_MAPS),
        None => limit,
    }
}

/// A shard that was staged and is to be sent.
fn shard(staged: StagedShard, round: u32, took: RequestCounts) -> Shard {
    let StagedShard { sha256, index_sha256, bytes, first, requests, model } = staged;
    Shard {
        sha256,
        index_sha256,
        bytes,
        first,
        requests,
        failures: 0,
        attempt: None,
        round,
        took,
        took_errors: vec![],
        model,
        streaks: Default::default(),
    }
}
