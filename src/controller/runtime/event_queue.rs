//! The queue of events for the API server. It is bounded, and written beside the reconcile loop, so that no job waits for its
//! own events.
//!
//! It follows client-go's recorder. A repeated note counts up the series of its event. From the eleventh event of one reason
//! about one object within ten minutes, events are held, and once a minute one event stands for all of them. Each namespace has
//! a budget, with a separate one for warnings. kube's own recorder does neither, and shows all events of one reason with the
//! words of the first.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::Reporter;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::events::EventRecord;
use crate::api::FIELD_MANAGER;
use crate::api::text::clip;
use crate::controller::Clock;
use crate::telemetry::Metrics;

/// Events that wait to be written.
const QUEUE: usize = 2_000;
/// Writes at a time.
const WRITERS: usize = 4;
/// Bytes of a note: the API server takes 1,024.
const NOTE_LIMIT: usize = 1_000;
/// Events of one reason about one object that are written one by one.
const ONE_BY_ONE: usize = 10;
/// Milliseconds for which events of one reason about one object count as similar.
const SIMILAR_FOR: i64 = 600_000;
/// Milliseconds for which a repeated note counts up the series of its event.
const SERIES: i64 = 360_000;
/// Milliseconds for which similar events are held, to be reported as one.
const HELD: i64 = 60_000;
/// Events that a namespace may have written at once, of either type.
const BURST: f64 = 1_000.0;
/// Events a second by which the budget of a namespace grows again.
const REFILL: f64 = 20.0;
/// Objects and reasons that are remembered.
const REMEMBERED: usize = 10_000;

/// The sender of events.
pub(crate) struct EventQueue {
    queue: mpsc::Sender<QueuedEvent>,
    metrics: Metrics,
}

/// An event that waits to be written.
#[derive(Clone, Debug)]
struct QueuedEvent {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    record: EventRecord,
}

impl EventQueue {
    /// Returns a queue, and the end that [`write`] reads.
    pub fn new(metrics: Metrics) -> (EventQueue, QueuedEvents) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (EventQueue { queue, metrics }, QueuedEvents(waiting))
    }

    /// Puts an event into the queue. If it is full, the event is dropped and counted; status holds everything that matters.
    pub fn publish(&self, regarding: ObjectReference, related: Option<ObjectReference>, record: EventRecord) {
        if self.queue.try_send(QueuedEvent { regarding, related, record }).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

/// Events that wait to be written.
pub(crate) struct QueuedEvents(mpsc::Receiver<QueuedEvent>);

/// Writes events until the operator stops, and then those that still wait.
pub(crate) async fn write(
    QueuedEvents(mut waiting): QueuedEvents,
    client: Client,
    reporter: Reporter,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let (mut similar, mut writes) = (SimilarEvents::default(), FuturesUnordered::new());
    let mut due = tokio::time::interval(Duration::from_secs(5));
    let writer = |write| do_write(&client, &reporter, write);
    loop {
        tokio::select! {
            Some(queued) = waiting.recv(), if writes.len() < WRITERS => {
                writes.extend(similar.take(queued, clock.now()).map(writer));
            }
            Some(()) = writes.next(), if !writes.is_empty() => {}
            _ = due.tick() => writes.extend(similar.due(clock.now(), false).into_iter().map(writer)),
            () = stop.cancelled() => break,
        }
        metrics.events_dropped.inc_by(std::mem::take(&mut similar.dropped));
    }
    // Tasks that end with this process may still send events.
    while let Ok(Some(queued)) = tokio::time::timeout(Duration::from_millis(200), waiting.recv()).await {
        writes.extend(similar.take(queued, clock.now()).map(writer));
        if writes.len() >= WRITERS {
            writes.next().await;
        }
    }
    writes.extend(similar.due(clock.now(), true).into_iter().map(writer));
    while writes.next().await.is_some() {}
}

/// A write at the API server.
#[derive(Debug)]
enum Write {
    New {
        queued: QueuedEvent,
        name: String,
    },
    /// The note of the event of this name was sent for the `count`-th time.
    Repeat {
        queued: QueuedEvent,
        name: String,
        count: i32,
    },
}

/// Performs a write. A failure is logged and has no other effect.
async fn do_write(client: &Client, reporter: &Reporter, write: Write) {
    let now = MicroTime(jiff::Timestamp::now());
    let (Write::New { queued, .. } | Write::Repeat { queued, .. }) = &write;
    let reason = queued.record.reason;
    // Events about cluster-scoped objects are in `default`.
    let namespace = queued.regarding.namespace.clone().unwrap_or_else(|| "default".into());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let written = match write {
        Write::New { queued, name } => {
            let event = event(queued, name, namespace, reporter, now);
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
            api.create(&params, &event).await.map(drop)
        }
        Write::Repeat { name, count, .. } => {
            let patch = json!({"series": {"count": count, "lastObservedTime": now}});
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
            api.patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
        }
    };
    if let Err(error) = written {
        warn!(%error, reason, "an event could not be published");
    }
}

fn event(queued: QueuedEvent, name: String, namespace: String, reporter: &Reporter, now: MicroTime) -> Event {
    let QueuedEvent { regarding, related, record } = queued;
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        action: Some("Reconcile".into()),
        reason: Some(record.reason.into()),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.into()),
        note: Some(clip(record.note, NOTE_LIMIT)),
        event_time: Some(now),
        regarding: Some(regarding),
        related,
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(reporter.instance.clone().unwrap_or_else(|| reporter.controller.clone())),
        ..Default::default()
    }
}

/// An object and a reason.
type Kind = (u64, &'static str);

/// The events that were sent lately, and those that are held to be reported as one.
#[derive(Default)]
struct SimilarEvents {
    kinds: HashMap<Kind, Group>,
    budgets: HashMap<(String, bool), Budget>,
    named: u64,
    /// Events that no budget had room for.
    dropped: u64,
}

/// Events of one reason about one object. Times are Unix milliseconds.
#[derive(Default)]
struct Group {
    since: i64,
    /// The hash of each note, the name of its event, how often it was sent, and when last.
    notes: Vec<(u64, String, i32, i64)>,
    /// The last of the held events, their number, and the time at which they are due.
    held: Option<(QueuedEvent, usize, i64)>,
}

impl SimilarEvents {
    /// Returns the write for an event at `now`; None if the event is held or dropped.
    fn take(&mut self, queued: QueuedEvent, now: i64) -> Option<Write> {
        if self.kinds.len() >= REMEMBERED {
            self.kinds.retain(|_, group| group.held.is_some() || now < group.since + SIMILAR_FOR);
        }
        if self.kinds.len() >= REMEMBERED {
            self.kinds.retain(|_, group| group.held.is_some());
        }
        let kind =
            (hash(&(&queued.regarding.uid, &queued.regarding.name, &queued.regarding.namespace)), queued.record.reason);
        let about = queued.related.as_ref().map(|related| (&related.namespace, &related.name));
        let note = hash(&(about, &queued.record.note));
        let entry = self.kinds.entry(kind).or_default();
        if entry.held.is_none() && now >= entry.since + SIMILAR_FOR {
            *entry = Group { since: now, ..Default::default() };
        }
        let again = entry.notes.iter_mut().find(|(of, .., last)| *of == note && now < last + SERIES);
        if let Some((_, name, count, last)) = again {
            (*count, *last) = (*count + 1, now);
            let (name, count) = (name.clone(), *count);
            return self.within_budget(queued, now).map(|queued| Write::Repeat { queued, name, count });
        }
        if entry.notes.len() >= ONE_BY_ONE {
            let (count, due) = entry.held.as_ref().map_or((0, now + HELD), |(_, count, due)| (*count, *due));
            entry.held = Some((queued, count + 1, due));
            return None;
        }
        self.named += 1;
        let name = name(&queued, now, self.named);
        entry.notes.push((note, name.clone(), 1, now));
        self.within_budget(queued, now).map(|queued| Write::New { queued, name })
    }

    /// Returns the writes for events that were held until `now`, or for all that are held.
    fn due(&mut self, now: i64, all: bool) -> Vec<Write> {
        let held = self.kinds.values_mut().filter_map(|kind| kind.held.take_if(|(_, _, due)| all || now >= *due));
        let held: Vec<(QueuedEvent, usize)> = held.map(|(queued, count, _)| (queued, count)).collect();
        let write = |(mut queued, count): (QueuedEvent, usize)| {
            if count > 1 {
                queued.record.note = format!("(combined from {count} similar events): {}", queued.record.note);
            }
            self.named += 1;
            let name = name(&queued, now, self.named);
            self.within_budget(queued, now).map(|queued| Write::New { queued, name })
        };
        held.into_iter().filter_map(write).collect()
    }

    fn within_budget(&mut self, queued: QueuedEvent, now: i64) -> Option<QueuedEvent> {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let of = (queued.regarding.namespace.clone().unwrap_or_default(), queued.record.warning);
        let budget = self.budgets.entry(of).or_insert(Budget { left: BURST, at: now });
        let grown = (now - budget.at).clamp(0, 3_600_000) as f64 / 1_000.0 * REFILL;
        (budget.left, budget.at) = ((budget.left + grown).min(BURST), now);
        if budget.left < 1.0 {
            self.dropped += 1;
            return None;
        }
        budget.left -= 1.0;
        Some(queued)
    }
}

/// The number of events that a namespace may still have written.
struct Budget {
    left: f64,
    at: i64,
}

fn name(queued: &QueuedEvent, now: i64, nth: u64) -> String {
    let object = queued.regarding.name.as_deref().unwrap_or("batchjob-operator");
    format!("{object}.{now:x}.{nth:x}")
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(namespace: &str, job: &str, reason: &'static str, note: impl Into<String>) -> QueuedEvent {
        let text = |text: &str| Some(text.to_string());
        let regarding = ObjectReference { namespace: text(namespace), name: text(job), ..Default::default() };
        QueuedEvent { regarding, related: None, record: EventRecord::normal(reason, note) }
    }

    fn note(write: &Write) -> &str {
        let (Write::New { queued, .. } | Write::Repeat { queued, .. }) = write;
        &queued.record.note
    }

    #[test]
    fn a_job_of_one_batch_has_each_of_its_events_written() {
        let mut similar = SimilarEvents::default();
        for reason in ["InputResolved", "BatchSubmitted", "BatchEnded", "Completed"] {
            assert!(matches!(similar.take(queued("n", "j", reason, "batch 00000-1"), 1), Some(Write::New { .. })));
        }
        assert!(similar.due(1, true).is_empty());
    }

    #[test]
    fn the_events_of_a_thousand_batches_are_ten_and_one_a_minute_that_tells_of_the_rest() {
        let mut similar = SimilarEvents::default();
        let batch = |i: i64| queued("n", "j", "BatchEnded", format!("batch {i:05}-1 ended"));
        let first = (0..1_000).filter_map(|i| similar.take(batch(i), i)).count();
        assert_eq!(first, ONE_BY_ONE);
        assert!(similar.due(HELD, false).is_empty(), "a minute after the first of them was held");
        let due = similar.due(HELD + 10, false);
        let notes: Vec<&str> = due.iter().map(note).collect();
        assert_eq!(notes, ["(combined from 990 similar events): batch 00999-1 ended"]);
        assert!(similar.take(batch(1_000), HELD + 20).is_none(), "and so is what follows");
        assert_eq!(note(&similar.due(2 * HELD + 20, false)[0]), "batch 01000-1 ended");
        assert!(similar.take(batch(1_001), SIMILAR_FOR).is_some(), "ten minutes later they are told one by one again");
    }

    #[test]
    fn a_note_that_is_repeated_counts_up_the_series_of_its_event_and_another_note_does_not() {
        let mut similar = SimilarEvents::default();
        let not_ready = |why: &str| queued("n", "llm", "NotReady", why);
        let Some(Write::New { name: first, .. }) = similar.take(not_ready("401"), 0) else { panic!("not told") };
        assert!(matches!(similar.take(not_ready("503"), 1), Some(Write::New { name, .. }) if name != first));
        let again = similar.take(not_ready("401"), 2);
        assert!(matches!(&again, Some(Write::Repeat { name, count: 2, .. }) if *name == first), "{again:?}");
    }

    #[test]
    fn one_namespaces_flood_takes_no_room_from_anothers_events_nor_from_its_own_warnings() {
        let mut similar = SimilarEvents::default();
        let flood =
            (0..5_000).filter_map(|i| similar.take(queued("loud", &format!("j{i}"), "Completed", ""), 0)).count();
        assert_eq!((flood as f64, similar.dropped), (BURST, 4_000));
        assert!(similar.take(queued("quiet", "j", "Completed", ""), 0).is_some());
        let warning = |queued: QueuedEvent| QueuedEvent {
            record: EventRecord::warning(queued.record.reason, queued.record.note),
            ..queued
        };
        assert!(similar.take(warning(queued("loud", "j", "Held", "")), 0).is_some());
        assert!(similar.take(queued("loud", "later", "Completed", ""), 1_000).is_some(), "the budget grows again");
    }

    #[test]
    fn objects_and_namespaces_that_are_remembered_have_a_bound() {
        let mut similar = SimilarEvents::default();
        for i in 0..3 * REMEMBERED as i64 {
            let namespace = format!("n{i}");
            similar.take(queued(&namespace, "j", "Completed", ""), i * SIMILAR_FOR / REMEMBERED as i64);
        }
        assert!(similar.kinds.len() <= REMEMBERED + 1 && similar.budgets.len() <= REMEMBERED);
    }
}
