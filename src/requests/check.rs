//! What is checked of every request before anything is paid.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::template::Template;
use crate::api::InputFormat;

/// Longest custom id, in bytes.
const CUSTOM_ID_LIMIT: usize = 512;

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

impl Shape {
    /// Checks a line that is a request in one of the formats without a template.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn line(&self, line: &[u8], format: InputFormat) -> Result<Request, String> {
        let parsed: BatchLine = serde_json::from_str(utf8(line)?).map_err(|e| match (e.is_data(), format) {
            _ if e.to_string().starts_with("duplicate field") => {
                "has a field twice; write `custom_id`, `method`, `url` and `body` once each".into()
            }
            (true, InputFormat::Requests) => "is not a JSON object such as {\"custom_id\": …, \"body\": {…}}".into(),
            (true, _) => "is not a JSON object such as {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \
                          \"body\": {…}}"
                .into(),
            (false, _) => not_json(&e),
        })?;
        let addressed = parsed.method.is_some() || parsed.url.is_some();
        match format {
            InputFormat::Requests if addressed => {
                return Err(
                    "has a `method` or `url`, which the format Requests has not; set the format OpenAIBatch".into()
                );
            }
            InputFormat::Requests => {}
            InputFormat::Auto if !addressed => {}
            _ => self.address(&parsed)?,
        }
        let custom_id = match parsed.custom_id {
            Some(Value::String(id)) => id,
            Some(_) => return Err("has a `custom_id` that is not a string; put it in quotes".into()),
            None => return Err("has no `custom_id`; every request needs one of its own".into()),
        };
        let body = parsed.body.ok_or("has no `body`; put there what the endpoint is to be sent")?;
        let body = serde_json::from_str(body.get()).map_err(|e| match e.is_data() {
            true => "has a `body` that is not an object such as {\"messages\": …}".into(),
            false => format!("has a `body` that cannot be read ({})", place(&e)),
        })?;
        self.request(custom_id, body)
    }

    fn address(&self, line: &BatchLine<'_>) -> Result<(), String> {
        match line.method.as_ref().map(|m| m.as_str()) {
            None => return Err("has no `method`; it must be \"POST\"".into()),
            Some(Some("POST")) => {}
            Some(_) => return Err("has another `method` than \"POST\"".into()),
        }
        match line.url.as_ref().map(|u| u.as_str()) {
            None => Err(format!("has no `url`; it must be \"{}\", the job's `spec.endpoint`", self.path)),
            Some(Some(url)) if url == self.path => Ok(()),
            Some(_) => Err(format!("has another `url` than \"{}\", the job's `spec.endpoint`", self.path)),
        }
    }

    /// Makes and checks the request of a line that is a row.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn row_line(&self, line: &[u8], template: &Template) -> Result<Request, String> {
        let row: Map<String, Value> = serde_json::from_str(utf8(line)?).map_err(|e| match e.is_data() {
            true => "is not a JSON object of columns such as {\"id\": …}".into(),
            false => not_json(&e),
        })?;
        self.row(&row, template)
    }

    /// Makes and checks the request of a row.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn row(&self, row: &Map<String, Value>, template: &Template) -> Result<Request, String> {
        let (custom_id, body) = template.expand(row)?;
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
            (Some(_), _) => {
                return Err(
                    "has a `model` that is not a name; write it as text, or leave it out for `spec.model`".into()
                );
            }
            (None, Some(model)) => model.clone(),
            (None, None) => return Err("names no `model`, and neither does `spec.model`; set one of them".into()),
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

/// Bytes as text.
///
/// # Errors
/// Where they are none.
pub fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|e| match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is not UTF-8 (it looks like UTF-16); store it as UTF-8".into(),
        _ => format!("is not UTF-8 (byte {}); store it as UTF-8", e.valid_up_to() + 1),
    })
}

fn not_json(error: &serde_json::Error) -> String {
    format!("is not JSON ({}); write one request a line, whole", place(error))
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
        shape().line(line.as_bytes(), InputFormat::OpenAIBatch)
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
        assert!(shape().line(b"{\xff", InputFormat::Auto).unwrap_err().contains("not UTF-8 (byte 2)"));
        let twice = r#"{"custom_id":"a","custom_id":"b","body":{}}"#;
        assert!(shape().line(twice.as_bytes(), InputFormat::Auto).unwrap_err().contains("a field twice"));
        assert!(shape().line(b"\xff\xfe{\0", InputFormat::Auto).unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn lines_say_their_format_unless_the_job_does() {
        let bare = br#"{"custom_id":"a","body":{}}"#;
        let addressed = br#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}"#;
        let read = |line: &[u8], format| shape().line(line, format).map(|r| r.custom_id);
        assert_eq!(read(bare, InputFormat::Auto).unwrap(), "a");
        assert_eq!(read(bare, InputFormat::Requests).unwrap(), "a");
        assert!(read(bare, InputFormat::OpenAIBatch).unwrap_err().contains("no `method`"));
        assert_eq!(read(addressed, InputFormat::Auto).unwrap(), "a");
        assert_eq!(read(addressed, InputFormat::OpenAIBatch).unwrap(), "a");
        assert!(read(addressed, InputFormat::Requests).unwrap_err().contains("OpenAIBatch"));
        assert!(read(br#"{"custom_id":"a","url":"/v1/x","body":{}}"#, InputFormat::Auto).is_err());
        assert!(read(br#"{"messages":[]}"#, InputFormat::Auto).unwrap_err().contains("no `custom_id`"));
    }
}
