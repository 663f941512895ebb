//! Rows of a table with fields separated by commas or another character, read in bounded memory.

mod layout;

pub use layout::{HEAD_BYTES, Layout, delimiter};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::variable::{Texts, Variable, shown};
use crate::store::{LONG, LoadedLine, SpooledLine};

/// Most fields of one row.
const FIELD_LIMIT: usize = 4096;
const CHUNK: usize = 64 << 10;
/// Bytes of buffer that are kept after a long row.
const KEPT: usize = 1 << 20;

/// A reader of rows. A row that is longer than the limit is reported and skipped, not held in memory.
pub struct RowReader<R> {
    reader: R,
    parser: Reader,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    ends_of_lines: LineEnds,
    delimiter: u8,
    /// Name of the encoding that the text had before it became UTF-8, for errors.
    encoding: &'static str,
    text: Vec<u8>,
    ends: Vec<usize>,
    limit: usize,
    /// Directory of long rows that wait for their turn to be held in memory.
    spool: PathBuf,
    /// The beginning of the current row, if it is a long one.
    long: Option<SpooledLine>,
    /// The long row that was returned last.
    held: Option<LoadedLine>,
}

/// One row.
pub struct Record<'a> {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Its fields, or a description of its fault.
    pub fields: Result<Fields<'a>, String>,
}

/// The fields of a row.
#[derive(Debug)]
pub struct Fields<'a> {
    text: &'a str,
    ends: &'a [usize],
    encoding: &'static str,
}

/// Counter of line ends, each of them LF, CR, or CR and LF.
#[derive(Default)]
struct LineEnds {
    count: u64,
    after_cr: bool,
}

impl LineEnds {
    fn see(&mut self, bytes: &[u8]) {
        for at in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            let after_cr = at.checked_sub(1).map_or(self.after_cr, |before| bytes[before] == b'\r');
            self.count += u64::from(bytes[at] == b'\r' || !after_cr);
        }
        self.after_cr = bytes.last().map_or(self.after_cr, |last| *last == b'\r');
    }
}

/// The names of the columns.
pub struct Header {
    names: Vec<String>,
    delimiter: u8,
}

/// The part of the current row that was parsed so far.
#[derive(Default)]
struct ParsedRow {
    text: usize,
    ends: usize,
    size: usize,
    quotes: Quotes,
    too_long: bool,
}

/// State of quotes after the last byte of a row. The parser accepts any row. A row that is not as RFC 4180 requires may
/// be several rows that an open quote joined.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Quotes {
    #[default]
    AtField,
    Plain,
    Quoted,
    /// After a quote that ends the field, unless another one follows.
    Closed,
    /// Text follows a quote that ended a field.
    Broken,
}

impl Quotes {
    fn after(self, bytes: &[u8], delimiter: u8) -> Quotes {
        bytes.iter().fold(self, |state, byte| match (state, byte) {
            (Quotes::Broken, _) => Quotes::Broken,
            (Quotes::AtField | Quotes::Closed, b'"') => Quotes::Quoted,
            (Quotes::Quoted, b'"') => Quotes::Closed,
            (Quotes::Quoted, _) => Quotes::Quoted,
            (_, b'\r' | b'\n') => Quotes::AtField,
            (_, byte) if *byte == delimiter => Quotes::AtField,
            (Quotes::Closed, _) => Quotes::Broken,
            (Quotes::AtField | Quotes::Plain, _) => Quotes::Plain,
        })
    }
}

impl<R: AsyncRead + Unpin> RowReader<R> {
    /// Reads rows of `reader` with at most `limit` bytes each and fields separated by `delimiter`.
    pub fn new(reader: R, limit: usize, delimiter: u8) -> Self {
        RowReader {
            reader,
            parser: ReaderBuilder::new().delimiter(delimiter).build(),
            buffer: Vec::with_capacity(CHUNK),
            at: 0,
            ended: false,
            ends_of_lines: LineEnds::default(),
            delimiter,
            encoding: "UTF-8",
            text: vec![0; CHUNK],
            ends: vec![0; 64],
            limit,
            spool: std::env::temp_dir(),
            long: None,
            held: None,
        }
    }

    /// Sets the original encoding of the text, for errors, and the line on which it begins, from 1.
    pub fn of(mut self, encoding: &'static str, line: u64) -> Self {
        self.encoding = encoding;
        self.ends_of_lines.count = line.saturating_sub(1);
        self
    }

    /// Puts long rows into files in `spool` until it is their turn.
    pub fn spooling(mut self, spool: &Path) -> Self {
        self.spool = spool.into();
        self
    }

    /// Returns the next row, or None at the end. Empty lines are not rows.
    ///
    /// # Errors
    /// Fails if the reader fails.
    pub async fn next(&mut self) -> std::io::Result<Option<Record<'_>>> {
        if self.text.len() > KEPT {
            // Returns the memory of a long row.
            self.text.truncate(KEPT);
            self.text.shrink_to_fit();
        }
        self.let_go();
        self.long = None;
        if !self.skip_empty_lines().await? {
            return Ok(None);
        }
        let line = self.ends_of_lines.count + 1;
        let mut taken = ParsedRow::default();
        loop {
            if self.at == self.buffer.len() {
                self.fill().await?;
            }
            let input = &self.buffer[self.at..];
            let at_end = input.is_empty();
            let (result, read, text, ends) =
                self.parser.read_record(input, &mut self.text[taken.text..], &mut self.ends[taken.ends..]);
            let bytes = &input[..read];
            self.ends_of_lines.see(bytes);
            taken.quotes = taken.quotes.after(bytes, self.delimiter);
            taken.size += read;
            self.at += read;
            taken.text += text;
            taken.ends += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.grow_text(&mut taken)?,
                ReadRecordResult::OutputEndsFull => self.grow_ends(&mut taken),
                ReadRecordResult::Record => {
                    if let Some(mut long) = self.long.take().filter(|_| !taken.too_long && taken.size <= self.limit) {
                        long.push(&self.text[..taken.text])?;
                        self.held = Some(long.load().await?);
                    }
                    return Ok(Some(Record { line, fields: self.fields(&taken, at_end) }));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn fields(&self, taken: &ParsedRow, at_end: bool) -> Result<Fields<'_>, String> {
        if taken.too_long || taken.size > self.limit {
            return Err(format!(
                "begins a row of {} bytes; {} bytes and {FIELD_LIMIT} fields are allowed (is a quote left open?)",
                taken.size, self.limit
            ));
        }
        if at_end && taken.quotes == Quotes::Quoted {
            return Err("begins a row with a quote that is never closed; is the file cut short?".into());
        }
        if taken.quotes == Quotes::Broken {
            let why =
                "begins a row in which text follows a quoted field; close each quote, and double those within (\"\")";
            return Err(why.into());
        }
        let text = self.held.as_deref().unwrap_or(&self.text[..taken.text]);
        let text = std::str::from_utf8(text);
        let text = text.map_err(|_| not_encoded_in(self.encoding))?;
        Ok(Fields { text, ends: &self.ends[..taken.ends], encoding: self.encoding })
    }

    /// Skips empty lines, so that a row's line is the one on which it begins. Returns false at the end.
    async fn skip_empty_lines(&mut self) -> std::io::Result<bool> {
        loop {
            let rest = &self.buffer[self.at..];
            let empty = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.ends_of_lines.see(&rest[..empty]);
            self.at += empty;
            if self.at < self.buffer.len() {
                return Ok(true);
            }
            if self.ended {
                return Ok(false);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        if !self.ended {
            self.buffer.clear();
            self.at = 0;
            self.buffer.reserve(CHUNK);
            self.ended = self.reader.read_buf(&mut self.buffer).await? == 0;
        }
        Ok(())
    }

    fn grow_text(&mut self, taken: &mut ParsedRow) -> std::io::Result<()> {
        let before = self.long.as_ref().map_or(0, SpooledLine::bytes);
        if taken.too_long || before + self.text.len() > self.limit {
            (taken.text, taken.too_long, self.long) = (0, true, None);
        } else if self.text.len() < LONG {
            self.text.resize((self.text.len() * 2).min(LONG), 0);
        } else {
            let long = match &mut self.long {
                Some(long) => long,
                None => self.long.insert(SpooledLine::new(&self.spool)?),
            };
            long.push(&self.text[..taken.text])?;
            taken.text = 0;
        }
        Ok(())
    }

    /// Drops the long row that was returned last, if any, and so ends its turn.
    pub fn let_go(&mut self) {
        self.held = None;
    }

    fn grow_ends(&mut self, taken: &mut ParsedRow) {
        if self.ends.len() < FIELD_LIMIT {
            self.ends.resize((self.ends.len() * 2).min(FIELD_LIMIT), 0);
        } else {
            (taken.ends, taken.too_long) = (0, true);
        }
    }
}

fn not_encoded_in(encoding: &str) -> String {
    format!(
        "begins a row that is not {encoding}; store it as {encoding}, or set `spec.input.csv.encoding`, such as Windows-1252"
    )
}

impl<'a> Fields<'a> {
    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether every field is empty, as Excel writes rows that were cleared.
    pub fn is_blank(&self) -> bool {
        self.text.is_empty()
    }

    fn iter(&self) -> Result<Vec<&'a str>, String> {
        let mut start = 0;
        let field = |end: &usize| {
            // A field that ends within a character is half of a broken one.
            let field = self.text.get(start..*end).ok_or_else(|| not_encoded_in(self.encoding));
            start = *end;
            field
        };
        self.ends.iter().map(field).collect()
    }
}

impl Header {
    /// Reads the first row as names of columns.
    ///
    /// # Errors
    /// Fails if two columns have the same name, or if the names are longer than [`HEAD_BYTES`] together: they are held for as
    /// long as the table is read.
    pub fn new(fields: &Fields<'_>, delimiter: u8) -> Result<Header, String> {
        let fields = fields.iter()?;
        let bytes: usize = fields.iter().map(|name| name.len()).sum();
        if bytes > HEAD_BYTES {
            let most = HEAD_BYTES >> 10;
            return Err(format!(
                "has {bytes} bytes of column names; at most {most} KiB are read; is the row of names missing?"
            ));
        }
        let names: Vec<String> = fields.into_iter().map(String::from).collect();
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !name.is_empty() && !seen.insert(name.as_str())) {
            Some(twice) => Err(format!("names the column {} twice; give each column its own name", shown(twice))),
            None => Ok(Header { names, delimiter }),
        }
    }

    /// Counts the variables that stand for a column.
    fn count(&self, variables: &[&Variable]) -> usize {
        variables.iter().filter(|variable| self.names.iter().any(|name| variable.names_column(name))).count()
    }

    /// Guesses why a header has none of the columns that a template uses.
    pub fn hint(&self, variables: &[&Variable]) -> Option<String> {
        if variables.is_empty() || self.count(variables) > 0 {
            return None;
        }
        let name = self.names.first()?;
        if name.contains('\0') {
            return Some("is the file UTF-16? set `spec.input.csv.encoding: UTF-16`".into());
        }
        let others = layout::COMMON.into_iter().filter(|other| *other != self.delimiter && self.names.len() == 1);
        let found = others.into_iter().find(|other| name.as_bytes().contains(other))?;
        Some(format!("are fields separated by {}? set `spec.input.csv.delimiter`", layout::called(found)))
    }

    /// Returns a row's values by the names of their columns.
    ///
    /// # Errors
    /// Fails if the row has more or fewer fields than the header.
    pub fn row(&self, fields: &Fields<'_>) -> Result<Texts, String> {
        let values = fields.iter()?;
        if values.len() != self.names.len() {
            return Err(format!(
                "begins a row of {} fields; the header has {}; put fields that hold {} or newlines in quotes",
                values.len(),
                self.names.len(),
                layout::called_many(self.delimiter)
            ));
        }
        let named = self.names.iter().zip(values).filter(|(name, _)| !name.is_empty());
        Ok(named.map(|(name, value)| (name.clone(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests;
