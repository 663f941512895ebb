//! The delivery of messages to webhooks, beside the visits of their jobs.
//!
//! `status.notifications` is the queue. Each webhook of a job with waiting messages has one task, which holds little
//! between two attempts and reads the job anew for each. So the next process delivers the messages that this one loses.

mod attempt;
mod pass;

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;
use tracing::{Instrument, warn};

use crate::api::{BatchJob, NotificationStatus, annotations};
use crate::controller::Context;
use crate::controller::runtime::cache;
use crate::fair::{Claim, Limits, Share, Shares};
use crate::telemetry;
use pass::{Tries, in_order, pass};

/// Limits of the webhooks that are told at a time. Each waits for a server of a tenant for 20 s at most. One name of a
/// notification gets half of the places of its namespace, and all retries together get half of all.
const LIMITS: Limits = Limits { total: 64, per_namespace: 16, keeps_last_shares: true };
/// The pause before another look at a job whose messages are being delivered. The delivery asks for a visit at its end.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// The same for a delivery that has just begun. It may have nothing to do: the watch can be older than the end of the
/// delivery before.
const BEGUN: Duration = Duration::from_secs(2);

/// Time for messages that are on their way when the operator stops.
const AT_THE_END: Duration = Duration::from_secs(2);
/// Stand-in for the hash of messages that were not seen yet.
const UNSEEN: u64 = 0;

/// The deliveries that are under way.
pub(crate) struct Deliveries {
    all: Mutex<HashMap<Key, Arc<Delivery>>>,
    turns: Arc<Shares>,
}

/// A webhook of a job.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    job: ObjectRef<BatchJob>,
    uid: String,
    /// Name of the notification.
    name: String,
}

/// The delivery of the messages to one webhook of a job.
#[derive(Default)]
struct Delivery {
    /// Hashes of a person's request and of the messages, as they were last seen.
    asked: AtomicU64,
    messages: AtomicU64,
    /// Whether either changed since the last pass.
    is_wanted: AtomicBool,
    wake: Notify,
}

impl Default for Deliveries {
    fn default() -> Self {
        Deliveries { all: Mutex::default(), turns: Shares::new(LIMITS) }
    }
}

impl Deliveries {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Delivery>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn of a webhook that is told of a job for the last time; None if it would have to wait.
    fn turn_now(&self, namespace: &str, name: &str) -> Option<Share> {
        self.turns.try_take(Claim { namespace: namespace.into(), lane: name.into(), size: 1, ..Claim::default() })
    }

    /// Removes a delivery that has no message left. Returns false if it has become wanted in the meantime.
    fn end(&self, key: &Key, delivery: &Delivery) -> bool {
        let mut all = self.all();
        if delivery.is_wanted.load(Ordering::Acquire) {
            return false;
        }
        all.remove(key);
        true
    }
}

/// Sees to it that the waiting messages of a job are delivered. Returns the pause before the next look at them; None if
/// there are none. `is_whole` tells whether `job` has its whole status, or only the part that a watch keeps. New
/// messages, a change of the spec and a person's request end the pause after a failure.
pub(super) fn deliver(ctx: &Arc<Context>, job: &BatchJob, is_whole: bool) -> Option<Duration> {
    let uid = job.uid()?;
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for message in waiting(job) {
        by_name.entry(&message.name).or_default().push(&message.id);
    }
    let asked = hash(&(job.metadata.generation, job.annotations().get(annotations::RECONCILE_REQUESTED_AT)));
    let look_again = by_name.into_iter().map(|(name, messages)| {
        let key = Key { job: ObjectRef::from_obj(job), uid: uid.clone(), name: name.into() };
        let mut all = ctx.jobs.deliveries.all();
        match all.entry(key) {
            Entry::Occupied(known) => {
                let (delivery, messages) = (known.get(), hash(&messages));
                let before = if is_whole { delivery.messages.swap(messages, Ordering::AcqRel) } else { UNSEEN };
                let others = before != UNSEEN && before != messages;
                if delivery.asked.swap(asked, Ordering::AcqRel) != asked || others {
                    delivery.is_wanted.store(true, Ordering::Release);
                    delivery.wake.notify_one();
                }
                UNDER_WAY
            }
            Entry::Vacant(free) => {
                let delivery = Arc::new(Delivery { asked: asked.into(), ..Default::default() });
                delivery.messages.store(if is_whole { hash(&messages) } else { UNSEEN }, Ordering::Release);
                let key = free.key().clone();
                free.insert(delivery.clone());
                let span = telemetry::visit(job.metadata.namespace.as_deref(), &job.name_any(), Some(&uid));
                ctx.tracker.spawn(run(ctx.clone(), key, delivery).instrument(span));
                BEGUN
            }
        }
    });
    look_again.min()
}

/// Returns the messages of a job that are to be delivered.
fn waiting(job: &BatchJob) -> impl Iterator<Item = &NotificationStatus> {
    job.status.iter().flat_map(|status| &status.notifications).filter(|message| message.is_pending())
}

/// Starts a last attempt for the waiting messages of a job whose object is gone. The deletion does not wait for it. A
/// webhook that cannot be told at once, since too many others are being told, is not told.
pub(super) fn last_attempt(ctx: &Arc<Context>, job: &Arc<BatchJob>) {
    let namespace = job.namespace().unwrap_or_default();
    let names: BTreeSet<&str> = waiting(job).map(|message| message.name.as_str()).collect();
    for name in names {
        match ctx.jobs.deliveries.turn_now(&namespace, name) {
            Some(turn) => {
                let (ctx, job, name) = (ctx.clone(), job.clone(), name.to_string());
                ctx.clone().tracker.spawn(async move { last_pass(&ctx, &job, &name, turn).await });
            }
            None => {
                waiting(job).filter(|message| message.name == name).for_each(|_| ctx.metrics.notification("GaveUp"));
                is_lost(job, name, "too many webhooks are being told now");
            }
        }
    }
}

/// Sends the waiting messages to a webhook of a job that is gone, in their order, up to the first one that fails.
async fn last_pass(ctx: &Context, job: &BatchJob, name: &str, _turn: Share) {
    let since = ctx.clock.now() - cache::LIFETIME + 1;
    let messages: Vec<_> = waiting(job).filter(|message| message.name == name).collect();
    let total = messages.len();
    let tried = tokio::select! {
        tried = in_order(ctx, job, messages, since) => tried,
        () = stopped(ctx) => return,
    };
    let mut delivered = 0;
    for (_, result) in tried {
        match result {
            Ok(()) => delivered += 1,
            Err(unsent) => is_lost(job, name, &unsent.why.message),
        }
    }
    for n in 0..total {
        ctx.metrics.notification(if n < delivered { "Delivered" } else { "GaveUp" });
    }
}

/// Logs that a webhook is not told of all that became of a deleted job.
fn is_lost(job: &BatchJob, notification: &str, why: &str) {
    let (namespace, name) = (job.namespace(), job.name_any());
    warn!(namespace, name, notification, why, "messages about a deleted job are lost");
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Waits until the operator stops, and for [`AT_THE_END`] more. The next operator sends a message again that is cut off
/// then.
async fn stopped(ctx: &Context) {
    ctx.stop.cancelled().await;
    tokio::time::sleep(AT_THE_END).await;
}

async fn run(ctx: Arc<Context>, key: Key, delivery: Arc<Delivery>) {
    let mut tries = Tries::default();
    while !ctx.stop.is_cancelled() {
        if delivery.is_wanted.swap(false, Ordering::AcqRel) {
            tries.try_again();
        }
        // On the heap: thousands of these tasks may wait for a next attempt.
        let pass = Box::pin(pass(&ctx, &key, &mut tries));
        let until = tokio::select! {
            until = pass => until,
            () = stopped(&ctx) => return,
        };
        let Some(until) = until else {
            match ctx.jobs.deliveries.end(&key, &delivery) {
                true => {
                    // The job may be deleted now, if it was kept for its messages.
                    if tries.is_told {
                        ctx.jobs.poke(key.job);
                    }
                    return;
                }
                false => continue,
            }
        };
        let pause = Duration::from_millis(until.saturating_sub(ctx.clock.now()).max(1).unsigned_abs());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = delivery.wake.notified() => {}
            () = ctx.stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_are_deleted_at_once_tell_a_bounded_number_of_webhooks_and_leave_places_for_others() {
        let deliveries = Deliveries::default();
        let turns: Vec<Share> =
            (0..2_000).filter_map(|n| deliveries.turn_now("hostile", &format!("hook-{}", n % 8))).collect();
        let most = usize::try_from(LIMITS.per_namespace).unwrap();
        assert!(!turns.is_empty() && turns.len() <= most, "{}", turns.len());
        assert!(deliveries.turn_now("quiet", "ops").is_some());
        drop(turns);
        assert!(deliveries.turn_now("hostile", "hook-0").is_some(), "a turn ends with its last attempt");
        assert!(
            deliveries.turns.waiting().values().all(|waiting| *waiting == 0),
            "nothing waits for a job that is gone"
        );
    }
}
