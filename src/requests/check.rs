//! What is checked of every request before anything is paid.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Longest custom id, in bytes.
const CUSTOM_ID_LIMIT: usize = 512;
/// Faulty lines that are named; all of them are counted.
const NAMED: usize = 20;

/// One request, sound.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The user's name for it.
    pub custom_id: String,
    /// The model that it names, or the job's.
    pub model: String,
    /// What the endpoint is sent, defaults merged under it.
    pub body: Map<String, Value>,
}

/// What every request of a job shares.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Path such as `/v1/chat/completions`.
    pub path: &'static str,
    /// Model for requests that name none.
    pub model: Option<String>,
    /// Merged under each body.
    pub defaults: Map<String, Value>,
    /// Models that the provider may be asked for; empty: any.
    pub allowed_models: Vec<String>,
}

/// A line of OpenAI's batch format.
#[derive(Deserialize)]
struct BatchLine<'a> {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// What is wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u64,
    /// What is wrong and how it is mended.
    pub what: String,
}

/// What is wrong with an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// What the input is called.
    pub source: String,
    /// The word for one of its entries.
    pub entry: &'static str,
    /// The first ones.
    pub named: Vec<Problem>,
    /// All of them.
    pub count: u64,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, line: u64, what: impl Into<String>) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(Problem { line, what: what.into() });
        }
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.source)?;
        for (i, problem) in self.named.iter().take(5).enumerate() {
            write!(f, "{}{} {}: {}", if i > 0 { "; " } else { "" }, self.entry, problem.line, problem.what)?;
        }
        match self.count.saturating_sub(5) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Shape {
    /// Checks a line of OpenAI's batch format.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn batch_line(&self, line: &[u8]) -> Result<Request, String> {
        let line = std::str::from_utf8(line).map_err(|e| format!("is not UTF-8 (byte {})", e.valid_up_to() + 1))?;
        let parsed: BatchLine = serde_json::from_str(line).map_err(|e| match e.is_data() {
            true => "is not a JSON object such as {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}"
                .into(),
            false => format!("is not JSON ({})", place(&e)),
        })?;
        match parsed.method.as_ref().map(|m| m.as_str()) {
            None => return Err("has no `method`; it must be \"POST\"".into()),
            Some(Some("POST")) => {}
            Some(_) => return Err("has another `method` than \"POST\"".into()),
        }
        match parsed.url.as_ref().map(|u| u.as_str()) {
            None => return Err(format!("has no `url`; it must be \"{}\", the job's `spec.endpoint`", self.path)),
            Some(Some(url)) if url == self.path => {}
            Some(_) => return Err(format!("has another `url` than \"{}\", the job's `spec.endpoint`", self.path)),
        }
        let custom_id = match parsed.custom_id {
            Some(Value::String(id)) => id,
            Some(_) => return Err("has a `custom_id` that is not a string".into()),
            None => return Err("has no `custom_id`; every request needs one of its own".into()),
        };
        let body = parsed.body.ok_or("has no `body`")?;
        let body = serde_json::from_str(body.get()).map_err(|e| match e.is_data() {
            true => "has a `body` that is not an object".into(),
            false => format!("has a `body` that cannot be read ({})", place(&e)),
        })?;
        self.request(custom_id, body)
    }

    /// Checks a request whatever it was written as.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn request(&self, custom_id: String, mut body: Map<String, Value>) -> Result<Request, String> {
        if custom_id.is_empty() || custom_id.len() > CUSTOM_ID_LIMIT {
            return Err(format!("has a custom id of {} bytes; 1 to {CUSTOM_ID_LIMIT} are allowed", custom_id.len()));
        }
        for (key, value) in &self.defaults {
            if !body.contains_key(key) {
                body.insert(key.clone(), value.clone());
            }
        }
        if body.get("stream").is_some_and(|s| *s != Value::Bool(false)) {
            return Err("asks for `stream`, which batches do not have; take it out".into());
        }
        let model = match (body.get("model"), &self.model) {
            (Some(Value::String(model)), _) if !model.is_empty() => model.clone(),
            (Some(_), _) => return Err("has a `model` that is not a name".into()),
            (None, Some(model)) => model.clone(),
            (None, None) => return Err("names no `model`, and neither does `spec.model`".into()),
        };
        if !self.allowed_models.is_empty() && !self.allowed_models.contains(&model) {
            return Err(format!(
                "names a model that the provider does not allow; allowed: {}",
                self.allowed_models.join(", ")
            ));
        }
        body.insert("model".into(), Value::String(model.clone()));
        Ok(Request { custom_id, model, body })
    }
}

/// Where a JSON error is, without the text around it (serde's own message may quote the input).
fn place(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Eof => "it ends too early".into(),
        _ if error.to_string().contains("recursion") => "it is nested more than 127 deep".into(),
        _ => format!("error at column {}", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let defaults = serde_json::from_str(r#"{"max_tokens": 5, "temperature": 0}"#).unwrap();
        Shape { path: "/v1/chat/completions", model: Some("m".into()), defaults, allowed_models: vec!["m".into()] }
    }

    fn check(line: &str) -> Result<Request, String> {
        shape().batch_line(line.as_bytes())
    }

    #[test]
    fn defaults_go_under_the_body_and_the_model_is_filled_in() {
        let line =
            r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"max_tokens":9,"messages":[]}}"#;
        let request = check(line).unwrap();
        assert_eq!(
            Value::Object(request.body).to_string(),
            r#"{"max_tokens":9,"messages":[],"model":"m","temperature":0}"#
        );
    }

    #[test]
    fn each_fault_has_its_own_words() {
        let with = |id: &str, method: &str, url: &str, body: &str| {
            format!(r#"{{"custom_id":{id},"method":{method},"url":{url},"body":{body}}}"#)
        };
        let (id, method, url) = (r#""a""#, r#""POST""#, r#""/v1/chat/completions""#);
        for (line, words) in [
            ("{".to_string(), "ends too early"),
            ("nonsense".into(), "not JSON"),
            ("[1]".into(), "not a JSON object"),
            (r#"{"method":"POST","url":"/v1/chat/completions","body":{}}"#.into(), "no `custom_id`"),
            (with("7", method, url, "{}"), "not a string"),
            (with(r#""""#, method, url, "{}"), "0 bytes"),
            (with(id, r#""GET""#, url, "{}"), "`method`"),
            (with(id, method, r#""/v1/embeddings""#, "{}"), "`url`"),
            (with(id, method, url, "[]"), "not an object"),
            (with(id, method, url, r#"{"stream":true}"#), "`stream`"),
            (with(id, method, url, r#"{"model":3}"#), "`model`"),
            (with(id, method, url, r#"{"model":"n"}"#), "allowed: m"),
            (with(id, method, url, &format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200))), "deep"),
        ] {
            let error = check(&line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
        assert!(shape().batch_line(b"\xff\xfe").unwrap_err().contains("UTF-8"));
    }
}
