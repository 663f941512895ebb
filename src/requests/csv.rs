//! Rows of comma-separated values, in bounded memory.

use csv_core::{ReadRecordResult, Reader};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::variable::{Texts, shown};

/// Fields of one row.
const FIELD_LIMIT: usize = 4096;
const CHUNK: usize = 64 << 10;

const NOT_UTF8: &str = "begins a row that is not UTF-8; store it as UTF-8";

/// Reads row by row. A row that is longer than the limit is skipped and reported, not held.
pub struct Records<R> {
    reader: R,
    parser: Reader,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    /// Newlines so far.
    newlines: u64,
    text: Vec<u8>,
    ends: Vec<usize>,
    limit: usize,
}

/// One row.
pub struct Record<'a> {
    /// Where it begins, from 1.
    pub line: u64,
    /// Its fields, or what is wrong with it.
    pub fields: Result<Fields<'a>, String>,
}

/// The fields of a row.
#[derive(Debug)]
pub struct Fields<'a> {
    text: &'a str,
    ends: &'a [usize],
}

/// The names of the columns.
pub struct Header(Vec<String>);

/// What was taken in of a row so far.
#[derive(Default)]
struct Taken {
    text: usize,
    ends: usize,
    size: usize,
    quotes: Quotes,
    too_long: bool,
}

/// Where in a row the last byte was. The parser takes any row; one that is not as RFC 4180 has it may be several, of which a
/// quote that was left open made one.
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
    fn after(self, bytes: &[u8]) -> Quotes {
        bytes.iter().fold(self, |state, byte| match (state, byte) {
            (Quotes::Broken, _) => Quotes::Broken,
            (Quotes::AtField | Quotes::Closed, b'"') => Quotes::Quoted,
            (Quotes::Quoted, b'"') => Quotes::Closed,
            (Quotes::Quoted, _) => Quotes::Quoted,
            (_, b',' | b'\r' | b'\n') => Quotes::AtField,
            (Quotes::Closed, _) => Quotes::Broken,
            (Quotes::AtField | Quotes::Plain, _) => Quotes::Plain,
        })
    }
}

impl<R: AsyncRead + Unpin> Records<R> {
    /// Rows of `reader`, each at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Records {
            reader,
            parser: Reader::new(),
            buffer: Vec::with_capacity(CHUNK),
            at: 0,
            ended: false,
            newlines: 0,
            text: vec![0; CHUNK],
            ends: vec![0; 64],
            limit,
        }
    }

    /// The next row; None at the end. Empty lines are no rows.
    ///
    /// # Errors
    /// What the reader says.
    pub async fn next(&mut self) -> std::io::Result<Option<Record<'_>>> {
        if !self.skip_empty_lines().await? {
            return Ok(None);
        }
        let line = self.newlines + 1;
        let mut taken = Taken::default();
        loop {
            if self.at == self.buffer.len() {
                self.fill().await?;
            }
            let input = &self.buffer[self.at..];
            let at_end = input.is_empty();
            let (result, read, text, ends) =
                self.parser.read_record(input, &mut self.text[taken.text..], &mut self.ends[taken.ends..]);
            let bytes = &input[..read];
            self.newlines += memchr::memchr_iter(b'\n', bytes).count() as u64;
            taken.quotes = taken.quotes.after(bytes);
            taken.size += read;
            self.at += read;
            taken.text += text;
            taken.ends += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.grow_text(&mut taken),
                ReadRecordResult::OutputEndsFull => self.grow_ends(&mut taken),
                ReadRecordResult::Record => {
                    return Ok(Some(Record { line, fields: self.fields(&taken, at_end) }));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn fields(&self, taken: &Taken, at_end: bool) -> Result<Fields<'_>, String> {
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
        let text = std::str::from_utf8(&self.text[..taken.text]);
        let text = text.map_err(|_| NOT_UTF8.to_string())?;
        Ok(Fields { text, ends: &self.ends[..taken.ends] })
    }

    /// Lines are counted from where a row begins; false at the end.
    async fn skip_empty_lines(&mut self) -> std::io::Result<bool> {
        loop {
            let rest = &self.buffer[self.at..];
            let empty = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.newlines += memchr::memchr_iter(b'\n', &rest[..empty]).count() as u64;
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

    fn grow_text(&mut self, taken: &mut Taken) {
        if self.text.len() < self.limit {
            self.text.resize((self.text.len() * 2).min(self.limit), 0);
        } else {
            (taken.text, taken.too_long) = (0, true);
        }
    }

    fn grow_ends(&mut self, taken: &mut Taken) {
        if self.ends.len() < FIELD_LIMIT {
            self.ends.resize((self.ends.len() * 2).min(FIELD_LIMIT), 0);
        } else {
            (taken.ends, taken.too_long) = (0, true);
        }
    }
}

impl<'a> Fields<'a> {
    fn iter(&self) -> Result<Vec<&'a str>, String> {
        let mut start = 0;
        let field = |end: &usize| {
            // A field that ends within a character is one of two broken ones.
            let field = self.text.get(start..*end).ok_or(NOT_UTF8.to_string());
            start = *end;
            field
        };
        self.ends.iter().map(field).collect()
    }
}

impl Header {
    /// The first row as names.
    ///
    /// # Errors
    /// When a name stands there twice.
    pub fn new(fields: &Fields<'_>) -> Result<Header, String> {
        let names: Vec<String> = fields.iter()?.into_iter().map(String::from).collect();
        let mut seen = std::collections::BTreeSet::new();
        match names.iter().find(|name| !name.is_empty() && !seen.insert(name.as_str())) {
            Some(twice) => Err(format!("names the column {} twice; give each column its own name", shown(twice))),
            None => Ok(Header(names)),
        }
    }

    /// A row by the names of its columns.
    ///
    /// # Errors
    /// When it has more or fewer fields than there are names.
    pub fn row(&self, fields: &Fields<'_>) -> Result<Texts, String> {
        let values = fields.iter()?;
        if values.len() != self.0.len() {
            return Err(format!(
                "begins a row of {} fields; the header has {}; put fields that hold commas or newlines in quotes",
                values.len(),
                self.0.len()
            ));
        }
        let named = self.0.iter().zip(values).filter(|(name, _)| !name.is_empty());
        Ok(named.map(|(name, value)| (name.clone(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rows(text: &[u8], limit: usize) -> Vec<(u64, Result<Vec<String>, String>)> {
        let mut records = Records::new(text, limit);
        let mut out = vec![];
        while let Some(record) = records.next().await.unwrap() {
            let fields = record.fields.and_then(|f| f.iter());
            out.push((record.line, fields.map(|f| f.into_iter().map(String::from).collect())));
        }
        out
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Result<Vec<String>, String>) {
        (line, Ok(fields.iter().map(|f| f.to_string()).collect()))
    }

    #[tokio::test]
    async fn rows_are_read_as_people_write_them() {
        let text = b"id,text\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n\r\n2,\n\n3,\"\"";
        let wanted = [row(1, &["id", "text"]), row(2, &["1", "a, \"b\"\r\nc"]), row(5, &["2", ""]), row(7, &["3", ""])];
        assert_eq!(rows(text, 100).await, wanted);
        assert_eq!(rows(b"", 100).await, []);
        assert_eq!(rows(b"\r\n\n", 100).await, []);
        assert_eq!(rows("ä,ö\n".as_bytes(), 100).await, [row(1, &["ä", "ö"])]);
    }

    #[tokio::test]
    async fn rows_that_cross_buffers_are_whole() {
        let long = "y".repeat(150_000);
        let text = format!("a,{long}\n\"{long}\n\",b\n");
        let with_newline = format!("{long}\n");
        assert_eq!(rows(text.as_bytes(), 200_000).await, [row(1, &["a", &long]), row(2, &[&with_newline, "b"])]);
    }

    #[tokio::test]
    async fn faulty_rows_are_reported_and_the_next_is_read() {
        let text = format!("{}\nnext,row\n", "x".repeat(300_000));
        let read = rows(text.as_bytes(), 1000).await;
        assert!(read[0].1.as_ref().unwrap_err().contains("300001 bytes"), "{:?}", read[0]);
        assert_eq!(read[1..], [row(2, &["next", "row"])]);
        let text = format!("{}\nnext\n", ",".repeat(5000));
        let read = rows(text.as_bytes(), 1 << 20).await;
        assert!(read[0].1.as_ref().unwrap_err().contains("4096 fields"), "{:?}", read[0]);
        assert_eq!(read[1..], [row(2, &["next"])]);
        let read = rows(b"a\n\xff\xfe\nb\n", 100).await;
        assert!(read[1].1.as_ref().unwrap_err().contains("UTF-8"));
        assert_eq!(read[2], row(3, &["b"]));
        assert!(rows(b"a\n1,\"open\n", 100).await[1].1.as_ref().unwrap_err().contains("never closed"));
        let swallowed = rows(b"id,text\n1,\"open\n2,b\n3,\"good\"\n4,d\n", 100).await;
        assert!(swallowed[1].1.as_ref().unwrap_err().contains("text follows a quoted field"), "{swallowed:?}");
        let loose = rows(b"a,b\n1,5\" pipe\n2,\"\"\"\",x\n3,6\"", 100).await;
        assert_eq!(loose[1..], [row(2, &["1", "5\" pipe"]), row(3, &["2", "\"", "x"]), row(4, &["3", "6\""])]);
        assert_eq!(rows(b"5\" pipe,x\n", 100).await, [row(1, &["5\" pipe", "x"])], "no quote at all");
    }

    #[tokio::test]
    async fn headers_name_columns_and_ragged_rows_are_refused() {
        let mut records = Records::new(&b"id,text,\n1,x,\n2\n"[..], 100);
        let first = records.next().await.unwrap().unwrap().fields.unwrap();
        let header = Header::new(&first).unwrap();
        let row = header.row(&records.next().await.unwrap().unwrap().fields.unwrap()).unwrap();
        assert_eq!(serde_json::json!(row), serde_json::json!({"id": "1", "text": "x"}));
        let ragged = header.row(&records.next().await.unwrap().unwrap().fields.unwrap()).unwrap_err();
        assert!(ragged.starts_with("begins a row of 1 fields; the header has 3; "), "{ragged}");
        let mut records = Records::new(&b"id,id\n"[..], 100);
        let twice = Header::new(&records.next().await.unwrap().unwrap().fields.unwrap()).err().unwrap();
        assert!(twice.contains("`id` twice"), "{twice}");
    }
}
