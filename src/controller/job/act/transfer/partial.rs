//! The task that makes answers readable while the job runs.

use std::path::Path;
use std::sync::Arc;

use super::memory_edit;
use crate::api::{BatchJob, OutputCompression};
use crate::controller::Context;
use crate::controller::job::act::Act;
use crate::controller::job::backoff::LASTING_FROM;
use crate::controller::job::job_state::JobState;
use crate::controller::job::journal::JournalStore;
use crate::controller::job::{events, tasks};
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{EventRecord, publish};
use crate::lifecycle::{Journal, Published, Shard, Task};
use crate::results::{PartialResults, SettledShard, WriteError};
use crate::store::{Folder, Sorted, Sorter, StoreError};

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
            let published =
                publish_settled(&clients.folder, &clients.journals, &journal, known, compression, &ctx.jobs.spool)
                    .await;
            match published {
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
    folder: &Folder,
    journals: &JournalStore,
    journal: &Journal,
    known: Option<Published>,
    compression: OutputCompression,
    spool: &Path,
) -> Result<Published, StepError> {
    let total = journal.plan.as_ref().map_or(0, |plan| plan.requests);
    let mut partial = PartialResults::open(folder, &journal.work_id, total, compression, spool).await?;
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
    for shard in unpublished(journals, journal, &mut published, spool).await? {
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
    journals: &JournalStore,
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
        journals.each_sealed(journal, &mut see).await?;
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use object_store::memory::InMemory;

    use super::*;
    use crate::api::RequestCounts;
    use crate::lifecycle::{Attempt, AttemptState, Owner, PartRef, Payload, Plan};
    use crate::store::layout;
    use crate::store::staged::Spool;

    const WORK: &str = "0123456789abcdef0123456789abcdef";

    /// A work, some of whose shards are settled.
    struct Work {
        folder: Folder,
        journals: JournalStore,
        journal: Journal,
    }

    impl Work {
        async fn of(shards: usize) -> Work {
            let folder = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
            let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
            let mut journal = Journal::open(WORK.into(), owner, "s".into());
            let (work_hash, input) = ("h".into(), Default::default());
            let (too_large, left_out, reuse) = Default::default();
            journal.plan = Some(Plan {
                work_hash,
                input,
                requests: 1_000,
                too_large,
                left_out,
                reuse,
                models: vec![],
                canary: None,
            });
            let mut work = Work { journals: JournalStore::new(&folder, 16), folder, journal };
            work.settle(0..shards).await;
            work
        }

        /// Adds shards that are settled, one request each, and moves those of the head into segments that are enough for one.
        async fn settle(&mut self, shards: Range<usize>) {
            for shard in shards {
                let shard = self.settled(shard, true).await;
                self.journal.shards.push(shard);
            }
            self.journals.pack_shards(&mut self.journal.shards, WORK).await.unwrap();
        }

        /// Stages the index and the part of a shard, whose one request succeeded or failed.
        async fn settled(&self, shard: usize, succeeded: bool) -> Shard {
            let ended = if succeeded { "succeeded" } else { "failed" };
            let index = format!(r#"{{"index":{shard},"custom_id":"request {shard}","request_blake3":"h"}}"#);
            let line = r#"{"response":{"status_code":200,"body":{}}}"#;
            let part = format!(r#"{{"index":{shard},"ended":"{ended}","line":{line}}}"#);
            let index = self.stage(&index, |sha256| layout::index(WORK, sha256)).await.sha256;
            let part = self.stage(&part, |sha256| layout::part(WORK, &format!("{shard:05}-1"), sha256)).await;
            let (succeeded, failed) = (i64::from(succeeded), i64::from(!succeeded));
            let state = AttemptState::Settled {
                batch_id: "b".into(),
                ended: "completed".into(),
                part: Some(part),
                counts: RequestCounts { total: 1, succeeded, failed, ..Default::default() },
                usage: Default::default(),
                cost: None,
                retryable: 0,
                errors: vec![],
                files: vec![],
            };
            let attempt = Some(Attempt { state, ..Attempt::intended(1, "i", Payload::file(""), 0, "") });
            Shard { index_sha256: index, first: shard as i64, requests: 1, attempt, ..Default::default() }
        }

        async fn stage(&self, line: &str, name: impl Fn(&str) -> String) -> PartRef {
            let mut spool = Spool::new(&std::env::temp_dir()).await.unwrap();
            spool.write(format!("{line}\n").as_bytes()).await.unwrap();
            let file = spool.finish().await.unwrap();
            let (sha256, name) = (file.sha256.clone(), name(&file.sha256));
            file.put(&self.folder, &name, WORK).await.unwrap();
            PartRef { name, sha256 }
        }

        async fn publish(&self, known: Option<Published>) -> Result<Published, StepError> {
            let (compression, spool) = (OutputCompression::None, std::env::temp_dir());
            publish_settled(&self.folder, &self.journals, &self.journal, known, compression, &spool).await
        }

        async fn delete_segments(&self) {
            for segment in self.journal.shards.sealed_segments() {
                self.folder.delete(&layout::sealed_segment(WORK, &segment.name)).await.unwrap();
            }
        }

        async fn is_there(&self, shard: usize) -> bool {
            let name = format!("{}/{}", layout::PARTIAL, layout::partial(shard));
            self.folder.exists(&name).await.unwrap()
        }
    }

    #[tokio::test]
    async fn shards_that_left_the_journals_head_are_published_and_their_segments_are_read_only_for_that() {
        let mut work = Work::of(40).await;
        assert_eq!((work.journal.shards.sealed_segments().len(), work.journal.shards.in_head().count()), (2, 8));
        let published = work.publish(None).await.unwrap();
        assert_eq!((published.files, published.settled, published.shards.len()), (40, 40, 40));
        assert!(work.is_there(0).await && work.is_there(39).await);
        work.delete_segments().await;
        work.settle(40..41).await;
        let published = work.publish(Some(published)).await.unwrap();
        assert_eq!((published.files, published.settled), (41, 41));
        assert!(work.publish(None).await.is_ok(), "the list names all of them");
        work.folder.delete(layout::PARTIAL_INDEX).await.unwrap();
        assert!(work.publish(None).await.is_err(), "they would be read");
    }

    #[tokio::test]
    async fn files_that_the_list_does_not_name_are_published_again_whatever_this_process_knows() {
        let work = Work::of(3).await;
        let published = work.publish(None).await.unwrap();
        work.folder.delete(layout::PARTIAL_INDEX).await.unwrap();
        let again = work.publish(Some(published.clone())).await.unwrap();
        assert_eq!(again, published);
        let spool = std::env::temp_dir();
        let list = PartialResults::open(&work.folder, WORK, 3, OutputCompression::None, &spool).await.unwrap();
        assert_eq!(list.files(), 3);
    }

    #[tokio::test]
    async fn a_shard_without_answers_has_no_file_and_a_file_in_the_way_holds_up_no_other() {
        let mut work = Work::of(2).await;
        let failed = work.settled(2, false).await;
        work.journal.shards.push(failed);
        let in_the_way = format!("{}/{}", layout::PARTIAL, layout::partial(0));
        work.folder.put_new(&in_the_way, "mine".into()).await.unwrap();
        let refused = work.publish(None).await.unwrap_err();
        assert!(!refused.retryable && refused.blocked.message.contains("not written by this work"), "{refused}");
        assert!(work.is_there(1).await && !work.is_there(2).await);
        work.folder.delete(&in_the_way).await.unwrap();
        let published = work.publish(None).await.unwrap();
        assert_eq!((published.files, published.shards.len(), published.settled), (2, 3, 3));
    }
}
