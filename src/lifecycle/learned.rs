//! Experience with the models of an account: tokens and turnaround of finished batches, from which those of later jobs are estimated.

use super::Turnaround;
use super::attempt::AttemptState;
use super::findings::PolledState;
use super::journal::Journal;
use super::memory::Memory;
use super::shard::Shard;
use crate::api::{BatchEnd, LearnedTokens, LearnedTurnaround, ModelStatus};

/// Maximum number of models of an account that something is remembered of.
const MODELS: usize = 64;
/// Bytes of text, and answers, from which on the sums of a model are halved.
const FADES_FROM: (i64, i64) = (256 << 20, 100_000);
/// The longest turnaround that a provider's report is believed, in seconds.
const LONGEST: i64 = 30 * 86_400;

/// Returns what is learned of a change of the journal from `old` to `new`, for each batch that was settled by it: the model, the
/// tokens if all requests were answered with a count of them, and the turnaround if the batch completed.
pub fn learned(old: &Journal, new: &Journal, memory: &Memory) -> Vec<ModelStatus> {
    let ended = new.settled_since(old).filter(|(_, shard)| !shard.model.is_empty());
    let of = |(before, shard): (Option<&Shard>, &Shard)| {
        let before = before?;
        let tokens = tokens(shard).unwrap_or_default();
        let turnaround = turnaround(before, shard, memory).unwrap_or_default();
        let is_any = !tokens.is_zero() || !turnaround.is_empty();
        is_any.then(|| ModelStatus { name: shard.model.clone(), tokens, turnaround })
    };
    ended.filter_map(of).collect()
}

/// Returns the turnaround of a batch that completed, by the provider's times if they are usable. Batches that expired, failed or
/// were cancelled do not show how long a whole batch takes.
fn turnaround(before: &Shard, after: &Shard, memory: &Memory) -> Option<LearnedTurnaround> {
    let AttemptState::Settled { batch_id, ended, .. } = &after.attempt.as_ref()?.state else { return None };
    let AttemptState::Submitted { at, .. } = before.attempt.as_ref()?.state else { return None };
    let look = memory.looks.get(batch_id).filter(|look| matches!(look.seen, PolledState::Ended { .. }))?;
    if ended != BatchEnd::Completed.word() {
        return None;
    }
    let reported = memory.times.get(batch_id).map(|times| times.reported).unwrap_or_default();
    let by_provider = reported.completed_at.saturating_sub(reported.created_at);
    let seconds = match reported.created_at > 0 && (0..=LONGEST).contains(&by_provider) {
        true => by_provider as f64,
        false => look.at.saturating_sub(at) as f64 / 1_000.0,
    };
    let mut turnaround = Turnaround::default();
    turnaround.add(seconds);
    Some(turnaround.for_status())
}

fn tokens(shard: &Shard) -> Option<LearnedTokens> {
    let AttemptState::Settled { counts, usage, .. } = &shard.attempt.as_ref()?.state else { return None };
    let tokens = &usage.tokens;
    let is_whole = counts.succeeded == shard.requests && tokens.answers_without_usage == 0 && !tokens.is_zero();
    if !is_whole {
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

/// Adds what was learned of a model to the experience with its account. The model comes last. If they are too many, those of the
/// fewest answers are forgotten, and of these the one that was used longest ago.
pub fn learn(models: &mut Vec<ModelStatus>, lesson: &ModelStatus) {
    let known = models.iter().position(|model| model.name == lesson.name).map(|at| models.remove(at));
    let mut model = known.unwrap_or_else(|| ModelStatus { name: lesson.name.clone(), ..ModelStatus::default() });
    model.tokens += lesson.tokens;
    while model.tokens.text_bytes > FADES_FROM.0 || model.tokens.answers > FADES_FROM.1 {
        let LearnedTokens { text_bytes, input_tokens, answers, output_tokens } = &mut model.tokens;
        [text_bytes, input_tokens, answers, output_tokens].into_iter().for_each(|sum| *sum /= 2);
    }
    if !lesson.turnaround.is_empty() {
        let mut turnaround = Turnaround::of(&model.turnaround);
        turnaround.merge(&Turnaround::of(&lesson.turnaround));
        model.turnaround = turnaround.for_status();
    }
    models.push(model);
    while models.len() > MODELS {
        forget_one(models);
    }
}

/// Forgets the model of the fewest answers. If this is the newest one, the next one loses as many answers: a few batches of many
/// models push out no long experience, and a model that is no longer used is forgotten in the end.
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
    use crate::lifecycle::{Attempt, Owner, Payload, PollResult, ReportedTimes};

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
        let learned = |old: &Journal, new: &Journal| super::learned(old, new, &Memory::default());
        let of = |tokens| ModelStatus { name: "m".into(), tokens, ..ModelStatus::default() };
        assert_eq!(learned(&runs, &settled), [of(sums)]);
        assert!(learned(&settled, &settled).is_empty() && learned(&runs, &runs).is_empty());
        let [runs, images] = journal(10, usage, 1);
        let of_images = LearnedTokens { text_bytes: 0, input_tokens: 0, ..sums };
        assert_eq!(learned(&runs, &images), [of(of_images)], "bytes tell nothing of images");
        let uncounted = TokenUsage { answers_without_usage: 1, ..usage };
        for [runs, settled] in [journal(9, usage, 0), journal(10, uncounted, 0), journal(10, TokenUsage::default(), 0)]
        {
            assert!(learned(&runs, &settled).is_empty());
        }
    }

    #[test]
    fn old_experience_fades_and_what_is_remembered_is_bounded() {
        let mut models = vec![];
        let learn = |models: &mut _, name: &str, tokens| {
            super::learn(models, &ModelStatus { name: name.into(), tokens, ..ModelStatus::default() });
        };
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
        let learn = |models: &mut _, name: &str, tokens| {
            super::learn(models, &ModelStatus { name: name.into(), tokens, ..ModelStatus::default() });
        };
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

    /// The batch was submitted at 0 and seen to have ended after 50 s.
    fn took(ended: &str, seen: BatchEnd, created_at: i64, completed_at: i64) -> Option<i64> {
        let [runs, mut settled] = journal(9, TokenUsage::default(), 0);
        if let AttemptState::Settled { ended: word, .. } = &mut settled.shards[0].attempt.as_mut().unwrap().state {
            *word = ended.into();
        }
        let mut memory = Memory::default();
        let look = PollResult { at: 50_000, seen: PolledState::Ended { state: seen, done: 10, rejected: None } };
        memory.looked("b".into(), look, ReportedTimes { created_at, completed_at, ..ReportedTimes::default() });
        let lessons = learned(&runs, &settled, &memory);
        assert!(lessons.len() < 2 && learned(&settled, &settled, &memory).is_empty(), "once: {lessons:?}");
        lessons.first().map(|lesson| lesson.turnaround.p50_seconds)
    }

    #[test]
    fn a_batch_that_completed_teaches_its_turnaround_by_the_times_of_the_provider_if_they_are_sound() {
        let completed = |created_at, completed_at| took("completed", BatchEnd::Completed, created_at, completed_at);
        let about = |seconds: i64, said: Option<i64>| {
            said.is_some_and(|said| (seconds * 2 / 3..=seconds * 3 / 2).contains(&said))
        };
        assert!(about(3_600, completed(1_000, 4_600)), "the operator was away in between");
        for (created_at, completed_at) in [(0, 0), (0, 4_600), (1_000, 0), (4_600, 1_000), (1, 1_700_000_000_000)] {
            let said = completed(created_at, completed_at);
            assert!(about(50, said), "{created_at} to {completed_at}: {said:?}");
        }
        for (word, state) in
            [("expired", BatchEnd::Expired), ("cancelled", BatchEnd::Cancelled), ("failed", BatchEnd::Failed)]
        {
            assert_eq!(took(word, state, 1_000, 4_600), None, "{word}");
        }
    }

    #[test]
    fn turnarounds_of_a_model_add_up() {
        let mut models = vec![];
        let lesson = |seconds| {
            let mut turnaround = Turnaround::default();
            turnaround.add(seconds);
            ModelStatus { name: "m".into(), turnaround: turnaround.for_status(), ..ModelStatus::default() }
        };
        [60.0, 60.0, 60.0, 86_400.0].into_iter().for_each(|seconds| learn(&mut models, &lesson(seconds)));
        let turnaround = &models[0].turnaround;
        assert_eq!((models.len(), turnaround.batches), (1, 4));
        assert!(turnaround.p50_seconds < 100 && turnaround.p90_seconds > 60_000, "{turnaround:?}");
    }
}
