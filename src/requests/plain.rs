//! Lines as most are, read in one go: what is unusual about a line is left to `check`, which also knows the words for it.
//!
//! A body has one spelling, by which it is sent and known: without spaces, each object's keys in the order of their bytes,
//! scalars as `serde_json` writes them. Strings mostly are written like that already, and are copied as they stand.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use serde_json::Value;

/// Deeper ones are unusual.
const DEPTH_LIMIT: usize = 64;
/// Digits of an integer that is sure to be in the range of those that keep their digits.
const DIGITS: usize = 18;

/// A line of OpenAI's batch format, of which nothing is unusual.
pub struct PlainLine<'a> {
    pub custom_id: Cow<'a, str>,
    /// Whether it has `method` and `url`.
    pub addressed: bool,
    pub body: PlainBody<'a>,
}

/// The fields of a body.
pub struct PlainBody<'a> {
    /// In the order of their keys, each once.
    fields: Vec<Field<'a>>,
    /// Their values, spelled.
    values: String,
}

struct Field<'a> {
    key: &'a str,
    value: Range<usize>,
}

/// Reads a line; None where something about it is unusual, or wrong.
pub fn read<'a>(line: &'a str, path: &str) -> Option<PlainLine<'a>> {
    let mut reader = Reader { text: line, at: 0, out: String::with_capacity(line.len()) };
    let (mut custom_id, mut method, mut url, mut body) = (None, None, None, None);
    reader.each_field(|reader, key| {
        match key {
            "custom_id" if custom_id.is_none() => custom_id = Some(reader.string()?),
            "method" if method.is_none() => method = Some(reader.string()?),
            "url" if url.is_none() => url = Some(reader.string()?),
            "body" if body.is_none() => body = Some(reader.fields(0)?),
            _ => return None,
        }
        Some(())
    })?;
    reader.skip_spaces();
    let addressed = match (method, url) {
        (None, None) => false,
        (Some(method), Some(url)) => (method.inner() == "POST" && url.inner() == path).then_some(true)?,
        _ => return None,
    };
    if reader.at != line.len() {
        return None;
    }
    let body = PlainBody { fields: body?, values: reader.out };
    Some(PlainLine { custom_id: custom_id?.text()?, addressed, body })
}

impl<'a> PlainBody<'a> {
    /// A field as it is spelled.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.fields.binary_search_by_key(&key, |field| field.key).ok()?;
        self.values.get(self.fields[at].value.clone())
    }

    /// Adds a field unless it is there; None where its key is an unusual one.
    pub fn add_missing(&mut self, key: &'a str, value: impl FnOnce() -> Value) -> Option<()> {
        if let Err(at) = self.fields.binary_search_by_key(&key, |field| field.key) {
            (!key.contains(|c: char| c < ' ' || matches!(c, '"' | '\\'))).then_some(())?;
            let start = self.values.len();
            self.values.push_str(&value().to_string());
            self.fields.insert(at, Field { key, value: start..self.values.len() });
        }
        Some(())
    }

    /// The whole body.
    pub fn spell(&self) -> String {
        let mut out = String::with_capacity(self.values.len() + 32 * self.fields.len());
        spell(&self.fields, &self.values, 0, &mut out);
        out
    }
}

/// Fields whose values are in `values`, which began at `start`.
fn spell(fields: &[Field<'_>], values: &str, start: usize, out: &mut String) {
    out.push('{');
    for (i, field) in fields.iter().enumerate() {
        out.push_str(if i > 0 { ",\"" } else { "\"" });
        out.push_str(field.key);
        out.push_str("\":");
        out.push_str(&values[field.value.start - start..field.value.end - start]);
    }
    out.push('}');
}

/// A string as it is written, with its quotes.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    escapes: Escapes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    /// Those that `serde_json` would write the same.
    Usual,
    /// Others, or wrong ones.
    Other,
}

impl<'a> Token<'a> {
    fn inner(self) -> &'a str {
        &self.text[1..self.text.len() - 1]
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self.escapes {
            Escapes::None => Some(Cow::Borrowed(self.inner())),
            _ => serde_json::from_str(self.text).ok().map(Cow::Owned),
        }
    }
}

/// Reads JSON, and spells what it reads.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.skip_spaces();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Reads an object; `see` reads the value of each key.
    fn each_field(&mut self, mut see: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            // The order of keys is that of what they mean.
            (key.escapes == Escapes::None).then_some(())?;
            see(self, key.inner())?;
            match self.peek()? {
                b',' => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    /// Reads an object; its values are spelled at the end of `out`.
    fn fields(&mut self, depth: usize) -> Option<Vec<Field<'a>>> {
        let mut fields = vec![];
        self.each_field(|reader, key| {
            let start = reader.out.len();
            reader.value(depth + 1)?;
            fields.push(Field { key, value: start..reader.out.len() });
            Some(())
        })?;
        fields.sort_unstable_by_key(|field| field.key);
        let twice = fields.windows(2).any(|pair| pair[0].key == pair[1].key);
        (!twice).then_some(fields)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        match self.peek()? {
            b'"' => self.copy_string(),
            b'{' => {
                let start = self.out.len();
                let fields = self.fields(depth)?;
                let values = self.out.split_off(start);
                spell(&fields, &values, start, &mut self.out);
                Some(())
            }
            b'[' => self.list(depth),
            b't' => self.copy_word("true"),
            b'f' => self.copy_word("false"),
            b'n' => self.copy_word("null"),
            _ => self.copy_number(),
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        self.out.push('[');
        if self.peek()? != b']' {
            loop {
                self.value(depth + 1)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    _ => break,
                }
                self.out.push(',');
            }
        }
        self.out.push(']');
        self.expect(b']')
    }

    fn copy_word(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            self.out.push_str(word);
        })
    }

    fn copy_number(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|b| is_part(b)).count();
        let number = &self.text[self.at..self.at + length];
        self.at += length;
        if keeps_its_digits(number) {
            self.out.push_str(number);
            return Some(());
        }
        let value: Value = serde_json::from_str(number).ok()?;
        self.out.push_str(&value.to_string());
        Some(())
    }

    fn copy_string(&mut self) -> Option<()> {
        let token = self.string()?;
        match token.escapes {
            Escapes::None | Escapes::Usual => self.out.push_str(token.text),
            Escapes::Other => self.out.push_str(&Value::String(token.text()?.into_owned()).to_string()),
        }
        Some(())
    }

    fn string(&mut self) -> Option<Token<'a>> {
        self.expect(b'"')?;
        let bytes = self.text.as_bytes();
        let (start, mut escapes) = (self.at, Escapes::None);
        loop {
            let rest = bytes.get(self.at..)?;
            self.at += memchr2(b'"', b'\\', rest)?;
            if bytes[self.at] == b'"' {
                break;
            }
            escapes = match bytes.get(self.at + 1)? {
                b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' if escapes != Escapes::Other => Escapes::Usual,
                _ => Escapes::Other,
            };
            self.at += 2;
        }
        // The least byte, rather than the first that is too small: that can be told of many bytes at once.
        let least = bytes[start..self.at].iter().fold(u8::MAX, |least, byte| least.min(*byte));
        self.at += 1;
        (least >= b' ').then(|| Token { text: &self.text[start - 1..self.at], escapes })
    }
}

/// Whether `serde_json` writes a number as it reads it: an integer of not too many digits, and not -0.
fn keeps_its_digits(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    match digits.as_bytes() {
        [b'0'] => digits == number,
        [b'1'..=b'9', rest @ ..] => rest.len() < DIGITS && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}
