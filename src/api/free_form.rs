//! Free-form JSON, which only the provider interprets.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::canonical;

/// A JSON object without a schema. Any content can be read, so one object's content never makes a list of objects
/// unreadable, and it is written as it was read. It is checked where it is used.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(transparent)]
pub struct FreeForm(Box<RawValue>);

impl FreeForm {
    /// Returns the JSON as the API server has it.
    pub fn json(&self) -> &str {
        self.0.get()
    }

    /// Returns the form that the content is known by, the same for equal content. Content that cannot be used is known
    /// by its text.
    pub fn known_by(&self) -> KnownBy<'_> {
        match canonical::object(self.json()).and_then(|spelled| RawValue::from_string(spelled).ok()) {
            Some(spelled) => KnownBy::Object(spelled),
            None => KnownBy::Text(self.json()),
        }
    }
}

/// The form that free-form content is known by. It serializes as that form.
#[derive(Debug)]
pub enum KnownBy<'a> {
    /// An object, in its canonical spelling.
    Object(Box<RawValue>),
    /// The text of content that is not an object, or cannot be read. It serializes as a string.
    Text(&'a str),
}

impl Serialize for KnownBy<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KnownBy::Object(spelled) => spelled.serialize(serializer),
            KnownBy::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl Default for FreeForm {
    fn default() -> Self {
        Map::new().into()
    }
}

impl From<Map<String, Value>> for FreeForm {
    fn from(object: Map<String, Value>) -> Self {
        FreeForm(RawValue::from_string(Value::Object(object).to_string()).unwrap_or_default())
    }
}

impl PartialEq for FreeForm {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectList;
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::*;
    use crate::api::BatchJob;

    const MARK: &str = "$serde_json::private::RawValue";

    /// A job with this content in all of its free-form fields, and in `managedFields`.
    fn job(content: &str) -> String {
        let request = format!(r#"{{"customID": "a", "body": {content}}}"#);
        format!(
            r#"{{"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {{"name": "j",
                "managedFields": [{{"manager": "m", "fieldsV1": {content}}}]}}, "spec": {{
                "providerRef": {{"name": "p"}}, "requestDefaults": {content},
                "input": {{"inline": {{"requests": [{request}]}}, "template": {request}}},
                "output": {{"configMap": {{"name": "c"}}}}}}}}"#
        )
    }

    fn nested(depth: usize) -> String {
        format!("{}{}", "{\"a\":".repeat(depth - 1), "{}") + &"}".repeat(depth - 1)
    }

    /// Content that the API server accepts, or might accept.
    fn odd() -> Vec<String> {
        let mut odd = vec![
            format!(r#"{{"x": {{"{MARK}": 1}}}}"#),
            format!(r#"{{"{MARK}": "[1"}}"#),
            format!(r#"{{"{MARK}": "{{}}", "y": 1}}"#),
            r#"{"x": {"$serde_json::private::Number": "no"}}"#.into(),
            r#"{"x": "\ud800", "y": 1e999}"#.into(),
            "[]".into(),
            "1".into(),
        ];
        odd.extend([120, 126, 127, 128, 10_000].map(nested));
        odd
    }

    #[test]
    fn no_content_of_one_job_keeps_others_from_being_read() {
        for content in odd() {
            let list =
                format!(r#"{{"kind": "BatchJobList", "metadata": {{}}, "items": [{}, {}]}}"#, job("{}"), job(&content));
            let read: Result<ObjectList<BatchJob>, _> = serde_json::from_str(&list);
            assert_eq!(read.map(|list| list.items.len()).map_err(|e| e.to_string()), Ok(2), "{content:.60}");
            let event = format!(r#"{{"type": "ADDED", "object": {}}}"#, job(&content));
            let read: Result<WatchEvent<BatchJob>, _> = serde_json::from_str(&event);
            assert!(matches!(read, Ok(WatchEvent::Added(_))), "{content:.60}");
        }
    }

    #[test]
    fn what_was_read_is_written_as_it_was() {
        for content in odd() {
            let read: BatchJob = serde_json::from_str(&job(&content)).unwrap();
            assert_eq!((read.metadata.name.as_deref(), &read.metadata.managed_fields), (Some("j"), &None));
            let written = serde_json::to_string(&read).unwrap();
            assert!(written.matches(&content).count() >= 3, "{content:.60}");
            assert_eq!(serde_json::from_str::<BatchJob>(&written).unwrap(), read, "{content:.60}");
        }
    }

    fn known(content: &str) -> String {
        serde_json::to_string(&serde_json::from_str::<FreeForm>(content).unwrap().known_by()).unwrap()
    }

    #[test]
    fn keys_are_keys_and_what_is_of_no_use_is_none() {
        let marked = json!({"x": {MARK: "[1]"}, "y": {"$serde_json::private::Number": "1"}, "z": [1, -1, 0.5, null]});
        assert_eq!(known(&marked.to_string()), marked.to_string());
        assert_eq!(known(&nested(127)), nested(127));
        for of_no_use in [nested(128), nested(10_000), "[]".into(), format!("{{\"x\": [{}0]}}", "{},".repeat(200_000))]
        {
            assert_eq!(known(&of_no_use), json!(of_no_use).to_string(), "{of_no_use:.60}");
        }
    }

    #[test]
    fn the_same_content_is_known_by_the_same() {
        assert_eq!(known(r#"{"b": 1, "a": {}}"#), known(r#"{"a":{},"b":1}"#));
    }
}
