//! The batch that an event names. OpenAI and Azure OpenAI send
//! `{"type": "batch.completed", "data": {"id": "batch_…"}}`. Doubleword sends `data.batch_id`, and further fields, which
//! are ignored.

use serde::Deserialize;

/// Maximum length of a batch's name, in bytes.
const ID_BYTES: usize = 512;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    type_: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    id: Option<String>,
    batch_id: Option<String>,
}

/// Returns the provider's name for the batch of an event; None if it is no event of a batch.
pub(super) fn batch_of(body: &[u8]) -> Option<String> {
    let event: Event = serde_json::from_slice(body).ok()?;
    let is_of_batch = event.type_.starts_with("batch.");
    event.data.batch_id.or(event.data.id).filter(|id| is_of_batch && !id.is_empty() && id.len() <= ID_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_each_vendor_name_their_batch() {
        let thin = r#"{"object":"event","id":"evt_1","type":"batch.completed","created_at":1750287018,"data":{"id":"batch_1"}}"#;
        assert_eq!(batch_of(thin.as_bytes()), Some("batch_1".into()));
        let fat = r#"{"type":"batch.failed","timestamp":"2026-01-01T00:00:00Z","data":{"batch_id":"b-2","status":"failed",
            "request_counts":{"total":1,"completed":0,"failed":1},"output_file_id":null,"error_file_id":null}}"#;
        assert_eq!(batch_of(fat.as_bytes()), Some("b-2".into()));
    }

    #[test]
    fn what_is_no_event_of_a_batch_names_none() {
        let long = format!(r#"{{"type":"batch.completed","data":{{"id":"{}"}}}}"#, "b".repeat(ID_BYTES + 1));
        let deep = "[".repeat(10_000);
        for body in [
            "",
            "null",
            "[]",
            r#"{"type":"batch.completed"}"#,
            r#"{"type":"batch.completed","data":{}}"#,
            r#"{"type":"batch.completed","data":{"id":""}}"#,
            r#"{"type":"batch.completed","data":{"id":7}}"#,
            r#"{"type":"response.completed","data":{"id":"resp_1"}}"#,
            r#"{"type":7,"data":{"id":"batch_1"}}"#,
            "\u{feff}{}",
            &long,
            &deep,
        ] {
            assert_eq!(batch_of(body.as_bytes()), None, "{}", &body[..body.len().min(80)]);
        }
        assert_eq!(batch_of(b"\xff\xfe"), None);
    }
}
