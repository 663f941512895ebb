//! Counts of tokens and of kinds of answers, in the journal, the manifest and status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MixedAnswers;

/// Tokens that the provider reported for requests that it executed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenUsage {
    /// Tokens of prompts, cached ones included.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub input_tokens: i64,
    /// Those of `inputTokens` that the provider read from its cache.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub cached_input_tokens: i64,
    /// Tokens of answers, those of reasoning included.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub output_tokens: i64,
    /// Those of `outputTokens` that the model spent on reasoning.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub reasoning_tokens: i64,
    /// Tokens of inputs of embeddings.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub embedding_tokens: i64,
    /// Answers without a usable count of tokens; they are in none of the other counts.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub answers_without_usage: i64,
}

impl TokenUsage {
    /// Returns whether all counts are zero.
    pub fn is_zero(&self) -> bool {
        *self == TokenUsage::default()
    }
}

impl std::ops::AddAssign for TokenUsage {
    /// Adds each count; a sum that is too large stays at the largest number.
    fn add_assign(&mut self, other: TokenUsage) {
        let TokenUsage {
            input_tokens,
            cached_input_tokens,
            output_tokens,
            reasoning_tokens,
            embedding_tokens,
            answers_without_usage,
        } = other;
        for (sum, more) in [
            (&mut self.input_tokens, input_tokens),
            (&mut self.cached_input_tokens, cached_input_tokens),
            (&mut self.output_tokens, output_tokens),
            (&mut self.reasoning_tokens, reasoning_tokens),
            (&mut self.embedding_tokens, embedding_tokens),
            (&mut self.answers_without_usage, answers_without_usage),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Answers that count as succeeded and may not be what was asked for, by kind. An answer may be of several kinds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct AnswerCounts {
    /// Answers without any content.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub empty: i64,
    /// Answers in which the model refused.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub refused: i64,
    /// Answers that were cut at a limit of tokens.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub truncated: i64,
    /// Answers that a content filter cut or withheld.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub filtered: i64,
}

impl AnswerCounts {
    /// Returns whether all counts are zero.
    pub fn is_zero(&self) -> bool {
        *self == AnswerCounts::default()
    }
}

impl std::ops::AddAssign for AnswerCounts {
    /// Adds each count; a sum that is too large stays at the largest number.
    fn add_assign(&mut self, AnswerCounts { empty, refused, truncated, filtered }: AnswerCounts) {
        for (sum, more) in [
            (&mut self.empty, empty),
            (&mut self.refused, refused),
            (&mut self.truncated, truncated),
            (&mut self.filtered, filtered),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// The usage of one batch, as it is collected with its answers. Part of the journal.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct BatchUsage {
    /// Tokens of all requests.
    #[serde(skip_serializing_if = "TokenUsage::is_zero")]
    pub tokens: TokenUsage,
    /// Those of `tokens` whose request had a prompt that is long enough for the prices of long contexts.
    #[serde(skip_serializing_if = "TokenUsage::is_zero")]
    pub long_context: TokenUsage,
    /// Answers by kind.
    #[serde(skip_serializing_if = "AnswerCounts::is_zero")]
    pub answers: AnswerCounts,
    /// Those of `answers` that are of several kinds.
    #[serde(skip_serializing_if = "MixedAnswers::is_zero")]
    pub mixed_answers: MixedAnswers,
    /// Rows that the provider delivered for a request that an earlier row answers. They count nowhere else.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeated_rows: i64,
}

impl BatchUsage {
    /// Counts one answer of these kinds, each of them 1 or 0.
    pub fn count_answer(&mut self, answer: AnswerCounts) {
        self.answers += answer;
        self.mixed_answers.add(&answer);
    }

    /// Returns whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == BatchUsage::default()
    }
}

/// Facts about requests from which their tokens are estimated before they run. Part of the journal.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenHints {
    /// Bytes of text that becomes input tokens, over all requests.
    #[serde(skip_serializing_if = "is_none")]
    pub text_bytes: u64,
    /// Requests with content whose tokens bytes do not tell, such as images and files. Their text is in `textBytes`.
    #[serde(skip_serializing_if = "is_zero")]
    pub opaque_requests: i64,
    /// Sum of the output tokens that requests are limited to.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_output_tokens: i64,
    /// Answers of these requests: one that asks for several counts as often. None in journals of earlier versions.
    #[serde(skip_serializing_if = "is_zero")]
    pub limited_answers: i64,
    /// Requests that make output and set no limit of its tokens. One that asks for several answers counts as often.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlimited_requests: i64,
    /// Bytes of text of the longest request.
    #[serde(skip_serializing_if = "is_none")]
    pub longest_text_bytes: u64,
}

/// The requests of a batch's file, as they were read when it was uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileContent {
    /// Number of requests.
    pub requests: i64,
    /// The model that all of them ask for; None if they ask for several, or if one of them cannot be read.
    pub model: Option<String>,
    /// Facts from which their tokens are estimated.
    pub hints: TokenHints,
}

impl FileContent {
    /// Adds a request; None for a model that cannot be read.
    pub fn add(&mut self, model: Option<&str>, hints: TokenHints) {
        let is_the_same = self.requests == 0 || self.model.as_deref() == model;
        if !is_the_same || model.is_none() {
            self.model = None;
        } else if self.requests == 0 {
            self.model = model.map(Into::into);
        }
        self.requests = self.requests.saturating_add(1);
        self.hints += hints;
    }
}

impl TokenHints {
    /// Returns whether nothing is known.
    pub fn is_zero(&self) -> bool {
        *self == TokenHints::default()
    }
}

impl std::ops::AddAssign for TokenHints {
    /// Adds each count; a sum that is too large stays at the largest number.
    fn add_assign(&mut self, other: TokenHints) {
        let TokenHints {
            text_bytes,
            opaque_requests,
            max_output_tokens,
            limited_answers,
            unlimited_requests,
            longest_text_bytes,
        } = other;
        self.longest_text_bytes = self.longest_text_bytes.max(longest_text_bytes);
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        for (sum, more) in [
            (&mut self.opaque_requests, opaque_requests),
            (&mut self.max_output_tokens, max_output_tokens),
            (&mut self.limited_answers, limited_answers),
            (&mut self.unlimited_requests, unlimited_requests),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

fn is_zero(count: &i64) -> bool {
    *count == 0
}

fn is_none(bytes: &u64) -> bool {
    *bytes == 0
}
