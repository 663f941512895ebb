//! What has no answer yet becomes the shards of another round, and only that.

use std::collections::BTreeMap;

use super::errors::{Tally, code};
use super::joined::{Joined, Request, Settled, With, corrupt};
use super::line::Ended;
use super::write::WriteError;
use crate::api::{ErrorSummary, RequestCounts};
use crate::store::{ShardWriter, StagedShard, inputs_of_line};

/// A shard of another round.
pub struct FollowUp {
    /// What is sent.
    pub shard: StagedShard,
    /// How its requests stood before.
    pub took: RequestCounts,
    /// Why those had no answer, by code.
    pub took_errors: Vec<ErrorSummary>,
}

/// Stages the requests that another round may bring an answer for: never executed, came back in no file, or failed in a way
/// that may pass and not more often than `limit`. With each shard, how its requests stood before.
///
/// # Errors
/// It can be tried again: shards are named by their content.
pub async fn follow_up(
    mut writer: ShardWriter<'_>,
    folder: &crate::store::Folder,
    shards: Vec<Settled>,
    limit: u32,
) -> Result<Vec<FollowUp>, WriteError> {
    let work_id = writer.work_id().to_string();
    let mut took = Took::default();
    let mut joined = Joined::new(folder, &work_id, shards, With::Rounds);
    while let Some(request) = joined.next().await? {
        let Some(stood) = may_be_sent_again(&request, limit) else { continue };
        let sent = request.sent.as_deref().ok_or_else(|| WriteError::Corrupt("a staged request is missing".into()))?;
        let inputs = if writer.counts_inputs() { inputs_of_line(sent) } else { 0 };
        let first = writer.push(&request.model, &[sent], inputs, &request.entry).await?;
        took.add(first, stood, &request)?;
    }
    Ok(took.of(writer.finish().await?))
}

/// How the requests of shards stood before, by the first request of each.
#[derive(Default)]
pub(super) struct Took(BTreeMap<i64, (RequestCounts, Tally)>);

impl Took {
    /// Counts a request of the shard that begins with `first`.
    pub fn add(&mut self, first: i64, stood: Stood, request: &Request) -> Result<(), WriteError> {
        let (counts, errors) = self.0.entry(first).or_default();
        stood.count(counts);
        if stood != Stood::Missing
            && let Some(last) = request.answers.last()
        {
            errors.add(code(&serde_json::from_str(last.line.get()).map_err(corrupt)?), request.entry.index);
        }
        Ok(())
    }

    /// The shards, with how their requests stood.
    pub fn of(mut self, staged: Vec<StagedShard>) -> Vec<FollowUp> {
        let follow_up = |shard: StagedShard| {
            let (took, errors) = self.0.remove(&shard.first).unwrap_or_default();
            FollowUp { shard, took, took_errors: errors.most().into_iter().map(|(summary, _)| summary).collect() }
        };
        staged.into_iter().map(follow_up).collect()
    }
}

/// How a request stood after the last round.
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

fn may_be_sent_again(request: &Request, limit: u32) -> Option<Stood> {
    if request.given_up {
        return None;
    }
    judge(&request.asked, &ends(request), limit)
}

/// How a request stood that another round was planned for, whatever the limit is by now.
pub(super) fn stood_before(request: &Request) -> Stood {
    judge(&request.asked, &ends(request), u32::MAX).unwrap_or(Stood::Missing)
}

fn ends(request: &Request) -> Vec<(u32, Ended)> {
    request.answers.iter().map(|a| (a.round, a.ended)).collect()
}

/// A round that it was sent in and has no answer of is one that lost it. Not every round is one: the limit may have been raised.
fn judge(asked: &[u32], answers: &[(u32, Ended)], limit: u32) -> Option<Stood> {
    if answers.iter().any(|(_, ended)| matches!(ended, Ended::Succeeded | Ended::Failed)) {
        return None;
    }
    let errored = answers.iter().filter(|(_, ended)| *ended == Ended::Errored).count();
    let lost = asked.len().saturating_sub(answers.len());
    if errored + lost > limit as usize {
        return None;
    }
    let last = answers.iter().rfind(|(round, _)| Some(round) == asked.last());
    Some(match last.map(|(_, ended)| ended) {
        Some(Ended::Expired) => Stood::Expired,
        Some(Ended::Cancelled) => Stood::Cancelled,
        Some(_) => Stood::Failed,
        None => Stood::Missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_get_an_answer_is_sent_again() {
        use Ended::{Cancelled, Errored, Expired, Failed, Succeeded};
        for (asked, answers, limit, stood) in [
            (&[0][..], vec![(0, Succeeded)], 2, None),
            (&[0], vec![(0, Failed)], 2, None),
            (&[0], vec![(0, Errored)], 2, Some(Stood::Failed)),
            (&[0], vec![(0, Errored)], 0, None),
            (&[0, 1], vec![(0, Errored), (1, Errored)], 2, Some(Stood::Failed)),
            (&[0, 1, 2], vec![(0, Errored), (1, Errored), (2, Errored)], 2, None),
            (&[0], vec![(0, Expired)], 0, Some(Stood::Expired)),
            (&[0, 1], vec![(0, Expired), (1, Cancelled)], 0, Some(Stood::Cancelled)),
            (&[0], vec![], 1, Some(Stood::Missing)),
            (&[0, 1], vec![], 1, None),
            (&[0, 1], vec![(0, Errored)], 2, Some(Stood::Missing)),
            (&[0, 1], vec![(1, Errored)], 2, Some(Stood::Failed)),
            (&[0, 1], vec![(0, Errored), (1, Succeeded)], 2, None),
            // It was over the limit when the second round was planned, and no longer is.
            (&[0], vec![(0, Errored)], 1, Some(Stood::Failed)),
            (&[0, 2], vec![(0, Errored)], 2, Some(Stood::Missing)),
        ] {
            assert_eq!(judge(asked, &answers, limit), stood, "{answers:?} of {asked:?}, limit {limit}");
        }
    }
}
