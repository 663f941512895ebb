//! A request made of a row or an object: Kubernetes' `$(…)` form over the row's columns or the object's parts.

use super::document::in_one_line;
use super::reader::{self, push_escaped, push_string};
use super::variable::{Cell, Of, Row, Variable};
use super::{check, document::Object};
use crate::api::RequestTemplate;
use crate::store::LINE_LIMIT;

/// Largest request that a template may make, in bytes that are put in. A row is bounded; a template may repeat it.
const EXPANDED_LIMIT: usize = LINE_LIMIT;

/// A template that was read and found sound.
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
    /// As it is written.
    Fixed(String),
    /// In place of a string: the value as it is, a number or an object.
    Value(Variable),
    /// Within a string: the value's text.
    Text(Variable),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Names the field and what is wrong in it.
    pub fn parse(template: &RequestTemplate, of: Of) -> Result<Template, String> {
        let field = "`spec.input.template`";
        let custom_id = of.pieces(&template.custom_id).map_err(|e| format!("{field}: `customID` {e}"))?;
        let written = template.written().map_err(|e| format!("{field}: {e}"))?;
        Object::read(written.json)
            .map_err(|fault| format!("{field}: `{}` {}", written.field, check::faulty_field(written.json, fault)))?;
        let json = in_one_line(written.json);
        let mut cut = Cut { of, text: &json, at: 0, from: 0, parts: vec![] };
        cut.value(written.field).map_err(|e| format!("{field}: {e}"))?;
        Ok(Template { custom_id, body: cut.end() })
    }

    /// Whether any variable is the one of this name.
    pub fn uses(&self, name: &str) -> bool {
        let in_id = self.custom_id.iter().any(|piece| matches!(piece, Piece::Value(variable) if variable.is(name)));
        in_id || self.body.iter().any(|part| matches!(part, Part::Value(v) | Part::Text(v) if v.is(name)))
    }

    /// The variables that it uses.
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

    /// The custom id and the body for a row. What is put in is never read for variables again.
    ///
    /// # Errors
    /// Names the column that the row has not, and those that it has.
    pub fn expand(&self, row: &Row<'_>) -> Result<(String, String), String> {
        let mut filling = Filling { row, out: String::new(), left: EXPANDED_LIMIT };
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

/// A value as text: digits as they are written.
fn plain(cell: Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => text.into_owned(),
        Cell::Json(json) => reader::text(&json).map(|text| text.into_owned()).unwrap_or_else(|| json.into_owned()),
    }
}

struct Filling<'a> {
    row: &'a Row<'a>,
    /// The body so far.
    out: String,
    /// Bytes that may still be put in.
    left: usize,
}

impl<'a> Filling<'a> {
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
            // With the escapes that it is written with.
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

/// What a text is cut into.
enum Found {
    /// From here to there, as it is.
    Text(usize, usize),
    Value(Variable),
}

impl Of {
    fn pieces(self, text: &str) -> Result<Vec<Piece>, String> {
        let piece = |found| match found {
            Found::Text(from, to) => Piece::Text(text[from..to].into()),
            Found::Value(variable) => Piece::Value(variable),
        };
        Ok(self.find(text)?.into_iter().map(piece).collect())
    }

    /// The variables of a text and what stands around them. Of `$$(` the first `$` is left out, and it is no variable.
    fn find(self, text: &str) -> Result<Vec<Found>, String> {
        let (mut found, mut from, mut at) = (vec![], 0, 0);
        while let Some(start) = text[at..].find("$(").map(|start| at + start) {
            if text[at..start].ends_with('$') {
                found.push(Found::Text(from, start - 1));
                (from, at) = (start, start + 2);
                continue;
            }
            let (variable, after) = self.variable(&text[start + 2..])?;
            found.extend([Found::Text(from, start), Found::Value(variable)]);
            at = text.len() - after.len();
            from = at;
        }
        found.push(Found::Text(from, text.len()));
        found.retain(|found| !matches!(found, Found::Text(from, to) if from == to));
        Ok(found)
    }
}

/// Cuts a body's JSON, which is sound, where variables stand.
struct Cut<'t> {
    of: Of,
    text: &'t str,
    at: usize,
    /// Where that begins which is in no part yet.
    from: usize,
    parts: Vec<Part>,
}

impl<'t> Cut<'t> {
    /// Reads the next value, which is called `path`.
    fn value(&mut self, path: &str) -> Result<(), String> {
        match self.next() {
            Some(b'{') => self.each(b'}', |cut, _| {
                let key = reader::text(cut.token()).unwrap_or_default();
                // Behind the colon.
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

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over a string.
    fn token(&mut self) -> &'t str {
        let (start, bytes) = (self.at, self.text.as_bytes());
        self.at += 1;
        while let Some(byte) = bytes.get(self.at).filter(|byte| **byte != b'"') {
            self.at += if *byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Cuts a string that begins at `start`; what is fixed of it keeps the escapes that it is written with.
    fn string(&mut self, start: usize, string: &str) -> Result<(), String> {
        let decoded = Decoded::of(string);
        let found = self.of.find(&decoded.text)?;
        match <[Found; 1]>::try_from(found) {
            Ok([Found::Value(variable)]) => {
                self.fixed_to(start);
                self.parts.push(Part::Value(variable));
                self.from = self.at;
            }
            Ok([Found::Text(from, to)]) if to - from == decoded.text.len() => {}
            Ok([found]) => self.within(start, &decoded, vec![found]),
            Err(found) => self.within(start, &decoded, found),
        }
        Ok(())
    }

    fn within(&mut self, start: usize, decoded: &Decoded, found: Vec<Found>) {
        self.fixed_to(start + 1);
        for found in found {
            match found {
                Found::Text(from, to) => {
                    self.from = start + decoded.written[from];
                    self.fixed_to(start + decoded.written[to]);
                }
                Found::Value(variable) => self.parts.push(Part::Text(variable)),
            }
        }
        self.from = self.at - 1;
    }

    /// Takes what is written up to here as it is.
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

/// The text of a JSON string, and where each of its bytes is written.
struct Decoded {
    text: String,
    /// By bytes of the text; one more for its end.
    written: Vec<usize>,
}

impl Decoded {
    fn of(string: &str) -> Decoded {
        let (mut text, mut written, mut at) = (String::new(), vec![], 1);
        while let Some(rest) = string.get(at..string.len() - 1).filter(|rest| !rest.is_empty()) {
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

/// Whether an escape is one half of a character, and another half follows it.
fn is_first_half(escape: &str) -> bool {
    let unit = escape.get(2..6).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    unit.is_some_and(|unit| (0xd800..0xdc00).contains(&unit))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::super::variable::PARTS;
    use super::*;

    fn template(custom_id: &str, body: Value) -> Result<Template, String> {
        parse(Of::Rows, custom_id, body)
    }

    fn parse(of: Of, custom_id: &str, body: Value) -> Result<Template, String> {
        Template::parse(&serde_json::from_value(json!({"customID": custom_id, "body": body})).unwrap(), of)
    }

    fn expand(body: Value, row: Value) -> Result<Value, String> {
        let (_, body) = fill(&template("x", body)?, &row.to_string())?;
        Ok(serde_json::from_str(&body).unwrap())
    }

    /// The custom id and the body of a row that is JSON.
    fn fill(template: &Template, row: &str) -> Result<(String, String), String> {
        template.expand(&Row::Json(&Object::read(row).unwrap()))
    }

    /// The body that a template as text makes of a row.
    fn fill_json(body: &str, row: &str) -> Result<String, String> {
        let template = RequestTemplate { custom_id: "x".into(), body: None, body_json: Some(body.into()) };
        fill(&Template::parse(&template, Of::Rows)?, row).map(|(_, body)| body)
    }

    /// The body that a template makes of a row of texts.
    fn fill_texts(content: &str, row: &[(&str, &str)]) -> Result<String, String> {
        let row = row.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        let body = format!("{{\"c\":{}}}", Value::from(content));
        let template = RequestTemplate { custom_id: "x".into(), body: None, body_json: Some(body) };
        Template::parse(&template, Of::Rows)?.expand(&Row::Texts(&row)).map(|(_, body)| body)
    }

    #[test]
    fn whole_strings_keep_their_type_and_parts_become_text() {
        let row = json!({"id": 7, "o": {"k": [1], "d": {"e": "deep"}}, "t": "text", "n": null, "a.b": "dotted"});
        for (written, wanted) in [
            ("$(row.id)", json!(7)),
            ("$(row.o)", json!({"k": [1], "d": {"e": "deep"}})),
            ("$(row.o.d.e)", json!("deep")),
            ("$(row.a.b)", json!("dotted")),
            ("$(row.n)", json!(null)),
            ("<$(row.id)>", json!("<7>")),
            ("$(row.t)$(row.id)", json!("text7")),
            ("$(row.o.k)!", json!("[1]!")),
            ("costs $5, $$ and $", json!("costs $5, $$ and $")),
            ("$$(row.t)", json!("$(row.t)")),
            ("é$$(x) $(row.t) $$(", json!("é$(x) text $(")),
            ("", json!("")),
        ] {
            let body = json!({"m": [{"c": written}], "fixed": 1});
            assert_eq!(expand(body, row.clone()).unwrap(), json!({"m": [{"c": wanted}], "fixed": 1}), "{written}");
        }
    }

    #[test]
    fn what_is_put_in_is_never_read_again() {
        let row = json!({"a": "$(row.b) $$( $(row.", "b": "secret"});
        assert_eq!(
            expand(json!({"x": "$(row.a)", "y": "-$(row.a)"}), row).unwrap(),
            json!({"x": "$(row.b) $$( $(row.", "y": "-$(row.b) $$( $(row."})
        );
    }

    #[test]
    fn custom_ids_are_text_or_numbers() {
        let id = |custom_id: &str, row: &str| {
            let template = template(custom_id, json!({})).unwrap();
            fill(&template, row).map(|(id, _)| id)
        };
        assert_eq!(id("$(row.id)", r#"{"id": 7}"#).unwrap(), "7");
        assert_eq!(id("r-$(row.id)", r#"{"id": "x"}"#).unwrap(), "r-x");
        assert_eq!(id("$(row.id)", r#"{"id": "\u00e9\"$(row.id)"}"#).unwrap(), "é\"$(row.id)");
        for (row, text) in [("{}", "{}"), ("[]", "[]"), ("true", "true"), ("null", "null")] {
            assert!(id("$(row.id)", &format!(r#"{{"id": {row}}}"#)).unwrap_err().contains("no custom id"), "{text}");
        }
    }

    /// Case 03-big-integer-ids: digits are what the source has, in ids, in values and in texts.
    #[test]
    fn digits_are_put_in_as_they_are_written() {
        let row = r#"{"id": 89490200001234567890, "price": 19.90, "volume": 1e3, "one": 1.0, "serial": 12345678901234567890123}"#;
        let template = template(
            "$(row.id)",
            json!({"c": "$(row.price) $(row.volume) $(row.one) $(row.serial)", "seed": "$(row.serial)"}),
        );
        let (id, body) = fill(&template.unwrap(), row).unwrap();
        assert_eq!(id, "89490200001234567890");
        assert_eq!(body, r#"{"c":"19.90 1e3 1.0 12345678901234567890123","seed":12345678901234567890123}"#);
        let mixed = fill(&self::template("n-$(row.id)-$(row.price)", json!({})).unwrap(), row).unwrap();
        assert_eq!(mixed.0, "n-89490200001234567890-19.90");
    }

    /// Case 17-schema-key-order, of a template as text.
    #[test]
    fn a_body_as_text_is_filled_as_it_is_written() {
        let body = "{\n  \"z\": \"\\u00e9 \\/ $(row.t) $$(row.t) \\u0024(row.n)\",\n  \"a\": {\"$(row.t)\": 1.50, \"b\": [\"$(row.n)\", \"$(row.o)\", \"\"]}\n}\n";
        let row = r#"{"t": "\u00fc\"\/", "n": 1e3, "o": {"y": 1.0,  "x": [ ]}}"#;
        let filled =
            r#"{"z":"\u00e9 \/ \u00fc\"\/ $(row.t) 1e3","a":{"$(row.t)":1.50,"b":[1e3,{"y": 1.0,  "x": [ ]},""]}}"#;
        assert_eq!(fill_json(body, row).unwrap(), filled);
        let in_one_line = r#"{ "z" : "$(row.o)", "a": "\ud83d\ude00$(row.n)\ud83d\ude00 😀" }"#;
        let filled = r#"{ "z" : {"y": 1.0,  "x": [ ]}, "a": "\ud83d\ude001e3\ud83d\ude00 😀" }"#;
        assert_eq!(fill_json(in_one_line, row).unwrap(), filled);
        let text_of_an_object = r#"{"a": "<$(row.o)>"}"#;
        assert_eq!(fill_json(text_of_an_object, row).unwrap(), r#"{"a": "<{\"y\": 1.0,  \"x\": [ ]}>"}"#);
    }

    #[test]
    fn a_body_as_text_that_is_not_json_is_named_with_line_and_column() {
        for (body, words) in [
            ("{\n  \"a\": [1,\n 2,,]}", "`bodyJSON` is not JSON (error at line 3, column 4)"),
            ("{\"a\": 1", "`bodyJSON` is not JSON (it ends too early)"),
            ("[]", "`bodyJSON` is not an object"),
            (r#"{"a": 1, "a": 2}"#, "`bodyJSON` has the key `a` twice in one object, again at column 10"),
            ("{\n\"m\": [{\"c\": \"$(id)\"}]}", "`bodyJSON.m[0].c` uses the variable `$(id)`"),
        ] {
            let refused = fill_json(body, "{}").unwrap_err();
            assert!(refused.starts_with("`spec.input.template`: ") && refused.contains(words), "{body}: {refused}");
        }
        let both = json!({"customID": "x", "body": {}, "bodyJSON": "{}"});
        let refused = Template::parse(&serde_json::from_value(both).unwrap(), Of::Rows).unwrap_err();
        assert!(refused.contains("has both `body` and `bodyJSON`"), "{refused}");
    }

    /// Case 15-csv-numbers-are-text.
    #[test]
    fn texts_are_converted_where_the_template_says_so() {
        for (content, text, filled) in [
            ("$(row.x:number)", "40", "40"),
            ("$(row.x:number)", " 19.90 ", "19.90"),
            ("$(row.x:number)", "12345678901234567890123", "12345678901234567890123"),
            ("$(row.x)", "40", r#""40""#),
            ("up to $(row.x:number)", "1e3", r#""up to 1e3""#),
            ("$(row.x:boolean)", "TRUE", "true"),
            ("$(row.x:boolean)", "false", "false"),
            ("$(row.x:json)", r#" {"b": 1.0, "a": ["é"]} "#, r#"{"b": 1.0, "a": ["é"]}"#),
            ("$(row.x:json)", "null", "null"),
            ("$(row.x:json)", r#""text""#, r#""text""#),
            ("$(row['x']:number)", "7", "7"),
        ] {
            assert_eq!(
                fill_texts(content, &[("x", text)]).unwrap(),
                format!("{{\"c\":{filled}}}"),
                "{content} of {text}"
            );
        }
        for (content, text, words) in [
            (
                "$(row.x:number)",
                "about 40",
                "has a column `x` that is not a number such as 40 or 0.5, as `:number` in the template asks for",
            ),
            ("$(row.x:number)", "", "has a column `x` that is empty, which is not a number"),
            ("$(row.x:number)", "1,5", "`x` that is not a number"),
            ("$(row.x:number)", "007", "`x` that is not a number"),
            ("$(row.x:number)", "NaN", "`x` that is not a number"),
            ("$(row.x:boolean)", "yes", "`x` that is not `true` or `false`"),
            ("$(row.x:json)", "{a: 1}", "`x` that is not JSON"),
            (
                "$(row.x:float)",
                "1",
                "has no column `x:float`, which the template uses; of conversions there are `:number`, `:boolean`",
            ),
            ("$(row['x']:float)", "1", "has a conversion that is none"),
        ] {
            let refused = fill_texts(content, &[("x", text)]).unwrap_err();
            assert!(refused.contains(words), "{content} of {text}: {refused}");
            assert!(text.len() < 4 || !refused.contains(text), "content is not repeated: {refused}");
        }
        assert_eq!(
            fill_texts("$(row.x:number)", &[("x:number", "n"), ("x", "1")]).unwrap(),
            r#"{"c":"n"}"#,
            "a name as ever"
        );
        let row = r#"{"n": 1.0, "s": "2.50", "b": true, "nil": null}"#;
        let filled = fill_json(r#"["$(row.n:number)", "$(row.s:number)", "$(row.b:boolean)", "$(row.nil:json)"]"#, row);
        assert!(filled.unwrap_err().contains("not an object"), "a body is one");
        let filled =
            fill_json(r#"{"a": ["$(row.n:number)", "$(row.s:number)", "$(row.b:boolean)", "$(row.nil:json)"]}"#, row);
        assert_eq!(filled.unwrap(), r#"{"a": [1.0, 2.50, true, null]}"#);
        assert!(fill_json(r#"{"a": "$(row.nil:number)"}"#, row).unwrap_err().contains("not a number"));
    }

    /// Case 01-column-with-parenthesis, and columns of other names.
    #[test]
    fn a_column_of_any_name_can_be_named() {
        for (content, column) in [
            ("$(row['Price (EUR)'])", "Price (EUR)"),
            (r#"$(row["Price (EUR)"])"#, "Price (EUR)"),
            ("$(row['a]b'])", "a]b"),
            ("$(row['a)b.c d'])", "a)b.c d"),
            ("$(row['$(row.x)'])", "$(row.x)"),
            (r"$(row['it\'s'])", "it's"),
            (r#"$(row["it's"])"#, "it's"),
            (r#"$(row['5" pipe'])"#, "5\" pipe"),
            (r#"$(row["5\" pipe"])"#, "5\" pipe"),
            (r"$(row['C:\\x'])", r"C:\x"),
            ("$(row['ä€😀<&>'])", "ä€😀<&>"),
            ("$(row[''])", ""),
            ("$(row.Product name)", "Product name"),
            ("$(row.a:b)", "a:b"),
            ("$(row.tags[0])", "tags[0]"),
        ] {
            assert_eq!(fill_texts(content, &[(column, "here")]).unwrap(), r#"{"c":"here"}"#, "{content}");
            assert_eq!(
                fill_texts(&format!("<{content}>"), &[(column, "\"\n")]).unwrap(),
                r#"{"c":"<\"\n>"}"#,
                "{content}"
            );
        }
        let row = r#"{"a": {"b c": {"d.e": 1.50}}, "a.x": 2}"#;
        for content in ["$(row.a['b c'][\"d.e\"])", "$(row['a']['b c']['d.e'])", "$(row.a['b c']['d.e']:number)"] {
            assert_eq!(
                fill_json(&format!("{{\"c\": {}}}", Value::from(content)), row).unwrap(),
                r#"{"c": 1.50}"#,
                "{content}"
            );
        }
        assert_eq!(fill_json(r#"{"c": "$(row.a.x) and $(row['a.x'])"}"#, row).unwrap(), r#"{"c": "2 and 2"}"#);
        for (content, words) in [
            ("$(row['a'", "without the `]`"),
            ("$(row['a)", "without its closing '"),
            ("$(row['a']", "without a `)`"),
            ("$(row['a']x)", "without a `)`"),
            (r"$(row['a\b'])", "single backslash"),
        ] {
            let refused = fill_texts(content, &[("a", "x")]).unwrap_err();
            assert!(refused.contains(words), "{content}: {refused}");
        }
        let refused =
            fill_texts("Is $(row.Price (EUR)) fair?", &[("Notes", ""), ("Price (EUR)", "29,90")]).unwrap_err();
        assert_eq!(
            refused,
            "has no column `Price (EUR`, which the template uses; a name with parentheses is written \
             `$(row['Price (EUR)'])`; it has `Notes`, `Price (EUR)`"
        );
    }

    #[test]
    fn faults_are_named_before_any_row() {
        for (of, written, words) in [
            (Of::Rows, "$(id)", "`body.m[0].c` uses the variable `$(id)`; `$(row.COLUMN)` is known"),
            (Of::Rows, "$(object.key)", "`$(object.key)`, which is for `spec.input.format: Objects`"),
            (Of::Rows, "$(row.)", "`$(row.)`"),
            (Of::Rows, "$(row.id", "without its `)`"),
            (Of::Objects, "$(row.id)", "`$(row.id)`, which is for rows, and the format Objects has none"),
            (Of::Objects, "$(object.size)", "`$(object.key)`, `$(object.text)`, `$(object.base64)` are known"),
            (Of::Objects, "$(object.key.x)", "`$(object.key.x)`; `$(object.key)`"),
        ] {
            let error = parse(of, "x", json!({"m": [{"c": written}]})).unwrap_err();
            assert!(error.starts_with("`spec.input.template`: ") && error.contains(words), "{written}: {error}");
        }
        assert!(template("$(id)", json!({})).unwrap_err().contains("`customID` uses"));
    }

    #[test]
    fn what_is_used_is_known() {
        let template = parse(Of::Objects, "$(object.key)", json!({"m": [{"c": "- $(object.text)"}]})).unwrap();
        assert_eq!(PARTS.map(|part| template.uses(part)), [true, true, false]);
    }

    #[test]
    fn an_unknown_column_is_named_with_those_there_are() {
        let error = expand(json!({"c": "$(row.txt)"}), json!({"id": 1, "text": "private"})).unwrap_err();
        assert_eq!(error, "has no column `txt`, which the template uses; it has `id`, `text`");
        let error = expand(json!({"c": "$(row.id.x)"}), json!({"id": 1})).unwrap_err();
        assert!(error.contains("no column `id.x`"), "{error}");
        let long = json!({"a headerless file has content where names should be": 1});
        assert!(!expand(json!({"c": "$(row.x)"}), long).unwrap_err().contains("headerless"));
    }

    #[test]
    fn a_template_that_repeats_a_long_row_is_bounded() {
        let body: Map<String, Value> = (0..40).map(|i| (i.to_string(), json!("$(row.t)"))).collect();
        let error = expand(Value::Object(body), json!({"t": "x".repeat(1 << 20)})).unwrap_err();
        assert!(error.contains("more than 33554432 bytes"), "{error}");
    }

    #[test]
    fn a_body_that_cannot_be_used_is_named() {
        let deep = (0..200).fold(json!("$(row.t)"), |inner, _| json!([inner]));
        let error = template("x", json!({"m": deep})).unwrap_err();
        assert!(error.starts_with("`spec.input.template`: `body` ") && error.contains("127 deep"), "{error}");
    }
}
