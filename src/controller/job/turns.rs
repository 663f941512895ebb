//! Turns: a visit of a job begins when it is the turn of its namespace and of the store that its results go to.

use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::runtime::trouble::Trouble;
use crate::fair::{self, Claim, Limits, Share};
use crate::telemetry::Timer;
use crate::transport::Meter;

/// Visits at a time. Each holds one object and what it reads of the journal. A store that does not answer holds up the visits of
/// its own jobs, at most half of those of their namespace, for as long as a call of storage may take; see `Folder`.
pub(crate) const LIMITS: Limits = Limits { total: 128, per_namespace: 16, keeps_last_shares: true };

/// Time after which a visit goes back into the queue before its next step.
const LONG: Duration = Duration::from_secs(1);

/// The right to visit a job now, given back when it is dropped.
pub(crate) struct Turn {
    /// None: nobody takes turns any more.
    share: Option<Share>,
    began: Instant,
    _visit: Option<Timer>,
}

impl Turn {
    /// Waits for the turn of `job`. None: we are stopping.
    pub async fn of(ctx: &Context, job: &BatchJob) -> Option<Turn> {
        let claim = Claim {
            namespace: job.namespace().unwrap_or_default(),
            lane: destination(job),
            size: 1,
            is_retry: ctx.jobs.sessions.has_failed(&job.uid().unwrap_or_default()),
            ..Claim::default()
        };
        let _waits = ctx.metrics.visit_queue();
        tokio::select! {
            share = ctx.jobs.turns.take(claim) => {
                Some(Turn { share: Some(share), began: Instant::now(), _visit: Some(ctx.metrics.visit()) })
            }
            () = ctx.stop.cancelled() => None,
        }
    }

    /// The right to visit a job while we stop.
    pub fn last() -> Turn {
        Turn { share: None, began: Instant::now(), _visit: None }
    }

    /// Does a step, which ends where it waits for a store for long while a namespace that has no turn waits for one: after
    /// [`fair::grace`] of so many `failures` in a row.
    ///
    /// # Errors
    /// The step's own, or that it ended so. Whether an intent was written is then found out, as after any call of which the reply is
    /// lost.
    pub async fn keep<T>(&self, failures: u32, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        self.keep_for(fair::grace(failures), step).await
    }

    async fn keep_for<T>(&self, grace: Duration, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let Some(share) = &self.share else { return step.await };
        let meter = Meter::default();
        tokio::select! {
            biased;
            done = meter.clone().measure(step) => done,
            waited = waits_too_long(share, &meter, grace) => {
                let message = format!(
                    "the store was not done within {} s, while jobs of other namespaces waited for their turn",
                    waited.as_secs()
                );
                Err(Trouble::passing(reasons::STORAGE_UNAVAILABLE, message))
            }
        }
    }

    /// Whether it took so long that others come first.
    pub fn is_over(&self) -> bool {
        self.share.is_some() && self.began.elapsed() > LONG
    }
}

/// Ends once a step has waited for a store for `grace`, and does so now, while a namespace without a share waits for one; with how long
/// it waited.
async fn waits_too_long(share: &Share, meter: &Meter, grace: Duration) -> Duration {
    loop {
        let left = grace.saturating_sub(meter.waiting_for_a_store().unwrap_or_default());
        tokio::time::sleep(left.max(grace / 16)).await;
        if meter.waiting_for_a_store().is_none_or(|waited| waited < grace) {
            continue;
        }
        share.is_wanted().await;
        if let Some(waited) = meter.waiting_for_a_store() {
            return waited;
        }
    }
}

/// The server of the store that a job writes to; empty where that is the API server or Amazon.
fn destination(job: &BatchJob) -> String {
    let location = job.spec.output.object_store.as_ref();
    location.and_then(|location| location.endpoint.as_deref()).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;
    use crate::fair::Shares;

    const GRACE: Duration = Duration::from_millis(200);

    async fn turn(turns: &Arc<Shares>, namespace: &str, is_retry: bool) -> Turn {
        let claim = Claim { namespace: namespace.into(), size: 1, is_retry, ..Claim::default() };
        Turn { share: Some(turns.take(claim).await), began: Instant::now(), _visit: None }
    }

    /// A step that waits for a store which does not answer until the call's time is up.
    async fn silent_store() -> Result<(), Trouble> {
        let _call = Meter::store_call();
        tokio::time::sleep(GRACE * 10).await;
        Ok(())
    }

    /// A step of `calls`, each of which takes a while, and of which `storing` is the time that it waits for a store.
    async fn calls(calls: u32, storing: Duration) -> Result<(), Trouble> {
        for _ in 0..calls {
            tokio::time::sleep(GRACE / 2 - storing).await;
            let _call = Meter::store_call();
            tokio::time::sleep(storing).await;
        }
        Ok(())
    }

    /// Whether a step of the only turn comes to its end, and when, while another namespace waits for a turn or does not.
    async fn ends(is_wanted: bool, step: impl Future<Output = Result<(), Trouble>>) -> (bool, Duration) {
        let turns = Shares::new(Limits { total: 1, ..LIMITS });
        let held = turn(&turns, "slow", false).await;
        let began = Instant::now();
        let mut waits = turn(&turns, "quiet", false).boxed();
        if is_wanted {
            assert!((&mut waits).now_or_never().is_none());
        }
        (held.keep_for(GRACE, step).await.is_ok(), began.elapsed())
    }

    #[tokio::test]
    async fn a_step_that_waits_for_stores_for_long_ends_for_a_namespace_without_a_turn() {
        let (one_call, many_calls, of_the_cluster, not_wanted) = tokio::join!(
            ends(true, silent_store()),
            ends(true, calls(20, GRACE / 2)),
            ends(true, calls(4, GRACE / 50)),
            ends(false, silent_store()),
        );
        assert!(!one_call.0 && one_call.1 >= GRACE && one_call.1 < GRACE * 5, "{one_call:?}");
        assert!(!many_calls.0 && many_calls.1 < GRACE * 8, "{many_calls:?}");
        assert!(of_the_cluster.0, "it waited for something else");
        assert!(not_wanted.0, "nobody waits");
    }

    /// 40 namespaces, each with 20 jobs whose stores never answer: each job is tried again at growing distances.
    #[tokio::test]
    async fn jobs_of_40_namespaces_whose_stores_hang_hold_up_a_quiet_one_for_little_more_than_the_grace() {
        let turns = Shares::new(LIMITS);
        for job in 0..800 {
            let turns = turns.clone();
            tokio::spawn(async move {
                for failures in 0..10 {
                    let turn = turn(&turns, &format!("hostile-{}", job % 40), failures > 0).await;
                    let _ = turn.keep_for(GRACE * (1 << failures), silent_store()).await;
                    drop(turn);
                    tokio::time::sleep(GRACE * (1 << failures) / 3).await;
                }
            });
        }
        for _ in 0..6 {
            tokio::time::sleep(GRACE * 2).await;
            let began = Instant::now();
            drop(turn(&turns, "quiet", false).await);
            let waited = began.elapsed();
            assert!(waited <= GRACE * 4, "{waited:?}");
        }
    }
}
