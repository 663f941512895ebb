//! The spans of a job's trace, derived from changes of its journal and from its end. The process that made the change records them.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::api::{BatchEnd, BatchJob, Endpoint, Outcome, ProviderType, RequestCounts, TokenUsage};
use crate::lifecycle::{Attempt, AttemptKey, AttemptState, Failure, Journal, ManifestView, Memory, PolledState, Shard};
use crate::telemetry::{EndedSpan, JOB_SPAN, KeyValue, SpanError, TracedJob};

/// Spans of the batches of one job that a process records.
const BATCH_SPANS: usize = 1_000;

/// The part of a job's trace that this process knows.
#[derive(Default)]
pub(crate) struct TraceState {
    /// Start of the last pass over the input (Unix milliseconds); 0 if there was none.
    plan_began: AtomicI64,
    /// Number of spans of batches that were recorded.
    batch_spans: AtomicUsize,
}

impl TraceState {
    /// Records the start of a pass over the input (Unix milliseconds).
    pub fn plan_began(&self, at: i64) {
        self.plan_began.store(at, Ordering::Relaxed);
    }

    /// Returns the times for spans of a change of the journal at `now`.
    pub(super) fn times(&self, post_window: i64, now: i64) -> Times {
        Times { plan_began: self.plan_began.load(Ordering::Relaxed), post_window, now }
    }

    /// Cuts spans of batches to as many as may still be recorded. Returns the number of those that were cut off.
    pub(super) fn limit(&self, spans: &mut Vec<EndedSpan>) -> usize {
        let before = self.batch_spans.fetch_add(spans.len(), Ordering::Relaxed);
        let cut = spans.len().saturating_sub(BATCH_SPANS.saturating_sub(before));
        spans.truncate(spans.len() - cut);
        cut
    }
}

/// Times that spans of a change of the journal are made of (Unix milliseconds).
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Start of the last pass over the input; 0 if there was none.
    plan_began: i64,
    /// Milliseconds from an intent to the latest start of its submission.
    post_window: i64,
    /// The time of the change.
    now: i64,
}

/// Returns the span of the plan, if the journal got it by its change from `old` to `new`.
pub(super) fn plan_span(old: &Journal, new: &Journal, times: Times) -> Option<EndedSpan> {
    let (None, Some(plan)) = (&old.plan, &new.plan) else { return None };
    let batches = new.shards.len().saturating_sub(new.shards.totals().reused);
    let attributes = vec![
        KeyValue::new("batchjob.requests.total", plan.requests),
        KeyValue::new("batchjob.batches", count(batches)),
        KeyValue::new("batchjob.input.bytes", plan.input.size_bytes),
    ];
    Some(EndedSpan {
        start: if times.plan_began > 0 { times.plan_began } else { times.now },
        attributes,
        ..span("plan", times.now.to_string(), times.now)
    })
}

/// Returns the spans of batches that ended by a change of the journal from `old` to `new`. `memory` has the looks at the batches.
pub(super) fn batch_spans(old: &Journal, new: &Journal, memory: &Memory, times: Times) -> Vec<EndedSpan> {
    let changed = new.shards.entries().filter_map(|(index, shard)| {
        let attempt = shard.attempt.as_ref()?;
        let before = old.shards.get(index).and_then(|shard| shard.attempt.as_ref());
        let before = before.filter(|before| before.intent_id == attempt.intent_id);
        (before != Some(attempt)).then_some(Change { index, shard, before, attempt, memory, times })
    });
    changed.flat_map(|change| [change.submit(), change.wait(), change.collect()]).flatten().collect()
}

/// A changed attempt to send a shard.
struct Change<'a> {
    index: usize,
    shard: &'a Shard,
    /// The same attempt before the change; None if there was no intent.
    before: Option<&'a Attempt>,
    attempt: &'a Attempt,
    memory: &'a Memory,
    times: Times,
}

impl Change<'_> {
    /// Returns the span from the intent to the record of the batch, or to the proof that there is none.
    fn submit(&self) -> Option<EndedSpan> {
        let is_submitting =
            |attempt: &Attempt| matches!(attempt.state, AttemptState::Intended | AttemptState::Revoking);
        if is_submitting(self.attempt) || !self.before.is_none_or(is_submitting) {
            return None;
        }
        let end = match &self.attempt.state {
            AttemptState::Submitted { at, .. } | AttemptState::Refused { at, .. } => *at,
            _ => self.times.now,
        };
        let start = match self.before {
            Some(_) => self.attempt.post_by.saturating_sub(self.times.post_window),
            None => end,
        };
        Some(EndedSpan { start, error: self.error(), ..self.span("submit", end) })
    }

    /// Returns the span from the record of the batch to its end at the provider, as far as looks at the batch showed that.
    fn wait(&self) -> Option<EndedSpan> {
        let (batch_id, start) = self.recorded()?;
        let error = self.error().or_else(|| match self.end_of(batch_id)? {
            BatchEnd::Completed => None,
            end => Some(error(end.word(), format!("the batch ended as '{}'", end.word()))),
        });
        Some(EndedSpan { start, error, ..self.span("wait", self.ended_at(batch_id)) })
    }

    /// Returns the span from the end of the batch at the provider to the record of its answers.
    fn collect(&self) -> Option<EndedSpan> {
        let (batch_id, _) = self.recorded()?;
        let AttemptState::Settled { part: Some(_), counts, usage, .. } = &self.attempt.state else { return None };
        let mut span = EndedSpan { start: self.ended_at(batch_id), ..self.span("collect", self.times.now) };
        span.attributes.extend(requests(counts));
        span.attributes.extend(tokens(&usage.tokens));
        Some(span)
    }

    /// Returns the batch that was recorded before the change and is not any more, with the time of the record.
    fn recorded(&self) -> Option<(&str, i64)> {
        match (&self.before?.state, &self.attempt.state) {
            (_, AttemptState::Submitted { .. }) => None,
            (AttemptState::Submitted { batch_id, at }, _) => Some((batch_id, *at)),
            _ => None,
        }
    }

    fn ended_at(&self, batch_id: &str) -> i64 {
        let look = self.memory.looks.get(batch_id);
        let end = look.filter(|look| !matches!(look.seen, PolledState::Running { .. })).map(|look| look.at);
        end.unwrap_or(self.times.now)
    }

    fn end_of(&self, batch_id: &str) -> Option<BatchEnd> {
        match &self.memory.looks.get(batch_id)?.seen {
            PolledState::Ended { state, .. } | PolledState::Gone { state } | PolledState::Unnamed { state, .. } => {
                Some(*state)
            }
            _ => None,
        }
    }

    /// Returns why nothing came of the attempt.
    fn error(&self) -> Option<SpanError> {
        match &self.attempt.state {
            AttemptState::Refused { refusal, message, .. } => Some(error(format!("{refusal:?}"), message.clone())),
            AttemptState::Revoked { message } => Some(error("Revoked", message.clone())),
            AttemptState::Abandoned { .. } => Some(error("Abandoned", "the batch did not end after it was to stop")),
            AttemptState::Settled { part: None, .. } => Some(error("Lost", "a person gave its answers up")),
            _ => None,
        }
    }

    /// Returns a span about the batch, without its start.
    fn span(&self, name: &'static str, end: i64) -> EndedSpan {
        let attempt_key = AttemptKey { shard: self.index, attempt: self.attempt.number };
        let mut attributes = vec![
            KeyValue::new("batchjob.batch.name", attempt_key.to_string()),
            KeyValue::new("batchjob.batch.requests", self.shard.requests),
            KeyValue::new("batchjob.batch.round", i64::from(self.shard.round)),
        ];
        if !self.shard.model.is_empty() {
            attributes.push(KeyValue::new("gen_ai.request.model", self.shard.model.clone()));
        }
        let now = match &self.attempt.state {
            AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } => {
                Some(batch_id.as_str())
            }
            _ => None,
        };
        let batch_id = now.or_else(|| self.recorded().map(|(batch_id, _)| batch_id));
        attributes.extend(batch_id.map(|id| KeyValue::new("batchjob.batch.id", id.to_string())));
        EndedSpan { attributes, ..span(name, self.attempt.intent_id.clone(), end) }
    }
}

/// Returns the spans of the end of a job at `now` (Unix milliseconds): the writing of its results, unless they were `reused`, and the
/// job's own.
pub(super) fn spans_of_end(manifest: &ManifestView, reused: bool, now: i64) -> Vec<EndedSpan> {
    let write = EndedSpan { start: manifest.at, ..span("write", String::new(), now) };
    let mut attributes = vec![
        KeyValue::new("batchjob.outcome", format!("{:?}", manifest.outcome)),
        KeyValue::new("batchjob.reason", manifest.reason.clone()),
        KeyValue::new("batchjob.results.reused", reused),
        KeyValue::new("batchjob.requests.total", manifest.requests.total),
    ];
    attributes.extend(requests(&manifest.requests));
    attributes.extend(manifest.spending.usage.iter().flat_map(|usage| tokens(&usage.tokens)));
    let error = match manifest.outcome {
        Outcome::Succeeded | Outcome::PartiallySucceeded => None,
        Outcome::Failed | Outcome::Cancelled => Some(error(manifest.reason.clone(), manifest.message.clone())),
    };
    let job = EndedSpan { attributes, error, ..whole(String::new(), now) };
    [(!reused).then_some(write), Some(job)].into_iter().flatten().collect()
}

/// Returns the span of a job that failed at `now` (Unix milliseconds) before anything was paid. It is not the job's only root span if
/// the job is judged again.
pub(super) fn span_of_failure(failure: &Failure, now: i64) -> EndedSpan {
    let Failure { outcome, reason, message } = failure;
    let attributes =
        vec![KeyValue::new("batchjob.outcome", format!("{outcome:?}")), KeyValue::new("batchjob.reason", *reason)];
    EndedSpan { attributes, error: Some(error(*reason, message)), ..whole(now.to_string(), now) }
}

/// Returns the span of a job that was deleted at `now` (Unix milliseconds) before it ended.
pub(super) fn span_of_deletion(now: i64) -> EndedSpan {
    EndedSpan { error: Some(error("Deleted", "the BatchJob was deleted before it ended")), ..whole(String::new(), now) }
}

/// Returns a job as its trace shows it at `now` (Unix milliseconds).
pub(super) fn traced(job: &BatchJob, type_: Option<ProviderType>, now: i64) -> TracedJob {
    let (metadata, spec) = (&job.metadata, &job.spec);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut attributes = vec![
        KeyValue::new("k8s.namespace.name", text(&metadata.namespace)),
        KeyValue::new("batchjob.name", text(&metadata.name)),
        KeyValue::new("batchjob.uid", text(&metadata.uid)),
        KeyValue::new("batchjob.provider.kind", format!("{:?}", spec.provider_ref.kind)),
        KeyValue::new("batchjob.provider.name", spec.provider_ref.name.clone()),
    ];
    let vendor = match type_ {
        Some(ProviderType::OpenAI) => Some("openai"),
        Some(ProviderType::AzureOpenAI) => Some("azure.ai.openai"),
        Some(ProviderType::OpenAICompatible) | None => None,
    };
    attributes.extend(vendor.map(|vendor| KeyValue::new("gen_ai.provider.name", vendor)));
    let operation = match spec.endpoint {
        Endpoint::ChatCompletions | Endpoint::Responses => Some("chat"),
        Endpoint::Embeddings => Some("embeddings"),
        Endpoint::Completions => Some("text_completion"),
        Endpoint::Moderations => None,
    };
    attributes.extend(operation.map(|operation| KeyValue::new("gen_ai.operation.name", operation)));
    TracedJob {
        namespace: text(&metadata.namespace),
        uid: text(&metadata.uid),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond()),
        now,
        attributes,
    }
}

fn span(name: &'static str, key: String, end: i64) -> EndedSpan {
    EndedSpan { name, key, start: end, end, attributes: vec![], error: None }
}

/// Returns a span of the whole job: no span begins before the job's creation.
fn whole(key: String, end: i64) -> EndedSpan {
    EndedSpan { start: 0, ..span(JOB_SPAN, key, end) }
}

fn error(kind: impl Into<String>, message: impl Into<String>) -> SpanError {
    SpanError { kind: kind.into(), message: message.into() }
}

fn requests(counts: &RequestCounts) -> Vec<KeyValue> {
    let RequestCounts { total: _, succeeded, reused, failed, expired, cancelled, missing, resent } = *counts;
    let outcomes = [
        ("batchjob.requests.succeeded", succeeded),
        ("batchjob.requests.reused", reused),
        ("batchjob.requests.failed", failed),
        ("batchjob.requests.expired", expired),
        ("batchjob.requests.cancelled", cancelled),
        ("batchjob.requests.missing", missing),
        ("batchjob.requests.resent", resent),
    ];
    outcomes.into_iter().filter(|(_, requests)| *requests > 0).map(|(name, n)| KeyValue::new(name, n)).collect()
}

fn tokens(tokens: &TokenUsage) -> Vec<KeyValue> {
    let input = tokens.input_tokens.saturating_add(tokens.embedding_tokens);
    let used = [("gen_ai.usage.input_tokens", input), ("gen_ai.usage.output_tokens", tokens.output_tokens)];
    used.into_iter().filter(|(_, tokens)| *tokens > 0).map(|(name, n)| KeyValue::new(name, n)).collect()
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BatchUsage;
    use crate::lifecycle::{Owner, PartRef, Payload, PollResult, Refusal};

    const TIMES: Times = Times { plan_began: 100, post_window: 10, now: 900 };

    /// A journal of one shard in this state; its submission had to start before 310.
    fn journal(state: Option<AttemptState>) -> Journal {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let mut journal = Journal::open("w".into(), owner, "s".into());
        let intended = || Attempt::intended(1, "i", Payload::file("f"), 310, "");
        let attempt = state.map(|state| Attempt { state, ..intended() });
        journal.shards.push(Shard { requests: 3, model: "m".into(), attempt, ..Shard::default() });
        journal
    }

    fn submitted() -> AttemptState {
        AttemptState::Submitted { batch_id: "b".into(), at: 320 }
    }

    fn refused(refusal: Refusal) -> AttemptState {
        AttemptState::Refused { refusal, message: "full".into(), at: 330, retry_at: None }
    }

    fn settled(part: bool) -> AttemptState {
        let part = part.then(|| PartRef { name: "p".into(), sha256: "s".into() });
        let counts = RequestCounts { total: 3, succeeded: 2, failed: 1, ..RequestCounts::default() };
        let tokens = TokenUsage { input_tokens: 30, output_tokens: 5, ..TokenUsage::default() };
        AttemptState::Settled {
            batch_id: "b".into(),
            ended: "completed".into(),
            part,
            counts,
            retryable: 0,
            usage: BatchUsage { tokens, ..BatchUsage::default() }.into(),
            cost: None,
            errors: vec![],
            files: vec![],
        }
    }

    fn looked(seen: PolledState) -> Memory {
        Memory { looks: [("b".to_string(), PollResult { at: 500, seen })].into(), ..Memory::default() }
    }

    fn ended(state: BatchEnd) -> Memory {
        looked(PolledState::Ended { state, done: 3, rejected: None })
    }

    /// The spans of a change: their name, start, end and kind of error.
    fn told(old: Option<AttemptState>, new: AttemptState, memory: &Memory) -> Vec<(&'static str, i64, i64, String)> {
        let spans = batch_spans(&journal(old), &journal(Some(new)), memory, TIMES);
        let error = |span: &EndedSpan| span.error.as_ref().map_or(String::new(), |error| error.kind.clone());
        spans.iter().map(|span| (span.name, span.start, span.end, error(span))).collect()
    }

    fn ok(name: &'static str, start: i64, end: i64) -> (&'static str, i64, i64, String) {
        failed(name, start, end, "")
    }

    fn failed(name: &'static str, start: i64, end: i64, kind: &str) -> (&'static str, i64, i64, String) {
        (name, start, end, kind.into())
    }

    #[test]
    fn each_part_of_a_batchs_life_is_a_span_when_it_ends_and_never_again() {
        let (intended, none) = (AttemptState::Intended, Memory::default());
        assert_eq!(told(None, intended.clone(), &none), []);
        assert_eq!(told(Some(intended.clone()), AttemptState::Revoking, &none), []);
        for before in [AttemptState::Revoking, intended] {
            assert_eq!(told(Some(before), submitted(), &none), [ok("submit", 300, 320)]);
        }
        let done = ended(BatchEnd::Completed);
        assert_eq!(told(Some(submitted()), submitted(), &done), []);
        assert_eq!(told(Some(submitted()), settled(true), &done), [ok("wait", 320, 500), ok("collect", 500, 900)]);
        assert_eq!(told(Some(settled(true)), settled(true), &done), []);
        let after_restart = told(Some(submitted()), settled(true), &none);
        assert_eq!(after_restart, [ok("wait", 320, 900), ok("collect", 900, 900)], "no look is remembered");
        let running = looked(PolledState::Running { state: "in_progress".into(), done: 1 });
        assert_eq!(told(Some(submitted()), settled(false), &running), [failed("wait", 320, 900, "Lost")]);
    }

    #[test]
    fn what_came_to_nothing_is_a_failure_of_the_span_that_it_ends() {
        let (intended, none) = (Some(AttemptState::Intended), Memory::default());
        let revoked = AttemptState::Revoked { message: "lost".into() };
        let abandoned = AttemptState::Abandoned { batch_id: Some("b".into()) };
        assert_eq!(told(intended.clone(), refused(Refusal::Capacity), &none), [failed("submit", 300, 330, "Capacity")]);
        assert_eq!(told(None, refused(Refusal::Invalid), &none), [failed("submit", 330, 330, "Invalid")], "not sent");
        assert_eq!(told(Some(AttemptState::Revoking), revoked, &none), [failed("submit", 300, 900, "Revoked")]);
        assert_eq!(told(intended, abandoned.clone(), &none), [failed("submit", 300, 900, "Abandoned")]);
        assert_eq!(told(Some(submitted()), abandoned, &none), [failed("wait", 320, 900, "Abandoned")]);
        let turned_away = told(Some(submitted()), refused(Refusal::TokenLimit), &ended(BatchEnd::Failed));
        assert_eq!(turned_away, [failed("wait", 320, 500, "TokenLimit")]);
        let expired = told(Some(submitted()), settled(true), &ended(BatchEnd::Expired));
        assert_eq!(expired, [failed("wait", 320, 500, "expired"), ok("collect", 500, 900)]);
    }

    #[test]
    fn spans_of_a_batch_name_it_and_collect_has_its_figures() {
        let (old, new) = (journal(Some(submitted())), journal(Some(settled(true))));
        let spans = batch_spans(&old, &new, &ended(BatchEnd::Completed), TIMES);
        let named = [
            KeyValue::new("batchjob.batch.name", "00000-1"),
            KeyValue::new("batchjob.batch.requests", 3),
            KeyValue::new("batchjob.batch.round", 0),
            KeyValue::new("gen_ai.request.model", "m"),
            KeyValue::new("batchjob.batch.id", "b"),
        ];
        let figures = [
            KeyValue::new("batchjob.requests.succeeded", 2),
            KeyValue::new("batchjob.requests.failed", 1),
            KeyValue::new("gen_ai.usage.input_tokens", 30),
            KeyValue::new("gen_ai.usage.output_tokens", 5),
        ];
        assert_eq!(spans[0].attributes, named);
        assert_eq!(spans[1].attributes, [&named[..], &figures].concat());
    }

    #[test]
    fn a_job_has_a_thousand_spans_of_batches_and_no_more() {
        let state = TraceState::default();
        for (spans, kept) in [(600, 600), (600, 400), (600, 0)] {
            let mut spans = vec![span("wait", String::new(), 1); spans];
            let cut = state.limit(&mut spans);
            assert_eq!((spans.len(), spans.len() + cut), (kept, 600));
        }
    }
}
