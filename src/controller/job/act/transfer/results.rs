//! Tasks that join the requests of shards with their answers: another round, the halves of a shard, the results.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{max_requests, max_text, memory_edit};
use crate::api::{Endpoint, weight};
use crate::controller::job::act::{Act, manifest_view};
use crate::controller::job::clients::Clients;
use crate::controller::job::job_state::JobState;
use crate::controller::job::tasks;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{AttemptKey, AttemptState, HalveResult, Journal, RequestHistory, Shard, Task, error_summary};
use crate::results::{self, AbandonedBatch, Manifest, RequestRounds, ResultForm, SettledShard};
use crate::store::{Reservation, ShardWriter, Sorted, Version, layout, reserve};

/// Maximum size of the batches' names in a manifest, in bytes, so that the manifest can be read again. The journal names all
/// batches.
const LISTED_BATCHES: usize = 2 << 20;

impl Act<'_> {
    pub(in crate::controller::job::act) fn start_follow_up(&self, round: u32) -> Result<(), StepError> {
        let (ctx, clients, judged) = (self.ctx.clone(), self.clients()?.clone(), self.judged()?);
        let limit = self.snapshot.view.backoff_limit_per_request;
        let shard_limit = self.snapshot.view.shard_limit;
        let max_requests = max_requests(&self.snapshot.job, &clients);
        let of_embeddings = self.snapshot.job.spec.endpoint == Endpoint::Embeddings;
        let limits = clients.account.limits();
        let max_text = max_text(self.ctx, &clients);
        let max_inputs = of_embeddings.then(|| u64::from(limits.max_inputs_per_batch.unsigned_abs()));
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::FollowUp, move || async move {
            let Some((journal, _held)) = judged.read(&clients).await? else { return Ok(memory_edit(|_| {})) };
            let room = shard_limit.saturating_sub(journal.shards.len());
            let max_bytes = limits.max_bytes_per_batch.unsigned_abs();
            let writer = ShardWriter::new(&clients.folder, &journal.work_id, &ctx.jobs.spool, max_requests, max_bytes)
                .of_inputs(max_inputs)
                .of_text(max_text)
                .on_disk(ctx.jobs.disk.of_open_shards());
            // Requests whose answers are reused are done.
            let shards = all_settled(&clients, &journal, |s| s.reused.is_none(), &ctx.jobs.spool).await?;
            let may_be_sent_again = |asked: &RequestRounds| RequestHistory::from(asked).may_be_sent_again(limit);
            let staged = results::follow_up(writer, &clients.folder, shards, may_be_sent_again);
            let staged = staged.await?;
            let shards = staged.take(room).map(|follow_up| Ok(Shard { round, ..follow_up?.into() }));
            let reused = std::iter::empty();
            let shards = clients.journals.plan_shards(reused, shards, &journal.work_id).await?;
            Ok(memory_edit(move |m| m.follow_up = Some((round, shards))))
        });
        Ok(())
    }

    pub(in crate::controller::job::act) fn start_halve(&self, attempt_key: AttemptKey) -> Result<(), StepError> {
        let (ctx, clients, judged) = (self.ctx.clone(), self.clients()?.clone(), self.judged()?);
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::Halve(attempt_key), move || async move {
            let Some((journal, _held)) = judged.newest(&clients).await? else { return Ok(memory_edit(|_| {})) };
            let Some(whole) = journal.shards.get(attempt_key.shard) else { return Ok(memory_edit(|_| {})) };
            // The cut is after the first half, and nowhere else: a half takes no more local disk than the shard did when it was staged.
            let half = whole.requests / 2 + whole.requests % 2;
            let writer = ShardWriter::new(&clients.folder, &journal.work_id, &ctx.jobs.spool, half, u64::MAX);
            let earlier = match whole.round {
                0 => Sorted::empty(),
                round => {
                    all_settled(&clients, &journal, |s| s.round < round && s.reused.is_none(), &ctx.jobs.spool).await?
                }
            };
            let halves = results::halve(writer, &clients.folder, whole.into(), earlier).await?;
            let halves = halves.map(|half| Shard { round: whole.round, ..half.into() });
            let sha256 = whole.sha256.clone();
            Ok(memory_edit(move |m| m.halved = Some(HalveResult { attempt_key, sha256, halves })))
        });
        Ok(())
    }

    pub(in crate::controller::job::act) fn start_write(&self) -> Result<(), StepError> {
        let (ctx, clients, judged) = (self.ctx.clone(), self.clients()?.clone(), self.judged()?);
        let output = &self.snapshot.job.spec.output;
        let form = ResultForm { compression: output.compression, requests: output.include_requests };
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::Write, move || async move {
            let Some((journal, _held)) = judged.read(&clients).await? else { return Ok(memory_edit(|_| {})) };
            // Another process may have written the manifest and deleted the parts. This task would then fail for ever.
            if is_written(&clients, &journal.work_id).await? {
                return Ok(memory_edit(|m| m.manifest = None));
            }
            let Some(manifest) = manifest(&clients, &journal).await? else { return Ok(memory_edit(|_| {})) };
            let shards = all_settled(&clients, &journal, |_| true, &ctx.jobs.spool).await?;
            let manifest = results::write(&ctx.jobs.spool, &clients.folder, shards, manifest, form).await?;
            Ok(memory_edit(move |m| {
                m.marked = Some(manifest.work_id.clone());
                m.manifest = Some(Some(manifest_view(&manifest)));
            }))
        });
        Ok(())
    }
}

impl Act<'_> {
    pub(super) fn judged(&self) -> Result<JudgedJournal, StepError> {
        let version = self.snapshot.journal.as_ref().map(|(_, version)| version.clone());
        self.journal().map(|_| JudgedJournal { job_state: self.job_state.clone(), version })
    }
}

/// A handle of the journal that a task was decided on. A task that waits for memory holds the handle, and not the journal,
/// which may be large.
pub(super) struct JudgedJournal {
    job_state: Arc<JobState>,
    version: Option<Version>,
}

impl JudgedJournal {
    /// Returns the journal, and the reservation of its memory; None if storage has another version by now, so that the task has
    /// to be decided on again.
    async fn read(&self, clients: &Clients) -> Result<Option<(Arc<Journal>, Reservation)>, StepError> {
        let known = self.job_state.journal().filter(|(_, version)| Some(version) == self.version.as_ref());
        let journal = match known {
            Some((journal, _)) => Some(journal),
            None => {
                let there = clients.journals.read(None, 0).await?;
                there.filter(|(_, version)| Some(version) == self.version.as_ref()).map(|(journal, _)| journal)
            }
        };
        Ok(with_memory(journal).await)
    }

    /// Returns the journal in the version that is cached or, if none is, in storage, and the reservation of its memory.
    pub async fn newest(&self, clients: &Clients) -> Result<Option<(Arc<Journal>, Reservation)>, StepError> {
        let journal = match self.job_state.journal() {
            Some(known) => Some(known),
            None => clients.journals.read(None, 0).await?,
        };
        Ok(with_memory(journal.map(|(journal, _)| journal)).await)
    }
}

async fn with_memory(journal: Option<Arc<Journal>>) -> Option<(Arc<Journal>, Reservation)> {
    let journal = journal?;
    let held = reserve(journal.weight()).await;
    Some((journal, held))
}

/// Returns the journal's shards for which `of` is true, as the join takes them. One segment of the journal is held at a time.
async fn all_settled(
    clients: &Clients,
    journal: &Journal,
    of: impl Fn(&Shard) -> bool,
    spool: &Path,
) -> Result<Sorted<SettledShard>, StepError> {
    let mut sorter = SettledShard::sorter(spool);
    let see = |_, shard: &Shard| if of(shard) { sorter.push(shard.into()) } else { Ok(()) };
    clients.journals.each(journal, see).await?;
    Ok(sorter.finish()?)
}

/// Returns true if the manifest at the destination is this work's.
async fn is_written(clients: &Clients, work_id: &str) -> Result<bool, StepError> {
    let bytes = clients.folder.read(layout::MANIFEST, 8 << 20).await?;
    let there = bytes.and_then(|bytes| weight::read::<Manifest>(&bytes).ok());
    Ok(there.is_some_and(|manifest| manifest.work_id == work_id))
}

/// The provider's names of the first batches, as many as have room. They can be added in any order.
struct FirstBatches {
    names: BTreeMap<usize, String>,
    bytes: usize,
    /// Size that `names` stay below, in bytes.
    limit: usize,
    /// The lowest index of a batch that found no room.
    end: Option<usize>,
}

impl FirstBatches {
    fn within(limit: usize) -> FirstBatches {
        FirstBatches { names: BTreeMap::new(), bytes: 0, limit, end: None }
    }

    fn add(&mut self, index: usize, name: &str) {
        if self.end.is_some_and(|end| index > end) {
            return;
        }
        self.bytes += Self::room(name);
        self.names.insert(index, name.into());
        while self.bytes >= self.limit
            && let Some((last, name)) = self.names.pop_last()
        {
            self.bytes -= Self::room(&name);
            self.end = Some(last);
        }
    }

    /// Returns the bytes that a name takes in the manifest, with the characters around it.
    fn room(name: &str) -> usize {
        name.len() + 8
    }
}

/// Returns the manifest of the decided end, without its files; None if no end is decided.
async fn manifest(clients: &Clients, journal: &Journal) -> Result<Option<Manifest>, StepError> {
    let (Some(commit), Some(plan)) = (&journal.commit, &journal.plan) else { return Ok(None) };
    let mut paid = FirstBatches::within(LISTED_BATCHES);
    let see = |index, shard: &Shard| {
        if let Some(AttemptState::Settled { batch_id, .. }) = shard.attempt.as_ref().map(|a| &a.state) {
            paid.add(index, batch_id);
        }
        Ok(())
    };
    clients.journals.each(journal, see).await?;
    let abandoned = journal.abandoned_batches().map(|(attempt_key, id, requests)| AbandonedBatch {
        name: attempt_key.to_string(),
        batch_id: id.map(String::from),
        requests,
    });
    Ok(Some(Manifest {
        manifest_version: 1,
        work_id: journal.work_id.clone(),
        work_hash: plan.work_hash.clone(),
        outcome: commit.outcome,
        reason: commit.reason.clone(),
        message: commit.message.clone(),
        requests: commit.requests,
        spending: commit.spending.clone(),
        errors: error_summary(journal),
        files: vec![],
        batches: paid.names.into_values().collect(),
        billed_twice: journal.billed_again(),
        repeated_rows: journal.shards.totals().repeated_rows,
        abandoned_batches: abandoned.collect(),
        completed_at: commit.at,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_first_batches_are_listed_as_far_as_they_have_room_in_whatever_order_they_come(
            sizes in prop::collection::vec(1..100usize, 0..60),
            order in prop::collection::vec(any::<u32>(), 60),
            limit in 1..3_000usize,
        ) {
            let mut come: Vec<usize> = (0..sizes.len()).collect();
            come.sort_by_key(|index| order[*index]);
            let mut first = FirstBatches::within(limit);
            for index in come {
                first.add(index, &"b".repeat(sizes[index]));
                prop_assert!(first.bytes < limit);
            }
            let mut bytes = 0;
            let wanted = sizes.iter().take_while(|size| {
                bytes += **size + 8;
                bytes < limit
            });
            prop_assert!(first.names.values().map(String::len).eq(wanted.copied()));
            prop_assert!(first.names.keys().copied().eq(0..first.names.len()));
        }
    }
}
