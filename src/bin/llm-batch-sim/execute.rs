//! Executing a batch's lines, some at a time, into its two result files and the ledger.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::accounts::Account;
use crate::answers::{Refusal, Reply};
use crate::app::Shared;
use crate::bodies::Answer;
use crate::canonical;
use crate::endpoint::Endpoint;
use crate::faults::{Flaw, Shape};
use crate::ids::{fresh, now};
use crate::ledger::Charge;
use crate::prompt::Prompt;
use crate::rows::{Place, Row, Rows, Unexecuted, Written};
use crate::shuffle::shuffle;
use crate::store::Content;
use crate::validate::{Plan, Span};
use crate::vendor::Vendor;
use crate::wire::{RequestCounts, Tokens};

/// A batch that is to be run.
#[derive(Debug)]
pub struct Task {
    /// Who pays.
    pub account: Account,
    /// The batch.
    pub batch_id: String,
    /// Where its lines go; at Azure they say it themselves.
    pub endpoint: Endpoint,
    /// Whose API it came to.
    pub vendor: Vendor,
    /// Its input.
    pub file_id: String,
    /// The input's name.
    pub filename: String,
    /// The input's bytes.
    pub content: Content,
    /// What shall be wrong with it.
    pub flaw: Option<Flaw>,
}

/// Executes a batch's lines in their shuffled order. Blocks on the disk.
#[derive(Debug)]
pub struct Runner {
    app: Shared,
    task: Arc<Task>,
    model: String,
    endpoint: Endpoint,
    input: File,
    spans: Vec<Span>,
    next: usize,
    output: Rows,
    errors: Rows,
    counts: RequestCounts,
    tokens: Tokens,
    mischief: Mischief,
    doubles: Vec<Place>,
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

/// Rows that shall go wrong, and how many of each are still to come.
#[derive(Debug, Default)]
struct Mischief {
    fail: Option<(u64, Refusal)>,
    lose: u64,
    double: u64,
    foreign: u64,
    odd: Option<(u64, Shape)>,
}

impl Mischief {
    fn of(flaw: Option<&Flaw>) -> Self {
        match flaw {
            Some(Flaw::LoseRows { rows }) => Self { lose: *rows, ..Self::default() },
            Some(Flaw::DoubleRows { rows }) => Self { double: *rows, ..Self::default() },
            Some(Flaw::ForeignRows { rows }) => Self { foreign: *rows, ..Self::default() },
            Some(Flaw::OddRows { rows, shape }) => Self { odd: Some((*rows, *shape)), ..Self::default() },
            Some(Flaw::FailRows { rows, status, code }) => {
                Self { fail: Some((*rows, Refusal::ordered(*status, code.clone()))), ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    fn shape(&mut self) -> Option<Shape> {
        let (left, shape) = self.odd.as_mut()?;
        *left = left.checked_sub(1)?;
        Some(*shape)
    }

    fn refusal(&mut self) -> Option<Refusal> {
        let (left, refusal) = self.fail.as_mut()?;
        *left = left.checked_sub(1)?;
        Some(refusal.clone())
    }
}

/// Whether one more is to come; then it is counted as come.
fn take(left: &mut u64) -> bool {
    let some = *left > 0;
    *left -= u64::from(some);
    some
}

impl Runner {
    /// Gets ready; nothing is executed yet.
    pub fn new(app: Shared, task: Arc<Task>, plan: Plan) -> io::Result<Self> {
        let mut spans = plan.spans;
        shuffle(&mut spans, app.settings.seed);
        let contents = &app.settings.contents;
        let characters = match &task.flaw {
            Some(Flaw::LongFileId { characters }) => *characters,
            _ => 0,
        };
        Ok(Self {
            input: File::open(task.content.as_ref())?,
            output: Rows::new(contents, characters)?,
            errors: Rows::new(contents, 0)?,
            model: plan.model,
            endpoint: plan.endpoint,
            counts: RequestCounts { total: spans.len() as u64, ..RequestCounts::default() },
            tokens: Tokens::default(),
            spans,
            next: 0,
            mischief: Mischief::of(task.flaw.as_ref()),
            doubles: Vec::new(),
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
        let mut billed = Vec::new();
        let mut text = Vec::new();
        for _ in 0..lines {
            let Some(span) = self.read(&mut text)? else { break };
            let line: Line<'_> = serde_json::from_slice(&text)?;
            if let Some((request_sha256, tokens)) = self.execute(&line)? {
                billed.push(span.request);
                charges.push(Charge {
                    account: &task.account,
                    batch_id: &task.batch_id,
                    file_id: &task.file_id,
                    filename: &task.filename,
                    custom_id: line.custom_id,
                    request_sha256,
                    model: &model,
                    input_tokens: tokens.input,
                    cached_input_tokens: tokens.cached,
                    output_tokens: tokens.output,
                    reasoning_tokens: tokens.reasoning,
                    billed_at: now(),
                });
            }
        }
        // Held over both, so that no batch ends or starts between a charge and its being counted.
        let mut store = self.app.store();
        self.app.ledger.append(&charges)?;
        store.overlaps.bill(&task.batch_id, &billed);
        Ok(())
    }

    /// Gives up on all lines that are left: each becomes a row of the error file.
    pub fn abandon(&mut self, why: Unexecuted) -> io::Result<()> {
        let mut text = Vec::new();
        while self.read(&mut text)?.is_some() {
            let line: Line<'_> = serde_json::from_slice(&text)?;
            self.errors.write(&Row::left(&line.custom_id, why))?;
        }
        Ok(())
    }

    /// Closes the result files.
    pub fn finish(mut self) -> io::Result<Results> {
        while take(&mut self.mischief.foreign) {
            let prompt = Prompt { parts: vec![String::new()] };
            let answer = Answer {
                model: &self.model,
                prompt: &prompt,
                text: "nobody asked",
                created: now(),
                limit: None,
                appetite: self.app.settings.appetite,
            };
            let (body, _) = answer.body(self.endpoint, 0);
            self.output.write(&Row::answered(&fresh("foreign-"), 200, body))?;
        }
        self.output.repeat(&self.doubles)?;
        Ok(Results {
            output: self.output.close()?,
            errors: match self.task.vendor {
                Vendor::OpenAi => self.errors.close()?,
                // A batch without failures names a file of no bytes.
                Vendor::Azure => Some(self.errors.close_even_empty()?),
            },
            counts: self.counts,
            tokens: match self.task.flaw {
                Some(Flaw::TotalsDiffer { tokens }) => Tokens { input: self.tokens.input + tokens, ..self.tokens },
                _ => self.tokens,
            },
        })
    }

    /// The next line, if there is one.
    fn read(&mut self, text: &mut Vec<u8>) -> io::Result<Option<Span>> {
        let Some(span) = self.spans.get(self.next).copied() else {
            return Ok(None);
        };
        text.resize(span.length, 0);
        self.input.read_exact_at(text, span.offset)?;
        self.next += 1;
        Ok(Some(span))
    }

    /// Writes a line's row; the hash of its request and its tokens when it is to be billed. A request that is
    /// refused costs nothing, as at the vendor.
    fn execute(&mut self, line: &Line<'_>) -> io::Result<Option<(String, Tokens)>> {
        let answered = match self.mischief.refusal() {
            Some(refusal) => Err(refusal),
            None => self.answer(line.body),
        };
        match answered {
            Ok((body, request, tokens)) => {
                self.tokens += tokens;
                self.counts.completed += 1;
                if !take(&mut self.mischief.lose) {
                    let row = Row::answered(&line.custom_id, 200, body);
                    if let Some(shape) = self.mischief.shape() {
                        self.output.write_odd(row, shape)?;
                        return Ok(Some((canonical::sha256_hex(&request), tokens)));
                    }
                    let place = self.output.write(&row)?;
                    if take(&mut self.mischief.double) {
                        self.doubles.push(place);
                    }
                }
                Ok(Some((canonical::sha256_hex(&request), tokens)))
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
        let endpoint = self.endpoint;
        let request: Value = serde_json::from_str(raw.get()).map_err(|_| Refusal::unreadable())?;
        let prompt = Prompt::of(endpoint, &request).map_err(Refusal::missing)?;
        let text = match self.app.settings.answers.reply(&prompt) {
            Reply::Text(text) => text,
            Reply::Refusal(refusal) => return Err(refusal),
        };
        let spelled = canonical::to_vec(&request).map_err(|_| Refusal::unreadable())?;
        let limit = Prompt::limit(endpoint, &request);
        let appetite = self.app.settings.appetite;
        let answer = Answer { model: &self.model, prompt: &prompt, text: &text, created: now(), limit, appetite };
        let (body, tokens) = answer.body(endpoint, spelled.len());
        Ok((body, spelled, tokens))
    }
}
