//! The answers of earlier jobs that a plan reuses.

use std::path::Path;

use tracing::info;

use crate::api::{DeletionPolicy, NEWEST_PROTOCOL_VERSION, ReuseSource, WorkHashVersion};
use crate::controller::Context;
use crate::controller::job::folders::results_folder;
use crate::controller::job::journal::JournalStore;
use crate::controller::job::source::reuse_field;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::{ReuseSet, SEAL_AT};
use crate::results::{ResultSet, ReusedShard, add_answers, write_reused};
use crate::store::{Folder, KeyedLines, KeyedLinesWriter, Sorted, Sorter, StagedShard, StoreError};

/// The answers of the result sets of a job.
pub(super) enum Reusable {
    /// The answers, with what is told of each set. A set that is not complete has none.
    Answers(KeyedLines, Vec<ReuseSet>),
    /// The job of a set runs, so that there will be answers; which one, for a person.
    ToCome(String),
    /// A set cannot be used, which fails the job; why, for a person.
    Faulty(String),
}

/// Reads the answers of all result sets, if no job of theirs runs.
///
/// # Errors
/// If a store, a Secret or the local disk cannot be used now.
pub(super) async fn read(
    ctx: &Context,
    namespace: &str,
    sources: &[ReuseSource],
    version: WorkHashVersion,
) -> Result<Reusable, StepError> {
    let spool = &ctx.jobs.spool;
    let mut opened = vec![];
    for (i, source) in sources.iter().enumerate() {
        let field = reuse_field(i);
        let folder = results_folder(ctx, namespace, &source.object_store, &format!("`{field}`")).await?;
        let uri = folder.uri_of("");
        match ResultSet::open(folder.clone()).await {
            Ok(None) => match results_to_come(&folder).await? {
                Some(what) => {
                    return Ok(Reusable::ToCome(format!("the job that writes to {uri} (`{field}`) {what}")));
                }
                None => opened.push((field, uri, None)),
            },
            Ok(set) => opened.push((field, uri, set)),
            Err(StoreError::Corrupt(why)) => return Ok(Reusable::Faulty(format!("`{field}`: {why}"))),
            Err(error) => return Err(error.into()),
        }
    }
    let (mut answers, mut sets) = (KeyedLinesWriter::new(spool).await?, vec![]);
    for (field, uri, set) in opened {
        let added = match &set {
            Some(set) => add_answers(set, version, &mut answers, spool).await.map(Some),
            None => Ok(None),
        };
        let counts = match added {
            Ok(counts) => counts,
            Err(StoreError::Corrupt(why) | StoreError::TooLarge(why)) => {
                return Ok(Reusable::Faulty(format!("`{field}`: {why}")));
            }
            Err(error) => return Err(error.into()),
        };
        info!(uri, answers = counts.map(|counts| counts.answers), "read the answers of an earlier job");
        let incomparable = counts.map_or(0, |counts| counts.incomparable);
        sets.push(ReuseSet { uri, answers: counts.map(|counts| counts.answers), incomparable });
    }
    Ok(Reusable::Answers(answers.finish().await?, sets))
}

/// Returns why results will be in a folder that has no manifest, for a person: the journal there says that batches may run, or
/// that their answers are about to be written. None if nothing was sent, or batches were left to run that no job follows.
async fn results_to_come(folder: &Folder) -> Result<Option<&'static str>, StoreError> {
    let journal = match JournalStore::new(folder, SEAL_AT).read(None, 0).await {
        Ok(Some((journal, _))) => journal,
        Ok(None) | Err(StoreError::Corrupt(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let was_sent =
        journal.has_intents() || journal.commit.is_some() || journal.protocol_version > NEWEST_PROTOCOL_VERSION;
    Ok(match (was_sent && journal.closing != Some(DeletionPolicy::Orphan), &journal.commit) {
        (false, _) => None,
        (true, None) => Some(
            "has sent its requests, and its results are not there yet; if it is gone, create this job anew without that set",
        ),
        (true, Some(_)) => Some(
            "has ended, and its results are not there yet; if somebody deleted them, create this job anew without that set",
        ),
    })
}

/// Puts the parts of shards whose requests all have an answer, and returns the shards with their parts, in order.
pub(super) async fn stage(
    folder: &Folder,
    work_id: &str,
    shards: Sorted<StagedShard>,
    answers: Option<&KeyedLines>,
    spool: &Path,
) -> Result<Sorted<ReusedShard>, StepError> {
    let mut staged = Sorter::new(spool, |a: &ReusedShard, b: &ReusedShard| a.shard.order(&b.shard));
    let Some(answers) = answers else { return Ok(staged.finish()?) };
    for shard in shards {
        staged.push(write_reused(folder, work_id, shard?, answers, spool).await?)?;
    }
    Ok(staged.finish()?)
}
