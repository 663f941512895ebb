//! What a line or a body holds, as it is written.

use std::borrow::Cow;
use std::ops::Range;

use super::reader::{self, Fault, Field, Reader};

/// An object as it is written. Each of its keys stands there once.
pub struct Object<'a> {
    /// What it stands in.
    text: &'a str,
    /// Where it stands there, with its braces.
    whole: Range<usize>,
    /// In the order of their keys.
    fields: Vec<Field<'a>>,
    /// It, spelled with its fields in the order in which they are written, where that was asked for.
    spelled: String,
    /// Whether it is written in one line.
    is_one_line: bool,
}

impl<'a> Object<'a> {
    /// The object that `text` is.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn read(text: &'a str) -> Result<Object<'a>, Fault> {
        Object::of(text, false)
    }

    /// The same, with the spelling by which it is known.
    ///
    /// # Errors
    /// What keeps it from being one.
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

    /// The object that comes next.
    fn next(reader: &mut Reader<'a>, text: &'a str, depth: usize, spell: bool) -> Result<Object<'a>, Fault> {
        if spell {
            reader.spell();
        }
        let start = reader.here();
        let fields = reader.object(depth)?;
        let (spelled, is_one_line) = (reader.spelled(), reader.is_one_line());
        Ok(Object { text, whole: start..reader.at(), fields, spelled, is_one_line })
    }

    /// As it is written.
    pub fn written(&self) -> &'a str {
        &self.text[self.whole.clone()]
    }

    /// Whether it is written in one line.
    pub fn is_one_line(&self) -> bool {
        self.is_one_line
    }

    /// What it stands in, and where.
    pub fn place(&self) -> (&'a str, Range<usize>) {
        (self.text, self.whole.clone())
    }

    /// In the order of their keys.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// Which of the fields has this key.
    pub fn find(&self, key: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.key.as_ref().cmp(key)).ok()
    }

    /// A field's value as it is written.
    pub fn value(&self, field: usize) -> &'a str {
        &self.text[self.fields[field].value.clone()]
    }

    /// A field's value as it is known.
    pub fn spelled(&self, field: usize) -> &str {
        &self.spelled[self.fields[field].spelled.clone()]
    }

    /// The spelling by which it is known.
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

/// What stands under a key of a line.
pub enum Entry<'a> {
    /// Nothing, or null.
    Absent,
    Text(Cow<'a, str>),
    /// Anything else.
    Other,
}

/// What stands under a line's `body`.
pub enum Body<'a> {
    /// Nothing, or null.
    Absent,
    Object(Object<'a>),
    /// Anything else.
    Other,
}

impl<'a> Line<'a> {
    /// Reads a line. Keys that are not those of a request are let pass.
    ///
    /// # Errors
    /// What keeps it from being one.
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

/// JSON in one line. Within a string a line break is always escaped, so that those that are there stand between values, with
/// other spaces that mean nothing.
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
