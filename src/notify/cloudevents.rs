//! Messages as CloudEvents 1.0, in structured mode, as JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).

use serde::Serialize;

use super::{Notice, rfc3339};
use crate::api::{
    CostStatus, GROUP, NotificationEvent, Outcome, ProviderReference, RequestCounts, Results, UsageStatus, VERSION,
};

/// Media type of the messages.
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    #[serde(rename = "type")]
    type_: String,
    source: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

/// Data of the event. Names of fields are those of `status`; a field without a value is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    event: NotificationEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<RequestCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a UsageStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<&'a CostStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Results>,
    provider_ref: &'a ProviderReference,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
}

/// Returns the body of a message.
///
/// # Errors
/// Never for any notice that can be made.
pub(super) fn body(notice: &Notice) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&event(notice))
}

fn event(notice: &Notice) -> CloudEvent<'_> {
    let Notice { namespace, name, .. } = notice;
    CloudEvent {
        specversion: "1.0",
        id: &notice.id,
        type_: type_of(notice.event),
        source: format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/batchjobs/{name}"),
        subject: format!("{namespace}/{name}"),
        time: rfc3339(notice.at),
        datacontenttype: "application/json",
        data: Data {
            namespace,
            name,
            uid: &notice.uid,
            event: notice.event,
            outcome: notice.outcome,
            reason: &notice.reason,
            message: &notice.message,
            requests: notice.requests,
            usage: notice.usage.as_ref(),
            cost: notice.cost.as_ref(),
            start_time: notice.start.map(rfc3339),
            completion_time: notice.end.map(rfc3339),
            duration_seconds: notice.duration_seconds(),
            results: notice.results.as_ref(),
            provider_ref: &notice.provider,
            model: notice.model.as_deref(),
        },
    }
}

/// Returns the `type` of an event, with the reversed name of the group before it, as the specification advises.
fn type_of(event: NotificationEvent) -> String {
    let event = match event {
        NotificationEvent::Started => "started",
        NotificationEvent::Complete => "complete",
        NotificationEvent::Failed => "failed",
        NotificationEvent::Held => "held",
        NotificationEvent::Stalled => "stalled",
    };
    let domain: Vec<&str> = GROUP.rsplit('.').collect();
    format!("{}.batchjob.{event}.v1", domain.join("."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::notify::samples;

    fn parsed(notice: &Notice) -> Value {
        serde_json::from_slice(&body(notice).unwrap()).unwrap()
    }

    #[test]
    fn an_event_says_what_became_of_a_job() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&event(&samples::failed())).unwrap());
        insta::assert_snapshot!(serde_json::to_string_pretty(&event(&samples::held())).unwrap());
    }

    /// The page that receivers are written from.
    #[test]
    fn the_documented_event_is_the_one_that_is_sent() {
        let page = include_str!("../../docs/notifications.md");
        let event = serde_json::to_string_pretty(&event(&samples::complete())).unwrap();
        assert!(page.contains(&format!("```json\n{event}\n```")), "docs/notifications.md lacks\n{event}");
    }

    /// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#required-attributes>
    #[test]
    fn each_event_has_the_required_attributes_and_a_type_of_its_own() {
        let mut types = BTreeSet::new();
        for notice in samples::all() {
            let event = parsed(&notice);
            assert_eq!(event["specversion"], "1.0");
            assert_eq!(event["id"], notice.id.as_str());
            assert_eq!(event["source"], "/apis/llmbatch.dev/v1alpha1/namespaces/shop/batchjobs/reviews-csv");
            assert_eq!(event["subject"], "shop/reviews-csv");
            types.insert(event["type"].as_str().unwrap().to_string());
            // Names of attributes are lower-case letters and digits.
            let names = event.as_object().unwrap().keys();
            assert!(
                names.flat_map(|name| name.bytes()).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
                "{event}"
            );
        }
        let events = ["complete", "failed", "held", "stalled", "started"];
        assert_eq!(types, events.map(|event| format!("dev.llmbatch.batchjob.{event}.v1")).into());
    }
}
