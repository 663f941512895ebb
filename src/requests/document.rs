//! The parts of a line or a body, as they are written.

use std::borrow::Cow;
use std::ops::Range;

use super::reader::{self, Fault, Field, Reader};

/// A JSON object as it is written. Each of its keys occurs once.
pub struct Object<'a> {
    /// The text that contains it.
    text: &'a str,
    /// Its range in that text, with its braces.
    whole: Range<usize>,
    /// Its fields, in the order of their keys.
    fields: Vec<Field<'a>>,
    /// Its spelling with the fields in the order in which they are written; empty unless asked for.
    spelled: String,
    /// Whether it is written in one line.
    is_one_line: bool,
}

impl<'a> Object<'a> {
    /// Reads `text` as an object.
    ///
    /// # Errors
    /// Fails if `text` is not an object.
    pub fn read(text: &'a str) -> Result<Object<'a>, Fault> {
        Object::of(text, false)
    }

    /// Reads `text` as an object, with the spelling that it is known by.
    ///
    /// # Errors
    /// Fails if `text` is not an object.
    pub fn read_and_spell(text: &'a str) -> Result<Object<'a>, Fault> {
        Object::of(text, true)
    }

    fn of(text: &'a str, spell: bool) -> Result<Object<'a>, Fault> {
        let mut reader = Reader::new(text);
        let object = match is_object(&mut reader)? {
            true => Object::next(&mut reader, text, 1, spell)?,
            false => {
                reader.whole(1)?;
                reader.end()?;
                return Err(Fault::NotAnObject);
            }
        };
        reader.end()?;
        Ok(object)
    }

    /// Reads the next value as an object.
    fn next(reader: &mut Reader<'a>, text: &'a str, depth: usize, spell: bool) -> Result<Object<'a>, Fault> {
        if spell {
            reader.spell();
        }
        let start = reader.here();
        let fields = reader.object(depth)?;
        let (spelled, is_one_line) = (reader.spelled(), reader.is_one_line());
        Ok(Object { text, whole: start..reader.at(), fields, spelled, is_one_line })
    }

    /// Returns the object as it is written.
    pub fn written(&self) -> &'a str {
        &self.text[self.whole.clone()]
    }

    /// Returns whether the object is written in one line.
    pub fn is_one_line(&self) -> bool {
        self.is_one_line
    }

    /// Returns the text that contains the object, and its range there.
    pub fn place(&self) -> (&'a str, Range<usize>) {
        (self.text, self.whole.clone())
    }

    /// Returns the fields in the order of their keys.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// Returns the index of the field with this key.
    pub fn find(&self, key: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.key.as_ref().cmp(key)).ok()
    }

    /// Returns the value of a field as it is written.
    pub fn value(&self, field: usize) -> &'a str {
        &self.text[self.fields[field].value.clone()]
    }

    /// Returns the value of a field in the spelling that it is known by.
    pub fn spelled(&self, field: usize) -> &str {
        &self.spelled[self.fields[field].spelled.clone()]
    }

    /// Returns the spelling that the object is known by.
    pub fn known_by(&self) -> String {
        let mut out = String::with_capacity(self.spelled.len() + 32 * self.fields.len());
        reader::spell_object(self.fields.iter().map(|f| (&f.key, &self.spelled[f.spelled.clone()])), &mut out);
        out
    }
}

/// A line that is a request.
pub struct Line<'a> {
    pub custom_id: Entry<'a>,
    pub method: Entry<'a>,
    pub url: Entry<'a>,
    pub body: Body<'a>,
}

/// The value of a key of a line.
pub enum Entry<'a> {
    /// No value, or null.
    Absent,
    Text(Cow<'a, str>),
    /// A value that is not a string.
    Other,
}

/// The value of a line's `body`.
pub enum Body<'a> {
    /// No value, or null.
    Absent,
    Object(Object<'a>),
    /// A value that is not an object.
    Other,
}

impl<'a> Line<'a> {
    /// Reads a line. Keys that a request does not have are ignored.
    ///
    /// # Errors
    /// Fails if the line is not an object, or has a key of a request twice.
    pub fn read(text: &'a str) -> Result<Line<'a>, Fault> {
        let mut reader = Reader::new(text);
        if !is_object(&mut reader)? {
            reader.whole(1)?;
            reader.end()?;
            return Err(Fault::NotAnObject);
        }
        let (mut custom_id, mut method, mut url, mut body) = (None, None, None, None);
        let once = |there: bool| if there { Err(Fault::Twice) } else { Ok(()) };
        reader.each_field(|reader, _, key| match key.as_ref() {
            "custom_id" => once(custom_id.replace(Entry::next(reader, text)?).is_some()),
            "method" => once(method.replace(Entry::next(reader, text)?).is_some()),
            "url" => once(url.replace(Entry::next(reader, text)?).is_some()),
            "body" => once(body.replace(Body::next(reader, text)?).is_some()),
            _ => reader.whole(1).map(|_| ()),
        })?;
        reader.end()?;
        let or = |entry: Option<Entry<'a>>| entry.unwrap_or(Entry::Absent);
        Ok(Line { custom_id: or(custom_id), method: or(method), url: or(url), body: body.unwrap_or(Body::Absent) })
    }
}

impl Entry<'_> {
    pub fn is_there(&self) -> bool {
        !matches!(self, Entry::Absent)
    }
}

impl<'a> Entry<'a> {
    fn next(reader: &mut Reader<'a>, text: &'a str) -> Result<Entry<'a>, Fault> {
        let value = &text[reader.whole(1)?];
        Ok(match reader::text(value) {
            Some(text) => Entry::Text(text),
            None if value == "null" => Entry::Absent,
            None => Entry::Other,
        })
    }
}

impl<'a> Body<'a> {
    fn next(reader: &mut Reader<'a>, text: &'a str) -> Result<Body<'a>, Fault> {
        Ok(match is_object(reader)? {
            true => Body::Object(Object::next(reader, text, 1, true)?),
            false if &text[reader.whole(1)?] == "null" => Body::Absent,
            false => Body::Other,
        })
    }
}

fn is_object(reader: &mut Reader<'_>) -> Result<bool, Fault> {
    Ok(reader.peek()? == b'{')
}

/// Returns JSON in one line. Line breaks within a string are always escaped, so each unescaped one stands between
/// values, where spaces mean nothing.
pub fn in_one_line(json: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
        return Cow::Borrowed(json);
    }
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if quoted || !matches!(c, ' ' | '\t' | '\n' | '\r') {
            out.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    Cow::Owned(out)
}
