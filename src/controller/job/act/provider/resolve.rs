//! Calls that resolve the unknown outcome of a submission, or revoke the right to start its batch.

use std::time::Duration;

use tracing::warn;

use super::call::{A_FEW_CALLS, Call};
use crate::account::{SearchQuery, SearchResult};
use crate::api::Endpoint;
use crate::api::conditions::reasons;
use crate::controller::job::act::transfer::Outcome;
use crate::controller::job::backoff::LASTING_FROM;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::EventRecord;
use crate::controller::runtime::ownership;
use crate::lifecycle::{Attempt, AttemptKey, AttemptState, Search, goes_on_without_search};
use crate::provider::{self, ApiError, ErrorKind, Trial};

/// Deadline of a trial, which uploads a file.
const A_TRIAL: Duration = Duration::from_secs(400);

impl Call {
    /// Searches for the batches of an attempt's POST. One reading of the provider's list serves the searches of all jobs of the
    /// account.
    pub async fn search(&self, attempt_key: AttemptKey, attempt: &Attempt, period: i64) -> Outcome {
        let intent_id = attempt.intent_id.clone();
        let goes_on = |error: &ApiError| {
            let turned_away = match &attempt.state {
                AttemptState::Submitted { batch_id, .. } => self.job_state.memory().is_turned_away(batch_id),
                _ => false,
            };
            let failures = self.job_state.backoff(Some(self.task)).failures;
            goes_on_without_search(&attempt.state, turned_away, error.kind != ErrorKind::NotSent, failures)
        };
        let asked = self.ctx.clock.now();
        let wanted = SearchQuery {
            metadata: (ownership::INTENT, intent_id.clone()),
            file: attempt.payload.name().into(),
            since: attempt.post_by / 1000,
            period,
        };
        let SearchResult { began, batches } = match self.clients.calls.find(&self.clients.api, wanted).await {
            Ok(found) => found,
            Err(error) if error.is_permanent() || goes_on(&error) => {
                warn!(%attempt_key, %error, "the provider's batches cannot be searched");
                let (is_permanent, is_recorded) =
                    (error.is_permanent(), matches!(attempt.state, AttemptState::Submitted { .. }));
                return Ok(self.memory_edit(move |m| m.search_failed(intent_id, asked, is_permanent, is_recorded)));
            }
            Err(e) => return Err(e.into()),
        };
        let is_news = || self.job_state.memory().searches.get(&intent_id).is_none_or(|s| s.batches() != batches);
        if batches.len() > 1 && is_news() {
            let note = format!(
                "the provider made {} batches of the submission of {attempt_key}: {}; one is followed, and the others are told to stop",
                batches.len(),
                batches.join(", ")
            );
            self.publish(EventRecord::warning("DuplicateBatches", note));
        }
        Ok(self.memory_edit(move |m| m.searched(intent_id, Search { began, found: Some(batches) })))
    }

    /// Finds out whether the input file can be read with the current credential and is this work's.
    pub async fn check_file(&self, file_id: &str) -> Outcome {
        let (file, ours) = (file_id.to_string(), self.in_turn(A_FEW_CALLS, self.is_our_file(file_id)).await?);
        Ok(self.memory_edit(move |m| _ = m.files.insert(file, ours == Some(true))))
    }

    /// Finds out whether this provider allows intents to be resolved. If the trial fails permanently, or for the credential,
    /// the capability counts as missing, and a person is asked instead.
    ///
    /// # Errors
    /// If a later trial may tell.
    pub async fn probe(&self, endpoint: Endpoint, models: &[String]) -> Outcome {
        let prefix = self.expected.file_prefix.as_deref().unwrap_or_default();
        let trial = Trial {
            file_name: &format!("{prefix}probe.jsonl"),
            endpoint,
            models,
            timeout: self.ctx.timing.post_timeout(),
        };
        let probe = self.in_turn(A_TRIAL, async { Ok(provider::probe(self.api(), &trial).await?) }).await?;
        if let Some(error) = probe.untried.filter(|error| !error.is_permanent() && error.kind != ErrorKind::Auth) {
            return Err(error.into());
        }
        Ok(self.memory_edit(move |m| m.resolvable = Some(probe.can.can_resolve())))
    }

    /// Runs a call that the resolution of an intent waits for. After several failures in a row, its error is kept in memory,
    /// and a person is asked as well.
    pub async fn settles(&self, intent_id: &str, call: impl Future<Output = Outcome>) -> Outcome {
        let intent_id = intent_id.to_string();
        match call.await {
            Ok(learn) => Ok(self.memory_edit(move |m| {
                m.unsettled.remove(&intent_id);
                learn(m);
            })),
            Err(error) => {
                if self.job_state.backoff(Some(self.task)).failures + 1 >= LASTING_FROM {
                    let why = error.blocked.message.clone();
                    self.job_state.remember(self.memory_edit(move |m| _ = m.unsettled.insert(intent_id, why)));
                }
                Err(error)
            }
        }
    }

    /// Deletes the input file of an intent, and verifies that it is gone. Its absence is recorded with the time of the verification.
    ///
    /// # Errors
    /// If the file is not this work's, or is still there.
    pub async fn revoke(&self, intent_id: &str, file_id: &str) -> Outcome {
        let revoke = async {
            match self.is_our_file(file_id).await? {
                Some(false) => {
                    let message =
                        format!("file {file_id}, which the journal names, is not this job's; it is not deleted");
                    return Err(StepError::lasting(reasons::OUTPUT_CONFLICT, message));
                }
                Some(true) => self.api().delete_file(file_id).await?,
                None => {}
            }
            match self.is_our_file(file_id).await? {
                Some(_) => {
                    Err(StepError::passing(reasons::PROVIDER_UNAVAILABLE, "a deleted input file is still there"))
                }
                None => Ok(()),
            }
        };
        self.in_turn(A_FEW_CALLS, revoke).await?;
        let (intent_id, file, gone) = (intent_id.to_string(), file_id.to_string(), self.ctx.clock.now());
        Ok(self.memory_edit(move |m| m.input_file_is_gone(&intent_id, file, gone)))
    }
}
