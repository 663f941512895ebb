//! Follow-up rounds: the shards of requests that still have no answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::errors::Tally;
use super::index::corrupt;
use super::joined::{Joined, LANES_LIMIT, Request, With, loaded};
use super::line::{Ended, PartLine, ProviderLine};
use super::settled::Settled;
use super::write::WriteError;
use crate::api::{ErrorSummary, RequestCounts};
use crate::store::{Folder, ShardWriter, Sorted, Sorter, StagedShard, inputs_of_line};

/// A shard of another round.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct FollowUp {
    /// The shard that is sent.
    pub shard: StagedShard,
    /// The outcomes of its requests before this round.
    pub took: RequestCounts,
    /// The reasons why those had no answer, by code.
    pub took_errors: Vec<ErrorSummary>,
}

/// The history of a request over all rounds in which it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether a line ended it for good: it was answered, refused, or paid but not readable.
    pub ended: bool,
    /// Rounds in which it failed in a way that may pass.
    pub failed: usize,
    /// Rounds in which no line named it.
    pub lost: usize,
    /// Whether a person gave up its answers.
    pub given_up: bool,
}

/// Stages the requests for which `may_be_sent_again` holds. Returns the shards in order, each with the earlier outcomes
/// of its requests.
///
/// # Errors
/// It can be tried again, since shards are named by their content.
pub async fn follow_up(
    mut writer: ShardWriter<'_>,
    folder: &Folder,
    shards: Sorted<Settled>,
    may_be_sent_again: impl Fn(&Asked) -> bool,
) -> Result<Sorted<FollowUp>, WriteError> {
    let work_id = writer.work_id().to_string();
    let mut took = Took::default();
    let mut staged = Sorter::new(writer.spool(), |a: &FollowUp, b: &FollowUp| a.shard.order(&b.shard));
    // Models are read one after the other, so that no more files are open than there are rounds. No shard holds
    // requests of two models.
    for model in models(shards.clone())? {
        let spool = writer.spool();
        let mut joined = Joined::of(folder, &work_id, shards.clone(), |of| of == model, With::Rounds, spool)?;
        while let Some(mut request) = joined.next().await? {
            if !may_be_sent_again(&Asked { given_up: request.given_up, ..fared(&request.asked, &request.ends) }) {
                continue;
            }
            let stood = stood(&request.asked, &request.ends);
            let sent = loaded(request.sent.take()).await?;
            let inputs = if writer.counts_inputs() { inputs_of_line(&sent) } else { 0 };
            let first = writer.push(&request.model, &[&sent], inputs, &request.entry).await?;
            drop(sent);
            took.add(first, stood, request).await?;
            for shard in took.of(writer.put().await?) {
                staged.push(shard)?;
            }
        }
        writer.close();
        for shard in took.of(writer.put().await?) {
            staged.push(shard)?;
        }
    }
    Ok(staged.finish()?)
}

/// Returns the models of all shards. Their number is bounded as it is in a join.
fn models(shards: Sorted<Settled>) -> Result<BTreeSet<String>, WriteError> {
    let mut models = BTreeSet::new();
    for shard in shards {
        models.insert(shard?.model);
        if models.len() > LANES_LIMIT {
            return Err(WriteError::Corrupt(format!("shards of more than {LANES_LIMIT} models")));
        }
    }
    Ok(models)
}

/// The earlier outcomes of requests in shards that are being filled, by the first request of each shard.
#[derive(Default)]
pub(super) struct Took(BTreeMap<i64, (RequestCounts, Tally)>);

impl Took {
    /// Counts a request of the shard that begins with `first`.
    pub async fn add(&mut self, first: i64, stood: Stood, request: Request) -> Result<(), WriteError> {
        let (counts, errors) = self.0.entry(first).or_default();
        stood.count(counts);
        if stood != Stood::Missing
            && let Some(last) = request.answer
        {
            let last = loaded(Some(last)).await?;
            let PartLine::<ProviderLine> { line, .. } = serde_json::from_slice(&last).map_err(corrupt)?;
            errors.add(line.code(), request.entry.index);
        }
        Ok(())
    }

    /// Returns full shards with the earlier outcomes of their requests.
    pub fn of(&mut self, staged: Vec<StagedShard>) -> impl Iterator<Item = FollowUp> {
        staged.into_iter().map(|shard| {
            let (took, errors) = self.0.remove(&shard.first).unwrap_or_default();
            FollowUp { shard, took, took_errors: errors.most().into_iter().map(|(summary, _)| summary).collect() }
        })
    }
}

/// The state of a request after the last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stood {
    Failed,
    Expired,
    Cancelled,
    Missing,
}

impl Stood {
    fn count(self, counts: &mut RequestCounts) {
        counts.total += 1;
        match self {
            Stood::Failed => counts.failed += 1,
            Stood::Expired => counts.expired += 1,
            Stood::Cancelled => counts.cancelled += 1,
            Stood::Missing => counts.missing += 1,
        }
    }
}

/// Returns the history of a request. It was lost in each round in which it was sent and has no answer. It need not have
/// been sent in every round, because the limit may have been raised in between.
fn fared(asked: &[u32], answers: &[(u32, Ended)]) -> Asked {
    Asked {
        ended: answers.iter().any(|(_, ended)| matches!(ended, Ended::Succeeded | Ended::Failed)),
        failed: answers.iter().filter(|(_, ended)| *ended == Ended::Errored).count(),
        lost: asked.len().saturating_sub(answers.len()),
        given_up: false,
    }
}

/// Returns the state of a request for which another round was planned, whatever the limit is now.
pub(super) fn stood_before(request: &Request) -> Stood {
    match fared(&request.asked, &request.ends).ended || request.given_up {
        true => Stood::Missing,
        false => stood(&request.asked, &request.ends),
    }
}

fn stood(asked: &[u32], answers: &[(u32, Ended)]) -> Stood {
    let last = answers.iter().rfind(|(round, _)| Some(round) == asked.last());
    match last.map(|(_, ended)| ended) {
        Some(Ended::Expired) => Stood::Expired,
        Some(Ended::Cancelled) => Stood::Cancelled,
        Some(_) => Stood::Failed,
        None => Stood::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_without_a_line_are_lost_and_the_last_round_says_how_a_request_stands() {
        use Ended::{Cancelled, Errored, Expired, Failed, Succeeded};
        for (asked, answers, (ended, failed, lost), how) in [
            (&[0][..], vec![(0, Succeeded)], (true, 0, 0), Stood::Failed),
            (&[0], vec![(0, Failed)], (true, 0, 0), Stood::Failed),
            (&[0], vec![(0, Errored)], (false, 1, 0), Stood::Failed),
            (&[0, 1], vec![(0, Errored), (1, Errored)], (false, 2, 0), Stood::Failed),
            (&[0], vec![(0, Expired)], (false, 0, 0), Stood::Expired),
            (&[0, 1], vec![(0, Expired), (1, Cancelled)], (false, 0, 0), Stood::Cancelled),
            (&[0], vec![], (false, 0, 1), Stood::Missing),
            (&[0, 1], vec![], (false, 0, 2), Stood::Missing),
            (&[0, 1], vec![(0, Errored)], (false, 1, 1), Stood::Missing),
            (&[0, 1], vec![(1, Errored)], (false, 1, 1), Stood::Failed),
            (&[0, 1], vec![(0, Errored), (1, Succeeded)], (true, 1, 0), Stood::Failed),
            // The request was over the limit when the second round was planned, and no longer is.
            (&[0, 2], vec![(0, Errored)], (false, 1, 1), Stood::Missing),
        ] {
            let wanted = Asked { ended, failed, lost, given_up: false };
            assert_eq!((fared(asked, &answers), stood(asked, &answers)), (wanted, how), "{answers:?} of {asked:?}");
        }
    }
}
