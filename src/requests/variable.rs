//! `$(…)` in a template: a column of a row or a part of an object, and its conversion.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::document::Object;
use super::{number, reader};

/// Most columns that an error lists.
const LISTED: usize = 20;
/// Longest name of a column that errors repeat, in bytes. A longer one is most likely content under a missing header.
const NAME_LIMIT: usize = 40;

/// The source of a template's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// Rows: `$(row.COLUMN)`.
    Rows,
    /// Objects: `$(object.PART)`, where the parts are those of [`PARTS`].
    Objects,
}

/// The parts of an object.
pub const PARTS: [&str; 3] = ["key", "text", "base64"];

/// The columns of a table's row, or the parts of an object, all of them text.
pub type Texts = BTreeMap<String, String>;

/// The values that a request is made of.
pub enum Row<'a> {
    /// A JSON object, as it is written.
    Json(&'a Object<'a>),
    Texts(&'a Texts),
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// JSON, as it is written.
    Json(Cow<'a, str>),
    Text(Cow<'a, str>),
}

/// A variable of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    path: Path,
    conversion: Option<Conversion>,
    /// The name up to the `)` that closes it, if the variable ended at an earlier `)` within the name.
    meant: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    /// A column's name, or names of nested fields joined by dots. `as_written` includes `:CONVERSION`.
    Plain { name: String, as_written: String },
    /// Names of nested fields, some of them in quotes.
    Names(Vec<String>),
}

/// A conversion of text to JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conversion {
    Number,
    Boolean,
    Json,
}

impl Conversion {
    const ALL: [(&str, Conversion); 3] =
        [("number", Conversion::Number), ("boolean", Conversion::Boolean), ("json", Conversion::Json)];

    fn of(word: &str) -> Option<Conversion> {
        Conversion::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, conversion)| conversion)
    }

    fn name(self) -> &'static str {
        Conversion::ALL.into_iter().find(|(_, conversion)| *conversion == self).map_or("", |(name, _)| name)
    }

    /// Describes the result, for an error.
    fn kind(self) -> &'static str {
        match self {
            Conversion::Number => "a number such as 40 or 0.5",
            Conversion::Boolean => "`true` or `false`",
            Conversion::Json => "JSON",
        }
    }

    /// Converts a text to JSON; None if it cannot be converted.
    fn json<'t>(self, text: &'t str) -> Option<Cow<'t, str>> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        match self {
            Conversion::Number => number::spelled(text).map(|_| text.into()),
            Conversion::Boolean => {
                ["true", "false"].into_iter().find(|word| word.eq_ignore_ascii_case(text)).map(Cow::Borrowed)
            }
            Conversion::Json => {
                let mut reader = reader::Reader::new(text);
                reader.whole(1).and_then(|_| reader.end()).ok().map(|()| text.into())
            }
        }
    }
}

impl ValueSource {
    /// Reads the variable that `rest` begins with, after its `$(`. Returns it with the text after its `)`.
    ///
    /// # Errors
    /// Describes the fault of the variable.
    pub fn variable(self, rest: &str) -> Result<(Variable, &str), String> {
        match (self, rest.strip_prefix("row")) {
            (ValueSource::Rows, Some(path)) if path.starts_with(['.', '[']) && is_quoted_somewhere(path) => names(path),
            _ => self.plain(rest),
        }
    }

    fn plain(self, rest: &str) -> Result<(Variable, &str), String> {
        let end = rest.find(')').ok_or("has a `$(` without its `)`; write `$$(` for a literal `$(`")?;
        let (written, after) = (&rest[..end], &rest[end + 1..]);
        let (row, part) = (written.strip_prefix("row."), written.strip_prefix("object."));
        let name = match (self, row, part) {
            (ValueSource::Rows, Some(name), _) if !name.is_empty() => name,
            (ValueSource::Objects, _, Some(part)) if PARTS.contains(&part) => part,
            _ => return Err(self.unknown(written, row.is_some(), part.is_some())),
        };
        let converted = name.rsplit_once(':').filter(|(name, _)| self == ValueSource::Rows && !name.is_empty());
        let converted = converted.and_then(|(name, word)| Some((name, Conversion::of(word)?)));
        let meant = if name.contains('(') { balanced(rest).and_then(|all| all.strip_prefix("row.")) } else { None };
        let path = Path::Plain { name: converted.map_or(name, |(name, _)| name).into(), as_written: name.into() };
        let conversion = converted.map(|(_, conversion)| conversion);
        Ok((Variable { path, conversion, meant: meant.map(String::from) }, after))
    }

    fn unknown(self, name: &str, row: bool, part: bool) -> String {
        let elsewhere = match self {
            ValueSource::Rows if part => ", which is for `spec.input.format: Objects`",
            ValueSource::Objects if row => ", which is for rows, and the format Objects has none",
            _ => "",
        };
        let known = match self {
            ValueSource::Rows => "`$(row.COLUMN)` is known".to_string(),
            ValueSource::Objects => format!("{} are known", PARTS.map(|part| format!("`$(object.{part})`")).join(", ")),
        };
        format!("uses the variable {}{elsewhere}; {known}, and `$$(` is a literal `$(`", shown(&format!("$({name})")))
    }
}

/// Returns whether a path has a name in quotes before its end.
fn is_quoted_somewhere(path: &str) -> bool {
    let quote = ["['", "[\""].into_iter().filter_map(|open| path.find(open)).min();
    quote.is_some_and(|at| path.find(')').is_none_or(|end| at < end))
}

/// Returns the text up to the first `)` without a matching `(`.
fn balanced(rest: &str) -> Option<&str> {
    let mut open = 0;
    let end = rest.find(|c| {
        open += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        open < 0
    })?;
    Some(&rest[..end])
}

/// Reads names of which some are in quotes, such as `['Price (EUR)']` and `.a["b"].c`, and a conversion.
fn names(path: &str) -> Result<(Variable, &str), String> {
    let (mut names, mut rest) = (vec![], path);
    loop {
        if let Some(quote) =
            ['\'', '"'].into_iter().find(|quote| rest.strip_prefix('[').is_some_and(|r| r.starts_with(*quote)))
        {
            let (name, after) = quoted(&rest[2..], quote)?;
            rest = after
                .strip_prefix(']')
                .ok_or("has a name in quotes without the `]` behind it, as in `$(row['NAME'])`")?;
            names.push(name);
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ':', ')']).unwrap_or(after.len());
            names.push(after[..end].into());
            rest = &after[end..];
        } else {
            break;
        }
    }
    let (converted, after) = match rest.strip_prefix(':') {
        Some(rest) => rest.split_once(')').map_or((Some(rest), None), |(word, after)| (Some(word), Some(after))),
        None => (None, rest.strip_prefix(')')),
    };
    let after = after.ok_or("has a `$(` without a `)` behind its name in quotes, as in `$(row['NAME'])`")?;
    let conversion = match converted {
        None => None,
        Some(word) => {
            Some(Conversion::of(word).ok_or_else(|| format!("has a conversion that is none; {CONVERSIONS}"))?)
        }
    };
    Ok((Variable { path: Path::Names(names), conversion, meant: None }, after))
}

const CONVERSIONS: &str = "there are `:number`, `:boolean` and `:json`";

/// Returns a name up to its closing quote, and the text after that. A backslash escapes a quote or a backslash.
fn quoted(rest: &str, quote: char) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped @ ('\'' | '"' | '\\'))) => name.push(escaped),
                _ => return Err("has a name in quotes with a single backslash; write `\\\\` for one".into()),
            },
            _ if c == quote => return Ok((name, &rest[at + c.len_utf8()..])),
            _ => name.push(c),
        }
    }
    Err(format!("has a name in quotes without its closing {quote}, as in `$(row['NAME'])`"))
}

/// Returns the variable of a column in the form that fits any name.
fn spelling(name: &str) -> String {
    format!("$(row['{}'])", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl Variable {
    /// Returns whether the variable has this plain name.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(&self.path, Path::Plain { name, .. } if name == wanted)
    }

    /// Returns whether the variable stands for the column of this name.
    pub fn names_column(&self, column: &str) -> bool {
        match &self.path {
            Path::Plain { name, as_written } => name == column || as_written == column,
            Path::Names(names) => matches!(&names[..], [name] if name == column),
        }
    }

    /// Returns the name of the column, for rows whose columns have no dot in their names.
    pub fn column(&self) -> &str {
        match &self.path {
            Path::Plain { name, .. } => name.split('.').next().unwrap_or(name),
            Path::Names(names) => names.first().map_or("", String::as_str),
        }
    }

    /// Returns the variable's name, for an error.
    pub fn shown(&self) -> String {
        match &self.path {
            Path::Plain { name, .. } => shown(name),
            Path::Names(names) => shown(&names.join(".")),
        }
    }

    /// Returns the value of the variable in a row.
    ///
    /// # Errors
    /// Names the columns of the row if it does not have this one, or the conversion if the value does not fit it.
    pub fn of<'a>(&self, row: &Row<'a>) -> Result<Cell<'a>, String> {
        if let (Path::Plain { as_written, .. }, Some(_)) = (&self.path, self.conversion)
            && let Some(cell) = row.get(as_written)
        {
            // A column of that name, colon included, takes precedence.
            return Ok(cell);
        }
        let found = match &self.path {
            Path::Plain { name, .. } => row.get(name).or_else(|| row.walk(name.split('.'))),
            Path::Names(names) => row.walk(names.iter().map(String::as_str)),
        };
        let cell = found.ok_or_else(|| self.missing(row))?;
        match self.conversion {
            Some(conversion) => self.converted(cell, conversion),
            None => Ok(cell),
        }
    }

    fn converted<'a>(&self, cell: Cell<'a>, conversion: Conversion) -> Result<Cell<'a>, String> {
        let text = match &cell {
            Cell::Text(text) => text.clone(),
            Cell::Json(json) => match reader::text(json) {
                Some(text) => Cow::Owned(text.into_owned()),
                None => json.clone(),
            },
        };
        let json = match text {
            Cow::Borrowed(text) => conversion.json(text),
            Cow::Owned(text) => conversion.json(&text).map(|json| Cow::Owned(json.into_owned())),
        };
        json.map(Cell::Json).ok_or_else(|| {
            let (column, kind, word) = (self.shown(), conversion.kind(), conversion.name());
            let value = if cell.is_empty() { "is empty, which is not" } else { "is not" };
            format!(
                "has a column {column} that {value} {kind}, as `:{word}` in the template asks for; correct it, or take \
                 `:{word}` out"
            )
        })
    }

    fn missing(&self, row: &Row<'_>) -> String {
        let hint = match (&self.path, &self.meant) {
            (_, Some(meant)) => format!("; a name with parentheses is written {}", shown_spelling(&spelling(meant))),
            (Path::Plain { name, .. }, None) if name.contains(':') => format!("; of conversions {CONVERSIONS}"),
            _ => String::new(),
        };
        format!("has no column {}, which the template uses{hint}; it has {}", self.shown(), row.columns())
    }
}

/// Returns a variable's spelling, for an error. A template is not content, so most of it may be shown.
fn shown_spelling(spelling: &str) -> String {
    match spelling.chars().count() <= 4 * NAME_LIMIT && !spelling.contains(char::is_control) {
        true => format!("`{spelling}`"),
        false => "`$(row['NAME'])`".into(),
    }
}

impl<'a> Row<'a> {
    fn get(&self, column: &str) -> Option<Cell<'a>> {
        match self {
            Row::Json(row) => row.find(column).map(|i| Cell::Json(row.value(i).into())),
            Row::Texts(row) => row.get(column).map(|text| Cell::Text(text.into())),
        }
    }

    /// Returns the value of nested fields, the first of them a column.
    fn walk<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Option<Cell<'a>> {
        let mut cell = self.get(names.next()?)?;
        for name in names {
            let Cell::Json(Cow::Borrowed(json)) = cell else { return None };
            let object = Object::read(json).ok()?;
            cell = Cell::Json(object.value(object.find(name)?).into());
        }
        Some(cell)
    }

    fn columns(&self) -> String {
        match self {
            Row::Json(row) => columns(row.fields().iter().map(|field| field.key.as_ref())),
            Row::Texts(row) => columns(row.keys().map(String::as_str)),
        }
    }
}

impl Cell<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Cell::Json(json) => json == "\"\"",
            Cell::Text(text) => text.is_empty(),
        }
    }
}

/// Lists the names of columns, for an error.
fn columns<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let listed: Vec<String> = names.take(LISTED).map(shown).collect();
    match (listed.is_empty(), more) {
        (true, _) => "none".into(),
        (_, 0) => listed.join(", "),
        (_, more) => format!("{} and {more} more", listed.join(", ")),
    }
}

/// Returns a column's name, for an error.
pub fn shown(name: &str) -> String {
    match name.len() <= NAME_LIMIT && !name.contains(char::is_control) {
        true => format!("`{name}`"),
        false => format!("(a name of {} bytes)", name.len()),
    }
}
