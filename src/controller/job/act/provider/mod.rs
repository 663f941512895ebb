//! Steps that call the provider. Each runs beside the reconcile loop, when it is its turn at the account, and stores its
//! findings in the job's memory.

mod budget;
mod call;
mod cancel;
mod delete_files;
mod poll;
mod post;
mod resolve;

pub(super) use poll::seen;

use std::sync::Arc;

use kube::Resource;

use super::Act;
use super::transfer::{Outcome, memory_edit};
use crate::api::conditions::reasons;
use crate::controller::job::permit::SubmitRequest;
use crate::controller::job::place::applicant;
use crate::controller::job::tasks;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::lifecycle::{Attempt, AttemptKey, AttemptState, ReserveRequest, Step};

use budget::Judged;
use call::{Call, ExpectedOwner};
use delete_files::batches_of_files;

/// Longest poll period, in milliseconds, by which searches share lists. A batch is settled only after a search, and a
/// batch that is polled rarely, because webhooks tell of its end, should not wait an hour for one.
const SEARCH_PERIOD: i64 = 60_000;

impl Act<'_> {
    /// Starts the call of `step`, unless a call of the same task is running.
    pub fn call(&self, step: Step) -> Result<(), StepError> {
        let (Some(task), name) = (step.call(), step.name()) else { return Ok(()) };
        if self.job_state.memory().running.contains(&task) {
            return Ok(());
        }
        let call = Call {
            ctx: self.ctx.clone(),
            job_state: self.job_state.clone(),
            clients: self.clients()?.clone(),
            task,
            job: self.snapshot.job.object_ref(&()),
            uid: self.snapshot.view.owner.uid.clone(),
            expected: Arc::new(ExpectedOwner::of(
                &self.snapshot.view.owner,
                self.snapshot.journal.as_ref().map(|(journal, _)| &**journal),
            )),
        };
        let start = |work: Work| tasks::start_call(self.ctx, self.job_state, &self.snapshot.job, (task, name), work);
        match step {
            Step::Post(attempt_key) => {
                let ask = self.ask(attempt_key)?;
                // From here on, the permit belongs to this call alone.
                if let Some(permit) = self.job_state.take_permit() {
                    start(Box::pin(async move { call.post(permit, ask).await }));
                }
            }
            Step::Search(attempt_key) => {
                let attempt = self.attempt(attempt_key)?.clone();
                let period = self.snapshot.view.poll_period.min(SEARCH_PERIOD);
                start(Box::pin(async move {
                    call.settles(&attempt.intent_id, call.search(attempt_key, &attempt, period)).await
                }));
            }
            Step::CheckFile(attempt_key) => {
                let attempt = self.attempt(attempt_key)?.clone();
                start(Box::pin(async move {
                    call.settles(&attempt.intent_id, call.check_file(attempt.payload.name())).await
                }));
            }
            Step::Revoke(attempt_key) => {
                let attempt = self.attempt(attempt_key)?.clone();
                start(Box::pin(async move {
                    let intent_id = &attempt.intent_id;
                    call.settles(intent_id, call.revoke(intent_id, attempt.payload.name())).await
                }));
            }
            Step::Probe(attempt_key) => {
                let (attempt, endpoint) = (self.attempt(attempt_key)?.clone(), self.snapshot.job.spec.endpoint);
                let models: Vec<String> =
                    self.journal()?.shards.get(attempt_key.shard).map(|s| s.model.clone()).into_iter().collect();
                start(Box::pin(async move { call.settles(&attempt.intent_id, call.probe(endpoint, &models)).await }));
            }
            Step::Poll(attempt_key) => {
                if let AttemptState::Submitted { batch_id, at } = &self.attempt(attempt_key)?.state {
                    let (batch_id, made, period) = (batch_id.clone(), *at, self.snapshot.view.poll_period);
                    start(Box::pin(async move { call.poll(batch_id, made, period).await }));
                }
            }
            Step::WaitForPlace(attempt_key) => {
                let wants = applicant(self.snapshot, self.journal()?, attempt_key);
                start(Box::pin(async move {
                    let _waits = call.ctx.metrics.quota_wait();
                    call.clients.calls.pace().ready().await;
                    call.clients.quota.place(&call.uid, wants).await;
                    Ok(memory_edit(|_| {}))
                }));
            }
            Step::Reserve { attempt_key, amount, terms, replaces } => {
                let (judged, has_sent) = (self.judged_by()?, self.journal()?.has_intents());
                let request = ReserveRequest { attempt_key, rev: judged.rev, amount, has_sent };
                start(Box::pin(async move { call.reserve(judged, request, terms, replaces).await }));
            }
            Step::SettleCost { attempt_key, billed } => {
                let (judged, intent_id) = (self.judged_by()?, self.attempt(attempt_key)?.intent_id.clone());
                start(Box::pin(async move { call.settle_cost(judged, (attempt_key, intent_id), billed).await }));
            }
            Step::Release { unbilled } => {
                let judged = self.judged_by()?;
                start(Box::pin(async move { call.release(judged, unbilled).await }));
            }
            Step::SettleLater => {
                let judged = self.judged_by()?;
                start(Box::pin(async move { call.settle_later(judged).await }));
            }
            Step::PollTwin { batch_id, .. } => start(Box::pin(async move { call.look_at(batch_id).await })),
            Step::Cancel { batch_id, .. } => start(Box::pin(async move { call.cancel(batch_id).await })),
            Step::CancelUnjournaled { batch_id } => {
                let work = self.snapshot.job.status.as_ref().and_then(|s| s.work.as_ref());
                let work_id = work.map(|w| w.id.clone()).unwrap_or_default();
                start(Box::pin(async move { call.cancel_unjournaled(batch_id, work_id).await }));
            }
            Step::DeleteFiles { files, must, .. } => {
                let of_batches = batches_of_files(self.journal()?, &files);
                start(Box::pin(async move { call.delete_files(files, of_batches, must).await }));
            }
            _ => {}
        }
        Ok(())
    }

    fn attempt(&self, attempt_key: AttemptKey) -> Result<&Attempt, StepError> {
        let attempt = self.journal()?.shards.get(attempt_key.shard).and_then(|s| s.attempt.as_ref());
        attempt.ok_or_else(|| StepError::passing(reasons::PENDING, format!("batch {attempt_key} has no attempt")))
    }

    fn judged_by(&self) -> Result<Judged, StepError> {
        let journal = self.journal()?;
        Ok(Judged { work_id: journal.work_id.clone(), rev: journal.rev })
    }

    fn ask(&self, attempt_key: AttemptKey) -> Result<SubmitRequest, StepError> {
        let (journal, attempt, spec) = (self.journal()?, self.attempt(attempt_key)?, &self.snapshot.job.spec);
        let limits = self.clients()?.account.dialect().limits;
        Ok(SubmitRequest {
            payload: attempt.payload.clone(),
            endpoint: spec.endpoint,
            window_hours: limits.window_hours(spec.completion_window_seconds),
            metadata: ownership::metadata(journal, attempt_key, &attempt.intent_id),
            timeout: self.ctx.timing.post_timeout(),
        })
    }
}

type Work = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;
