//! Notifications: messages about a job to a webhook.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::storage::SecretKeyReference;

/// A webhook, the events that it is told of, and the format of the messages.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Name of the notification, different from those of the others in the list. Status and events refer to it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Events that the webhook is told of. Started: the first batch is about to be submitted. Complete: the results are written;
    /// some requests may have no answer. Failed: the job failed, or was cancelled. Held: a person has to answer a question. Stalled: a
    /// problem that a person must fix stops the job.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub events: Vec<NotificationEvent>,
    /// Format of the messages. CloudEvents, the default: a CloudEvent 1.0 as JSON. Slack: a message for an incoming webhook of
    /// Slack.
    // A list item has no default in the schema.
    #[serde(default)]
    #[schemars(transform = schema::without_defaults)]
    pub format: NotificationFormat,
    /// Address of the webhook, and the key that messages to it are signed with.
    pub webhook: NotificationWebhook,
}

/// An event in the life of a job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotificationEvent {
    /// The first batch is about to be submitted.
    Started,
    /// The results are written; some requests may have no answer.
    Complete,
    /// The job failed, or was cancelled.
    Failed,
    /// A person has to answer a question before the job goes on.
    Held,
    /// A problem that a person must fix stops the job.
    Stalled,
}

/// Format of a message.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NotificationFormat {
    /// A CloudEvent 1.0, in structured mode, as JSON.
    #[default]
    CloudEvents,
    /// A message for an incoming webhook of Slack.
    Slack,
}

/// Address of a webhook, and the key that messages to it are signed with.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NotificationWebhook {
    /// Key of a Secret that holds the URL of the webhook, `https://…`; an `http://` URL is for hosts in private networks. The
    /// Secret is in the namespace of the object that names it; of a ClusterBatchProvider, in the operator's.
    pub url_secret_key_ref: SecretKeyReference,
    /// Key of a Secret that holds the signing key, `whsec_…`, as the Standard Webhooks specification has it; several keys,
    /// separated by spaces, while one is replaced by another. The Secret is in the namespace of the object that names it; of a
    /// ClusterBatchProvider, in the operator's. Unset: messages are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret_key_ref: Option<SecretKeyReference>,
}
