//! Upload of a batch's requests, and collection of its answers.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use super::memory_edit;
use crate::api::conditions::reasons;
use crate::controller::job::act::Act;
use crate::controller::job::act::provider::seen;
use crate::controller::job::clients::Clients;
use crate::controller::job::tasks;
use crate::controller::job::transfers::UploadShares;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::fair::Urgency;
use crate::lifecycle::{
    AttemptKey, AttemptState, CollectResult, Journal, PartRef, PollResult, PolledState, ProviderView, ReadCounts,
    ShortRead, Task, Unanswered, UsageTotals,
};
use crate::provider::{self, Batch, ErrorKind, InputFile};
use crate::results::{self, FileContents};
use crate::store::{self, layout, staged};

/// Deadline of a look at an uploaded file that the provider processes.
const A_LOOK: Duration = Duration::from_secs(60);

/// Largest file of answers that is fetched, in bytes. A batch has up to two of them.
const OUTPUT_LIMIT: u64 = 16 << 30;

impl Act<'_> {
    pub(in crate::controller::job::act) fn start_upload(&self, attempt_key: AttemptKey) -> Result<(), StepError> {
        let (clients, journal) = (self.clients()?.clone(), self.journal()?);
        let shard = journal.shards.get(attempt_key.shard);
        let shard = shard
            .ok_or_else(|| StepError::passing(reasons::PENDING, format!("shard of {attempt_key} is not planned")))?;
        // Many uploads may wait for memory, so each holds only what it needs of the journal.
        let (sha256, bytes) = (shard.sha256.clone(), shard.bytes);
        let (staged, name) = (layout::shard(&journal.work_id, &sha256), ownership::file(journal, attempt_key));
        let (calls, namespace) = (clients.calls.clone(), self.snapshot.view.owner.namespace.clone());
        let (spool, endpoint) = (self.ctx.jobs.spool.clone(), self.snapshot.job.spec.endpoint);
        let has_budgets = self.snapshot.view.provider.as_ref().is_some_and(|provider| provider.has_budgets);
        let task = Task::Upload(attempt_key);
        let is_retry = self.job_state.backoff(Some(task)).failures > 0;
        let (at, of) = (calls.clone(), namespace.clone());
        let turn = move || {
            let (calls, namespace) = (at.clone(), of.clone());
            async move { calls.upload_turn(&namespace, is_retry).await }
        };
        tasks::start_upload(self.ctx, self.job_state, &self.snapshot.job, task, turn, move |shares| async move {
            let counted = match has_budgets {
                true => Some(store::count_requests(&clients.folder, (&staged, &sha256), endpoint, &spool).await?),
                false => None,
            };
            let content = staged::ahead(staged::verified(&clients.folder, &staged, &sha256).await?).await;
            let UploadShares { turn, memory } = shares;
            // The stream holds the memory, and both are dropped once all of it is sent.
            let content = content.inspect(move |_| _ = &memory).boxed();
            let uploaded = async {
                let id = clients.api.send_file(InputFile { name, bytes, content }).await?;
                // While the provider processes the file, other uploads may be on their way.
                drop(turn);
                let look = || calls.call(&namespace, Urgency::Usual, A_LOOK, clients.api.is_processed(&id));
                provider::processed(look).await?;
                Ok(id)
            };
            let id = match uploaded.await {
                Ok(id) => id,
                Err(error) if provider::is_about_content(&*clients.api, &error).await => {
                    let hint = match error.status {
                        Some(413) => "; `limits.maxBytesPerBatch` of the provider makes smaller files",
                        _ => "",
                    };
                    let said = error.message + hint;
                    return Ok(clients.memory_edit(move |m| _ = m.unfit.insert((attempt_key, sha256), said)));
                }
                Err(error) => return Err(error.into()),
            };
            Ok(clients.memory_edit(move |m| {
                m.contents.extend(counted.map(|content| (id.clone(), content)));
                m.uploads.insert((attempt_key, sha256), id);
            }))
        });
        Ok(())
    }

    pub(in crate::controller::job::act) fn start_collect(
        &self,
        attempt_key: AttemptKey,
        patient: bool,
    ) -> Result<(), StepError> {
        let (ctx, clients, journal) = (self.ctx.clone(), self.clients()?.clone(), self.journal()?);
        let provider = self.snapshot.view.provider.as_ref();
        let Some(batch) = submitted(journal, attempt_key, provider) else { return Ok(()) };
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::Collect(attempt_key), move || async move {
            let (at, batch_id, long_context_above) =
                (ctx.clock.now(), batch.batch_id.as_str(), batch.long_context_above);
            let fetched = collect(&clients, &batch, patient, &ctx.jobs.spool).await?;
            let (batch, part, reading) = match fetched {
                Ok(collected) => collected,
                Err(seen) => {
                    let (id, look) = (batch_id.to_string(), PollResult { at: ctx.clock.now(), seen });
                    return Ok(clients.memory_edit(move |m| _ = m.looks.insert(id, look)));
                }
            };
            let (foreign, unreadable) = (part.foreign, part.found.unreadable);
            if foreign > 0 || unreadable > 0 {
                warn!(%attempt_key, foreign, unreadable, "lines that name no request of this batch were left out");
            }
            let collected = CollectResult {
                part: PartRef { name: part.name, sha256: part.sha256 },
                counts: part.counts,
                retryable: part.retryable,
                usage: part.usage,
                long_context_above,
                foreign: i64::try_from(foreign).unwrap_or(i64::MAX),
                totals: batch.usage.map(|provider| UsageTotals { provider, answers: part.succeeded }),
                errors: part.errors,
                // If the part does not hold all that came back, the provider's files are kept, so that people can read them.
                files: if part.incomplete > 0 { vec![] } else { ownership::files_of(&batch) },
                short: None,
            };
            let batch_id = batch_id.to_string();
            Ok(memory_edit(move |m| {
                let short = ShortRead::after(m.collected.get(&batch_id), reading, at);
                m.collected.insert(batch_id, CollectResult { short, ..collected });
            }))
        });
        Ok(())
    }
}

/// A recorded batch, with what its collection needs of the journal.
struct Submitted {
    work_id: String,
    attempt_key: AttemptKey,
    batch_id: String,
    index: String,
    requests: i64,
    /// Input tokens above which the prices of long contexts apply.
    long_context_above: Option<i64>,
}

fn submitted(journal: &Journal, attempt_key: AttemptKey, provider: Option<&ProviderView>) -> Option<Submitted> {
    let shard = journal.shards.get(attempt_key.shard)?;
    let attempt = shard.attempt.as_ref()?;
    let AttemptState::Submitted { batch_id, .. } = &attempt.state else { return None };
    // The cost is at these prices, too.
    let prices = attempt.prices.as_deref().or_else(|| provider?.prices.of(&shard.model));
    Some(Submitted {
        work_id: journal.work_id.clone(),
        attempt_key,
        batch_id: batch_id.clone(),
        index: shard.index().into(),
        requests: shard.requests,
        long_context_above: prices.and_then(|prices| Some(prices.long_context?.above_input_tokens)),
    })
}

/// Fetches the answers of a batch and puts their part. Returns the batch's state instead if there is nothing to fetch.
async fn collect(
    clients: &Clients,
    submitted: &Submitted,
    patient: bool,
    spool: &std::path::Path,
) -> Result<Result<(Batch, results::CollectedPart, ReadCounts), PolledState>, StepError> {
    let batch = match clients.api.get(&submitted.batch_id).await {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(Err(PolledState::NotFound)),
        batch => batch?,
    };
    // This record of the batch may differ from the one that the step was decided on.
    let ended = match seen(&batch) {
        PolledState::Ended { state, rejected: None, .. } => state,
        other => return Ok(Err(other)),
    };
    let Some(files) = answers(clients, &batch, patient).await? else {
        return Ok(Err(PolledState::Gone { state: ended }));
    };
    let reading = |found: &FileContents| ReadCounts {
        requests: submitted.requests,
        found: found.requests,
        expected: ReadCounts::expected(batch.done, ended, submitted.requests),
        // A file whose name is unusable counts as a line that cannot be read.
        unreadable: found.unreadable.saturating_add(i64::from(!batch.unusable.is_empty())),
        cut_off: found.cut_off,
    };
    let unusable = batch.unusable.join("; ");
    let collection = results::Collection {
        folder: &clients.folder,
        work_id: &submitted.work_id,
        attempt_key: submitted.attempt_key.to_string(),
        index: &submitted.index,
        requests: submitted.requests,
        files,
        long_context_above: submitted.long_context_above,
        may_be_unreadable: &|found| reading(found).unanswered() == Unanswered::Unreadable,
        unusable: &unusable,
    };
    let part = results::collect(collection, spool).await?;
    let reading = reading(&part.found);
    Ok(Ok((batch, part, reading)))
}

/// Opens the batch's files. Returns None if the provider no longer has the output file, or the only file. An error file beside
/// an output file may be gone: its requests then count as missing.
///
/// # Errors
/// If a file cannot be opened now. While `patient`, that includes a file that is not there, because it may appear later.
async fn answers(
    clients: &Clients,
    batch: &Batch,
    patient: bool,
) -> Result<Option<Vec<BoxStream<'static, Result<Bytes, String>>>>, StepError> {
    let mut files = vec![];
    for (id, may_be_missed) in [(&batch.output_file_id, false), (&batch.error_file_id, batch.output_file_id.is_some())]
    {
        let Some(id) = id else { continue };
        match clients.api.content(id, OUTPUT_LIMIT).await {
            Err(e) if e.kind == ErrorKind::NotFound && !patient && may_be_missed => {}
            Err(e) if e.kind == ErrorKind::NotFound && !patient => return Ok(None),
            content => files.push(content?.map_err(|e| e.to_string()).boxed()),
        }
    }
    Ok(Some(files))
}
