//! The line of a request in an input file, and the smallest requests there are.
//!
//! https://platform.openai.com/docs/api-reference/batch/request-input

use serde_json::{Value, json};

use crate::api::Endpoint;

/// What stands before the id, between id and body, and behind the body of a request for the API at `path`.
pub(in crate::provider) fn line(path: &str) -> [String; 3] {
    [r#"{"custom_id":""#.into(), format!(r#"","method":"POST","url":"{path}","body":"#), "}".into()]
}

/// The body of the smallest request that an endpoint takes.
pub(in crate::provider) fn smallest_body(endpoint: Endpoint, model: &str) -> Value {
    match endpoint {
        Endpoint::ChatCompletions => json!({"model": model, "messages": [{"role": "user", "content": "ping"}]}),
        Endpoint::Completions => json!({"model": model, "prompt": "ping", "max_tokens": 1}),
        Endpoint::Responses | Endpoint::Embeddings | Endpoint::Moderations => json!({"model": model, "input": "ping"}),
    }
}
