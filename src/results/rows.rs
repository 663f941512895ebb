//! The requests of a result set and what became of them, as rows for the template of another job.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde_json::value::RawValue;
use tokio_util::io::StreamReader;

use super::answer::{fields, write_answer};
use super::line::ProviderLine;
use super::set::{ResultContent, ResultSet, read_error};
use crate::api::ResultSelection;
use crate::store::{
    HEAVY, JOINED_LINES_BYTES, KeptLine, Lines, LoadedLine, READER_BYTES, SpooledLine, StoreError, layout,
};

/// Most bytes that the rows of a set hold: a reader of each of three files, and rows that wait to be read.
pub const ROWS_BYTES: usize = 3 * (READER_BYTES + JOINED_LINES_BYTES) + 3 * CHUNK;
/// Bytes of rows that are returned at a time. A longer row waits on local disk.
const CHUNK: usize = 64 << 10;

/// The columns of rows that are read. Rows have no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The user's own custom id.
    pub custom_id: bool,
    /// The text of the answer, or its vector or results; null for a request without an answer, and for an answer without
    /// text.
    pub answer: bool,
    /// The body of the request.
    pub request: bool,
    /// The body of the response; null if there is none.
    pub response: bool,
    /// The error, wherever the provider put it; null for a request with an answer.
    pub error: bool,
}

impl Columns {
    /// Names of all columns.
    pub const NAMES: [&'static str; 5] = ["custom_id", "answer", "request", "response", "error"];

    /// Adds the column of this name. Returns false if there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let column = match name {
            "custom_id" => &mut self.custom_id,
            "answer" => &mut self.answer,
            "request" => &mut self.request,
            "response" => &mut self.response,
            "error" => &mut self.error,
            _ => return false,
        };
        *column = true;
        true
    }
}

impl ResultSet {
    /// Returns the selected requests as rows, a JSON object a line, with these columns alone. They are in the order of the
    /// input; of a set without `requests.jsonl`, `All` has the requests with an answer first. Reading ends in an error as
    /// that of [`ResultSet::content`] does.
    ///
    /// # Errors
    /// Describes what the set lacks, and the remedy.
    pub fn rows(&self, select: ResultSelection, columns: Columns, spool: &Path) -> Result<ResultContent, String> {
        let has_requests = self.holds_all_requests();
        let (answered, unanswered) = (select != ResultSelection::Unsuccessful, select != ResultSelection::Succeeded);
        self.check(select, columns, has_requests)?;
        let ordered = has_requests
            && match select {
                ResultSelection::All => true,
                ResultSelection::Succeeded => columns.request,
                ResultSelection::Unsuccessful => false,
            };
        let by_id = ordered || unanswered && columns.request;
        let file = |name, wanted: bool| wanted.then(|| SetFile::new(self, name, by_id, spool));
        let rows = Rows {
            columns,
            ordered,
            results: file(layout::RESULTS, answered),
            errors: file(layout::ERRORS, unanswered),
            requests: match ordered {
                true => file(layout::REQUESTS, true),
                false => file(layout::UNSUCCESSFUL, unanswered && columns.request),
            },
            skips: select == ResultSelection::Succeeded,
            spool: spool.into(),
        };
        Ok(Box::new(StreamReader::new(rows.stream().boxed())))
    }

    fn check(&self, select: ResultSelection, columns: Columns, has_requests: bool) -> Result<(), String> {
        let (uri, requests) = (self.uri(), &self.manifest().requests);
        if select != ResultSelection::Succeeded {
            self.check_unsuccessful()?;
        }
        let lacks = |column: &str, why: &str| {
            Err(format!(
                "`spec.input.template` uses `$(row.{column})`, which no row of `select: {select:?}` has: {why}; take it out, or \
                 select others"
            ))
        };
        match select {
            ResultSelection::Unsuccessful if columns.answer => lacks("answer", "their requests have no answer"),
            ResultSelection::Succeeded if columns.error => lacks("error", "their requests have an answer"),
            ResultSelection::Succeeded | ResultSelection::All
                if columns.request && !has_requests && requests.succeeded > 0 =>
            {
                Err(format!(
                    "`spec.input.template` uses `$(row.request)`, and the result set {uri} holds no requests beside its answers; \
                     run the job that writes it with `spec.output.includeRequests: true`, or take `$(row.request)` out"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the set has a line for each request without an answer.
    ///
    /// # Errors
    /// Describes what the set lacks.
    pub fn check_unsuccessful(&self) -> Result<(), String> {
        let requests = &self.manifest().requests;
        let (uri, wanted) = (self.uri(), requests.total - requests.succeeded);
        for name in [layout::ERRORS, layout::UNSUCCESSFUL] {
            let listed = self.lines_of(name);
            if listed != wanted {
                return Err(format!(
                    "the result set {uri} has {wanted} requests without an answer, and {listed} lines of {name}: it was written \
                     when nothing was known of them, so they cannot be taken from it"
                ));
            }
        }
        Ok(())
    }

    fn holds_all_requests(&self) -> bool {
        let total = self.manifest().requests.total;
        total > 0 && self.lines_of(layout::REQUESTS) == total
    }
}

/// Rows that are being read.
struct Rows {
    columns: Columns,
    /// Whether `requests` has all requests, whose order is that of the rows.
    ordered: bool,
    results: Option<SetFile>,
    errors: Option<SetFile>,
    /// All requests, or those without an answer.
    requests: Option<SetFile>,
    /// Whether requests without an answer are left out.
    skips: bool,
    spool: PathBuf,
}

/// A row that was found.
struct Found {
    answered: bool,
    line: KeptLine,
    request: Option<KeptLine>,
}

/// A result file with its next line.
struct SetFile {
    uri: String,
    lines: Lines<ResultContent>,
    /// Whether custom ids are read.
    by_id: bool,
    next: Option<(String, KeptLine)>,
    is_open: bool,
}

impl SetFile {
    fn new(set: &ResultSet, name: &str, by_id: bool, spool: &Path) -> SetFile {
        let lines = set.lines(name, spool).holding(HEAVY);
        SetFile { uri: set.uri() + name, lines, by_id, next: None, is_open: false }
    }

    /// Returns the custom id of the next line, or an empty one if ids are not read; None at the end.
    async fn peek(&mut self) -> Result<Option<&str>, StoreError> {
        if !self.is_open {
            self.is_open = true;
            self.advance().await?;
        }
        Ok(self.next.as_ref().map(|(id, _)| id.as_str()))
    }

    async fn take(&mut self) -> Result<Option<(String, KeptLine)>, StoreError> {
        self.peek().await?;
        let taken = self.next.take();
        if taken.is_some() {
            self.advance().await?;
        }
        Ok(taken)
    }

    async fn advance(&mut self) -> Result<(), StoreError> {
        let line = self.lines.next_kept().await.map_err(read_error)?;
        let faulty = || misfit(&format!("{} holds a line that is none of a result set", self.uri));
        self.next = match line {
            None => None,
            Some(KeptLine::TooLong(_)) => return Err(faulty()),
            Some(line) => {
                let id = match (&line, self.by_id) {
                    (_, false) => Some(String::new()),
                    (KeptLine::Short(bytes), true) => id_of(bytes),
                    (KeptLine::Long(long), true) => id_of(&long.load().await.map_err(read_error)?),
                    (KeptLine::TooLong(_), true) => None,
                };
                Some((id.ok_or_else(faulty)?, line))
            }
        };
        Ok(())
    }
}

fn id_of(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<ProviderLine>(line).ok()?.custom_id
}

fn misfit(what: &str) -> StoreError {
    StoreError::Corrupt(format!("{what}; the result set was changed after it was written, so it is not used"))
}

impl Rows {
    async fn next(&mut self) -> Result<Option<Found>, StoreError> {
        if self.ordered { self.next_of_all().await } else { self.next_of_each().await }
    }

    /// Returns the next row in the order of the requests.
    async fn next_of_all(&mut self) -> Result<Option<Found>, StoreError> {
        let Some(requests) = &mut self.requests else { return Ok(None) };
        while let Some((id, request)) = requests.take().await? {
            for (answered, file) in [(true, &mut self.results), (false, &mut self.errors)] {
                let Some(file) = file else { continue };
                if file.peek().await? == Some(&id)
                    && let Some((_, line)) = file.take().await?
                {
                    let request = self.columns.request.then_some(request);
                    return Ok(Some(Found { answered, line, request }));
                }
            }
            if !self.skips {
                return Err(misfit(&format!("{} names a request that no other file of its set has", requests.uri)));
            }
        }
        for file in [&mut self.results, &mut self.errors].into_iter().flatten() {
            if file.peek().await?.is_some() {
                return Err(misfit(&format!("{} has a line of a request that requests.jsonl lacks", file.uri)));
            }
        }
        Ok(None)
    }

    /// Returns the next request with an answer, and after those the next without.
    async fn next_of_each(&mut self) -> Result<Option<Found>, StoreError> {
        if let Some(results) = &mut self.results
            && let Some((_, line)) = results.take().await?
        {
            return Ok(Some(Found { answered: true, line, request: None }));
        }
        let Some(errors) = &mut self.errors else { return Ok(None) };
        let error = errors.take().await?;
        let Some(requests) = &mut self.requests else {
            return Ok(error.map(|(_, line)| Found { answered: false, line, request: None }));
        };
        match (error, requests.take().await?) {
            (None, None) => Ok(None),
            (Some((id, line)), Some((same, request))) if id == same => {
                Ok(Some(Found { answered: false, line, request: Some(request) }))
            }
            _ => Err(misfit(&format!("{} and {} have lines of other requests", errors.uri, requests.uri))),
        }
    }

    fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
        let long: Option<(SpooledLine, usize)> = None;
        futures::stream::try_unfold((self, long), |(mut rows, long)| async move {
            if let Some((line, at)) = long {
                let mut chunk = BytesMut::zeroed(CHUNK);
                let read = line.read_at(at, &mut chunk)?;
                if read > 0 {
                    chunk.truncate(read);
                    return Ok(Some((chunk.freeze(), (rows, Some((line, at + read))))));
                }
            }
            let (mut chunk, mut long) = (BytesMut::with_capacity(CHUNK), None);
            while chunk.len() < CHUNK && long.is_none() {
                let Some(found) = rows.next().await.map_err(std::io::Error::other)? else { break };
                let row = RowText::of(found, rows.columns, rows.spool.clone()).await;
                match row.map_err(std::io::Error::other)?.text {
                    TextSoFar::Short(row) => chunk.extend_from_slice(&row),
                    TextSoFar::Long(row) => long = Some((row, 0)),
                }
            }
            if let (true, Some((row, _))) = (chunk.is_empty(), &long) {
                chunk.resize(CHUNK, 0);
                let read = row.read_at(0, &mut chunk)?;
                chunk.truncate(read);
                long = long.map(|(row, _)| (row, read));
            }
            Ok((!chunk.is_empty()).then(|| (chunk.freeze(), (rows, long))))
        })
    }
}

async fn loaded(line: KeptLine) -> Result<LoadedLine, StoreError> {
    let too_long = || misfit("a result file holds a line that is too long");
    line.load().await.map_err(read_error)?.ok_or_else(too_long)
}

/// Returns the error of a request without an answer: that of the line, or else that in the body of a response with a status of
/// failure, or that body.
fn error_of<'a>(of_line: Option<&'a RawValue>, body: Option<&'a RawValue>) -> Option<&'a RawValue> {
    let is_something = |error: &&RawValue| !["null", "{}", "\"\""].contains(&error.get());
    let of_body = || body.and_then(|body| fields(body, ["error"])?[0]).filter(is_something);
    of_line.filter(is_something).or_else(of_body).or(body)
}

fn write_raw(value: Option<&RawValue>, out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(value.map_or("null", RawValue::get).as_bytes())
}

/// A row that is being written. A long one goes to local disk, so that it takes no memory beside the line that it is made
/// of.
struct RowText {
    text: TextSoFar,
    spool: PathBuf,
}

enum TextSoFar {
    Short(Vec<u8>),
    Long(SpooledLine),
}

impl RowText {
    /// Writes a row. One long line is in memory at a time, and none during a wait for the store.
    async fn of(found: Found, columns: Columns, spool: PathBuf) -> Result<RowText, StoreError> {
        let mut row = RowText { text: TextSoFar::Short(b"{".to_vec()), spool };
        let line = loaded(found.line).await?;
        row.write_result(&line, found.answered, columns)?;
        drop(line);
        if let Some(request) = found.request {
            let line = loaded(request).await?;
            let body = serde_json::from_slice::<&RawValue>(&line).ok().and_then(|line| fields(line, ["body"])?[0]);
            row.column("request", |out| write_raw(body, out))?;
        }
        row.write_all(b"}\n").map_err(read_error)?;
        Ok(row)
    }

    fn write_result(&mut self, line: &LoadedLine, answered: bool, columns: Columns) -> Result<(), StoreError> {
        let faulty = |_| misfit("a result file holds a line that is none of a result set");
        let ProviderLine { custom_id, response, error, .. } = serde_json::from_slice(line).map_err(faulty)?;
        let body = response.and_then(|response| fields(response, ["body"])?[0]);
        if columns.custom_id {
            self.column("custom_id", |out| Ok(serde_json::to_writer(out, &custom_id.unwrap_or_default())?))?;
        }
        if columns.answer {
            self.column("answer", |out| match body.filter(|_| answered) {
                Some(body) => write_answer(body, out),
                None => write_raw(None, out),
            })?;
        }
        if columns.response {
            self.column("response", |out| write_raw(body, out))?;
        }
        if columns.error {
            self.column("error", |out| write_raw(if answered { None } else { error_of(error, body) }, out))?;
        }
        Ok(())
    }

    fn column(
        &mut self,
        name: &str,
        value: impl FnOnce(&mut RowText) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let is_first = matches!(&self.text, TextSoFar::Short(text) if text.len() == 1);
        let comma = if is_first { "" } else { "," };
        write!(self, "{comma}\"{name}\":").and_then(|()| value(self)).map_err(read_error)
    }
}

impl Write for RowText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.text {
            TextSoFar::Short(text) if text.len() + bytes.len() <= CHUNK => text.extend_from_slice(bytes),
            TextSoFar::Short(text) => {
                let mut long = SpooledLine::new(&self.spool)?;
                long.push(text)?;
                long.push(bytes)?;
                self.text = TextSoFar::Long(long);
            }
            TextSoFar::Long(long) => long.push(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
