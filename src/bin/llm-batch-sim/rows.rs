//! Result files: their rows, and how they are written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempPath;

use crate::faults::Shape;
use crate::home::new_content;
use crate::ids::fresh;

/// What became of one request.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<RowResponse>,
    error: Option<Unexecuted>,
}

#[derive(Debug, Serialize)]
struct RowResponse {
    status_code: u16,
    request_id: String,
    body: Value,
}

/// Why a request was not executed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Unexecuted {
    code: &'static str,
    message: &'static str,
}

impl Unexecuted {
    /// Somebody cancelled the batch.
    pub const CANCELLED: Self =
        Self { code: "batch_cancelled", message: "This request was not executed because the batch was cancelled." };
    /// The batch ran out of time.
    pub const EXPIRED: Self = Self {
        code: "batch_expired",
        message: "This request could not be executed before the completion window expired.",
    };
}

impl<'a> Row<'a> {
    /// A request that was executed, well or not.
    pub fn answered(custom_id: &'a str, status_code: u16, body: Value) -> Self {
        Self {
            id: fresh("batch_req_"),
            custom_id,
            response: Some(RowResponse { status_code, request_id: fresh("req_"), body }),
            error: None,
        }
    }

    /// The row's line as some servers write it.
    fn odd(&mut self, shape: Shape) -> io::Result<Vec<u8>> {
        if let Some(response) = &mut self.response {
            match shape {
                Shape::ErrorBody => {
                    response.body = json!({"error": {"code": "content_filter", "message": "The answer was withheld."}});
                }
                Shape::TextBody => response.body = response.body.to_string().into(),
                shape => spoil(&mut response.body, shape),
            }
        }
        let line = serde_json::to_string(self)?;
        Ok(match shape {
            Shape::ErrorBody | Shape::TextBody => line,
            Shape::NoUsage | Shape::TextUsage => line,
            Shape::Empty | Shape::Refusal | Shape::Truncated | Shape::Filtered => line,
            Shape::Infinity => line.replacen("\"body\":{", "\"body\":{\"logprob\":-Infinity,", 1),
            Shape::ErrorOfNulls => match line.strip_suffix("\"error\":null}") {
                Some(rest) => format!("{rest}\"error\":{{\"code\":null,\"message\":null}}}}"),
                None => line,
            },
            Shape::SingleQuotes => line.replace('"', "'"),
            Shape::CutOff => line.split_inclusive("\"response\"").next().unwrap_or_default().to_owned(),
            Shape::Garbled => "#".repeat(40),
        }
        .into_bytes())
    }

    /// A request that was not executed.
    pub fn left(custom_id: &'a str, why: Unexecuted) -> Self {
        Self { id: fresh("batch_req_"), custom_id, response: None, error: Some(why) }
    }
}

/// Makes a body one whose answer is none, or whose usage is no usage.
fn spoil(body: &mut Value, shape: Shape) {
    match shape {
        Shape::NoUsage => _ = body.as_object_mut().and_then(|body| body.remove("usage")),
        Shape::TextUsage => body.get_mut("usage").into_iter().for_each(spell_out),
        Shape::Empty => say(body, Value::Null),
        Shape::Refusal => refuse(body),
        Shape::Truncated => end(body, "length", "max_output_tokens"),
        Shape::Filtered => {
            say(body, Value::Null);
            end(body, "content_filter", "content_filter");
        }
        _ => {}
    }
}

/// Writes numbers as text.
fn spell_out(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.to_string().into(),
        Value::Object(fields) => fields.values_mut().for_each(spell_out),
        _ => {}
    }
}

/// Puts something else where the text was; completions and responses have an empty text for null.
fn say(body: &mut Value, text: Value) {
    for place in ["/choices/0/message/content", "/choices/0/text", "/output/0/content/0/text"] {
        if let Some(there) = body.pointer_mut(place) {
            let is_nullable = place.ends_with("/content");
            *there = if text.is_null() && !is_nullable { "".into() } else { text.clone() };
        }
    }
}

fn refuse(body: &mut Value) {
    const WORDS: &str = "I can't help with that.";
    if let Some(message) = body.pointer_mut("/choices/0/message") {
        message["content"] = Value::Null;
        message["refusal"] = WORDS.into();
    } else if let Some(part) = body.pointer_mut("/output/0/content/0") {
        *part = json!({"type": "refusal", "refusal": WORDS});
    }
}

/// Ends the answer for this reason, in the word of choices and in that of responses.
fn end(body: &mut Value, choice: &str, response: &str) {
    if let Some(reason) = body.pointer_mut("/choices/0/finish_reason") {
        *reason = choice.into();
    }
    if let Some(details) = body.get_mut("incomplete_details") {
        *details = json!({"reason": response});
        body["status"] = "incomplete".into();
    }
}

/// A result file that is being written.
#[derive(Debug)]
pub struct Rows {
    id: String,
    path: TempPath,
    writer: BufWriter<File>,
    bytes: u64,
}

/// A result file that is whole.
#[derive(Debug)]
pub struct Written {
    /// Its file id.
    pub id: String,
    /// Where it is.
    pub path: TempPath,
    /// How long it is.
    pub bytes: u64,
}

impl Rows {
    /// An empty file in the folder of contents, with an id of so many characters at least.
    pub fn new(contents: &Path, characters: usize) -> io::Result<Self> {
        let id = fresh("file-");
        let (file, path) = new_content(contents, &id)?;
        let id = format!("{id:x<characters$}");
        Ok(Self { id, path, writer: BufWriter::new(file), bytes: 0 })
    }

    /// Adds a row; where it stands.
    pub fn write(&mut self, row: &Row<'_>) -> io::Result<Place> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.add(&line)
    }

    /// Adds a row as some servers write it.
    pub fn write_odd(&mut self, mut row: Row<'_>, shape: Shape) -> io::Result<()> {
        let mut line = row.odd(shape)?;
        line.push(b'\n');
        self.add(&line).map(drop)
    }

    /// Adds rows that are there already once more.
    pub fn repeat(&mut self, places: &[Place]) -> io::Result<()> {
        let mut line = Vec::new();
        for place in places {
            self.writer.flush()?;
            line.resize(place.length, 0);
            self.writer.get_ref().read_exact_at(&mut line, place.offset)?;
            self.add(&line)?;
        }
        Ok(())
    }

    fn add(&mut self, line: &[u8]) -> io::Result<Place> {
        let place = Place { offset: self.bytes, length: line.len() };
        self.bytes += line.len() as u64;
        self.writer.write_all(line)?;
        Ok(place)
    }

    /// The file, unless it is empty.
    pub fn close(self) -> io::Result<Option<Written>> {
        Ok(Some(self.close_even_empty()?).filter(|written| written.bytes > 0))
    }

    /// The file.
    pub fn close_even_empty(mut self) -> io::Result<Written> {
        self.writer.flush()?;
        Ok(Written { id: self.id, path: self.path, bytes: self.bytes })
    }
}

/// Where a row stands in its file.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    offset: u64,
    length: usize,
}
