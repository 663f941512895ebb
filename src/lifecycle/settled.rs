//! Settled shards of a large job: their files at the provider are deleted while other batches run, so that the shards can leave
//! the journal's head.

use super::attempt::AttemptKey;
use super::journal::Journal;
use super::observed::Observed;
use super::shard::Shard;
use super::step::Step;
use super::task::Task;
use crate::api::{DeletionPolicy, ProviderFilePolicy};

/// Returns the settled shards of the head, if there are enough of them to leave it together.
fn many<'a>(o: &Observed, journal: &'a Journal) -> Vec<(usize, &'a Shard)> {
    let settled: Vec<_> = journal.shards.in_head().filter(|(_, s)| s.settled().is_some()).collect();
    if settled.len() < o.job.seal_at { vec![] } else { settled }
}

/// Returns whether the file needs no deletion any more.
fn is_gone(o: &Observed, file: &str) -> bool {
    o.job.provider_file_policy == ProviderFilePolicy::Retain
        || o.memory.deleted.contains(file)
        || o.memory.revoked.contains_key(file)
}

/// Deletes the files of one settled shard, whose answers are in storage. A failed deletion is put off, and delays nothing else.
pub(super) fn delete_files(o: &Observed, journal: &Journal, closing: Option<DeletionPolicy>) -> Option<Step> {
    if closing == Some(DeletionPolicy::Orphan) {
        return None;
    }
    many(o, journal).into_iter().find_map(|(shard, settled)| {
        let attempt_key = AttemptKey { shard, attempt: settled.attempt.as_ref()?.number };
        let files: Vec<String> = settled.files_left().filter(|file| !is_gone(o, file)).map(String::from).collect();
        let may_try = !o.memory.running.contains(&Task::Call(attempt_key));
        (may_try && !files.is_empty()).then_some(Step::DeleteFiles {
            files,
            attempt_key: Some(attempt_key),
            must: false,
        })
    })
}

/// Removes the names of deleted files from settled shards, as part of another write.
pub(super) fn forget_deleted_files(o: &Observed, journal: &mut Journal) {
    if many(o, journal).is_empty() {
        return;
    }
    let settled = journal.shards.iter_mut().filter(|s| s.settled().is_some());
    settled.filter(|s| s.files_left().all(|file| is_gone(o, file))).for_each(Shard::forget_files);
}
