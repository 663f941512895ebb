//! The API's objects as they look on the wire.

use std::borrow::Cow;
use std::ops::AddAssign;

use serde::Serialize;

/// An uploaded file, or one of a batch's result files.
#[derive(Debug, Clone, Serialize)]
pub struct FileObject {
    /// `file-…`.
    pub id: String,
    /// Always `file`.
    pub object: &'static str,
    /// Length of the content.
    pub bytes: u64,
    /// Unix seconds.
    pub created_at: i64,
    /// The uploader's name for it.
    pub filename: String,
    /// `batch` for input, `batch_output` for both kinds of results.
    pub purpose: String,
    /// Always `processed`.
    pub status: &'static str,
}

impl FileObject {
    /// A file that is made now.
    pub fn new(id: String, filename: String, purpose: &str, bytes: u64) -> Self {
        Self {
            id,
            object: "file",
            bytes,
            created_at: crate::ids::now(),
            filename,
            purpose: purpose.to_owned(),
            status: "processed",
        }
    }
}

/// A list, or a page of one.
#[derive(Debug, Serialize)]
pub struct List<T> {
    /// Always `list`.
    pub object: &'static str,
    /// The page.
    pub data: Vec<T>,
    /// Id of the first element, if there is one.
    pub first_id: Option<String>,
    /// Id of the last element: what to send as `after` for the next page.
    pub last_id: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
}

/// Why a batch failed.
#[derive(Debug, Clone, Serialize)]
pub struct BatchErrors {
    /// Always `list`.
    pub object: &'static str,
    /// The first thing that is wrong, and no other.
    pub data: Vec<BatchError>,
}

/// One thing that is wrong with an input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchError {
    /// The kind, for programs.
    pub code: Cow<'static, str>,
    /// The line, counted from 1, if it is about one.
    pub line: Option<u64>,
    /// The reason, for people.
    pub message: String,
    /// The field, if it is about one.
    pub param: Option<&'static str>,
}

/// How many requests a batch has, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// All of them.
    pub total: u64,
    /// Those with a 2xx answer.
    pub completed: u64,
    /// Those with another answer.
    pub failed: u64,
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompts.
    pub input: u64,
    /// Those of `input` that were cached.
    pub cached: u64,
    /// Of the answers.
    pub output: u64,
    /// Those of `output` that were spent on reasoning.
    pub reasoning: u64,
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, Tokens { input, cached, output, reasoning }: Tokens) {
        self.input += input;
        self.cached += cached;
        self.output += output;
        self.reasoning += reasoning;
    }
}

impl Tokens {
    /// A token is taken to be four bytes, and nothing to be none.
    pub fn in_bytes(bytes: usize) -> u64 {
        (bytes as u64).div_ceil(4)
    }
}

/// What a batch used, over its rows with a 2xx answer.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Of the prompts.
    pub input_tokens: u64,
    /// What of them was cached.
    pub input_tokens_details: CachedTokens,
    /// Of the answers.
    pub output_tokens: u64,
    /// What of them was spent on reasoning.
    pub output_tokens_details: ReasoningTokens,
    /// Both.
    pub total_tokens: u64,
}

/// Part of [`Usage`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct CachedTokens {
    /// How many.
    pub cached_tokens: u64,
}

/// Part of [`Usage`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReasoningTokens {
    /// How many.
    pub reasoning_tokens: u64,
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        Self {
            input_tokens: tokens.input,
            input_tokens_details: CachedTokens { cached_tokens: tokens.cached },
            output_tokens: tokens.output,
            output_tokens_details: ReasoningTokens { reasoning_tokens: tokens.reasoning },
            total_tokens: tokens.input + tokens.output,
        }
    }
}
