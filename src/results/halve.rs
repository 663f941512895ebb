//! Division of a shard that is larger than an account accepts into two, request by request.

use super::follow_up::{EarlierOutcomes, FollowUp, outcome_before};
use super::index::{index_lines, next_entry};
use super::join::{Join, JoinInputs, loaded};
use super::settled::SettledShard;
use super::write::WriteError;
use crate::store::{Folder, ShardWriter, Sorted, hints_of_line};

/// Stages the two halves of `whole`, in the order of its requests; `writer` cuts after the first. `earlier` holds all
/// shards of the rounds before it, which have the earlier outcomes of the requests.
///
/// # Errors
/// It can be tried again, since shards are named by their content.
pub async fn halve(
    mut writer: ShardWriter<'_>,
    folder: &Folder,
    whole: SettledShard,
    earlier: Sorted<SettledShard>,
) -> Result<[FollowUp; 2], WriteError> {
    let work_id = writer.work_id().to_string();
    let (index, model, first_round) = (whole.index.clone(), whole.model.clone(), whole.round == 0);
    let mut wanted = index_lines(folder, &work_id, &index).await?;
    let shards = if first_round { Sorted::one(whole) } else { earlier };
    let mut joined = Join::of(folder, &work_id, shards, |of| of == model, JoinInputs::Rounds, writer.spool())?;
    let (mut prior_counts, mut halves) = (EarlierOutcomes::default(), vec![]);
    while let Some(entry) = next_entry(&mut wanted).await? {
        let mut request = loop {
            match joined.next().await? {
                Some(request) if request.entry.index == entry.index => break request,
                Some(_) => {}
                None => return Err(WriteError::Corrupt("a shard holds a request that the input does not".into())),
            }
        };
        let sent = loaded(request.sent.take()).await?;
        let first = writer.push(&request.model, &[&sent], 0, hints_of_line(&sent), &entry).await?;
        drop(sent);
        if !first_round {
            prior_counts.add(first, outcome_before(&request), request).await?;
        }
        halves.extend(prior_counts.of(writer.put().await?));
    }
    halves.extend(prior_counts.of(writer.finish().await?));
    halves.try_into().map_err(|halves: Vec<_>| WriteError::Corrupt(format!("{} halves of a shard", halves.len())))
}
