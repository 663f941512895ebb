//! The tokens that finished batches took, from which those of later jobs are estimated.

use super::attempt::AttemptState;
use super::journal::Journal;
use super::shard::Shard;
use crate::api::{LearnedTokens, ModelStatus};

/// Maximum number of models of an account that something is remembered of.
const MODELS: usize = 64;
/// Bytes of text, and answers, from which on the sums of a model are halved.
const FADES_FROM: (i64, i64) = (256 << 20, 100_000);

/// Returns what is learned of a change of the journal from `old` to `new`: for each batch that was settled by it and whose
/// requests were all answered with a count of tokens, the model and the sums.
pub fn learned(old: &Journal, new: &Journal) -> Vec<(String, LearnedTokens)> {
    let settled =
        |shard: &Shard| matches!(shard.attempt.as_ref().map(|a| &a.state), Some(AttemptState::Settled { .. }));
    let was_settled = |index: usize| old.shards.get(index).is_some_and(settled);
    let of = |(_, shard): (usize, &Shard)| Some((shard.model.clone(), tokens(shard)?));
    new.shards.entries().filter(|(index, _)| !was_settled(*index)).filter_map(of).collect()
}

fn tokens(shard: &Shard) -> Option<LearnedTokens> {
    let AttemptState::Settled { counts, usage, .. } = &shard.attempt.as_ref()?.state else { return None };
    let tokens = &usage.tokens;
    let is_whole = counts.succeeded == shard.requests && tokens.answers_without_usage == 0 && !tokens.is_zero();
    if !is_whole || shard.model.is_empty() {
        return None;
    }
    let (answers, output_tokens) = (shard.requests, tokens.output_tokens.max(0));
    let input_tokens = tokens.input_tokens.saturating_add(tokens.embedding_tokens).max(0);
    Some(match i64::try_from(shard.hints.text_bytes) {
        Ok(text_bytes @ 1..) if shard.hints.opaque_requests == 0 => {
            LearnedTokens { text_bytes, input_tokens, answers, output_tokens }
        }
        _ => LearnedTokens { answers, output_tokens, ..LearnedTokens::default() },
    })
}

/// Adds the sums of a model to those of its account. The model comes last. If they are too many, those of the fewest answers are
/// forgotten, and of these the one that was used longest ago.
pub fn learn(models: &mut Vec<ModelStatus>, name: &str, tokens: LearnedTokens) {
    let known = models.iter().position(|model| model.name == name).map(|at| models.remove(at));
    let mut model = known.unwrap_or_else(|| ModelStatus { name: name.into(), ..ModelStatus::default() });
    model.tokens += tokens;
    while model.tokens.text_bytes > FADES_FROM.0 || model.tokens.answers > FADES_FROM.1 {
        let LearnedTokens { text_bytes, input_tokens, answers, output_tokens } = &mut model.tokens;
        [text_bytes, input_tokens, answers, output_tokens].into_iter().for_each(|sum| *sum /= 2);
    }
    models.push(model);
    while models.len() > MODELS {
        forget_one(models);
    }
}

/// Forgets the model of the fewest answers. If this is the newest one, the next one loses as many answers: a few batches of many models push
/// out no long experience, and a model that is no longer used is forgotten in the end.
fn forget_one(models: &mut Vec<ModelStatus>) {
    let fewest = |models: &[ModelStatus]| (0..models.len()).min_by_key(|at| models[*at].tokens.answers);
    let newest = models.len().saturating_sub(1);
    let Some(at) = fewest(models) else { return };
    let lost = models.remove(at).tokens.answers;
    if at == newest
        && let Some(next) = fewest(models)
    {
        take(&mut models[next].tokens, lost);
    }
}

/// Takes this number of answers from the sums, and the same share of each of them.
fn take(tokens: &mut LearnedTokens, lost: i64) {
    let all = tokens.answers.max(1);
    let left = all.saturating_sub(lost.max(0)).max(0);
    let LearnedTokens { text_bytes, input_tokens, answers, output_tokens } = tokens;
    for sum in [text_bytes, input_tokens, answers, output_tokens] {
        *sum = (i128::from(*sum) * i128::from(left) / i128::from(all)) as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BatchUsage, RequestCounts, TokenHints, TokenUsage};
    use crate::lifecycle::{Attempt, Owner, Payload};

    fn journal(succeeded: i64, usage: TokenUsage, opaque_requests: i64) -> [Journal; 2] {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let of = |state| {
            let mut journal = Journal::open("w".into(), owner.clone(), "s".into());
            let attempt = Attempt { state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") };
            let hints = TokenHints { text_bytes: 4_000, opaque_requests, ..TokenHints::default() };
            let (requests, model, attempt) = (10, "m".into(), Some(attempt));
            journal.shards.push(Shard { requests, model, hints, attempt, ..Shard::default() });
            journal
        };
        let settled = AttemptState::Settled {
            batch_id: "b".into(),
            ended: "completed".into(),
            part: None,
            counts: RequestCounts { total: 10, succeeded, failed: 10 - succeeded, ..RequestCounts::default() },
            usage: BatchUsage { tokens: usage, ..BatchUsage::default() }.into(),
            cost: None,
            retryable: 0,
            errors: vec![],
            files: vec![],
        };
        [of(AttemptState::Submitted { batch_id: "b".into(), at: 0 }), of(settled)]
    }

    #[test]
    fn a_batch_teaches_once_when_it_is_settled_and_only_if_all_of_it_was_answered_with_tokens() {
        let usage = TokenUsage { input_tokens: 1_000, output_tokens: 200, ..TokenUsage::default() };
        let [runs, settled] = journal(10, usage, 0);
        let sums = LearnedTokens { text_bytes: 4_000, input_tokens: 1_000, answers: 10, output_tokens: 200 };
        assert_eq!(learned(&runs, &settled), [("m".to_string(), sums)]);
        assert!(learned(&settled, &settled).is_empty() && learned(&runs, &runs).is_empty());
        let [runs, images] = journal(10, usage, 1);
        let of_images = LearnedTokens { text_bytes: 0, input_tokens: 0, ..sums };
        assert_eq!(learned(&runs, &images), [("m".to_string(), of_images)], "bytes tell nothing of images");
        let uncounted = TokenUsage { answers_without_usage: 1, ..usage };
        for [runs, settled] in [journal(9, usage, 0), journal(10, uncounted, 0), journal(10, TokenUsage::default(), 0)]
        {
            assert!(learned(&runs, &settled).is_empty());
        }
    }

    #[test]
    fn old_experience_fades_and_what_is_remembered_is_bounded() {
        let mut models = vec![];
        let sums = |answers, output_tokens| LearnedTokens { answers, output_tokens, ..LearnedTokens::default() };
        (0..100).for_each(|_| learn(&mut models, "m", sums(50_000, 5_000_000)));
        learn(&mut models, "m", sums(50_000, 500_000));
        let LearnedTokens { answers, output_tokens, .. } = models[0].tokens;
        assert!(models.len() == 1 && answers <= FADES_FROM.1, "{models:?}");
        assert!(output_tokens / answers < 75, "one new batch counts as much as a hundred old ones: {models:?}");
        let huge =
            LearnedTokens { text_bytes: i64::MAX, input_tokens: i64::MAX, answers: i64::MAX, output_tokens: i64::MAX };
        let mut models = vec![];
        (0..100).for_each(|n| learn(&mut models, &n.to_string(), huge));
        assert_eq!((models.len(), models[0].name.as_str(), models[63].name.as_str()), (MODELS, "36", "99"));
        assert!(models[0].tokens.text_bytes <= FADES_FROM.0);
    }

    /// Anybody who may use an account can send batches of models that exist.
    #[test]
    fn models_of_few_answers_push_out_none_of_many_and_one_that_is_not_used_goes_in_the_end() {
        let mut models = vec![];
        let sums = |answers| LearnedTokens { answers, output_tokens: 100 * answers, ..LearnedTokens::default() };
        (0..MODELS).for_each(|n| learn(&mut models, &format!("known-{n}"), sums(if n == 0 { 900 } else { 1_000 })));
        (0..89).for_each(|n| learn(&mut models, &format!("new-{n}"), sums(10)));
        assert!(models.len() == MODELS && models.iter().all(|model| model.name.starts_with("known-")), "{models:?}");
        assert_eq!(models[0].tokens, sums(10), "the answers of the others are at the cost of the one of the fewest");
        learn(&mut models, "new", sums(10));
        assert!(models[0].name == "known-1" && models[MODELS - 1].name == "new", "{models:?}");
        learn(&mut models, "large", sums(2_000));
        assert!(models.len() == MODELS && models.iter().all(|model| model.name != "new"));
        assert!(models.iter().all(|model| model.tokens.output_tokens == 100 * model.tokens.answers), "{models:?}");
    }
}
