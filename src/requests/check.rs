//! What is checked of every request before anything is paid.

use std::borrow::Cow;

use super::document::{Body, Entry, Line, Object};
use super::hash::{HASH_BYTES, hash_of_request};
use super::merge::{Defaults, Merged};
use super::reader::{self, Fault};
use super::template::Template;
use super::variable::{Row, Texts};
use crate::api::json;
use crate::api::{InputFormat, WorkHashVersion};

/// Longest custom id, in bytes.
const CUSTOM_ID_LIMIT: usize = 512;
/// Longest name of a model, in bytes; status has room for no longer one.
const MODEL_LIMIT: usize = 253;

/// One request, sound.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// The user's name for it.
    pub custom_id: String,
    /// The model that it names, or the job's.
    pub model: String,
    /// What the endpoint is sent: as it was written, in one line, with the job's defaults behind its own fields.
    pub body: Cow<'a, str>,
    /// Hash of endpoint, model and body: the same for equal JSON.
    pub hash: [u8; HASH_BYTES],
}

impl Request<'_> {
    /// The same, whatever becomes of the text that it was read from.
    pub fn into_owned(self) -> Request<'static> {
        Request { body: Cow::Owned(self.body.into_owned()), ..self }
    }
}

/// What every request of a job shares.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Path such as `/v1/chat/completions`.
    path: &'static str,
    /// Root of the provider's API.
    base_url: String,
    /// Merged under each body, the job's model among them.
    defaults: Defaults,
    /// Models that the provider may be asked for; empty: any.
    allowed_models: Vec<String>,
    /// How requests are hashed.
    version: WorkHashVersion,
}

impl Shape {
    pub fn new(
        path: &'static str,
        base_url: &str,
        model: Option<&str>,
        defaults: Defaults,
        allowed_models: Vec<String>,
    ) -> Shape {
        let base_url = base_url.trim_end_matches('/').into();
        let version = WorkHashVersion::default();
        Shape { path, base_url, defaults: defaults.with_model(model), allowed_models, version }
    }

    /// The same with requests that are hashed as in this version.
    pub fn hashed_as(self, version: WorkHashVersion) -> Shape {
        Shape { version, ..self }
    }

    /// Checks a line that is a request in one of the formats without a template.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn line<'a>(&self, line: &'a [u8], format: InputFormat) -> Result<Request<'a>, String> {
        let text = utf8(line)?;
        let line = Line::read(text).map_err(|fault| match (fault, format) {
            (Fault::NotAnObject, InputFormat::Requests) => {
                "is not a JSON object such as {\"custom_id\": …, \"body\": {…}}".into()
            }
            (Fault::NotAnObject, _) => {
                "is not a JSON object such as {\"custom_id\": …, \"method\": \"POST\", \"url\": \
                                        …, \"body\": {…}}"
                    .into()
            }
            _ => faulty_line(text, fault),
        })?;
        let addressed = line.method.is_there() || line.url.is_there();
        match format {
            InputFormat::Requests if addressed => {
                return Err(
                    "has a `method` or `url`, which the format Requests has not; set the format OpenAIBatch".into()
                );
            }
            InputFormat::Requests => {}
            InputFormat::Auto if !addressed => {}
            _ => self.address(&line)?,
        }
        let custom_id = match line.custom_id {
            Entry::Text(id) => id.into_owned(),
            Entry::Other => return Err("has a `custom_id` that is not a string; put it in quotes".into()),
            Entry::Absent => return Err("has no `custom_id`; every request needs one of its own".into()),
        };
        match line.body {
            Body::Object(body) => self.request(custom_id, &body),
            Body::Other => Err("has a `body` that is not an object such as {\"messages\": …}".into()),
            Body::Absent => Err("has no `body`; put there what the endpoint is to be sent".into()),
        }
    }

    fn address(&self, line: &Line<'_>) -> Result<(), String> {
        match &line.method {
            Entry::Absent => return Err("has no `method`; it must be \"POST\"".into()),
            Entry::Text(method) if method.eq_ignore_ascii_case("POST") => {}
            _ => return Err("has another `method` than \"POST\"".into()),
        }
        match &line.url {
            Entry::Absent => Err(format!("has no `url`; it must be \"{}\", the job's `spec.endpoint`", self.path)),
            Entry::Text(url) if self.is_called(url) => Ok(()),
            _ => Err(format!("has another `url` than \"{}\", the job's `spec.endpoint`", self.path)),
        }
    }

    /// Whether a URL is that of the job's endpoint: OpenAI's path, with or without `/v1`, or what the vendor of the provider
    /// makes of it, with the path or the whole of the provider's `baseURL` before it. Requests are sent with OpenAI's.
    fn is_called(&self, url: &str) -> bool {
        let Some(name) = self.path.strip_prefix("/v1/").filter(|_| url != self.path) else { return url == self.path };
        let Some(root) = url.trim_end_matches('/').strip_suffix(name) else { return false };
        let (root, base) = (root.trim_end_matches('/'), self.base_url.as_str());
        let base_path = base.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("");
        let without_version = |root: &'_ str| root.strip_suffix("/v1").unwrap_or(root).len();
        let roots =
            ["", "/v1", base, &base[..without_version(base)], base_path, &base_path[..without_version(base_path)]];
        roots.iter().any(|known| root == *known || (!root.is_empty() && known.strip_prefix('/') == Some(root)))
    }

    /// Makes and checks the request of a line that is a row.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn row_line(&self, line: &[u8], template: &Template) -> Result<Request<'static>, String> {
        let text = utf8(line)?;
        let row = Object::read(text).map_err(|fault| match fault {
            Fault::NotAnObject => "is not a JSON object of columns such as {\"id\": …}".into(),
            _ => faulty_line(text, fault),
        })?;
        self.filled(&Row::Json(&row), template)
    }

    /// Makes and checks the request of a table's row, or of an object's parts.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn row(&self, row: &Texts, template: &Template) -> Result<Request<'static>, String> {
        self.filled(&Row::Texts(row), template)
    }

    fn filled(&self, row: &Row<'_>, template: &Template) -> Result<Request<'static>, String> {
        let (custom_id, body) = template.expand(row)?;
        let body = Object::read_and_spell(&body).map_err(|fault| match fault {
            Fault::TooDeep => {
                "makes, with the template, a request that is nested more than 127 deep; make it flatter".into()
            }
            _ => format!("makes, with the template, a request that {}", faulty_line(&body, fault)),
        })?;
        self.request(custom_id, &body).map(Request::into_owned)
    }

    /// Checks a request whatever it was written as.
    ///
    /// # Errors
    /// What is wrong with it, never its content.
    pub fn request<'a>(&self, custom_id: String, body: &Object<'a>) -> Result<Request<'a>, String> {
        if custom_id.is_empty() || custom_id.len() > CUSTOM_ID_LIMIT {
            return Err(format!("has a custom id of {} bytes; 1 to {CUSTOM_ID_LIMIT} are allowed", custom_id.len()));
        }
        let merged = Merged::new(body, &self.defaults);
        if merged.get("stream").is_some_and(|stream| stream != "false") {
            return Err("asks for `stream`, which batches do not have; take it out".into());
        }
        let model = self.model(merged.get("model"))?;
        let mut known_by = String::with_capacity(body.written().len() + 2_048);
        known_by.extend([self.path, "\n", &model, "\n"]);
        merged.spell(&mut known_by);
        let hash = hash_of_request(self.version, known_by);
        Ok(Request { custom_id, model, body: merged.sent(), hash })
    }

    fn model(&self, named: Option<&str>) -> Result<String, String> {
        let named = named.ok_or("names no `model`, and neither does `spec.model`; set one of them")?;
        let model = reader::text(named)
            .filter(|model| !model.is_empty())
            .ok_or("has a `model` that is not a name; write it as text, or leave it out for `spec.model`")?;
        if model.len() > MODEL_LIMIT {
            return Err(format!("names a model of {} bytes; the name of one has at most {MODEL_LIMIT}", model.len()));
        }
        if !self.allowed_models.is_empty() && !self.allowed_models.iter().any(|allowed| *allowed == model) {
            return Err(format!(
                "names a model that the provider does not allow; allowed: {}",
                self.allowed_models.join(", ")
            ));
        }
        Ok(model.into_owned())
    }
}

/// Bytes as text.
///
/// # Errors
/// Where they are none.
pub fn utf8(bytes: &[u8]) -> Result<&str, String> {
    simdutf8::compat::from_utf8(bytes).map_err(|e| match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is not UTF-8 (it looks like UTF-16); store it as UTF-8".into(),
        _ => format!("is not UTF-8 (byte {}); store it as UTF-8", e.valid_up_to() + 1),
    })
}

/// What is wrong with a line that is a request or a row.
fn faulty_line(line: &str, fault: Fault) -> String {
    match fault {
        Fault::Syntax => not_json(line, "write one request a line, whole"),
        Fault::NotAnObject => "is not an object".into(),
        Fault::Twice => twice(line),
        Fault::TooDeep => "is not JSON that can be read (it is nested more than 127 deep); make it flatter".into(),
        Fault::TooManyFields => "holds an object of more than 500,000 keys; make several requests of it".into(),
    }
}

/// What is wrong with the JSON of a field of a manifest.
pub(super) fn faulty_field(json: &str, fault: Fault) -> String {
    match fault {
        Fault::Syntax => not_json(json, "correct it there"),
        Fault::NotAnObject => "is not an object; write one".into(),
        Fault::Twice => twice(json),
        Fault::TooDeep => "is nested more than 127 deep; make it flatter".into(),
        Fault::TooManyFields => "holds an object of more than 500,000 keys; shorten it".into(),
    }
}

/// Why a text is not JSON: the fault by its name, at its place.
fn not_json(text: &str, remedy: &str) -> String {
    match json::fault(text) {
        Some(fault) => format!("is not JSON ({fault}); {}", fault.remedy().unwrap_or(remedy)),
        None => format!("is not JSON (it cannot be read); {remedy}"),
    }
}

fn twice(text: &str) -> String {
    match json::repeated_key(text) {
        Some((key, place)) => {
            format!("has the key {} twice in one object, again {place}; write each key once", json::shown(key))
        }
        None => "has a key twice in one object; write each key once".into(),
    }
}

#[cfg(test)]
mod tests;
