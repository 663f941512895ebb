//! The error of estimates, measured against a real tokenizer over the demo's requests and over texts of other kinds.
//!
//! `counted.jsonl` holds every 25th review and every fourth ticket of the demo (`demo/reviews.py`, `demo/tickets.py 1`) in the
//! messages of its jobs, and a text of each other kind, with the input tokens of each chat: those of OpenAI's `o200k_base`, as
//! js-tiktoken 1.0.21 counts them, and as the OpenAI cookbook counts chats (three for each message besides its role and content,
//! and three for the beginning of the answer). Their answers are those of the demo (`demo/answers.json`).

use batchjob_operator::api::{LearnedTokens, TokenHints};
use batchjob_operator::money::{TokenEstimate, TokenLimits};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Counted {
    kind: String,
    tokens: i64,
    messages: Value,
}

/// Tokens of the demo's answers: those of `o200k_base` as well.
const ANSWERS: [(&str, i64); 7] =
    [("positive", 1), ("negative", 1), ("mixed", 1), ("neutral", 1), ("praise", 2), ("question", 1), ("bug", 1)];

impl Counted {
    /// Returns the tokens of the demo's answer; None if the demo refuses the request.
    fn output_tokens(&self) -> Option<i64> {
        let rules: Vec<Value> = serde_json::from_str(include_str!("../../demo/answers.json")).unwrap();
        let asked = self.messages.as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
        let rule = rules.iter().find(|rule| rule["contains"].as_str().is_none_or(|part| asked.contains(part)));
        let answer = rule.unwrap()["answer"].as_str()?;
        ANSWERS.iter().find(|(word, _)| *word == answer).map(|(_, tokens)| *tokens)
    }
}

/// Requests, what a pass over them tells of their tokens, and their tokens by the tokenizer.
struct Sample {
    requests: i64,
    hints: TokenHints,
    tokens: i64,
    answers: i64,
    output_tokens: i64,
}

impl Sample {
    async fn of(counted: &[&Counted]) -> Sample {
        let request = |(i, counted): (usize, &&Counted)| {
            let body = json!({"messages": counted.messages, "max_completion_tokens": 16});
            let Value::Object(body) = body else { unreachable!() };
            InlineRequest { custom_id: i.to_string(), body: Some(body.into()), ..Default::default() }
        };
        let source = Source::Inline(counted.iter().enumerate().map(request).collect());
        let (folder, spool) = (folder(), std::env::temp_dir());
        let passed = pass(source, &options(1_000, 1 << 20), Some((&folder, WORK)), &spool).await.unwrap();
        let mut hints = TokenHints::default();
        passed.shards.map(Result::unwrap).for_each(|shard| hints += shard.hints);
        let tokens = counted.iter().map(|counted| counted.tokens).sum();
        let outputs: Vec<i64> = counted.iter().filter_map(|counted| counted.output_tokens()).collect();
        let (answers, output_tokens) = (outputs.len() as i64, outputs.iter().sum());
        Sample { requests: passed.requests, hints, tokens, answers, output_tokens }
    }

    fn estimate(&self, learned: &LearnedTokens) -> TokenEstimate {
        TokenEstimate::learned(learned, &self.hints, self.requests, TokenLimits::default())
    }

    /// Returns the error of the expected input tokens in percent.
    fn error(&self, learned: &LearnedTokens) -> i64 {
        (self.estimate(learned).expected.input_tokens - self.tokens) * 100 / self.tokens
    }

    /// Returns the error of the expected output tokens in percent.
    fn output_error(&self, learned: &LearnedTokens) -> i64 {
        (self.estimate(learned).expected.output_tokens - self.output_tokens) * 100 / self.output_tokens
    }

    /// Returns what a batch of the requests would teach.
    fn taught(&self) -> LearnedTokens {
        let Sample { hints, tokens: input_tokens, answers, output_tokens, .. } = *self;
        LearnedTokens { text_bytes: hints.text_bytes as i64, input_tokens, answers, output_tokens }
    }
}

fn counted() -> Vec<Counted> {
    include_str!("counted.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn estimates_of_output_are_as_high_as_the_limit_of_short_answers_and_close_once_a_batch_was_answered() {
    let counted = counted();
    for (kind, by_default) in [("review", 1_500..=1_600), ("ticket", 1_000..=1_500)] {
        let all: Vec<&Counted> = counted.iter().filter(|counted| counted.kind == kind).collect();
        let (first, rest) = all.split_at(all.len() / 2);
        let (first, rest) = (Sample::of(first).await, Sample::of(rest).await);
        let (before, after) = (rest.output_error(&LearnedTokens::default()), rest.output_error(&first.taught()));
        println!("{kind}: {before:+} % by default, {after:+} % after {} answers", first.answers);
        assert!(by_default.contains(&before) && (-5..=5).contains(&after), "{kind}: {before} %, {after} %");
    }
}

#[tokio::test]
async fn estimates_of_input_are_within_their_bounds_by_default_and_close_once_a_batch_was_answered() {
    let counted = counted();
    let of = |kind: &str| counted.iter().filter(|counted| counted.kind == kind).collect::<Vec<_>>();
    for (kind, by_default) in [("review", 0..=15), ("ticket", 0..=15)] {
        let all = of(kind);
        let (first, rest) = all.split_at(all.len() / 2);
        let (first, rest) = (Sample::of(first).await, Sample::of(rest).await);
        let (before, after) = (rest.error(&LearnedTokens::default()), rest.error(&first.taught()));
        println!("{kind}: {before:+} % by default, {after:+} % after {} answers", first.requests);
        assert!(by_default.contains(&before) && (-3..=3).contains(&after), "{kind}: {before} %, {after} %");
    }
    for (kind, by_default) in [
        ("English", 0..=20),
        ("German", 0..=20),
        ("Russian", 40..=80),
        ("Arabic", 20..=60),
        ("Hindi", 60..=100),
        ("Chinese", -20..=0),
        ("Japanese", -15..=10),
        ("Rust", -10..=10),
        ("JSON", -40..=-20),
        ("Numbers", -80..=-60),
    ] {
        let sample = Sample::of(&of(kind)).await;
        let error = sample.error(&LearnedTokens::default());
        println!("{kind}: {error:+} % by default");
        assert!(by_default.contains(&error), "{kind}: {error} %");
        let most = sample.estimate(&LearnedTokens::default()).ceiling.unwrap().input_tokens;
        assert!(most >= sample.tokens, "{kind}: {} tokens, {most} at most", sample.tokens);
    }
}
