//! `BatchJob.status.notifications`: messages to webhooks about a job, and what became of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::NotificationEvent;

/// A message to a webhook about the last event of a kind.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NotificationStatus {
    /// Name of the notification, in `spec.notifications` of the job or of its provider.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Event that the message is about.
    pub event: NotificationEvent,
    /// Id of the message, which is in the header `webhook-id` of each attempt. The same event has the same id, so that a
    /// receiver knows a message that it has already.
    #[schemars(length(max = 64))]
    pub id: String,
    /// State of the message. Pending: it waits for its first or its next attempt. Delivered: the webhook took it. GaveUp: the
    /// webhook refused it for good, or took it in no attempt within a day.
    pub state: NotificationState,
    /// Time at which status showed the event. The message is tried for a day from then on.
    pub event_time: Time,
    /// Reason of the condition that the message is about.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Beginning of the text of that condition, as it was at the time of the event; unset once the message is delivered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub message: String,
    /// Ids of questions that the webhook was told of, for the event Held; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub questions: Vec<String>,
    /// Number of attempts. Of failed ones, the first, second, fourth, eighth and so on are written.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub attempts: i32,
    /// Time of the last attempt; unset before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_time: Option<Time>,
    /// Cause of the last attempt's failure, and the time of the next one; unset once the message is delivered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 200))]
    pub last_error: String,
}

/// State of a message to a webhook.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NotificationState {
    /// It waits for its first or its next attempt.
    #[default]
    Pending,
    /// The webhook took it.
    Delivered,
    /// The webhook refused it for good, or took it in no attempt within a day.
    GaveUp,
}

impl NotificationStatus {
    /// Returns whether the message is still to be delivered.
    pub fn is_pending(&self) -> bool {
        self.state == NotificationState::Pending
    }
}
