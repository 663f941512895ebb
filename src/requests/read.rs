//! The reader of objects and keys, one after the other: uncompresses each, finds its lines or rows, and hands them to
//! the pass.

use std::sync::{Arc, Mutex, PoisonError};

use encoding_rs::Encoding;
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio_util::io::{InspectReader, StreamReader};

use super::compression::{self, Content, Sizes, UnpackError};
use super::csv::{self, Fields, HEAD_BYTES, Header, Layout, RowReader};
use super::encoding;
use super::object_requests::{SizeLimit, TooLarge};
use super::objects::{self, Selection};
use super::pass::Pass;
use super::source::{Origin, ResultLines};
use super::template::Template;
use super::version::InputVersion;
use super::{InMemoryPiece, PassError, PlanOptions};
use crate::api::{InputCompression, InputFormat, LeftOut};
use crate::store::{
    Folder, LINE_LIMIT, LONG, Line, Lines, ListedObject, LongLineTurn, ObjectStream, Sorted, StoreError, reserve,
};

/// The rules by which the pieces of an input are read, with counters of what was read.
pub struct InputReader {
    pub format: InputFormat,
    pub compression: InputCompression,
    pub template: Option<Template>,
    pub tables: Tables,
    /// Selection of the objects below a URI.
    pub selection: Selection,
    /// Size limit of objects that are a request each.
    pub limit: SizeLimit,
    pub too_large: TooLarge,
    pub sizes: Sizes,
    /// Objects and keys that were read.
    pub sources: i64,
    pub left_out: LeftOut,
    /// Whether the input is a part of a result set.
    pub selects: bool,
    version: InputVersion,
    bytes: u64,
}

/// The format of tables.
#[derive(Clone, Copy)]
pub struct Tables {
    /// The delimiter that the spec names; None to detect it.
    pub delimiter: Option<u8>,
    /// The encoding of a text without byte order mark.
    pub encoding: &'static Encoding,
}

impl InputReader {
    pub fn new(options: &PlanOptions) -> Result<InputReader, String> {
        Ok(InputReader {
            format: options.format,
            compression: options.compression,
            template: options.template()?,
            tables: Tables {
                delimiter: csv::delimiter(&options.csv.delimiter)?,
                encoding: encoding::named(&options.csv.encoding)?,
            },
            selection: options.selection,
            limit: options.size_limit,
            too_large: TooLarge::default(),
            sizes: Sizes::default(),
            sources: 0,
            left_out: LeftOut::default(),
            selects: false,
            version: InputVersion::default(),
            bytes: 0,
        })
    }

    /// Returns the version of the input, and its size in bytes.
    pub fn finish(self) -> (String, u64) {
        (self.version.finish(), self.bytes)
    }

    /// Counts bytes that have no version in a store.
    pub fn count(&mut self, bytes: &[u8]) {
        self.version.held(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Counts an object of which `bytes` bytes were read.
    pub fn count_object(&mut self, object: &ListedObject, bytes: usize) {
        self.version.object(object);
        self.bytes += bytes as u64;
    }

    /// Reads the objects that a URI means, one or many, each as it was when it was listed.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if an object is no longer the one that was listed.
    pub async fn objects(&mut self, pass: &mut Pass<'_>, folder: &Folder, name: &str) -> Result<(), PassError> {
        if objects::is_many(&folder.uri_of(name)) {
            let (objects, left_out) = objects::named(folder, name, self.selection, pass.spool()).await?;
            self.left_out = left_out;
            return self.listed(pass, folder, objects).await;
        }
        let Some(object) = objects::one(folder, name, pass.if_empty()).await? else { return Ok(()) };
        self.listed(pass, folder, Sorted::one(object.clone())).await?;
        // The reading may take long, and not every store goes on with the version whose reading began.
        match folder.stat(name).await? {
            Some(now) if now == object => Ok(()),
            _ => Err(StoreError::changed(&folder.uri_of(name)).into()),
        }
    }

    async fn listed(
        &mut self,
        pass: &mut Pass<'_>,
        folder: &Folder,
        objects: Sorted<ListedObject>,
    ) -> Result<(), PassError> {
        if let (InputFormat::Objects, Some(template)) = (self.format, self.template.clone()) {
            return self.whole(pass, folder, objects, &template).await;
        }
        for object in objects {
            let object = object?;
            let uri = folder.uri_of(object.name());
            let entry = folder.get_listed(&object).await?.ok_or_else(|| StoreError::changed(&uri))?;
            self.count_object(&object, 0);
            self.piece(pass, &uri, object.name(), content(entry)).await?;
        }
        Ok(())
    }

    /// Reads a piece that is in memory.
    pub async fn held(&mut self, pass: &mut Pass<'_>, held: InMemoryPiece) -> Result<(), PassError> {
        self.version.held(&held.bytes);
        let _held = reserve(held.bytes.len()).await;
        self.piece(pass, &held.name, &held.file, Box::new(std::io::Cursor::new(held.bytes))).await
    }

    /// Reads lines of a result set. Without a template they are requests.
    pub async fn results(&mut self, pass: &mut Pass<'_>, lines_of: ResultLines) -> Result<(), PassError> {
        let ResultLines { name, entry, version, content } = lines_of;
        self.version.held(version.as_bytes());
        self.sources += 1;
        self.selects = true;
        let bytes = &mut self.bytes;
        let content = InspectReader::new(content, move |read: &[u8]| *bytes += read.len() as u64);
        let origin = Origin { source: name.into(), entry };
        let bounded = compression::open(Box::new(content), InputCompression::None, self.sizes.next(), usize::MAX);
        let read = async {
            let (content, _) = bounded.await?;
            lines(pass, &origin, self.format, self.template.as_ref(), content).await
        };
        match read.await {
            Ok(()) => Ok(()),
            Err(ReadError::Pass(e)) => Err(e),
            Err(ReadError::Io(e)) => match broken(&origin.source, InputCompression::None, e) {
                // A set that was changed does not become whole again by itself.
                ObjectError::Stop(PassError::Store(StoreError::Corrupt(what))) => Err(PassError::Invalid(what)),
                ObjectError::Stop(e) => Err(e),
                ObjectError::Damaged(what) => Err(PassError::Invalid(format!("{} {what}", origin.source))),
            },
        }
    }

    async fn piece(
        &mut self,
        pass: &mut Pass<'_>,
        name: &str,
        file: &str,
        stored: Content<'_>,
    ) -> Result<(), PassError> {
        let sizes = self.sizes.next();
        self.sources += 1;
        let (bytes, counted) = (&mut self.bytes, sizes.clone());
        let stored = InspectReader::new(stored, move |read: &[u8]| {
            *bytes += read.len() as u64;
            counted.stored(read.len());
        });
        let origin = Origin { source: Arc::from(name), entry: "line" };
        let mut compression = self.compression;
        let read = async {
            let (content, found) = compression::open(Box::new(stored), compression, sizes, usize::MAX).await?;
            compression = found;
            let content = lines_or_rows(content).await?;
            let (is_table, content) = match self.format {
                InputFormat::Auto => is_table(file, content).await?,
                format => (format == InputFormat::Csv, content),
            };
            match &self.template {
                Some(template) if is_table => rows(pass, &origin, template, self.tables, content).await,
                None if is_table => Err(no_template(name)),
                template => {
                    let content = compression::skip_bom(content).await?;
                    lines(pass, &origin, self.format, template.as_ref(), content).await.map(|()| 0)
                }
            }
        };
        let read = read.await;
        match read.map_err(|e| match e {
            ReadError::Io(e) => broken(name, compression, e),
            ReadError::Pass(e) => ObjectError::Stop(e),
        }) {
            Ok(empty_rows) => {
                self.left_out.empty_rows += empty_rows;
                Ok(())
            }
            Err(ObjectError::Damaged(what)) => pass.take(&origin, None, Err(what)).await,
            Err(ObjectError::Stop(e)) => Err(e),
        }
    }
}

/// The reason why an object was not read to its end.
pub enum ObjectError {
    /// The object is damaged, as described. The next one can be read.
    Damaged(String),
    /// The input cannot be read any further.
    Stop(PassError),
}

enum ReadError {
    Io(std::io::Error),
    Pass(PassError),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        ReadError::Io(error)
    }
}

impl From<PassError> for ReadError {
    fn from(error: PassError) -> Self {
        ReadError::Pass(error)
    }
}

/// Most bytes that a reader of rows holds: a read buffer, and the text of a row, which is copied when it grows.
pub const ROW_BYTES: usize = 2 * LONG;

/// Bytes from which a check is heavy. A check takes several times the length of its line: fields are held apart, and
/// the request is spelled.
const HEAVY: usize = 256 << 10;

/// Runs the check of `bytes` bytes. Heavy checks run one at a time, over all inputs. A check never waits for I/O, so a
/// turn is short.
pub(super) fn one_at_a_time<T>(bytes: usize, check: impl FnOnce() -> T) -> T {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = (bytes > HEAVY).then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner));
    check()
}

fn content(entry: ObjectStream) -> Content<'static> {
    Box::new(StreamReader::new(entry.stream.map(|chunk| chunk.map_err(std::io::Error::other))))
}

async fn lines(
    pass: &mut Pass<'_>,
    origin: &Origin,
    format: InputFormat,
    template: Option<&Template>,
    content: Content<'_>,
) -> Result<(), ReadError> {
    let mut lines = Lines::new(content, LINE_LIMIT).spooling(pass.spool());
    let mut number = 0;
    while let Some(line) = lines.next().await? {
        number += 1;
        let mut turn = LongLineTurn::default();
        let line = match line {
            // Files with a byte order mark each may have been joined.
            Line::Whole(line) => Line::Whole(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)),
            too_long => too_long,
        };
        let checked = match (line, template) {
            (Line::Whole(line), _) if line.trim_ascii().is_empty() => continue,
            (Line::Whole(line), Some(template)) => {
                let most = template.most(line.len());
                turn.take_beside(line.len(), most).await;
                one_at_a_time(most.max(line.len()), || pass.shape().row_line(line, template))
            }
            (Line::Whole(line), None) => one_at_a_time(line.len(), || pass.shape().line(line, format)),
            (Line::TooLong(size), _) => {
                Err(format!("has {size} bytes; {LINE_LIMIT} are allowed in a line; shorten it"))
            }
        };
        pass.take(origin, number, checked).await?;
        if pass.is_to_put() {
            // Nothing long is held in memory during a wait for the store.
            drop(turn);
            lines.let_go();
            pass.put().await?;
        }
    }
    Ok(())
}

/// Reads a table. Returns the number of its empty rows.
async fn rows(
    pass: &mut Pass<'_>,
    origin: &Origin,
    template: &Template,
    tables: Tables,
    content: Content<'_>,
) -> Result<i64, ReadError> {
    let (content, encoding) = encoding::decoded(content, tables.encoding).await?;
    let variables = template.variables();
    let (head, mut content) = compression::peek(content, HEAD_BYTES).await?;
    let layout = Layout::of(&head, tables.delimiter, &variables).await;
    content.read_exact(&mut vec![0; layout.preamble]).await?;
    let begins = if layout.preamble > 0 { 2 } else { 1 };
    let records = RowReader::new(content, LINE_LIMIT, layout.delimiter).of(encoding.name(), begins);
    let mut records = records.spooling(pass.spool());
    let _held = reserve(ROW_BYTES).await;
    let (mut header, mut empty) = (None::<(Header, Option<String>)>, 0);
    while let Some(record) = records.next().await? {
        let (line, fields) = (record.line, record.fields);
        let is_blank = fields.as_ref().is_ok_and(Fields::is_blank);
        // For a template without columns, a blank first row is a header.
        if is_blank && (header.is_some() || !variables.is_empty()) {
            empty += 1;
            continue;
        }
        let Some((header, hint)) = &header else {
            match fields.and_then(|fields| Header::new(&fields, layout.delimiter)) {
                Ok(found) => header = Some((found.hint(&variables), found)).map(|(hint, found)| (found, hint)),
                Err(what) => {
                    // Without names of columns, no row can be judged.
                    pass.take(origin, line, Err(what)).await?;
                    return Ok(empty);
                }
            }
            continue;
        };
        let (mut turn, bytes) = (LongLineTurn::default(), fields.as_ref().map_or(0, Fields::bytes));
        let most = template.most(bytes);
        turn.take_beside(bytes, most).await;
        let checked = one_at_a_time(most.max(bytes), || {
            let row = fields.and_then(|fields| header.row(&fields));
            row.and_then(|row| pass.shape().row(&row, template))
        });
        let checked = checked.map_err(|what| match hint {
            Some(hint) => format!("{what}; {hint}"),
            None => what,
        });
        pass.take(origin, line, checked).await?;
        if pass.is_to_put() {
            drop(turn);
            records.let_go();
            pass.put().await?;
        }
    }
    Ok(empty)
}

/// Returns `content`, unless it is known to be an archive.
async fn lines_or_rows(content: Content<'_>) -> Result<Content<'_>, ReadError> {
    match compression::archive(content).await? {
        (None, content) => Ok(content),
        (Some(what), _) => Err(std::io::Error::other(UnpackError::Object(format!(
            "is {what}, which is not read; put its content there as text, as it is or compressed with gzip or zstd"
        )))
        .into()),
    }
}

/// Whether the name `file` is that of a table; returns the content as well.
async fn is_table<'a>(file: &str, content: Content<'a>) -> Result<(bool, Content<'a>), ReadError> {
    if !ends_with(file, ".tsv") {
        return Ok((ends_with(file, ".csv"), content));
    }
    // Lines of JSON are read as lines, whatever the file's extension.
    let (head, content) = compression::peek(content, 64).await?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
    Ok((!head.starts_with(b"{"), content))
}

fn ends_with(file: &str, end: &str) -> bool {
    let file = file.to_ascii_lowercase();
    let file = [".gz", ".zst"].iter().find_map(|packed| file.strip_suffix(packed)).unwrap_or(&file);
    file.ends_with(end)
}

fn no_template(name: &str) -> ReadError {
    let message = format!(
        "{name} is a table by its name, and nothing says how a row becomes a request; set `spec.input.template`, or \
         `spec.input.format` where it is something else"
    );
    ReadError::Pass(PassError::Invalid(message))
}

/// Sorts out an error: one of the store ends the pass, one of a decoder only the object.
pub fn broken(name: &str, compression: InputCompression, error: std::io::Error) -> ObjectError {
    let kind = error.kind();
    let error = match error.downcast::<StoreError>() {
        Ok(error) => return ObjectError::Stop(error.into()),
        Err(error) => error,
    };
    match error.downcast::<UnpackError>() {
        Ok(UnpackError::Object(what)) => return ObjectError::Damaged(what),
        Ok(UnpackError::Input(what)) => return ObjectError::Stop(PassError::Invalid(format!("{name}: {what}"))),
        Err(_) => {}
    }
    let called = match compression {
        InputCompression::Gzip => "gzip",
        InputCompression::Zstd => "zstd",
        InputCompression::Auto | InputCompression::None => {
            return ObjectError::Stop(StoreError::Unavailable(format!("{name} cannot be read ({kind})"), None).into());
        }
    };
    let damage = match kind {
        std::io::ErrorKind::UnexpectedEof => "is cut short",
        _ => "is damaged, or something else",
    };
    ObjectError::Damaged(format!("as {called} it {damage}; put it there again, or correct `spec.input.compression`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tables_are_known_by_their_names() {
        let is_table = async |name: &str, content: &'static str| {
            let Ok((is_table, _)) = is_table(name, Box::new(content.as_bytes())).await else { panic!("{name}") };
            is_table
        };
        for name in ["a.csv", "s3://b/x/A.CSV", "a.csv.gz", "a.csv.zst", "a.tsv", "A.TSV.gz"] {
            assert!(is_table(name, "id\ttext").await, "{name}");
        }
        for name in ["a.jsonl", "csv", "a.csv.bak", "a.gz", "tsv"] {
            assert!(!is_table(name, "id,text").await, "{name}");
        }
        assert!(is_table("a.csv", "{").await, "as ever");
        assert!(!is_table("a.tsv", "\u{feff} {\"id\": 1}").await, "as ever");
    }
}
