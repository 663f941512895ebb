//! The checks of each request before anything is sent or paid.

use std::borrow::Cow;

use super::document::{Body, Entry, Line, Object};
use super::hash::{HASH_BYTES, hash_of_request};
use super::merge::{Defaults, Merged};
use super::reader::{self, Fault};
use super::template::Template;
use super::variable::{Row, Texts};
use crate::api::json;
use crate::api::{Endpoint, InputFormat, TokenHints, WorkHashVersion};
use crate::store::hints_of_fields;

/// Longest custom id, in bytes.
const CUSTOM_ID_LIMIT: usize = 512;
/// Longest name of a model, in bytes: the longest that status has room for.
const MODEL_LIMIT: usize = 253;

/// A request that passed every check.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// The name that the user gave it, unique within the work.
    pub custom_id: String,
    /// The model that the body names, or else the job's.
    pub model: String,
    /// The body as the endpoint gets it: as it was written, in one line, with the job's defaults after its own fields.
    pub body: Cow<'a, str>,
    /// Hash of endpoint, model and body. Equal JSON has the same hash.
    pub hash: [u8; HASH_BYTES],
    /// Facts from which its tokens are estimated.
    pub hints: TokenHints,
}

impl Request<'_> {
    /// Returns the request with a body of its own, independent of the text that it was read from.
    pub fn into_owned(self) -> Request<'static> {
        Request { body: Cow::Owned(self.body.into_owned()), ..self }
    }
}

/// Everything that the requests of a job share.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Path such as `/v1/chat/completions`.
    path: &'static str,
    /// The endpoint at that path.
    endpoint: Endpoint,
    /// Root of the provider's API.
    base_url: String,
    /// Defaults that are merged under each body, the job's model among them.
    defaults: Defaults,
    /// Models that requests may name. Empty: any model.
    allowed_models: Vec<String>,
    /// Version of the request hash.
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
        let endpoint = Endpoint::of_url(path).unwrap_or_default();
        Shape { path, endpoint, base_url, defaults: defaults.with_model(model), allowed_models, version }
    }

    /// Sets the version of the request hash.
    pub fn hashed_as(self, version: WorkHashVersion) -> Shape {
        Shape { version, ..self }
    }

    /// Checks a line that is a request, in one of the formats without a template.
    ///
    /// # Errors
    /// Describes the fault, without the content of the line.
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

    /// Returns whether `url` means the job's endpoint: OpenAI's path with or without `/v1`, or the vendor's form of it, with
    /// the path or the whole of the provider's `baseURL` in front. Requests are sent with OpenAI's path.
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

    /// Makes a request of a line that is a row, and checks it.
    ///
    /// # Errors
    /// Describes the fault, without the content of the row.
    pub fn row_line(&self, line: &[u8], template: &Template) -> Result<Request<'static>, String> {
        let text = utf8(line)?;
        let row = Object::read(text).map_err(|fault| match fault {
            Fault::NotAnObject => "is not a JSON object of columns such as {\"id\": …}".into(),
            _ => faulty_line(text, fault),
        })?;
        self.filled(&Row::Json(&row), template)
    }

    /// Makes a request of a table's row or an object's parts, and checks it.
    ///
    /// # Errors
    /// Describes the fault, without the content of the row.
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

    /// Checks a request of any format.
    ///
    /// # Errors
    /// Describes the fault, without the content of the request.
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
        let hints = hints_of_fields(self.endpoint, merged.fields());
        Ok(Request { custom_id, model, body: merged.sent(), hash, hints })
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

/// Returns bytes as text.
///
/// # Errors
/// Fails if the bytes are not UTF-8, and names the first byte that is not.
pub fn utf8(bytes: &[u8]) -> Result<&str, String> {
    simdutf8::compat::from_utf8(bytes).map_err(|e| match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is not UTF-8 (it looks like UTF-16); store it as UTF-8".into(),
        _ => format!("is not UTF-8 (byte {}); store it as UTF-8", e.valid_up_to() + 1),
    })
}

/// Describes the fault of a line that is a request or a row.
fn faulty_line(line: &str, fault: Fault) -> String {
    match fault {
        Fault::Syntax => not_json(line, "write one request a line, whole"),
        Fault::NotAnObject => "is not an object".into(),
        Fault::Twice => twice(line),
        Fault::TooDeep => "is not JSON that can be read (it is nested more than 127 deep); make it flatter".into(),
        Fault::TooManyFields => "holds an object of more than 500,000 keys; make several requests of it".into(),
    }
}

/// Describes the fault of the JSON in a field of a manifest.
pub(super) fn faulty_field(json: &str, fault: Fault) -> String {
    match fault {
        Fault::Syntax => not_json(json, "correct it there"),
        Fault::NotAnObject => "is not an object; write one".into(),
        Fault::Twice => twice(json),
        Fault::TooDeep => "is nested more than 127 deep; make it flatter".into(),
        Fault::TooManyFields => "holds an object of more than 500,000 keys; shorten it".into(),
    }
}

/// Describes a text that is not JSON: the fault by its name and its place.
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
