//! Turns: a visit of a job begins when it is the turn of its namespace and of the store that its results go to.

use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use super::Context;
use crate::api::BatchJob;
use crate::fair::{Claim, Limits, Share};

/// Visits at a time. Each holds one object and what it reads of the journal. A store that does not answer holds up the visits of
/// its own jobs, at most half of those of their namespace, for as long as a call of storage may take; see `Folder`.
pub(super) const LIMITS: Limits = Limits { total: 128, per_namespace: 16, keeps_last_shares: true };

/// Time after which a visit goes back into the queue before its next step.
const LONG: Duration = Duration::from_secs(1);

/// The right to visit a job now, given back when it is dropped.
pub(super) struct Turn {
    /// None: nobody takes turns any more.
    share: Option<Share>,
    began: Instant,
}

impl Turn {
    /// Waits for the turn of `job`. None: we are stopping.
    pub async fn of(ctx: &Context, job: &BatchJob) -> Option<Turn> {
        let namespace = job.namespace().unwrap_or_default();
        let claim = Claim { namespace, lane: destination(job), size: 1, ..Claim::default() };
        tokio::select! {
            share = ctx.turns.take(claim) => Some(Turn { share: Some(share), began: Instant::now() }),
            () = ctx.stop.cancelled() => None,
        }
    }

    /// The right to visit a job while we stop.
    pub fn last() -> Turn {
        Turn { share: None, began: Instant::now() }
    }

    /// Whether it took so long that others come first.
    pub fn is_over(&self) -> bool {
        self.share.is_some() && self.began.elapsed() > LONG
    }
}

/// The server of the store that a job writes to; empty where that is the API server or Amazon.
fn destination(job: &BatchJob) -> String {
    let location = job.spec.output.object_store.as_ref();
    location.and_then(|location| location.endpoint.as_deref()).unwrap_or_default().to_ascii_lowercase()
}
