//! What goes to a provider as a batch, and what comes back of it.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use super::learned;
use crate::api::conditions::reasons;
use crate::controller::job::act::Act;
use crate::controller::job::act::provider::seen;
use crate::controller::job::clients::Clients;
use crate::controller::job::tasks;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::lifecycle::{
    AttemptKey, AttemptState, Collected, Journal, PartRef, Polled, PolledState, Reading, Short, Task, Unanswered,
};
use crate::provider::{self, Batch, ErrorKind, InputFile};
use crate::results::{self, Found};
use crate::store::{layout, staged};

/// Largest output file of one batch that is fetched, in bytes.
const OUTPUT_LIMIT: u64 = 16 << 30;

impl Act<'_> {
    pub(in crate::controller::job::act) fn start_upload(&self, attempt_key: AttemptKey) -> Result<(), StepError> {
        let (clients, journal) = (self.clients()?.clone(), self.journal()?);
        let shard = journal.shards.get(attempt_key.shard);
        let shard = shard
            .ok_or_else(|| StepError::passing(reasons::PENDING, format!("shard of {attempt_key} is not planned")))?;
        // Many uploads may wait for their turn: each holds what it needs of the journal, and no more.
        let (sha256, bytes) = (shard.sha256.clone(), shard.bytes);
        let (staged, name) = (layout::shard(&journal.work_id, &sha256), ownership::file(journal, attempt_key));
        tasks::start_in_place(
            self.ctx,
            self.session,
            &self.snapshot.job,
            Task::Upload(attempt_key),
            move |place| async move {
                let content = staged::verified(&clients.folder, &staged, &sha256).await?;
                // The content goes once all of it is sent, and its place with it.
                let content = content.inspect(move |_| _ = &place).boxed();
                let file = InputFile { name, bytes, content };
                let id = match clients.api.upload(file).await {
                    Ok(id) => id,
                    Err(error) if provider::is_about_content(&*clients.api, &error).await => {
                        let hint = match error.status {
                            Some(413) => "; `limits.maxBytesPerBatch` of the provider makes smaller files",
                            _ => "",
                        };
                        let said = error.message + hint;
                        return Ok(learned(move |m| _ = m.unfit.insert((attempt_key, sha256), said)));
                    }
                    Err(error) => return Err(error.into()),
                };
                Ok(learned(move |m| {
                    // Else it lies in another account.
                    if m.fingerprint == clients.fingerprint {
                        m.uploads.insert((attempt_key, sha256), id);
                    }
                }))
            },
        );
        Ok(())
    }

    pub(in crate::controller::job::act) fn start_collect(
        &self,
        attempt_key: AttemptKey,
        patient: bool,
    ) -> Result<(), StepError> {
        let (ctx, clients, journal) = (self.ctx.clone(), self.clients()?.clone(), self.journal()?);
        let Some(batch) = submitted(journal, attempt_key) else { return Ok(()) };
        tasks::start(self.ctx, self.session, &self.snapshot.job, Task::Collect(attempt_key), async move {
            let (at, batch_id) = (ctx.clock.now(), batch.batch_id.as_str());
            let fetched = collect(&clients, &batch, patient, &ctx.jobs.spool).await?;
            let (batch, part, reading) = match fetched {
                Ok(collected) => collected,
                Err(seen) => {
                    let (id, look) = (batch_id.to_string(), Polled { at: ctx.clock.now(), seen });
                    return Ok(learned(move |m| _ = m.looks.insert(id, look)));
                }
            };
            let (foreign, unreadable) = (part.foreign, part.found.unreadable);
            if foreign > 0 || unreadable > 0 {
                warn!(%attempt_key, foreign, unreadable, "lines that name no request of this batch were left out");
            }
            let collected = Collected {
                part: PartRef { name: part.name, sha256: part.sha256 },
                counts: part.counts,
                retryable: part.retryable,
                errors: part.errors,
                // What cannot be handed on is there for others.
                files: if part.incomplete > 0 { vec![] } else { ownership::files_of(&batch) },
                short: None,
            };
            let batch_id = batch_id.to_string();
            Ok(learned(move |m| {
                let short = Short::after(m.collected.get(&batch_id), reading, at);
                m.collected.insert(batch_id, Collected { short, ..collected });
            }))
        });
        Ok(())
    }
}

/// What a batch is collected by.
struct Submitted {
    work_id: String,
    attempt_key: AttemptKey,
    batch_id: String,
    index: String,
    requests: i64,
}

fn submitted(journal: &Journal, attempt_key: AttemptKey) -> Option<Submitted> {
    let shard = journal.shards.get(attempt_key.shard)?;
    match &shard.attempt.as_ref()?.state {
        AttemptState::Submitted { batch_id, .. } => {
            let (work_id, batch_id) = (journal.work_id.clone(), batch_id.clone());
            Some(Submitted { work_id, attempt_key, batch_id, index: shard.index().into(), requests: shard.requests })
        }
        _ => None,
    }
}

/// Fetches what came back, or says what is to be seen where nothing can be fetched.
async fn collect(
    clients: &Clients,
    submitted: &Submitted,
    patient: bool,
    spool: &std::path::Path,
) -> Result<Result<(Batch, results::Collected, Reading), PolledState>, StepError> {
    let batch = match clients.api.get(&submitted.batch_id).await {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(Err(PolledState::NotFound)),
        batch => batch?,
    };
    // What was seen before may have come from elsewhere than what is seen now.
    let ended = match seen(&batch) {
        PolledState::Ended { state, rejected: None, .. } => state,
        other => return Ok(Err(other)),
    };
    let Some(files) = answers(clients, &batch, patient).await? else {
        return Ok(Err(PolledState::Gone { state: ended }));
    };
    let reading = |found: &Found| Reading {
        requests: submitted.requests,
        found: found.requests,
        expected: Reading::expected(batch.done, ended, submitted.requests),
        // What stands in a file that nobody can name cannot be read either.
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
        may_be_unreadable: &|found| reading(found).unanswered() == Unanswered::Unreadable,
        unusable: &unusable,
    };
    let part = results::collect(collection, spool).await?;
    let reading = reading(&part.found);
    Ok(Ok((batch, part, reading)))
}

/// The batch's files; None where one that may hold answers is not there, so that nobody can say what it held. Without the
/// other one, requests that failed count as missing.
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
