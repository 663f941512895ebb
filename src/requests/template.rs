//! A request made of a row or an object: Kubernetes' `$(…)` form over the row's columns or the object's parts.

use serde_json::{Map, Value};

use crate::api::{RequestTemplate, weight};

/// Largest request that a template may make, in bytes of text and values that are put in: the largest row, or the largest
/// object as base64, and some more.
const EXPANDED_LIMIT: usize = 9 << 20;
/// Columns that an error lists.
const LISTED: usize = 20;
/// Longer names are no names of columns but, most likely, content under a missing header: they are not repeated.
const NAME_LIMIT: usize = 40;

/// What a template makes requests of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Rows: `$(row.COLUMN)`.
    Rows,
    /// Objects: `$(object.PART)`, where the parts are those of [`PARTS`].
    Objects,
}

/// What an object has.
pub const PARTS: [&str; 3] = ["key", "text", "base64"];

/// A template that was read and found sound.
#[derive(Clone, Debug)]
pub struct Template {
    custom_id: Vec<Piece>,
    body: Vec<(String, Node)>,
    /// What the body takes in memory.
    weight: usize,
}

#[derive(Clone, Debug)]
enum Node {
    Fixed(Value),
    Text(Vec<Piece>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// What stands after `row.` or `object.`.
    Value(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Names the field and what is wrong in it.
    pub fn parse(template: &RequestTemplate, of: Of) -> Result<Template, String> {
        let field = "`spec.input.template`";
        let custom_id = of.pieces(&template.custom_id).map_err(|e| format!("{field}: `customID` {e}"))?;
        let body = template.body.object().map_err(|e| format!("{field}: `body` {e}"))?;
        let weight = weight::of_object(&body);
        let body = of.fields(&body, "body").map_err(|e| format!("{field}: {e}"))?;
        Ok(Template { custom_id, body, weight })
    }

    /// Whether any variable is the one of this name.
    pub fn uses(&self, name: &str) -> bool {
        let is_it = |pieces: &[Piece]| pieces.iter().any(|p| matches!(p, Piece::Value(path) if path == name));
        is_it(&self.custom_id) || self.body.iter().any(|(_, node)| node.any(&is_it))
    }

    /// The custom id and the body for a row. What is put in is never read for variables again.
    ///
    /// # Errors
    /// Names the column that the row has not, and those that it has.
    pub fn expand(&self, row: &Map<String, Value>) -> Result<(String, Map<String, Value>), String> {
        let mut filling = Filling { row, left: EXPANDED_LIMIT, room: weight::LIMIT.saturating_sub(self.weight) };
        let custom_id = match &self.custom_id[..] {
            [Piece::Value(path)] => match filling.value(path)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(format!("has a column {} that is no custom id; text or a number is", shown(path))),
            },
            pieces => filling.text(pieces)?,
        };
        Ok((custom_id, filling.object(&self.body)?))
    }
}

impl Node {
    fn any(&self, is_it: &impl Fn(&[Piece]) -> bool) -> bool {
        match self {
            Node::Fixed(_) => false,
            Node::Text(pieces) => is_it(pieces),
            Node::List(nodes) => nodes.iter().any(|n| n.any(is_it)),
            Node::Object(fields) => fields.iter().any(|(_, n)| n.any(is_it)),
        }
    }
}

struct Filling<'a> {
    row: &'a Map<String, Value>,
    /// Bytes of text that may still be put in.
    left: usize,
    /// What values that are put in as they are may still take in memory.
    room: usize,
}

impl<'a> Filling<'a> {
    fn object(&mut self, fields: &[(String, Node)]) -> Result<Map<String, Value>, String> {
        fields.iter().map(|(key, node)| Ok((key.clone(), self.node(node)?))).collect()
    }

    fn node(&mut self, node: &Node) -> Result<Value, String> {
        Ok(match node {
            Node::Fixed(value) => value.clone(),
            Node::List(nodes) => Value::Array(nodes.iter().map(|n| self.node(n)).collect::<Result<_, _>>()?),
            Node::Object(fields) => Value::Object(self.object(fields)?),
            Node::Text(pieces) => match &pieces[..] {
                [Piece::Value(path)] => {
                    let value = self.value(path)?;
                    self.spend(value)?;
                    self.hold(value)?;
                    value.clone()
                }
                pieces => Value::String(self.text(pieces)?),
            },
        })
    }

    fn text(&mut self, pieces: &[Piece]) -> Result<String, String> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(fixed) => text.push_str(fixed),
                Piece::Value(path) => {
                    let value = self.value(path)?;
                    self.spend(value)?;
                    match value {
                        Value::String(inner) => text.push_str(inner),
                        other => text.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(text)
    }

    /// A row is bounded; a template that repeats it must be, too.
    fn spend(&mut self, value: &Value) -> Result<(), String> {
        let size = match value {
            Value::String(text) => text.len(),
            other => other.to_string().len(),
        };
        self.left = self.left.checked_sub(size).ok_or_else(|| {
            format!(
                "makes a request of more than {EXPANDED_LIMIT} bytes; shorten it, or use it less often in the template"
            )
        })?;
        Ok(())
    }

    /// Values take more than their text.
    fn hold(&mut self, value: &Value) -> Result<(), String> {
        self.room = self.room.checked_sub(weight::of_value(value)).ok_or_else(|| {
            format!(
                "makes a request of so many lists, objects and values that it takes more than {} MiB; shorten it, or use it \
                 less often in the template",
                weight::LIMIT >> 20
            )
        })?;
        Ok(())
    }

    /// The value of a column, or, along dots, of a field within it. A column whose own name holds the dots comes first.
    fn value(&self, path: &str) -> Result<&'a Value, String> {
        if let Some(value) = self.row.get(path) {
            return Ok(value);
        }
        let mut names = path.split('.');
        let mut value = names.next().and_then(|name| self.row.get(name));
        for name in names {
            value = value.and_then(|v| v.get(name));
        }
        value.ok_or_else(|| {
            format!("has no column {}, which the template uses; it has {}", shown(path), columns(self.row.keys()))
        })
    }
}

/// The names of columns, for an error.
pub(super) fn columns<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let listed: Vec<String> = names.take(LISTED).map(|name| shown(name)).collect();
    match (listed.is_empty(), more) {
        (true, _) => "none".into(),
        (_, 0) => listed.join(", "),
        (_, more) => format!("{} and {more} more", listed.join(", ")),
    }
}

/// A column's name, for an error.
pub(super) fn shown(name: &str) -> String {
    match name.len() <= NAME_LIMIT && !name.contains(char::is_control) {
        true => format!("`{name}`"),
        false => format!("(a name of {} bytes)", name.len()),
    }
}

impl Of {
    fn fields(self, map: &Map<String, Value>, at: &str) -> Result<Vec<(String, Node)>, String> {
        map.iter().map(|(key, value)| Ok((key.clone(), self.node(value, &format!("{at}.{key}"))?))).collect()
    }

    fn node(self, value: &Value, at: &str) -> Result<Node, String> {
        Ok(match value {
            Value::String(text) => match self.pieces(text).map_err(|e| format!("`{at}` {e}"))? {
                pieces if pieces.iter().all(|p| matches!(p, Piece::Text(_))) => {
                    Node::Fixed(Value::String(pieces.into_iter().map(Piece::into_text).collect()))
                }
                pieces => Node::Text(pieces),
            },
            Value::Array(values) => {
                let nodes = values.iter().enumerate().map(|(i, v)| self.node(v, &format!("{at}[{i}]")));
                Node::List(nodes.collect::<Result<_, _>>()?)
            }
            Value::Object(map) => Node::Object(self.fields(map, at)?),
            other => Node::Fixed(other.clone()),
        })
    }

    fn pieces(self, text: &str) -> Result<Vec<Piece>, String> {
        let (mut pieces, mut fixed, mut rest) = (vec![], String::new(), text);
        while let Some(at) = rest.find("$(") {
            if rest[..at].ends_with('$') {
                fixed.push_str(&rest[..at - 1]);
                fixed.push_str("$(");
                rest = &rest[at + 2..];
                continue;
            }
            let end = rest[at..].find(')').ok_or("has a `$(` without its `)`; write `$$(` for a literal `$(`")? + at;
            let path = self.path(&rest[at + 2..end])?.to_string();
            fixed.push_str(&rest[..at]);
            if !fixed.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut fixed)));
            }
            pieces.push(Piece::Value(path));
            rest = &rest[end + 1..];
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            pieces.push(Piece::Text(fixed));
        }
        Ok(pieces)
    }

    fn path(self, name: &str) -> Result<&str, String> {
        let (row, part) = (name.strip_prefix("row."), name.strip_prefix("object."));
        match (self, row, part) {
            (Of::Rows, Some(path), _) if !path.is_empty() => Ok(path),
            (Of::Objects, _, Some(part)) if PARTS.contains(&part) => Ok(part),
            _ => Err(self.unknown(name, row.is_some(), part.is_some())),
        }
    }

    fn unknown(self, name: &str, row: bool, part: bool) -> String {
        let elsewhere = match self {
            Of::Rows if part => ", which is for `spec.input.format: Objects`",
            Of::Objects if row => ", which is for rows, and the format Objects has none",
            _ => "",
        };
        let known = match self {
            Of::Rows => "`$(row.COLUMN)` is known".to_string(),
            Of::Objects => format!("{} are known", PARTS.map(|part| format!("`$(object.{part})`")).join(", ")),
        };
        format!("uses the variable {}{elsewhere}; {known}, and `$$(` is a literal `$(`", shown(&format!("$({name})")))
    }
}

impl Piece {
    fn into_text(self) -> String {
        match self {
            Piece::Text(text) | Piece::Value(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(custom_id: &str, body: Value) -> Result<Template, String> {
        parse(Of::Rows, custom_id, body)
    }

    fn parse(of: Of, custom_id: &str, body: Value) -> Result<Template, String> {
        Template::parse(&serde_json::from_value(json!({"customID": custom_id, "body": body})).unwrap(), of)
    }

    fn expand(body: Value, row: Value) -> Result<Value, String> {
        let (_, body) = template("x", body)?.expand(row.as_object().unwrap())?;
        Ok(Value::Object(body))
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
        let id = |custom_id: &str, row: Value| {
            template(custom_id, json!({})).unwrap().expand(row.as_object().unwrap()).map(|(id, _)| id)
        };
        assert_eq!(id("$(row.id)", json!({"id": 7})).unwrap(), "7");
        assert_eq!(id("r-$(row.id)", json!({"id": "x"})).unwrap(), "r-x");
        assert!(id("$(row.id)", json!({"id": {}})).unwrap_err().contains("no custom id"));
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
        let body: Map<String, Value> = (0..20).map(|i| (i.to_string(), json!("$(row.t)"))).collect();
        let error = expand(Value::Object(body), json!({"t": "x".repeat(1 << 20)})).unwrap_err();
        assert!(error.contains("more than 9437184 bytes"), "{error}");
    }

    #[test]
    fn a_template_that_repeats_a_heavy_row_is_bounded() {
        let row = json!({"t": vec![json!({"": 0}); 40_000], "n": vec![0; 100_000]});
        let body = |uses: usize, of: &str| (0..uses).map(|i| (i.to_string(), json!(of))).collect::<Map<_, _>>();
        assert!(expand(Value::Object(body(2, "$(row.t)")), row.clone()).is_ok());
        let error = expand(Value::Object(body(3, "$(row.t)")), row.clone()).unwrap_err();
        assert!(error.contains("more than 64 MiB"), "{error}");
        assert!(expand(Value::Object(body(3, "-$(row.t)")), row.clone()).is_ok(), "text is no heavier than it is long");
        assert!(expand(Value::Object(body(10, "$(row.n)")), row).is_ok());
    }

    #[test]
    fn a_body_that_cannot_be_used_is_named() {
        let deep = (0..200).fold(json!("$(row.t)"), |inner, _| json!([inner]));
        let error = template("x", json!({"m": deep})).unwrap_err();
        assert!(error.starts_with("`spec.input.template`: `body` ") && error.contains("127 deep"), "{error}");
    }
}
