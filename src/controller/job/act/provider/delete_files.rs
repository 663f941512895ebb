//! Files at the provider are deleted.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use super::call::{A_FEW_CALLS, Call, Whose, is_our_file};
use crate::api::conditions::reasons;
use crate::controller::job::act::transfer::Outcome;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::lifecycle::{AttemptState, Journal, leaves_files};
use crate::provider::{ApiError, BatchApi, ErrorKind};

/// Calls of one job that delete its files at a time; its account and namespace are asked for each.
const DELETIONS: usize = 4;

impl Call {
    /// Deletes what is ours by the provider's own word, and remembers each file that is done with, so that a failure costs none
    /// of it again. Where a batch could come of a file, only a provider that does not delete at all is let off; else a file
    /// that cannot be deleted costs nothing and goes by itself.
    pub async fn delete_files(&self, files: Vec<String>, of_batches: Vec<BatchOfFiles>, must: bool) -> Outcome {
        let failures = self.session.backoff(Some(self.task)).failures;
        match self.delete_ours(&files, of_batches, must).await {
            Err(t) if !leaves_files(must, t.retryable, failures) => return Err(t),
            Err(StepError { blocked, .. }) => {
                warn!(why = blocked.message, "files at the provider are left there until they expire");
            }
            Ok(()) => {}
        }
        Ok(self.learned(move |m| m.deleted.extend(files)))
    }

    /// One look at each batch whose files are asked for, and one or two calls for each file: what was done with before is not
    /// asked about again.
    async fn delete_ours(&self, files: &[String], of_batches: Vec<BatchOfFiles>, must: bool) -> Result<(), StepError> {
        let left: Vec<&String> = {
            let deleted = self.session.memory().deleted;
            files.iter().filter(|file| !deleted.contains(*file)).collect()
        };
        let mut looks = vec![];
        for batch in of_batches {
            if batch.files.iter().any(|file| left.contains(&file)) {
                looks.push(self.in_turn(A_FEW_CALLS, self.files_of(batch)));
            }
        }
        let named: Vec<Vec<String>> = futures::stream::iter(looks).buffer_unordered(DELETIONS).try_collect().await?;
        let named: HashSet<String> = named.into_iter().flatten().collect();
        let mut deletions = vec![];
        for file in left {
            let of_batch = named.contains(file);
            deletions.push(self.in_turn(A_FEW_CALLS, self.delete_file(file.clone(), of_batch, must)));
        }
        futures::stream::iter(deletions).buffer_unordered(DELETIONS).try_collect().await
    }

    async fn delete_file(&self, file: String, of_batch: bool, must: bool) -> Result<(), StepError> {
        match delete_if_ours(self.api(), &self.whose, &file, of_batch).await {
            Err(error) if must && !error.is_permanent() => return Err(error.into()),
            Err(error) => {
                warn!(file, %error, "a file at the provider could not be deleted; it expires by itself");
            }
            Ok(()) => {}
        }
        self.session.remember(self.learned(move |m| _ = m.deleted.insert(file)));
        Ok(())
    }

    /// The files that the provider says are the batch's, if the batch is ours.
    async fn files_of(&self, of: BatchOfFiles) -> Result<Vec<String>, StepError> {
        match self.api().get(&of.batch_id).await {
            // Files that an earlier look at it does not name would be left.
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

/// A batch, and the files to be deleted that the journal has for its.
pub(super) struct BatchOfFiles {
    batch_id: String,
    collected: bool,
    files: Vec<String>,
}

/// The batches that the journal has for those of `files`; what is about no batch is told by its own name.
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

async fn delete_if_ours(api: &dyn BatchApi, whose: &Whose, file: &str, of_batch: bool) -> Result<(), ApiError> {
    match of_batch || is_our_file(api, whose, file).await? == Some(true) {
        true => api.delete_file(file).await,
        false => Ok(()),
    }
}
