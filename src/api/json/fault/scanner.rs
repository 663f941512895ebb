//! A scanner of JSON that stops at the first fault.

use std::collections::HashSet;

use super::Kind;

/// Most keys of one document that are held to find a repeated one.
const KEYS_LIMIT: usize = 10_000;

/// The tokens that may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A first value, or the end of the list.
    FirstValue,
    Key,
    /// A first key, or the end of the object.
    FirstKey,
    /// A comma, the end of the open list or object, or the end of the text.
    Rest,
}

/// An open list or object. An object has its keys.
enum Open<'a> {
    List,
    Object(HashSet<&'a str>),
}

/// A scanner without recursion. The depth of the text and the limit on keys bound its memory.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    open: Vec<Open<'a>>,
    keys: usize,
    /// Offset of the last comma.
    comma: usize,
    /// The first repeated key, with its offset.
    pub(super) repeated: Option<(usize, &'a str)>,
}

pub(super) type Scan<'a, T> = Result<T, (usize, Kind<'a>)>;

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Scanner { text, at: 0, open: vec![], keys: 0, comma: 0, repeated: None }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn fail<T>(&self, kind: Kind<'a>) -> Scan<'a, T> {
        Err((self.at, kind))
    }

    pub(super) fn run(&mut self) -> Scan<'a, ()> {
        let mut next = Next::Value;
        loop {
            let before = self.at;
            while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte(0) {
                self.at += 1;
            }
            let Some(byte) = self.byte(0) else {
                return if self.open.is_empty() && next == Next::Rest { Ok(()) } else { self.fail(Kind::Early) };
            };
            next = match (next, byte) {
                (Next::FirstValue, b']') | (Next::FirstKey, b'}') => self.close(byte)?,
                (Next::Value, b']' | b'}') | (Next::Key, b'}') if self.text[self.comma..].starts_with(',') => {
                    return Err((self.comma, Kind::Comma));
                }
                (Next::Value | Next::FirstValue, _) => self.value(byte)?,
                (Next::Key | Next::FirstKey, _) => self.key()?,
                (Next::Rest, b',') if !self.open.is_empty() => {
                    self.comma = self.at;
                    self.at += 1;
                    if matches!(self.open.last(), Some(Open::List)) { Next::Value } else { Next::Key }
                }
                (Next::Rest, b']' | b'}') => self.close(byte)?,
                (Next::Rest, _) if self.open.is_empty() => return Err(self.after_the_end(before)),
                (Next::Rest, _) => return self.odd(),
            }
        }
    }

    /// Returns the fault of another value on the same line. If a CR alone precedes it, its writer ended the line there.
    fn after_the_end(&self, from: usize) -> (usize, Kind<'a>) {
        match self.text[from..self.at].find('\r') {
            Some(at) => (from + at, Kind::CarriageReturn),
            None => self.odd::<()>().err().unwrap_or((self.at, Kind::Other)),
        }
    }

    fn close(&mut self, byte: u8) -> Scan<'a, Next> {
        match (self.open.pop(), byte) {
            (Some(Open::List), b']') | (Some(Open::Object(_)), b'}') => {
                self.at += 1;
                Ok(Next::Rest)
            }
            _ => self.fail(Kind::Other),
        }
    }

    fn value(&mut self, byte: u8) -> Scan<'a, Next> {
        // A comma before this value has a value after it.
        self.comma = self.at;
        match byte {
            b'{' => {
                self.open.push(Open::Object(HashSet::new()));
                self.at += 1;
                Ok(Next::FirstKey)
            }
            b'[' => {
                self.open.push(Open::List);
                self.at += 1;
                Ok(Next::FirstValue)
            }
            b'"' => self.string().map(|_| Next::Rest),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.word(self.at),
        }
    }

    fn key(&mut self) -> Scan<'a, Next> {
        if self.byte(0) != Some(b'"') {
            return self.odd();
        }
        let start = self.at;
        let key = self.string()?;
        if self.keys < KEYS_LIMIT
            && let Some(Open::Object(keys)) = self.open.last_mut()
        {
            self.keys += 1;
            if !keys.insert(key) {
                self.repeated.get_or_insert((start, key));
            }
        }
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte(0) {
            self.at += 1;
        }
        match self.byte(0) {
            Some(b':') => self.at += 1,
            Some(_) => return self.odd(),
            None => return self.fail(Kind::Early),
        }
        self.comma = self.at;
        Ok(Next::Value)
    }

    /// Returns the content of a string as it is written.
    fn string(&mut self) -> Scan<'a, &'a str> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.byte(0) {
                None => return self.fail(Kind::Early),
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0) => return self.fail(Kind::Nul),
                Some(byte @ 1..0x20) => return self.fail(Kind::Control(byte)),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(&self.text[start..self.at - 1])
    }

    fn escape(&mut self) -> Scan<'a, ()> {
        match self.byte(1) {
            None => return self.fail(Kind::Early),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let first = self.unit(0)?;
                let half = &self.text[self.at..self.at + 6];
                self.at += match first {
                    0xd800..0xdc00 if self.unit(6).is_ok_and(|second| (0xdc00..0xe000).contains(&second)) => 12,
                    0xd800..0xe000 => return self.fail(Kind::HalfPair(half)),
                    _ => 6,
                };
            }
            Some(_) => {
                let end = self.text[self.at + 1..].chars().next().map_or(1, |c| 1 + c.len_utf8());
                return self.fail(Kind::Escape(&self.text[self.at..self.at + end]));
            }
        }
        Ok(())
    }

    /// Returns the UTF-16 code unit of the `\uXXXX` that begins `ahead` bytes from here.
    fn unit(&self, ahead: usize) -> Scan<'a, u32> {
        let text = self.text.as_bytes().get(self.at + ahead..).unwrap_or_default();
        match text {
            [b'\\', b'u', digits @ ..] if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) => {
                let digits = self.text.get(self.at + ahead + 2..self.at + ahead + 6).unwrap_or_default();
                u32::from_str_radix(digits, 16).or_else(|_| self.fail(Kind::Other))
            }
            [b'\\', b'u', digits @ ..] if digits.len() < 4 => self.fail(Kind::Early),
            _ => self.fail(Kind::Escape("\\u")),
        }
    }

    fn number(&mut self) -> Scan<'a, Next> {
        let start = self.at;
        if self.byte(0) == Some(b'-') {
            self.at += 1;
        }
        match self.byte(0) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            None => return self.fail(Kind::Early),
            Some(_) => return self.word(start),
        }
        if self.byte(0) == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte(0) {
            self.at += 1 + usize::from(matches!(self.byte(1), Some(b'+' | b'-')));
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        match number.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Next::Rest),
            _ => Err((start, Kind::Number(number))),
        }
    }

    fn digits(&mut self) -> Scan<'a, ()> {
        match self.byte(0) {
            None => return self.fail(Kind::Early),
            Some(byte) if !byte.is_ascii_digit() => return self.fail(Kind::Other),
            Some(_) => {}
        }
        while self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    /// Reads a word, or a sign and a word, that began at `start`.
    fn word(&mut self, start: usize) -> Scan<'a, Next> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let end = self.at + length;
        let word = &self.text[start..end];
        match word {
            "true" | "false" | "null" => {
                self.at = end;
                Ok(Next::Rest)
            }
            "NaN" | "nan" | "Infinity" | "-Infinity" | "-NaN" | "inf" | "-inf" | "undefined" => {
                Err((start, Kind::Word(word)))
            }
            "True" | "False" | "None" => Err((start, Kind::Word(word))),
            // A text that ends here may have been cut within the word.
            _ if end == self.text.len() && ["true", "false", "null"].iter().any(|w| w.starts_with(word)) => {
                self.fail(Kind::Early)
            }
            _ => self.odd(),
        }
    }

    /// Returns the fault of a character that cannot be here.
    fn odd<T>(&self) -> Scan<'a, T> {
        self.fail(match self.text[self.at..].chars().next() {
            Some('\0') => Kind::Nul,
            Some('\u{feff}') => Kind::ByteOrderMark,
            Some(quote @ ('\'' | '`' | '‘' | '’' | '“' | '”' | '„')) => Kind::Quote(quote),
            _ => Kind::Other,
        })
    }
}
