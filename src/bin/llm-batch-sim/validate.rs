//! Reading an input file before anything runs. It stops at the first thing that is wrong, as the
//! vendor does, and never holds more than one line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::canonical;
use crate::endpoint::Endpoint;
use crate::overlaps::Short;
use crate::vendor::Vendor;
use crate::wire::BatchError;

/// How large a batch may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In lines.
    pub requests: u64,
    /// In bytes.
    pub bytes: u64,
    /// In requests that an account has enqueued at a time.
    pub enqueued: u64,
}

/// A good file: where its lines are.
#[derive(Debug)]
pub struct Plan {
    /// The one model that all lines ask for.
    pub model: String,
    /// The one endpoint that they are for.
    pub endpoint: Endpoint,
    /// The lines, in the file's order, without their ends.
    pub spans: Vec<Span>,
}

/// Where a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Bytes before it.
    pub offset: u64,
    /// Bytes of it.
    pub length: usize,
    /// Tells its request from others, as the ledger's `request_sha256` does.
    pub request: Short,
}

#[derive(Debug, Deserialize)]
struct Line<'a> {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Body {
    model: Option<Value>,
    stream: Option<Value>,
}

/// Reads the whole file; an `Err` inside is the file's fault and ends its batch as failed.
pub fn check(
    path: &Path,
    (vendor, endpoint): (Vendor, Endpoint),
    limits: Limits,
) -> io::Result<Result<Plan, BatchError>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(Err(whole("empty_file", "The input file is empty.".to_owned())));
    }
    if bytes > limits.bytes {
        let message = format!("The input file has {bytes} bytes, which is more than the {} allowed.", limits.bytes);
        return Ok(Err(whole("file_too_large", message)));
    }
    let mut checker = Checker::new(vendor, endpoint);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut offset = 0;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            break;
        }
        if checker.spans.len() as u64 == limits.requests {
            let message = format!("The input file has more than {} requests.", limits.requests);
            return Ok(Err(whole("too_many_tasks", message)));
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Err(error) = checker.take(text, offset) {
            return Ok(Err(error));
        }
        offset += read;
    }
    let endpoint = checker.of_lines.unwrap_or(endpoint);
    Ok(Ok(Plan { model: checker.model.unwrap_or_default(), endpoint, spans: checker.spans }))
}

/// What is wrong with a file for whoever looks into it when it is uploaded.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A line makes no sense.
    Line(String),
    /// A line asks for a model that there is not.
    Model(String),
}

/// Looks into a file that is uploaded: every line must be a request for one of these models.
pub fn uploaded(path: &Path, models: &[String]) -> io::Result<Result<(), Unfit>> {
    for (n, text) in BufReader::new(File::open(path)?).split(b'\n').enumerate() {
        if let Err(unfit) = judge_upload(&text?, n + 1, models) {
            return Ok(Err(unfit));
        }
    }
    Ok(Ok(()))
}

fn judge_upload(text: &[u8], number: usize, models: &[String]) -> Result<(), Unfit> {
    let complain = |why: &str| Unfit::Line(format!("Line {number}: {why}"));
    let line: Line<'_> = object(text).ok_or_else(|| complain("not a JSON object"))?;
    for (name, value) in [("custom_id", line.custom_id), ("method", line.method), ("url", line.url)] {
        required(name, value).map_err(|error| complain(&error.message))?;
    }
    let body: Body = line.body.and_then(|raw| object(raw.get().as_bytes())).ok_or_else(|| complain("no body"))?;
    match body.model.as_ref().and_then(Value::as_str) {
        Some(model) if models.iter().any(|known| known == model) => Ok(()),
        Some(model) => Err(Unfit::Model(format!(
            "Line {number}: Model '{model}' has not been configured or is not available to this account."
        ))),
        None => Err(complain("the body must name a model")),
    }
}

fn whole(code: &'static str, message: String) -> BatchError {
    BatchError { code: code.into(), line: None, message, param: None }
}

/// What has been seen of a file so far.
struct Checker {
    vendor: Vendor,
    endpoint: Endpoint,
    /// What the lines so far are for.
    of_lines: Option<Endpoint>,
    model: Option<String>,
    /// Half of each id's SHA-256: enough that two different ids are never taken for one.
    ids: HashSet<[u8; 16]>,
    spans: Vec<Span>,
}

impl Checker {
    fn new(vendor: Vendor, endpoint: Endpoint) -> Self {
        Self { vendor, endpoint, of_lines: None, model: None, ids: HashSet::new(), spans: Vec::new() }
    }

    fn take(&mut self, text: &[u8], offset: u64) -> Result<(), BatchError> {
        let number = self.spans.len() as u64 + 1;
        let request = self.judge(text).map_err(|fault| BatchError { line: Some(number), ..fault })?;
        self.spans.push(Span { offset, length: text.len(), request });
        Ok(())
    }

    fn judge(&mut self, text: &[u8]) -> Result<Short, BatchError> {
        let line: Line<'_> = object(text)
            .ok_or_else(|| whole("invalid_json_line", "This line is not parseable as valid JSON.".to_owned()))?;
        let custom_id = required("custom_id", line.custom_id)?;
        let method = required("method", line.method)?;
        let url = required("url", line.url)?;
        let raw = line.body.ok_or_else(|| missing("body"))?;
        if method != "POST" {
            return Err(wrong("invalid_request", "method", "The method must be 'POST'."));
        }
        let Some(endpoint) = self.vendor.line(&url, self.endpoint, self.of_lines) else {
            let message = "The URL provided for this request does not match the batch endpoint.";
            return Err(wrong("invalid_url", "url", message));
        };
        self.of_lines = Some(endpoint);
        let body: Body = object(raw.get().as_bytes())
            .ok_or_else(|| wrong("invalid_request", "body", "The body must be a JSON object."))?;
        if body.stream.is_some_and(|stream| stream != Value::Bool(false)) {
            let message = "Streaming is not supported in batches.";
            return Err(wrong("streaming_unsupported", "body.stream", message));
        }
        self.one_model(body.model)?;
        self.new_id(&custom_id)?;
        Ok(canonical::short(raw))
    }

    fn one_model(&mut self, model: Option<Value>) -> Result<(), BatchError> {
        let Some(Value::String(model)) = model else {
            let message = "The body must name a model.";
            return Err(wrong("invalid_request", "body.model", message));
        };
        if *self.model.get_or_insert_with(|| model.clone()) == model {
            return Ok(());
        }
        Err(BatchError {
            param: Some("body.model"),
            ..whole(
                "mismatched_model",
                format!(
                    "The model '{model}' for this request does not match the rest of the batch. \
                     Each batch must contain requests for a single model."
                ),
            )
        })
    }

    fn new_id(&mut self, custom_id: &str) -> Result<(), BatchError> {
        let hash = digest::digest(&digest::SHA256, custom_id.as_bytes());
        let mut half = [0; 16];
        for (to, from) in half.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        if self.ids.insert(half) {
            return Ok(());
        }
        let message = "The custom_id for this request is a duplicate of another request. \
                       It must be unique for each request in a batch.";
        Err(wrong("duplicate_custom_id", "custom_id", message))
    }
}

/// Serde would take a list for a struct as well.
fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(text).ok()
}

fn required(name: &'static str, value: Option<Value>) -> Result<String, BatchError> {
    match value {
        None => Err(missing(name)),
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => {
            let message = format!("'{name}' must be a string that is not empty.");
            Err(wrong("invalid_request", name, &message))
        }
    }
}

fn missing(name: &'static str) -> BatchError {
    let message = format!("Missing required parameter: '{name}'.");
    wrong("missing_required_parameter", name, &message)
}

fn wrong(code: &'static str, param: &'static str, message: &str) -> BatchError {
    BatchError { param: Some(param), ..whole(code, message.to_owned()) }
}

#[cfg(test)]
mod tests;
