//! Executing a batch's lines, some at a time, into its two result files and the ledger.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempPath;

use crate::accounts::Account;
use crate::answers::{Refusal, Reply};
use crate::app::Shared;
use crate::bodies::Answer;
use crate::canonical;
use crate::endpoint::Endpoint;
use crate::home::new_content;
use crate::ids::{fresh, now};
use crate::ledger::Charge;
use crate::prompt::Prompt;
use crate::shuffle::shuffle;
use crate::store::Content;
use crate::validate::{Plan, Span};
use crate::wire::{RequestCounts, Tokens};

/// A batch that is to be run.
#[derive(Debug)]
pub struct Task {
    /// Who pays.
    pub account: Account,
    /// The batch.
    pub batch_id: String,
    /// Where its lines go.
    pub endpoint: Endpoint,
    /// Its input.
    pub file_id: String,
    /// The input's name.
    pub filename: String,
    /// The input's bytes.
    pub content: Content,
}

/// Executes a batch's lines in their shuffled order. Blocks on the disk.
#[derive(Debug)]
pub struct Runner {
    app: Shared,
    task: Arc<Task>,
    model: String,
    input: File,
    spans: Vec<Span>,
    next: usize,
    output: Rows,
    errors: Rows,
    counts: RequestCounts,
    tokens: Tokens,
}

/// What a batch left behind.
#[derive(Debug)]
pub struct Results {
    /// The 2xx rows, if there are any.
    pub output: Option<Written>,
    /// The other rows, if there are any.
    pub errors: Option<Written>,
    /// What became of the requests.
    pub counts: RequestCounts,
    /// What was used.
    pub tokens: Tokens,
}

#[derive(Debug, Deserialize)]
struct Line<'a> {
    custom_id: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<RowResponse>,
    error: Option<RowError>,
}

#[derive(Debug, Serialize)]
struct RowResponse {
    status_code: u16,
    request_id: String,
    body: Value,
}

#[derive(Debug, Serialize)]
struct RowError {
    code: &'static str,
    message: &'static str,
}

impl Runner {
    /// Gets ready; nothing is executed yet.
    pub fn new(app: Shared, task: Arc<Task>, plan: Plan) -> io::Result<Self> {
        let mut spans = plan.spans;
        shuffle(&mut spans, app.settings.seed);
        let contents = &app.settings.contents;
        Ok(Self {
            input: File::open(task.content.as_ref())?,
            output: Rows::new(contents)?,
            errors: Rows::new(contents)?,
            model: plan.model,
            counts: RequestCounts { total: spans.len() as u64, ..RequestCounts::default() },
            tokens: Tokens::default(),
            spans,
            next: 0,
            task,
            app,
        })
    }

    /// What became of the requests so far.
    pub fn counts(&self) -> RequestCounts {
        self.counts
    }

    /// Executes and bills up to this many more lines.
    pub fn step(&mut self, lines: u64) -> io::Result<()> {
        let task = Arc::clone(&self.task);
        let model = self.model.clone();
        let mut charges = Vec::new();
        let mut text = Vec::new();
        for _ in 0..lines {
            if !self.read(&mut text)? {
                break;
            }
            let line: Line<'_> = serde_json::from_slice(&text)?;
            if let Some(request_sha256) = self.execute(&line)? {
                charges.push(Charge {
                    account: &task.account,
                    batch_id: &task.batch_id,
                    file_id: &task.file_id,
                    filename: &task.filename,
                    custom_id: line.custom_id,
                    request_sha256,
                    model: &model,
                    billed_at: now(),
                });
            }
        }
        self.app.ledger.append(&charges)
    }

    /// Gives up on all lines that are left: each becomes a row of the error file.
    pub fn abandon(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        while self.read(&mut text)? {
            let line: Line<'_> = serde_json::from_slice(&text)?;
            self.errors.write(&Row {
                id: fresh("batch_req_"),
                custom_id: &line.custom_id,
                response: None,
                error: Some(RowError {
                    code: "batch_cancelled",
                    message: "This request was not executed because the batch was cancelled.",
                }),
            })?;
        }
        Ok(())
    }

    /// Closes the result files.
    pub fn finish(self) -> io::Result<Results> {
        Ok(Results {
            output: self.output.close()?,
            errors: self.errors.close()?,
            counts: self.counts,
            tokens: self.tokens,
        })
    }

    /// The next line; false when there is none.
    fn read(&mut self, text: &mut Vec<u8>) -> io::Result<bool> {
        let Some(span) = self.spans.get(self.next) else {
            return Ok(false);
        };
        text.resize(span.length, 0);
        self.input.read_exact_at(text, span.offset)?;
        self.next += 1;
        Ok(true)
    }

    /// Writes a line's row; the hash of its request when it is to be billed. A request that is
    /// refused costs nothing, as at the vendor.
    fn execute(&mut self, line: &Line<'_>) -> io::Result<Option<String>> {
        match self.answer(line.body) {
            Ok((body, request, tokens)) => {
                self.tokens.input += tokens.input;
                self.tokens.output += tokens.output;
                self.counts.completed += 1;
                self.output.write(&Row::answered(&line.custom_id, 200, body))?;
                Ok(Some(canonical::sha256_hex(&request)))
            }
            Err(refusal) => {
                self.counts.failed += 1;
                let row = Row::answered(&line.custom_id, refusal.status, refusal.body());
                self.errors.write(&row)?;
                Ok(None)
            }
        }
    }

    fn answer(&self, raw: &RawValue) -> Result<(Value, Vec<u8>, Tokens), Refusal> {
        let endpoint = self.task.endpoint;
        let request: Value = serde_json::from_str(raw.get()).map_err(|_| Refusal::unreadable())?;
        let prompt = Prompt::of(endpoint, &request).map_err(Refusal::missing)?;
        let text = match self.app.settings.answers.reply(&prompt) {
            Reply::Text(text) => text,
            Reply::Refusal(refusal) => return Err(refusal),
        };
        let spelled = canonical::to_vec(&request).map_err(|_| Refusal::unreadable())?;
        let answer = Answer { model: &self.model, prompt: &prompt, text: &text, created: now() };
        let (body, tokens) = answer.body(endpoint, spelled.len());
        Ok((body, spelled, tokens))
    }
}

impl<'a> Row<'a> {
    fn answered(custom_id: &'a str, status_code: u16, body: Value) -> Self {
        Self {
            id: fresh("batch_req_"),
            custom_id,
            response: Some(RowResponse { status_code, request_id: fresh("req_"), body }),
            error: None,
        }
    }
}

/// A result file that is being written.
#[derive(Debug)]
struct Rows {
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
    fn new(contents: &Path) -> io::Result<Self> {
        let id = fresh("file-");
        let (file, path) = new_content(contents, &id)?;
        Ok(Self { id, path, writer: BufWriter::new(file), bytes: 0 })
    }

    fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.writer.write_all(&line)
    }

    fn close(mut self) -> io::Result<Option<Written>> {
        self.writer.flush()?;
        Ok((self.bytes > 0).then_some(Written { id: self.id, path: self.path, bytes: self.bytes }))
    }
}
