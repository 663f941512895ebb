//! What the user says in a request.

use serde_json::Value;

use crate::endpoint::Endpoint;

/// The user's text: one part for each message or input.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// In the request's order.
    pub parts: Vec<String>,
}

impl Prompt {
    /// Reads a request's body; the name of the parameter when the one that holds the text is
    /// missing.
    pub fn of(endpoint: Endpoint, body: &Value) -> Result<Self, &'static str> {
        let field = match endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions => "prompt",
            Endpoint::Responses | Endpoint::Embeddings | Endpoint::Moderations => "input",
        };
        let value = body.get(field).filter(|value| !value.is_null()).ok_or(field)?;
        let parts = match endpoint {
            Endpoint::Chat | Endpoint::Responses => messages(value),
            Endpoint::Embeddings | Endpoint::Completions | Endpoint::Moderations => inputs(value),
        };
        Ok(Self { parts })
    }

    /// The most tokens that the answer may have, if the request says so.
    pub fn limit(endpoint: Endpoint, body: &Value) -> Option<u64> {
        let fields: &[&str] = match endpoint {
            Endpoint::Chat => &["max_completion_tokens", "max_tokens"],
            Endpoint::Completions => &["max_tokens"],
            Endpoint::Responses => &["max_output_tokens"],
            Endpoint::Embeddings | Endpoint::Moderations => &[],
        };
        fields.iter().find_map(|field| body.get(field)?.as_u64())
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.parts.join("\n")
    }

    /// The last message.
    pub fn last(&self) -> &str {
        self.parts.last().map_or("", String::as_str)
    }
}

/// Messages of the user's role, or a plain text.
fn messages(value: &Value) -> Vec<String> {
    match value {
        Value::Array(messages) => messages
            .iter()
            .filter(|message| message.get("role").and_then(Value::as_str) == Some("user"))
            .map(|message| content(message.get("content").unwrap_or(&Value::Null)))
            .collect(),
        other => vec![content(other)],
    }
}

/// A text, or the texts among its parts (the others are images and the like).
fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Each input of a list, or the one input; token numbers stand for themselves.
fn inputs(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) if !items.iter().all(Value::is_number) => items.iter().map(input).collect(),
        one => vec![input(one)],
    }
}

fn input(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(_) => content(&Value::Array(vec![value.clone()])),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parts(endpoint: Endpoint, body: &Value) -> Result<Vec<String>, &'static str> {
        Prompt::of(endpoint, body).map(|prompt| prompt.parts)
    }

    #[test]
    fn only_the_user_speaks_in_a_chat() {
        let body = json!({"messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image_url"}]},
        ]});
        assert_eq!(parts(Endpoint::Chat, &body), Ok(vec!["one".into(), "two".into()]));
        assert_eq!(parts(Endpoint::Chat, &json!({})), Err("messages"));
    }

    #[test]
    fn every_shape_of_input_is_read() {
        let read = |input: Value| parts(Endpoint::Embeddings, &json!({"input": input}));
        assert_eq!(read(json!("a")), Ok(vec!["a".into()]));
        assert_eq!(read(json!(["a", "b"])), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(read(json!([1, 2])), Ok(vec!["[1,2]".into()]));
        assert_eq!(read(json!([[1], [2]])), Ok(vec!["[1]".into(), "[2]".into()]));
        let body = json!({"input": [{"role": "user", "content": [{"text": "a"}]}]});
        assert_eq!(parts(Endpoint::Responses, &body), Ok(vec!["a".into()]));
        assert_eq!(parts(Endpoint::Responses, &json!({"input": "a"})), Ok(vec!["a".into()]));
    }
}
