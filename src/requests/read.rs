//! Reads one object or key after the other: uncompresses it, finds its lines or rows, and gives each to the pass.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use futures::StreamExt;
use tokio_util::io::{InspectReader, StreamReader};

use super::compression::{self, Content, Sizes, Unfit};
use super::csv::{Header, Records};
use super::objects;
use super::pass::{Origin, Pass};
use super::template::Template;
use super::whole::{SizeLimit, TooLarge};
use super::{Held, PassError};
use crate::api::text::hex;
use crate::api::{InputCompression, InputFormat};
use crate::store::{Entry, Folder, Line, Lines, Listed, StoreError};

/// Longest line or row that is read, in bytes.
const LINE_LIMIT: usize = 8 << 20;

/// How the pieces of an input are read.
pub struct Reading {
    pub format: InputFormat,
    pub compression: InputCompression,
    pub template: Option<Template>,
    /// For objects that are a request each.
    pub limit: SizeLimit,
    pub too_large: TooLarge,
    pub sizes: Sizes,
    /// Over the bytes as they are stored.
    hash: Context,
    bytes: u64,
}

impl Reading {
    pub fn new(
        format: InputFormat,
        compression: InputCompression,
        template: Option<Template>,
        limit: SizeLimit,
    ) -> Reading {
        let (sizes, too_large) = (Sizes::default(), TooLarge::default());
        Reading { format, compression, template, limit, too_large, sizes, hash: Context::new(&SHA256), bytes: 0 }
    }

    /// SHA-256 and number of the bytes that were read.
    pub fn finish(self) -> (String, u64) {
        (hex(self.hash.finish().as_ref()), self.bytes)
    }

    /// Bytes that are no line or row.
    pub fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Reads what a URI means: one object, or many, each as it was when it was listed.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when that is no longer there.
    pub async fn objects(&mut self, pass: &mut Pass<'_>, folder: &Folder, name: &str) -> Result<(), PassError> {
        if objects::is_many(&folder.uri_of(name)) {
            let objects = objects::named(folder, name).await?;
            return self.listed(pass, folder, objects).await;
        }
        let object = objects::one(folder, name).await?;
        self.listed(pass, folder, vec![object.clone()]).await?;
        // It may be long, and not every store gives a reader the end of what it began.
        match folder.stat(name).await? {
            Some(now) if now == object => Ok(()),
            _ => Err(StoreError::changed(&folder.uri_of(name)).into()),
        }
    }

    async fn listed(&mut self, pass: &mut Pass<'_>, folder: &Folder, objects: Vec<Listed>) -> Result<(), PassError> {
        if let (InputFormat::Objects, Some(template)) = (self.format, self.template.clone()) {
            return self.whole(pass, folder, objects, &template).await;
        }
        for object in objects {
            let uri = folder.uri_of(object.name());
            let entry = folder.get_listed(&object).await?.ok_or_else(|| StoreError::changed(&uri))?;
            self.piece(pass, &uri, object.name(), content(entry)).await?;
        }
        Ok(())
    }

    /// Reads what is at hand.
    pub async fn held(&mut self, pass: &mut Pass<'_>, held: Held) -> Result<(), PassError> {
        self.piece(pass, &held.name, &held.file, Box::new(std::io::Cursor::new(held.bytes))).await
    }

    async fn piece(
        &mut self,
        pass: &mut Pass<'_>,
        name: &str,
        file: &str,
        stored: Content<'_>,
    ) -> Result<(), PassError> {
        let sizes = self.sizes.next();
        let (hash, bytes, counted) = (&mut self.hash, &mut self.bytes, sizes.clone());
        let stored = InspectReader::new(stored, move |read: &[u8]| {
            hash.update(read);
            *bytes += read.len() as u64;
            counted.stored(read.len());
        });
        let origin = Origin { source: Arc::from(name), entry: "line" };
        let mut compression = self.compression;
        let read = async {
            let (content, found) = compression::open(Box::new(stored), compression, sizes).await?;
            compression = found;
            let content = compression::skip_bom(content).await?;
            match (self.format, &self.template) {
                (InputFormat::Csv, Some(template)) => rows(pass, &origin, template, content).await,
                (InputFormat::Auto, Some(template)) if is_csv(file) => rows(pass, &origin, template, content).await,
                (InputFormat::Auto, None) if is_csv(file) => Err(no_template(name)),
                (format, template) => lines(pass, &origin, format, template.as_ref(), content).await,
            }
        };
        let read = read.await;
        match read.map_err(|e| match e {
            ReadError::Io(e) => broken(name, compression, e),
            ReadError::Pass(e) => Broken::Stop(e),
        }) {
            Ok(()) => Ok(()),
            Err(Broken::Damaged(what)) => pass.take(&origin, None, Err(what)).await,
            Err(Broken::Stop(e)) => Err(e),
        }
    }
}

/// Why an object was not read to its end.
pub enum Broken {
    /// It is damaged, in these words; the next one can be read.
    Damaged(String),
    /// Nothing more can be read.
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

fn content(entry: Entry) -> Content<'static> {
    Box::new(StreamReader::new(entry.stream.map(|chunk| chunk.map_err(std::io::Error::other))))
}

async fn lines(
    pass: &mut Pass<'_>,
    origin: &Origin,
    format: InputFormat,
    template: Option<&Template>,
    content: Content<'_>,
) -> Result<(), ReadError> {
    let mut lines = Lines::new(content, LINE_LIMIT);
    let mut number = 0;
    while let Some(line) = lines.next().await? {
        number += 1;
        let checked = match (line, template) {
            (Line::Whole(line), _) if line.trim_ascii().is_empty() => continue,
            (Line::Whole(line), Some(template)) => pass.shape().row_line(line, template),
            (Line::Whole(line), None) => pass.shape().line(line, format),
            (Line::TooLong(size), _) => {
                Err(format!("has {size} bytes; {LINE_LIMIT} are allowed in a line; shorten it"))
            }
        };
        pass.take(origin, number, checked).await?;
    }
    Ok(())
}

async fn rows(
    pass: &mut Pass<'_>,
    origin: &Origin,
    template: &Template,
    content: Content<'_>,
) -> Result<(), ReadError> {
    let mut records = Records::new(content, LINE_LIMIT);
    let Some(first) = records.next().await? else { return Ok(()) };
    let header = match first.fields.and_then(|fields| Header::new(&fields)) {
        Ok(header) => header,
        Err(what) => {
            // Without names nothing below them can be judged.
            pass.take(origin, first.line, Err(what)).await?;
            return Ok(());
        }
    };
    while let Some(record) = records.next().await? {
        let row = record.fields.and_then(|fields| header.row(&fields));
        let checked = row.and_then(|row| pass.shape().row(&row, template));
        pass.take(origin, record.line, checked).await?;
    }
    Ok(())
}

fn is_csv(file: &str) -> bool {
    let file = file.to_ascii_lowercase();
    let file = [".gz", ".zst"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(&file);
    file.ends_with(".csv")
}

fn no_template(name: &str) -> ReadError {
    let message = format!(
        "{name} is CSV by its name, and nothing says how a row becomes a request; set `spec.input.template`, or \
         `spec.input.format` where it is something else"
    );
    ReadError::Pass(PassError::Invalid(message))
}

/// What storage says passes; what a decoder says does not.
pub fn broken(name: &str, compression: InputCompression, error: std::io::Error) -> Broken {
    let kind = error.kind();
    let error = match error.downcast::<StoreError>() {
        Ok(error) => return Broken::Stop(error.into()),
        Err(error) => error,
    };
    match error.downcast::<Unfit>() {
        Ok(Unfit::Object(what)) => return Broken::Damaged(what),
        Ok(Unfit::Input(what)) => return Broken::Stop(PassError::Invalid(format!("{name}: {what}"))),
        Err(_) => {}
    }
    let called = match compression {
        InputCompression::Gzip => "gzip",
        InputCompression::Zstd => "zstd",
        InputCompression::Auto | InputCompression::None => {
            return Broken::Stop(StoreError::Unavailable(format!("{name} cannot be read ({kind})")).into());
        }
    };
    let damage = match kind {
        std::io::ErrorKind::UnexpectedEof => "is cut short",
        _ => "is damaged, or something else",
    };
    Broken::Damaged(format!("as {called} it {damage}; put it there again, or correct `spec.input.compression`"))
}

#[cfg(test)]
mod tests {
    use super::is_csv;

    #[test]
    fn csv_is_known_by_its_name() {
        for name in ["a.csv", "s3://b/x/A.CSV", "a.csv.gz", "a.csv.zst"] {
            assert!(is_csv(name), "{name}");
        }
        for name in ["a.jsonl", "csv", "a.csv.bak", "a.gz"] {
            assert!(!is_csv(name), "{name}");
        }
    }
}
