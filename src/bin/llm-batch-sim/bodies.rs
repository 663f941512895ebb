//! The bodies of answers, each in its endpoint's shape.

use serde_json::{Value, json};

use crate::canonical::sha256_hex;
use crate::endpoint::Endpoint;
use crate::ids::fresh;
use crate::prompt::Prompt;
use crate::wire::{Tokens, Usage};

/// How long an embedding's vector is.
const DIMENSIONS: usize = 8;

/// An answer that is about to be put into a body.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The model that was asked for.
    pub model: &'a str,
    /// What was asked.
    pub prompt: &'a Prompt,
    /// What it says; embeddings and moderations do not.
    pub text: &'a str,
    /// Unix seconds.
    pub created: i64,
}

impl Answer<'_> {
    /// The body, and the tokens that it says were used, given the request's length.
    pub fn body(&self, endpoint: Endpoint, request_bytes: usize) -> (Value, Tokens) {
        let input = Tokens::in_bytes(request_bytes);
        let speaks = matches!(endpoint, Endpoint::Chat | Endpoint::Completions | Endpoint::Responses);
        let output = if speaks { Tokens::in_bytes(self.text.len()) } else { 0 };
        let tokens = Tokens { input, output };
        let body = match endpoint {
            Endpoint::Chat => self.chat(tokens),
            Endpoint::Responses => self.response(tokens),
            Endpoint::Embeddings => self.embeddings(tokens),
            Endpoint::Completions => self.completion(tokens),
            Endpoint::Moderations => self.moderations(),
        };
        (body, tokens)
    }

    fn chat(&self, tokens: Tokens) -> Value {
        json!({
            "id": fresh("chatcmpl-"),
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": self.text, "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": completion_usage(tokens),
            "system_fingerprint": null,
        })
    }

    fn completion(&self, tokens: Tokens) -> Value {
        json!({
            "id": fresh("cmpl-"),
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {"index": 0, "text": self.text, "logprobs": null, "finish_reason": "stop"},
            ],
            "usage": completion_usage(tokens),
        })
    }

    fn response(&self, tokens: Tokens) -> Value {
        json!({
            "id": fresh("resp_"),
            "object": "response",
            "created_at": self.created,
            "status": "completed",
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": [{
                "id": fresh("msg_"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": self.text, "annotations": []}],
            }],
            "usage": Usage::from(tokens),
        })
    }

    fn embeddings(&self, tokens: Tokens) -> Value {
        let data = self
            .prompt
            .parts
            .iter()
            .enumerate()
            .map(|(index, part)| json!({"object": "embedding", "index": index, "embedding": vector(part)}));
        json!({
            "object": "list",
            "data": data.collect::<Vec<_>>(),
            "model": self.model,
            "usage": {"prompt_tokens": tokens.input, "total_tokens": tokens.input},
        })
    }

    fn moderations(&self) -> Value {
        let result = json!({
            "flagged": false,
            "categories": {
                "harassment": false, "hate": false, "self-harm": false,
                "sexual": false, "violence": false,
            },
            "category_scores": {
                "harassment": 0.0, "hate": 0.0, "self-harm": 0.0,
                "sexual": 0.0, "violence": 0.0,
            },
        });
        json!({
            "id": fresh("modr-"),
            "model": self.model,
            "results": vec![result; self.prompt.parts.len()],
        })
    }
}

fn completion_usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

/// The same vector for the same text, with numbers from -1 to 1.
fn vector(text: &str) -> Vec<f64> {
    let digits = sha256_hex(text.as_bytes()).into_bytes();
    let numbers = digits.chunks(2).take(DIMENSIONS).map(|pair| {
        let byte = pair.iter().fold(0, |byte, digit| byte * 16 + char::from(*digit).to_digit(16).unwrap_or_default());
        f64::from(byte) / 127.5 - 1.0
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedding_depends_on_its_text_alone() {
        let parts = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
        let answer = Answer { model: "m", prompt: &Prompt { parts }, text: "", created: 1 };
        let (body, tokens) = answer.body(Endpoint::Embeddings, 9);
        let data = &body["data"];
        assert_eq!(data[0]["embedding"].as_array().map(Vec::len), Some(DIMENSIONS));
        assert_eq!(data[0]["embedding"], data[2]["embedding"]);
        assert_ne!(data[0]["embedding"], data[1]["embedding"]);
        assert_eq!(tokens, Tokens { input: 3, output: 0 });
    }

    #[test]
    fn every_endpoint_says_the_text_where_its_readers_look() {
        let answer = Answer { model: "m", prompt: &Prompt { parts: vec![] }, text: "yes", created: 1 };
        let body = |endpoint| answer.body(endpoint, 1).0;
        assert_eq!(body(Endpoint::Chat)["choices"][0]["message"]["content"], "yes");
        assert_eq!(body(Endpoint::Completions)["choices"][0]["text"], "yes");
        assert_eq!(body(Endpoint::Responses)["output"][0]["content"][0]["text"], "yes");
    }
}
