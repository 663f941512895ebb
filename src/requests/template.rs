//! Templates of requests: Kubernetes' `$(…)` form over the columns of a row or the parts of an object.

use super::document::in_one_line;
use super::reader::{self, push_escaped, push_string};
use super::variable::{Cell, Row, ValueSource, Variable};
use super::{check, document::Object};
use crate::api::RequestTemplate;
use crate::store::LINE_LIMIT;

/// Most bytes of values in a request that a template makes. A row is bounded, but a template may repeat it.
const EXPANDED_LIMIT: usize = LINE_LIMIT;

/// A template that was read and checked.
#[derive(Clone, Debug)]
pub struct Template {
    custom_id: Vec<Piece>,
    body: Vec<Part>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Variable),
}

/// A part of a body's JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// JSON as it is written.
    Fixed(String),
    /// A value in place of a string, such as a number or an object.
    Value(Variable),
    /// A value's text within a string.
    Text(Variable),
}

impl Template {
    /// Reads a template and checks it.
    ///
    /// # Errors
    /// Names the field and its fault.
    pub fn parse(template: &RequestTemplate, of: ValueSource) -> Result<Template, String> {
        let field = "`spec.input.template`";
        let custom_id = of.pieces(&template.custom_id).map_err(|e| format!("{field}: `customID` {e}"))?;
        let written = template.written().map_err(|e| format!("{field}: {e}"))?;
        Object::read(written.json)
            .map_err(|fault| format!("{field}: `{}` {}", written.field, check::faulty_field(written.json, fault)))?;
        let json = in_one_line(written.json);
        let mut cut = BodyParser { of, text: &json, at: 0, from: 0, parts: vec![] };
        cut.value(written.field).map_err(|e| format!("{field}: {e}"))?;
        Ok(Template { custom_id, body: cut.end() })
    }

    /// Returns the most bytes of a body for a row of `row` bytes, not counting escapes.
    pub fn most(&self, row: usize) -> usize {
        let of = |part: &Part| match part {
            Part::Fixed(json) => json.len(),
            Part::Value(_) | Part::Text(_) => row,
        };
        self.body.iter().map(of).fold(0, usize::saturating_add)
    }

    /// Returns whether the template uses the variable of this name.
    pub fn uses(&self, name: &str) -> bool {
        let in_id = self.custom_id.iter().any(|piece| matches!(piece, Piece::Value(variable) if variable.is(name)));
        in_id || self.body.iter().any(|part| matches!(part, Part::Value(v) | Part::Text(v) if v.is(name)))
    }

    /// Returns the variables that the template uses.
    pub fn variables(&self) -> Vec<&Variable> {
        let in_id = self.custom_id.iter().filter_map(|piece| match piece {
            Piece::Value(variable) => Some(variable),
            Piece::Text(_) => None,
        });
        let in_body = self.body.iter().filter_map(|part| match part {
            Part::Value(variable) | Part::Text(variable) => Some(variable),
            Part::Fixed(_) => None,
        });
        in_id.chain(in_body).collect()
    }

    /// Returns the custom id and the body for a row. Values are never searched for variables.
    ///
    /// # Errors
    /// Names a column that the row does not have, and those that it has.
    pub fn expand(&self, row: &Row<'_>) -> Result<(String, String), String> {
        let mut filling = Expansion { row, out: String::new(), left: EXPANDED_LIMIT };
        let custom_id = match &self.custom_id[..] {
            [Piece::Value(variable)] => match variable.of(row)? {
                Cell::Json(json) if json.starts_with(['{', '[', 't', 'f', 'n']) => {
                    let column = variable.shown();
                    return Err(format!("has a column {column} that is no custom id; text or a number is"));
                }
                cell => plain(cell),
            },
            pieces => filling.text(pieces)?,
        };
        for part in &self.body {
            match part {
                Part::Fixed(json) => filling.out.push_str(json),
                Part::Value(variable) => filling.value(variable)?,
                Part::Text(variable) => filling.within(variable)?,
            }
        }
        Ok((custom_id, filling.out))
    }
}

/// Returns a value as text, numbers as they are written.
fn plain(cell: Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => text.into_owned(),
        Cell::Json(json) => reader::text(&json).map(|text| text.into_owned()).unwrap_or_else(|| json.into_owned()),
    }
}

struct Expansion<'a> {
    row: &'a Row<'a>,
    /// The body so far.
    out: String,
    /// Bytes of values that may still be added.
    left: usize,
}

impl<'a> Expansion<'a> {
    fn cell(&mut self, variable: &Variable) -> Result<Cell<'a>, String> {
        let cell = variable.of(self.row)?;
        let (Cell::Json(value) | Cell::Text(value)) = &cell;
        self.left = self.left.checked_sub(value.len()).ok_or_else(|| {
            format!(
                "makes a request of more than {EXPANDED_LIMIT} bytes; shorten it, or use it less often in the template"
            )
        })?;
        Ok(cell)
    }

    fn value(&mut self, variable: &Variable) -> Result<(), String> {
        match self.cell(variable)? {
            Cell::Json(json) => self.out.push_str(&json),
            Cell::Text(text) => push_string(&text, &mut self.out),
        }
        Ok(())
    }

    fn within(&mut self, variable: &Variable) -> Result<(), String> {
        match self.cell(variable)? {
            // The escapes stay as they are written.
            Cell::Json(json) if json.starts_with('"') => self.out.push_str(&json[1..json.len() - 1]),
            Cell::Json(json) => push_escaped(&in_one_line(&json), &mut self.out),
            Cell::Text(text) => push_escaped(&text, &mut self.out),
        }
        Ok(())
    }

    fn text(&mut self, pieces: &[Piece]) -> Result<String, String> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(fixed) => text.push_str(fixed),
                Piece::Value(variable) => text.push_str(&plain(self.cell(variable)?)),
            }
        }
        Ok(text)
    }
}

/// A piece of a text, by its place.
enum TextPiece {
    /// A range of fixed text.
    Text(usize, usize),
    Value(Variable),
}

impl ValueSource {
    fn pieces(self, text: &str) -> Result<Vec<Piece>, String> {
        let piece = |found| match found {
            TextPiece::Text(from, to) => Piece::Text(text[from..to].into()),
            TextPiece::Value(variable) => Piece::Value(variable),
        };
        Ok(self.find(text)?.into_iter().map(piece).collect())
    }

    /// Returns the variables of a text and the text around them. The first `$` of `$$(` is left out, and no variable
    /// begins there.
    fn find(self, text: &str) -> Result<Vec<TextPiece>, String> {
        let (mut found, mut from, mut at) = (vec![], 0, 0);
        while let Some(start) = text[at..].find("$(").map(|start| at + start) {
            if text[at..start].ends_with('$') {
                found.push(TextPiece::Text(from, start - 1));
                (from, at) = (start, start + 2);
                continue;
            }
            let (variable, after) = self.variable(&text[start + 2..])?;
            found.extend([TextPiece::Text(from, start), TextPiece::Value(variable)]);
            at = text.len() - after.len();
            from = at;
        }
        found.push(TextPiece::Text(from, text.len()));
        found.retain(|found| !matches!(found, TextPiece::Text(from, to) if from == to));
        Ok(found)
    }
}

/// The cutter of a body's valid JSON into fixed parts and variables.
struct BodyParser<'t> {
    of: ValueSource,
    text: &'t str,
    at: usize,
    /// Beginning of the text that is not part of `parts` yet.
    from: usize,
    parts: Vec<Part>,
}

impl<'t> BodyParser<'t> {
    /// Reads the next value, which errors call `path`.
    fn value(&mut self, path: &str) -> Result<(), String> {
        match self.next() {
            Some(b'{') => self.each(b'}', |cut, _| {
                let key = reader::text(cut.token()).unwrap_or_default();
                // Skips the colon.
                cut.next();
                cut.at += 1;
                cut.value(&format!("{path}.{key}"))
            }),
            Some(b'[') => self.each(b']', |cut, i| cut.value(&format!("{path}[{i}]"))),
            Some(b'"') => {
                let start = self.at;
                let string = self.token();
                self.string(start, string).map_err(|e| format!("`{path}` {e}"))
            }
            _ => {
                let rest = &self.text[self.at..];
                self.at += rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                Ok(())
            }
        }
    }

    fn each(&mut self, end: u8, mut see: impl FnMut(&mut Self, usize) -> Result<(), String>) -> Result<(), String> {
        self.at += 1;
        for i in 0.. {
            match self.next() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => break,
                None => break,
                Some(_) => {}
            }
            self.next();
            see(self, i)?;
        }
        self.at += 1;
        Ok(())
    }

    /// Skips spaces, and returns the next other byte.
    fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over a string, and returns it.
    fn token(&mut self) -> &'t str {
        let (start, bytes) = (self.at, self.text.as_bytes());
        self.at += 1;
        while let Some(byte) = bytes.get(self.at).filter(|byte| **byte != b'"') {
            self.at += if *byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Cuts a string that begins at `start`. Fixed text in it keeps its escapes.
    fn string(&mut self, start: usize, string: &str) -> Result<(), String> {
        let decoded = Decoded::of(string);
        let found = self.of.find(&decoded.text)?;
        match <[TextPiece; 1]>::try_from(found) {
            Ok([TextPiece::Value(variable)]) => {
                self.fixed_to(start);
                self.parts.push(Part::Value(variable));
                self.from = self.at;
            }
            Ok([TextPiece::Text(from, to)]) if to - from == decoded.text.len() => {}
            Ok([found]) => self.within(start, &decoded, vec![found]),
            Err(found) => self.within(start, &decoded, found),
        }
        Ok(())
    }

    fn within(&mut self, start: usize, decoded: &Decoded, found: Vec<TextPiece>) {
        self.fixed_to(start + 1);
        for found in found {
            match found {
                TextPiece::Text(from, to) => {
                    self.from = start + decoded.written[from];
                    self.fixed_to(start + decoded.written[to]);
                }
                TextPiece::Value(variable) => self.parts.push(Part::Text(variable)),
            }
        }
        self.from = self.at - 1;
    }

    /// Adds the text up to `end` as it is.
    fn fixed_to(&mut self, end: usize) {
        let text = &self.text[self.from..end];
        match self.parts.last_mut() {
            Some(Part::Fixed(fixed)) => fixed.push_str(text),
            _ => self.parts.push(Part::Fixed(text.into())),
        }
    }

    fn end(mut self) -> Vec<Part> {
        self.fixed_to(self.text.len());
        self.parts
    }
}

/// The text of a JSON string, with the place of each byte in the string as written.
struct Decoded {
    text: String,
    /// Offset of each byte of the text in the written string, and of its end.
    written: Vec<usize>,
}

impl Decoded {
    fn of(string: &str) -> Decoded {
        let (mut text, mut written, mut at) = (String::new(), vec![], 1);
        while let Some(rest) = string.get(at..string.len().saturating_sub(1)).filter(|rest| !rest.is_empty()) {
            let length = match rest.as_bytes() {
                [b'\\', b'u', ..] if is_first_half(rest) => 12,
                [b'\\', b'u', ..] => 6,
                [b'\\', ..] => 2,
                _ => rest.chars().next().map_or(1, char::len_utf8),
            };
            let piece = rest.get(..length).unwrap_or(rest);
            let decoded = match piece.starts_with('\\') {
                true => serde_json::from_str(&format!("\"{piece}\"")).unwrap_or_default(),
                false => piece.to_string(),
            };
            written.extend(decoded.bytes().map(|_| at));
            text.push_str(&decoded);
            at += length;
        }
        written.push(at);
        Decoded { text, written }
    }
}

/// Returns whether an escape is the first half of a surrogate pair.
fn is_first_half(escape: &str) -> bool {
    let unit = escape.get(2..6).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    unit.is_some_and(|unit| (0xd800..0xdc00).contains(&unit))
}

#[cfg(test)]
mod tests;
