//! OpenAI's words: states of batches, codes of errors, and ways of saying that a file is not there.

use crate::api::BatchEnd;
use crate::provider::{Dialect, ErrorKind, State};

/// The code of an account whose queue has no room for the tokens of a batch.
pub(super) const TOKEN_LIMIT: &str = "token_limit_exceeded";

/// Returns the state for a word in lower case. A batch with an unknown word counts as running.
pub(super) fn state(word: &str) -> State {
    match word {
        "completed" => State::Ended(BatchEnd::Completed),
        "failed" => State::Ended(BatchEnd::Failed),
        "expired" => State::Ended(BatchEnd::Expired),
        "cancelled" | "canceled" => State::Ended(BatchEnd::Cancelled),
        "cancelling" | "canceling" => State::Stopping,
        _ => State::Running,
    }
}

/// Returns whether a word in lower case says that all requests are done, and the files with the answers are being written.
pub(super) fn is_finalizing(word: &str) -> bool {
    word == "finalizing"
}

/// Returns the kind of the error with which a batch failed as a whole.
pub(super) fn failure(dialect: &Dialect, code: &str, message: &str, input_file_id: Option<&str>) -> ErrorKind {
    if let Some(kind) = dialect.class_of(code) {
        return kind;
    }
    match code {
        TOKEN_LIMIT => ErrorKind::TokenLimit,
        "too_many_requests" | "rate_limit_exceeded" => ErrorKind::Capacity,
        "server_error" | "internal_error" | "service_unavailable" | "" => ErrorKind::Transient,
        _ if input_file_id.is_some_and(|id| says_not_found(message, id)) => ErrorKind::FileNotFound,
        _ => ErrorKind::InvalidInput,
    }
}

/// Returns whether an error says that an input file does not exist. Servers may not know a file yet that was just uploaded.
pub(super) fn says_not_found(message: &str, file_id: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let names_it = message.contains("file") || message.contains(&file_id.to_ascii_lowercase());
    let absent =
        ["not find", "not found", "not exist", "n't exist", "no such", "no file", "not accessible", "unknown file"];
    let not_yet = ["not ready", "not yet", "not available", "not been processed", "being processed", "being uploaded"];
    names_it && absent.iter().chain(&not_yet).any(|words| message.contains(words))
}
