//! What is checked of every request before anything is paid.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::plain;
use super::template::Template;
use crate::api::json::{self, Whole, place};
use crate::api::{InputFormat, weight};

/// Longest custom id, in bytes.
const CUSTOM_ID_LIMIT: usize = 512;
/// Longest name of a model, in bytes; status has room for no longer one.
const MODEL_LIMIT: usize = 253;

/// One request, sound.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The user's name for it.
    pub custom_id: String,
    /// The model that it names, or the job's.
    pub model: String,
    /// What the endpoint is sent, defaults merged under it, in the one spelling that it is known by.
    pub body: String,
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
    custom_id: Option<Whole>,
    method: Option<Whole>,
    url: Option<Whole>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

impl Shape {
    /// Checks a line that is a request in one of the formats without a template.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn line(&self, line: &[u8], format: InputFormat) -> Result<Request, String> {
        let line = utf8(line)?;
        self.plain_line(line, format).map_or_else(|| light(line).and_then(|()| self.any_line(line, format)), Ok)
    }

    /// The same for a line without fault in which nothing is unusual; None for others.
    fn plain_line(&self, line: &str, format: InputFormat) -> Option<Request> {
        let plain::PlainLine { custom_id, addressed, mut body } = plain::read(line, self.path)?;
        let as_told = match format {
            InputFormat::Requests => !addressed,
            InputFormat::Auto => true,
            _ => addressed,
        };
        for (key, value) in &self.defaults {
            body.add_missing(key, || value.clone())?;
        }
        if let Some(model) = &self.model {
            body.add_missing("model", || model.as_str().into())?;
        }
        let model: String = serde_json::from_str(body.get("model")?).ok()?;
        let sound = (1..=CUSTOM_ID_LIMIT).contains(&custom_id.len())
            && body.get("stream").is_none_or(|stream| stream == "false")
            && (1..=MODEL_LIMIT).contains(&model.len())
            && self.allows(&model);
        (as_told && sound).then(|| Request { custom_id: custom_id.into_owned(), model, body: body.spell() })
    }

    fn allows(&self, model: &str) -> bool {
        self.allowed_models.is_empty() || self.allowed_models.iter().any(|allowed| allowed == model)
    }

    fn any_line(&self, line: &str, format: InputFormat) -> Result<Request, String> {
        let parsed: BatchLine = serde_json::from_str(line).map_err(|e| match (e.is_data(), format) {
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
            Some(Whole(Value::String(id))) => id,
            Some(_) => return Err("has a `custom_id` that is not a string; put it in quotes".into()),
            None => return Err("has no `custom_id`; every request needs one of its own".into()),
        };
        let body = parsed.body.ok_or("has no `body`; put there what the endpoint is to be sent")?;
        let body = json::object(body.get()).map_err(|e| match e.is_data() {
            true => "has a `body` that is not an object such as {\"messages\": …}".into(),
            false => format!("has a `body` that cannot be read ({})", place(&e)),
        })?;
        self.request(custom_id, body)
    }

    fn address(&self, line: &BatchLine<'_>) -> Result<(), String> {
        match line.method.as_ref().map(|m| m.0.as_str()) {
            None => return Err("has no `method`; it must be \"POST\"".into()),
            Some(Some("POST")) => {}
            Some(_) => return Err("has another `method` than \"POST\"".into()),
        }
        match line.url.as_ref().map(|u| u.0.as_str()) {
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
        let line = utf8(line)?;
        light(line)?;
        let row = json::object(line).map_err(|e| match e.is_data() {
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
        if model.len() > MODEL_LIMIT {
            return Err(format!("names a model of {} bytes; the name of one has at most {MODEL_LIMIT}", model.len()));
        }
        if !self.allows(&model) {
            return Err(format!(
                "names a model that the provider does not allow; allowed: {}",
                self.allowed_models.join(", ")
            ));
        }
        body.insert("model".into(), Value::String(model.clone()));
        Ok(Request { custom_id, model, body: Value::Object(body).to_string() })
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

/// Whether the JSON of a line can be held.
fn light(line: &str) -> Result<(), String> {
    weight::check(line).map_err(|e| format!("{e}; make several requests of it"))
}

fn not_json(error: &serde_json::Error) -> String {
    format!("is not JSON ({}); write one request a line, whole", place(error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    #[test]
    fn a_line_that_would_take_a_hundred_times_its_length_is_refused() {
        let line = |input: String| format!("{{\"custom_id\": \"a\", \"extra\": {input}, \"body\": {{}}}}");
        let list = |of: &str, n: usize| format!("[{}0]", format!("{of},").repeat(n));
        let read = |line: String| shape().line(line.as_bytes(), InputFormat::Requests);
        for bomb in [list("{\"\":0}", 1 << 20), list("[]", 1 << 20)] {
            let refused = read(line(bomb)).unwrap_err();
            assert!(refused.contains("64 MiB"), "{refused}");
        }
        for fine in [list("1", 1 << 20), format!("\"{}\"", "{[\\\",".repeat(1 << 20))] {
            let read = read(line(fine));
            assert!(read.is_ok(), "{read:?}");
        }
    }

    #[test]
    fn keys_are_keys_whatever_they_are_called() {
        let shape = Shape { model: None, defaults: Map::new(), ..shape() };
        let template = template(r#"{"model": "m", "x": "$(row.x)"}"#);
        let bomb = format!("[{}0]", "{\\\"\\\":0},".repeat(1 << 18));
        for content in ["1", "\"[1]\"", &format!("\"{bomb}\"")] {
            let marked = format!(r#"{{"$serde_json::private::RawValue":{content}}}"#);
            let body = format!(r#"{{"model":"m","x":{marked}}}"#);
            let line = format!(r#"{{"custom_id": "a", "more": 1, "body": {body}}}"#);
            let as_line = shape.line(line.as_bytes(), InputFormat::Requests).map(|request| request.body);
            assert_eq!(as_line.as_ref(), Ok(&body));
            let as_row =
                shape.row_line(format!(r#"{{"x": {marked}}}"#).as_bytes(), &template).map(|request| request.body);
            assert_eq!(as_row.as_ref(), Ok(&body));
            let id = format!(r#"{{"custom_id": {marked}, "body": {{}}}}"#);
            let refused = shape.line(id.as_bytes(), InputFormat::Requests).unwrap_err();
            assert!(refused.contains("not a string"), "{refused}");
        }
    }

    fn template(body: &str) -> Template {
        let template = format!(r#"{{"customID": "a", "body": {body}}}"#);
        Template::parse(&serde_json::from_str(&template).unwrap(), super::super::template::Of::Rows).unwrap()
    }

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
        assert_eq!(request.body, r#"{"max_tokens":9,"messages":[],"model":"m","temperature":0}"#);
    }

    #[test]
    fn usual_lines_are_read_in_one_go_and_others_with_care() {
        let shape = Shape { model: None, allowed_models: vec![], ..shape() };
        let plain = |line: &str| shape.plain_line(line, InputFormat::Auto);
        let body =
            r#"{ "model":"m\u00e9", "messages":[{"role":"user","content":"a\n\"b\" \u00fc"}], "n":1, "p":0.50 }"#;
        let usual = format!(
            "{{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {body}}}\r"
        );
        let spelled = concat!(
            r#"{"max_tokens":5,"messages":[{"content":"a\n\"b\" ü","role":"user"}],"model":"mé","n":1,"p":0.5,"#,
            r#""temperature":0}"#
        );
        assert_eq!(plain(&usual).unwrap().body, spelled);
        assert!(plain(r#"{"custom_id":"a","body":{"model":"m"}}"#).is_some());
        for unusual in [
            r#"{"custom_id":"a","body":{"model":"m","model":"m"}}"#,
            r#"{"custom_id":"a","body":{"mod\u0065l":"m"}}"#,
            r#"{"custom_id":"a","body":{"model":"m"},"more":1}"#,
            r#"{"custom_id":"a","body":{"model":"m"}} x"#,
        ] {
            assert!(plain(unusual).is_none(), "{unusual}");
        }
    }

    /// The fields of an object as text: spaces, escapes, numbers and keys of every kind, some of them faulty.
    fn fields_text() -> impl Strategy<Value = String> {
        let usual = vec!["a", "é", "😀", r#"\""#, r"\\", r"\n", r"\t"];
        let unusual = vec![r"\/", r"\u00e9", r"\ud83d\ude00", r"\u0000", r"\u001F", "\u{7f}"];
        let faulty = vec![r"\ud800", r"\x", "\u{1}"];
        let piece = prop_oneof![40 => select(usual), 20 => select(unusual), 1 => select(faulty)];
        let string = vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
        let number = prop_oneof![
            2 => "-?(0|[1-9][0-9]{0,20})",
            2 => "-?(0|[1-9][0-9]{0,3})\\.[0-9]{1,3}([eE][-+]?[0-9]{1,2})?",
            1 => "-?[0-9]{1,3}(\\.[0-9]{0,3})?([eE][-+]?[0-9]{0,3})?",
        ];
        let word = select(&["true", "false", "null", "{}", "[]"][..]).prop_map(String::from);
        let value = prop_oneof![3 => string, 2 => number, 1 => word].prop_recursive(4, 16, 4, |inner| {
            let list = vec((space(), inner.clone()), 0..4).prop_map(|all| {
                all.into_iter().map(|(space, value)| format!("{space}{value}{space}")).collect::<Vec<_>>().join(",")
            });
            prop_oneof![list.prop_map(|l| format!("[{l}]")), fields(inner).prop_map(|f| format!("{{{f}}}"))]
        });
        fields(value)
    }

    fn fields(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let keys = vec![r#""a""#, r#""b""#, r#""é""#, r#""""#, r#""max_tokens""#, r#""n""#, r#""aa""#];
        let odd = vec![r#""model""#, r#""stream""#, r#""\u0061""#];
        let key = prop_oneof![30 => select(keys), 1 => select(odd)];
        vec((space(), key, value), 0..4).prop_map(|all| {
            let field = |(space, key, value)| format!("{space}{key}{space}:{space}{value}{space}");
            all.into_iter().map(field).collect::<Vec<_>>().join(",")
        })
    }

    fn space() -> impl Strategy<Value = &'static str> {
        select(&["", "", "", " ", "\t\r\n "][..])
    }

    #[test]
    fn reading_in_one_go_is_reading_with_care() {
        let shape = Shape { allowed_models: vec![], ..shape() };
        let formats = vec![InputFormat::Auto, InputFormat::Requests, InputFormat::OpenAIBatch];
        let (cases, in_one_go) = (1000, Cell::new(0));
        let input = (fields_text(), any::<bool>(), select(formats), option::of(0usize..200));
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Default::default() });
        let agree = runner.run(&input, |(body, addressed, format, cut)| {
            let mut line = match addressed {
                true => {
                    format!(r#"{{"body": {{{body}}},"method":"POST","url":"/v1/chat/completions","custom_id":"b"}}"#)
                }
                false => format!(r#"{{"custom_id":"a\t","body":{{{body}}}}}"#),
            };
            if let Some(cut) = cut.filter(|at| *at < line.len() && line.is_char_boundary(*at)) {
                line.remove(cut);
            }
            if let Some(request) = shape.plain_line(&line, format) {
                in_one_go.set(in_one_go.get() + 1);
                prop_assert_eq!(shape.any_line(&line, format), Ok(request), "{}", line);
            }
            Ok(())
        });
        agree.unwrap();
        assert!(in_one_go.get() > cases / 5, "{} of {cases} lines were read in one go", in_one_go.get());
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
