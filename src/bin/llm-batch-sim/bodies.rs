//! The bodies of answers, each in its endpoint's shape.

use serde_json::{Value, json};

use crate::canonical::sha256_hex;
use crate::endpoint::Endpoint;
use crate::ids::fresh;
use crate::prompt::Prompt;
use crate::wire::{Tokens, Usage};

/// What models use, beyond a token for four bytes of requests and of answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Appetite {
    /// Of the input, how much is cached, in percent.
    pub cached_percent: u8,
    /// Tokens of reasoning before each answer of a chat or a response.
    pub reasoning: u64,
}

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
    /// The most tokens that it may have.
    pub limit: Option<u64>,
    /// What else is used.
    pub appetite: Appetite,
}

/// What a limit of tokens leaves of a text.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    text: &'a str,
    tokens: Tokens,
    is_cut: bool,
}

impl Answer<'_> {
    /// The body, and the tokens that it says were used, given the request's length.
    pub fn body(&self, endpoint: Endpoint, request_bytes: usize) -> (Value, Tokens) {
        let said = self.said(endpoint, request_bytes);
        let body = match endpoint {
            Endpoint::Chat => self.chat(said),
            Endpoint::Responses => self.response(said),
            Endpoint::Embeddings => self.embeddings(said.tokens),
            Endpoint::Completions => self.completion(said),
            Endpoint::Moderations => self.moderations(),
        };
        (body, said.tokens)
    }

    fn said(&self, endpoint: Endpoint, request_bytes: usize) -> Said<'_> {
        let input = Tokens::in_bytes(request_bytes);
        let (reasons, speaks) = match endpoint {
            Endpoint::Chat | Endpoint::Responses => (true, true),
            Endpoint::Completions => (false, true),
            // Free, and without usage.
            Endpoint::Moderations => return Said { text: "", tokens: Tokens::default(), is_cut: false },
            Endpoint::Embeddings => (false, false),
        };
        if !speaks {
            return Said { text: "", tokens: Tokens { input, ..Tokens::default() }, is_cut: false };
        }
        let cached = input * u64::from(self.appetite.cached_percent) / 100;
        let limit = self.limit.unwrap_or(u64::MAX);
        let reasoning = if reasons { self.appetite.reasoning.min(limit) } else { 0 };
        let whole = Tokens::in_bytes(self.text.len());
        let left = limit - reasoning;
        let text = if whole > left { start(self.text, left) } else { self.text };
        let output = reasoning + Tokens::in_bytes(text.len());
        Said { text, tokens: Tokens { input, cached, output, reasoning }, is_cut: text.len() < self.text.len() }
    }

    fn chat(&self, said: Said<'_>) -> Value {
        json!({
            "id": fresh("chatcmpl-"),
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": said.text, "refusal": null},
                "logprobs": null,
                "finish_reason": said.reason(),
            }],
            "usage": completion_usage(said.tokens),
            "system_fingerprint": null,
        })
    }

    fn completion(&self, said: Said<'_>) -> Value {
        json!({
            "id": fresh("cmpl-"),
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {"index": 0, "text": said.text, "logprobs": null, "finish_reason": said.reason()},
            ],
            "usage": completion_usage(said.tokens),
        })
    }

    fn response(&self, said: Said<'_>) -> Value {
        let status = if said.is_cut { "incomplete" } else { "completed" };
        json!({
            "id": fresh("resp_"),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": said.is_cut.then(|| json!({"reason": "max_output_tokens"})),
            "model": self.model,
            "output": [{
                "id": fresh("msg_"),
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": [{"type": "output_text", "text": said.text, "annotations": []}],
            }],
            "usage": Usage::from(said.tokens),
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

impl Said<'_> {
    fn reason(&self) -> &'static str {
        if self.is_cut { "length" } else { "stop" }
    }
}

/// The start of a text that is so many tokens, at most.
fn start(text: &str, tokens: u64) -> &str {
    let bytes = usize::try_from(tokens.saturating_mul(4)).unwrap_or(usize::MAX).min(text.len());
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

fn completion_usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
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

    fn plain<'a>(prompt: &'a Prompt, text: &'a str) -> Answer<'a> {
        Answer { model: "m", prompt, text, created: 1, limit: None, appetite: Appetite::default() }
    }

    #[test]
    fn answers_keep_to_their_limit_and_say_so() {
        let prompt = Prompt { parts: vec![] };
        let appetite = Appetite { cached_percent: 50, reasoning: 3 };
        let of = |endpoint, limit| {
            Answer { limit: Some(limit), appetite, ..plain(&prompt, "zwölf Boxkämpfer") }.body(endpoint, 40)
        };
        let (body, tokens) = of(Endpoint::Chat, 5);
        assert_eq!(body["choices"][0]["message"]["content"], "zwölf B");
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert_eq!(tokens, Tokens { input: 10, cached: 5, output: 5, reasoning: 3 });
        assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);
        let (body, tokens) = of(Endpoint::Responses, 2);
        assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!((&body["output"][0]["content"][0]["text"], tokens.output, tokens.reasoning), (&json!(""), 2, 2));
        assert_eq!(body["usage"]["input_tokens_details"]["cached_tokens"], 5);
        let (body, tokens) = of(Endpoint::Completions, 99);
        assert_eq!((&body["choices"][0]["finish_reason"], tokens.output), (&json!("stop"), 5));
        assert_eq!(of(Endpoint::Moderations, 1).1, Tokens::default());
    }

    #[test]
    fn an_embedding_depends_on_its_text_alone() {
        let parts = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
        let prompt = Prompt { parts };
        let answer = plain(&prompt, "");
        let (body, tokens) = answer.body(Endpoint::Embeddings, 9);
        let data = &body["data"];
        assert_eq!(data[0]["embedding"].as_array().map(Vec::len), Some(DIMENSIONS));
        assert_eq!(data[0]["embedding"], data[2]["embedding"]);
        assert_ne!(data[0]["embedding"], data[1]["embedding"]);
        assert_eq!(tokens, Tokens { input: 3, ..Tokens::default() });
    }

    #[test]
    fn every_endpoint_says_the_text_where_its_readers_look() {
        let prompt = Prompt { parts: vec![] };
        let answer = plain(&prompt, "yes");
        let body = |endpoint| answer.body(endpoint, 1).0;
        assert_eq!(body(Endpoint::Chat)["choices"][0]["message"]["content"], "yes");
        assert_eq!(body(Endpoint::Completions)["choices"][0]["text"], "yes");
        assert_eq!(body(Endpoint::Responses)["output"][0]["content"][0]["text"], "yes");
    }
}
