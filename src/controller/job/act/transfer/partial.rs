//! The task that makes answers readable while the job runs.

use std::path::Path;
use std::sync::Arc;

use super::memory_edit;
use crate::api::{BatchJob, OutputCompression};
use crate::controller::Context;
use crate::controller::job::act::Act;
use crate::controller::job::backoff::LASTING_FROM;
use crate::controller::job::clients::Clients;
use crate::controller::job::job_state::JobState;
use crate::controller::job::{events, tasks};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{EventRecord, publish};
use crate::lifecycle::{Journal, Published, Shard, Task};
use crate::results::{PartialResults, SettledShard, WriteError};
use crate::store::{Sorted, Sorter, StoreError};

impl Act<'_> {
    pub(in crate::controller::job::act) fn start_publish(&self) -> Result<(), StepError> {
        let (ctx, clients, judged) = (self.ctx.clone(), self.clients()?.clone(), self.judged()?);
        let (job, job_state) = (self.snapshot.job.clone(), self.job_state.clone());
        let compression = self.snapshot.job.spec.output.compression;
        // If the task fails, nothing is known of what it published, and the next one looks.
        let mut known = None;
        self.job_state.remember(|m| known = m.published.take());
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::Publish, move || async move {
            let Some((journal, _held)) = judged.newest(&clients).await? else { return Ok(memory_edit(|_| {})) };
            // The end has come in the meantime, and nobody would delete what is published now.
            if journal.commit.is_some() {
                return Ok(memory_edit(|_| {}));
            }
            match publish_settled(&clients, &journal, known, compression, &ctx.jobs.spool).await {
                Ok(published) => Ok(memory_edit(move |m| m.published = Some(published))),
                Err(error) => {
                    tell_once(&ctx, &job_state, &job, &error);
                    Err(error)
                }
            }
        });
        Ok(())
    }
}

/// Publishes the answers of the journal's settled shards that are not published yet. `known` is the result of the last time.
async fn publish_settled(
    clients: &Clients,
    journal: &Journal,
    known: Option<Published>,
    compression: OutputCompression,
    spool: &Path,
) -> Result<Published, StepError> {
    let total = journal.plan.as_ref().map_or(0, |plan| plan.requests);
    let mut partial = PartialResults::open(&clients.folder, &journal.work_id, total, compression, spool).await?;
    // Another process may have written the list since.
    let mut published = known.filter(|known| known.files == partial.files()).unwrap_or_default();
    if published.settled == 0 {
        let all = 0..journal.shards.len();
        let see = |shard| {
            if all.contains(&shard) {
                published.shards.insert(shard)
            }
        };
        if !partial.each_shard(see).await? {
            published = Published::default();
        }
    }
    published.settled = journal.shards.totals().settled;
    let mut in_the_way = None;
    for shard in unpublished(clients, journal, &mut published, spool).await? {
        let (index, shard) = shard?;
        match partial.publish(index, shard).await {
            Ok(()) => published.shards.insert(index),
            // Another work's file keeps those of other shards from nothing.
            Err(WriteError::Store(error @ StoreError::Conflict(_))) => in_the_way = in_the_way.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    published.files = partial.files();
    partial.finish().await?;
    in_the_way.map_or(Ok(published), |error| Err(error.into()))
}

/// Returns the settled shards with answers that are not in `published`, by index, and adds those without answers to it.
async fn unpublished(
    clients: &Clients,
    journal: &Journal,
    published: &mut Published,
    spool: &Path,
) -> Result<Sorted<(usize, SettledShard)>, StepError> {
    // Segments are read only if shards left the head before they were published.
    let is_done = |(index, shard): &(usize, &Shard)| shard.settled().is_some() && published.shards.contains(*index);
    let done_in_head = journal.shards.in_head().filter(is_done).count();
    let sealed: usize = journal.shards.sealed_segments().iter().map(|segment| segment.count).sum();
    let are_sealed_done = published.shards.len() - done_in_head >= sealed;
    let mut found = Sorter::new(spool, |(a, _): &(usize, SettledShard), (b, _)| a.cmp(b));
    let mut see = |index, shard: &Shard| {
        let Some(counts) = shard.settled().filter(|_| !published.shards.contains(index)) else { return Ok(()) };
        let shard = SettledShard::from(shard);
        if shard.part.is_some() && counts.succeeded > 0 {
            return found.push((index, shard));
        }
        published.shards.insert(index);
        Ok(())
    };
    journal.shards.in_head().try_for_each(|(index, shard)| see(index, shard))?;
    if !are_sealed_done {
        clients.journals.each_sealed(journal, &mut see).await?;
    }
    Ok(found.finish()?)
}

/// Tells people that partial results cannot be published, when that becomes worth their attention.
fn tell_once(ctx: &Arc<Context>, job_state: &JobState, job: &BatchJob, error: &StepError) {
    let failures = job_state.backoff(Some(Task::Publish)).failures + 1;
    let tells_at = if error.retryable { LASTING_FROM } else { 1 };
    if failures == tells_at {
        let note = events::not_published(&error.blocked.message);
        publish(ctx, job, EventRecord::warning("PartialResultsNotPublished", note));
    }
}
