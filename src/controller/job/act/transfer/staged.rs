//! Deletion of staged files.

use std::cmp::Ordering;
use std::path::Path;

use tracing::info;

use crate::controller::job::act::Act;
use crate::controller::job::clients::Clients;
use crate::controller::job::journal::JournalStore;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{AttemptState, CleanUpFailure, CleanUpResult, Journal, Shard};
use crate::results;
use crate::store::{Sorted, Sorter, StoreError, layout};

impl Act<'_> {
    /// Deletes the staged files of the work. The journal stays, because it is the record of the work.
    pub(crate) async fn tidy(&self) -> Result<(), StepError> {
        let work_id = self.journal()?.work_id.clone();
        let deleted = match self.delete_staged(&work_id).await {
            Ok(()) => self.delete_partial(&work_id).await,
            failed => failed,
        };
        let untidy = |t: &StepError| CleanUpFailure { message: t.blocked.message.clone(), retryable: t.retryable };
        let failed = deleted.as_ref().err().map(untidy);
        if self.snapshot.view.deleting_since.is_some() {
            self.job_state.remember(|m| m.tidied = Some(CleanUpResult { work_id, failed }));
        }
        deleted
    }

    /// Deletes all objects of the work's folder. If the store refuses to list or delete them so, deletes the objects that the
    /// journal names; scratch files and the files of dropped plans then stay.
    async fn delete_staged(&self, work_id: &str) -> Result<(), StepError> {
        let (folder, journal) = (&self.clients()?.folder, self.journal()?);
        match folder.delete_below(&layout::work(work_id)).await {
            Err(StoreError::Denied(why) | StoreError::Unfit(why) | StoreError::Rejected(why)) => {
                for name in staged_names(self.clients()?, journal, &self.ctx.jobs.spool).await? {
                    folder.delete(&name?).await?;
                }
                info!(work_id, why, "staged files were deleted by their names");
                Ok(())
            }
            deleted => Ok(deleted?),
        }
    }

    /// Deletes the answers that were readable while the job ran. An earlier BatchJob of this work may have published them.
    async fn delete_partial(&self, work_id: &str) -> Result<(), StepError> {
        let folder = &self.clients()?.folder;
        if folder.is_config_maps() {
            return Ok(());
        }
        Ok(results::delete_partial(folder, work_id).await?)
    }
}

/// Returns the names of the staged files that the journal knows, kept on local disk. The segments of the plan come last,
/// because the names of other files are read from them.
async fn staged_names(clients: &Clients, journal: &Journal, spool: &Path) -> Result<Sorted<String>, StepError> {
    // The team can write the journal, so nothing outside the work's folder is deleted by it.
    let below = layout::work(&journal.work_id);
    let mut names = Sorter::new(spool, |_, _| Ordering::Equal);
    let mut add = |name: String| if name.starts_with(&below) { names.push(name) } else { Ok(()) };
    let mut see = |_, shard: &Shard| staged_of(&journal.work_id, shard).try_for_each(&mut add);
    clients.journals.each_sealed(journal, &mut see).await?;
    match clients.journals.each_planned(journal, &mut see).await {
        // An earlier try deleted the segment, and before it the files that it names.
        Ok(()) | Err(StoreError::Corrupt(_)) => {}
        Err(e) => return Err(e.into()),
    }
    journal.shards.in_head().try_for_each(|(index, shard)| see(index, shard))?;
    JournalStore::plan_objects(journal).try_for_each(add)?;
    Ok(names.finish()?)
}

/// Returns the names of a shard's staged files: its content, its index and its part.
fn staged_of(work_id: &str, shard: &Shard) -> impl Iterator<Item = String> {
    let part = match shard.attempt.as_ref().map(|a| &a.state) {
        Some(AttemptState::Settled { part, .. }) => part.as_ref(),
        _ => shard.reused.as_ref(),
    };
    let part = part.map(|part| part.name.clone());
    let staged = [layout::shard(work_id, &shard.sha256), layout::index(work_id, shard.index())];
    staged.into_iter().chain(part)
}
