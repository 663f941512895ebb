//! A JSON reader of one pass: checks a text, keeps the places of an object's fields, and spells the form that they are
//! known by.
//!
//! A request is sent as it is written. It is known by one spelling: no spaces, the keys of each object in the order of
//! their bytes, strings as `serde_json` writes them, numbers as [`number::spelled`] does.

use std::borrow::Cow;
use std::ops::Range;

use wide::u8x16;

use super::number;

/// Most levels of lists and objects.
const DEPTH_LIMIT: usize = 127;
/// Most fields of all open objects. Each takes 72 bytes until its object ends.
const FIELDS_LIMIT: usize = 500_000;

/// The reason why a text was not read. A second reading finds the words for it, of faulty texts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text is not JSON.
    Syntax,
    /// The text is JSON, but not an object.
    NotAnObject,
    /// An object in it has a key twice. Readers differ in the value that they take.
    Twice,
    /// The text is nested too deep.
    TooDeep,
    /// An object in it has too many fields.
    TooManyFields,
}

/// A field of an object.
pub struct Field<'a> {
    /// Its key, decoded.
    pub key: Cow<'a, str>,
    /// Where its key begins in the text.
    pub start: usize,
    /// Range of its value in the text.
    pub value: Range<usize>,
    /// Range of its value in the spelling.
    pub spelled: Range<usize>,
}

/// A reader of a text from its beginning.
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The spelling of the text so far; None unless asked for.
    spelled: Option<String>,
    /// Buffer for an object whose fields are being sorted.
    aside: String,
    /// Number of fields of open objects.
    fields: usize,
    /// Whether the text so far has no line break.
    is_one_line: bool,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Reader { text, at: 0, spelled: None, aside: String::new(), fields: 0, is_one_line: true }
    }

    /// Spells the text from here on.
    pub fn spell(&mut self) {
        self.spelled = Some(String::with_capacity(self.text.len() - self.at));
    }

    /// Returns the spelling, and stops spelling.
    pub fn spelled(&mut self) -> String {
        self.spelled.take().unwrap_or_default()
    }

    /// Returns whether the text so far has no line break. Within strings there is none: such a byte is not valid JSON there.
    pub fn is_one_line(&self) -> bool {
        self.is_one_line
    }

    /// Returns the offset at which reading stopped.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Skips spaces, and returns the offset of the next other byte.
    pub fn here(&mut self) -> usize {
        while let Some(space @ (b' ' | b'\t' | b'\n' | b'\r')) = self.text.as_bytes().get(self.at) {
            self.is_one_line &= !matches!(space, b'\n' | b'\r');
            self.at += 1;
        }
        self.at
    }

    /// Skips spaces, and returns the next byte.
    pub fn peek(&mut self) -> Result<u8, Fault> {
        let at = self.here();
        self.text.as_bytes().get(at).copied().ok_or(Fault::Syntax)
    }

    /// Reads a value and returns its range.
    pub fn whole(&mut self, depth: usize) -> Result<Range<usize>, Fault> {
        let start = self.here();
        self.value(depth)?;
        Ok(start..self.at)
    }

    /// Checks that only spaces are left.
    pub fn end(&mut self) -> Result<(), Fault> {
        if self.here() == self.text.len() { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Reads an object. `see` reads the value of each key, and is given the offset of the key.
    pub fn each_field(
        &mut self,
        mut see: impl FnMut(&mut Self, usize, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let start = self.here();
            let key = self.string()?.text()?;
            self.expect(b':')?;
            see(self, start, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    /// Reads an object and returns its fields in the order of their keys. They are spelled in the order in which they
    /// are written.
    pub fn object(&mut self, depth: usize) -> Result<Vec<Field<'a>>, Fault> {
        if depth > DEPTH_LIMIT {
            return Err(Fault::TooDeep);
        }
        let mut fields: Vec<Field<'a>> = vec![];
        self.push("{");
        self.each_field(|reader, start, key| {
            if let Some(out) = &mut reader.spelled {
                spell_key(&key, fields.is_empty(), out);
            }
            let from = reader.spelled_so_far();
            let value = reader.whole(depth + 1)?;
            fields.push(Field { key, start, value, spelled: from..reader.spelled_so_far() });
            reader.fields += 1;
            if reader.fields > FIELDS_LIMIT { Err(Fault::TooManyFields) } else { Ok(()) }
        })?;
        self.push("}");
        self.fields -= fields.len();
        if !fields.is_sorted_by(|a, b| a.key < b.key) {
            fields.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        let twice = fields.windows(2).any(|pair| pair[0].key == pair[1].key);
        if twice { Err(Fault::Twice) } else { Ok(fields) }
    }

    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek()? {
            b'"' => self.copy_string(),
            b'{' => {
                let start = self.spelled_so_far();
                let fields = self.object(depth)?;
                self.sort(&fields, start);
                Ok(())
            }
            b'[' => self.list(depth),
            b't' => self.copy_word("true"),
            b'f' => self.copy_word("false"),
            b'n' => self.copy_word("null"),
            _ => self.copy_number(),
        }
    }

    /// Sorts the object that was spelled from `start` on by its keys.
    fn sort(&mut self, fields: &[Field<'a>], start: usize) {
        let Some(out) = &mut self.spelled else { return };
        if fields.is_sorted_by_key(|field| field.spelled.start) {
            return;
        }
        self.aside.clear();
        self.aside.push_str(&out[start..]);
        out.truncate(start);
        let value = |field: &Field<'_>| field.spelled.start - start..field.spelled.end - start;
        spell_object(fields.iter().map(|field| (&field.key, &self.aside[value(field)])), out);
    }

    fn list(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_LIMIT {
            return Err(Fault::TooDeep);
        }
        self.expect(b'[')?;
        self.push("[");
        if self.peek()? != b']' {
            loop {
                self.value(depth + 1)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    _ => break,
                }
                self.push(",");
            }
        }
        self.push("]");
        self.expect(b']')
    }

    fn spelled_so_far(&self) -> usize {
        self.spelled.as_ref().map_or(0, String::len)
    }

    fn push(&mut self, text: &str) {
        if let Some(out) = &mut self.spelled {
            out.push_str(text);
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek()? != byte {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    fn copy_word(&mut self, word: &str) -> Result<(), Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        self.push(word);
        Ok(())
    }

    fn copy_number(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|b| is_part(b)).count();
        let number = &self.text[self.at..self.at + length];
        let spelled = number::spelled(number).ok_or(Fault::Syntax)?;
        self.at += length;
        self.push(&spelled);
        Ok(())
    }

    fn copy_string(&mut self) -> Result<(), Fault> {
        let token = self.string()?;
        match token.escapes {
            Escapes::None | Escapes::Usual => self.push(token.text),
            Escapes::Other => {
                let text = token.text()?;
                if let Some(out) = &mut self.spelled {
                    push_string(&text, out);
                }
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Token<'a>, Fault> {
        self.expect(b'"')?;
        let bytes = self.text.as_bytes();
        let (start, mut escapes) = (self.at, Escapes::None);
        loop {
            self.at = special(bytes, self.at).ok_or(Fault::Syntax)?;
            match bytes[self.at] {
                b'"' => break,
                b'\\' => {}
                _control => return Err(Fault::Syntax),
            }
            let escaped = bytes.get(self.at + 1).ok_or(Fault::Syntax)?;
            escapes = escapes.max(ESCAPES[usize::from(*escaped)]);
            self.at += 2;
        }
        self.at += 1;
        Ok(Token { text: &self.text[start - 1..self.at], escapes })
    }
}

/// Returns the offset, from `at` on, of the next byte that is not a plain part of a string: a quote, a backslash or a
/// control character.
#[inline]
fn special(bytes: &[u8], at: usize) -> Option<usize> {
    const LANES: usize = size_of::<u8x16>();
    let (quote, backslash, last_control) = (u8x16::splat(b'"'), u8x16::splat(b'\\'), u8x16::splat(b' ' - 1));
    let rest = bytes.get(at..)?;
    let (blocks, tail) = rest.as_chunks::<LANES>();
    for (i, block) in blocks.iter().enumerate() {
        let block = u8x16::new(*block);
        let is_control = block.min(last_control).simd_eq(block);
        let found = (block.simd_eq(quote) | block.simd_eq(backslash) | is_control).to_bitmask();
        if found != 0 {
            return Some(at + i * LANES + found.trailing_zeros() as usize);
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    tail.iter().position(is_special).map(|i| bytes.len() - tail.len() + i)
}

/// A string as it is written, with its quotes.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    escapes: Escapes,
}

/// The least usual kind of escape in a string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Escapes {
    None,
    /// Escapes that `serde_json` writes the same way.
    Usual,
    /// Other escapes, or invalid ones.
    Other,
}

/// Kind of the escape by the byte after its backslash. A table has no branch that the processor could mispredict.
const ESCAPES: [Escapes; 256] = {
    let (mut escapes, usual) = ([Escapes::Other; 256], *br#""\bfnrt"#);
    let mut i = 0;
    while i < usual.len() {
        escapes[usual[i] as usize] = Escapes::Usual;
        i += 1;
    }
    escapes
};

impl<'a> Token<'a> {
    fn text(self) -> Result<Cow<'a, str>, Fault> {
        match self.escapes {
            Escapes::None => Ok(Cow::Borrowed(&self.text[1..self.text.len() - 1])),
            _ => serde_json::from_str(self.text).map(Cow::Owned).map_err(|_| Fault::Syntax),
        }
    }
}

/// Returns the text of a value that is a string; None for any other value. The value must be valid JSON.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        true => serde_json::from_str(value).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(inner)),
    }
}

/// Appends text as a JSON string.
pub fn push_string(text: &str, out: &mut String) {
    out.push('"');
    push_escaped(text, out);
    out.push('"');
}

/// Appends text as it is written within a JSON string.
pub fn push_escaped(text: &str, out: &mut String) {
    if !text.bytes().any(|b| b < b' ' || matches!(b, b'"' | b'\\')) {
        return out.push_str(text);
    }
    let string = serde_json::Value::from(text).to_string();
    out.push_str(&string[1..string.len() - 1]);
}

/// Appends an object of these keys and spelled values.
pub fn spell_object<'a>(fields: impl Iterator<Item = (&'a Cow<'a, str>, &'a str)>, out: &mut String) {
    out.push('{');
    for (i, (key, value)) in fields.enumerate() {
        spell_key(key, i == 0, out);
        out.push_str(value);
    }
    out.push('}');
}

/// Appends a key of an object, with its separators from the field before and from its value.
fn spell_key(key: &str, is_first: bool, out: &mut String) {
    if !is_first {
        out.push(',');
    }
    push_string(key, out);
    out.push(':');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whole blocks are searched at once, and the rest after the last of them byte by byte.
        #[test]
        fn the_next_special_byte_is_found_wherever_it_stands(
            plain in "[a-zé ]{0,80}", found in prop::sample::select(&b"\"\\\0\t\n\x1f"[..]), rest in "[a\"\\\\]{0,40}", from in 0usize..130
        ) {
            let mut bytes = plain.into_bytes();
            bytes.push(found);
            bytes.extend(rest.bytes());
            let one_by_one = (from..bytes.len()).find(|at| matches!(bytes[*at], b'"' | b'\\' | ..b' '));
            prop_assert_eq!(special(&bytes, from), one_by_one);
        }
    }
}
