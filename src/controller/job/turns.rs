//! Turns: the right to visit a job. Namespaces take turns, and so do the stores that the results of a namespace go to. The
//! visit of a job with a large journal first waits for memory.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::fair::{self, Claim, Limits, Share, Shares};
use crate::telemetry::Timer;
use crate::transport::Meter;

/// Limits of simultaneous visits. Each visit holds one object and a small journal, or has a share of [`ROOMS`]. The jobs of one
/// store get about half of the visits of their namespace, so that a store that does not answer leaves the rest to other jobs.
pub(crate) const LIMITS: Limits = Limits { total: 128, per_namespace: 16, keeps_last_shares: true };

/// Limits of the memory for large journals of all visits, in bytes.
///
/// A visit that needs more than it has ends, and begins again with as much as it needs. It waits for memory before it takes a
/// turn, so that no visit holds a turn while it waits for memory.
pub(crate) const ROOMS: Limits = Limits { total: 48 << 20, per_namespace: u64::MAX, keeps_last_shares: true };
/// Bytes of a journal that each visit may hold without a share of [`ROOMS`].
const SMALL_ROOM: u64 = 256 << 10;

/// Time after which a visit goes back into the queue before its next step.
const LONG: Duration = Duration::from_secs(1);

/// The right to visit a job now. It is given back when it is dropped.
pub(crate) struct Turn {
    /// None for a last visit while the operator stops, which takes no turn.
    share: Option<Share>,
    /// None for a small visit.
    room: Option<Room>,
    /// The most bytes that the visit reported to hold at a time.
    most: AtomicU64,
    began: Instant,
    _visit: Option<Timer>,
}

/// A share of [`ROOMS`].
struct Room {
    share: Share,
    /// True if no visit gets a larger room, so that the holder is not stopped for what it holds.
    is_largest: bool,
}

impl Room {
    async fn claim(of: &Arc<Shares>, claim: Claim) -> Room {
        let wanted = claim.size;
        let share = of.take(claim).await;
        let is_largest = share.size() < wanted || wanted >= ROOMS.total;
        Room { share, is_largest }
    }

    /// Returns true if the room has space for so many bytes; it grows if it can and must. Half as much again as was claimed is
    /// accepted without growing, because a claim is an estimate: what a step reads is not known before the step is decided.
    fn holds(&self, bytes: u64) -> bool {
        self.is_largest || bytes <= self.share.size() / 2 * 3 || self.share.grow(bytes)
    }
}

/// The reason why a step ended early.
#[derive(Debug)]
pub(crate) enum TurnError {
    Failed(StepError),
    /// The step outgrew its room, and needs so many bytes.
    Outgrown(u64),
}

impl Turn {
    /// Waits for the turn of `job`. Returns None if the operator stops.
    pub async fn of(ctx: &Context, job: &BatchJob) -> Option<Turn> {
        let uid = job.uid().unwrap_or_default();
        let claim = Claim {
            namespace: job.namespace().unwrap_or_default(),
            lane: destination(job),
            size: 1,
            is_retry: ctx.jobs.job_states.has_failed(&uid),
            ..Claim::default()
        };
        let room = ctx.jobs.job_states.room(&uid).map(|size| Claim { size, ..claim.clone() });
        let _waits = ctx.metrics.visit_queue();
        let granted = async {
            let room = match room {
                Some(room) => Some(Room::claim(&ctx.jobs.rooms, room).await),
                None => None,
            };
            let share = Some(ctx.jobs.turns.take(claim).await);
            Turn { room, _visit: Some(ctx.metrics.visit()), ..Turn::with(share) }
        };
        tokio::select! {
            turn = granted => Some(turn),
            () = ctx.stop.cancelled() => None,
        }
    }

    fn with(share: Option<Share>) -> Turn {
        Turn { share, room: None, most: AtomicU64::new(0), began: Instant::now(), _visit: None }
    }

    /// Returns the right to a last visit while the operator stops.
    pub fn last() -> Turn {
        Turn::with(None)
    }

    /// Runs a step. The step is ended early if it holds more bytes than its room has and the room cannot grow, or if it waits
    /// for a store for too long while a namespace without a turn waits for one. The time that it may wait, [`fair::grace`],
    /// grows with the job's `failures` in a row.
    ///
    /// # Errors
    /// The step's own error, or the reason why it was ended early. The write of such a step, an intent for example, may or may
    /// not have succeeded; the next read of the journal tells.
    pub async fn keep<T>(
        &self,
        failures: u32,
        step: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, TurnError> {
        self.keep_for(fair::grace(failures), step).await
    }

    async fn keep_for<T>(
        &self,
        grace: Duration,
        step: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, TurnError> {
        if self.share.is_none() {
            return step.await.map_err(TurnError::Failed);
        }
        let meter = Meter::default();
        tokio::select! {
            biased;
            done = self.in_room(&meter, meter.clone().measure(step)) => done,
            waited = self.waits_too_long(&meter, grace) => {
                let message = format!(
                    "the store was not done within {} s, while jobs of other namespaces waited for their turn",
                    waited.as_secs()
                );
                Err(TurnError::Failed(StepError::passing(reasons::STORAGE_UNAVAILABLE, message)))
            }
        }
    }

    /// Runs `step` until it holds more than its room, if the room cannot grow.
    async fn in_room<T>(
        &self,
        meter: &Meter,
        step: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, TurnError> {
        let mut step = pin!(step);
        poll_fn(|cx| {
            let polled = step.as_mut().poll(cx);
            let held = meter.reserved();
            self.most.fetch_max(held, Ordering::Relaxed);
            match polled.is_pending() && !self.has_room(held) {
                true => Poll::Ready(Err(TurnError::Outgrown(held))),
                false => polled.map_err(TurnError::Failed),
            }
        })
        .await
    }

    fn has_room(&self, held: u64) -> bool {
        held <= SMALL_ROOM || self.room.as_ref().is_some_and(|room| room.holds(held))
    }

    /// Returns the bytes that the next visit needs, from those that this one held; None for a small visit.
    pub fn needed(&self) -> Option<u64> {
        let most = self.most.load(Ordering::Relaxed);
        (most > SMALL_ROOM).then(|| room_for(most))
    }

    /// Completes once a step has waited for a store for `grace`, and still does, while a namespace without a share waits for
    /// one. Returns the time that it waited.
    async fn waits_too_long(&self, meter: &Meter, grace: Duration) -> Duration {
        loop {
            let left = grace.saturating_sub(meter.waiting_for_a_store().unwrap_or_default());
            tokio::time::sleep(left.max(grace / 16)).await;
            if meter.waiting_for_a_store().is_none_or(|waited| waited < grace) {
                continue;
            }
            tokio::select! {
                () = is_wanted(self.share.as_ref()) => {}
                () = is_wanted(self.room.as_ref().map(|room| &room.share)) => {}
            }
            if let Some(waited) = meter.waiting_for_a_store() {
                return waited;
            }
        }
    }

    /// Returns true if the visit took so long that others come first.
    pub fn is_over(&self) -> bool {
        self.share.is_some() && self.began.elapsed() > LONG
    }
}

/// Returns the bytes to claim for the next visit of a job whose last visit held so many: somewhat more, so that it does not
/// outgrow them by a little.
pub(crate) fn room_for(held: u64) -> u64 {
    held.next_multiple_of(SMALL_ROOM).min(ROOMS.total)
}

async fn is_wanted(share: Option<&Share>) {
    match share {
        Some(share) => share.is_wanted().await,
        None => std::future::pending().await,
    }
}

/// Returns the server of the store that a job writes to; empty for the API server and for Amazon.
fn destination(job: &BatchJob) -> String {
    let location = job.spec.output.object_store.as_ref();
    location.and_then(|location| location.endpoint.as_deref()).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::store;

    const GRACE: Duration = Duration::from_millis(200);

    async fn turn(turns: &Arc<Shares>, namespace: &str, is_retry: bool) -> Turn {
        let claim = Claim { namespace: namespace.into(), size: 1, is_retry, ..Claim::default() };
        Turn::with(Some(turns.take(claim).await))
    }

    /// A step that waits for a store which does not answer until the call's time is up.
    async fn silent_store() -> Result<(), StepError> {
        let _call = Meter::store_call();
        tokio::time::sleep(GRACE * 10).await;
        Ok(())
    }

    /// A step of `calls`, each of which takes a while, `storing` of which it waits for a store.
    async fn calls(calls: u32, storing: Duration) -> Result<(), StepError> {
        for _ in 0..calls {
            tokio::time::sleep(GRACE / 2 - storing).await;
            let _call = Meter::store_call();
            tokio::time::sleep(storing).await;
        }
        Ok(())
    }

    /// Returns true if a step with the only turn completes, and the time it took, while another namespace waits for a turn or
    /// does not.
    async fn ends(is_wanted: bool, step: impl Future<Output = Result<(), StepError>>) -> (bool, Duration) {
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

    /// A visit of a namespace, with a share of `rooms` where it needs one.
    async fn visit(turns: &Arc<Shares>, rooms: &Arc<Shares>, namespace: &str, needs: Option<u64>) -> Turn {
        let claim = Claim { namespace: namespace.into(), size: needs.unwrap_or_default(), ..Claim::default() };
        let room = if needs.is_some() { Some(Room::claim(rooms, claim).await) } else { None };
        Turn { room, ..turn(turns, namespace, false).await }
    }

    /// Runs a step that holds so many bytes; the error is the bytes that it needs.
    async fn holds(turn: &Turn, bytes: u64) -> Result<(), u64> {
        let step = async {
            let _held = store::reserve(bytes as usize).await;
            Ok(())
        };
        match turn.keep(0, step).await {
            Ok(()) => Ok(()),
            Err(TurnError::Outgrown(held)) => Err(held),
            Err(TurnError::Failed(error)) => panic!("{error:?}"),
        }
    }

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn a_visit_that_holds_more_than_a_little_begins_again_with_the_memory_for_it() {
        let (turns, rooms) = (Shares::new(LIMITS), Shares::new(ROOMS));
        let small = visit(&turns, &rooms, "a", None).await;
        assert_eq!(holds(&small, SMALL_ROOM).await, Ok(()));
        assert_eq!((holds(&small, 5 * MIB).await, small.needed()), (Err(5 * MIB), Some(5 * MIB)));
        let large = visit(&turns, &rooms, "a", small.needed()).await;
        assert_eq!(holds(&large, 7 * MIB).await, Ok(()), "and somewhat more");
        assert_eq!(holds(&large, 20 * MIB).await, Ok(()), "it grows where there is room");
        let other = visit(&turns, &rooms, "b", Some(20 * MIB)).await;
        assert_eq!(holds(&large, 40 * MIB).await, Err(40 * MIB), "others hold the rest");
        drop((large, other));
        let largest = visit(&turns, &rooms, "a", Some(room_for(1 << 40))).await;
        assert_eq!(holds(&largest, 100 * MIB).await, Ok(()), "it is alone, and there is no more to be had");
    }

    #[tokio::test]
    async fn visits_of_large_journals_are_as_many_as_there_is_memory_for_and_hold_up_no_small_one() {
        let (turns, rooms) = (Shares::new(LIMITS), Shares::new(ROOMS));
        let largest = visit(&turns, &rooms, "hostile", Some(ROOMS.total)).await;
        let mut waiting: Vec<_> =
            (0..100).map(|_| visit(&turns, &rooms, "hostile", Some(ROOMS.total)).boxed()).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert_eq!(
            turns.waiting().values().sum::<usize>(),
            0,
            "who waits for memory has no turn, and is in no queue for one"
        );
        for namespace in ["quiet", "hostile"] {
            let small = visit(&turns, &rooms, namespace, None).now_or_never();
            assert!(small.is_some(), "{namespace}");
        }
        let mut large = visit(&turns, &rooms, "honest", Some(2 * MIB)).boxed();
        assert!((&mut large).now_or_never().is_none());
        assert!(
            is_wanted(largest.room.as_ref().map(|room| &room.share)).now_or_never().is_some(),
            "it makes room if it is slow"
        );
        drop(largest);
        // Both hold nothing now, and it is the turn of the first that came.
        let next = waiting.iter_mut().find_map(|one| one.now_or_never());
        drop(next);
        assert!((&mut large).now_or_never().is_some(), "99 visits of another namespace wait, and it is not their turn");
    }

    #[test]
    fn jobs_share_a_lane_with_those_of_the_same_server_whatever_they_write_to_there() {
        let lane = |output: serde_json::Value| {
            let spec = serde_json::json!({
                "providerRef": {"name": "llm"}, "output": output,
                "input": {"inline": {"requests": []}},
            });
            let job = serde_json::json!({
                "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "j"}, "spec": spec,
            });
            destination(&serde_json::from_value(job).unwrap())
        };
        let at = |uri: &str, endpoint: Option<&str>| {
            lane(serde_json::json!({"objectStore": {"uri": uri, "endpoint": endpoint, "secretRef": {"name": "s3"}}}))
        };
        assert_eq!(at("s3://a/1/", Some("http://minio:9000")), at("s3://b/2/", Some("http://MINIO:9000")));
        assert_ne!(at("s3://a/1/", Some("http://minio:9000")), at("s3://a/1/", Some("http://other:9000")));
        assert_eq!(at("s3://a/1/", None), lane(serde_json::json!({"configMap": {"name": "results"}})));
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
