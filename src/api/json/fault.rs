//! Faults of JSON for the person who wrote it: the name of the fault, its column, and the remedy.

mod scanner;

use std::fmt;

use scanner::Scanner;

/// Longest word or number that messages repeat, in bytes. A longer one may be content.
const SHOWN_LIMIT: usize = 24;
/// Longest key that messages repeat, in bytes. A longer one is content rather than a name.
const KEY_LIMIT: usize = 64;

/// The first fault of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    kind: Kind<'a>,
    place: Position,
}

/// A place in a text, in lines and characters from 1, as editors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// None if the text is one line.
    line: Option<usize>,
    column: usize,
}

impl Position {
    fn of(text: &str, at: usize) -> Position {
        let before = text.get(..at).unwrap_or(text);
        let line = text.contains('\n').then(|| before.matches('\n').count() + 1);
        let begins = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line, column: before[begins..].chars().count() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "at line {line}, column {}", self.column),
            None => write!(f, "at column {}", self.column),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// The text ends within a value.
    Early,
    /// Half of a surrogate pair, as it is written.
    HalfPair(&'a str),
    Nul,
    /// A control character within a string that is not escaped.
    Control(u8),
    /// An escape that JSON does not have.
    Escape(&'a str),
    /// A word of Python or JavaScript.
    Word(&'a str),
    /// A number beyond all 64-bit floats.
    Number(&'a str),
    Quote(char),
    /// A comma without a value after it.
    Comma,
    ByteOrderMark,
    /// A line end of CR alone.
    CarriageReturn,
    Other,
}

/// Returns the first fault of `text`; None if it is JSON.
pub fn fault(text: &str) -> Option<Fault<'_>> {
    Scanner::new(text).run().err().map(|(at, kind)| Fault { kind, place: Position::of(text, at) })
}

/// Returns a key that occurs twice in one object of `text`, with the place of the second. None if there is no such key,
/// or the text is not JSON. Keys beyond the first 10,000 are not compared.
pub fn repeated_key(text: &str) -> Option<(&str, Position)> {
    let mut scanner = Scanner::new(text);
    scanner.run().ok()?;
    let (at, key) = scanner.repeated?;
    Some((key, Position::of(text, at)))
}

/// Returns a key for a message.
pub fn shown(key: &str) -> String {
    match key.len() <= KEY_LIMIT && !key.contains(char::is_control) {
        true => format!("`{key}`"),
        false => format!("a key of {} bytes", key.len()),
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place;
        match &self.kind {
            Kind::Early => f.write_str("it ends too early"),
            Kind::HalfPair(half) => write!(f, "half of a surrogate pair, `{half}`, {place}"),
            Kind::Nul => write!(f, "a NUL byte {place}"),
            Kind::Control(byte) => write!(f, "a control character, U+{byte:04X}, {place}"),
            Kind::Escape(escape) => write!(f, "an escape that JSON does not have, `{escape}`, {place}"),
            Kind::Word(word) => write!(f, "`{word}`, which JSON does not have, {place}"),
            Kind::Number(number) if number.len() <= SHOWN_LIMIT => {
                write!(f, "a number that is too large, `{number}`, {place}")
            }
            Kind::Number(_) => write!(f, "a number that is too large {place}"),
            Kind::Quote(quote) => write!(f, "a quote that JSON does not have, {quote}, {place}"),
            Kind::Comma => write!(f, "a comma with nothing behind it {place}"),
            Kind::ByteOrderMark => write!(f, "a byte order mark {place}"),
            Kind::CarriageReturn => write!(f, "a line end of CR alone {place}"),
            Kind::Other => write!(f, "error {place}"),
        }
    }
}

impl Fault<'_> {
    /// Returns the remedy, if one is known.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self.kind {
            Kind::HalfPair(_) => {
                "a text was cut within a character: cut it elsewhere, or put `\\ufffd` there in place of the half"
            }
            Kind::Nul => "take it out, or write it as `\\u0000` within a string; is the file damaged?",
            Kind::Control(_) => "escape it, as JSON writers do",
            Kind::Escape(_) => "write a backslash as `\\\\`",
            Kind::Word("True" | "False" | "None") => {
                "that is Python's: write it with a JSON writer, such as json.dumps"
            }
            Kind::Word(_) => "write null, or a number",
            Kind::Number(_) => "numbers go to 1.8e308: write a smaller one, or text",
            Kind::Quote(_) => "put strings in double quotes, with a JSON writer",
            Kind::Comma => "take it out",
            Kind::ByteOrderMark => "take it out; it is left from where files were joined",
            Kind::CarriageReturn => "end lines with LF or CRLF",
            Kind::Early | Kind::Other => return None,
        })
    }
}

#[cfg(test)]
mod tests;
