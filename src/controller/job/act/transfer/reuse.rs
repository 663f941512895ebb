//! The answers of earlier jobs that a plan reuses.

use std::path::Path;

use tracing::info;

use crate::api::{ReuseSource, WorkHashVersion};
use crate::controller::Context;
use crate::controller::job::folders::results_folder;
use crate::controller::job::source::reuse_field;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::ReuseSet;
use crate::results::{ResultSet, ReusedShard, add_answers, write_reused};
use crate::store::{Folder, KeyedLines, KeyedLinesWriter, Sorted, Sorter, StagedShard, StoreError};

/// Reads the answers of all result sets, and returns them with what is told of each set. A set that is not complete has none.
/// The inner error is about the sets, and fails the job.
///
/// # Errors
/// If a store, a Secret or the local disk cannot be used now.
pub(super) async fn read(
    ctx: &Context,
    namespace: &str,
    sources: &[ReuseSource],
    version: WorkHashVersion,
) -> Result<Result<(KeyedLines, Vec<ReuseSet>), String>, StepError> {
    let spool = &ctx.jobs.spool;
    let (mut answers, mut sets) = (KeyedLinesWriter::new(spool).await?, vec![]);
    for (i, source) in sources.iter().enumerate() {
        let field = reuse_field(i);
        let folder = results_folder(ctx, namespace, &source.object_store, &format!("`{field}`")).await?;
        let uri = folder.uri_of("");
        let added = match ResultSet::open(folder).await {
            Ok(None) => Ok(None),
            Ok(Some(set)) => add_answers(&set, version, &mut answers, spool).await.map(Some),
            Err(error) => Err(error),
        };
        let counts = match added {
            Ok(counts) => counts,
            Err(StoreError::Corrupt(why) | StoreError::TooLarge(why)) => return Ok(Err(format!("`{field}`: {why}"))),
            Err(error) => return Err(error.into()),
        };
        info!(uri, answers = counts.map(|counts| counts.answers), "read the answers of an earlier job");
        let incomparable = counts.map_or(0, |counts| counts.incomparable);
        sets.push(ReuseSet { uri, answers: counts.map(|counts| counts.answers), incomparable });
    }
    Ok(Ok((answers.finish().await?, sets)))
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
