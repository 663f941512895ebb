//! Traces of jobs: one a job, made of spans that are recorded when they have ended.
//!
//! A job outlives the process that works on it. So the ids of its spans are derived from its uid, the times are given, and nothing is
//! kept of a span that has not ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use super::Metrics;

/// Spans that wait to be sent.
const QUEUE: usize = 2_048;
/// Those of them that one namespace may have.
const OF_NAMESPACE: usize = QUEUE / 4;
/// Longest text in a span, in bytes.
const TEXT_LIMIT: usize = 256;
/// Name of the span of a whole job. The one without a key is the parent of all other spans.
pub const JOB_SPAN: &str = "BatchJob";

/// The recorder of spans. It never waits. Cheap to clone; the default one records nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    queue: mpsc::Sender<QueuedSpan>,
    waiting: Waiting,
    metrics: Metrics,
    scope: InstrumentationScope,
}

/// The number of spans of each namespace that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<Mutex<HashMap<String, usize>>>);

/// A span that waits to be sent.
#[derive(Debug)]
pub(super) struct QueuedSpan {
    namespace: String,
    pub span: SpanData,
}

/// A job whose spans are recorded.
#[derive(Clone, Debug)]
pub struct TracedJob {
    /// Its namespace.
    pub namespace: String,
    /// Its uid, which the ids of the trace and of all spans are derived from.
    pub uid: String,
    /// Time of its creation (Unix milliseconds). No span begins earlier.
    pub created: i64,
    /// Current time (Unix milliseconds). No span ends later.
    pub now: i64,
    /// Attributes of all of its spans.
    pub attributes: Vec<KeyValue>,
}

/// A span that has ended: the whole job, or a part of its life.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedSpan {
    /// Its kind, such as `submit`, or [`JOB_SPAN`].
    pub name: &'static str,
    /// Tells it from other spans of this name in the same trace.
    pub key: String,
    /// Start (Unix milliseconds).
    pub start: i64,
    /// End (Unix milliseconds).
    pub end: i64,
    /// Attributes. They never hold prompts, answers or keys.
    pub attributes: Vec<KeyValue>,
    /// Set if it failed.
    pub error: Option<SpanError>,
}

/// The failure that a span ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanError {
    /// Its kind, one word from a small set.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl Traces {
    /// Returns a recorder, and the end of its queue that is sent to a collector.
    pub(super) fn new(metrics: Metrics) -> (Traces, mpsc::Receiver<QueuedSpan>, Waiting) {
        let (queue, queued) = mpsc::channel(QUEUE);
        let waiting = Waiting::default();
        let scope =
            InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION")).build();
        let recorder = Recorder { queue, waiting: waiting.clone(), metrics, scope };
        (Traces(Some(Arc::new(recorder))), queued, waiting)
    }

    /// Returns whether spans are recorded at all.
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues spans of a job. Those that the queue has no room for are dropped and counted.
    pub fn record(&self, job: &TracedJob, spans: Vec<EndedSpan>) {
        let Some(recorder) = &self.0 else { return };
        for span in spans {
            if !recorder.put(&job.namespace, || data(job, span, &recorder.scope)) {
                self.drop_spans(1);
            }
        }
    }

    /// Counts spans that are not recorded.
    pub fn drop_spans(&self, spans: usize) {
        if let Some(recorder) = &self.0 {
            recorder.metrics.trace_spans_dropped.inc_by(spans as u64);
        }
    }
}

impl Recorder {
    /// Returns false if there is no room for the span.
    fn put(&self, namespace: &str, span: impl FnOnce() -> SpanData) -> bool {
        let mut waiting = self.waiting.lock();
        let of_namespace = waiting.get(namespace).copied().unwrap_or_default();
        let room = self.queue.try_reserve().ok().filter(|_| of_namespace < OF_NAMESPACE);
        let Some(room) = room else { return false };
        room.send(QueuedSpan { namespace: namespace.into(), span: span() });
        waiting.insert(namespace.into(), of_namespace + 1);
        true
    }
}

impl Waiting {
    /// Records that these spans wait no longer.
    pub fn taken(&self, spans: &[QueuedSpan]) {
        let mut waiting = self.lock();
        for QueuedSpan { namespace, .. } in spans {
            if let Some(count) = waiting.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(namespace);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the id of the trace of a job: the job's uid as a number, so that people find the trace.
fn trace_id(uid: &str) -> TraceId {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let id = if digits.len() == 32 { TraceId::from_hex(&digits).ok() } else { None };
    id.filter(|id| *id != TraceId::INVALID).unwrap_or_else(|| TraceId::from_bytes(hash(&[uid])))
}

/// Returns the id of a span of a job.
fn span_id(uid: &str, name: &str, key: &str) -> SpanId {
    SpanId::from_bytes(hash(&[uid, name, key]))
}

/// Returns the first bytes of a hash over texts and their lengths.
fn hash<const N: usize>(texts: &[&str]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns a span in the form in which it is sent.
fn data(job: &TracedJob, span: EndedSpan, scope: &InstrumentationScope) -> SpanData {
    let EndedSpan { name, key, start, end, attributes, error } = span;
    let end = end.min(job.now).max(job.created);
    let start = start.min(end).max(job.created);
    let mut all: Vec<KeyValue> = job.attributes.iter().cloned().chain(attributes).map(bounded).collect();
    all.extend(error.as_ref().map(|error| bounded(KeyValue::new("error.type", error.kind.clone()))));
    let id = span_id(&job.uid, name, &key);
    let parent = if name == JOB_SPAN { SpanId::INVALID } else { span_id(&job.uid, JOB_SPAN, "") };
    SpanData {
        span_context: SpanContext::new(trace_id(&job.uid), id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: time(start),
        end_time: time(end),
        attributes: all,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, |error| Status::error(clip(&error.message).to_string())),
        instrumentation_scope: scope.clone(),
    }
}

fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs())
}

fn bounded(attribute: KeyValue) -> KeyValue {
    match attribute.value {
        Value::String(text) if text.as_str().len() > TEXT_LIMIT => {
            KeyValue::new(attribute.key, StringValue::from(clip(text.as_str()).to_string()))
        }
        value => KeyValue::new(attribute.key, value),
    }
}

/// Returns the beginning of a text, up to a character boundary.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LIMIT)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0d1ca4e4-7b5a-4b3e-9a40-51f5a1a6b1c2";

    fn job(namespace: &str) -> TracedJob {
        let attributes = vec![KeyValue::new("batchjob.name", "j")];
        TracedJob { namespace: namespace.into(), uid: UID.into(), created: 1_000, now: 9_000, attributes }
    }

    fn span(name: &'static str, key: &str) -> EndedSpan {
        EndedSpan { name, key: key.into(), start: 2_000, end: 3_000, attributes: vec![], error: None }
    }

    fn data(job: &TracedJob, span: EndedSpan) -> SpanData {
        super::data(job, span, &InstrumentationScope::default())
    }

    #[test]
    fn a_trace_has_the_uid_of_its_job_whoever_records_its_spans_and_all_hang_on_the_one_of_the_job() {
        let (root, again) = (data(&job("n"), span(JOB_SPAN, "")), span(JOB_SPAN, "2"));
        let children = [span("submit", "a"), span("submit", "b"), span("wait", "a")].map(|span| data(&job("n"), span));
        assert_eq!(root.span_context.trace_id().to_string(), UID.replace('-', ""));
        assert_eq!(root.parent_span_id, SpanId::INVALID);
        assert_eq!(data(&job("n"), again.clone()).parent_span_id, SpanId::INVALID);
        let mut ids = vec![root.span_context.span_id(), data(&job("n"), again).span_context.span_id()];
        for child in children {
            assert_eq!(child.span_context.trace_id(), root.span_context.trace_id());
            assert_eq!(child.parent_span_id, root.span_context.span_id());
            assert!(!ids.contains(&child.span_context.span_id()), "{child:?}");
            ids.push(child.span_context.span_id());
        }
        for uid in ["", "u", "00000000-0000-0000-0000-000000000000", "zd1ca4e4-7b5a-4b3e-9a40-51f5a1a6b1c2"] {
            let odd = TracedJob { uid: uid.into(), ..job("n") };
            assert!(data(&odd, span(JOB_SPAN, "")).span_context.is_valid(), "{uid}");
        }
    }

    #[test]
    fn texts_of_a_span_are_cut_and_a_failure_is_an_error_with_its_kind() {
        let error = Some(SpanError { kind: "Refused".into(), message: "é".repeat(TEXT_LIMIT) });
        let attributes = vec![KeyValue::new("batchjob.batch.id", "é".repeat(TEXT_LIMIT)), KeyValue::new("n", 7)];
        let data = data(&job("n"), EndedSpan { attributes, error, ..span("submit", "a") });
        let long = "é".repeat(TEXT_LIMIT / 2);
        assert_eq!(data.status, Status::error(long.clone()));
        let wanted = [
            KeyValue::new("batchjob.name", "j"),
            KeyValue::new("batchjob.batch.id", long),
            KeyValue::new("n", 7),
            KeyValue::new("error.type", "Refused"),
        ];
        assert_eq!(data.attributes, wanted);
    }

    #[test]
    fn a_namespace_fills_a_quarter_of_the_queue_and_what_is_beyond_is_dropped_and_counted() {
        let metrics = Metrics::default();
        let (traces, mut queued, waiting) = Traces::new(metrics.clone());
        let many = |n: usize| (0..n).map(|i| span("wait", &i.to_string())).collect::<Vec<_>>();
        traces.record(&job("loud"), many(OF_NAMESPACE + 3));
        assert_eq!((queued.len(), metrics.trace_spans_dropped.get()), (OF_NAMESPACE, 3));
        traces.record(&job("other"), many(1));
        assert_eq!((queued.len(), metrics.trace_spans_dropped.get()), (OF_NAMESPACE + 1, 3), "others have room");
        let taken = [queued.try_recv().unwrap(), queued.try_recv().unwrap()];
        waiting.taken(&taken);
        traces.record(&job("loud"), many(3));
        assert_eq!((queued.len(), metrics.trace_spans_dropped.get()), (OF_NAMESPACE + 1, 4));
        ["b", "c", "d"].into_iter().for_each(|name| traces.record(&job(name), many(OF_NAMESPACE)));
        assert_eq!(queued.len(), QUEUE, "the queue has a limit in all");
    }

    proptest! {
        /// Times come from journals, which tenants may write.
        #[test]
        fn whatever_times_are_said_a_span_lies_within_the_life_of_its_job(times in any::<[i64; 4]>()) {
            let [start, end, created, now] = times;
            let data = data(&TracedJob { created, now, ..job("n") }, EndedSpan { start, end, ..span("wait", "a") });
            prop_assert!(data.start_time <= data.end_time);
            prop_assert!(data.start_time >= time(created));
            prop_assert!(data.end_time <= time(now.max(created)));
        }
    }
}
