//! JSON that a manifest holds in one of two fields: as an object, whose keys the API server sorts and whose numbers it
//! rewrites, or as text, which it leaves alone.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{BatchJobSpec, FreeForm, InlineRequest, RequestTemplate};

/// JSON as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    /// Name of the field that holds it.
    pub field: &'static str,
    /// Its text, which need not be valid.
    pub json: &'a str,
}

impl<'a> Written<'a> {
    /// Returns the content of the one field that is set; None if neither is.
    fn one_of(
        (object, content): (&'static str, Option<&'a FreeForm>),
        (text, json): (&'static str, Option<&'a str>),
    ) -> Result<Option<Written<'a>>, String> {
        match (content, json) {
            (Some(_), Some(_)) => Err(format!("has both `{object}` and `{text}`; keep one of them")),
            (Some(content), None) => Ok(Some(Written { field: object, json: content.json() })),
            (None, Some(json)) => Ok(Some(Written { field: text, json })),
            (None, None) => Ok(None),
        }
    }
}

fn body<'a>(object: &'a Option<FreeForm>, text: &'a Option<String>) -> Result<Written<'a>, String> {
    let written = Written::one_of(("body", object.as_ref()), ("bodyJSON", text.as_deref()))?;
    written.ok_or_else(|| "has neither `body` nor `bodyJSON`; set one of them".into())
}

impl RequestTemplate {
    /// Returns the body.
    ///
    /// # Errors
    /// Fails unless exactly one of the two fields is set.
    pub fn written(&self) -> Result<Written<'_>, String> {
        body(&self.body, &self.body_json)
    }
}

impl InlineRequest {
    /// Returns the body.
    ///
    /// # Errors
    /// Fails unless exactly one of the two fields is set.
    pub fn written(&self) -> Result<Written<'_>, String> {
        body(&self.body, &self.body_json)
    }
}

impl BatchJobSpec {
    /// Returns the defaults that are merged under each request's body, if there are any.
    ///
    /// # Errors
    /// Fails if both fields are set.
    pub fn defaults(&self) -> Result<Option<Written<'_>>, String> {
        let object = ("requestDefaults", self.request_defaults.as_ref());
        Written::one_of(object, ("requestDefaultsJSON", self.request_defaults_json.as_deref()))
            .map_err(|e| format!("`spec` {e}"))
    }

    /// Returns the field that holds, as an object, the schema of an answer or of a tool, and the field that would keep
    /// the order of its properties.
    pub fn sorted_schema(&self) -> Option<(&'static str, &'static str)> {
        let holds = |content: &Option<FreeForm>| content.as_ref().is_some_and(|content| has_schema(content.json()));
        if holds(&self.request_defaults) {
            return Some(("spec.requestDefaults", "requestDefaultsJSON"));
        }
        if self.input.template.as_ref().is_some_and(|template| holds(&template.body)) {
            return Some(("spec.input.template.body", "bodyJSON"));
        }
        let inline = self.input.inline.as_ref()?;
        inline
            .requests
            .iter()
            .any(|request| holds(&request.body))
            .then_some(("spec.input.inline.requests[].body", "bodyJSON"))
    }
}

/// Returns whether JSON holds a schema whose properties have an order: at least two pairs in an object under the key
/// `properties`.
fn has_schema(json: &str) -> bool {
    serde_json::from_str::<Pairs>(json).is_ok_and(|pairs| pairs.schema)
}

/// The facts about a value that are needed, without its content.
#[derive(Default)]
struct Pairs {
    /// Number of its own pairs, if it is an object.
    count: usize,
    /// Whether it contains a schema.
    schema: bool,
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_unit<E>(self) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pairs, A::Error> {
        let mut pairs = Pairs::default();
        while let Some(element) = list.next_element::<Pairs>()? {
            pairs.schema |= element.schema;
        }
        Ok(pairs)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Pairs, A::Error> {
        let mut pairs = Pairs::default();
        while let Some(key) = object.next_key::<Cow<'de, str>>()? {
            let value: Pairs = object.next_value()?;
            pairs.count += 1;
            pairs.schema |= value.schema || (key == "properties" && value.count > 1);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(change: Value) -> BatchJobSpec {
        let mut spec = json!({"providerRef": {"name": "p"}, "input": {}, "output": {"configMap": {"name": "a"}}});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn exactly_one_of_two_fields_is_taken() {
        let both = spec(json!({"requestDefaults": {}, "requestDefaultsJSON": "{}"}));
        assert!(both.defaults().unwrap_err().contains("has both `requestDefaults` and `requestDefaultsJSON`"));
        assert_eq!(spec(json!({})).defaults(), Ok(None));
        let text = spec(json!({"requestDefaultsJSON": "{ }"}));
        assert_eq!(text.defaults(), Ok(Some(Written { field: "requestDefaultsJSON", json: "{ }" })));
        assert!(InlineRequest::default().written().unwrap_err().contains("neither `body` nor `bodyJSON`"));
    }

    /// Case 17-schema-key-order: a schema that the API server sorted is reported.
    #[test]
    fn a_schema_that_was_sorted_is_found() {
        let schema =
            json!({"response_format": {"json_schema": {"schema": {"properties": {"label": {}, "reasoning": {}}}}}});
        let tools = json!({"tools": [{"function": {"parameters": {"properties": {"a": {}, "b": {}}}}}]});
        let inline = |body: &Value| json!({"input": {"inline": {"requests": [{"customID": "a", "body": {}}, {"customID": "b", "body": body}]}}});
        let template = |field: &str, body: Value| json!({"input": {"template": {"customID": "a", field: body}}});
        for (change, found) in [
            (json!({"requestDefaults": tools}), Some("spec.requestDefaults")),
            (json!({"requestDefaultsJSON": tools.to_string()}), None),
            (template("body", schema.clone()), Some("spec.input.template.body")),
            (template("bodyJSON", schema.to_string().into()), None),
            (template("body", json!({"response_format": {"schema": {"properties": {"only": {}}}}})), None),
            (inline(&schema), Some("spec.input.inline.requests[].body")),
            (inline(&json!({"messages": []})), None),
        ] {
            assert_eq!(spec(change.clone()).sorted_schema().map(|(field, _)| field), found, "{change}");
        }
    }
}
