//! Follow-up rounds: the shards of requests that still have no answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::errors::Tally;
use super::index::corrupt;
use super::join::{Join, JoinInputs, LANES_LIMIT, Request, loaded};
use super::line::{LineOutcome, PartLine, ProviderLine};
use super::settled::SettledShard;
use super::write::WriteError;
use crate::api::{ErrorSummary, RequestCounts};
use crate::store::{Folder, ShardWriter, Sorted, Sorter, StagedShard, hints_of_line, inputs_of_line};

/// A shard of another round.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct FollowUp {
    /// The shard that is sent.
    pub shard: StagedShard,
    /// The outcomes of its requests before this round.
    pub prior_counts: RequestCounts,
    /// The reasons why those had no answer, by code.
    pub prior_errors: Vec<ErrorSummary>,
}

/// The history of a request over all rounds in which it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestRounds {
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
    shards: Sorted<SettledShard>,
    may_be_sent_again: impl Fn(&RequestRounds) -> bool,
) -> Result<Sorted<FollowUp>, WriteError> {
    let work_id = writer.work_id().to_string();
    let mut prior_counts = EarlierOutcomes::default();
    let mut staged = Sorter::new(writer.spool(), |a: &FollowUp, b: &FollowUp| a.shard.order(&b.shard));
    // Models are read one after the other, so that no more files are open than there are rounds. No shard holds
    // requests of two models.
    for model in models(shards.clone())? {
        let spool = writer.spool();
        let mut joined = Join::of(folder, &work_id, shards.clone(), |of| of == model, JoinInputs::Rounds, spool)?;
        while let Some(mut request) = joined.next().await? {
            if !may_be_sent_again(&RequestRounds {
                given_up: request.given_up,
                ..history(&request.asked, &request.ends)
            }) {
                continue;
            }
            let last_outcome = last_outcome(&request.asked, &request.ends);
            let sent = loaded(request.sent.take()).await?;
            let inputs = if writer.counts_inputs() { inputs_of_line(&sent) } else { 0 };
            let hints = hints_of_line(&sent);
            let first = writer.push(&request.model, &[&sent], inputs, hints, &request.entry).await?;
            drop(sent);
            prior_counts.add(first, last_outcome, request).await?;
            for shard in prior_counts.of(writer.put().await?) {
                staged.push(shard)?;
            }
        }
        writer.close();
        for shard in prior_counts.of(writer.put().await?) {
            staged.push(shard)?;
        }
    }
    Ok(staged.finish()?)
}

/// Returns the models of all shards. Their number is bounded as it is in a join.
fn models(shards: Sorted<SettledShard>) -> Result<BTreeSet<String>, WriteError> {
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
pub(super) struct EarlierOutcomes(BTreeMap<i64, (RequestCounts, Tally)>);

impl EarlierOutcomes {
    /// Counts a request of the shard that begins with `first`.
    pub async fn add(&mut self, first: i64, last_outcome: LastOutcome, request: Request) -> Result<(), WriteError> {
        let (counts, errors) = self.0.entry(first).or_default();
        last_outcome.count(counts);
        if last_outcome != LastOutcome::Missing
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
            let (prior_counts, errors) = self.0.remove(&shard.first).unwrap_or_default();
            FollowUp {
                shard,
                prior_counts,
                prior_errors: errors.most().into_iter().map(|(summary, _)| summary).collect(),
            }
        })
    }
}

/// The state of a request after the last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastOutcome {
    Failed,
    Expired,
    Cancelled,
    Missing,
}

impl LastOutcome {
    fn count(self, counts: &mut RequestCounts) {
        counts.total += 1;
        match self {
            LastOutcome::Failed => counts.failed += 1,
            LastOutcome::Expired => counts.expired += 1,
            LastOutcome::Cancelled => counts.cancelled += 1,
            LastOutcome::Missing => counts.missing += 1,
        }
    }
}

/// Returns the history of a request. It was lost in each round in which it was sent and has no answer. It need not have
/// been sent in every round, because the limit may have been raised in between.
fn history(asked: &[u32], answers: &[(u32, LineOutcome)]) -> RequestRounds {
    RequestRounds {
        ended: answers.iter().any(|(_, ended)| matches!(ended, LineOutcome::Succeeded | LineOutcome::Failed)),
        failed: answers.iter().filter(|(_, ended)| *ended == LineOutcome::Errored).count(),
        lost: asked.len().saturating_sub(answers.len()),
        given_up: false,
    }
}

/// Returns the state of a request for which another round was planned, whatever the limit is now.
pub(super) fn outcome_before(request: &Request) -> LastOutcome {
    match history(&request.asked, &request.ends).ended || request.given_up {
        true => LastOutcome::Missing,
        false => last_outcome(&request.asked, &request.ends),
    }
}

fn last_outcome(asked: &[u32], answers: &[(u32, LineOutcome)]) -> LastOutcome {
    let last = answers.iter().rfind(|(round, _)| Some(round) == asked.last());
    match last.map(|(_, ended)| ended) {
        Some(LineOutcome::Expired) => LastOutcome::Expired,
        Some(LineOutcome::Cancelled) => LastOutcome::Cancelled,
        Some(_) => LastOutcome::Failed,
        None => LastOutcome::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_without_a_line_are_lost_and_the_last_round_says_how_a_request_stands() {
        use LineOutcome::{Cancelled, Errored, Expired, Failed, Succeeded};
        for (asked, answers, (ended, failed, lost), how) in [
            (&[0][..], vec![(0, Succeeded)], (true, 0, 0), LastOutcome::Failed),
            (&[0], vec![(0, Failed)], (true, 0, 0), LastOutcome::Failed),
            (&[0], vec![(0, Errored)], (false, 1, 0), LastOutcome::Failed),
            (&[0, 1], vec![(0, Errored), (1, Errored)], (false, 2, 0), LastOutcome::Failed),
            (&[0], vec![(0, Expired)], (false, 0, 0), LastOutcome::Expired),
            (&[0, 1], vec![(0, Expired), (1, Cancelled)], (false, 0, 0), LastOutcome::Cancelled),
            (&[0], vec![], (false, 0, 1), LastOutcome::Missing),
            (&[0, 1], vec![], (false, 0, 2), LastOutcome::Missing),
            (&[0, 1], vec![(0, Errored)], (false, 1, 1), LastOutcome::Missing),
            (&[0, 1], vec![(1, Errored)], (false, 1, 1), LastOutcome::Failed),
            (&[0, 1], vec![(0, Errored), (1, Succeeded)], (true, 1, 0), LastOutcome::Failed),
            // The request was over the limit when the second round was planned, and no longer is.
            (&[0, 2], vec![(0, Errored)], (false, 1, 1), LastOutcome::Missing),
        ] {
            let wanted = RequestRounds { ended, failed, lost, given_up: false };
            assert_eq!(
                (history(asked, &answers), last_outcome(asked, &answers)),
                (wanted, how),
                "{answers:?} of {asked:?}"
            );
        }
    }
}
