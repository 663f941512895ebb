//! The spans that a step ends.

use super::Act;
use crate::controller::job::spans;
use crate::lifecycle::{Failure, Journal, ManifestView};
use crate::telemetry::EndedSpan;

impl Act<'_> {
    /// Records what ended by a change of the journal. The findings about shards that the change sealed are not forgotten yet.
    pub(super) fn trace_change(&self, old: &Journal, next: &Journal) {
        self.trace(|now| {
            let times = self.job_state.trace.times(self.ctx.timing.post_window, now);
            let mut spans = vec![];
            self.job_state.remember(|m| spans = spans::batch_spans(old, next, m, times));
            self.ctx.traces.drop_spans(self.job_state.trace.limit(&mut spans));
            spans.extend(spans::plan_span(old, next, times));
            spans
        });
    }

    /// Records the end of the job.
    pub(super) fn trace_end(&self, manifest: &ManifestView, reused: bool) {
        self.trace(|now| spans::spans_of_end(manifest, reused, now));
    }

    /// Records a failure before anything was paid.
    pub(super) fn trace_failure(&self, failure: &Failure) {
        self.trace(|now| vec![spans::span_of_failure(failure, now)]);
    }

    /// Records the end of a job that is gone, unless it had ended before.
    pub(super) fn trace_deletion(&self) {
        if self.snapshot.job.status.as_ref().is_none_or(|status| status.outcome.is_none()) {
            self.trace(|now| vec![spans::span_of_deletion(now)]);
        }
    }

    fn trace(&self, spans: impl FnOnce(i64) -> Vec<EndedSpan>) {
        if !self.ctx.traces.are_on() {
            return;
        }
        let now = self.ctx.clock.now();
        let spans = spans(now);
        if !spans.is_empty() {
            let type_ = self.snapshot.view.provider.as_ref().map(|provider| provider.pin.type_);
            self.ctx.traces.record(&spans::traced(&self.snapshot.job, type_, now), spans);
        }
    }
}
