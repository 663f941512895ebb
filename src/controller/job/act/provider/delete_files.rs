//! Deletion of files at the provider.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use super::call::{A_FEW_CALLS, Call, ExpectedOwner, is_our_file};
use crate::api::conditions::reasons;
use crate::controller::job::act::transfer::Outcome;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::lifecycle::{AttemptState, Journal, leaves_files};
use crate::provider::{ApiError, BatchApi, ErrorKind};

/// Maximum number of simultaneous calls that delete files of one job. Each waits for its turn at the account.
const DELETIONS: usize = 4;
/// Calls that are made ready at a time: each takes some kilobytes before it is begun.
const A_ROUND: usize = 32;

impl Call {
    /// Deletes those of `files` that are this work's by the provider's own record. Each file is remembered as soon as it is
    /// done with, so that a retry does not begin from the start.
    ///
    /// A file that could still become a batch (`must`) is only left if the provider permanently refuses to delete it. Any other
    /// file is left if its deletion fails, because it costs nothing and expires by itself.
    pub async fn delete_files(&self, files: Vec<String>, of_batches: Vec<BatchOfFiles>, must: bool) -> Outcome {
        let failures = self.job_state.backoff(Some(self.task)).failures;
        match self.delete_ours(&files, of_batches, must).await {
            Err(t) if !leaves_files(must, t.retryable, failures) => return Err(t),
            Err(error) => {
                warn!(why = error.chain(), "files at the provider are left there until they expire");
            }
            Ok(()) => {}
        }
        Ok(self.memory_edit(move |m| m.deleted.extend(files)))
    }

    /// Looks once at each batch that has some of the files, then makes one or two calls for each file. Skips files that an
    /// earlier try was done with.
    async fn delete_ours(&self, files: &[String], of_batches: Vec<BatchOfFiles>, must: bool) -> Result<(), StepError> {
        let left: Vec<&String> = {
            let deleted = self.job_state.memory().deleted;
            files.iter().filter(|file| !deleted.contains(*file)).collect()
        };
        let mut of_batches: Vec<BatchOfFiles> =
            of_batches.into_iter().filter(|batch| batch.files.iter().any(|file| left.contains(&file))).collect();
        let mut named = HashSet::new();
        while !of_batches.is_empty() {
            let mut looks = vec![];
            for batch in of_batches.split_off(of_batches.len().saturating_sub(A_ROUND)) {
                looks.push(self.in_turn(A_FEW_CALLS, self.files_of(batch)));
            }
            let files: Vec<Vec<String>> =
                futures::stream::iter(looks).buffer_unordered(DELETIONS).try_collect().await?;
            named.extend(files.into_iter().flatten());
        }
        for files in left.chunks(A_ROUND) {
            let mut deletions = vec![];
            for file in files {
                let of_batch = named.contains(*file);
                deletions.push(self.in_turn(A_FEW_CALLS, self.delete_file((*file).clone(), of_batch, must)));
            }
            futures::stream::iter(deletions).buffer_unordered(DELETIONS).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Deletes one file, if it is this work's, and remembers it.
    ///
    /// # Errors
    /// If the file `must` go, and a later try may delete it.
    async fn delete_file(&self, file: String, of_batch: bool, must: bool) -> Result<(), StepError> {
        match delete_if_ours(self.api(), &self.expected, &file, of_batch).await {
            Err(error) if must && !error.is_permanent() => return Err(error.into()),
            Err(error) => {
                warn!(file, %error, "a file at the provider could not be deleted; it expires by itself");
            }
            Ok(()) => {}
        }
        self.job_state.remember(self.memory_edit(move |m| _ = m.deleted.insert(file)));
        Ok(())
    }

    /// Returns the files that the provider's record of the batch names; none if the batch is not this work's.
    async fn files_of(&self, of: BatchOfFiles) -> Result<Vec<String>, StepError> {
        match self.api().get(&of.batch_id).await {
            // A stale record may lack the names of the answers' files, which would then be left.
            Ok(batch) if of.collected && !batch.has_ended() => {
                let message = format!("batch {} ended, and the provider shows it as {} now", of.batch_id, batch.status);
                Err(StepError::passing(reasons::PROVIDER_UNAVAILABLE, message))
            }
            Ok(batch) if self.is_ours(&batch).await? => Ok(ownership::files_of(&batch)),
            Ok(_) => Ok(vec![]),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(vec![]),
            Err(e) => Err(e.into()),
        }
    }
}

/// A batch, and those of the files to delete that the journal assigns to it.
pub(super) struct BatchOfFiles {
    batch_id: String,
    /// Whether its answers were collected, so that it has ended.
    collected: bool,
    files: Vec<String>,
}

/// Returns the batches that the journal assigns `files` to. Files of no batch are judged by their own names.
pub(super) fn batches_of_files(journal: &Journal, files: &[String]) -> Vec<BatchOfFiles> {
    let wanted: HashSet<&str> = files.iter().map(String::as_str).collect();
    let attempts = journal.shards.iter().filter_map(|s| s.attempt.as_ref());
    let of = attempts.filter_map(|attempt| {
        let (batch_id, collected, named) = match &attempt.state {
            AttemptState::Settled { batch_id, part, files, .. } => (batch_id, part.is_some(), files.as_slice()),
            AttemptState::Submitted { batch_id, .. } => (batch_id, false, &[][..]),
            _ => return None,
        };
        let its = named.iter().map(String::as_str).chain([attempt.payload.name()]).filter(|file| wanted.contains(file));
        Some(BatchOfFiles { batch_id: batch_id.clone(), collected, files: its.map(String::from).collect() })
    });
    of.filter(|batch| !batch.files.is_empty()).collect()
}

/// Deletes a file that the provider's record of our batch names (`of_batch`), or whose own name says that it is ours.
async fn delete_if_ours(
    api: &dyn BatchApi,
    expected: &ExpectedOwner,
    file: &str,
    of_batch: bool,
) -> Result<(), ApiError> {
    match of_batch || is_our_file(api, expected, file).await? == Some(true) {
        true => api.delete_file(file).await,
        false => Ok(()),
    }
}
